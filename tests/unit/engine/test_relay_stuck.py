"""Stacks of workers, also of one that answers nobody."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay import crew, question, stuck
from easyproxy.engine.relay.counters import anonymous_file
from easyproxy.model import Pool
from easyproxy.stacks import stacks_here

pytestmark = pytest.mark.anyio


async def answers(rig) -> dict[str, str]:
    """Ask until all workers have started, which takes a busy machine longer than a worker is given to answer."""
    async with asyncio.timeout(30):
        while True:
            found = await rig.engine.stacks()
            if all("worker.py" in text for text in found.values()):
                return found


async def test_every_worker_says_what_it_is_doing():
    async with relay(workers=2, processes=True) as rig:
        assert sorted(await answers(rig)) == ["relay 0", "relay 1"]


async def test_a_worker_in_a_thread_is_told_from_the_programs_own_threads():
    async with relay() as rig:
        [text] = (await rig.engine.stacks()).values()
        assert text.startswith("thread easyproxy-relay-0:")
        assert "test_relay_stuck" not in text
        assert "test_relay_stuck" in stacks_here()


async def test_a_stopped_worker_is_named_with_its_state_and_the_others_answer():
    async with relay(workers=2, processes=True) as rig:
        await answers(rig)
        pid = rig.engine.worker_pids()[1]
        os.kill(pid, signal.SIGSTOP)
        try:
            found = await rig.engine.stacks()
        finally:
            os.kill(pid, signal.SIGCONT)
        assert found["relay 1"].startswith("does not answer: stopped")
        assert "worker.py" in found["relay 0"]


async def test_a_worker_that_falls_silent_is_told_of_though_nobody_asks():
    async with relay(workers=2, processes=True) as rig:
        await answers(rig)
        pid = rig.engine.worker_pids()[1]
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: rig.complaints)
            assert rig.engine.statistics().workers == 1
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: rig.engine.statistics().workers == 2)
        silent, heard = rig.complaints
        assert silent.startswith(f"relay worker 1 (pid {pid}) does not answer: its sessions may stand still")
        assert heard == f"relay worker 1 (pid {pid}) answers again"


async def test_a_snapshot_is_settled_when_every_worker_acts_by_it():
    async with relay(workers=2, processes=True) as rig:
        await answers(rig)
        pid, inquiry = rig.engine.worker_pids()[1], rig.engine._inquiry
        os.kill(pid, signal.SIGSTOP)
        try:
            settled = asyncio.create_task(rig.engine.settled())
            # The questions that the watch asks have lower numbers, or are asked later.
            await until(lambda: inquiry._open)
            [request, *_] = inquiry._open.values()
            await until(lambda: request.missing == {1})
            assert not settled.done()
        finally:
            os.kill(pid, signal.SIGCONT)
        await settled


async def test_a_worker_that_has_not_started_yet_is_not_called_silent(monkeypatch):
    spawn = crew.Crew._spawn

    def spawn_stopped(command, *others):
        return spawn(["/bin/sh", "-c", 'kill -STOP $$; exec "$0" "$@"', *command], *others)

    monkeypatch.setattr(crew.Crew, "_spawn", staticmethod(spawn_stopped))
    monkeypatch.setattr(crew, "STARTS_WITHIN_S", 1000.0)
    async with relay(workers=1, processes=True) as rig:
        assert await rig.engine.sessions() == []
        assert rig.complaints == []
        monkeypatch.setattr(crew, "STARTS_WITHIN_S", 0.0)
        await until(lambda: rig.complaints)
        os.kill(rig.engine.worker_pids()[0], signal.SIGCONT)
        await until(lambda: rig.engine.statistics().workers == 1)


async def test_who_is_cancelled_as_the_answer_comes_is_cancelled():
    """Else a task that asks again and again could not be ended; each number of turns between the two is tried."""
    async with relay(workers=1) as rig:
        inquiry = rig.engine._inquiry
        for turns in range(6):
            asked = asyncio.create_task(inquiry.ask({"op": question.PING}, within_s=60))
            await asyncio.sleep(0)  # it has asked, and no answer can be read yet
            for request in inquiry._open.values():
                request.done.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            was_pending = asked.cancel()
            await asyncio.wait({asked})
            assert asked.cancelled() == was_pending, turns


async def test_a_worker_that_has_left_in_an_upgrade_is_not_called_silent():
    async with relay(workers=2, processes=True) as rig:
        await answers(rig)
        crew, inquiry = rig.engine._crew, rig.engine._inquiry
        leaver, _ = crew.members()
        crew.dismiss()
        os.kill(leaver.pid, signal.SIGSTOP)
        asked = asyncio.create_task(inquiry.ask({"op": question.PING}, within_s=60))
        await until(lambda: inquiry._open)
        os.kill(leaver.pid, signal.SIGKILL)
        await until(lambda: leaver.channel.is_closed)
        for request in inquiry._open.values():  # the time is over
            request.done.set()
        await asked
        assert rig.complaints == []


HANGING = '''
import time
from collections.abc import Iterator, Sequence
from easyproxy.strategy.base import Strategy

class Hanging(Strategy):
    """Never comes to an end."""

    def build(self, backends):
        self.backends = backends

    def candidates(self, client):
        while True:
            time.sleep(0)
'''


async def test_a_worker_in_an_endless_loop_is_seen_at_the_very_line(tmp_path, monkeypatch):
    (tmp_path / "hanging_strategy.py").write_text(HANGING, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    async with relay(workers=1, processes=True) as rig:
        server = rig.server()
        rig.apply(Pool("p", strategy="hanging_strategy:Hanging", backends=(backend("p", "a", server),)))
        await rig.client()
        await until(lambda: rig.engine.statistics().listeners["front"].accepted == 1)
        async with asyncio.timeout(60):  # a busy machine may hold it up in the middle of telling
            while "hanging_strategy.py" not in (found := await rig.engine.stacks())["relay 0"]:
                pass
        assert found["relay 0"].startswith("does not answer: ")
        os.kill(rig.engine.worker_pids()[0], signal.SIGKILL)
        await until(lambda: rig.engine.statistics().worker_restarts == 1)
    sys.modules.pop("hanging_strategy", None)


async def test_a_process_that_is_not_prepared_is_left_alone():
    fd = anonymous_file("stacks")
    try:
        assert "it has not finished starting" in await stuck.stacks_of(os.getpid(), fd)
    finally:
        os.close(fd)
