"""A small web server that says which backend it is. Run as ``python -m easyproxy.demo.backend NAME PORT``.

It serves a few thousand requests a second with keep-alive and without, and leaves politely: on SIGTERM it takes no
new connections, finishes the requests in flight and says ``Connection: close`` with every last answer. It ends, too,
when its standard input does, so it never outlives the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys

_LINGER_S = 0.5
"""How long an idle keep-alive connection may still bring a request after SIGTERM."""
_HEAD_BYTES = 16 * 1024


class Backend:
    """What all connections of one server share."""

    def __init__(self, name: str) -> None:
        self.body = f"Hello from backend {name}\n".encode()
        self.name = name
        self.connections: set[Connection] = set()
        self.leaving = False
        self._closed_one = asyncio.Event()

    def forget(self, connection: Connection) -> None:
        """A connection has closed."""
        self.connections.discard(connection)
        self._closed_one.set()

    async def emptied(self) -> None:
        """Wait until no connection is left."""
        while self.connections:
            self._closed_one.clear()
            await self._closed_one.wait()

    def answer(self, *, method: bytes, close: bool) -> bytes:
        """Render the one answer that there is."""
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(self.body)}\r\n"
            f"X-Backend: {self.name}\r\nConnection: {'close' if close else 'keep-alive'}\r\n\r\n"
        )
        return head.encode() + (b"" if method == b"HEAD" else self.body)


class Connection(asyncio.Protocol):
    """One client connection: reads requests, skips their bodies, answers each."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._received = b""
        self._skip = 0  # bytes of a request body that are still to come
        self._pending = b""  # the answer that waits for the end of that body
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what asyncio gives for a stream
        self._transport = transport
        self._backend.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget it."""
        self._backend.forget(self)

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        self._received += data
        while (
            self._transport is not None and not self._transport.is_closing() and self._step(self._transport)
        ):
            pass

    def leave(self) -> None:
        """Close, or break off where a request is half here."""
        if self._transport is None:
            return
        if self._received or self._skip:
            self._transport.abort()
        else:
            self._transport.close()

    def _step(self, transport: asyncio.Transport) -> bool:
        """Take one thing from what was received; return whether there may be more."""
        if self._skip:
            taken = min(self._skip, len(self._received))
            self._received, self._skip = self._received[taken:], self._skip - taken
            if self._skip:
                return False
            self._send(transport, self._pending)
            return bool(self._received)
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if not end:
            if len(self._received) > _HEAD_BYTES:
                transport.abort()
            return False
        self._received = rest
        request = parse_head(head)
        if request is None:
            transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            transport.close()
            return False
        method, length, keep_alive = request
        answer = self._backend.answer(method=method, close=self._backend.leaving or not keep_alive)
        if length:
            self._skip, self._pending = length, answer
        else:
            self._send(transport, answer)
        return True

    def _send(self, transport: asyncio.Transport, answer: bytes) -> None:
        transport.write(answer)
        if b"\r\nConnection: close\r\n" in answer:
            transport.close()  # after what was written


def parse_head(head: bytes) -> tuple[bytes, int, bool] | None:
    """Read method, body length and whether the connection goes on; None when it is no request that we take.

    >>> parse_head(b"GET / HTTP/1.1"), parse_head(b"GET / HTTP/1.0"), parse_head(b"nonsense")
    ((b'GET', 0, True), (b'GET', 0, False), None)
    """
    first, *lines = head.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return None
    length, keep_alive = 0, parts[2] != b"HTTP/1.0"
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip().lower()
        if name == b"content-length":
            if not value.isdigit():
                return None
            length = int(value)
        elif name == b"transfer-encoding":
            return None
        elif name == b"connection":
            keep_alive = value == b"keep-alive" or (keep_alive and value != b"close")
    return parts[0], length, keep_alive


async def serve(backend: Backend, sock: socket.socket, stop: asyncio.Event) -> None:
    """Serve on a bound socket until ``stop`` is set, then leave politely. Closes the socket."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    server = await loop.create_server(lambda: Connection(backend), sock=sock, backlog=1024)
    await stop.wait()
    backend.leaving = True
    # Closing a listening socket resets the connections that wait in its backlog: take them first.
    with contextlib.suppress(BlockingIOError):
        while True:
            client, _ = sock.accept()
            await loop.connect_accepted_socket(lambda: Connection(backend), client)
    server.close()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await backend.emptied()
    for connection in list(backend.connections):
        connection.leave()
    await asyncio.sleep(0)


async def _main(name: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        sock = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        sys.exit(f"demo backend {name}: cannot listen on 127.0.0.1:{port}: {os.strerror(error.errno or 0)}")
    print(sock.getsockname()[1], flush=True)  # noqa: T201 - how the demo learns that it serves

    def on_input() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, on_input)
    await serve(Backend(name), sock, stop)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2])))
