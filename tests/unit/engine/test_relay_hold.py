"""A pool that holds its clients while it has no backend, and lets them in at a bounded rate when it has one again."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
from collections import Counter
from pathlib import Path

import pytest
from relay_rig import backend, relay, until
from relay_steps import stepping

from easyproxy.engine.relay.counters import P_HELD, Counters
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.engine.seam import Where
from easyproxy.model import Pool

DETAIL = 11
"""Its place in a row of ends."""
PORTABLE = pytest.mark.parametrize("portable", [False, True])


def standing(steps) -> int:
    return sum(session.dial is None for session in steps.core.sessions.values())


@PORTABLE
def test_clients_wait_while_there_is_no_backend_and_get_to_the_next_one(portable):
    with stepping(portable=portable, hold_s=10.0) as steps:
        steps.serve()
        client = steps.client()
        client.sendall(b"sent while held")
        steps.after(5)
        assert steps.queued == 1
        assert not steps.ends
        steps.serve(steps.server)
        steps.after(0.1)
        assert steps.queued == 0
        server, _ = steps.server.accept()
        with server:
            server.settimeout(20)
            assert server.recv(100) == b"sent while held"


@PORTABLE
def test_waiting_for_a_backend_has_a_time_limit_and_then_the_reason_is_that_there_is_none(portable):
    with stepping(portable=portable, hold_s=10.0) as steps:
        steps.serve()
        client = steps.client()
        steps.after(9)
        steps.client()
        assert steps.queued == 2
        steps.after(1.5)
        assert steps.ends == ["no_backend"]
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        steps.after(9)
        assert steps.ends == ["no_backend"] * 2
        assert steps.queued == steps.core.counters.sum(2, P_HELD) == 0


def test_without_hold_the_client_is_turned_away_at_once():
    with stepping() as steps:
        steps.serve()
        socket.create_connection(steps.front.getsockname(), 20).close()
        steps.until(lambda: steps.ends)
        assert steps.ends == ["no_backend"]


@PORTABLE
def test_those_who_are_held_leave_descriptors_to_be_let_in_with(portable):
    """Behaviour 16: further ones wait in the backlog, and are served after them."""
    with stepping(portable=portable, hold_s=10.0) as steps:
        assert steps.core.most_held < resource.getrlimit(resource.RLIMIT_NOFILE)[0] / 2
        steps.core.most_held = 2
        steps.serve()
        for _ in range(2):
            steps.client()
        with socket.create_connection(steps.front.getsockname(), 20):
            steps.settle()
            assert steps.queued == 2
            steps.after(1.0)
            assert steps.queued == 2
            steps.serve(steps.server)
            steps.after(0.5)
            steps.until(lambda: standing(steps) == 3)


@contextlib.contextmanager
def no_descriptor_left():
    """Use up the descriptors of this process."""
    gc.collect()  # so that nothing that other tests have left gives one back meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(int(each.name) for each in Path("/dev/fd").iterdir()) + 8, hard)
    )
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


def test_who_waits_behind_one_that_lacks_a_descriptor_is_told_so_too():
    with stepping(hold_s=10.0, queue_timeout_s=2.0) as steps:
        steps.serve()
        for _ in range(3):
            steps.client()
        with no_descriptor_left():
            steps.serve(steps.server)
            steps.after(3.0)
        assert steps.ends == ["connect_failed"] * 3
        assert {row[DETAIL] for row in steps.core.recent_ends} == {"p/a: Too many open files"}


@PORTABLE
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_client_that_leaves_is_let_go(how, portable):
    with stepping(portable=portable, hold_s=60.0) as steps:
        steps.serve()
        leaving, _staying = steps.client(), steps.client()
        if how == "reset":
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        leaving.close()
        steps.settle()
        steps.after(2)
        assert steps.ends == ["client_gave_up"]
        assert steps.queued == 1


def test_they_are_let_in_at_a_bounded_rate_in_the_order_of_their_coming_and_newcomers_behind_them():
    with stepping(hold_s=10.0, admit_per_s=5.0) as steps:
        steps.serve()
        for _ in range(6):
            steps.client()
        steps.serve(steps.server)
        steps.after(0.3)
        assert standing(steps) <= 3
        steps.client()
        let_in = []
        for _ in range(20):
            steps.after(0.1)
            let_in.append(standing(steps))
        times = [session.connected_at for _, session in sorted(steps.core.sessions.items())]
        assert times == sorted(times)
        assert times[0] < times[-1]
        assert let_in[-1] == 7
        assert max(later - sooner for sooner, later in zip(let_in, let_in[5:], strict=False)) <= 6
        _, _, session = steps.connect()
        assert session.connected_at - session.accepted_at < TICK_S, "the gate is open again"
        assert steps.queued == 0


def test_who_was_late_does_not_make_up_for_it():
    with stepping(hold_s=10.0, admit_per_s=5.0) as steps:
        steps.serve()
        for _ in range(20):
            steps.client()
        steps.serve(steps.server)
        steps.core.now += 3  # something has kept the worker busy
        steps.worker._tick()
        steps.settle()
        assert standing(steps) <= 2


def test_without_a_rate_all_are_let_in_at_once():
    with stepping(hold_s=10.0) as steps:
        steps.serve()
        for _ in range(20):
            steps.client()
        steps.serve(steps.server)
        steps.worker._tick()
        steps.settle()
        assert standing(steps) == 20


def test_whose_turn_does_not_come_is_turned_away_and_not_for_want_of_a_backend():
    with stepping(hold_s=4.0, admit_per_s=1.0) as steps:
        steps.serve()
        for _ in range(10):
            steps.client()
        steps.after(3)
        steps.serve(steps.server)
        steps.after(3)
        assert not steps.ends, "there is as much time again to be let in"
        steps.after(2)
        assert set(steps.ends) == {"queue_timeout"}
        assert standing(steps) + len(steps.ends) == 10
        assert standing(steps) >= 4


def test_a_backend_that_goes_again_leaves_the_rest_waiting():
    with stepping(hold_s=10.0, admit_per_s=1.0) as steps:
        steps.serve()
        for _ in range(3):
            steps.client()
        steps.serve(steps.server)
        steps.after(0.1)
        steps.serve()
        steps.after(3)
        assert (standing(steps), steps.queued) == (1, 2)
        steps.serve(steps.server)
        steps.after(3)
        assert (standing(steps), steps.queued) == (3, 0)


def test_a_hold_that_is_taken_out_of_the_configuration_ends_it():
    with stepping(hold_s=10.0) as steps:
        steps.serve()
        steps.client()
        steps.serve(hold_s=0.0)
        steps.after(0.1)
        assert steps.ends == ["no_backend"]
        assert steps.queued == 0


def test_when_the_hold_is_taken_out_newcomers_do_not_wait_behind_those_who_are_still_held():
    with stepping(hold_s=10.0, admit_per_s=1.0) as steps:
        steps.serve()
        for _ in range(5):
            steps.client()
        steps.serve(steps.server)
        steps.after(0.1)
        held = steps.queued
        assert held >= 3
        steps.serve(steps.server, hold_s=0.0)
        _, _, session = steps.connect()
        assert session.connected_at - session.accepted_at < TICK_S
        steps.after(0.1)
        assert not steps.ends
        assert 0 < steps.queued <= held, "the others are let in at the rate, as before"
        steps.after(6.0)
        assert (standing(steps), steps.queued, steps.ends) == (6, 0, [])


def test_a_new_primary_gets_the_client_whose_connect_was_under_way():
    """``failover`` ends sessions; a client that has none yet is only sent elsewhere."""
    with stepping(hold_s=10.0, connect_timeout_s=60.0) as steps:
        blocker = socket.socket()
        blocker.bind(("127.0.0.1", 0))
        blocker.listen(0)
        fill = [socket.socket() for _ in range(3)]
        for sock in fill:
            sock.setblocking(False)
            sock.connect_ex(blocker.getsockname())
        try:
            steps.serve(blocker)
            steps.client()
            [session] = steps.core.sessions.values()
            assert session.socket is not None
            steps.serve()
            where = {"backend": "p/a", "client": "", "listener": "", "id": ""}
            steps.obey({"op": "close", "request": 1, "where": where, "reason": "failover"})
            while steps.worker._jobs:
                steps.worker._work()
            steps.settle()
            assert (steps.queued, steps.ends, session.socket) == (1, [], None)
            steps.serve(steps.server)
            steps.after(0.1)
            assert standing(steps) == 1
        finally:
            for sock in (blocker, *fill):
                sock.close()


def test_workers_share_the_rate_and_begin_one_after_another():
    fd = Counters.create(3)
    try:
        views = [Counters(fd, 3, worker=index) for index in range(3)]
        assert views[0].busy(4, P_HELD) == 1
        for index in (0, 2):
            views[index].cells[views[index].base(4) + P_HELD] = 5
        assert [view.busy(4, P_HELD) for view in views] == [2, 2, 2]
        assert [view.busy_before(4, P_HELD) for view in views] == [0, 1, 1]
        views[0].clear_gauges(2, [4], P_HELD)
        assert views[0].busy(4, P_HELD) == 1
    finally:
        os.close(fd)


@pytest.mark.anyio
async def test_all_workers_together_keep_the_rate_and_nobody_is_lost():
    async with relay(workers=3, processes=True) as rig:
        server = rig.server()
        pool = {"hold_s": 60.0, "admit_per_s": 50.0}
        rig.apply(Pool("p", **pool))
        await rig.engine.sessions()
        for _ in range(30):
            await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 30)
        rig.apply(Pool("p", backends=(backend("p", "a", server),), **pool))
        for _ in range(30):
            await rig.taken(server)
        await until(lambda: rig.engine.statistics().queued["p"] == 0)
        assert await rig.engine.close_sessions(Where()) == 30
        # Ages are those of the moment in which each worker answers.
        stood = sorted(end.started_at + end.connect_s for end in await rig.engine.recent_ends(Where()))
        assert stood[-1] - stood[0] >= 30 / 50 - 3 * TICK_S, "30 clients at 50 a second"


@pytest.mark.anyio
async def test_a_worker_that_dies_takes_its_clients_and_leaves_the_rate_to_the_others():
    async with relay(workers=2, processes=True) as rig:
        server = rig.server()
        pool = {"hold_s": 60.0, "admit_per_s": 50.0}
        rig.apply(Pool("p", **pool))
        at = Counter(session.worker for session in await rig.engine.sessions())
        while len(at) < 2:  # one that is not interrupted may take the first of them all
            for _ in range(20):
                await rig.client()
            held = at.total() + 20
            await until(lambda held=held: rig.engine.statistics().queued["p"] == held)
            at = Counter(session.worker for session in await rig.engine.sessions())
        victim = rig.engine.worker_pids()[0]
        os.kill(victim, 9)
        await until(lambda: rig.engine.statistics().worker_restarts == 1)
        left = rig.engine.statistics().queued["p"]
        assert left == at[1]
        rig.apply(Pool("p", backends=(backend("p", "a", server),), **pool))
        for _ in range(left):
            await rig.taken(server)
        await until(lambda: rig.engine.statistics().queued["p"] == 0)


@pytest.mark.anyio
async def test_who_waited_for_a_place_is_held_when_the_last_backend_goes():
    async with relay() as rig:
        server, other = rig.server(), rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server, max_sessions=1),), hold_s=60.0))
        await rig.client()
        await rig.taken(server)
        await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 1)
        rig.apply(Pool("p", hold_s=60.0))
        held = rig.engine._slots.by_key["pool:p"]
        await until(lambda: rig.engine._counters.sum(held, P_HELD) == 1)
        assert rig.engine.statistics().queued["p"] == 1
        rig.apply(Pool("p", backends=(backend("p", "b", other),), hold_s=60.0))
        await rig.taken(other)
        await until(lambda: rig.engine.statistics().queued["p"] == 0)


@pytest.mark.anyio
async def test_held_clients_can_be_closed_by_hand_and_end_with_a_drain():
    async with relay() as rig:
        rig.apply(Pool("p", hold_s=60.0))
        first = await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 1)
        assert await rig.engine.close_sessions(Where(listener="front")) == 1
        with pytest.raises(ConnectionResetError):
            await rig.read(first)
        second = await rig.client()
        await until(lambda: rig.engine.statistics().queued["p"] == 1)
        await rig.engine.drain(0.2)
        with pytest.raises(ConnectionResetError):
            await rig.read(second)
        assert rig.engine.statistics().ends["drained"] == 1
        assert rig.engine.statistics().queued["p"] == 0
