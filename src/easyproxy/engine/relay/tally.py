"""The shared counters as the statistics that control knows, and as totals that a successor takes over. No sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.relay.ranges import BYTES, CONNECT, LENGTH
from easyproxy.engine.seam import (
    BackendCounters,
    BackendDistributions,
    Distribution,
    ListenerCounters,
    Statistics,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easyproxy.engine.relay.counters import Counters
    from easyproxy.engine.relay.ranges import Ranges

_BACKEND_FIELDS = len(BackendCounters.__dataclass_fields__)
_LISTENER_FIELDS = len(ListenerCounters.__dataclass_fields__)
_EMPTY = BackendDistributions(
    *(Distribution(of.bounds, (0,) * (len(of.bounds) + 1)) for of in (CONNECT, LENGTH, BYTES, BYTES))
)
_LAYOUT = f"{CONNECT.bounds}{LENGTH.bounds}{BYTES.bounds}"


class Totals(TypedDict):
    """What one process had counted, for its successor.

    Attributes:
        slots: every field by key (``backend:pool/name``).
        ends: by reason.
        layout: says whether the distributions of both have the same ranges.
        generation: a number for workers that are hired from now on: no former one has named sessions with it.
    """

    slots: dict[str, list[int]]
    ends: dict[str, int]
    lost_reports: int
    layout: str
    generation: NotRequired[int]


def statistics(
    counters: Counters,
    slots: Mapping[str, int],
    *,
    workers: int,
    worker_restarts: int,
    worker_python: str = "",
    io_uring: str = "",
) -> Statistics:
    """Add up everything; ``slots`` by key. Some 20 microseconds for each of them."""
    listeners: dict[str, ListenerCounters] = {}
    backends: dict[str, BackendCounters] = {}
    distributions: dict[str, BackendDistributions] = {}
    queued: dict[str, int] = {}
    for key, slot in slots.items():
        kind, _, name = key.partition(":")
        if kind == "pool":
            queued[name] = counters.sum(slot, c.P_QUEUED)
            continue
        totals = counters.totals(slot)
        if kind == "listener":
            listeners[name] = ListenerCounters(*totals[:_LISTENER_FIELDS])
        else:
            backends[name] = BackendCounters(*totals[:_BACKEND_FIELDS])
            distributions[name] = _distributions(totals) if totals[c.B_TOTAL] else _EMPTY
    ends = counters.totals(c.ENDS_SLOT)
    return Statistics(
        listeners=listeners,
        backends=backends,
        queued=queued,
        ends=dict(zip(REASONS, ends, strict=False)),
        workers=workers,
        worker_restarts=worker_restarts,
        worker_python=worker_python,
        io_uring=io_uring,
        lost_reports=ends[c.E_LOST],
        distributions=distributions,
    )


def _distributions(totals: list[int]) -> BackendDistributions:
    return BackendDistributions(
        connect_s=_distribution(totals, c.B_CONNECT, CONNECT),
        length_s=_distribution(totals, c.B_LENGTH, LENGTH),
        bytes_from_client=_distribution(totals, c.B_UP, BYTES),
        bytes_from_backend=_distribution(totals, c.B_DOWN, BYTES),
    )


def _distribution(totals: list[int], first: int, ranges: Ranges) -> Distribution:
    last = first + ranges.cells - 1
    return Distribution(ranges.bounds, tuple(totals[first:last]), totals[last] / ranges.unit)


def totals(counters: Counters, slots: Mapping[str, int]) -> Totals:
    """Return what a successor needs to go on counting where this process ends."""
    ends = counters.totals(c.ENDS_SLOT)
    return {
        "slots": {key: counters.totals(slot) for key, slot in slots.items()},
        "ends": dict(zip(REASONS, ends, strict=False)),
        "lost_reports": ends[c.E_LOST],
        "layout": _LAYOUT,
    }


def inherit(counters: Counters, slots: Mapping[str, int], former: Totals) -> None:
    """Add what a former process had counted to the column of this control process, once; unknown keys are dropped.

    A program of another version may count other things: counters are only ever appended to, and distributions are
    left out when their ranges differ.
    """
    known = {"listener": _LISTENER_FIELDS, "backend": _BACKEND_FIELDS, "pool": 0}
    is_same = former["layout"] == _LAYOUT
    for key, values in former["slots"].items():
        slot = slots.get(key)
        kind = key.partition(":")[0]
        if slot is not None:
            counters.inherit(slot, values if is_same and kind == "backend" else values[: known.get(kind, 0)])
    ends = [former["ends"].get(reason, 0) for reason in REASONS]
    ends += [0] * (c.E_LOST - len(ends)) + [former["lost_reports"]]
    counters.inherit(c.ENDS_SLOT, ends, gauges=0)
