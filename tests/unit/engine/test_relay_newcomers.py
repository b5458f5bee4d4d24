"""Sessions that have come since the last tick: most end before the next one, and cost no timer."""

from __future__ import annotations

import socket

import pytest
from relay_steps import stepping

from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.session import NEWCOMER

_PORTABLE = pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])


@_PORTABLE
def test_a_short_session_never_stands_in_the_timer_wheel(portable):
    with stepping(portable=portable, idle_timeout_s=5.0) as steps:
        client, backend, session = steps.connect()
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        backend.close()
        client.close()
        steps.until(lambda: session.state is State.CLOSED)
        assert session.tick == NEWCOMER
        steps.worker._tick()
        assert not steps.core.wheel._slots


@_PORTABLE
def test_one_that_sees_a_tick_gets_its_time_outs(portable):
    """Behaviour 14."""
    with stepping(portable=portable, idle_timeout_s=0.3) as steps:
        _client, _backend, session = steps.connect()
        assert session.tick == NEWCOMER
        steps.after(0.1)
        assert session.tick > 0
        steps.after(1.0)
        assert steps.ends == ["idle_timeout"]


@_PORTABLE
def test_half_closed_within_the_first_tick_it_has_the_time_out_of_half_closed_ones(portable):
    """Behaviour 14: whatever happened before it got its place."""
    with stepping(portable=portable, idle_timeout_s=0.0, half_closed_timeout_s=0.3) as steps:
        client, _backend, session = steps.connect()
        client.shutdown(socket.SHUT_WR)
        steps.until(lambda: session.state is State.HALF_CLOSED_BY_CLIENT)
        assert session.tick == NEWCOMER
        steps.after(1.0)
        assert steps.ends == ["half_closed_timeout"]


def test_a_client_is_watched_from_the_moment_its_backend_stands():
    """Its request came before, and no event tells of it again: registering looks."""
    with stepping() as steps, socket.create_connection(steps.front.getsockname(), 20) as client:
        client.sendall(b"early")
        steps.until(lambda: steps.core.sessions)
        accepted, _ = steps.server.accept()
        with accepted:
            accepted.settimeout(20)
            [session] = steps.core.sessions.values()
            steps.until(lambda: session.outbound is not None and session.outbound.moved == 5)
            assert accepted.recv(5) == b"early"
            assert session.tick == NEWCOMER, "all of that within one tick"


def test_later_sessions_are_settled_though_earlier_ones_live_on():
    with stepping(idle_timeout_s=5.0) as steps:
        sessions = []
        for _ in range(3):
            sessions.append(steps.connect()[2])
            steps.worker._tick()
        assert all(session.tick > 0 for session in sessions)
