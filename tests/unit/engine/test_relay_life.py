"""The table of a session's life, by walking it at random and by searching all of it."""

from __future__ import annotations

import itertools
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.engine.relay.life import CLEAN, REASONS, TABLE, Ending, Event, State
from easyproxy.engine.relay.session import Session

FIN_EVENTS = {Event.CLIENT_FIN, Event.BACKEND_FIN}
END_OF_ALL = (Ending.CLOSE, Ending.RESET, Ending.RESET_WHEN_SENT)


def allowed(state: State) -> list[Event]:
    return [event for before, event in TABLE if before is state]


@st.composite
def lives(draw) -> list[tuple[State, Event]]:
    """Steps from CONNECTING until nothing is allowed any more."""
    state, steps = State.CONNECTING, []
    while events := allowed(state):
        event = draw(st.sampled_from(events))
        steps.append((state, event))
        state = TABLE[state, event].state
    return steps


@given(lives())
def test_every_life_ends_closed_exactly_once_and_takes_at_most_four_steps(life):
    states = [TABLE[step].state for step in life]
    assert states[-1] is State.CLOSED
    assert states.count(State.CLOSED) == 1
    assert len(life) <= 4


@given(lives())
def test_a_fin_is_passed_on_at_most_once_to_each_side_and_only_after_the_other_side_ended(life):
    told = {"client": 0, "backend": 0}
    for step in life:
        answer = TABLE[step]
        for side, other in (("client", Event.BACKEND_FIN), ("backend", Event.CLIENT_FIN)):
            if getattr(answer, side) is Ending.FIN:
                told[side] += 1
                assert step[1] is other
    assert max(told.values()) <= 1


@given(lives())
def test_nobody_is_told_a_clean_end_that_did_not_happen(life):
    """Behaviour 8: a side that gets CLOSE had its FIN, or gave its own last, and both have ended; or neither owes the other anything."""
    events = [event for _, event in life]
    last = TABLE[life[-1]]
    if Ending.CLOSE in (last.client, last.backend):
        assert set(events) >= FIN_EVENTS or events[-1] is Event.BETWEEN_TRANSACTIONS
        assert (last.client, last.backend) == (Ending.CLOSE, Ending.CLOSE)
    if not set(events) >= FIN_EVENTS and events[-1] is not Event.BETWEEN_TRANSACTIONS:
        assert last.reason not in CLEAN


@given(lives())
def test_the_reason_is_that_of_the_last_event_or_of_the_first_to_end(life):
    last = TABLE[life[-1]]
    fins = [event for _, event in life if event in FIN_EVENTS]
    assert last.reason == (fins[0] if len(fins) == 2 else life[-1][1]).value
    assert all(TABLE[step].reason == "" for step in life[:-1])


@pytest.mark.parametrize(
    "step", [step for step, answer in TABLE.items() if answer.reason not in {"", *CLEAN}]
)
def test_a_cut_resets_both_sides(step):
    """Behaviour 8: neither FIN nor CLOSE for anybody, whatever the state."""
    answer = TABLE[step]
    assert {answer.client, answer.backend} <= {Ending.RESET, Ending.RESET_WHEN_SENT}


def test_only_a_side_that_had_its_fin_is_owed_everything_before_its_reset():
    """Behaviour 9."""
    waits = {
        (step, side)
        for step, answer in TABLE.items()
        for side in (0, 1)
        if answer[1 + side] is Ending.RESET_WHEN_SENT
    }
    assert waits == {
        ((State.HALF_CLOSED_BY_CLIENT, Event.CLIENT_RESET), 1),
        ((State.HALF_CLOSED_BY_BACKEND, Event.BACKEND_RESET), 0),
    }


def test_nothing_is_accepted_after_closed_and_closing_always_ends_both_connections():
    assert allowed(State.CLOSED) == []
    for answer in TABLE.values():
        closed = answer.state is State.CLOSED
        assert (
            (answer.client in END_OF_ALL) == (answer.backend in END_OF_ALL) == closed == bool(answer.reason)
        )


def test_every_state_is_reached_and_every_event_and_reason_is_used():
    reached, frontier = {State.CONNECTING}, [State.CONNECTING]
    while frontier:
        state = frontier.pop()
        for event in allowed(state):
            follower = TABLE[state, event].state
            if follower not in reached:
                reached.add(follower)
                frontier.append(follower)
    assert reached == set(State)
    assert {event for _, event in TABLE} == set(Event)
    assert set(REASONS) == {answer.reason for answer in TABLE.values() if answer.reason}
    assert set(REASONS) == {event.value for event in Event} - {Event.CONNECTED.value}


def test_what_ends_any_session_is_allowed_in_every_state_that_lives():
    """Behaviours 14, 28 and 34."""
    alive = set(State) - {State.CLOSED}
    for state, event in itertools.product(
        alive, (Event.OPERATOR, Event.BACKEND_DOWN, Event.DRAINED, Event.LIFE_TIMEOUT)
    ):
        assert TABLE[state, event].state is State.CLOSED


def test_the_two_sides_are_mirrored_once_a_session_relays():
    mirror = {
        Event.CLIENT_FIN: Event.BACKEND_FIN,
        Event.CLIENT_RESET: Event.BACKEND_RESET,
        Event.CLIENT_VANISHED: Event.BACKEND_VANISHED,
        State.HALF_CLOSED_BY_CLIENT: State.HALF_CLOSED_BY_BACKEND,
    }
    mirror |= {other: one for one, other in mirror.items()}

    def other(thing):
        return mirror.get(thing, thing)

    for (state, event), answer in TABLE.items():
        if state is not State.CONNECTING:
            seen = TABLE[other(state), other(event)]
            assert (seen.state, seen.client, seen.backend) == (
                other(answer.state),
                answer.backend,
                answer.client,
            )


@pytest.mark.parametrize(
    ("host", "port", "text"),
    [("10.0.0.1", 5, "10.0.0.1:5"), ("fd00::1", 5, "[fd00::1]:5"), ("unix", 0, "unix")],
)
def test_a_client_is_named_as_people_write_addresses(host, port, text):
    with socket.socket() as sock:
        assert Session(1, None, sock, host, port, 0.0).client == text
