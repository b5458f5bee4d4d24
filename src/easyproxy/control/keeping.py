"""Keeping overrides over a restart: reads the state file at the start, writes it after every change, and tells trouble.

A change is in force whether it could be written or not; what could not is tried again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from easyproxy.control.events import Kind
from easyproxy.control.state_file import StateFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.control.journal import Journal
    from easyproxy.control.overrides import Overrides
    from easyproxy.control.state_file import StateFile

AGAIN_S = 30.0
"""How long after a failure the state file is tried again."""


class Keeper:
    """Owns the state file. Without one it keeps nothing and says nothing."""

    def __init__(
        self, file: StateFile | None, journal: Journal, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = file
        self._journal = journal
        self._clock = clock
        self._again_at = 0.0  # of the next try after a failure; 0: the last one went well
        self._is_stale = False

    @property
    def is_owing(self) -> bool:
        """Whether something is to be written now that could not be written, or was not, before."""
        return self._is_stale or (bool(self._again_at) and self._clock() >= self._again_at)

    def owe(self) -> None:
        """Note that the file holds something else than what is in force."""
        self._is_stale = self._file is not None

    def read(self) -> Overrides:
        """Return the overrides of the last run; none where they cannot be had, which is told."""
        if self._file is None:
            return ()
        found: Overrides = ()
        try:
            found = self._file.read()
        except StateFileError as error:
            self._journal.tell(Kind.STATE_FILE, str(self._file.path), str(error), level="error")
        if self._file.shortage:
            text = f"overrides will not survive a restart: {self._file.shortage}"
            self._journal.tell(Kind.STATE_FILE, str(self._file.path), text, level="warning")
        return found

    async def save(self, overrides: Overrides) -> str:
        """Write the overrides; when that fails, log it once, and return what whoever made a change ought to know."""
        if self._file is None:
            return ""
        has_failed, self._again_at, self._is_stale = bool(self._again_at), 0.0, False
        path = str(self._file.path)
        try:
            await asyncio.to_thread(self._file.write, overrides)  # fsync(2) may take long
        except StateFileError as error:
            self._again_at = self._clock() + AGAIN_S
            text = f"the change is in force but will not survive a restart: {error}"
            if not has_failed:
                self._journal.tell(Kind.STATE_FILE, path, text, level="warning")
            return text
        if has_failed:
            self._journal.tell(Kind.STATE_FILE, path, "overrides survive a restart again")
        return ""
