"""What the log and the events say, told from one place, and how much: a flood of broken sessions must not fill a disk.

Uses the standard library's logging under the name ``easyproxy``, so that a program that embeds the balancer decides
where it goes; the command line adds the form.
"""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from easyproxy.control.events import Events, Kind
from easyproxy.control.overrides import words
from easyproxy.control.wording import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from easyproxy.control.operations import Author, Event, Override
    from easyproxy.control.overrides import Note
    from easyproxy.control.registry import Change, Entry
    from easyproxy.engine.seam import SessionEnd

LINES_PER_SECOND = 20
"""Lines about single sessions; what is more is counted and told in one line."""

CLIENT_RESET = "client_reset"
"""How many clients end as a matter of course, those of PostgreSQL with TLS for example: told at ``debug`` only."""

log = logging.getLogger("easyproxy")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Journal:
    """Writes changes of state, each, and session ends, as many as a reader can take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, events: Events | None = None) -> None:
        self.events = Events() if events is None else events
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def tell(
        self,
        kind: Kind,
        subject: str,
        text: str,
        *,
        level: str = "info",
        author: Author | None = None,
        message: str = "",
    ) -> Event:
        """Tell what has happened: one event and one line of the log.

        Args:
            kind: what sort of event it is.
            subject: what it happened to; empty for the balancer itself.
            text: one sentence, with the cause.
            level: ``info``, ``warning`` or ``error``.
            author: who caused it, where somebody did.
            message: how the log's line begins; by default the kind in words.
        """
        fields = {"subject": subject, "text": text}
        if author is not None:
            fields |= {"who": author.who, "why": author.why}
        shown = {key: value for key, value in fields.items() if value}
        log.log(_LEVELS[level], "%s", message or kind.value.replace("_", " "), extra=shown)
        return self.events.add(kind, subject, text, level=level, author=author)

    def change(self, change: Change, author: Author | None = None) -> None:
        """Tell that a backend has changed its state, or its health while an operator keeps it out."""
        kind, words = Kind(f"backend_{change.state}"), f"is {in_words(change.state)}: {change.reason}"
        message, state = "backend %s", change.state
        if change.state == change.was:
            health = "healthy" if change.is_healthy else "not healthy"
            kind, words = Kind.BACKEND_HEALTH, f"is {health} while {in_words(change.state)}: {change.reason}"
            message, state = "backend is %s", health
        level = "warning" if change.state == "down" else "info"
        fields = {"backend": change.backend, "reason": change.reason}
        if author is not None:
            fields |= {"who": author.who, "why": author.why}
        shown = {key: value for key, value in fields.items() if value}
        log.log(_LEVELS[level], message, state, extra=shown)
        self.events.add(kind, change.backend, words, level=level, author=author)

    def notes(self, notes: Iterable[Note]) -> None:
        """Tell what became of overrides when they met a file."""
        for note in notes:
            loud = note.kind in (Kind.OVERRIDE_CONFLICT, Kind.OVERRIDE_DISSOLVED)
            level = "warning" if loud else "info"
            override = note.override
            self.tell(note.kind, override.backend, note.text, level=level, author=override.author)

    def expired(self, override: Override) -> None:
        """Tell that the time of an override is over."""
        text = f"{words(override)} has ended: its time was over at {stamp(override.until)}"
        self.tell(Kind.OVERRIDE_EXPIRED, override.backend, text, author=override.author)

    def membership(self, old: Mapping[str, Entry], new: Mapping[str, Entry]) -> None:
        """Tell which backends have come, gone and moved."""
        for key in old.keys() - new.keys():
            self.tell(Kind.BACKEND_REMOVED, key, "gets no new sessions; those it has go on")
        for key, entry in new.items():
            before, where = old.get(key), entry.config.address
            if before is None:
                self.tell(Kind.BACKEND_ADDED, key, f"at {where}, {in_words(entry.state)}: {entry.reason}")
            elif before.config.address != where:
                text = (
                    f"moved from {before.config.address} to {where}, {in_words(entry.state)}: {entry.reason}"
                )
                self.tell(Kind.BACKEND_ADDED, key, text)

    def end(self, end: SessionEnd) -> None:
        """Tell how a session broke."""
        level = logging.DEBUG if end.reason == CLIENT_RESET else logging.INFO
        if not log.isEnabledFor(level) or not self._has_room():
            return
        fields = {key: value for key, value in asdict(end).items() if value not in ("", ())}
        fields |= {"age_s": round(end.age_s, 3), "started_at": round(end.started_at, 3)}
        if end.connect_s >= 0:
            fields["connect_s"] = round(end.connect_s, 6)
        else:  # no backend was reached
            del fields["connect_s"]
        log.log(level, "session broke", extra=fields)

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
            self.events.add(Kind.TROUBLE, "", text, level="error")

    def worker_died(self, text: str) -> None:
        """Tell that a worker has died; never suppressed, because it explains why many sessions broke."""
        log.error("%s", text)
        self.events.add(Kind.WORKER_DIED, "", text, level="error")

    def _has_room(self) -> bool:
        self.flush()
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._suppressed += 1
        return self._lines <= LINES_PER_SECOND


def stamp(at: float) -> str:
    """Write a moment for the log and for events."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
