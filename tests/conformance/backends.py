"""Backends that do exactly what a test says: a listening socket, a script per connection, and a record of it all.

A script is a coroutine function over one :class:`Peer`. Without a script the test plays each connection by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from conformance.observe import DEADLINE_S
from conformance.peers import Peer
from easyproxy.model import Address, Backend

Script = Callable[[Peer], Awaitable[None]]


async def echo(peer: Peer) -> None:
    """Return every byte, then FIN for FIN."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while piece := await loop.sock_recv(peer.sock, 65536):
            await loop.sock_sendall(peer.sock, piece)
    peer.close()


def greet(greeting: bytes) -> Script:
    """Speak first, then echo."""

    async def script(peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            await peer.send(greeting)
        await echo(peer)

    return script


def reset_after(size: int) -> Script:
    """Read ``size`` bytes, then reset."""

    async def script(peer: Peer) -> None:
        await peer.read(size)
        peer.reset()

    return script


@dataclass
class ScriptedBackend:
    """A backend under the test's control, listening on a free port of ``host`` or at a unix path.

    Attributes:
        script: what to do with each connection; None leaves it to the test, which gets them from ``taken``.
        connections: every connection ever accepted, in order.
        peak: the most connections that were in the hands of the script at one moment.
        is_accepting: False leaves connections in the kernel's backlog: connected, and silent.
    """

    name: str
    script: Script | None = None
    host: str = "127.0.0.1"
    path: str = ""
    port: int = 0
    is_accepting: bool = True
    connections: list[Peer] = field(default_factory=list)
    peak: int = 0

    def __post_init__(self) -> None:
        self._busy = 0
        self._queue: asyncio.Queue[Peer] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sock = self._bind(1024)
        if self.is_accepting:
            self.accept()

    def _bind(self, backlog: int) -> socket.socket:
        if self.path:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(self.path)
        else:
            sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
            self.port = sock.getsockname()[1]
        sock.listen(backlog)
        sock.setblocking(False)
        return sock

    @property
    def id(self) -> str:
        """The id that :meth:`model` gives it."""
        return f"pool/{self.name}"

    @property
    def address(self) -> Address:
        return Address(path=self.path) if self.path else Address(self.host, self.port)

    def model(self, *, weight: int = 1, max_sessions: int = 0, priority: int = 0) -> Backend:
        """Describe it as a snapshot does."""
        return Backend(self.id, self.name, self.address, weight, max_sessions, priority)

    def accept(self) -> None:
        """Begin to accept."""
        self._start(self._accept())

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self.sock)
            peer = Peer(sock)
            self.connections.append(peer)
            if self.script:
                self._start(self._run(self.script, peer))
            else:
                self._queue.put_nowait(peer)

    async def _run(self, script: Script, peer: Peer) -> None:
        self._busy += 1
        self.peak = max(self.peak, self._busy)
        try:
            with contextlib.suppress(ConnectionError):
                await script(peer)
        finally:
            # In one step with the script's close: the balancer may open the next connection when it sees our FIN.
            self._busy -= 1

    async def taken(self) -> Peer:
        """Wait for the next connection (only without a script)."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._queue.get()

    async def refuse(self) -> None:
        """Stop listening: further connects to its port are refused. Connections stay."""
        await self._end_tasks()
        self.sock.close()

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def stop(self) -> None:
        """Close everything."""
        try:
            await self._end_tasks()
        finally:
            self.sock.close()
            for peer in self.connections:
                peer.close()


class Unreachable(ScriptedBackend):
    """A backend whose backlog is full: the kernel drops further SYNs, so a connect to it stays under way.

    Needs no privileges: with ``listen(0)`` one connection waits, and the next SYN finds the queue full
    (``sk_acceptq_is_full`` compares with "greater than").
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, is_accepting=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sock.listen(0)
        self._filler = socket.create_connection((self.host, self.port))

    def make_reachable(self) -> None:
        """Drain the backlog and accept from now on; a connect under way succeeds with its next SYN (1 s)."""
        filler, _ = self.sock.accept()
        filler.close()
        self._filler.close()
        self.sock.listen(128)
        self.accept()

    async def stop(self) -> None:
        self._filler.close()
        await super().stop()


def refused_address() -> Address:
    """Return an address of this machine where nobody listens (127.0.0.9 is used by nothing else here)."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.9", 0))
        return Address("127.0.0.9", sock.getsockname()[1])
