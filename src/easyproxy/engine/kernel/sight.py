"""Looking at flows, and ending them: all that touches the kernel's table of flows, in the order that makes counts complete.

What flows mean is the ledger's to say, when to look the engine's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

from easyproxy.engine.kernel.conntrack import Conntrack, Departures
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.ledger import Books, Ended, Ledger, Session
from easyproxy.engine.kernel.poke import Poker
from easyproxy.engine.kernel.settings import LIBERAL
from easyproxy.engine.kernel.shortcut import Shortcut


class Sight:
    """Sees flows come, move bytes and go; ``close`` it. One thread's at a time, in whose network namespace it was made.

    Args:
        ledger: is told what was seen.
        shortcut: what packets of established flows may take; None: all go the long way. It stays its owner's.
        prepare_resets: is called with flows right before both ends are asked to say something, to be answered with a reset.

    Raises:
        EngineError: the kernel does not tell of its flows.
    """

    def __init__(
        self, ledger: Ledger, shortcut: Shortcut | None, prepare_resets: Callable[[list[Flow]], None]
    ) -> None:
        self._ledger = ledger
        self._shortcut = shortcut
        self._prepare_resets = prepare_resets
        with ExitStack() as undo:
            self._flows = Conntrack()
            undo.callback(self._flows.close)
            self._departures = Departures()
            undo.callback(self._departures.close)
            self._poker = Poker()
            undo.pop_all()
        self.look_s = 0.0
        """What the last look at the flows that there were has cost, in seconds; those that are gone have to be looked at anyway."""

    @property
    def can_poke(self) -> bool:
        """Whether ends of sessions that are closed can be told at once."""
        return self._poker.is_able

    @property
    def has_missed(self) -> bool:
        """Whether more flows went at a time than the kernel could keep for us."""
        return self._departures.has_missed

    def close(self) -> None:
        """Close the sockets."""
        for owned in (self._flows, self._departures, self._poker):
            owned.close()

    def hear(self) -> None:
        """Take from the kernel what it has to tell of flows that are gone: it keeps only so much for us."""
        self._departures.hear()

    def look(self) -> tuple[Books, list[Ended]]:
        """Enter all flows in the ledger; return what it then has counted, and the sessions that have ended since the last look.

        Raises EngineError.
        """
        # What is gone is asked for first: what it took by the shortcut is read after that, and so is complete.
        gone = self._departures.take()
        started = time.thread_time()

        def everything() -> Iterator[Flow]:
            nonlocal started
            begun = time.thread_time()
            yield from gone
            started += time.thread_time() - begun  # this has to be done anyway
            yield from self._flows.flows()

        books, ends = self._ledger.look(self._with_the_shortcut(everything()), time.time(), self._flows.has)
        self.look_s = time.thread_time() - started
        if self._ledger.forgotten:
            self._prepare_resets(self._ledger.forgotten)
            self._poker.poke(self._ledger.forgotten)
        self._poker.poke(self._ledger.doubted)  # whoever lives answers, and the kernel sees it
        return books, ends

    def cut(self, sessions: list[Session], reason: str) -> list[Ended]:
        """Forget the flows of these sessions, and have both ends reset; return those that had not ended. Raises EngineError."""
        gone = [session.flow for session in sessions]
        self._prepare_resets(gone)
        self._flows.delete(gone)
        if self._shortcut is not None:
            self._shortcut.forget(gone)
        self._poker.poke(gone)
        return self._ledger.closed(sessions, reason, time.time())

    def _with_the_shortcut(self, everything: Iterable[Flow]) -> Iterator[Flow]:
        shortcut = self._shortcut
        if shortcut is None:
            yield from everything
            return
        yield from shortcut.complete(everything)
        self._flows.delete(shortcut.reset)
        if LIBERAL.is_met:
            shortcut.look()
        else:
            shortcut.close()  # the kernel would take what it meets next for a mistake
