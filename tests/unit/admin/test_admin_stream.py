from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace

import pytest
from admin_client import ask, follow
from admin_scene import Scene

from easyproxy.admin import server as server_module
from easyproxy.admin import stream as stream_module
from easyproxy.admin.server import AdminServer
from easyproxy.admin.stream import Reader, Stream
from easyproxy.control.events import Kind
from easyproxy.control.operations import Author
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
LOOPBACK = Address("127.0.0.1", 0)
TOKEN = "a-long-and-secret-token"  # noqa: S105 - it guards a test


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
async def admin(scene):
    async with AdminServer(scene, LOOPBACK) as server:
        yield server.address


def happen(scene, text):
    scene.happened.add(Kind.TROUBLE, "web/a", text, author=Author("ann"))


async def told(reader, kind):
    """The texts of what waits in a reader."""
    frames = (await reader.next()).decode().split("\n\n")
    return [frame.partition("data: ")[2] for frame in frames if frame.startswith(f"event: {kind}\n")]


async def test_the_status_comes_at_once_as_the_api_gives_it(admin):
    stream = await follow(admin)
    found = await stream.next("status")
    assert json.loads(found["data"]) == (await ask(admin, "/api/status")).json()
    await stream.close()


async def test_an_event_comes_as_it_happens_with_an_id(admin, scene):
    happen(scene, "before")
    stream = await follow(admin)
    await stream.next("status")
    happen(scene, "a line\nand <another>")
    found = await stream.next("event")
    assert json.loads(found["data"]) == (await ask(admin, "/api/events")).json()[-1]
    assert found["id"].startswith("2-")
    await stream.close()


async def test_who_comes_again_gets_what_was_missed(admin, scene):
    stream = await follow(admin)
    happen(scene, "one")
    known = (await stream.next("event"))["id"]
    await stream.close()
    happen(scene, "two")
    happen(scene, "three")
    stream = await follow(admin, Last_Event_ID=known)
    assert [json.loads((await stream.next("event"))["data"])["text"] for _ in "12"] == ["two", "three"]
    await stream.close()


async def test_a_number_alone_is_an_id_too(scene):
    happen(scene, "one")
    happen(scene, "two")
    stream = Stream(scene)
    reader = stream.join("1")
    assert [json.loads(data)["text"] for data in await told(reader, "event")] == ["two"]
    stream.leave(reader)


@pytest.mark.parametrize("last_id", ["1-0", "999-18bcfe56800", "999", "0", "nonsense", "-", "9" * 99])
async def test_after_an_id_of_another_program_everything_that_is_kept_comes(scene, last_id):
    """Ids start anew with the program: one of the last must not hide what happened since."""
    happen(scene, "one")
    stream = Stream(scene)
    reader = stream.join(last_id)
    assert [json.loads(data)["text"] for data in await told(reader, "event")] == ["one"]
    stream.leave(reader)


async def test_a_status_is_sent_when_it_has_changed_and_not_otherwise(scene):
    stream = Stream(scene, interval_s=0.01, keep_alive_s=0.2)
    reader = stream.join()
    assert len(await told(reader, "status")) == 1
    scene.now = replace(scene.now, now=scene.now.now + 1)
    assert await reader.next() == b":\n\n"
    scene.now = replace(scene.now, lost_reports=1)
    assert [json.loads(data)["lost_reports"] for data in await told(reader, "status")] == [1]
    stream.leave(reader)


async def test_who_joins_later_is_told_the_time_of_now(scene):
    stream = Stream(scene, interval_s=0.0)
    first = stream.join()
    scene.now = replace(scene.now, now=scene.now.now + 100)
    second = stream.join()
    assert json.loads((await told(second, "status"))[0])["now"] == scene.now.now
    stream.leave(first)
    stream.leave(second)


