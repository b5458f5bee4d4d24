"""A relay engine in a thread or in processes, with plain sockets around it, for claims that need real traffic."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Callable

from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.seam import Report
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

LOOPBACK = Address("127.0.0.1", 0)
_versions = itertools.count(1)


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as it holds; the test's time limit is the only other end."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for is seen, not signalled
            await asyncio.sleep(0.005)


class Rig:
    """An engine with what it reported, and sockets that are closed with it."""

    def __init__(self, stack: contextlib.ExitStack, **options) -> None:
        self.reports: list[Report] = []
        self.complaints: list[str] = []
        self.engine = RelayEngine(complain=self.complaints.append, **options)
        self._stack = stack
        self._loop = asyncio.get_running_loop()

    def server(self, *, family: int = socket.AF_INET, where: object = ("127.0.0.1", 0)) -> socket.socket:
        """Listen as a backend does."""
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(64)
        return sock

    async def taken(self, server: socket.socket, within_s: float | None = 20) -> socket.socket:
        """Accept the next session at a backend."""
        async with asyncio.timeout(within_s):
            sock, _ = await self._loop.sock_accept(server)
        return self._stack.enter_context(sock)

    async def client(self, listener: str = "front") -> socket.socket:
        """Connect to a listener."""
        address = Address.parse(self.engine.addresses()[listener])
        family = socket.AF_UNIX if address.path else socket.AF_INET
        sock = self._stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setblocking(False)
        await self._loop.sock_connect(sock, address.path or (address.host, address.port))
        return sock

    async def read(self, sock: socket.socket, count: int = -1) -> bytes:
        """Read so many bytes, or all until the end."""
        data = bytearray()
        async with asyncio.timeout(20):
            while count < 0 or len(data) < count:
                part = await self._loop.sock_recv(sock, 65536 if count < 0 else count - len(data))
                if not part:
                    break
                data += part
        return bytes(data)

    async def send(self, sock: socket.socket, data: bytes) -> None:
        """Send all of it."""
        async with asyncio.timeout(20):
            await self._loop.sock_sendall(sock, data)

    def apply(self, *pools: Pool, listeners: dict[str, str] | None = None, **settings) -> None:
        """Put pools in force, with listeners (name: pool; by default front before the first one)."""
        bind = settings.pop("bind", LOOPBACK)
        places = listeners if listeners is not None else {"front": pools[0].name}
        self.engine.apply(
            Snapshot(
                next(_versions),
                listeners=tuple(Listener(name, bind, pool, **settings) for name, pool in places.items()),
                pools=pools,
            )
        )

    @property
    def sessions(self) -> int:
        """How many sessions there are by the counters."""
        return sum(item.sessions for item in self.engine.statistics().listeners.values())


def backend(pool: str, name: str, server: socket.socket, **settings) -> Backend:
    """Describe a listening socket as a backend."""
    where = server.getsockname()
    address = Address(path=where) if isinstance(where, str) else Address(where[0], where[1])
    return Backend(f"{pool}/{name}", name, address, **settings)


@contextlib.asynccontextmanager
async def relay(**options) -> AsyncIterator[Rig]:
    """Start an engine: one worker in a thread unless told otherwise."""
    with contextlib.ExitStack() as stack:
        rig = Rig(stack, **({"workers": 1, "processes": False} | options))
        try:
            await rig.engine.start(rig.reports.append)
            yield rig
        finally:
            await rig.engine.stop()
