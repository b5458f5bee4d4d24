"""Maglev: a client address keeps its backend, by a lookup table that shares exactly.

Only the table lives here: Eisenbud et al., "Maglev: a fast and reliable software network load balancer", NSDI 2016,
section 3.4. It is the same in every worker, whatever the order of the backends in the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy
from easyproxy.strategy.hashing import hash_client, hash_name, stream
from easyproxy.strategy.round_robin import spread, turns
from easyproxy.strategy.walk import walk

TABLE_SIZE = 16381
"""A prime, the same for every pool. The paper's 65537 takes four times as long to fill, with the worker's loop waiting
(100 backends: 38 ms instead of 10); when one of 100 leaves, it moves 1.6 % of the clients instead of 2.3 %."""


class Maglev(Strategy):
    """Send a client to the backend that owns its slot of the table.

    Every backend owns its share of the slots to within one or two, so the shares are far more even than on a ring. The price:
    when a backend leaves, a few clients of the others move as well.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._backends: Sequence[Backend] = ()
        self._table: list[Backend] = []

    def build(self, backends: Sequence[Backend]) -> None:
        """Fill the table."""
        self._backends = sorted(backends, key=lambda backend: backend.id)
        owners = fill(
            [backend.id for backend in self._backends], [backend.weight for backend in self._backends]
        )
        self._table = [self._backends[owner] for owner in owners]

    def candidates(self, client: str) -> Iterator[Backend]:
        """Yield the owner of the client's slot, then the owners of the slots that follow."""
        slot = hash_client(client) % TABLE_SIZE
        first = self._table[slot]
        yield first
        yield from walk(self._table, slot + 1, first, self._backends)


def fill(names: Sequence[str], weights: Sequence[int]) -> list[int]:
    """Assign every slot of the table to the index of a backend.

    Each backend prefers the slots in its own order, offset + j * skip modulo the prime size. They take turns, each
    time the most preferred slot that is still free, until none is. The paper's turns are plain; here they are those of
    the smooth weighted round robin, so a backend has as many as its weight says.
    """
    size = TABLE_SIZE
    next_slots: list[int] = []
    skips: list[int] = []
    for name in names:
        numbers = stream(hash_name(name))
        next_slots.append(next(numbers) % size)
        skips.append(next(numbers) % (size - 1) + 1)
    table = [-1] * size
    free = size
    for i in cycle(spread(turns(weights))):
        slot = next_slots[i]
        skip = skips[i]
        while table[slot] >= 0:
            slot += skip
            if slot >= size:
                slot -= size
        table[slot] = i
        next_slots[i] = slot  # taken now, so the next turn of this backend goes on from here
        free -= 1
        if not free:
            break
    return table
