"""Answers questions about what is and was: gathers what :mod:`.explain` and :mod:`.simulate` (pure) need."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from easyproxy.control.explain import explain_backend, explain_client, explain_session
from easyproxy.control.naming import find_backend
from easyproxy.control.operations import RefusedError, UnknownError
from easyproxy.control.overrides import of_backend
from easyproxy.control.overview import host_of
from easyproxy.control.roles import use_of
from easyproxy.control.simulate import client_host, simulate
from easyproxy.engine.seam import Where

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from easyproxy.control.events import Events
    from easyproxy.control.operations import Choice, Explanation
    from easyproxy.control.registry import Registry
    from easyproxy.control.status import Status
    from easyproxy.control.steering import Steering
    from easyproxy.engine.seam import Engine

KINDS = ("session", "backend", "client")


class Teller:
    """Knows where to ask; changes nothing."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        steering: Steering,
        events: Events,
        status: Callable[[], Status],
        writers: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._steering = steering
        self._events = events
        self._status = status
        self._writers = writers

    async def explain(self, kind: str, subject: str) -> Explanation:
        """Tell the story of a session, a backend or a client."""
        if kind == "backend":
            return self._backend(subject)
        if kind == "session":
            return await self._session(subject)
        if kind == "client":
            return await self._client(subject)
        raise RefusedError(f"{kind!r} cannot be explained; ask for a {', '.join(KINDS[:-1])} or {KINDS[-1]}")

    def simulate(self, client: str, *, pool: str = "", without: Iterable[str] = ()) -> list[Choice]:
        """Say where a client would go now."""
        gone = frozenset(find_backend(name, self._registry.entries) for name in without)
        snapshot = self._registry.snapshot(time.monotonic(), self._writers())
        return simulate(snapshot, self._status(), client, pool=pool, without=gone)

    def _backend(self, name: str) -> Explanation:
        entry = self._registry.entries[find_backend(name, self._registry.entries)]
        settings = self._registry.config.pools[entry.pool].check
        check = "no check is configured"
        if entry.is_checked:
            check = f"check {settings.type} every {settings.interval:g} s, rise {settings.rise}, fall {settings.fall}"
        laid = of_backend(self._steering.overrides, entry.id)
        # The story of a failover is told of the pool.
        events = sorted(
            {*self._events.about(entry.id), *self._events.about(entry.pool)}, key=lambda event: event.id
        )
        return explain_backend(entry, self._status(), laid, tuple(events), check=check)

    async def _session(self, name: str) -> Explanation:
        live = next((one for one in await self._engine.sessions() if one.id == name), None)
        found = live or next(iter(await self._engine.recent_ends(Where(id=name))), None)
        if found is None:
            raise UnknownError(f"there is no session {name}, and none of those that ended last was called so")
        status = self._status()
        choice = None
        listener = next((one for one in status.listeners if one.name == found.listener), None)
        if live is not None and listener is not None:
            use = next(
                (use_of(one) for one in self._registry.config.listeners if one.name == found.listener), ""
            )
            choice = next(iter(self.simulate(host_of(found.client), pool=use)), None)
        return explain_session(found, status, self._events.newest(limit=len(self._events)), choice)

    async def _client(self, address: str) -> Explanation:
        host = client_host(address)
        sessions = [one for one in await self._engine.sessions() if host_of(one.client) == host]
        ends = await self._engine.recent_ends(Where(client=host))
        status = self._status()
        served = {use_of(listener) for listener in self._registry.config.listeners}
        choices = [choice for choice in self.simulate(host) if choice.pool in served]
        return explain_client(host, sessions, ends, choices, status.now)
