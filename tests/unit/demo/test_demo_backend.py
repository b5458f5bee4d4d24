from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

import pytest

from easyproxy.demo.backend import Backend, serve
from easyproxy.demo.stage import Stage

pytestmark = pytest.mark.anyio
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Served:
    def __init__(self, port, stop, task):
        self.port, self.stop, self.task = port, stop, task


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    stop = asyncio.Event()
    sock = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(serve(Backend("a"), sock, stop))
    yield Served(sock.getsockname()[1], stop, task)
    stop.set()
    await task


async def answer(reader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(len(b"Hello from backend a\n"))


async def test_it_says_its_name_and_keeps_the_connection(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    for _ in range(3):
        writer.write(GET)
        head, body = await answer(reader)
        assert body == b"Hello from backend a\n"
        assert b"Connection: keep-alive" in head
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nconnection: Close\r\n\r\n"],
    ids=["1.0", "close"],
)
async def test_it_closes_when_the_client_wants_that(served, request_):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(request_)
    assert b"Connection: close" in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_requests_in_one_segment_and_in_many_are_all_answered(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(GET * 5)
    for _ in range(5):
        await answer(reader)
    for byte in GET:
        writer.write(bytes([byte]))
        await writer.drain()
    await answer(reader)
    writer.close()
    await writer.wait_closed()


async def test_a_body_is_read_before_the_answer(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300000 + GET)
    for _ in range(2):
        await answer(reader)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("nonsense", [b"hello\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"])
async def test_nonsense_is_refused(served, nonsense):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(nonsense)
    assert (await reader.read()).startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def test_leaving_answers_the_last_request_of_each_connection_and_closes_it(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(GET)
    await answer(reader)
    served.stop.set()
    await _refused(served.port)
    writer.write(GET)
    head, _ = await answer(reader)
    assert b"Connection: close" in head
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    await served.task


async def _refused(port: int) -> None:
    """Wait until nobody listens any more; each round yields to the server."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        writer.close()
        await writer.wait_closed()


async def test_leaving_serves_who_waits_in_the_backlog(served):
    """Closing a listening socket would reset them."""
    clients = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(20)]
    served.stop.set()  # before the server's loop has run: all twenty wait
    for client in clients:
        client.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(GET)
        await answer(reader)
        writer.close()
        await writer.wait_closed()


async def test_leaving_does_not_wait_for_idle_connections(served):
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(GET)
    await answer(reader)
    served.stop.set()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_killed_backend_returns_on_its_port_with_a_new_process():
    returned: asyncio.Queue = asyncio.Queue()
    async with Stage(["a", "b"], returned.put_nowait, restart_after_s=0.05) as stage:
        first, second = stage.actors
        before = (second.pid, second.port)
        os.kill(second.pid, signal.SIGKILL)
        actor = await returned.get()
        assert actor is second
        assert actor.pid not in {0, before[0]}
        assert actor.port == before[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", first.port)
        writer.write(GET)
        await answer(reader)
        writer.close()
        await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", first.port)


async def test_a_port_that_somebody_takes_meanwhile_is_left_to_him(capfd):
    stage = Stage(["a", "b"], lambda _actor: None)
    wanted = [actor.port for actor in stage.actors]
    with socket.create_server(("127.0.0.1", wanted[0])):
        async with stage:
            got = [actor.port for actor in stage.actors]
            assert wanted[0] not in got
            assert len(set(got)) == 2
            for port in got:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
    said = capfd.readouterr().err
    assert f"demo backend a: cannot listen on 127.0.0.1:{wanted[0]}: Address already in use" in said
    assert "Traceback" not in said


async def test_it_ends_with_the_program_that_started_it():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "easyproxy.demo.backend",
        "a",
        "0",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert int(await process.stdout.readline()) > 0
    process.stdin.close()
    assert await process.wait() == 0
