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
    from collections.abc import Iterable, Sequence

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.ring import Ring
    from easyproxy.engine.relay.session import Flowing, Session

SHORT_READS = 8
"""So many between two ticks make a session talkative."""
FEW = 5
"""Fewer talkative sessions are not worth it."""
SHORT = 2048
"""And so many bytes each at most, on an average: one that fills a buffer of the ring ends its being carried."""
REST_S = 5.0
"""Who was carried and is not any more is left alone for so long, up to twice: else one that now and then says more would come and go all the time."""
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


def flows_of(sessions: Iterable[Session]) -> list[Flowing]:
    """Return the flows of those sessions that stand."""
    return [flow for each in sessions for flow in (each.outbound, each.inbound) if flow is not None]


class Talkative:
    """Finds them, and makes the ring when it is needed first. Belongs to the worker's thread."""

    def __init__(self, core: Core, use: str) -> None:
        self._core = core
        self.is_early = use == EARLY
        self._is_off = use == OFF or not core.is_edge_triggered
        self._rest_s = 0.0 if self.is_early else REST_S
        self._rest_until = 0.0
        self._resting: set[int] = set()  # sessions by number, and those that the ring has named since
        self._not_before = 0.0
        self._said = ""
        self._reads, self._few = (1, 1) if self.is_early else (SHORT_READS, FEW)

    def look_at_all(self) -> None:
        """Look at every session, also at those that have come since the last tick."""
        self.look(flows_of(self._core.sessions.values()))

    def look(self, moved: Sequence[Flowing]) -> None:
        """Look at the flows that have moved bytes since they were last counted."""
        talkative: dict[Session, None] = {}  # in the order in which they spoke
        if not self._is_off:
            talkative = {flow.session: None for flow in moved if -flow.streak >= self._reads}
        found = [each for each in talkative if _is_short(each.outbound) and _is_short(each.inbound)]
        for flow in moved:
            flow.streak = max(flow.streak, 0)
        if found:
            self._carry(found)

    def _carry(self, found: list[Session]) -> None:
        core = self._core
        ring = core.ring
        if (ring.count if ring is not None else 0) + len(found) < self._few:
            return
        if ring is None and core.now >= self._not_before:
            ring = self._make_ring()
        if ring is None:
            return
        if core.now >= self._rest_until:
            self._rest_until = core.now + self._rest_s
            self._resting, ring.left = ring.left, set()
        for session in islice(filter(ring.takes, found), AT_ONCE):
            if session.number not in self._resting and session.number not in ring.left:
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


def _is_short(flow: Flowing | None) -> bool:
    """Whether what a direction has moved since it was counted came in short messages, if any."""
    return (
        flow is not None
        and flow.streak <= 0
        and flow.moved - max(flow.counted, 0) <= SHORT * max(-flow.streak, 1)
    )
