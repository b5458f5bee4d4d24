"""Puts changes in force together, so that putting them in force leaves half of the control process to everything else.

A snapshot is composed and sent as a whole. With n backends that change one by one (all of them at the start, a rack that loses its
power) that would be n snapshots of n backends.

What could not be put in force (the system gives no descriptor, nft fails) is tried again by itself: the next change may be long in coming.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from easyproxy.control.journal import log

if TYPE_CHECKING:
    from collections.abc import Callable

AGAIN_S = 1.0
"""After so long, what could not be put in force is tried again."""


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
        self._has_failed = False  # and that was told

    def soon(self) -> None:
        """Put in force what has changed, together with what else changes until then. What fails is logged, and tried again."""
        if self._pending is not None:
            return
        rest = self._free_at - self._clock()
        if rest <= 0:
            self.persist()
        else:
            self._call_later(rest)

    def persist(self) -> None:
        """Put everything in force at once. What fails is logged, and tried again until it succeeds."""
        try:
            self.now()
        except Exception:  # noqa: BLE001 - whatever it was, it may go well the next time
            if not self._has_failed:
                log.exception("what has changed could not be put in force; it is tried again")
            self._has_failed = True
            if self._pending is None:
                self._call_later(AGAIN_S)

    def now(self) -> None:
        """Put everything in force at once; nothing is left to do later.

        Raises what ``apply`` raises. What the caller does about that is his; what waited before him still comes.
        """
        is_owed = self._pending is not None
        self.cancel()
        begun = self._clock()
        try:
            self._apply()
            self._has_failed = False
        except BaseException:
            if is_owed:
                self._call_later(AGAIN_S)
            raise
        finally:
            now = self._clock()
            self._free_at = now + (now - begun)

    def cancel(self) -> None:
        """Forget what was to be done later."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def _call_later(self, seconds: float) -> None:
        later = self._later or asyncio.get_running_loop().call_later
        self._pending = later(seconds, self._due)

    def _due(self) -> None:
        self._pending = None
        self.persist()
