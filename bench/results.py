"""What a run writes and a report reads: plain values, kept as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst. ``rate`` is None when it failed, and ``failure`` says how."""

    scenario: str
    round: int
    position: int
    peer: str
    rate: float | None
    operations: float = 0.0
    user_s: float = 0.0
    system_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Idle:
    """Memory for each of ``sessions`` idle sessions, and of the balancer without them. ``kib`` is None when it failed."""

    peer: str
    sessions: int
    kib: float | None
    empty_mib: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class Results:
    """Everything that a run found. Reports are made from this and nothing else."""

    machine: dict[str, str]
    method: dict[str, str]
    anchor: str
    titles: dict[str, str]  # by peer, in the order of the tables
    missing: dict[str, str]  # peer or scenario, and why it was left out
    scenarios: dict[str, dict[str, str]]  # by name: title, unit, operation
    samples: list[Sample] = field(default_factory=list)
    idle: list[Idle] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Results:
    """Read what :meth:`Results.write` wrote.

    Raises:
        ValueError: the file has another format.
    """
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.pop("format", None) != FORMAT:
        raise ValueError(f"{path} is not a result of this bench (format {FORMAT})")
    samples = [Sample(**sample) for sample in document.pop("samples")]
    idle = [Idle(**row) for row in document.pop("idle")]
    return Results(samples=samples, idle=idle, **document)
