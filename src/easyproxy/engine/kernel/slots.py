"""Strategies as the kernel can follow them: a fixed row of slots, each owned by a backend.

Pure. The kernel draws a slot by turn, by chance or by the client's hash; who owns it is decided here, off the data path,
with the same code as in the relay engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from easyproxy.model import Backend
from easyproxy.strategy.base import Context
from easyproxy.strategy.maglev import TABLE_SIZE, fill
from easyproxy.strategy.round_robin import spread, turns
from easyproxy.strategy.source_hash import SourceHash

HASH_SLOTS = 4093
"""A prime, whatever the number of backends: ``jhash mod N`` would move nearly everybody whenever N changes.

Less than in the relay engine, because nft reads each slot as text: 4,093 of them take it about 10 ms.
"""

STRATEGIES = frozenset({"round_robin", "random", "source_hash", "maglev"})


@lru_cache(maxsize=64)  # most changes leave most pools as they are
def owners(strategy: str, backends: tuple[Backend, ...]) -> tuple[int, ...]:
    """Say for each slot which backend (its index) owns it.

    >>> a, b = (Backend(id=f"p/{n}", name=n, address=None, weight=w) for n, w in (("a", 2), ("b", 1)))
    >>> owners("random", (a, b))
    (0, 1, 0)
    """
    if strategy in ("round_robin", "random"):
        return tuple(spread(turns([backend.weight for backend in backends])))
    order = sorted(range(len(backends)), key=lambda index: backends[index].id)
    if strategy == "maglev":
        return tuple(_maglev(backends, order))
    return tuple(_source_hash(backends))


def _maglev(backends: Sequence[Backend], order: Sequence[int]) -> list[int]:
    table = fill([backends[index].id for index in order], [backends[index].weight for index in order])
    # Every n-th slot of the paper's table is as good a sample as any, and the same whoever else is there.
    return [order[table[slot * TABLE_SIZE // HASH_SLOTS]] for slot in range(HASH_SLOTS)]


def _source_hash(backends: Sequence[Backend]) -> list[int]:
    index_by_id = {backend.id: index for index, backend in enumerate(backends)}
    ring = SourceHash(Context(ticket=lambda: 0, load=lambda _backend: 0, random=lambda: 0.0))
    ring.build(backends)
    return [index_by_id[next(ring.candidates(f"slot {slot}")).id] for slot in range(HASH_SLOTS)]
