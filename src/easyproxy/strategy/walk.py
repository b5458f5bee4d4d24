"""The further candidates of strategies that look one up in a precomputed list: a walk along the same list.

One function; which list, and where the walk begins, is the strategy's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from easyproxy.model import Backend

STEPS_PER_BACKEND = 4


def walk(
    slots: Sequence[Backend], start: int, first: Backend, backends: Sequence[Backend]
) -> Iterator[Backend]:
    """Yield every backend but ``first`` once, in the order in which they stand in ``slots`` from ``start`` on.

    Heavy backends stand there more often and so come sooner. A light one may be thousands of slots away: after
    ``STEPS_PER_BACKEND`` steps for each backend the ones not met yet follow, from a place that depends on ``start``.
    """
    seen = {first.id}
    count = len(backends)
    length = len(slots)
    for step in range(start, start + min(STEPS_PER_BACKEND * count, length)):
        backend = slots[step % length]
        if backend.id not in seen:
            seen.add(backend.id)
            yield backend
            if len(seen) == count:
                return
    for step in range(start, start + count):
        backend = backends[step % count]
        if backend.id not in seen:
            yield backend
