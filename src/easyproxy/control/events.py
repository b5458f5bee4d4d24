"""What has happened, each with its cause: a ring of events, and readers that follow it.

Nothing is logged here and nothing decided; :mod:`.journal` tells the log and this ring from one place.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from easyproxy.control.operations import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from easyproxy.control.operations import Author

KEPT = 2000
"""Events that are kept; older ones are in the log."""
UNREAD = 1000
"""Events that wait for one reader; a slower one misses the oldest."""


class Kind(StrEnum):
    """Every kind of event. The lexicon says what each means."""

    BACKEND_READY = "backend_ready"
    BACKEND_DOWN = "backend_down"
    BACKEND_CHECKING = "backend_checking"
    BACKEND_DRAINING = "backend_draining"
    BACKEND_MAINTENANCE = "backend_maintenance"
    BACKEND_HEALTH = "backend_health"
    BACKEND_ADDED = "backend_added"
    BACKEND_REMOVED = "backend_removed"
    PRIMARY = "primary"
    PRIMARY_LOST = "primary_lost"
    SPLIT_BRAIN = "split_brain"
    SECOND_PRIMARY = "second_primary"
    ROLE = "role"
    REPLICA_LAG = "replica_lag"
    OVERRIDE_SET = "override_set"
    OVERRIDE_FORGOTTEN = "override_forgotten"
    OVERRIDE_EXPIRED = "override_expired"
    OVERRIDE_FULFILLED = "override_fulfilled"
    OVERRIDE_DISSOLVED = "override_dissolved"
    OVERRIDE_CONFLICT = "override_conflict"
    OVERRIDE_SETTLED = "override_settled"
    STATE_FILE = "state_file"
    RELOADED = "reloaded"
    RELOAD_REFUSED = "reload_refused"
    RELOAD_CONFIRMED = "reload_confirmed"
    RELOAD_ROLLED_BACK = "reload_rolled_back"
    SESSIONS_CLOSED = "sessions_closed"
    SESSIONS_STAY = "sessions_stay"
    WORKER_DIED = "worker_died"
    TROUBLE = "trouble"
    STARTED = "started"
    DRAINING = "draining"
    STOPPED = "stopped"
    UPGRADE_STARTED = "upgrade_started"
    UPGRADE_FAILED = "upgrade_failed"
    UPGRADED = "upgraded"


class Reader:
    """Follows the events from its making on; ends when the balancer ends, or when :meth:`aclose` is called."""

    def __init__(self, readers: weakref.WeakSet[Reader]) -> None:
        self._readers = readers
        self._unread: deque[Event] = deque(maxlen=UNREAD)
        self._news = asyncio.Event()
        self._is_closed = False
        readers.add(self)

    def take(self, event: Event) -> None:
        """Keep an event until it is read."""
        self._unread.append(event)
        self._news.set()

    def close(self) -> None:
        """End once everything has been read."""
        self._is_closed = True
        self._readers.discard(self)
        self._news.set()

    async def aclose(self) -> None:
        """Follow no longer."""
        self._unread.clear()
        self.close()

    def __aiter__(self) -> Self:
        """Iterate over itself."""
        return self

    async def __anext__(self) -> Event:
        """Wait for the next event."""
        while not self._unread:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()


class Events:
    """The newest events, and those who follow them. Belongs to one event loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._last = 0
        # Weak: a reader that somebody just drops is followed no longer.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._is_closed = False

    def add(
        self, kind: Kind, subject: str, text: str, *, level: str = "info", author: Author | None = None
    ) -> Event:
        """Keep what has happened now, and hand it to every reader."""
        self._last += 1
        event = Event(self._last, self._clock(), kind.value, subject, text, level, author)
        self._kept.append(event)
        for reader in tuple(self._readers):
            reader.take(event)
        return event

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def restore(self, events: Iterable[Event]) -> None:
        """Begin with what has happened in a former program; ids go on after the last."""
        own, self._kept = self._kept, deque(events, maxlen=KEPT)
        self._last = max([event.id for event in self._kept], default=0)
        for event in own:
            self._last += 1
            self._kept.append(replace(event, id=self._last))

    def newest(self, after: int = 0, limit: int = 200) -> list[Event]:
        """Return at most ``limit`` of the newest events with an id above ``after``, oldest first."""
        found: list[Event] = []
        for event in reversed(self._kept):
            if event.id <= after or len(found) >= limit:
                break
            found.append(event)
        return found[::-1]

    def about(self, subject: str, limit: int = 20) -> tuple[Event, ...]:
        """Return the newest events of one subject, oldest first."""
        found = [event for event in self._kept if event.subject == subject]
        return tuple(found[-limit:]) if limit > 0 else ()

    def follow(self) -> Reader:
        """Follow from now on. Must be called in the running event loop."""
        reader = Reader(self._readers)
        if self._is_closed:
            reader.close()
        return reader

    def close(self) -> None:
        """End every reader once it has read what there is."""
        self._is_closed = True
        for reader in tuple(self._readers):
            reader.close()
