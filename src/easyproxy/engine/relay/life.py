"""The life of a session as a table: states, events, and what each side is told. Pure: no sockets, no clock.

A session has two directions that end independently (RFC 9293, section 3.6: a side that sent FIN may go on
receiving). An event names what one side did, or why we cut the session; the table answers with the next state,
what to do to the client's and to the backend's connection, and the reason that counters and logs give.

*FIN* events mean: the FIN was read and every byte before it has been handed on. A cut never looks like a clean end:
both sides get a reset, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a session stands."""

    # Enum's own hash is a Python function; these are looked up several times in every session's life.
    __hash__ = str.__hash__

    CONNECTING = "connecting"  # a backend is chosen, waited for, dialled, or has yet to greet
    RELAYING = "relaying"
    HALF_CLOSED_BY_CLIENT = "half_closed_by_client"
    HALF_CLOSED_BY_BACKEND = "half_closed_by_backend"
    CLOSED = "closed"


class Event(StrEnum):
    """What can happen to a session."""

    __hash__ = str.__hash__

    CONNECTED = "connected"
    CLIENT_FIN = "client_fin"
    BACKEND_FIN = "backend_fin"
    CLIENT_RESET = "client_reset"
    BACKEND_RESET = "backend_reset"
    CLIENT_VANISHED = "client_vanished"  # keep-alive or TCP_USER_TIMEOUT gave up
    BACKEND_VANISHED = "backend_vanished"
    CLIENT_GAVE_UP = "client_gave_up"  # it left before a backend was reached
    NO_BACKEND = "no_backend"
    CONNECT_FAILED = "connect_failed"
    QUEUE_TIMEOUT = "queue_timeout"
    RATE_LIMITED = "rate_limited"  # its address opens more sessions than the listener's client_rate allows
    REFUSED = "refused"  # the listener is full and configured to refuse
    IDLE_TIMEOUT = "idle_timeout"
    HALF_CLOSED_TIMEOUT = "half_closed_timeout"
    LIFE_TIMEOUT = "life_timeout"
    OPERATOR = "operator"
    BACKEND_DOWN = "backend_down"
    FAILOVER = "failover"  # another server is the primary now
    LAGGING = "lagging"  # the replica fell too far behind
    DRAINED = "drained"
    BETWEEN_TRANSACTIONS = "between_transactions"  # it was to leave, and no transaction was open
    INTERNAL_ERROR = "internal_error"  # a mistake in EasyProxy; the log holds where


class Ending(IntEnum):
    """What is done to one side's connection."""

    KEEP = 0
    FIN = 1  # shutdown(SHUT_WR): all bytes before it, then EOF
    CLOSE = 2  # nothing more is to come in either direction: close(2)
    RESET = 3  # RST, once what was sent is acknowledged, or after half a second (close.RESET_WAITS_S)
    RESET_WHEN_SENT = (
        4  # the same for a side that is owed everything: it had its FIN before the other side broke
    )


class Transition(NamedTuple):
    """The table's answer: next state, what each side gets, and the reason to record (empty while it lives)."""

    state: State
    client: Ending
    backend: Ending
    reason: str


_CUTS = (
    Event.OPERATOR,
    Event.BACKEND_DOWN,
    Event.FAILOVER,
    Event.LAGGING,
    Event.DRAINED,
    Event.LIFE_TIMEOUT,
    Event.INTERNAL_ERROR,
)
_BEFORE = (
    Event.CLIENT_GAVE_UP,
    Event.NO_BACKEND,
    Event.CONNECT_FAILED,
    Event.QUEUE_TIMEOUT,
    Event.RATE_LIMITED,
    Event.REFUSED,
    *_CUTS,
)
_DURING = (
    Event.CLIENT_RESET,
    Event.BACKEND_RESET,
    Event.CLIENT_VANISHED,
    Event.BACKEND_VANISHED,
    Event.IDLE_TIMEOUT,
    *_CUTS,
)


def _cut(event: Event) -> Transition:
    return Transition(State.CLOSED, Ending.RESET, Ending.RESET, event.value)


TABLE: dict[tuple[State, Event], Transition] = {
    (State.CONNECTING, Event.CONNECTED): Transition(State.RELAYING, Ending.KEEP, Ending.KEEP, ""),
    **{(State.CONNECTING, event): _cut(event) for event in _BEFORE},
    (State.RELAYING, Event.CLIENT_FIN): Transition(State.HALF_CLOSED_BY_CLIENT, Ending.KEEP, Ending.FIN, ""),
    (State.RELAYING, Event.BACKEND_FIN): Transition(
        State.HALF_CLOSED_BY_BACKEND, Ending.FIN, Ending.KEEP, ""
    ),
    **{(State.RELAYING, event): _cut(event) for event in _DURING},
    **{
        (state, event): _cut(event)
        for state in (State.HALF_CLOSED_BY_CLIENT, State.HALF_CLOSED_BY_BACKEND)
        for event in (*_DURING, Event.HALF_CLOSED_TIMEOUT)
    },
    # Nothing is under way in either direction, and both have been told in their own protocol's words: see ``polite``.
    (State.RELAYING, Event.BETWEEN_TRANSACTIONS): Transition(
        State.CLOSED, Ending.CLOSE, Ending.CLOSE, Event.BETWEEN_TRANSACTIONS.value
    ),
    # The first to end gives a clean session its reason.
    (State.HALF_CLOSED_BY_CLIENT, Event.BACKEND_FIN): Transition(
        State.CLOSED, Ending.CLOSE, Ending.CLOSE, Event.CLIENT_FIN.value
    ),
    (State.HALF_CLOSED_BY_BACKEND, Event.CLIENT_FIN): Transition(
        State.CLOSED, Ending.CLOSE, Ending.CLOSE, Event.BACKEND_FIN.value
    ),
    # A side that breaks after its own FIN has said all it had to say, and the other side is owed all of it: the
    # reset that follows must not overtake the bytes.
    (State.HALF_CLOSED_BY_CLIENT, Event.CLIENT_RESET): Transition(
        State.CLOSED, Ending.RESET, Ending.RESET_WHEN_SENT, Event.CLIENT_RESET.value
    ),
    (State.HALF_CLOSED_BY_BACKEND, Event.BACKEND_RESET): Transition(
        State.CLOSED, Ending.RESET_WHEN_SENT, Ending.RESET, Event.BACKEND_RESET.value
    ),
}

CLEAN = frozenset({Event.CLIENT_FIN.value, Event.BACKEND_FIN.value, Event.BETWEEN_TRANSACTIONS.value})
"""Reasons of sessions that ended in good order: nothing that was under way is lost."""

REASONS = tuple(sorted({transition.reason for transition in TABLE.values()} - {""}))
"""Every reason with which a session can end; the index is its place in the shared counters."""
