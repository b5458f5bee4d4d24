"""Thousands of clients and their backend in a process of their own, so that a test can measure the engine alone.

Run as a program it obeys commands, one JSON object per line on stdin, and answers each with one on stdout.
:class:`Crowd` is the test's handle on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import resource
import socket
import struct
import sys
import threading
from typing import Any, Self

_LINGER_RESET = struct.pack("ii", 1, 0)
_WIDTH = 64
"""Connects under way at the same time."""


class Crowd:
    """The test's side: start the process, give it commands. Use it as an async context manager."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def _do(self, command: str, **arguments: Any) -> Any:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
        async with asyncio.timeout(120):
            answer = await self._process.stdout.readline()
        assert answer, f"the crowd died at {command}"
        return json.loads(answer)["result"]

    async def backend(self) -> int:
        """Start an echoing backend on 127.0.0.1 and return its port."""
        return int(await self._do("backend"))

    async def backend_connections(self) -> int:
        """Count the connections that the backend has right now."""
        return int(await self._do("backend_connections"))

    async def enter(self, place: tuple[str, int] | str, count: int) -> None:
        """Open sessions, each proved by one byte there and back, and keep them."""
        assert await self._do("enter", place=place, count=count) == count

    async def chatter(self, per_second: int) -> None:
        """From now on send a byte on one session after the other."""
        await self._do("chatter", per_second=per_second)

    async def leave(self) -> None:
        """Close all sessions: FIN and RST in turn."""
        await self._do("leave")

    async def come_and_go(self, place: tuple[str, int] | str, count: int) -> None:
        """Connect and close at once, ``count`` times, with FIN and RST in turn."""
        assert await self._do("come_and_go", place=place, count=count) == count


class _Echo(asyncio.Protocol):
    live = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        type(self).live += 1

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        type(self).live -= 1


def _close(sock: socket.socket, how: int) -> None:
    if how % 2:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    sock.close()


class _Members:
    """The commands, run in the loop of the crowd's process."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self.servers: list[asyncio.Server] = []
        self.chatting: asyncio.Task[None] | None = None

    async def backend(self) -> int:
        server = await asyncio.get_running_loop().create_server(_Echo, "127.0.0.1", 0, backlog=4096)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def backend_connections(self) -> int:
        return _Echo.live

    async def _in_parallel(self, count: int, one: Any) -> int:
        numbers = iter(range(count))

        async def work() -> int:
            done = 0
            for number in numbers:
                await one(number)
                done += 1
            return done

        return sum(await asyncio.gather(*(work() for _ in range(_WIDTH))))

    async def enter(self, place: list[Any], count: int) -> int:
        loop = asyncio.get_running_loop()

        async def one(_: int) -> None:
            sock = socket.socket()
            sock.setblocking(False)
            self.clients.append(sock)
            await loop.sock_connect(sock, tuple(place))
            await loop.sock_sendall(sock, b"?")
            assert await loop.sock_recv(sock, 1) == b"?"

        return await self._in_parallel(count, one)

    async def come_and_go(self, place: list[Any], count: int) -> int:
        loop = asyncio.get_running_loop()

        async def one(number: int) -> None:
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, tuple(place))
            _close(sock, number)

        return await self._in_parallel(count, one)

    async def chatter(self, per_second: int) -> None:
        async def chat() -> None:
            for sock in itertools.cycle(self.clients):
                sock.send(b".")
                with contextlib.suppress(BlockingIOError):
                    sock.recv(4096)
                await asyncio.sleep(1 / per_second)

        self.chatting = asyncio.create_task(chat())

    async def leave(self) -> None:
        if self.chatting:
            self.chatting.cancel()
            self.chatting = None
        for number, sock in enumerate(self.clients):
            _close(sock, number)
        self.clients.clear()


def _main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    members = _Members()
    for line in sys.stdin:
        arguments = json.loads(line)
        work = getattr(members, arguments.pop("command"))(**arguments)
        result = asyncio.run_coroutine_threadsafe(work, loop).result()
        sys.stdout.write(json.dumps({"result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
