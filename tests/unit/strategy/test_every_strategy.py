"""What holds for every built-in strategy: completeness, one backend, scaled weights, documentation examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_pools import backends_of, built, clients, context, first_names

import easyproxy.strategy
from easyproxy.strategy import BUILTIN

WEIGHTS = st.lists(st.integers(1, 25600), min_size=1, max_size=12)
ADDRESSES = st.ip_addresses().map(str)


@pytest.mark.parametrize("name", BUILTIN)
@given(
    weights=WEIGHTS,
    client=ADDRESSES,
    seed=st.integers(0, 1000),
    loads=st.lists(st.integers(0, 50), min_size=12),
)
@settings(max_examples=25)
def test_candidates_yield_every_backend_exactly_once(name, weights, client, seed, loads):
    backends = backends_of(*weights)
    load = {backend.id: load for backend, load in zip(backends, loads, strict=False)}
    strategy = built(name, backends, context(lambda backend: load[backend.id], seed))
    for _ in range(3):
        assert sorted(strategy.candidates(client), key=backends.index) == backends


@pytest.mark.parametrize("name", BUILTIN)
def test_candidates_are_complete_with_extreme_weights_and_many_backends(name):
    for weights in ([1, 25600], [100, 100, 7], [25600, *[1] * 99], [*range(1, 301)]):
        backends = backends_of(*weights)
        strategy = built(name, backends)
        for client in ("10.0.0.1", "2001:db8::1", "fe80::1%eth0", ""):
            assert sorted(strategy.candidates(client), key=backends.index) == backends


@pytest.mark.parametrize("name", BUILTIN)
def test_a_single_backend_serves_everyone(name):
    (only,) = backends_of(7)
    strategy = built(name, [only])
    assert [list(strategy.candidates(client)) for client in clients(20)] == [[only]] * 20


@pytest.mark.parametrize("name", BUILTIN)
def test_a_build_forgets_backends_that_left_and_takes_new_ones(name):
    backends = backends_of(1, 2, 3, 4)
    strategy = built(name, backends[:3])
    next(strategy.candidates("10.0.0.1"))
    strategy.build(backends[1:])
    assert set(strategy.candidates("10.0.0.1")) == set(backends[1:])


@pytest.mark.parametrize("name", BUILTIN)
@given(weights=st.lists(st.integers(1, 256), min_size=1, max_size=8), factor=st.integers(2, 100))
@settings(max_examples=15)
def test_a_common_factor_in_all_weights_changes_no_choice(name, weights, factor):
    scaled = [weight * factor for weight in weights]
    some = clients(50)
    assert first_names(built(name, backends_of(*weights)), some) == first_names(
        built(name, backends_of(*scaled)), some
    )


def test_first_follows_the_configuration_whatever_the_weights():
    backends = backends_of(1, 100, 7)
    assert list(built("first", backends).candidates("10.0.0.1")) == backends


def test_the_examples_in_the_docstrings_are_true():
    names = [
        f"easyproxy.strategy.{module.name}" for module in pkgutil.iter_modules(easyproxy.strategy.__path__)
    ]
    results = [doctest.testmod(importlib.import_module(name)) for name in names]
    assert sum(result.attempted for result in results) >= 3
    assert sum(result.failed for result in results) == 0
