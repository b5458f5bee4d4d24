"""Readiness, in two forms with one face: edge-triggered epoll, and ``selectors`` wherever there is no epoll.

Facts (epoll(7)): with EPOLLET one registration per socket is enough for its whole life; an event may be reported once
for several causes, and a stale one may come for a socket closed in the same batch, so a handler treats it as a hint.
EPOLLRDHUP says that the peer's FIN has arrived, which means that every byte before it is already readable here.

The level-triggered form has no memory of edges: it must be told after each event what a session waits for, or it
would report a blocked peer for ever. ``want`` is for that, and is empty for epoll.
"""

from __future__ import annotations

import select
import selectors
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

# The bits of epoll(7), spelled out because ``select`` lacks the names where there is no epoll.
IN = 0x001
PRI = 0x002
OUT = 0x004
ERR = 0x008
HUP = 0x010
RDHUP = 0x2000
EXCLUSIVE = 1 << 28
EDGE = 1 << 31
STREAM = IN | PRI | OUT | RDHUP | EDGE
"""What a session's socket is registered for, once."""

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
"""What a level-triggered poller is told to wait for."""

MAX_EVENTS = 512


class Poller(Protocol):
    """What a worker needs of the system's readiness interface."""

    @property
    def watch(self) -> Callable[[int, int], None]:
        """Watch one side of a session, for the bits of ``STREAM``."""

    def add(self, fd: int, *, writable: bool = False, shared: bool = False) -> None:
        """Watch a listening socket or the channel, level-triggered; ``shared`` wakes one of several workers."""

    def remove(self, fd: int) -> None:
        """Stop watching a socket that stays open."""

    def forget(self, fd: int) -> None:
        """Note that a stream is about to be closed (epoll needs no call: close(2) removes it)."""

    @property
    def poll(self) -> Callable[[float, int], list[tuple[int, int]]]:
        """Wait at most so many seconds; return at most so many pairs of descriptor and bits."""

    def want(self, fd: int, events: int) -> None:
        """Watch one side of a session for exactly these: bits of ``READ`` and ``WRITE``."""

    def close(self) -> None:
        """Release the descriptor."""


class EdgePoller:
    """epoll, edge-triggered for streams."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        # Called twice in every session's life, and once for every batch of events: nothing stands in between.
        self.watch: Callable[[int, int], None] = self._epoll.register
        self.poll: Callable[[float, int], list[tuple[int, int]]] = self._epoll.poll

    def fileno(self) -> int:
        """Return its descriptor, which is readable while there are events."""
        return self._epoll.fileno()

    def add(self, fd: int, *, writable: bool = False, shared: bool = False) -> None:
        """Watch a listening socket or the channel."""
        bits = IN | (OUT if writable else 0) | (EXCLUSIVE if shared else 0)
        try:
            self.watch(fd, bits)
        except FileExistsError:
            self._epoll.modify(fd, bits)

    def remove(self, fd: int) -> None:
        """Stop watching."""
        self._epoll.unregister(fd)

    def forget(self, fd: int) -> None:
        """Nothing to do."""

    def want(self, fd: int, events: int) -> None:
        """Nothing to do: edges are remembered by the flows."""

    def close(self) -> None:
        """Close the epoll descriptor."""
        self._epoll.close()


class LevelPoller:
    """``selectors``: kqueue on macOS, poll or select elsewhere."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._interest: dict[int, int] = {}

    def watch(self, fd: int, _bits: int) -> None:
        """Watch one side of a session for everything, until the session is known better."""
        self.want(fd, READ | WRITE)

    def add(self, fd: int, *, writable: bool = False, shared: bool = False) -> None:  # noqa: ARG002 - no such notion
        """Watch a listening socket or the channel."""
        self.want(fd, READ | (WRITE if writable else 0))

    def remove(self, fd: int) -> None:
        """Stop watching."""
        self.want(fd, 0)

    def forget(self, fd: int) -> None:
        """Stop watching a stream before it is closed."""
        self.want(fd, 0)

    def poll(self, timeout: float, _limit: int) -> list[tuple[int, int]]:
        """Wait."""
        ready = self._selector.select(timeout)
        return [
            (
                key.fd,
                (IN if events & READ else 0) | (OUT if events & WRITE else 0),
            )
            for key, events in ready
        ]

    def want(self, fd: int, events: int) -> None:
        """Watch exactly that; nothing is the end of it."""
        known = self._interest.get(fd, 0)
        if events == known:
            return
        if not events:
            self._selector.unregister(fd)
            del self._interest[fd]
            return
        if known:
            self._selector.modify(fd, events)
        else:
            self._selector.register(fd, events)
        self._interest[fd] = events

    def close(self) -> None:
        """Close the selector."""
        self._selector.close()


def has_epoll() -> bool:
    """Whether this platform offers what the edge-triggered path needs."""
    return hasattr(select, "epoll")
