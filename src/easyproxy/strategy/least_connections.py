"""Least connections: the backend with the fewest sessions for its weight, counted over all workers.

Only this strategy lives here; the counting is the engine's, behind the context's ``load``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy


class LeastConnections(Strategy):
    """Take the lowest (sessions + 1) / weight: the load that the backend would have with this session.

    Among equals the pool's ticket decides, so they rotate, also across workers. It looks at every backend for every
    session; beyond some fifty of them ``power_of_two`` comes close to the same balance for a fixed cost.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._load = context.load
        self._ticket = context.ticket
        self._weighted: list[tuple[Backend, int]] = []

    def build(self, backends: Sequence[Backend]) -> None:
        """Keep backends and weights side by side."""
        self._weighted = [(backend, backend.weight) for backend in backends]

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - loads decide
        """Yield the least loaded, then the others by the loads as they were for the first."""
        load, weighted = self._load, self._weighted  # build() may come before the next candidate is wanted
        # A division rounds equal ratios to equal floats, so 1/1 and 3/3 are a tie.
        loads = [(load(backend) + 1) / weight for backend, weight in weighted]
        least = min(loads)
        chosen = loads.index(least)
        for _ in range(self._ticket() % loads.count(least)):
            chosen = loads.index(least, chosen + 1)
        yield weighted[chosen][0]
        rest = [*range(chosen + 1, len(loads)), *range(chosen)]
        rest.sort(key=loads.__getitem__)
        for i in rest:
            yield weighted[i][0]
