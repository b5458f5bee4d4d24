"""Closes what is left of a backend or a listener when its time to drain is over: ``pools.NAME.drain.deadline``.

When sessions end before that is their own matter, or the engine's (``drain.when``). An asyncio edge that decides little: who is
being drained stands in the configuration and in what operators have laid over it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from easyproxy.config.drain import BETWEEN_TRANSACTIONS
from easyproxy.control.events import Kind
from easyproxy.control.wording import counted, span
from easyproxy.engine.seam import Where
from easyproxy.errors import EasyProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from easyproxy.control.journal import Journal
    from easyproxy.control.registry import Registry
    from easyproxy.engine.seam import Engine

_NEVER = float("inf")


class Drains:
    """Who is being drained, and until when.

    After an upgrade time begins anew for those whom an operator drains; of those that a reload had taken away the successor knows
    nothing, and their sessions leave between two transactions or by themselves.

    Args:
        registry: the configuration, and the stances of operators.
        engine: whose sessions are closed.
        journal: takes events.
        spawn: runs work in the background.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        journal: Journal,
        *,
        spawn: Callable[[Coroutine[object, None, object]], None],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._journal = journal
        self._spawn = spawn
        self._serving: dict[Where, float] = {}  # how many seconds each would have; 0 for ever
        self._until: dict[Where, tuple[float, float]] = {}  # when it is over, and how long it was

    def look(self, now: float) -> None:
        """Learn after every change who has left, and who is back; ``now`` in seconds of a steady clock."""
        has_deadlines = any(pool.drain.deadline for pool in self._registry.config.pools.values())
        if not (has_deadlines or self._until or any(self._serving.values())):
            return
        serving = dict(self._listeners())
        drained: dict[Where, float] = {}
        for entry in self._registry.entries.values():
            deadline_s = self._registry.config.pools[entry.pool].drain.deadline
            (serving if entry.stance is None else drained)[Where(backend=entry.id)] = deadline_s
        for where in self._until.keys() & serving.keys():
            del self._until[where]
        for where, deadline_s in {**self._serving, **drained}.items():
            if deadline_s and where not in serving:
                self._until.setdefault(where, (now + deadline_s, deadline_s))
        self._serving = serving

    def _listeners(self) -> Iterator[tuple[Where, float]]:
        config = self._registry.config
        for listener in config.listeners:
            yield Where(listener=listener.name), config.pools[listener.pool].drain.deadline

    def expire(self, now: float) -> None:
        """Close the sessions of those whose time is over."""
        for where, (until, deadline_s) in tuple(self._until.items()):
            if now >= until:
                self._until[where] = (_NEVER, deadline_s)
                self._spawn(self._close(where, deadline_s))

    async def tell_who_stays(self, backend: str) -> None:
        """Say how many sessions of a backend that is drained now cannot leave between two transactions, and why."""
        entry = self._registry.entries.get(backend)  # it may have been taken away since
        pool = self._registry.config.pools[entry.pool] if entry is not None else None
        if pool is None or pool.drain.when != BETWEEN_TRANSACTIONS:
            return
        doubts = Counter(
            session.transaction.partition(": ")[2]
            for session in await self._engine.sessions()
            if session.backend == backend
        )
        del doubts[""]
        if doubts:
            why = ", ".join(f"{doubt} ({count})" for doubt, count in doubts.most_common())
            limit = f", for {span(pool.drain.deadline)} at most" if pool.drain.deadline else ""
            text = f"{counted(doubts.total(), 'session')} cannot be told to be between two transactions{limit}: {why}"
            self._journal.tell(Kind.SESSIONS_STAY, backend, text, level="warning")

    async def _close(self, where: Where, deadline_s: float) -> None:
        subject = where.backend or where.listener
        try:
            count = await self._engine.close_sessions(where, "drained")
        except EasyProxyError as error:
            self._journal.trouble(f"{subject}: sessions are still open at the deadline of the drain: {error}")
            return
        if count:
            text = f"{counted(count, 'session')} closed: the drain's deadline of {span(deadline_s)} is over"
            self._journal.tell(Kind.SESSIONS_CLOSED, subject, text)
