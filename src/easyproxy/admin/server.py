"""The admin server's life: bind, serve inside the running event loop, stop. What it answers is in :mod:`.app`.

The control process must live whatever admin clients do, so everything that they can hold is bounded: connections,
the time to send a request, and the time to take the answer (behaviour 39).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import pwd
import socket
import stat
import struct
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, Self

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from easyproxy.admin.app import create_app
from easyproxy.admin.replies import refusal
from easyproxy.admin.security import allowed_hosts
from easyproxy.admin.stream import Stream
from easyproxy.control.operations import Operations
from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

MAX_CONNECTIONS = 128
PATIENCE_S = 10.0
"""How long a client may take to send a request, to stay idle, or to take up more of an answer."""
_LAST_ANSWERS_S = 1.0
"""How long the last answers may take when the server ends."""
_REQUEST_BYTES = 16 * 1024  # request line and headers
_UNACKNOWLEDGED_MS = (
    30_000  # after so long without an answer a client is gone; one that follows a stream says nothing
)
_BACKLOG = 128


class AdminServer:
    """Serves the admin application on one address, in the event loop that :meth:`start` runs in.

    Args:
        operations: the balancer that it shows and changes.
        bind: a TCP address (port 0 lets the system choose) or a unix socket, which is made with mode 0600.
        token: asked for with every request that tells something; None asks for none.
        hosts: further names that a Host header may carry.
        haproxy_compatible: as :func:`easyproxy.admin.app.create_app` takes it.

    Raises:
        EasyProxyError: an address that other machines reach, without a token (behaviour 36); or an empty token.
    """

    def __init__(
        self,
        operations: Operations,
        bind: Address,
        *,
        token: str | None = None,
        hosts: Iterable[str] = (),
        haproxy_compatible: bool = False,
    ) -> None:
        if token is None and not bind.is_private:
            raise EasyProxyError(
                f"admin.bind: {bind} can be reached by other machines; configure a token, "
                f"or bind to 127.0.0.1:{bind.port} or to unix:/path"
            )
        self.address = bind
        """Where it listens; after :meth:`start` with the port that the system chose."""
        self._stream = Stream(operations)
        self._app = _Ending(
            create_app(
                operations,
                self._stream,
                hosts=allowed_hosts(bind, hosts),
                token=token,
                haproxy_compatible=haproxy_compatible,
            )
        )
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._inode = (0, 0)
        self._socket: socket.socket | None = None

    async def bind(self, given: socket.socket | None = None) -> None:
        """Take the address without serving yet: ``given`` is a socket that a predecessor listens on.

        Raises:
            EasyProxyError: the address is in use, or may not be bound.
        """
        self._socket = given or await _bind(self.address)
        if not self.address.path:
            self.address = Address(self.address.host, self._socket.getsockname()[1])
        elif given is None:
            self._inode = _inode(self.address.path)

    async def start(self) -> None:
        """Bind, if that is still to be done, and serve. Returns when connections are accepted.

        Raises:
            EasyProxyError: the address is in use, or may not be bound.
        """
        if self._socket is None:
            await self.bind()
        sock, self._socket = self._socket, None
        assert sock is not None  # noqa: S101 - bound above
        if self.address.path:
            self._inode = _inode(self.address.path)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=_BoundedProtocol,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,  # what X-Forwarded-For says proves nothing
                server_header=False,
                backlog=1,  # asyncio accepts so many in a row, also while each fails for want of descriptors
                timeout_keep_alive=int(PATIENCE_S),
                timeout_graceful_shutdown=int(2 * _LAST_ANSWERS_S),  # only where our own end of it fails
                h11_max_incomplete_event_size=_REQUEST_BYTES,
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]), name="admin server")
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not up.done():
            up.cancel()
            sock.close()
            await self._task  # raises what went wrong
        else:
            sock.listen(_BACKLOG)

    async def stop(self) -> None:
        """Finish what is being answered (a second at most), close everything. Stopping twice is harmless.

        A stopped server does not start again.
        """
        server, task = self._server, self._task
        self._server = self._task = None
        if self._socket is not None:  # bound, and never started
            self._socket.close()
            self._socket = None
            _remove_own(self.address.path, self._inode)
        if server is None or task is None:
            return
        self._stream.close()
        server.should_exit = True
        # uvicorn would do the same and call it an error.
        late = asyncio.get_running_loop().call_later(_LAST_ANSWERS_S, _cancel_all, server.server_state.tasks)
        await task
        late.cancel()
        server.abort_connections()
        _remove_own(self.address.path, self._inode)

    def descriptor(self) -> int:
        """Return the listening socket's descriptor, for a successor; it stays ours."""
        assert self._server is not None  # noqa: S101 - started
        return int(self._server.servers[0].sockets[0].fileno())

    def leave(self, *, to_successor: bool) -> None:
        """Accept no more; ``to_successor``: it has the address, and the file of a unix socket."""
        if self._server is not None:
            for server in self._server.servers:
                server.close()
        if to_successor:
            self._inode = (0, 0)

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()


