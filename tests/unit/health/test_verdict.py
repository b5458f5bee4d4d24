"""The verdict against a model that looks at the whole history."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.health import verdict as module
from easyproxy.health.verdict import INITIAL, LATE_S, Rule, Verdict, judge

FAILURES = [outcome for outcome in Outcome if outcome is not Outcome.SUCCESS]
outcomes = st.lists(st.one_of(st.just(Outcome.SUCCESS), st.sampled_from(FAILURES)), max_size=60)
rules = st.builds(Rule, rise=st.integers(1, 5), fall=st.integers(1, 5))


def look(outcome: Outcome, at: float, detail: str = "") -> Observation:
    return Observation("pool/a", outcome, detail, at)


def run(history: list[Outcome], rule: Rule) -> list[Verdict]:
    verdicts = [INITIAL]
    for at, outcome in enumerate(history, start=1):
        verdicts.append(judge(verdicts[-1], look(outcome, float(at)), rule))
    return verdicts


def expected(history: list[Outcome], rule: Rule) -> list[bool | None]:
    """Say it another way: the state flips where the last `needed` observations all speak against it."""
    good = [outcome is Outcome.SUCCESS for outcome in history]
    states: list[bool | None] = [None]
    for end in range(1, len(good) + 1):
        state = states[-1]
        if state is None:
            states.append(good[0])
            continue
        needed = rule.fall if state else rule.rise
        window = good[max(0, end - needed) : end]
        # All of the window must lie after the flip that led to the present state, which it does: the flip's own
        # observation agrees with that state.
        against = len(window) == needed and all(one != state for one in window)
        states.append(not state if against else state)
    return states


@given(outcomes, rules)
def test_rise_and_fall_are_exact_for_every_history(history, rule):
    """Behaviour 22."""
    assert [one.healthy for one in run(history, rule)] == expected(history, rule)


@given(outcomes, rules)
def test_it_is_changing_exactly_while_the_newest_observation_disagrees_with_the_state(history, rule):
    for outcome, verdict in zip(history, run(history, rule)[1:], strict=True):
        assert verdict.is_changing == ((outcome is Outcome.SUCCESS) != verdict.healthy)


@given(outcomes, rules)
def test_since_is_the_moment_of_the_last_flip_and_the_last_error_survives(history, rule):
    verdicts = run(history, rule)
    for index, verdict in enumerate(verdicts[1:], start=1):
        flipped = verdict.healthy != verdicts[index - 1].healthy
        assert verdict.since == (float(index) if flipped else verdicts[index - 1].since)
        failures = [at for at, outcome in enumerate(history[:index], start=1) if outcome in FAILURES]
        assert verdict.last_error_at == (float(failures[-1]) if failures else 0.0)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_first_observation_decides_whatever_the_rule(outcome):
    """Behaviour 25."""
    first = judge(INITIAL, look(outcome, 1.0), Rule(rise=5, fall=5))
    assert first.healthy is (outcome is Outcome.SUCCESS)
    assert not first.is_changing


def test_a_strictly_alternating_backend_never_changes_its_state():
    history = [Outcome.SUCCESS, Outcome.REFUSED] * 50
    assert {one.healthy for one in run(history, Rule(rise=2, fall=2))[1:]} == {True}


def test_failures_from_traffic_keep_a_backend_down_and_restart_its_rise():
    """Behaviour 24."""
    rule = Rule(rise=2, fall=1)
    down = run([Outcome.REFUSED, Outcome.SUCCESS, Outcome.REFUSED, Outcome.SUCCESS], rule)[-1]
    assert (down.healthy, down.streak) == (False, 1)
    assert judge(down, look(Outcome.SUCCESS, 9.0), rule).healthy is True


@given(outcomes, rules, st.floats(0.001, LATE_S), st.sampled_from(list(Outcome)))
def test_an_overtaken_observation_changes_nothing(history, rule, late, outcome):
    before = run([Outcome.SUCCESS, *history], rule)[-1]
    assert judge(before, look(outcome, before.last.at - late), rule) == before


def test_a_clock_that_was_set_back_does_not_blind_the_verdict():
    up = judge(INITIAL, look(Outcome.SUCCESS, 5000.0), Rule(1, 1))
    assert judge(up, look(Outcome.REFUSED, 1000.0), Rule(1, 1)).healthy is False


def test_the_reason_says_how_many_and_the_last_detail():
    rule = Rule(rise=1, fall=2)
    up = judge(INITIAL, look(Outcome.SUCCESS, 1.0, "connected"), rule)
    down = judge(
        judge(up, look(Outcome.TIMEOUT, 2.0, "slow"), rule), look(Outcome.REFUSED, 3.0, "refused"), rule
    )
    again = judge(down, look(Outcome.SUCCESS, 4.0, "connected"), rule)
    assert down.reason == "refused (2 failures in a row)"
    assert again.reason == "connected"
    assert (again.last_error, again.last_error_at) == ("refused", 3.0)


@pytest.mark.parametrize(("rise", "fall"), [(0, 1), (1, 0), (-1, 3)])
def test_a_rule_that_nothing_can_satisfy_is_refused(rise, fall):
    with pytest.raises(ValueError, match="1 or more"):
        Rule(rise=rise, fall=fall)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(module).failed == 0
