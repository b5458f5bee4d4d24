"""What the log says about backends and sessions, and how much of it: a flood of broken sessions must not fill a disk.

Uses the standard library's logging under the name ``easyproxy``, so that a program that embeds the balancer decides
where it goes; the command line adds the form.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.control.registry import Change
    from easyproxy.engine.seam import SessionEnd

LINES_PER_SECOND = 20
"""Lines about single sessions; what is more is counted and told in one line."""

log = logging.getLogger("easyproxy")


class Journal:
    """Writes changes of state, each, and session ends, as many as a reader can take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def change(self, change: Change) -> None:
        """Tell that a backend has changed its state."""
        level = logging.WARNING if change.state == "down" else logging.INFO
        log.log(level, "backend %s", change.state, extra={"backend": change.backend, "reason": change.reason})

    def end(self, end: SessionEnd) -> None:
        """Tell how a session broke."""
        if not self._has_room():
            return
        fields = {key: value for key, value in asdict(end).items() if value != ""}
        fields["age_s"] = round(end.age_s, 3)
        log.info("session broke", extra=fields)

    def flush(self) -> None:
        """Begin a new second, and tell how many lines the last one had too many."""
        second = int(self._clock())
        if second == self._second:
            return
        if self._suppressed:
            log.warning("more of the same", extra={"lines_not_shown": self._suppressed})
        self._second, self._lines, self._suppressed = second, 0, 0

    def trouble(self, text: str) -> None:
        """Tell what went wrong in the engine itself."""
        if self._has_room():
            log.error("%s", text)

    def _has_room(self) -> bool:
        self.flush()
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._suppressed += 1
        return self._lines <= LINES_PER_SECOND
