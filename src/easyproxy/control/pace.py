"""Puts changes in force together, so that putting them in force leaves half of the control process to everything else.

A snapshot is composed and sent as a whole. With n backends that change one by one (all of them at the start, a rack that loses its
power) that would be n snapshots of n backends.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from easyproxy.control.journal import log

if TYPE_CHECKING:
    from collections.abc import Callable


class Pace:
    """Calls ``apply`` at once, or, if it has just been called, when as much time has passed as that call took.

    So a change waits for the former ones no longer than one ``apply`` takes, however many there are.

    Args:
        apply: puts in force what is known; must not be a coroutine.
        clock: seconds of a monotonic clock.
        later: calls a function in so many seconds; None is the running event loop's.
    """

    def __init__(
        self,
        apply: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle] | None = None,
    ) -> None:
        self._apply = apply
        self._clock = clock
        self._later = later
        self._free_at = 0.0
        self._pending: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Put in force what has changed, together with what else changes until then. Raises what ``apply`` raises, if at once."""
        if self._pending is not None:
            return
        rest = self._free_at - self._clock()
        if rest <= 0:
            self.now()
        else:
            later = self._later or asyncio.get_running_loop().call_later
            self._pending = later(rest, self._due)

    def now(self) -> None:
        """Put everything in force at once; nothing is left to do later. Raises what ``apply`` raises."""
        self.cancel()
        begun = self._clock()
        try:
            self._apply()
        finally:
            now = self._clock()
            self._free_at = now + (now - begun)

    def cancel(self) -> None:
        """Forget what was to be done later."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _due(self) -> None:
        try:
            self.now()
        except Exception:  # noqa: BLE001 - whatever it was, the next change tries again
            log.exception("what has changed could not be put in force")
