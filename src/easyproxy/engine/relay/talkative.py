"""Which sessions io_uring(7) is to carry: those that are talkative, when there are several of them.

It saves two system calls for each message, and costs about one microsecond for each turn of the loop. So it is worth it where a turn finds
more than a few messages: below ``FEW`` sessions for each worker epoll is as fast or faster (docs/performance.md).
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from easyproxy.engine.relay.failures import EXHAUSTED
from easyproxy.engine.relay.poller import EdgePoller

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.ring import Ring
    from easyproxy.engine.relay.session import Flowing, Session

SHORT_READS = 8
"""So many between two ticks make a session talkative."""
FEW = 5
"""Fewer talkative sessions are not worth it."""
AGAIN_S = 5.0
"""After so many seconds a worker that got no ring for want of memory or descriptors tries again."""
AT_ONCE = 250
"""No more are taken up in one turn of the loop; the others are found again."""

AUTO, EARLY, OFF = "auto", "early", "off"
"""Whether io_uring is used: where the system has it; there, and for every session from its first message on (for tests); not at all."""


def why_not() -> str:
    """Say why this process, and so its workers, cannot have an io_uring; empty when it can."""
    try:
        from easyproxy.engine.relay.uring import Uring  # noqa: PLC0415 - as below

        Uring().close()
    except (ImportError, OSError) as error:
        return f"none: {_reason(error)}"
    return ""


def _reason(error: ImportError | OSError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else f"this Python has no ctypes ({error})"


class Talkative:
    """Finds them, and makes the ring when it is needed first. Belongs to the worker's thread."""

    def __init__(self, core: Core, use: str) -> None:
        self._core = core
        self.is_early = use == EARLY
        self._is_off = use == OFF or not core.is_edge_triggered
        self._not_before = 0.0
        self._said = ""
        self._reads, self._few = (1, 1) if self.is_early else (SHORT_READS, FEW)

    def look_at_all(self) -> None:
        """Look at every session, also at those that have come since the last tick."""
        flows = [(each.outbound, each.inbound) for each in self._core.sessions.values()]
        self.look(flow for pair in flows for flow in pair if flow is not None)

    def look(self, moved: Iterable[Flowing]) -> None:
        """Look at the flows that have moved bytes since the last tick."""
        found: dict[Session, None] = {}  # in the order in which they spoke
        for flow in moved:
            if flow.streak < 0:
                if -flow.streak >= self._reads:
                    found[flow.session] = None
                flow.streak = 0
        if not found or self._is_off:
            return
        ring = self._core.ring
        if (ring.count if ring is not None else 0) + len(found) < self._few:
            return
        if ring is None and self._core.now >= self._not_before:
            ring = self._make_ring()
        if ring is not None:
            for session in islice(filter(ring.takes, found), AT_ONCE):
                ring.carry(session)

    def _make_ring(self) -> Ring | None:
        poller = self._core.poller
        assert isinstance(poller, EdgePoller)  # noqa: S101 - else it is off
        try:
            # Only now: ctypes costs memory, and most workers never need it.
            from easyproxy.engine.relay.ring import Ring  # noqa: PLC0415

            self._core.ring = ring = Ring(self._core, poller.fileno())
        except (ImportError, OSError) as error:  # a worker's Python may be another one than the engine's
            self._does_without(error)
            return None
        return ring

    def _does_without(self, error: ImportError | OSError) -> None:
        """Try again later where that may help, and say once why there is none."""
        self._is_off = not isinstance(error, OSError) or error.errno not in EXHAUSTED
        self._not_before = self._core.now + AGAIN_S
        why = _reason(error)
        if why != self._said:
            self._said = why
            self._core.report({"kind": "error", "detail": f"io_uring: {why}; the relay does without"})
