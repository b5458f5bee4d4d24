"""Workers that cannot start, that die, and that die again and again."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay import RelayEngine, crew
from easyproxy.engine.relay.process import OF_THE_GROUP
from easyproxy.errors import EngineError
from easyproxy.model import Pool

pytestmark = pytest.mark.anyio


async def test_a_worker_that_cannot_be_started_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    engine = RelayEngine(workers=2)
    try:
        with pytest.raises(EngineError, match=r"relay worker 0 cannot be started: .*No such file"):
            await engine.start(lambda _: None)
    finally:
        await engine.stop()


def refuse_to_spawn(monkeypatch, times: int) -> list[int]:
    """Have the system refuse the next workers, so many times; the list grows with each refusal."""
    real, refusals = crew.Crew._spawn, []

    def refuse(*descriptors):
        if len(refusals) < times:
            refusals.append(1)
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return real(*descriptors)

    monkeypatch.setattr(crew.Crew, "_spawn", staticmethod(refuse))
    return refusals


async def test_a_successor_that_cannot_be_started_is_tried_again(monkeypatch):
    """Behaviour 32: the system may refuse for a while (EAGAIN, ENOMEM, EMFILE)."""
    async with relay(workers=1, processes=True) as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        refusals = refuse_to_spawn(monkeypatch, 2)
        [pid] = rig.engine.worker_pids()
        os.kill(pid, signal.SIGKILL)
        waiting = await rig.client()
        session = await rig.taken(server)
        await rig.send(waiting, b"patience")
        assert await rig.read(session, 8) == b"patience"
        assert len(refusals) == 2


async def test_what_reaches_the_whole_group_ends_no_worker_that_is_just_starting(monkeypatch):
    real = crew.Crew._spawn

    def spawn(*arguments):
        process = real(*arguments)
        for number in OF_THE_GROUP:
            process.send_signal(number)
        return process

    monkeypatch.setattr(crew.Crew, "_spawn", staticmethod(spawn))
    async with relay(workers=2, processes=True) as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        for _ in range(4):
            client = await rig.client()
            await rig.send(client, b"hello")
            assert await rig.read(await rig.taken(server), 5) == b"hello"
        # They have taken all commands by then, so they have started.
        assert await rig.engine.sessions()
        assert not rig.complaints


async def test_a_thread_that_cannot_be_started_is_an_error_in_words(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    engine = RelayEngine(processes=False)
    try:
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", refuse)
            with pytest.raises(EngineError, match="relay worker 0 cannot be started: can't start new thread"):
                await engine.start(lambda _: None)
    finally:
        await engine.stop()


async def test_a_death_is_told_once_and_a_successor_that_is_long_in_coming_by_itself(monkeypatch):
    async with relay(workers=1, processes=True) as rig:
        monkeypatch.setattr(crew, "LONGEST_PAUSE_S", 0.1)
        refuse_to_spawn(monkeypatch, 1)
        [pid] = rig.engine.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: rig.engine.worker_pids() not in ([], [pid]))
        died, waits = rig.complaints
        assert died.startswith(f"relay worker 0 (pid {pid}) was ended by signal 9; its sessions are lost")
        assert waits.startswith("relay worker 0 has no successor yet: ")
        assert "temporarily unavailable" in waits


async def test_deaths_that_follow_one_another_back_off_for_ever(monkeypatch):
    async with relay(workers=1, processes=True) as rig:
        rig.engine._crew._short_lives = 5000  # a night of quick deaths
        monkeypatch.setattr(crew, "LONGEST_PAUSE_S", 0.2)
        [pid] = rig.engine.worker_pids()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: rig.engine.worker_pids() not in ([], [pid]))
        assert rig.engine.statistics().worker_restarts == 1
        assert "was ended by signal 9" in rig.complaints[0]


async def test_a_dead_worker_is_replaced_while_the_programs_threads_are_all_busy():
    """Behaviour 32: name lookups that hang, for example."""
    async with relay(workers=1, processes=True) as rig:
        loop, release = asyncio.get_running_loop(), threading.Event()
        busy = [loop.run_in_executor(None, release.wait) for _ in range(40)]
        try:
            [pid] = rig.engine.worker_pids()
            os.kill(pid, signal.SIGKILL)
            await until(lambda: rig.engine.worker_pids() not in ([], [pid]))
        finally:
            release.set()
            await asyncio.gather(*busy)


async def test_workers_of_two_programs_never_have_the_same_generation():
    """Sessions are named by it, and keep their names in an upgrade."""
    async with relay(workers=1) as old, relay(workers=1) as new:
        first, second = old.engine._crew, new.engine._crew
        promised = first.promise_generation()
        first.restarts += 1  # a worker dies during the upgrade
        assert first._generation + first.restarts > promised
        second.begin_at(first.next_generation)
        second.restarts += 1
        assert second._generation + second.restarts > first._generation + first.restarts


async def test_a_program_with_many_open_files_can_embed_the_engine():
    """select(2) ends at descriptor 1023."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("the hard limit of open files is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    many = [os.dup(0) for _ in range(1100)]
    try:
        async with relay() as rig:
            server = rig.server()
            rig.apply(Pool("p", backends=(backend("p", "a", server),)))
            client = await rig.client()
            session = await rig.taken(server)
            await rig.send(client, b"hello")
            assert await rig.read(session, 5) == b"hello"
            assert not rig.complaints
    finally:
        for fd in many:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_threads_are_one_worker():
    with pytest.raises(EngineError, match="a thread is one worker"):
        RelayEngine(workers=2, processes=False)
