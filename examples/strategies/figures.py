"""Show how evenly the strategies share, how many clients the hash strategies move, and what a choice costs.

Run it with the Python that has EasyProxy: ``python examples/strategies/figures.py``. It prints the tables of
docs/strategies.md. Shares and movements are the same everywhere, times are those of your machine.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
import timeit
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address

from easyproxy.model import Address, Backend
from easyproxy.strategy import BUILTIN, Context, Strategy

HASHES = ("source_hash", "maglev")
CLIENTS = [str(IPv4Address("10.20.0.0") + i) for i in range(65536)]


def backends_of(weights: Sequence[int]) -> list[Backend]:
    """Make backends 10.1.0.1, 10.1.0.2, ... with these weights."""
    hosts = [str(IPv4Address("10.1.0.1") + i) for i in range(len(weights))]
    return [
        Backend(id=f"pool/{host}:80", name=f"{host}:80", address=Address(host, 80), weight=weight)
        for host, weight in zip(hosts, weights, strict=True)
    ]


def build(name: str, backends: Sequence[Backend]) -> Strategy:
    """Make a strategy with seeded chance and idle backends."""
    tickets = itertools.count()
    chance = random.Random(1)
    strategy = BUILTIN[name](Context(lambda: next(tickets), lambda _: 0, chance.random))
    strategy.build(backends)
    return strategy


def choices(name: str, backends: Sequence[Backend]) -> list[str]:
    """Return the id of the first candidate of every client."""
    strategy = build(name, backends)
    return [next(strategy.candidates(client)).id for client in CLIENTS]


def row(*cells: object) -> None:
    """Write one line of a table."""
    sys.stdout.write("| " + " | ".join(str(cell) for cell in cells) + " |\n")


def balance() -> None:
    """Show the least and the fullest backend, as a multiple of its share."""
    sys.stdout.write("\nLeast and fullest backend, 1.00 = its exact share (65,536 clients)\n\n")
    pools = {"3 equal": [1] * 3, "10 equal": [1] * 10, "100 equal": [1] * 100, "1 to 10": [*range(1, 11)]}
    row("strategy", *pools)
    row(*["---"] * (1 + len(pools)))
    for name in ("round_robin", "random", *HASHES):
        cells = []
        for weights in pools.values():
            backends = backends_of(weights)
            counts = Counter(choices(name, backends))
            ratios = [counts[b.id] * sum(weights) / len(CLIENTS) / b.weight for b in backends]
            cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        row(name, *cells)


def movement() -> None:
    """Show how many clients of one backend move, and of the others, when a pool changes."""
    sys.stdout.write("\nClients that change their backend (ideal: what must move and nothing else)\n\n")
    cases: dict[str, tuple[list[int], list[int]]] = {
        "1 of 3 equal leaves": ([1] * 3, [1, 1, 0]),
        "1 of 10 equal leaves": ([1] * 10, [1] * 9 + [0]),
        "1 of 100 equal leaves": ([1] * 100, [1] * 99 + [0]),
        "slow start, third at 7 of 100": ([100, 100, 0], [100, 100, 7]),
        "slow start, from 7 to 50": ([100, 100, 7], [100, 100, 50]),
        "the only heaviest (2, 1, 1) leaves": ([2, 1, 1], [0, 1, 1]),
        "all weights times 100": ([3, 2, 1], [300, 200, 100]),
    }
    row("change", "ideal", *HASHES)
    row(*["---"] * (2 + len(HASHES)))
    for case, (before, after) in cases.items():
        cells = []
        for name in HASHES:
            old, new = (
                choices(
                    name,
                    [
                        b
                        for b, weight in zip(backends_of([w or 1 for w in weights]), weights, strict=True)
                        if weight
                    ],
                )
                for weights in (before, after)
            )
            cells.append(f"{sum(a != b for a, b in zip(old, new, strict=True)) / len(CLIENTS):.1%}")
        shares = [(b / sum(before), a / sum(after)) for b, a in zip(before, after, strict=True)]
        row(case, f"{sum(abs(b - a) for b, a in shares) / 2:.1%}", *cells)


def cost() -> None:
    """Show microseconds for a first candidate and milliseconds for a build."""
    sys.stdout.write("\nCost in user time of this machine (least of five)\n\n")
    row("strategy", "first of 3, us", "first of 100, us", "all of 100, us", "build 100, ms")
    row(*["---"] * 5)
    for name in BUILTIN:
        cells = []
        for count in (3, 100):
            strategy = build(name, backends_of([1] * count))
            clients = itertools.cycle(CLIENTS)
            cells.append(least(lambda s=strategy, c=clients: next(s.candidates(next(c))), 20000) * 1e6)
        cells.append(least(lambda s=strategy, c=clients: list(s.candidates(next(c))), 500) * 1e6)
        backends = backends_of([1] * 100)
        started = time.perf_counter()
        build(name, backends)
        row(name, *(f"{cell:.1f}" for cell in cells), f"{(time.perf_counter() - started) * 1e3:.1f}")


def least(call: object, number: int) -> float:
    """Return the seconds of one call in the fastest of five rounds."""
    return min(timeit.repeat(call, number=number, repeat=5)) / number  # type: ignore[arg-type]


if __name__ == "__main__":
    balance()
    movement()
    cost()
