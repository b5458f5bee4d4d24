"""The balancer as what owns everything: its end, and what it does in the background. With traffic: tests/system."""

from __future__ import annotations

import asyncio
import threading

import pytest

from easyproxy import Balancer
from easyproxy.control.events import Kind
from easyproxy.control.failover import Post
from easyproxy.control.operations import Action, Author
from easyproxy.engine.relay import RelayEngine
from easyproxy.errors import EngineError

pytestmark = pytest.mark.anyio

CONFIG = {
    "listeners": [{"bind": "127.0.0.1:0", "pool": "p"}],
    "pools": {"p": {"backends": ["127.0.0.1:1"], "check": {"type": "none"}, "close_sessions_on_down": True}},
}


def is_relaying() -> bool:
    return any(thread.name.startswith("easyproxy-relay") for thread in threading.enumerate())


@pytest.mark.parametrize("trouble", [RuntimeError("the monitor has trouble"), asyncio.CancelledError()])
async def test_it_ends_whole_also_when_a_part_of_it_has_trouble_with_that(monkeypatch, trouble):
    balancer = await Balancer(CONFIG).__aenter__()
    assert is_relaying()

    async def fail():
        raise trouble

    monkeypatch.setattr(balancer._lookout, "stop", fail)
    with pytest.raises(type(trouble)):
        await balancer.stop()
    assert not is_relaying()
    assert balancer.addresses == {}


async def test_work_in_the_background_that_fails_is_logged(caplog):
    async def fail():
        raise KeyError("a mistake")

    async with Balancer(CONFIG) as balancer:
        balancer._spawn(fail())
        while not caplog.records:  # noqa: ASYNC110 - the loop's callbacks do it
            await asyncio.sleep(0)
    [record] = caplog.records
    assert record.message == "work in the background failed"
    assert "KeyError: 'a mistake'" in caplog.text


async def test_an_operator_is_answered_when_the_engine_acts_by_the_change(monkeypatch):
    may_settle, order = asyncio.Event(), []

    async def settled(_engine):
        order.append("asked")
        await may_settle.wait()
        order.append("settled")

    monkeypatch.setattr(RelayEngine, "settled", settled)
    async with Balancer(CONFIG) as balancer:
        asked = asyncio.create_task(balancer.override("p/127.0.0.1:1", Action.DRAIN, Author("ann", "rest")))
        while not order:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert [event.kind for event in balancer.events()] == [Kind.STARTED]
        may_settle.set()
        await asked
        assert order == ["asked", "settled"]
        assert Kind.OVERRIDE_SET in [event.kind for event in balancer.events()]


async def test_sessions_of_a_dead_backend_that_cannot_be_closed_are_told(monkeypatch):
    async def refuse(*_):
        raise EngineError("no answer")

    async with Balancer(CONFIG) as balancer:
        monkeypatch.setattr(balancer.engine, "close_sessions", refuse)
        balancer._dead.add("p/127.0.0.1:1")
        balancer._apply()
        while len(balancer.events()) < 2:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert balancer.events()[-1].text == (
            "p/127.0.0.1:1 is down, and its sessions are still open: no answer"
        )


async def test_who_took_writes_is_forgotten_only_when_the_engine_has_taken_what_is_without_them(monkeypatch):
    def refuse(_snapshot):
        raise EngineError("the address is in use")

    async with Balancer(CONFIG) as balancer:
        balancer._warden.posts["p"] = Post(writers=("p/127.0.0.1:1",))
        with monkeypatch.context() as patch:
            patch.setattr(balancer.engine, "apply", refuse)
            with pytest.raises(EngineError):
                balancer._apply()
        assert set(balancer._warden.posts) == {"p"}
        balancer._apply()
        assert balancer._warden.posts == {}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"ping")
    return await reader.readexactly(4) == b"ping"


async def test_a_unix_socket_whose_file_somebody_has_removed_is_listened_on_anew(tmp_path):
    path = tmp_path / "front.sock"
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        backend = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        config = {
            "listeners": [{"bind": f"unix:{path}", "name": "front", "pool": "p"}],
            "pools": {"p": {"backends": [backend], "check": {"type": "none"}}},
        }
        async with Balancer(config) as balancer:
            standing = await asyncio.open_unix_connection(path)
            assert await echoed(*standing)
            events = balancer.follow_events()
            path.unlink()
            async with asyncio.timeout(30):
                told = await anext(events)
            assert told.text == f"listener front: somebody had removed {path}; it is there again"
            newcomer = await asyncio.open_unix_connection(path)
            assert await echoed(*newcomer)
            assert await echoed(*standing), "sessions that stand are not touched"
            for _, writer in (standing, newcomer):
                writer.close()
                await writer.wait_closed()
        assert not path.exists()
