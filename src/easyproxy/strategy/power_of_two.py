"""Power of two choices: draw two backends by weight and take the less loaded of them.

Only this strategy lives here; chance and load are the context's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy
from easyproxy.strategy.random import bounds


class PowerOfTwo(Strategy):
    """Take the one with fewer sessions per weight of two drawn backends; when they are equal, the first drawn.

    M. Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12 (2001). Two looks keep the
    fullest backend close to the average however many there are, and, unlike a look at all of them, do not send every
    worker to the same backend at once. While loads are equal, shares are exactly those of ``random``.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._load = context.load
        self._random = context.random
        self._backends: Sequence[Backend] = ()
        self._borders: list[float] = []
        self._lows: list[float] = []
        self._shares: list[float] = []

    def build(self, backends: Sequence[Backend]) -> None:
        """Cumulate the weights."""
        total = sum(backend.weight for backend in backends)
        self._backends = backends
        self._borders = bounds([backend.weight for backend in backends])
        self._lows = [0.0, *self._borders]
        self._shares = [backend.weight / total for backend in backends]

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - chance and loads decide
        """Yield the better of two, the other, then the rest by load."""
        backends = self._backends
        one = bisect_right(self._borders, self._random())
        # The second is drawn from what the first leaves: the line [0, 1) without the first one's part.
        place = self._random() * (1.0 - self._shares[one])
        if place >= self._lows[one]:
            place += self._shares[one]
        other = bisect_right(self._borders, place)
        if (
            self._load(backends[other]) * backends[one].weight
            < self._load(backends[one]) * backends[other].weight
        ):
            one, other = other, one
        yield backends[one]
        if other != one:
            yield backends[other]
        rest = [backend for i, backend in enumerate(backends) if i not in (one, other)]
        rest.sort(key=lambda backend: self._load(backend) / backend.weight)
        yield from rest
