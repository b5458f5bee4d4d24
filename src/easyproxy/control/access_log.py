"""The access log: a line for every session, written by a thread, so that a slow disk stops nobody.

The event loop hands batches over and never waits. What the thread cannot write in time, or at all, is lost, counted,
and told in the program's own log; sessions go on. How a line looks is decided in ``access_lines``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import stat
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from easyproxy.control.access_lines import FORMATS
from easyproxy.control.status import AccessLogStatus
from easyproxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.config.schema import Config
    from easyproxy.engine.seam import Ends

MAX_WAITING = 50_000
"""Lines that wait to be written; at 10,000 sessions a second, five seconds of a disk that stands still."""
STOP_WITHIN_S = 3.0
LOOK_EVERY_S = 1.0
_ATOMIC = select.PIPE_BUF
"""A pipe that is ready takes so many bytes at once, and does not mix them with another writer's (pipe(7))."""
_MODE = 0o640
STDOUT = "stdout"


class AccessLog:
    """Writes sessions to one file or to standard output.

    Args:
        path: of the file, or ``stdout``.
        form: ``json`` or ``haproxy``.
        complain: takes a line of text when lines are lost, and when they are written again; in the event loop.

    Attributes:
        lines: written so far.
    """

    def __init__(self, path: str, form: str, complain: Callable[[str], None]) -> None:
        self._path = path
        self._line = FORMATS[form]
        self._complain = complain
        self._news = threading.Condition()
        self._waiting: deque[Ends] = deque()
        self._waiting_lines = 0
        self._must_reopen = False
        self._is_ending = False
        self._has_given_up = False
        self._fd = -1
        self._is_pipe = False
        self._is_torn = False
        self._looked_at = 0.0
        self._error = ""
        self._notice = ""  # why the file could not be opened again
        self._overrun = 0  # lost by the event loop, because too many were waiting
        self._unwritten = 0  # lost by the thread, because writing failed
        self._ended: asyncio.Event | None = None
        self._watch: asyncio.Task[None] | None = None
        self.lines = 0

    @classmethod
    def of(cls, config: Config, complain: Callable[[str], None]) -> AccessLog | None:
        """Make the one that a configuration asks for."""
        asked = config.access_log
        return cls(asked.path, asked.format, complain) if asked is not None else None

    def status(self) -> AccessLogStatus:
        """Where it writes, and how much."""
        return AccessLogStatus(self._path, self.lines, self.lost)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._overrun + self._unwritten

    # -- in the event loop

    def start(self) -> None:
        """Open the file and begin. Raises ConfigError when it cannot be opened."""
        try:
            self._fd = self._open()
        except OSError as error:
            raise ConfigError([Problem("", "access_log.path", self._remedy(error))]) from error
        loop = asyncio.get_running_loop()
        self._ended = ended = asyncio.Event()

        def work() -> None:
            self._run()
            with contextlib.suppress(RuntimeError):  # the loop has not waited
                loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=work, name="easyproxy-access-log", daemon=True).start()
        self._watch = loop.create_task(self._tell_losses())

    def take(self, ends: Ends) -> None:
        """Have these written; never waits."""
        count = len(ends)
        with self._news:
            if self._waiting_lines + count > MAX_WAITING or self._is_ending:
                self._overrun += count
                return
            self._waiting.append(ends)
            self._waiting_lines += count
            self._news.notify()

    def reopen(self) -> None:
        """Go on in a new file: the old one was moved away."""
        with self._news:
            self._must_reopen = True
            self._news.notify()

    async def stop(self) -> None:
        """Write what is left, and close; what cannot be written soon is lost."""
        if self._watch is None or self._ended is None:
            return
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        self._watch = None
        with self._news:
            self._is_ending = True
            self._news.notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WITHIN_S):
                await self._ended.wait()
        with self._news:
            self._has_given_up = True
            left, self._waiting_lines = self._waiting_lines, 0
            self._waiting.clear()
            self._overrun += left
        if left:
            self._complain(f"access log: {self._path} takes nothing; {left} lines are lost at the end")

    async def _tell_losses(self) -> None:
        """Say once that lines are being lost, and once how many it were; and when no new file can be opened."""
        before = told = lines = 0
        notice = ""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._notice != notice:
                notice = self._notice
                if notice:
                    self._complain(f"access log: it goes on in the file that was moved: {notice}")
            now, lines_before, lines = self.lost, lines, self.lines
            if now > before and before == told:
                why = self._error or "it takes lines more slowly than sessions end"
                self._complain(f"access log: lines are lost: {self._path}: {why}")
            elif now == before != told and lines > lines_before:
                self._complain(f"access log: {self._path} is written again; {now - told} lines were lost")
                told = now
            before = now

    # -- the file

    def _open(self) -> int:
        if self._path == STDOUT:
            fd = os.dup(1)
        else:
            try:
                is_fifo = stat.S_ISFIFO(os.stat(self._path).st_mode)  # noqa: PTH116
            except FileNotFoundError:
                is_fifo = False
            # fifo(7): opened for both, it waits for no reader, and one that leaves is no error.
            mode = os.O_RDWR if is_fifo else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            fd = os.open(self._path, mode | os.O_CLOEXEC | os.O_NOCTTY, _MODE)
        self._is_pipe = not stat.S_ISREG(os.fstat(fd).st_mode)
        return fd

    def _remedy(self, error: OSError) -> str:
        folder = os.path.dirname(self._path)  # noqa: PTH120
        if isinstance(error, FileNotFoundError):
            return f"there is no directory {folder}; create it, writable for the user that easyproxy runs as"
        if isinstance(error, PermissionError):
            return f"{self._path} may not be written by user {os.geteuid()}; change its owner, or that of {folder}"
        if isinstance(error, IsADirectoryError):
            return f"{self._path} is a directory; name a file in it"
        return f"{self._path} cannot be opened: {error.strerror}"

    # -- in the thread

    def _run(self) -> None:
        while True:
            with self._news:
                while not (self._waiting or self._must_reopen or self._is_ending):
                    self._news.wait()
                ends = self._waiting.popleft() if self._waiting else None
                must_reopen, self._must_reopen = self._must_reopen, False
                is_done = self._is_ending and ends is None  # from then on nothing is taken any more
            if must_reopen or self._was_moved():
                self._reopen()
            if ends is not None:
                written = self._write_here_or_there([self._line(end).encode() for end in ends])
                with self._news:
                    self.lines += written
                    if self._has_given_up:  # all of these were counted as lost meanwhile
                        self._overrun -= written
                        break
                    self._unwritten += len(ends) - written
                    self._waiting_lines -= len(ends)
            elif is_done:
                break
        os.close(self._fd)

    def _was_moved(self) -> bool:
        now = time.monotonic()
        if self._path == STDOUT or now < self._looked_at + LOOK_EVERY_S:
            return False
        self._looked_at = now
        try:
            there = os.stat(self._path)  # noqa: PTH116
        except OSError:
            return True
        here = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _reopen(self) -> None:
        if self._path == STDOUT:
            return
        try:
            fd = self._open()
        except OSError as error:
            self._notice = self._remedy(error)  # the old file is better than none
            return
        os.close(self._fd)
        self._fd, self._is_torn, self._notice = fd, False, ""

    def _write_here_or_there(self, lines: list[bytes]) -> int:
        """Write lines; go on in a new file where a pipe that nobody reads is left for it. Return how many."""
        written = self._write(lines)
        while written < len(lines) and self._must_reopen and not self._has_given_up:
            self._must_reopen = False
            self._reopen()
            written += self._write(lines[written:])
        return written

    def _write(self, lines: list[bytes]) -> int:
        """Write lines, as many as go; return how many."""
        done = 0
        while done < len(lines):
            until = self._portion(lines, done)
            before = b"\n" if self._is_torn else b""
            data = before + b"".join(lines[done:until])
            written = self._write_all(data)
            if written == len(data):
                self._is_torn, self._error = False, ""
                done = until
                continue
            written -= len(before)
            if written < 0:
                break
            while written >= len(lines[done]):
                written -= len(lines[done])
                done += 1
            self._is_torn = written > 0  # then the next line must not begin in the middle of this one
            break
        return done

    def _portion(self, lines: list[bytes], done: int) -> int:
        if not self._is_pipe:
            return len(lines)
        size, until = len(lines[done]), done + 1
        while until < len(lines) and size + len(lines[until]) < _ATOMIC:
            size += len(lines[until])
            until += 1
        return until

    def _write_all(self, data: bytes) -> int:
        """Write all of it; return how much was written, which is less when it failed."""
        written = 0
        while written < len(data):
            if self._is_pipe and not self._is_ready():
                self._error = "nobody reads it"
                return written
            try:
                written += os.write(
                    self._fd, data[written : written + _ATOMIC] if self._is_pipe else data[written:]
                )
            except BlockingIOError:
                continue  # somebody else has made the standard output non-blocking
            except OSError as error:
                self._error = error.strerror or str(error)
                return written
        return written

    def _is_ready(self) -> bool:
        """Wait until a pipe takes something; false when the end does not wait any longer, or another file is asked for."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while not (self._has_given_up or self._must_reopen):
            with contextlib.suppress(InterruptedError):
                if poll.poll(100):
                    return True
        return False
