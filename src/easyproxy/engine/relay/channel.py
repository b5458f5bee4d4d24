"""The wire between the control process and a worker: JSON frames and descriptors on a unix stream socket.

A frame is four bytes of length and that much JSON; ``"fds": n`` says how many descriptors came with it (unix(7),
SCM_RIGHTS). Both sides are non-blocking: what the peer does not take stays in ``outbox``, bounded by the caller.
Nothing here knows what the frames mean.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from typing import Any

_LENGTH = struct.Struct("!I")
MAX_FRAME = 64 * 1024 * 1024
_FDS_PER_MESSAGE = 64
Frame = dict[str, Any]


class Channel:
    """One end. Owns the socket and every descriptor that arrived and was not yet given out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._inbox = bytearray()
        self._fds: deque[int] = deque()
        self.outbox: deque[tuple[memoryview, list[int]]] = deque()
        self.is_closed = False

    def fileno(self) -> int:
        """Return the descriptor, for a poller."""
        return self._socket.fileno()

    def send(self, frame: Frame, fds: list[int] | None = None) -> None:
        """Queue a frame and send what goes; nothing, when the peer is gone.

        The descriptors are duplicated; the caller keeps its own.
        """
        if self.is_closed:
            return
        fds = fds or []
        if fds:
            frame = {**frame, "fds": len(fds)}
        body = json.dumps(frame, separators=(",", ":")).encode()
        # Duplicated at once, because the caller may close its own before the frame gets its turn.
        self.outbox.append((memoryview(_LENGTH.pack(len(body)) + body), [os.dup(fd) for fd in fds]))
        self.flush()

    def flush(self) -> bool:
        """Send what the peer takes; return whether everything went."""
        while self.outbox and not self.is_closed:
            data, fds = self.outbox[0]
            try:
                # The descriptors travel with the first byte of their frame.
                sent = socket.send_fds(self._socket, [data], fds) if fds else self._socket.send(data)
            except BlockingIOError:
                return False
            except OSError:
                self.is_closed = True
                return True
            for fd in fds:
                os.close(fd)
            if sent < len(data):
                self.outbox[0] = (data[sent:], [])
            else:
                self.outbox.popleft()
        return True

    def receive(self) -> list[tuple[Frame, list[int]]]:
        """Return the frames that have arrived; ``is_closed`` tells when the peer is gone."""
        while True:
            try:
                data, fds, _flags, _address = socket.recv_fds(self._socket, 262144, _FDS_PER_MESSAGE)
            except BlockingIOError:
                break
            except OSError:
                self.is_closed = True
                break
            for fd in fds:  # a program that embeds the balancer may start others (recv_fds takes no flags)
                os.set_inheritable(fd, False)
            self._fds.extend(fds)
            if not data:
                self.is_closed = True
                break
            self._inbox += data
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
            del self._inbox[:end]
            frames.append((frame, [self._fds.popleft() for _ in range(frame.get("fds", 0))]))
        return frames

    def close(self) -> None:
        """Close the socket and the descriptors that nobody took."""
        self.is_closed = True
        while self._fds:
            os.close(self._fds.popleft())
        for _data, fds in self.outbox:
            for fd in fds:
                os.close(fd)
        self.outbox.clear()
        self._socket.close()
