"""The wire between the control process and a worker: JSON frames and descriptors on a unix stream socket.

A frame is four bytes of length and that much JSON; ``"fds": n`` says how many descriptors came with it (unix(7),
SCM_RIGHTS), ``"blob": n`` how many bytes follow that are no JSON. Both sides are non-blocking: what the peer does not
take stays in ``outbox``, bounded by the caller. Nothing here knows what the frames mean.

Facts (unix(7)): one message carries at most 253 descriptors (SCM_MAX_FD). Descriptors that the receiver has no room
for are dropped, which only MSG_CTRUNC tells. A user without privileges may have only as many of them under way as one
process may open (ETOOMANYREFS): that passes as they arrive.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections import deque
from typing import Any

_LENGTH = struct.Struct("!I")
MAX_FRAME = 64 * 1024 * 1024
MAX_FDS = 253
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_ROOM = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
Frame = dict[str, Any]


class Channel:
    """One end. Owns the socket and every descriptor that arrived and was not yet given out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._inbox = bytearray()
        self._fds: deque[int] = deque()
        self.outbox: deque[tuple[memoryview, list[int], bool]] = deque()
        self.is_closed = False
        self.is_crowded = False  # too many descriptors are under way; being writable says nothing then
        self.is_truncated = False  # descriptors were lost, and with them what they belonged to

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self._socket.fileno()

    def send(
        self, frame: Frame, fds: list[int] | None = None, blob: bytes = b"", *, are_lent: bool = False
    ) -> None:
        """Queue a frame and send what goes; nothing, when the peer is gone.

        The caller keeps its descriptors. Those that cannot go at once are duplicated, because it may close them before
        the frame gets its turn; ``are_lent`` promises that it does not.

        Raises:
            OSError: the system gives no descriptor to duplicate into; the frame is not sent.
        """
        if self.is_closed:
            return
        fds = fds or []
        if fds:
            frame = {**frame, "fds": len(fds)}
        if blob:
            frame = {**frame, "blob": len(blob)}
        body = json.dumps(frame, separators=(",", ":")).encode()
        data = memoryview(b"".join((_LENGTH.pack(len(body)), body, blob)))
        self.outbox.append((data, fds, True))
        self.flush()
        if self.outbox and self.outbox[-1][1] and not are_lent and not self.is_closed:
            self.outbox.pop()
            self.outbox.append((data, _duplicates(fds), False))

    def flush(self) -> bool:
        """Send what the peer takes; return whether everything went."""
        while self.outbox and not self.is_closed:
            data, fds, are_lent = self.outbox[0]
            try:
                # The descriptors travel with the first byte of their frame.
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except BlockingIOError:
                return False
            except OSError as error:
                self.is_crowded = error.errno == errno.ETOOMANYREFS
                if self.is_crowded:
                    return False
                self.is_closed = True
                return True
            self.is_crowded = False
            if not are_lent:
                for fd in fds:
                    os.close(fd)
            if sent < len(data):
                self.outbox[0] = (data[sent:], [], True)
            else:
                self.outbox.popleft()
        return True

    def receive(self) -> list[tuple[Frame, list[int]]]:
        """Return the frames that have arrived; ``is_closed`` tells when the peer is gone."""
        while True:
            try:
                # Close-on-exec from the beginning: a program that embeds the balancer may start others.
                data, ancillary, flags, _address = self._socket.recvmsg(262144, _ROOM, _CLOEXEC)
            except BlockingIOError:
                break
            except OSError:
                self.is_closed = True
                break
            for level, kind, packed in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    self._fds.extend(_unpack(packed))
            if flags & socket.MSG_CTRUNC:
                self.is_closed = self.is_truncated = True
                break
            if not data:
                self.is_closed = True
                break
            self._inbox += data
        return self._frames()

    def _frames(self) -> list[tuple[Frame, list[int]]]:
        frames: list[tuple[Frame, list[int]]] = []
        while len(self._inbox) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._inbox)
            if length > MAX_FRAME:
                self.is_closed = True
                break
            end = _LENGTH.size + length
            if len(self._inbox) < end:
                break
            try:
                frame: Frame = json.loads(self._inbox[_LENGTH.size : end])
            except ValueError:  # not what our other end writes
                self.is_closed = True
                break
            blob = frame.get("blob", 0)
            if blob:
                if blob > MAX_FRAME:
                    self.is_closed = True
                    break
                if len(self._inbox) < end + blob:
                    break
                frame["blob"] = bytes(self._inbox[end : end + blob])
            count = frame.get("fds", 0)
            if count > len(self._fds):  # lost, or not what our other end writes
                self.is_closed = True
                break
            del self._inbox[: end + blob]
            frames.append((frame, [self._fds.popleft() for _ in range(count)]))
        return frames

    def shut(self) -> None:
        """Let nothing more pass in either direction; what has arrived can still be received.

        Whoever sends from now on finds the peer gone: of two sides that decide at the same time, one is the first
        (Linux, net/unix/af_unix.c: a message is queued, and a shutdown made known, under the receiver's lock).
        """
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and the descriptors that nobody took."""
        self.is_closed = True
        while self._fds:
            os.close(self._fds.popleft())
        for _data, fds, are_lent in self.outbox:
            for fd in () if are_lent else fds:
                os.close(fd)
        self.outbox.clear()
        self._socket.close()


def _duplicates(fds: list[int]) -> list[int]:
    with contextlib.ExitStack() as undo:
        copies: list[int] = []
        for fd in fds:
            copies.append(os.dup(fd))
            undo.callback(os.close, copies[-1])
        undo.pop_all()
        return copies


def _unpack(packed: bytes) -> list[int]:
    fds = array.array("i")
    fds.frombytes(packed[: len(packed) - len(packed) % fds.itemsize])
    if not _CLOEXEC:
        for fd in fds:
            os.set_inheritable(fd, False)
    return list(fds)
