"""Writing the log to whoever reads it slowly: a pager, a terminal that was stopped (Ctrl-S), a log driver that hangs.

A pipe that is full blocks whoever writes to it, and the control process must not stand still for its log.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from typing import TextIO

PIECE = 1000
"""Characters that are written at once: in UTF-8 no more than a pipe takes that can be written to (pipe(7), PIPE_BUF)."""
MOST_WAITING = 10_000
LAST_WORDS_S = 1.0


class PatientHandler(logging.StreamHandler[TextIO]):
    """Writes lines at once where they are taken; what is not waits for a thread, so much of it as MOST_WAITING pieces.

    Further lines are lost, and how many is told in their place.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._waiting: deque[str] = deque()
        self._lost = 0
        self._is_behind = False  # a thread writes what waits

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or let it wait. The handler's lock is held."""
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        try:
            text = self.format(record) + self.terminator
        except Exception:  # noqa: BLE001 - as logging.StreamHandler does
            self.handleError(record)
            return
        if self._lost:
            notice = "%d lines are lost here: nobody has read the log"
            told = logging.LogRecord("easyproxy", logging.WARNING, "", 0, notice, (self._lost,), None)
            text = self.format(told) + self.terminator + text
            self._lost = 0
        self._waiting += [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
        if self._is_behind:
            return
        self._write()
        if self._waiting:
            self._is_behind = True
            threading.Thread(target=self._catch_up, name="easyproxy-log", daemon=True).start()

    def close(self) -> None:
        """Write what waits, if that is taken soon."""
        self._write(LAST_WORDS_S)
        super().close()

    def _write(self, within_s: float = 0.0) -> None:
        deadline = time.monotonic() + within_s
        while self._waiting and self._is_taken(max(0.0, deadline - time.monotonic())):
            try:
                self.stream.write(self._waiting.popleft())
                self.stream.flush()
            except (OSError, ValueError):  # nobody reads it any more, or the disk is full
                pass

    def _catch_up(self) -> None:
        while self._is_behind:
            self._is_taken(None)
            self.acquire()
            try:
                self._write()
                self._is_behind = bool(self._waiting)
            finally:
                self.release()

    def _is_taken(self, within_s: float | None) -> bool:
        try:
            poll = select.poll()
            poll.register(self.stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # it is no file
            return True
        return bool(poll.poll(None if within_s is None else within_s * 1000))
