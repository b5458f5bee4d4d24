"""What the strategy tests share: pools of given weights, a context with seeded chance, and a chi-square bound."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from easyproxy.model import Address, Backend
from easyproxy.strategy import BUILTIN, Context, Strategy


def backends_of(*weights: int, priority: int = 0) -> list[Backend]:
    """Backends named a, b, c, ... (or b26, b27, ...) with these weights."""
    names = [chr(ord("a") + i) if i < 26 else f"b{i}" for i in range(len(weights))]
    return [
        Backend(
            id=f"pool/{name}",
            name=name,
            address=Address("10.1.0.1", 1000 + i),
            weight=weight,
            priority=priority,
        )
        for i, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]


def context(load: Callable[[Backend], int] = lambda _: 0, seed: int = 1) -> Context:
    """Tickets from 0, the given load (idle by default) and seeded chance."""
    tickets = itertools.count()
    return Context(ticket=lambda: next(tickets), load=load, random=random.Random(seed).random)


def built(name: str, backends: Sequence[Backend], lent: Context | None = None) -> Strategy:
    """Make a built-in strategy for these backends."""
    strategy = BUILTIN[name](lent or context())
    strategy.build(backends)
    return strategy


def first_names(strategy: Strategy, clients: Iterable[str]) -> list[str]:
    """The name of each client's first candidate."""
    return [next(strategy.candidates(client)).name for client in clients]


def clients(count: int) -> list[str]:
    """Neighbouring IPv4 addresses from 10.0.0.1 on."""
    return [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(1, count + 1)]


def surprise(counts: Counter[str], backends: Sequence[Backend]) -> float:
    """How many standard deviations the counts' chi-square lies above what the weights explain (Wilson and Hilferty)."""
    total = sum(counts.values())
    weights = sum(backend.weight for backend in backends)
    chi2 = 0.0
    for backend in backends:
        expected = total * backend.weight / weights
        chi2 += (counts[backend.name] - expected) ** 2 / expected
    freedom = len(backends) - 1
    return ((chi2 / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5
