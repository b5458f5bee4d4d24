"""All workers accept from one queue: sessions that stay are spread over them, and nobody waits for one that hangs."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay.counters import Counters
from easyproxy.model import Address, Pool

pytestmark = pytest.mark.anyio


async def test_sessions_that_come_one_after_another_and_stay_are_spread_over_the_workers():
    async with relay(workers=3, processes=True) as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        await rig.engine.sessions()  # every worker has answered, so it has the listener
        for _ in range(30):
            for (
                pid
            ) in rig.engine.worker_pids():  # one that waits for a core of a busy machine cannot come first
                await until(lambda p=pid: is_asleep(p))
            await rig.client()
            await rig.taken(server)
        at = Counter(session.worker for session in await rig.engine.sessions())
        assert set(at) == {0, 1, 2}
        assert max(at.values()) <= 2 * min(at.values()), at


@pytest.mark.parametrize("is_unix", [False, True])
async def test_a_worker_that_hangs_keeps_no_client_from_the_others(is_unix, tmp_path):
    """Behaviour 32: also the client for whom the kernel has woken that very worker."""
    async with relay(workers=2, processes=True) as rig:
        server = rig.server()
        where = {"bind": Address(path=str(tmp_path / "front.sock"))} if is_unix else {}
        rig.apply(Pool("p", backends=(backend("p", "a", server),)), **where)
        await rig.engine.sessions()
        for pid in rig.engine.worker_pids():
            await until(lambda p=pid: is_asleep(p))
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(5):
                    client = await rig.client()
                    session = await rig.taken(server)
                    await rig.send(client, b"ping")
                    assert await rig.read(session, 4) == b"ping"
            finally:
                os.kill(pid, signal.SIGCONT)
        assert rig.engine.statistics().worker_restarts == 0


def is_asleep(pid: int) -> bool:
    """Whether a process waits for something (proc(5), the state after the name)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_the_least_is_that_of_the_other_workers():
    fd = Counters.create(3)
    try:
        view = Counters(fd, 3, worker=1)
        for worker, count in enumerate((7, 1, 5)):
            view.cells[Counters(fd, 3, worker=worker).base(4)] = count
        assert view.least(4) == 5
        assert Counters(fd, 3, worker=2).least(4) == 1
    finally:
        os.close(fd)