async def test_it_is_written_once_for_all_readers(scene, monkeypatch):
    """Behaviour 39: a hundred pages cost what one does."""
    written = []
    frame = stream_module._frame
    monkeypatch.setattr(
        stream_module, "_frame", lambda kind, *rest: (written.append(kind), frame(kind, *rest))[1]
    )
    stream = Stream(scene, interval_s=60)
    readers = [stream.join() for _ in range(stream_module.MAX_STREAMS)]
    await asyncio.sleep(0)  # the one that follows the events has begun
    for reader in readers:
        await told(reader, "status")
    happen(scene, "one")
    for reader in readers:
        assert len(await told(reader, "event")) == 1
    assert written == ["status", "event"]
    for reader in readers:
        stream.leave(reader)


async def test_a_reader_that_is_too_slow_misses_the_oldest_and_holds_one_status():
    """Behaviour 39."""
    reader = Reader(60)
    for number in range(1, stream_module.UNREAD + 11):
        reader.put_event(number, b"event: event\ndata: %d\n\n" % number)
        reader.put_status(b"event: status\ndata: %d\n\n" % number)
    found = (await reader.next()).decode().split("\n\n")
    assert found[0].endswith("data: 11")
    assert found[-2] == f"event: status\ndata: {number}"
    assert len(found) == stream_module.UNREAD + 2


async def test_streams_are_bounded_and_a_place_is_free_again(admin, monkeypatch):
    """Behaviour 39."""
    monkeypatch.setattr(stream_module, "MAX_STREAMS", 2)
    streams = [await follow(admin) for _ in range(2)]
    answer = await ask(admin, "/api/stream")
    assert (answer.status, answer.json()["error"][:16]) == (503, "2 streams are op")
    await streams.pop().close()
    while len(streams) < 2:  # the server has to see the end of the connection first
        with contextlib.suppress(AssertionError):
            streams.append(await follow(admin))
    for stream in streams:
        await stream.close()


async def test_nobody_follows_and_nothing_is_looked_at(scene):
    looked = []
    status = scene.status
    scene.status = lambda: (looked.append(1), status())[1]
    stream = Stream(scene, interval_s=0.0)
    reader = stream.join()
    stream.leave(reader)
    before = len(looked)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(looked) == before
    assert not scene.happened._readers


async def test_a_reader_that_takes_nothing_is_closed(monkeypatch, scene):
    """Behaviour 39."""
    monkeypatch.setattr(server_module, "PATIENCE_S", 0.2)
    scene.happened.add(Kind.TROUBLE, "", "x" * 10_000_000)
    async with AdminServer(scene, LOOPBACK) as server:
        left = asyncio.Event()
        leave = Stream.leave
        monkeypatch.setattr(Stream, "leave", lambda *args: (leave(*args), left.set()))
        stream = await follow(server.address, Last_Event_ID="0-0")
        stream.writer.transport.pause_reading()
        await left.wait()
        assert not server._stream._readers
        stream.writer.transport.abort()


async def test_it_ends_cleanly_when_the_server_stops(scene, caplog):
    server = AdminServer(scene, LOOPBACK)
    await server.start()
    stream = await follow(server.address)
    await stream.next("status")
    happen(scene, "the last")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await server.stop()
    assert json.loads((await stream.next("event"))["data"])["text"] == "the last"
    assert await stream.next() == {}
    await stream.close()
    assert not caplog.records


async def test_it_ends_when_the_balancer_does(admin, scene):
    stream = await follow(admin)
    await stream.next("status")
    scene.happened.close()
    while await stream.next():
        pass
    await stream.close()


async def test_a_mistake_ends_it_and_is_in_the_log(scene, caplog):
    stream = Stream(scene, interval_s=0.0)
    reader = stream.join()
    await reader.next()
    scene.status = None
    assert await reader.next() == b""
    assert "the stream of the admin server failed" in caplog.text
    stream.leave(reader)


async def test_the_token_goes_along_in_a_header():
    async with AdminServer(Scene(), LOOPBACK, token=TOKEN) as server:
        assert (await ask(server.address, "/api/stream")).status == 401
        stream = await follow(server.address, Authorization=f"Bearer {TOKEN}")
        assert await stream.next("status")
        await stream.close()
