"""Source hash: a client address keeps its backend, by consistent hashing on a ring.

Only the ring lives here. It holds 64-bit points, depends on nothing but the backends' ids and weights, and is the
same in every worker, after every restart, and on a second balancer with the same configuration.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy
from easyproxy.strategy.hashing import hash_client, hash_name, stream
from easyproxy.strategy.walk import walk

POINTS = 256
"""Points of the heaviest backend. More of them balance better and take longer to build; docs/strategies.md has both."""

_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1


class SourceHash(Strategy):
    """Send a client to the backend whose point follows the client's hash on the ring.

    Karger et al., "Consistent hashing and random trees", STOC 1997. The heaviest backends have ``POINTS`` points, the
    others in proportion, at least one. A backend's points are a fixed series of which its weight decides how many
    stand on the ring. So when a backend comes, goes or changes its weight, only the clients that it gains or loses
    move, and a common factor in all weights changes nothing. The exception: when the largest weight of the pool
    changes against the others, all others change their number of points, and some of their clients move too.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._backends: Sequence[Backend] = ()
        self._points: list[int] = []
        self._owners: list[Backend] = []
        self._series: dict[str, list[int]] = {}

    def build(self, backends: Sequence[Backend]) -> None:
        """Lay out the ring; the points of backends that stay are kept from the last time."""
        backends = sorted(backends, key=lambda backend: backend.id)
        known = self._series
        self._series = {backend.id: known.get(backend.id) or series(backend.id) for backend in backends}
        largest = max(backend.weight for backend in backends)
        # Point and owner share one integer: sorting plain integers takes a third of the time of sorting pairs.
        ring: list[int] = []
        for i, backend in enumerate(backends):
            count = max(1, round(POINTS * backend.weight / largest))
            ring += [point << _INDEX_BITS | i for point in self._series[backend.id][:count]]
        ring.sort()
        self._backends = backends
        self._points = [entry >> _INDEX_BITS for entry in ring]
        self._owners = [backends[entry & _INDEX_MASK] for entry in ring]
        self._owners.append(self._owners[0])  # past the last point the ring begins again

    def candidates(self, client: str) -> Iterator[Backend]:
        """Yield the backend next on the ring, then the others as they follow."""
        index = bisect_right(self._points, hash_client(client))
        first = self._owners[index]
        yield first
        yield from walk(self._owners, index + 1, first, self._backends)


def series(name: str) -> list[int]:
    """Make the points of a backend, in the order in which a growing weight brings them onto the ring."""
    return list(islice(stream(hash_name(name)), POINTS))
