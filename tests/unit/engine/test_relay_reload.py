"""Snapshots that follow one another while clients are connecting, waiting and leaving."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import grp
import os
import shutil
import signal
import socket
from collections import Counter
from pathlib import Path

import pytest
from relay_rig import backend, relay, until

from easyproxy.engine.relay import engine, question
from easyproxy.engine.relay.slots import Slots
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Listener, Pool, Rate, Snapshot
from easyproxy.strategy import BUILTIN
from ports import free_port

pytestmark = pytest.mark.anyio


async def served(rig, server) -> None:
    """One session, there and back."""
    client = await rig.client()
    session = await rig.taken(server)
    await rig.send(client, b"ping")
    assert await rig.read(session, 4) == b"ping"
    client.close()
    session.close()


async def test_a_pool_that_was_removed_can_come_back():
    """Behaviour 29."""
    async with relay() as rig:
        server = rig.server()
        one = Pool("one", backends=(backend("one", "a", server),))
        two = Pool("two", backends=(backend("two", "a", server),))
        for pools in ((one,), (two,), (one, two), (two,), (one,)):
            rig.apply(*pools)
            await served(rig, server)
        assert not rig.complaints


def descriptors(pid: int) -> list[str]:
    """What a process has open, for a message that says it."""
    place = Path(f"/proc/{pid}/fd")
    opened = []
    for number in os.listdir(place):  # noqa: PTH208 - numbers, no paths wanted
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            opened.append(os.readlink(place / number))  # noqa: PTH115 - what it is, not where it leads
    return sorted(opened)


@pytest.fixture
def no_garbage_collection():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def changing(rig, server, strategy: str, number: int) -> Pool:
    """Put another pool in force, with everything that a pool and its listener may own."""
    members = (backend(f"p{number}", "a", server),)
    pool = Pool(f"p{number}", backends=members, strategy=strategy, hold_s=5, admit_per_s=5)
    rig.apply(pool, client_rate=Rate(100 + number, 1))
    return pool


@pytest.mark.parametrize("strategy", sorted(BUILTIN))
async def test_a_pool_that_was_removed_leaves_no_descriptor_behind(strategy):
    """Behaviours 11 and 29: a worker process collects garbage so seldom that it must not depend on it."""
    async with relay(processes=True) as rig:
        server = rig.server()
        [pid] = rig.engine.worker_pids()
        changing(rig, server, strategy, 0)
        await served(rig, server)
        await until(lambda: rig.sessions == 0)
        await rig.engine.sessions()  # who answers has done all that came before
        base = descriptors(pid)
        for number in range(1, 10):
            changing(rig, server, strategy, number)
            await served(rig, server)
        await until(lambda: rig.sessions == 0)
        await rig.engine.sessions()
        assert descriptors(pid) == base
        assert not rig.complaints


@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_session_holds_its_removed_pool_until_it_ends_and_no_longer():
    """Behaviours 11 and 30."""
    async with relay() as rig:
        server = rig.server()
        changing(rig, server, "round_robin", 0)
        await rig.engine.sessions()
        base = len(descriptors(os.getpid()))
        client = await rig.client()
        session = await rig.taken(server)
        rig.apply(Pool("other"), listeners={"other": "other"})
        await rig.send(client, b"still here")
        assert await rig.read(session, 10) == b"still here"
        client.close()
        session.close()
        await until(lambda: rig.sessions == 0)
        changing(rig, server, "round_robin", 0)
        await rig.engine.sessions()
        assert len(descriptors(os.getpid())) == base


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("portable", [False, True])
async def test_an_engine_that_was_stopped_has_closed_everything(portable):
    """Behaviour 11, in a program that starts and stops balancers."""
    base = descriptors(os.getpid())
    async with relay(portable=portable) as rig:
        server = rig.server()
        for number in range(2):
            changing(rig, server, "round_robin", number)
            await served(rig, server)
    assert descriptors(os.getpid()) == base


async def test_a_snapshot_with_too_many_names_leaves_nothing_behind():
    async with relay() as rig:
        server = rig.server()
        rig.engine._slots = Slots(size=4)
        pool = Pool("p", backends=(backend("p", "a", server),))
        rig.apply(pool)
        before = rig.engine.addresses()
        with pytest.raises(EngineError, match="in use"):
            rig.apply(pool, listeners={"front": "p", "second": "p"})
        assert rig.engine.addresses() == before
        await served(rig, server)
        rig.engine._slots = Slots()
        rig.apply(pool, listeners={"front": "p", "second": "p"})
        client = await rig.client("second")
        assert await rig.taken(server)
        client.close()


async def test_a_snapshot_during_a_drain_opens_nothing_again():
    """Behaviour 34."""
    async with relay() as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        client = await rig.client()
        session = await rig.taken(server)
        draining = asyncio.ensure_future(rig.engine.drain(20))
        await until(lambda: not rig.engine.addresses())
        rig.apply(Pool("p", backends=()))
        assert rig.engine.addresses() == {}
        await rig.send(client, b"still here")
        assert await rig.read(session, 10) == b"still here"
        client.close()
        session.close()
        await draining


async def test_a_worker_that_is_slow_to_stop_accepting_does_not_put_the_deadline_off(monkeypatch):
    waits = []

    class Roll(question.Roll):
        async def is_complete(self, within_s):
            waits.append(within_s)
            await asyncio.sleep(0.01)
            return await super().is_complete(within_s)

    async with relay() as rig:
        monkeypatch.setattr(engine, "Roll", Roll)
        await rig.engine.drain(3)
    accepts_no_more, is_empty = waits
    assert accepts_no_more == 3
    assert is_empty < 3, "what the first wait took is taken off"


async def test_a_worker_that_dies_during_a_drain_has_a_successor_that_stays():
    """Behaviour 32."""
    async with relay(workers=2, processes=True) as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)))
        client = await rig.client()
        session = await rig.taken(server)
        [holder] = {info.worker for info in await rig.engine.sessions()}
        draining = asyncio.ensure_future(rig.engine.drain(20))
        await until(lambda: not rig.engine.addresses())
        idle = next(m for m in rig.engine._crew.members() if m.index != holder)
        os.kill(idle.pid, signal.SIGKILL)
        await until(
            lambda: rig.engine.statistics().worker_restarts == 1 and len(rig.engine.worker_pids()) == 2
        )
        # The successor answers, so it has taken all its commands.
        assert [info.worker for info in await rig.engine.sessions()] == [holder]
        client.close()
        session.close()
        await draining
        assert rig.engine.statistics().worker_restarts == 1


async def test_a_client_that_waits_for_a_place_moves_with_its_listener_to_another_pool():
    """Behaviours 19 and 29."""
    async with relay() as rig:
        full, free = rig.server(), rig.server()
        one = Pool("one", backends=(backend("one", "a", full, max_sessions=1),), queue_timeout_s=30)
        two = Pool("two", backends=(backend("two", "a", free),))
        rig.apply(one, two, listeners={"front": "one", "other": "one"})
        first = await rig.client()
        holder = await rig.taken(full)
        waiting = await rig.client()
        stays = await rig.client("other")
        await until(lambda: rig.engine.statistics().queued["one"] == 2)
        rig.apply(one, two, listeners={"front": "two", "other": "one"})
        session = await rig.taken(free)
        await rig.send(waiting, b"here I am")
        assert await rig.read(session, 9) == b"here I am"
        await until(lambda: rig.engine.statistics().queued == {"one": 1, "two": 0})
        first.close()
        holder.close()
        session = await rig.taken(full)
        await rig.send(stays, b"me too")
        assert await rig.read(session, 6) == b"me too"
        await until(lambda: rig.engine.statistics().queued["one"] == 0)
        assert rig.sessions == 2
        assert not rig.complaints


async def test_a_client_whose_backend_leaves_without_a_word_moves_with_its_listener_to_another_pool():
    """Behaviour 29."""
    async with relay() as rig:
        silent, good = rig.server(), rig.server()
        one = Pool("one", backends=(backend("one", "a", silent),), greeting="any", greeting_timeout_s=60.0)
        two = Pool("two", backends=(backend("two", "a", good),), greeting="any", greeting_timeout_s=60.0)
        rig.apply(one, two, listeners={"front": "one", "other": "one"})
        client = await rig.client()
        attempt = await rig.taken(silent)
        rig.apply(one, two, listeners={"front": "two", "other": "one"})
        await rig.engine.sessions()  # the worker answers, so it has the new configuration
        attempt.close()
        session = await rig.taken(good)
        await rig.send(session, b"hello")
        assert await rig.read(client, 5) == b"hello"
        client.close()
        session.close()


async def test_clients_that_wait_in_a_pool_that_is_removed_are_told():
    """Behaviours 12 and 29."""
    async with relay() as rig:
        full, free = rig.server(), rig.server()
        one = Pool("one", backends=(backend("one", "a", full, max_sessions=1),), queue_timeout_s=30)
        two = Pool("two", backends=(backend("two", "a", free),))
        rig.apply(one)
        first = await rig.client()
        holder = await rig.taken(full)
        waiting = await rig.client()
        await until(lambda: rig.engine.statistics().queued["one"] == 1)
        rig.apply(two, listeners={"another": "two"})
        with pytest.raises(ConnectionResetError):
            await rig.read(waiting)
        await until(lambda: rig.engine.statistics().ends["no_backend"] == 1)
        await rig.send(first, b"lives on")
        assert await rig.read(holder, 8) == b"lives on"
        first.close()
        holder.close()
        await until(lambda: rig.sessions == 0)
        client = await rig.client("another")
        await rig.taken(free)
        client.close()
        assert not rig.complaints


async def test_stopping_twice_closes_nothing_twice():
    async with relay() as rig:
        rig.apply(Pool("p"))
        await rig.engine.stop()


async def test_a_listener_before_an_unknown_pool_is_refused_and_nothing_changes():
    """Behaviour 31."""
    async with relay() as rig:
        rig.apply(Pool("p"))
        before = rig.engine.addresses()
        with pytest.raises(EngineError, match="there is no pool q"):
            rig.engine.apply(Snapshot(1000, (Listener("l", Address("127.0.0.1", 0), "q"),), (Pool("p"),)))
        name = Backend("p/a", "a", Address("db.example", 1))
        with pytest.raises(EngineError, match="was not resolved"):
            rig.apply(Pool("p", backends=(name,)))
        assert rig.engine.addresses() == before


async def test_a_listener_moves_to_another_address_and_its_sessions_stay():
    """Behaviour 30, and the old address is free."""
    async with relay() as rig:
        server = rig.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        rig.apply(pool)
        old = Address.parse(rig.engine.addresses()["front"])
        client = await rig.client()
        end = await rig.taken(server)
        rig.apply(pool, bind=Address("127.0.0.2", 0))
        assert rig.engine.addresses()["front"].startswith("127.0.0.2:")
        newcomer = await rig.client()
        await rig.taken(server)
        await rig.send(client, b"still here")
        assert await rig.read(end, 10) == b"still here"
        assert newcomer.getpeername()[0] == "127.0.0.2"

        def is_free() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((old.host, old.port)) == errno.ECONNREFUSED

        await until(is_free)


async def test_a_listener_that_is_in_its_own_way_is_told_so_and_gets_there_in_two_steps():
    """Behaviour 31: the remedy for a port of another program would not help."""
    async with relay() as rig:
        server = rig.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        old = Address("127.0.0.1", free_port())
        rig.apply(pool, bind=old)
        everywhere = Address("0.0.0.0", old.port)
        with pytest.raises(EngineError, match=f"this program listens on {old} until .* with one reload and"):
            rig.apply(pool, bind=everywhere)
        await served(rig, server)
        rig.apply(pool, listeners={})

        def is_free() -> bool:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((everywhere.host, everywhere.port))
                except OSError:
                    return False
            return True

        await until(is_free)
        rig.apply(pool, bind=everywhere)
        await served(rig, server)


async def test_a_listener_gets_another_name_without_a_gap():
    """The socket stays, so nobody who waits in its backlog is reset."""
    async with relay() as rig:
        server = rig.server()
        bind = Address("127.0.0.1", free_port())
        pool = Pool("p", backends=(backend("p", "a", server),))
        rig.apply(pool, bind=bind, listeners={"old": "p"})
        client = await rig.client("old")
        end = await rig.taken(server)
        rig.apply(pool, bind=bind, listeners={"new": "p"})
        for _ in range(50):  # whoever comes while the names change is served, under the one or the other
            newcomer = await rig.client("new")
            await rig.taken(server)
            if rig.engine.statistics().listeners["new"].sessions:
                break
        await rig.send(client, b"still here")
        assert await rig.read(end, 10) == b"still here"
        assert rig.engine.statistics().listeners["new"].sessions == 1
        assert newcomer.getpeername() == (bind.host, bind.port)


def mode_of(path: Path) -> str:
    return f"{path.stat().st_mode & 0o777:04o}"


async def test_a_reload_that_is_refused_lets_nobody_else_in(tmp_path):
    """The file of one listener has its new mode only when all others are in force, too."""
    async with relay() as rig:
        pool = Pool("p", backends=(backend("p", "a", rig.server()),))
        first, second = (Address(path=str(tmp_path / name)) for name in ("first", "second"))

        def put(mode: int, other: Address) -> None:
            listeners = (Listener("one", first, "p", mode=mode), Listener("two", other, "p", mode=0o600))
            rig.engine.apply(Snapshot(mode, listeners=listeners, pools=(pool,)))

        put(0o600, second)
        with pytest.raises(EngineError, match=r"the folder .* does not exist"):
            put(0o666, Address(path=str(tmp_path / "no" / "folder")))
        assert mode_of(Path(first.path)) == "0600"
        put(0o666, second)
        assert mode_of(Path(first.path)) == "0666"


async def test_a_removed_file_holds_up_no_change_and_comes_anew_with_the_new_mode(tmp_path):
    path = tmp_path / "front"
    async with relay() as rig:
        server = rig.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        rig.apply(pool, bind=Address(path=str(path)), mode=0o600)
        path.unlink()
        rig.apply(pool, bind=Address(path=str(path)), mode=0o660, backlog=7)
        await until(path.exists)
        assert mode_of(path) == "0660"
        await rig.engine.sessions()
        await served(rig, server)


async def test_a_file_that_cannot_come_anew_is_told_once_and_comes_when_it_can(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    path, looks = folder / "front", Counter()
    async with relay() as rig:
        server = rig.server()
        rig.apply(Pool("p", backends=(backend("p", "a", server),)), bind=Address(path=str(path)))
        sockets = rig.engine._sockets
        looked = sockets.reopen_lost

        def look():
            looks["all"] += 1
            return looked()

        sockets.reopen_lost = look
        shutil.rmtree(folder)
        await until(lambda: looks["all"] >= 3)
        folder.mkdir()
        await until(path.exists)
        await rig.engine.sessions()
        await served(rig, server)
        lost, found = rig.complaints
        assert lost.startswith(
            f"listener front: cannot listen on unix:{path}: the folder {folder} does not exist; make it. Somebody"
        )
        assert found == f"listener front: somebody had removed {path}; it is there again"


async def test_a_group_that_has_gone_holds_up_no_change_of_the_backends(tmp_path, monkeypatch):
    """Who asks a directory service for groups has none while that is down; a backend that goes down then gets no client."""
    group = grp.getgrgid(os.getgid()).gr_name
    async with relay() as rig:
        server, other = rig.server(), rig.server()
        settings = {"bind": Address(path=str(tmp_path / "front")), "group": group}
        rig.apply(Pool("p", backends=(backend("p", "a", server),)), **settings)
        monkeypatch.setattr(grp, "getgrnam", dict[str, object]().__getitem__)
        rig.apply(Pool("p", backends=(backend("p", "b", other),)), **settings)
        await rig.engine.sessions()
        await served(rig, other)
        with pytest.raises(EngineError, match=f"listener front: there is no group {group}"):
            rig.apply(Pool("p", backends=(backend("p", "b", other),)), **settings, mode=0o660)
