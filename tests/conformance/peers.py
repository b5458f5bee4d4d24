"""One end of a TCP (or unix) connection that a test plays itself: client side and backend side are the same class.

Raw non-blocking sockets, because asyncio's streams and transports would decide about FIN, RST and buffers on their own.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from typing import Literal, Self

from conformance.observe import DEADLINE_S, eventually
from conformance.streams import CHUNK, Check, Stream

Ending = Literal["fin", "reset"]
Place = tuple[str, int] | str
"""Where to connect: host and port, or the path of a unix socket."""

_LINGER_RESET = struct.pack("ii", 1, 0)
_TCP_FIN_WAIT2 = 5  # include/net/tcp_states.h; tcpi_state is the first byte of struct tcp_info


class Peer:
    """A connected socket with everything a scripted peer does. Owns the socket; ``close`` is idempotent."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.data = bytearray()
        """All that was read by ``read`` and ``read_to_end``, for a look afterwards."""
        self.port = 0
        """The local port, by which the other side knows this peer."""
        self._note_port()

    def _note_port(self) -> None:
        name = self.sock.getsockname()
        self.port = name[1] if isinstance(name, tuple) else 0

    @property
    def is_open(self) -> bool:
        return self.sock.fileno() >= 0

    # Sending

    async def send(self, data: bytes) -> None:
        """Send all of it, waiting as long as the other side makes it wait."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def send_stream(self, stream: Stream) -> None:
        """Send a whole stream. The deadline applies to each chunk: a slow reader is no fault."""
        loop = asyncio.get_running_loop()
        for chunk in stream.chunks():
            async with asyncio.timeout(DEADLINE_S):
                await loop.sock_sendall(self.sock, chunk)

    async def send_until_stalled(self, stream: Stream, stall_s: float = 1.0) -> int:
        """Send until the other side has taken nothing for ``stall_s``, or all is sent; return the bytes sent."""
        sent = 0
        for chunk in stream.chunks():
            left = chunk
            while left:
                try:
                    async with asyncio.timeout(stall_s):
                        done = await self._send_some(left)
                except TimeoutError:
                    return sent
                left = left[done:]
                sent += done
        return sent

    async def _send_some(self, data: memoryview) -> int:
        while True:
            try:
                return self.sock.send(data)
            except BlockingIOError:
                await asyncio.sleep(0.01)

    async def flush(self) -> None:
        """Wait until the other side's kernel has acknowledged all that was sent."""
        await eventually(self.unacknowledged, 0)

    def unacknowledged(self) -> int:
        """Bytes that this kernel still holds for the other side (SIOCOUTQ of tcp(7), the same number as TIOCOUTQ)."""
        return int(struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0])

    async def finish_acknowledged(self) -> None:
        """Send FIN and wait until the other side's kernel has it and all data before it."""
        self.finish()
        await eventually(
            lambda: self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0], _TCP_FIN_WAIT2
        )

    # Receiving

    async def read(self, size: int) -> bytes:
        """Read exactly ``size`` bytes. Raises AssertionError at an earlier end, ConnectionResetError at a reset."""
        loop = asyncio.get_running_loop()
        got = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            while len(got) < size:
                piece = await loop.sock_recv(self.sock, size - len(got))
                assert piece, f"the other side ended after {bytes(got)!r}, {size} bytes were expected"
                got += piece
                self.data += piece
        return bytes(got)

    async def read_to_end(self) -> bytes:
        """Read until FIN. Raises ConnectionResetError at a reset; what came before is in ``data``."""
        loop = asyncio.get_running_loop()
        start = len(self.data)
        async with asyncio.timeout(DEADLINE_S):
            while piece := await loop.sock_recv(self.sock, CHUNK):
                self.data += piece
        return bytes(self.data[start:])

    async def ending(self) -> Ending:
        """Read on until the other side ends and say how."""
        try:
            await self.read_to_end()
        except ConnectionError:  # ECONNRESET, or EPIPE for a reset that follows a FIN
            return "reset"
        return "fin"

    async def receive_stream(self, stream: Stream) -> str:
        """Read exactly a stream, checking every byte; return the SHA-256 of what came."""
        check = Check(stream)
        await self.receive_into(check, stream.size)
        return check.digest()

    async def receive_into(self, check: Check, size: int, pause_s: float = 0.0, piece: int = CHUNK) -> None:
        """Read ``size`` bytes into a check, ``piece`` bytes at most at a time, resting ``pause_s`` in between."""
        loop = asyncio.get_running_loop()
        buffer = memoryview(bytearray(piece))
        while size:
            async with asyncio.timeout(DEADLINE_S):
                length = await loop.sock_recv_into(self.sock, buffer[: min(size, piece)])
            assert length, f"the other side ended at byte {check.received} of {check.stream.size}"
            check.feed(buffer[:length])
            size -= length
            if pause_s:
                await asyncio.sleep(pause_s)

    # Ending

    def finish(self) -> None:
        """Send FIN; reading stays possible."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Send RST and close."""
        if self.is_open:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.close()

    def close(self) -> None:
        """Close as a program does: FIN, or RST where unread data is left."""
        if self.is_open:
            # A script may still wait for this descriptor, whose number the next socket gets.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.sock)
            loop.remove_writer(self.sock)
            self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unconnected(
    place: Place, *, source: tuple[str, int] | None = None, receive_buffer: int = 0, send_buffer: int = 0
) -> Peer:
    """Make the socket for a connection to ``place``; buffers in bytes, 0 is the system's choice."""
    if isinstance(place, str):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    if receive_buffer:  # before connect: the window scale is fixed by the handshake, tcp(7)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    if send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    if source:
        sock.bind(source)
    return Peer(sock)


async def connect(
    place: Place, *, source: tuple[str, int] | None = None, receive_buffer: int = 0, send_buffer: int = 0
) -> Peer:
    """Connect to ``place`` and return the client's end."""
    peer = unconnected(place, source=source, receive_buffer=receive_buffer, send_buffer=send_buffer)
    try:
        await connect_on(peer, place)
    except BaseException:
        peer.close()
        raise
    return peer


async def connect_on(peer: Peer, place: Place) -> None:
    """Connect a socket that was made before."""
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.get_running_loop().sock_connect(peer.sock, place)
    peer._note_port()
