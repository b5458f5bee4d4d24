"""The desk: everything that can be asked of a balancer and changed in it, handed to the room that does it.

This is :class:`easyproxy.control.operations.Operations` but for the upgrade; who puts the rooms together and starts them
is ``easyproxy.balancer``. Nothing is decided here.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from easyproxy.control.asked import clean
from easyproxy.control.events import Kind
from easyproxy.control.journal import Journal, log
from easyproxy.control.masking import masked
from easyproxy.control.naming import find_backend
from easyproxy.control.operations import RefusedError, Stacks, UnknownError
from easyproxy.control.overview import clients_of, overview
from easyproxy.control.simulate import client_host
from easyproxy.control.stacks import stacks_of_this_process
from easyproxy.control.wording import counted
from easyproxy.engine.seam import Engine, SessionInfo, Statistics, Where

if TYPE_CHECKING:
    from easyproxy.config.schema import Config
    from easyproxy.control.access_log import AccessLog
    from easyproxy.control.operations import (
        Action,
        Author,
        Choice,
        Event,
        Explanation,
        Override,
        Plan,
        ReloadState,
    )
    from easyproxy.control.registry import Registry
    from easyproxy.control.reloading import Reloading
    from easyproxy.control.status import ClientStatus, Status
    from easyproxy.control.steering import Steering
    from easyproxy.control.teller import Teller
    from easyproxy.control.warden import Warden


class Desk:
    """What operators, the admin server and programs ask; made by ``Balancer``, which is one."""

    engine: Engine
    started_at: float
    _journal: Journal
    _registry: Registry
    _steering: Steering
    _reloading: Reloading
    _teller: Teller
    _warden: Warden
    _access_log: AccessLog | None
    _is_draining: bool

    # -- reading

    @property
    def config(self) -> Config:
        """The configuration in force, overrides included."""
        return self._steering.effective

    @property
    def filed_config(self) -> Config:
        """The configuration as the file, or the program, gives it."""
        return self._steering.filed

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each listener really listens, by name."""
        return self.engine.addresses()

    def status(self) -> Status:
        """Everything but sessions and clients, at this moment."""
        status = overview(
            self._registry,
            self.engine.statistics(),
            self.engine.addresses(),
            engine=self.engine.name,
            started_at=self.started_at,
            now=time.time(),
            clock=time.monotonic(),
            overrides=self._steering.overrides,
            posts=self._warden.posts,
            is_draining=self._is_draining,
        )
        return status if self._access_log is None else replace(status, access_log=self._access_log.status())

    def statistics(self) -> Statistics:
        """What the engine counts, distributions included."""
        return self.engine.statistics()

    def processes(self) -> dict[str, int]:
        """Process ids by name: ``control``, and those of the engine (``relay 0``)."""
        return {"control": os.getpid(), **self.engine.process_ids()}

    async def sessions(self) -> list[SessionInfo]:
        """List the live sessions."""
        return await self.engine.sessions()

    async def clients(self) -> list[ClientStatus]:
        """List the clients with live sessions, most sessions first."""
        return clients_of(await self.engine.sessions())

    def events(self, after: int = 0, limit: int = 200) -> list[Event]:
        """The newest events with an id above ``after``, oldest first."""
        return self._journal.events.newest(after, limit)

    def follow_events(self) -> AsyncIterator[Event]:
        """Events as they happen, from now on; a reader that is too slow misses the oldest."""
        return self._journal.events.follow()

    def overrides(self) -> list[Override]:
        """What operators have laid over the file, oldest first."""
        return list(self._steering.overrides)

    def effective_config(self) -> Mapping[str, object]:
        """The configuration in force, overrides included, in the file's shape; secrets are masked."""
        return masked(self.config)

    async def explain(self, kind: str, subject: str) -> Explanation:
        """Tell the story of a ``session`` (id), a ``backend`` (id or name) or a ``client`` (address).

        Raises:
            UnknownError: there is no such thing (any more).
            RefusedError: ``kind`` is none of these, or the client is no address.
        """
        return await self._teller.explain(kind, subject)

    def simulate(self, client: str, *, pool: str = "", without: frozenset[str] = frozenset()) -> list[Choice]:
        """Say where a client would go now, in one pool or in each, as if ``without`` were not ready.

        Raises:
            UnknownError: there is no such pool or backend.
            RefusedError: the client is no address.
        """
        return self._teller.simulate(client, pool=pool, without=without)

    async def stacks(self) -> Stacks:
        """What every thread of the control process and of every worker is doing."""
        return Stacks({"control": stacks_of_this_process(), **await self.engine.stacks()})

    # -- changing

    async def put_in_force(self, config: Config, *, source: str) -> None:
        """Do what :meth:`reload` does, and leave it to the caller to tell of it; ``source`` says where it comes from."""
        log.debug("putting a configuration in force", extra={"source": source})
        await self._steering.put_in_force(config)

    def reload_state(self) -> ReloadState:
        """How the last reload stands."""
        return self._reloading.state

    async def plan(self, text: str | None = None, form: str = "yaml") -> Plan:
        """Say what the file (or ``text``) would change. Raises ConfigError, RefusedError without a file."""
        return await self._reloading.plan(text, form)

    async def reload_file(self, author: Author, *, rollback_after_s: float = 0.0) -> Plan:
        """Load the file again; go back after so long unless :meth:`confirm` is called. See :class:`Reloading`.

        Raises:
            ConfigError: it is wrong; nothing changes.
            EngineError: an address cannot be had; nothing changes.
            RefusedError: there is no file, an unconfirmed reload is in force, or this one had to go back at once.
        """
        if self._is_draining:
            raise RefusedError("the balancer is ending; it takes no other configuration")
        return await self._reloading.reload_file(clean(author), rollback_after_s=rollback_after_s)

    async def confirm(self, author: Author) -> ReloadState:
        """Keep what an unconfirmed reload has put in force. Raises RefusedError when there is none."""
        return await self._reloading.confirm(clean(author))

    async def rollback(self, author: Author) -> ReloadState:
        """Go back to the configuration before the last reload. Raises RefusedError, EngineError."""
        return await self._reloading.rollback(clean(author))

    async def override(
        self,
        backend: str,
        action: Action,
        author: Author,
        *,
        value: object = None,
        ttl_s: float = 0.0,
        deadline_s: float = 0.0,
    ) -> Override:
        """Lay a change over one backend (``pool/name``, or its name where only one pool has it).

        It replaces a former one of the same kind, and survives reloads and, with a state file, restarts. For ADD
        ``backend`` is the pool, or ``pool/name``, and ``value`` an address or a mapping as in the file.

        Args:
            backend: which one.
            action: what to do with it.
            author: who wants it, and why.
            value: the weight, or the backend to add; None otherwise.
            ttl_s: after so many seconds it ends by itself; 0 is never.
            deadline_s: of DRAIN and MAINTENANCE: after so many seconds the sessions that are left are closed; 0 is what the
                pool's ``drain`` says.

        Raises:
            UnknownError: there is no such backend or pool.
            RefusedError: the value is wrong, or the result would contradict itself; nothing has changed.
            EngineError: the engine refuses it; nothing has changed.
        """
        return await self._steering.override(
            backend, action, author, value=value, ttl_s=ttl_s, deadline_s=deadline_s
        )

    async def restore(self, backend: str, author: Author) -> list[Override]:
        """End drain and maintenance of a backend; return what was taken away. Raises UnknownError.

        After maintenance it gets sessions once a probe has succeeded.
        """
        return await self._steering.restore(backend, author)

    async def forget(self, override: str, author: Author) -> Override:
        """Take one override away, by its id. Raises UnknownError, or RefusedError when that is not possible."""
        return await self._steering.forget(override, author)

    async def close_sessions(self, where: Where, author: Author) -> int:
        """Close the sessions that match, both sides, with a reset; return how many.

        Raises:
            RefusedError: ``where`` is empty, which would be all of them, or the client is no address.
            UnknownError: there is no such session, backend or listener, nor a session of it.
        """
        if where == Where():
            raise RefusedError("say which sessions: by id, client, backend or listener")
        author = clean(author)
        wanted = replace(
            where,
            backend=self._backend_or_gone(where.backend) if where.backend else "",
            client=client_host(where.client) if where.client else "",
        )
        count = await self.engine.close_sessions(wanted)
        if not count:
            self._look_for(wanted)
        what = ", ".join(f"{name} {value}" for name, value in asdict(wanted).items() if value)
        text = f"{counted(count, 'session')} closed: {what}"
        subject = wanted.id or wanted.backend or wanted.client or wanted.listener
        self._journal.tell(Kind.SESSIONS_CLOSED, subject, text, author=author)
        return count

    def _backend_or_gone(self, name: str) -> str:
        """Find a backend, or take ``pool/name`` for one that is gone and may have sessions still."""
        try:
            return find_backend(name, self._registry.entries)
        except UnknownError:
            if "/" in name:
                return name
            raise

    def _look_for(self, where: Where) -> None:
        """Raise UnknownError when nothing was closed because there is no such thing."""
        if where.id:
            raise UnknownError(f"there is no session {where.id} (any more)")
        if where.backend:
            find_backend(where.backend, self._registry.entries)
        listeners = [listener.name for listener in self.config.listeners]
        if where.listener and where.listener not in listeners:
            raise UnknownError(f"there is no listener {where.listener}; there is {', '.join(listeners)}")
