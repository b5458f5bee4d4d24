"""What each of our processes uses of the machine, read from ``/proc`` (proc(5)). Elsewhere nothing is known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One process. ``name`` is ``control`` or ``relay 0``; memory is what is resident."""

    name: str
    cpu_s: float
    resident_bytes: int
    open_descriptors: int
    max_descriptors: int


def uses(processes: Mapping[str, int]) -> tuple[ProcessUse, ...]:
    """Look at these processes (name to process id); one that is gone is left out."""
    return tuple(use for name, pid in processes.items() if (use := _use(name, _PROC / str(pid))) is not None)


def _use(name: str, folder: Path) -> ProcessUse | None:
    try:
        # The second field is the program's name and may hold spaces and brackets; the third one is behind the last.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
        limit = next(
            line for line in (folder / "limits").read_text().splitlines() if line.startswith("Max open files")
        ).split()[3]
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except (OSError, ValueError, IndexError, StopIteration):
        return None
    return ProcessUse(
        name=name,
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
        resident_bytes=pages * os.sysconf("SC_PAGE_SIZE"),
        open_descriptors=descriptors,
        max_descriptors=int(limit) if limit.isdigit() else 0,
    )
