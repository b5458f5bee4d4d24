"""Pipes for splice(2), pooled. A pipe is leased to one direction only while bytes are in it.

Facts (pipe(7), fcntl(2)): an unprivileged user owns at most ``pipe-user-pages-soft`` pages (16,384); past that new
pipes have one or two pages and F_SETPIPE_SZ fails with EPERM. So the size is read back, a small one is still used,
and when no pipe is to be had at all the direction goes on copying.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES = 256 * 1024
IDLE_PIPES = 32
"""Empty pipes that a worker keeps for the next burst."""


class Pipe:
    """Both ends of one pipe. ``size`` is its nominal capacity, ``held`` the bytes that are in it."""

    __slots__ = ("held", "read_end", "size", "write_end")

    def __init__(self, read_end: int, write_end: int, size: int) -> None:
        self.read_end = read_end
        self.write_end = write_end
        self.size = size
        self.held = 0


class PipePool:
    """Owns every pipe of a worker."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """Lease an empty pipe; None when the system has none to give."""
        if self._idle:
            return self._idle.pop()
        try:
            read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with contextlib.suppress(OSError):
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return Pipe(read_end, write_end, fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ))

    def give(self, pipe: Pipe) -> None:
        """Take a lease back. A pipe that still holds bytes of a broken session is never used again."""
        if pipe.held or len(self._idle) >= IDLE_PIPES:
            os.close(pipe.read_end)
            os.close(pipe.write_end)
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close the idle pipes."""
        while self._idle:
            pipe = self._idle.pop()
            os.close(pipe.read_end)
            os.close(pipe.write_end)
