"""Random, weighted: every session is drawn independently, in proportion to the weights.

Only this strategy lives here. The source of chance is the context's.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy


class Random(Strategy):
    """Draw a backend by weight; the further candidates are drawn from those that are left, by weight too."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._random = context.random
        self._backends: Sequence[Backend] = ()
        self._bounds: list[float] = []

    def build(self, backends: Sequence[Backend]) -> None:
        """Cumulate the weights."""
        self._backends = backends
        self._bounds = bounds([backend.weight for backend in backends])

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - chance asks nobody
        """Yield a drawn backend, then the others in a drawn order."""
        index = bisect_right(self._bounds, self._random())
        yield self._backends[index]
        rest = [backend for i, backend in enumerate(self._backends) if i != index]
        # The smallest of exponential variables with rates w is the i-th with probability w_i / sum(w), so sorting by
        # them draws without replacement (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006).
        rest.sort(key=lambda backend: -math.log(1.0 - self._random()) / backend.weight)
        yield from rest


def bounds(weights: Sequence[int]) -> list[float]:
    """Cumulate weights into the inner borders of [0, 1): ``bisect_right(bounds, random())`` is the drawn index.

    The last border, 1, is left out, so that no rounding can lead past the end.

    >>> bounds([1, 1, 2])
    [0.25, 0.5]
    """
    total = sum(weights)
    return [border / total for border in accumulate(weights[:-1])]
