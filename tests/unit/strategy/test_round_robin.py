"""Round robin: exact over tickets, smooth, weighted, and fair when a backend fails."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategy_pools import backends_of, built, clients, context, first_names

from easyproxy.strategy import Context
from easyproxy.strategy.round_robin import MAX_LENGTH, MIN_TURNS, spread, turns


def test_equal_backends_take_tickets_in_the_order_of_the_configuration():
    """Behaviour 27."""
    assert "".join(first_names(built("round_robin", backends_of(5, 5, 5)), clients(7))) == "abcabca"


def test_several_workers_together_keep_the_order():
    """Behaviour 27."""
    shared = context()
    backends = backends_of(2, 1, 1)
    workers = [built("round_robin", backends, shared) for _ in range(3)]
    alone = first_names(built("round_robin", backends), clients(24))
    together = [next(workers[i * 7 % 3].candidates("10.0.0.1")).name for i in range(24)]
    assert together == alone


@pytest.mark.parametrize("weights", [(1, 1), (100, 100, 7), (4, 2, 1, 1), (256, 255, 1)])
def test_a_whole_round_serves_each_backend_exactly_by_its_weight(weights):
    """Behaviour 27."""
    backends = backends_of(*weights)
    round_of = sum(weights) // math.gcd(*weights)
    counts = Counter(first_names(built("round_robin", backends), clients(3 * round_of)))
    assert [counts[backend.name] * math.gcd(*weights) for backend in backends] == [
        3 * weight for weight in weights
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
@settings(max_examples=60)
def test_every_prefix_is_within_one_session_of_the_exact_share_and_every_window_within_two(weights):
    """Behaviour 27."""
    sequence = spread(weights)
    total = sum(weights)
    assert Counter(sequence) == Counter(dict(enumerate(weights)))
    bound = 1 - 1 / max(2 * len(weights) - 2, 1) + 1e-9
    for i, weight in enumerate(weights):
        ahead = [0.0]
        for turn, chosen in enumerate(sequence, 1):
            ahead.append(ahead[-1] + (chosen == i) - weight / total)
            assert abs(ahead[turn]) <= bound
        # A window is the difference of two prefixes, and one that wraps around is no different: a round ends at 0.
        assert max(ahead) - min(ahead) < 2
        assert abs(ahead[-1]) < 1e-6


def test_a_heavy_backend_is_never_served_in_a_burst():
    sequence = spread([5, 1, 1])
    gaps = [
        later - earlier
        for earlier, later in pairwise([i for i, chosen in enumerate(sequence * 2) if chosen == 0])
    ]
    assert max(gaps) == 2


@given(st.lists(st.integers(1, 25600), min_size=1, max_size=40))
@settings(max_examples=100)
def test_the_sequence_stays_short_and_the_shares_true(weights):
    """Behaviour 27."""
    counts = turns(weights)
    length, total, limit = sum(counts), sum(weights), max(MAX_LENGTH, MIN_TURNS * len(weights))
    assert length <= limit + len(weights)
    assert min(counts) >= 1
    if total // math.gcd(*weights) <= limit:
        assert [count * math.gcd(*weights) for count in counts] == weights
    elif math.gcd(*counts) == 1 and length > limit / 2:
        # Each number of turns is rounded once, so a share is off by its own rounding and its part of all the others'.
        for count, weight in zip(counts, weights, strict=True):
            share = weight / total
            assert abs(count / length - share) <= (1 + share * len(weights)) / length


def test_the_sessions_of_a_failing_backend_spread_over_all_others():
    strategy = built("round_robin", backends_of(1, 1, 1, 1))
    seconds: Counter[str] = Counter()
    for _ in range(4 * 3 * 10):
        first, second, *_ = strategy.candidates("10.0.0.1")
        if first.name == "a":
            seconds[second.name] += 1
    assert seconds == {"b": 10, "c": 10, "d": 10}


def test_a_single_backend_needs_no_ticket():
    """A ticket is a system call, and there is nobody to take turns with."""

    def ticket() -> int:
        raise AssertionError

    strategy = built("round_robin", backends_of(3), Context(ticket, lambda _: 0, lambda: 0.5))
    assert list(strategy.candidates("10.0.0.1")) == backends_of(3)


def test_one_ticket_is_taken_for_a_session_however_many_candidates_it_needs():
    taken: list[int] = []

    def ticket() -> int:
        taken.append(len(taken))
        return taken[-1]

    strategy = built("round_robin", backends_of(1, 1, 1), Context(ticket, lambda _: 0, lambda: 0.5))
    list(strategy.candidates("10.0.0.1"))
    assert taken == [0]
