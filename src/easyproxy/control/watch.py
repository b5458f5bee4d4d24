"""Noticing that the configuration's file has changed, however it is changed. A look each second; judges no content.

Content decides, not times: an editor's rename, ``touch``, ``cp`` and a Kubernetes ConfigMap (whose ``..data`` link is
swapped for another folder) all come down to "reading the path gives another text". Watching the path with inotify
would miss the swap, and NFS. A text counts when two looks in a row have found the same one, so that a file that is
still being written does not; one that is wrong then is told once.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from easyproxy.config.load import Source, read_source
from easyproxy.control.operations import Author
from easyproxy.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.control.reloading import Reloading

LOOK_EVERY_S = 1.0
AUTHOR = Author("watch", "the file has changed")

Found = Source | ConfigError
"""What a look has found: a text, or why there is none."""

Mark = tuple[int, ...] | None
"""What ``stat`` says of a file: another one may mean another content; None while there is no file."""


def mark_of(path: Path) -> Mark:
    """Ask for device, inode, size and times of what the path leads to, through every link."""
    try:
        found = os.stat(path)  # noqa: PTH116 - one call, as its name says
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Steady:
    """Finds the content of a file once it stays the same. Pure: looks come in.

    ``found`` is the steady content, or None while it changes.
    """

    def __init__(self) -> None:
        self.found: Found | None = None
        self._last: tuple[Mark, str] | None = None
        self._is_settled = False

    def look(self, mark: Mark, read: Callable[[], Found]) -> None:
        """Take one look. The file is read only when its mark is another one, or when the last look was the first."""
        if self._is_settled and self._last is not None and mark == self._last[0]:
            # A later write would have another time: this content was read a whole look after the mark was made.
            return
        found = read()
        last, self._last = self._last, (mark, key_of(found))
        is_same = last is not None and last[1] == self._last[1]
        self._is_settled = is_same and last is not None and last[0] == mark
        if not is_same:
            self.found = None
        elif self.found is None:
            self.found = found


class Watch:
    """Looks after a file, and lets :class:`Reloading` follow it.

    Args:
        reloading: knows the file, and puts it in force.
        is_on: asked at every look, because a reload may change the setting.
    """

    def __init__(self, reloading: Reloading, is_on: Callable[[], bool]) -> None:
        self._reloading = reloading
        self._is_on = is_on
        self._steady = Steady()
        self._handled = ""

    async def look(self) -> None:
        """Look once, and act on what has become steady. To be called every :data:`LOOK_EVERY_S` seconds."""
        path = self._reloading.file
        if path is None or not self._is_on():
            return
        # In a thread: a network file system that hangs must not hold up probes and the admin server.
        await asyncio.to_thread(self._look_at, path)
        found = self._steady.found
        # An unconfirmed reload is let alone: the change waits until somebody has decided.
        if found is None or key_of(found) == self._handled or self._reloading.is_waiting:
            return
        if isinstance(found, ConfigError):
            self._reloading.unreadable(found, AUTHOR)
        elif not await self._reloading.follow(found, AUTHOR):
            return
        self._handled = key_of(found)

    def _look_at(self, path: Path) -> None:
        self._steady.look(mark_of(path), lambda: _read(path))


def key_of(found: Found) -> str:
    """Name what was found: equal for equal content, and for the same reason why there is none."""
    return found.digest if isinstance(found, Source) else str(found)


def _read(path: Path) -> Found:
    try:
        return read_source(path)
    except ConfigError as error:
        return error