def _cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()


class _Server(uvicorn.Server):
    """uvicorn as a guest: the signals belong to the control process."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.up.set()

    def abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Ending:
    """Tells those whose request is not finished when the server ends, which uvicorn does by cancelling them.

    A change that waits behind an upgrade is one of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not has_begun:
                text = "this program has ended before it was done; ask again whether it is"
                await refusal(503, text, headers={"Cache-Control": "no-store"})(scope, receive, send)


class _BoundedProtocol(H11Protocol):
    """One connection that cannot be held for ever.

    uvicorn's own limit answers with 503 but keeps the connection, and its time limit starts after the first answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - passes on what uvicorn gives
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MAX_CONNECTIONS:
            transport.abort()
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock.family == socket.AF_UNIX:
            self.app_state = {**self.app_state, "peer": _peer(sock)}
        elif hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        self._expect_progress()

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves the timer running after an error

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete:
            self._be_patient()  # the whole request is here; it is our turn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_progress()  # of the next request, or of what is still in the buffer

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect_progress()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.cycle is None or self.cycle.response_complete:
            self._expect_progress()
        else:
            self._be_patient()

    def _expect_progress(self) -> None:
        self._be_patient()
        self._deadline = self.loop.call_later(PATIENCE_S, self.transport.abort)

    def _be_patient(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


async def _bind(address: Address) -> socket.socket:
    try:
        return _bind_unix(address.path) if address.path else await _bind_tcp(address)
    except OSError as error:
        remedy = (
            "choose another (admin.bind, or --admin on the command line), or end the program that uses it"
        )
        if error.errno != errno.EADDRINUSE:
            remedy = "check admin.bind"
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise EasyProxyError(f"admin.bind: cannot listen on {address}: {reason}; {remedy}") from error


async def _bind_tcp(address: Address) -> socket.socket:
    if not address.host:
        if not socket.has_dualstack_ipv6():  # a kernel without IPv6
            return socket.create_server(("0.0.0.0", address.port))  # noqa: S104 - that is what ":port" asks for
        return socket.create_server(("::", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = min(found, key=lambda entry: entry[0] != socket.AF_INET)  # localhost has two
    return socket.create_server(where[:2], family=family)  # sets SO_REUSEADDR: a restart need not wait


def _bind_unix(path: str) -> socket.socket:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        # Nobody connects before listen(), so nobody slips in before the mode is right; a umask would be
        # process-wide and not ours to change.
        Path(path).chmod(0o600)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _peer(sock: socket.socket) -> str:
    """Name the user at the other end: root or our own, for nobody else may connect; anybody else is a number."""
    if not hasattr(socket, "SO_PEERCRED"):
        return ""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return _user_name(struct.unpack("3i", credentials)[1])


@functools.cache
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name if uid in {0, os.getuid()} else str(uid)
    except KeyError:
        return str(uid)


def _remove_stale(path: str) -> None:
    """Remove a socket that a killed predecessor left behind; one that answers stays, and binding fails."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()


def _remove_own(path: str, inode: tuple[int, int]) -> None:
    """Remove the socket that we made, but not one that somebody put in its place since."""
    if path and inode != (0, 0) and _inode(path) == inode:
        Path(path).unlink()


def _inode(path: str) -> tuple[int, int]:
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
