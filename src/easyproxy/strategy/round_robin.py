"""Round robin, weighted and smooth: every backend in turn, the heavier ones more often and evenly spread.

Only this strategy and the sequence that it precomputes live here. The turn itself is the pool's ticket, which all
workers draw from, so the order is exact however many workers there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy
from easyproxy.strategy.walk import walk

MAX_LENGTH = 4096
MIN_TURNS = 32
_FRACTION_BITS = 20


class RoundRobin(Strategy):
    """Take the backends in turn: tickets 0, 1, 2, ... walk a precomputed sequence, over all workers together.

    After any number of tickets since the sequence began, each backend is less than one session away from its exact
    share. When a backend fails, its sessions spread over the others by their weights instead of all falling on the
    next one. Weights are rounded only where the sequence would grow too long, see :func:`turns`.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._ticket = context.ticket
        self._backends: Sequence[Backend] = ()
        self._sequence: list[Backend] = []
        self._length = 0

    def build(self, backends: Sequence[Backend]) -> None:
        """Lay out the sequence."""
        self._backends = backends
        self._sequence = [backends[i] for i in spread(turns([backend.weight for backend in backends]))]
        self._length = len(self._sequence)

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - a turn is nobody's in particular
        """Yield the backend whose turn it is, then those of later turns, then whoever is left."""
        if self._length == 1:
            yield self._sequence[0]
            return
        ticket = self._ticket()
        first = self._sequence[ticket % self._length]
        yield first
        # Every round looks one turn further ahead, so the sessions of a failing backend go to all others in turn.
        rounds = ticket // self._length
        ahead = ticket + 1 + rounds % max(self._length - 1, 1)
        yield from walk(self._sequence, ahead, first, self._backends)


def turns(weights: Sequence[int]) -> list[int]:
    """Reduce weights to the number of turns of each backend in one sequence.

    Exact (divided by their common divisor) while the sum stays within ``MAX_LENGTH``, or ``MIN_TURNS`` for each
    backend where there are many. Beyond that they are scaled down and rounded to the nearest number of turns, and
    whoever would get none gets one.

    >>> turns([100, 100, 50]), turns([25600, 1])
    ([2, 2, 1], [4096, 1])
    """
    limit = max(MAX_LENGTH, MIN_TURNS * len(weights))
    total = sum(weights)
    if total // math.gcd(*weights) > limit:
        weights = [max(1, round(weight * limit / total)) for weight in weights]
    divisor = math.gcd(*weights)
    return [weight // divisor for weight in weights]


def spread(counts: Sequence[int]) -> list[int]:
    """Lay out index ``i`` ``counts[i]`` times, as evenly as possible.

    R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980): of those who would not get ahead
    of their share, the one who would fall behind first takes the turn. With k backends every prefix then deviates from
    the exact share of each by at most 1 - 1/(2k-2), the best possible bound; the usual "smooth weighted round robin"
    (largest credit first) has no such constant.

    >>> "".join("abc"[i] for i in spread([5, 1, 1]))
    'aabaaca'
    """
    total = sum(counts)
    slack = max(2 * len(counts) - 2, 1)  # the bound's 1/(2k-2), kept as an integer so that nothing is rounded
    taken = [0] * len(counts)
    waiting = [(1 + (total - 1) // (count * slack), i) for i, count in enumerate(counts)]
    waiting.sort()
    ready: list[tuple[int, int]] = []
    sequence = []
    for turn in range(1, total + 1):
        while waiting and waiting[0][0] <= turn:
            i = heappop(waiting)[1]
            due = (((taken[i] + 1) * slack - 1) * total << _FRACTION_BITS) // (counts[i] * slack)
            heappush(ready, (due, i))
        i = heappop(ready)[1]
        sequence.append(i)
        taken[i] += 1
        release = 1 + ((taken[i] * slack + 1) * total - 1) // (counts[i] * slack)
        heappush(waiting, (release, i))
    return sequence
