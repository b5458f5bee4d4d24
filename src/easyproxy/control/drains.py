"""Closes what is left of a backend or a listener when its time to drain is over: at the deadline of an override, else of its pool.

When sessions end before that is their own matter, or the engine's (``drain.when``). An asyncio edge that decides little: who is
being drained stands in the configuration and in what operators have laid over it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easyproxy.config.drain import BETWEEN_TRANSACTIONS
from easyproxy.control.events import Kind
from easyproxy.control.wording import counted, span
from easyproxy.engine.seam import Where
from easyproxy.errors import EasyProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from easyproxy.control.journal import Journal
    from easyproxy.control.operations import Override
    from easyproxy.control.registry import Registry
    from easyproxy.engine.seam import Engine

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class _Limit:
    """When the time of somebody is over, how long it was, and the id of the override that asked for it, if one did."""

    until: float
    length_s: float
    asked_by: str = ""


class Drains:
    """Who is being drained, and until when.

    An override has its deadline as a point in time, so it holds over an upgrade; of those that a reload had taken away the successor
    knows nothing, and their sessions leave between two transactions or by themselves.

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
        self._limits: dict[Where, _Limit] = {}

    def look(self, now: float, wall: float) -> None:
        """Learn after every change who has left, and who is back.

        Args:
            now: seconds of a steady clock.
            wall: the same moment in seconds since the epoch.
        """
        pools, entries = self._registry.config.pools, self._registry.entries.values()
        has_deadlines = any(pool.drain.deadline for pool in pools.values())
        is_asked = any(entry.stance is not None and entry.stance.deadline for entry in entries)
        if not (has_deadlines or is_asked or self._limits or any(self._serving.values())):
            return
        serving = dict(self._listeners())
        drained: dict[Where, float] = {}
        for entry in entries:
            where, deadline_s = Where(backend=entry.id), pools[entry.pool].drain.deadline
            if entry.stance is None:
                serving[where] = deadline_s
            else:
                drained[where] = deadline_s
                self._ask(where, entry.stance, now - wall)
        for where in self._limits.keys() & serving.keys():
            del self._limits[where]
        for where, deadline_s in {**self._serving, **drained}.items():
            if deadline_s and where not in serving:
                self._limits.setdefault(where, _Limit(now + deadline_s, deadline_s))
        self._serving = serving

    def _ask(self, where: Where, stance: Override, ahead_s: float) -> None:
        """Take the deadline of an override, once; the steady clock is ``ahead_s`` before the other. It replaces every former one."""
        asked_by = stance.id if stance.deadline else ""
        if where in self._limits and self._limits[where].asked_by != asked_by:
            del self._limits[where]
        if asked_by:
            limit = _Limit(stance.deadline + ahead_s, stance.deadline - stance.at, asked_by)
            self._limits.setdefault(where, limit)

    def _listeners(self) -> Iterator[tuple[Where, float]]:
        config = self._registry.config
        for listener in config.listeners:
            yield Where(listener=listener.name), config.pools[listener.pool].drain.deadline

    def expire(self, now: float) -> None:
        """Close the sessions of those whose time is over."""
        for where, limit in tuple(self._limits.items()):
            if now >= limit.until:
                self._limits[where] = replace(limit, until=_NEVER)
                self._spawn(self._close(where, limit.length_s))

    async def tell_who_stays(self, backend: str) -> None:
        """Say how many sessions of a backend that is drained now cannot leave between two transactions, and why."""
        entry = self._registry.entries.get(backend)  # it may have been taken away since
        if entry is None:
            return
        drain = self._registry.config.pools[entry.pool].drain
        if drain.when != BETWEEN_TRANSACTIONS:
            return
        doubts = Counter(
            session.transaction.partition(": ")[2]
            for session in await self._engine.sessions()
            if session.backend == backend
        )
        del doubts[""]
        if doubts:
            why = ", ".join(f"{doubt} ({count})" for doubt, count in doubts.most_common())
            stance = entry.stance
            asked_s = stance.deadline - stance.at if stance is not None and stance.deadline else 0.0
            deadline_s = asked_s or drain.deadline
            limit = f", for {span(deadline_s)} at most" if deadline_s else ""
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
