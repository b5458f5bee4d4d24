"""When an unconfirmed reload has made things worse, and should go back by itself. Pure.

The rule, for each pool that the reload changed: it goes back when the pool had ready backends before and has none now,
or when in the last :data:`WINDOW_S` seconds at least :data:`LEAST` connects to its backends failed *and* their share of
all connects is more than :data:`MARGIN` above what it was in the :data:`WINDOW_S` seconds (or somewhat more) before the reload.

The share is compared, not the count, because traffic grows and shrinks; a least number, because the one failure of a
quiet night is no trend; each pool apart, because a busy one would hide a small one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from easyproxy.engine.seam import BackendCounters, Statistics

WINDOW_S = 10.0
LEAST = 5
MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class Connects:
    """Connects to the backends of a pool over some time: those that stood, and those that failed.

    >>> Connects(90, 10).share
    0.1
    """

    stood: int = 0
    failed: int = 0

    @property
    def share(self) -> float:
        """The failed ones of all; 0 without any."""
        return self.failed / (self.stood + self.failed) if self.failed else 0.0

    def __add__(self, other: Connects) -> Connects:
        """Add up."""
        return Connects(self.stood + other.stood, self.failed + other.failed)


@dataclass(slots=True)
class Record:
    """The connects of the last :data:`WINDOW_S` seconds by pool, from looks at counters that only grow."""

    _seen: Mapping[str, BackendCounters] | None = None
    _looks: deque[tuple[float, dict[str, Connects]]] = field(default_factory=deque)

    def look(self, now: float, statistics: Statistics) -> None:
        """Take the counters as they stand at ``now`` (seconds of a monotonic clock)."""
        seen, self._seen = self._seen, statistics.backends
        if seen is not None:  # what was counted before the first look was not counted in the window
            self._looks.append((now, _between(seen, statistics.backends)))
        while self._looks and self._looks[0][0] <= now - WINDOW_S:
            self._looks.popleft()

    def connects(self, since: float = float("-inf")) -> dict[str, Connects]:
        """Add up by pool what the looks after ``since`` have found."""
        total: dict[str, Connects] = {}
        for at, connects in self._looks:
            if at > since:
                for pool, each in connects.items():
                    total[pool] = total.get(pool, Connects()) + each
        return total


def _between(then: Mapping[str, BackendCounters], now: Mapping[str, BackendCounters]) -> dict[str, Connects]:
    found: dict[str, Connects] = {}
    for backend, counters in now.items():
        old = then.get(backend, BackendCounters())
        if counters.total < old.total or counters.connect_errors < old.connect_errors:
            old = BackendCounters()  # it went and came again, and counts anew
        pool = backend.partition("/")[0]
        new = Connects(counters.total - old.total, counters.connect_errors - old.connect_errors)
        found[pool] = found.get(pool, Connects()) + new
    return found


def verdict(
    pools: Collection[str],
    *,
    before: Mapping[str, Connects],
    after: Mapping[str, Connects],
    ready_before: Mapping[str, int],
    ready_now: Mapping[str, int],
) -> str:
    """Say in words why the reload should go back; empty when it need not.

    Args:
        pools: those that the reload changed.
        before: connects by pool, up to the reload.
        after: connects by pool, since then.
        ready_before: ready backends by pool, just before the reload.
        ready_now: the same now.
    """
    for pool in sorted(pools):
        if ready_before.get(pool) and ready_now.get(pool) == 0:
            return f"pool {pool} had {ready_before[pool]} ready and has none now"
        was, now = before.get(pool, Connects()), after.get(pool, Connects())
        if now.failed >= LEAST and now.share > was.share + MARGIN:
            return (
                f"pool {pool}: {now.failed} of {now.stood + now.failed} connects to its backends failed"
                f" ({now.share:.0%}, before the reload {was.share:.0%})"
            )
    return ""
