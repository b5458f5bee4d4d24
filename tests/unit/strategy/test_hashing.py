"""Source hash and maglev: even, stable over processes and time, and sparing with moves."""

from __future__ import annotations

import ipaddress
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_pools import backends_of, built, clients, first_names, surprise

from easyproxy.strategy.hashing import hash_client
from easyproxy.strategy.maglev import TABLE_SIZE, fill
from easyproxy.strategy.source_hash import POINTS

HASHES = ["source_hash", "maglev"]
MANY = clients(20000)


@pytest.mark.parametrize(
    "addresses",
    [
        clients(254),
        [f"192.168.7.{i}" for i in range(1, 255)],
        [f"2001:db8::{i:x}" for i in range(1, 255)],
        [f"2001:db8:{i:x}::1" for i in range(254)],
        [f"fe80::1%eth{i}" for i in range(254)],
        MANY,
    ],
    ids=lambda addresses: f"{addresses[0]}-{addresses[-1]}",
)
def test_neighbouring_addresses_spread_over_the_whole_hash_range(addresses):
    slices = backends_of(*[1] * 16)
    high = Counter(slices[hash_client(client) >> 60].name for client in addresses)
    prime = Counter(slices[hash_client(client) % 16381 * 16 // 16381].name for client in addresses)
    assert abs(surprise(high, slices)) < 3.5
    assert abs(surprise(prime, slices)) < 3.5
    assert len({hash_client(client) for client in addresses}) == len(addresses)


@pytest.mark.parametrize("name", HASHES)
def test_254_neighbours_use_every_one_of_five_backends_well(name):
    """Behaviour 27."""
    for network in ("10.0.0.0", "2001:db8::"):
        start = ipaddress.ip_address(network)
        counts = Counter(
            first_names(built(name, backends_of(1, 1, 1, 1, 1)), [str(start + i) for i in range(1, 255)])
        )
        assert min(counts.values()) > 254 / 5 * 0.6
        assert max(counts.values()) < 254 / 5 * 1.4


@pytest.mark.parametrize("weights", [(1,) * 10, (100, 100, 7), (5, 3, 2), tuple(range(1, 11))])
def test_source_hash_shares_follow_the_weights_as_closely_as_its_points_allow(weights):
    """Behaviour 27."""
    backends = backends_of(*weights)
    counts = Counter(first_names(built("source_hash", backends), MANY))
    for backend in backends:
        # With p points of its own among many, a backend's arc has a relative deviation of about 1/sqrt(p).
        points = POINTS * backend.weight / max(weights)
        share = backend.weight / sum(weights)
        assert counts[backend.name] / len(MANY) == pytest.approx(share, rel=3.5 / points**0.5)


@pytest.mark.parametrize("weights", [(1,) * 10, (1,) * 100, (100, 100, 7), (5, 3, 2), tuple(range(1, 11))])
def test_maglev_slots_are_exact_to_two_and_clients_follow_them(weights):
    """Behaviour 27."""
    backends = backends_of(*weights)
    slots = Counter(fill([backend.id for backend in backends], weights))
    for i, weight in enumerate(weights):
        assert abs(slots[i] - TABLE_SIZE * weight / sum(weights)) < 2
    assert abs(surprise(Counter(first_names(built("maglev", backends), MANY)), backends)) < 4.5


@given(weights=st.lists(st.integers(1, 25600), min_size=1, max_size=12))
@settings(max_examples=20)
def test_maglev_fills_every_slot_and_forgets_no_backend(weights):
    table = fill([f"pool/{i}" for i in range(len(weights))], weights)
    assert len(table) == TABLE_SIZE
    assert set(table) == set(range(len(weights)))


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_source_hash_moves_only_the_clients_of_the_backend_that_left_and_they_come_back(count):
    """Behaviour 27."""
    backends = backends_of(*[1] * count)
    strategy = built("source_hash", backends)
    before = first_names(strategy, MANY)
    for leaver in (backends[0], backends[-1]):
        strategy.build([backend for backend in backends if backend is not leaver])
        without = first_names(strategy, MANY)
        moved = [old for old, new in zip(before, without, strict=True) if old != new]
        assert set(moved) == {leaver.name}
        assert len(moved) / len(MANY) == pytest.approx(1 / count, rel=0.25)
        strategy.build(backends)
        assert first_names(strategy, MANY) == before


@pytest.mark.parametrize(("count", "besides"), [(2, 0.01), (3, 0.01), (10, 0.015), (50, 0.015)])
def test_maglev_moves_little_more_than_the_clients_of_the_backend_that_left_and_they_come_back(
    count, besides
):
    """Behaviour 27."""
    backends = backends_of(*[1] * count)
    strategy = built("maglev", backends)
    before = first_names(strategy, MANY)
    for leaver in (backends[0], backends[-1]):
        strategy.build([backend for backend in backends if backend is not leaver])
        without = first_names(strategy, MANY)
        moved = [old for old, new in zip(before, without, strict=True) if old != new]
        assert sum(old != leaver.name for old in moved) / len(MANY) < besides
        assert sum(old == leaver.name for old in moved) / len(MANY) == pytest.approx(1 / count, rel=0.15)
        strategy.build(backends)
        assert first_names(strategy, MANY) == before


@pytest.mark.parametrize("name", HASHES)
def test_a_slow_start_draws_clients_to_the_newcomer_and_moves_next_to_none_between_the_others(name):
    """Behaviour 27."""
    strategy = built(name, backends_of(100, 100, 7))
    before = first_names(strategy, MANY)
    for weight, gain in ((20, 0.06), (50, 0.166), (100, 0.3)):
        strategy.build(backends_of(100, 100, weight))
        after = first_names(strategy, MANY)
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        aside = sum(new != "c" for _, new in moved)
        assert aside == 0 if name == "source_hash" else aside / len(MANY) < 0.005
        assert len(moved) / len(MANY) == pytest.approx(gain, abs=0.04)


def test_source_hash_moves_few_others_even_when_the_only_heaviest_leaves():
    backends = backends_of(2, 1, 1)
    before = first_names(built("source_hash", backends), MANY)
    after = first_names(built("source_hash", backends[1:]), MANY)
    others = sum(old != new for old, new in zip(before, after, strict=True) if old != "a")
    assert 0 < others / len(MANY) < 0.1


def test_a_failing_backend_s_clients_try_the_one_that_they_will_have_once_it_has_left():
    """Behaviour 13: a retry and the time after the verdict agree, so a client moves once."""
    backends = backends_of(3, 2, 2, 1)
    strategy = built("source_hash", backends_of(3, 2, 2, 1))
    pairs = [tuple(backend.name for backend in strategy.candidates(client))[:2] for client in MANY[:2000]]
    strategy.build([backend for backend in backends if backend.name != "b"])
    later = first_names(strategy, MANY[:2000])
    assert [second for first, second in pairs if first == "b"] == [
        now for (first, _), now in zip(pairs, later, strict=True) if first == "b"
    ]


@pytest.mark.parametrize("name", HASHES)
def test_the_order_of_the_configuration_and_the_past_say_nothing(name):
    backends = backends_of(*range(1, 9))
    shuffled = random.Random(3).sample(backends, k=len(backends))
    seasoned = built(name, backends_of(1, 1, 1))
    seasoned.build(backends_of(*[7] * 20))
    seasoned.build(shuffled)
    some = MANY[:2000]
    assert [list(seasoned.candidates(client)) for client in some] == [
        list(built_once.candidates(client)) for built_once in [built(name, backends)] for client in some
    ]


@pytest.mark.parametrize("name", HASHES)
def test_everything_but_id_and_weight_says_nothing(name):
    backends = backends_of(1, 2, 3)
    others = [replace(backend, max_sessions=5, name="other") for backend in backends]
    one, another = built(name, backends), built(name, others)
    assert [next(one.candidates(client)).id for client in MANY[:300]] == [
        next(another.candidates(client)).id for client in MANY[:300]
    ]


@pytest.mark.parametrize("name", HASHES)
def test_the_choice_is_the_same_in_every_process_and_run(name):
    script = (
        "from strategy_pools import *\n"
        f"print(''.join(first_names(built({name!r}, backends_of(3, 2, 1, 1)), clients(200))))"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120 - it goes into an environment variable
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": here},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {"".join(first_names(built(name, backends_of(3, 2, 1, 1)), clients(200)))}


def test_the_hash_never_changes_between_releases():
    """Two balancers side by side, or an upgrade of one, must agree; a new hash would move every client once."""
    assert [hash_client("10.0.0.1"), hash_client("2001:db8::1")] == [6433069679126149938, 7887879255939868094]
    assert (
        "".join(first_names(built("source_hash", backends_of(2, 1, 1)), clients(24)))
        == "bcbbcbaaaabcacbaacbbaacc"
    )
    assert (
        "".join(first_names(built("maglev", backends_of(2, 1, 1)), clients(24))) == "cacaccccaabbcabaaaaabcbc"
    )
