"""When a session is ended for lack of bytes: exactly by the settings, however the wheel happens to stand."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from relay_steps import stepping

import speech
from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.timers import TICK_S

FIRST = pytest.mark.parametrize("first", ["client", "backend"])


def half_close(steps, first, client, backend, session):
    (client if first == "client" else backend).shutdown(socket.SHUT_WR)
    steps.until(lambda: session.state is not State.RELAYING)


@FIRST
def test_a_half_closed_session_ends_also_when_there_is_no_idle_timeout(first):
    """Behaviour 14: the session was looked at before it was half-closed, and there was nothing to wait for."""
    with stepping(idle_timeout_s=0, half_closed_timeout_s=5, connect_timeout_s=1) as steps:
        client, backend, session = steps.connect()
        steps.after(10)
        half_close(steps, first, client, backend, session)
        steps.after(4)
        assert session.state is not State.CLOSED
        steps.after(1)
        assert steps.ends == ["half_closed_timeout"]


@FIRST
def test_the_half_closed_timeout_begins_with_the_end_of_one_side(first):
    """Behaviour 14: a session that was quiet for long before has the whole time."""
    with stepping(idle_timeout_s=100, half_closed_timeout_s=10, connect_timeout_s=1) as steps:
        client, backend, session = steps.connect()
        steps.after(99)
        half_close(steps, first, client, backend, session)
        steps.after(8)
        assert session.state is not State.CLOSED
        steps.after(2)
        assert steps.ends == ["half_closed_timeout"]


def test_a_byte_after_the_end_of_one_side_starts_the_time_anew():
    """Behaviour 14."""
    with stepping(idle_timeout_s=100, half_closed_timeout_s=10) as steps:
        client, backend, session = steps.connect()
        half_close(steps, "client", client, backend, session)
        for _ in range(3):
            steps.after(8)
            backend.sendall(b"still busy")
            steps.until(lambda: session.active_at == steps.core.now)
        steps.after(9)
        assert session.state is State.HALF_CLOSED_BY_CLIENT
        steps.after(1)
        assert steps.ends == ["half_closed_timeout"]


@pytest.mark.parametrize("connect_timeout", [0.5, 30, 3000])
def test_an_idle_timeout_shorter_than_the_connect_timeout_is_kept(connect_timeout):
    """Behaviour 14."""
    with stepping(idle_timeout_s=2, connect_timeout_s=connect_timeout) as steps:
        _, _, session = steps.connect()
        steps.after(1.8)
        assert session.state is State.RELAYING
        steps.after(0.2)
        assert steps.ends == ["idle_timeout"]


@FIRST
@pytest.mark.parametrize("idle", [0, 100])
@pytest.mark.parametrize("silent_before", [0, 20])
def test_a_side_that_does_not_take_what_a_lost_one_has_said_has_the_half_closed_timeout(
    first, idle, silent_before
):
    """Behaviours 8 and 14: it held a place until the idle timeout. It has the time from then on, however silent both were before."""
    with stepping(
        idle_timeout_s=idle, half_closed_timeout_s=5, connect_timeout_s=1, user_timeout_s=4
    ) as steps:
        client, backend, session = steps.connect()
        lost, other = (client, backend) if first == "client" else (backend, client)
        for side in (client, backend):
            side.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    side.send(bytes(1 << 20))
                    steps.settle()
        assert session.outbound.is_blocked
        assert session.inbound.is_blocked
        steps.after(silent_before)
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        lost.close()
        steps.until(lambda: session.inbound.target_gone or session.outbound.target_gone)
        steps.settle()
        steps.after(4)
        assert steps.ends == []
        steps.after(1)
        assert steps.ends == [f"{first}_reset"]
        [row] = steps.core.recent_ends
        assert "the other side did not take what it was owed" in row
        other.close()


def test_no_limit_is_no_limit():
    with stepping(idle_timeout_s=0, half_closed_timeout_s=0, connect_timeout_s=1) as steps:
        client, backend, session = steps.connect()
        steps.after(500)
        half_close(steps, "client", client, backend, session)
        steps.after(500)
        assert session.state is State.HALF_CLOSED_BY_CLIENT
        assert steps.ends == []


def test_the_longest_life_ends_a_session_that_is_never_idle():
    """Behaviour 14."""
    with stepping(idle_timeout_s=2, life_timeout_s=10) as steps:
        client, backend, session = steps.connect()
        for _ in range(9):
            client.sendall(b"x")
            steps.until(lambda: session.active_at == steps.core.now)
            steps.after(0.9)
        assert session.state is State.RELAYING
        steps.after(1)
        assert steps.ends == ["life_timeout"]
        assert backend.recv(100) == b"x" * 9
        with pytest.raises(ConnectionResetError):
            backend.recv(100)


@pytest.mark.parametrize("timeouts", [{}, {"idle_timeout_s": 0}, {"life_timeout_s": 600}])
@pytest.mark.parametrize("counted_after_s", [0.0, 0.03, 0.06, 0.09])
@pytest.mark.parametrize("into_tick_s", [0.01, 0.05, 0.08])
def test_who_has_just_logged_in_and_is_to_leave_has_a_second_and_no_more(
    into_tick_s, counted_after_s, timeouts
):
    """However late a tick counts its last bytes, which is when it was last seen: it then stayed until its idle timeout."""
    with stepping(conversation="postgresql", keeps=("p/a",), **timeouts) as steps:
        client, backend, session = steps.connect()
        client.sendall(speech.STARTUP)
        steps.until(lambda: session.outbound.moved)
        steps.core.now = (int(steps.core.now / TICK_S) + 1) * TICK_S + into_tick_s
        steps.worker._tick()  # from now on it is no newcomer, and ticks count for it
        backend.sendall(speech.LET_IN)
        steps.until(lambda: session.conversation.is_fresh)
        steps.settle()
        steps.serve(steps.server, keeps=())
        while steps.worker._jobs:
            steps.worker._work()
        steps.core.now += counted_after_s
        steps.worker._tick()
        for expected, until in ([], steps.core.now + 0.9), (["between_transactions"], steps.core.now + 1.2):
            while steps.core.now < until:
                steps.core.now += 0.01
                steps.worker._tick()
                steps.step()
            assert steps.ends == expected


def test_a_worker_without_its_control_process_does_not_run_hot():
    """The channel's end is told once; what is left is to wait for the sessions."""
    with stepping() as steps:
        steps.connect()
        steps.settle()
        steps.control.close()
        steps.until(lambda: steps.worker._is_draining)
        steps.settle()
        assert steps.core.poller.poll(0, 8) == []
        steps.worker._tick()
        assert steps.core.poller.poll(0, 8) == []


def test_the_time_in_the_queue_ends_also_where_another_backend_cannot_be_reached():
    """Behaviour 19: with each try from the queue that one is dialled anew, which must not begin the time anew."""
    with stepping(strategy="first", places={"b": 1}, connect_timeout_s=1.0, queue_timeout_s=3.0) as steps:
        dead, full = steps.server, steps.listen()
        steps.deafen(dead)
        steps.serve(dead, full)
        steps.client()
        steps.after(1)
        steps.taken(full)
        waiting = steps.client()
        steps.after(6)
        assert steps.ends == ["queue_timeout"]
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
