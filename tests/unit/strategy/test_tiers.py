"""Tiers: priorities in order, nothing in between for one tier, and faulty strategies of users contained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from strategy_pools import backends_of, context

from easyproxy.model import Backend
from easyproxy.strategy import BUILTIN, Context, Strategy, StrategyError
from easyproxy.strategy.tiers import Tiers


def three_tiers() -> list[Backend]:
    """Priorities 2, 0, 0, 1, mixed as a configuration may have them."""
    return [
        replace(backend, priority=priority)
        for backend, priority in zip(backends_of(1, 1, 1, 1), (2, 0, 0, 1), strict=True)
    ]


@pytest.mark.parametrize("name", BUILTIN)
def test_lower_priorities_come_first_and_every_backend_comes_once(name):
    backends = three_tiers()
    tiers = Tiers(BUILTIN[name], context(), backends)
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        found = list(tiers.candidates(client))
        assert [backend.priority for backend in found] == [0, 0, 1, 2]
        assert set(found) == set(backends)
    assert [backend.name for backend in tiers.backends] == ["b", "c", "d", "a"]


def test_a_higher_tier_is_not_asked_before_the_lower_one_is_used_up():
    tickets = itertools.count()
    two_tiers = [
        replace(backend, priority=priority)
        for backend, priority in zip(backends_of(1, 1, 1, 1), (1, 0, 0, 1), strict=True)
    ]
    tiers = Tiers(BUILTIN["round_robin"], Context(lambda: next(tickets), lambda _: 0, lambda: 0.5), two_tiers)
    found = tiers.candidates("10.0.0.1")
    next(found)
    next(found)
    assert next(tickets) == 1
    next(found)
    assert next(tickets) == 3


def test_one_tier_of_a_builtin_strategy_has_nothing_in_between():
    candidates = Tiers(BUILTIN["round_robin"], context(), backends_of(1, 1)).candidates
    assert candidates.__func__ is BUILTIN["round_robin"].candidates


def test_no_ready_backend_gives_no_candidate():
    tiers = Tiers(BUILTIN["maglev"], context(), [])
    assert (list(tiers.candidates("10.0.0.1")), tiers.backends, tiers.failure) == ([], (), None)


def test_backends_come_and_go_between_sessions():
    backends = three_tiers()
    tiers = Tiers(BUILTIN["first"], context(), backends)
    tiers.build(backends[:1])
    assert list(tiers.candidates("10.0.0.1")) == backends[:1]
    tiers.build([])
    assert list(tiers.candidates("10.0.0.1")) == []
    tiers.build(backends)
    assert next(tiers.candidates("10.0.0.1")).name == "b"


class Remembering(Strategy):
    """A user's strategy with a state: how often it was built."""

    def build(self, backends: Sequence[Backend]) -> None:
        self.builds = getattr(self, "builds", 0) + 1
        self.backends = backends

    def candidates(self, client: str) -> Iterator[Backend]:
        del client
        return itertools.islice(self.backends, self.builds)


def test_a_strategy_keeps_its_state_and_is_built_only_when_its_tier_changes():
    low, high = backends_of(1, 1, 1), backends_of(1, priority=1)
    tiers = Tiers(Remembering, context(), low)
    assert len(list(tiers.candidates("10.0.0.1"))) == 1
    tiers.build([*low, *(replace(backend, id="pool/z") for backend in high)])
    assert [backend.priority for backend in tiers.candidates("10.0.0.1")] == [0, 1]
    tiers.build(low[:2])
    assert len(list(tiers.candidates("10.0.0.1"))) == 2


class Faulty(Strategy):
    """A user's strategy that yields one good backend and then does what ``fault`` says."""

    fault: object = None

    def build(self, backends: Sequence[Backend]) -> None:
        self.backends = backends

    def candidates(self, client: str) -> Iterator[Backend]:
        del client
        yield self.backends[0]
        if isinstance(self.fault, Exception):
            raise self.fault
        yield self.fault or self.backends[0]


STRANGER = replace(backends_of(1)[0], id="elsewhere/x")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "yielded backend 'pool/a' twice in one call"),
        (STRANGER, "yielded backend 'elsewhere/x', which it did not get from build"),
        ("10.0.0.1:80", "yielded '10.0.0.1:80', which is no backend"),
        (KeyError("zone"), "raised KeyError for client '10.0.0.9': 'zone'"),
    ],
)
def test_a_fault_while_choosing_is_one_error_that_names_the_class(fault, message):
    tiers = Tiers(
        type("Faulty", (Faulty,), {"fault": fault, "__module__": "shop"}), context(), backends_of(1, 1)
    )
    found = tiers.candidates("10.0.0.9")
    assert next(found).name == "a"
    with pytest.raises(StrategyError, match=message) as caught:
        next(found)
    assert "strategy shop:Faulty " in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError) == isinstance(fault, KeyError)


class NoIterator(Faulty):
    def candidates(self, client: str) -> Iterator[Backend]:
        del client
        return None  # type: ignore[return-value]


class NotMade(Faulty):
    def __init__(self, context: Context) -> None:
        super().__init__(context)
        raise OSError("no table")


class NotBuilt(Faulty):
    def build(self, backends: Sequence[Backend]) -> None:
        super().build(backends)
        if len(backends) < 2:
            raise ValueError("two or more, please")


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (NoIterator, "raised TypeError for client"),
        (NotMade, "could not be made: OSError: no table"),
        (NotBuilt, "could not build for 1 backends: ValueError: two or more"),
    ],
)
def test_a_strategy_that_cannot_work_fails_at_the_first_candidate(strategy, message):
    tiers = Tiers(strategy, context(), backends_of(1))
    found = tiers.candidates("10.0.0.1")
    with pytest.raises(StrategyError, match=message):
        next(found)
    assert (tiers.failure is None) == (strategy is NoIterator)
    assert [backend.name for backend in tiers.backends] == ["a"]


def test_a_strategy_that_failed_to_build_gets_another_chance_with_other_backends():
    tiers = Tiers(NotBuilt, context(), backends_of(1))
    tiers.build(backends_of(1, 1))
    assert tiers.failure is None
    assert next(tiers.candidates("10.0.0.1")).name == "a"


def test_backends_that_equal_their_predecessors_are_no_strangers():
    tiers = Tiers(Remembering, context(), backends_of(1, 1))
    tiers.build(backends_of(1, 1))
    assert [backend.name for backend in tiers.candidates("10.0.0.1")] == ["a"]
