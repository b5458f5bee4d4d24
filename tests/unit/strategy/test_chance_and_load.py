"""Random, power of two and least connections: drawn by weight, drawn to the less loaded."""

from __future__ import annotations

import statistics
from collections import Counter

import pytest
from strategy_pools import backends_of, built, clients, context, first_names, surprise

from easyproxy.model import Backend
from easyproxy.strategy import Context
from easyproxy.strategy.random import bounds


@pytest.mark.parametrize("name", ["random", "power_of_two"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (100, 100, 7), tuple(range(1, 21))])
def test_drawing_among_idle_backends_follows_the_weights(name, weights):
    """Behaviour 27."""
    backends = backends_of(*weights)
    counts = Counter(first_names(built(name, backends), clients(20000)))
    assert abs(surprise(counts, backends)) < 3.5


def test_random_draws_the_second_candidate_by_the_weights_of_those_left():
    """Behaviour 27."""
    backends = backends_of(1, 2, 5)
    strategy = built("random", backends)
    seconds: Counter[str] = Counter()
    for _ in range(20000):
        first, second, _ = strategy.candidates("10.0.0.1")
        if first.name == "b":
            seconds[second.name] += 1
    assert sum(seconds.values()) > 4000
    assert abs(surprise(seconds, [backends[0], backends[2]])) < 3.5


def test_chance_at_its_ends_stays_within_the_pool():
    for weights in ([1], [1, 1, 1], [25600, 1], list(range(1, 200))):
        backends = backends_of(*weights)
        for chance, expected in ((0.0, backends[0]), (1 - 2**-53, backends[-1])):
            lent = Context(ticket=lambda: 0, load=lambda _: 0, random=lambda chance=chance: chance)
            assert next(built("random", backends, lent).candidates("")) is expected
            assert set(built("power_of_two", backends, lent).candidates("")) == set(backends)
    assert bounds([1]) == []


class Held:
    """Sessions that stay: a load as the engine counts it."""

    def __init__(self) -> None:
        self.sessions: Counter[str] = Counter()

    def of(self, backend: Backend) -> int:
        return self.sessions[backend.name]

    def open(self, strategy, count: int) -> None:
        for _ in range(count):
            self.sessions[next(strategy.candidates("10.0.0.1")).name] += 1


@pytest.mark.parametrize("weights", [(1, 1, 1), (4, 2, 1), (100, 100, 7)])
def test_least_connections_fills_backends_in_proportion_to_their_weights(weights):
    """Behaviour 27."""
    held = Held()
    strategy = built("least_connections", backends_of(*weights), context(held.of))
    held.open(strategy, 2 * sum(weights))
    assert list(held.sessions.values()) != []
    assert [held.sessions[name] for name in "abc"] == [2 * weight for weight in weights]


def test_least_connections_rotates_among_equals_instead_of_hitting_the_first():
    counts = Counter(first_names(built("least_connections", backends_of(1, 1, 1, 1)), clients(400)))
    assert counts == dict.fromkeys("abcd", 100)


def test_least_connections_rotates_evenly_when_a_busy_backend_stands_between_equals():
    lent = context(lambda backend: 9 if backend.name == "b" else 0)
    counts = Counter(first_names(built("least_connections", backends_of(1, 1, 1), lent), clients(400)))
    assert counts == {"a": 200, "c": 200}


def test_least_connections_offers_the_others_by_load():
    loads = {"a": 5, "b": 0, "c": 9, "d": 3}
    strategy = built(
        "least_connections", backends_of(1, 1, 1, 1), context(lambda backend: loads[backend.name])
    )
    assert [backend.name for backend in strategy.candidates("10.0.0.1")] == ["b", "d", "a", "c"]


def test_least_connections_fills_an_empty_newcomer_first():
    held = Held()
    held.sessions.update(a=10, b=10)
    held.open(built("least_connections", backends_of(1, 1, 1), context(held.of)), 10)
    assert held.sessions == {"a": 10, "b": 10, "c": 10}


def test_power_of_two_keeps_loads_far_closer_together_than_random_does():
    """Behaviour 27."""
    spreads = {}
    for name in ("random", "power_of_two"):
        held = Held()
        held.open(built(name, backends_of(*[1] * 20), context(held.of)), 20000)
        spreads[name] = max(held.sessions.values()) - min(held.sessions.values())
    assert spreads["power_of_two"] <= 10
    assert spreads["random"] >= 5 * spreads["power_of_two"]


def test_power_of_two_fills_backends_in_proportion_to_their_weights():
    """Behaviour 27."""
    weights = (5, 3, 2, 10)
    held = Held()
    held.open(built("power_of_two", backends_of(*weights), context(held.of)), 4000)
    filled = [held.sessions[name] / weight for name, weight in zip("abcd", weights, strict=True)]
    assert statistics.mean(filled) == pytest.approx(200, rel=0.02)
    assert max(filled) / min(filled) < 1.05


def test_power_of_two_never_takes_the_most_loaded_of_all():
    loads = {"a": 1, "b": 2, "c": 3}
    strategy = built("power_of_two", backends_of(1, 1, 1), context(lambda backend: loads[backend.name]))
    counts = Counter(first_names(strategy, clients(3000)))
    assert counts["c"] == 0
    assert counts["a"] > counts["b"] > 0


def test_power_of_two_offers_the_loser_second_and_the_rest_by_load():
    loads = {"a": 4, "b": 3, "c": 2, "d": 1}
    chances = iter([0.1, 0.0])  # the first quarter is a's; of the rest, the first third is b's
    lent = Context(ticket=lambda: 0, load=lambda backend: loads[backend.name], random=lambda: next(chances))
    assert [b.name for b in built("power_of_two", backends_of(1, 1, 1, 1), lent).candidates("")] == [
        "b",
        "a",
        "d",
        "c",
    ]
