"""Frames and descriptors between two control processes, with a time limit on every wait.

The frames travel in the engine's channel, which knows nothing of what they mean; what they mean is :mod:`.upgrade`'s.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from typing import Any

from easyproxy.engine.relay.channel import Channel
from easyproxy.errors import EasyProxyError

Frame = dict[str, Any]


class WireError(EasyProxyError):
    """The other side is gone, silent for too long, says that it has failed, or says what was not expected."""


class Wire:
    """One end. Owns the socket and every descriptor that has come and was not taken. Belongs to one event loop."""

    def __init__(self, sock: socket.socket, peer: str) -> None:
        self._channel = Channel(sock)
        self._peer = peer
        self._frames: deque[tuple[Frame, list[int]]] = deque()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._is_open = True
        self._loop.add_reader(self._channel.fileno(), self._readable)

    def _readable(self) -> None:
        self._frames.extend(self._channel.receive())
        self._news.set()
        if self._channel.is_closed:
            self._loop.remove_reader(self._channel.fileno())

    def send(self, frame: Frame, fds: list[int] | None = None) -> None:
        """Queue a frame; the descriptors are duplicated."""
        self._channel.send(frame, fds)
        if self._channel.outbox and not self._channel.is_closed:
            self._loop.add_writer(self._channel.fileno(), self._flush)

    def _flush(self) -> None:
        if self._channel.flush():
            self._loop.remove_writer(self._channel.fileno())

    async def receive(self, within_s: float) -> tuple[Frame, list[int]]:
        """Return the next frame and its descriptors, which are the caller's.

        Raises:
            WireError: there will be none.
        """
        try:
            async with asyncio.timeout(within_s):
                while not self._frames:
                    if self._channel.is_closed:
                        raise WireError(f"{self._peer} has ended")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise WireError(f"{self._peer} has not answered within {within_s:g} s") from None
        frame, fds = self._frames.popleft()
        if frame.get("op") == "failed":
            raise WireError(str(frame.get("why", "it has failed")))
        return frame, fds

    async def expect(self, op: str, within_s: float) -> Frame:
        """Return the next frame, which must be this one, without descriptors."""
        frame, fds = await self.receive(within_s)
        if frame.get("op") != op or fds:
            for fd in fds:
                os.close(fd)
            raise WireError(f"{self._peer} says {frame.get('op')!r} where {op!r} was expected")
        return frame

    async def ended(self, within_s: float) -> bool:
        """Wait until the other side has gone; return whether it has."""
        try:
            async with asyncio.timeout(within_s):
                while not self._channel.is_closed:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Close it, with every descriptor that nobody has taken."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        while self._frames:
            for fd in self._frames.popleft()[1]:
                os.close(fd)
        self._channel.close()
