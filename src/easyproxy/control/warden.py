"""Carries out what :mod:`.failover` (pure) decides: who takes writes now, and whose sessions end before that.

An asyncio edge. A pool is looked at whenever something is learnt of its servers. What takes writes away is in force with the very
next snapshot; who gets them next waits until the sessions of the one before are closed. Nothing is told before it is in force.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from easyproxy.control.events import Kind
from easyproxy.control.failover import Post, Server, judge, to_close
from easyproxy.control.journal import log
from easyproxy.control.roles import PRIMARY, REPLICA
from easyproxy.control.wording import counted, span
from easyproxy.engine.seam import Where
from easyproxy.errors import EasyProxyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from easyproxy.config.schema import PoolConfig
    from easyproxy.control.failover import Decision
    from easyproxy.control.journal import Journal
    from easyproxy.control.registry import Entry, Registry
    from easyproxy.engine.seam import Engine

_AGAIN_S = 1.0
"""Sessions that could not be closed are tried again."""


class Warden:
    """Keeps the posts of all pools that have listeners for writes.

    Args:
        registry: what is known of the servers.
        engine: whose sessions are closed.
        journal: takes events.
        apply: puts the snapshot in force after a change that came about later.
        spawn: runs work in the background.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        journal: Journal,
        *,
        apply: Callable[[], None],
        spawn: Callable[[Coroutine[object, None, object]], None],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._journal = journal
        self._apply = apply
        self._spawn = spawn
        self._lagging: set[str] = set()
        self._unconfirmed: set[str] = set()
        self._roles: dict[str, str] = {}
        self._untold: list[Callable[[], object]] = []
        self.posts: dict[str, Post] = {}

    def writers(self) -> set[str]:
        """Ids of all backends that take writes now."""
        return {id_ for post in self.posts.values() for id_ in post.writers}

    def look(self) -> None:
        """Look at every pool; what is taken away is gone from :meth:`writers` when this returns.

        What has changed is told by :meth:`in_force`.
        """
        wanted = self._wanted()
        for name, pool in self._registry.config.pools.items():
            if name in wanted:
                self._look_at(name, pool)
        self._look_at_replicas()

    def in_force(self) -> None:
        """Tell what has changed, and forget the posts of pools that no listener sends writes to.

        To be called when the engine has taken a snapshot of what the last look decided: whoever reads of a change finds
        it so, and of a configuration that the engine refuses and that is taken back, who took writes before is known.
        """
        untold, self._untold = self._untold, []
        for tell in untold:
            tell()
        for name in self.posts.keys() - self._wanted():
            del self.posts[name]

    def _owe(self, kind: Kind, subject: str, text: str, level: str = "info") -> None:
        self._untold.append(partial(self._journal.tell, kind, subject, text, level=level))

    def _wanted(self) -> set[str]:
        return {one.pool for one in self._registry.config.listeners if one.role == PRIMARY}

    def inherit(self, posts: Mapping[str, Post]) -> None:
        """Go on where a predecessor has stopped; again when its sessions have come along.

        What was closed here before they came has closed none of them, so who took writes there is owed that anew.
        """
        for name, post in posts.items():
            known = self.posts.setdefault(name, post)
            known.former |= post.former

    # -- who takes writes

    def _look_at(self, name: str, pool: PoolConfig) -> None:
        post = self.posts.setdefault(name, Post())
        servers = [_server(entry) for entry in self._registry.entries.values() if entry.pool == name]
        rules = pool.failover
        decision = judge(
            servers, post.writers or post.former, fence=rules.fence, split_brain=rules.split_brain
        )
        owed = to_close(post.former, decision, servers) if rules.close_sessions else set()
        # Nobody new takes writes before the sessions of those who did are closed.
        allowed = tuple(id_ for id_ in decision.writers if id_ in post.writers or not owed)
        if (allowed, decision.is_split) != (post.writers, post.is_split):
            self._settle(name, post, replace(decision, writers=allowed))
        post.why = decision.why
        if fresh_rivals := set(decision.rivals) - set(post.rivals):
            text = f"{' and '.join(sorted(fresh_rivals))} gets no writes, though it says that it is the primary: {decision.why}"
            self._owe(Kind.SECOND_PRIMARY, name, text, level="warning")
        post.rivals = decision.rivals
        post.former = (post.former if rules.close_sessions else set()) | set(allowed)
        if fresh := owed - post.closing:
            post.closing |= fresh
            self._spawn(self._close(name, post, fresh))

    def _settle(self, name: str, post: Post, decision: Decision) -> None:
        """Write down who takes writes from now on, and tell."""
        before, was_split, now = post.writers, post.is_split, time.time()
        without_s = now - post.since if post.since and not before else 0.0
        post.writers, post.is_split = decision.writers, decision.is_split
        if decision.writers != before or not post.since:
            post.since = now
        if decision.is_split and not was_split:
            text = f"no writes go anywhere: {decision.why}"
            self._owe(Kind.SPLIT_BRAIN, name, text, level="error")
        elif decision.writers and decision.writers != before:
            after = f", after {span(without_s)} without anyone" if without_s else ""
            who = " and ".join(decision.writers)
            self._owe(Kind.PRIMARY, name, f"{who} takes writes{after}: {decision.why}")
        elif not decision.writers and not decision.is_split:
            text = f"nobody takes writes: {decision.why}"
            self._owe(Kind.PRIMARY_LOST, name, text, level="warning")

    async def _close(self, name: str, post: Post, owed: set[str]) -> None:
        """Close the sessions of servers that may not take writes any more, then look again."""
        try:
            counts = {id_: await self._close_of(name, id_) for id_ in sorted(owed)}
        except EasyProxyError as error:
            self._journal.trouble(
                f"pool {name}: sessions of {', '.join(sorted(owed))} are still open: {error}"
            )
            await asyncio.sleep(_AGAIN_S)
        else:
            post.former -= owed
            for id_, count in counts.items():
                if count:
                    text = f"{counted(count, 'session')} closed: {post.why}"
                    self._journal.tell(Kind.SESSIONS_CLOSED, id_, text)
        finally:
            post.closing -= owed
        if self.posts.get(name) is post:
            self.look()
            self._apply()

    async def _close_of(self, pool: str, backend: str) -> int:
        listeners = [
            one.name for one in self._registry.config.listeners if one.pool == pool and one.role == PRIMARY
        ]
        return sum(
            [
                await self._engine.close_sessions(Where(backend=backend, listener=name), "failover")
                for name in listeners
            ]
        )

    # -- replicas

    def _look_at_replicas(self) -> None:
        """Tell who began to lag, who caught up, and who changed its role; close sessions where that is wanted."""
        entries = self._registry.entries
        for entry in entries.values():
            if entry.facts is None:
                continue
            known = self._roles.get(entry.id, "")
            if entry.role != known:
                self._roles[entry.id] = entry.role
                if known:
                    text = (
                        f"is a {entry.role} now, no {known} any more"
                        if entry.role
                        else f"is no {known} any more"
                    )
                    self._owe(Kind.ROLE, entry.id, text)
            if entry.is_lagging != (entry.id in self._lagging):
                self._lag_changed(entry)
            if entry.is_unconfirmed != (entry.id in self._unconfirmed):
                self._sight_changed(entry)
        for gone in self._roles.keys() - entries.keys():
            del self._roles[gone]
        self._lagging &= entries.keys()
        self._unconfirmed &= entries.keys()

    def _sight_changed(self, entry: Entry) -> None:
        """Tell that a server does not let its check see any more what it is, or does again."""
        assert entry.facts is not None  # noqa: S101 - the caller looked
        if not entry.is_unconfirmed:
            self._unconfirmed.discard(entry.id)
            self._owe(Kind.ROLE, entry.id, "lets its check see again what it is")
            return
        self._unconfirmed.add(entry.id)
        why = dict(entry.facts.notes).get("login", "")
        text = f"counts as {entry.role} as before, but its check cannot see it any more"
        self._owe(Kind.ROLE, entry.id, text + (f": {why}" if why else ""), level="warning")

    def _lag_changed(self, entry: Entry) -> None:
        assert entry.facts is not None  # noqa: S101 - the caller looked
        words = entry.facts.lag_words
        if not entry.is_lagging:
            self._lagging.discard(entry.id)
            self._owe(Kind.REPLICA_LAG, entry.id, f"serves as a replica again: {words}")
            return
        self._lagging.add(entry.id)
        self._owe(Kind.REPLICA_LAG, entry.id, f"serves as a replica no more: {words}", level="warning")
        if self._registry.config.pools[entry.pool].close_sessions_on_lag:
            self._spawn(self._close_lagging(entry.pool, entry.id))

    async def _close_lagging(self, pool: str, backend: str) -> None:
        for listener in self._registry.config.listeners:
            if listener.pool == pool and listener.role == REPLICA:
                try:
                    await self._engine.close_sessions(
                        Where(backend=backend, listener=listener.name), "lagging"
                    )
                except EasyProxyError as error:
                    log.warning("sessions of %s on %s are still open: %s", backend, listener.name, error)


def _server(entry: Entry) -> Server:
    timeline = entry.facts.timeline if entry.facts is not None else 0
    return Server(entry.id, entry.state == "ready", entry.role, timeline, entry.is_doubtful)
