"""The balancer put together: configuration, registry, health, engine, admin server. The same for programs and `run`.

Everything meets here and nothing is decided here: the registry knows, the pure parts judge, the engine moves bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from easyproxy.assembly import config_of, engine_for, state_place
from easyproxy.config.load import read_token
from easyproxy.control.access_log import AccessLog
from easyproxy.control.desk import Desk
from easyproxy.control.drains import Drains
from easyproxy.control.events import Kind
from easyproxy.control.journal import Journal, log
from easyproxy.control.keeping import Keeper
from easyproxy.control.lookout import Lookout
from easyproxy.control.operations import RefusedError
from easyproxy.control.overrides import STANCES
from easyproxy.control.pace import Pace
from easyproxy.control.registry import Registry
from easyproxy.control.reloading import Reloading
from easyproxy.control.state_file import StateFile
from easyproxy.control.steering import Steering
from easyproxy.control.teller import Teller
from easyproxy.control.upgrading import Upgrading
from easyproxy.control.warden import Warden
from easyproxy.control.watch import LOOK_EVERY_S, Watch
from easyproxy.discovery.names import RESOLVE_EVERY_S
from easyproxy.engine.seam import HandsOver, Observation, Report, Where
from easyproxy.errors import EngineError
from easyproxy.needs import refuse_if_lacking

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from easyproxy.admin.server import AdminServer
    from easyproxy.config.schema import Config
    from easyproxy.control.heir import Heir
    from easyproxy.control.operations import Author
    from easyproxy.control.registry import Change
    from easyproxy.control.status import Status
    from easyproxy.engine.relay.inherited import Inherited
    from easyproxy.model import Address

SLOW_START_STEP_S = 0.5


class Balancer(Desk):
    """A TCP load balancer inside this program: ``async with Balancer(config) as balancer: ...``.

    Entering starts everything and returns when clients are accepted: the first probe of every backend has been
    judged by then. Leaving ends every session at once; call :meth:`drain` before to let them finish.

    Args:
        config: a :class:`Config`, a mapping of the same shape, or the path of a configuration file.
        workers: ``thread`` runs one relay loop in a thread of this program; ``process`` runs the configured number
            of worker processes.
        on_change: called with every change of a backend's state.
        state_file: where overrides survive a restart, unless the configuration names a place; None is nowhere.
        file: what :meth:`reload_file` loads again; None is ``config`` where that is a path.
        watch: whether to reload by itself when the file changes; None is what the configuration says.
        inherited: listening sockets that a service manager has opened; they are closed with the balancer.
        heir: what a predecessor hands over; entering returns when it has done so.

    Raises:
        ConfigError: on construction, with every error at once.
        EngineError: on entering, when an address is in use or not permitted.
        ConfigError: on entering, when the access log cannot be opened.
    """

    def __init__(
        self,
        config: Config | Mapping[str, object] | str | Path,
        *,
        workers: Literal["thread", "process"] = "thread",
        on_change: Callable[[Change], None] = lambda _change: None,
        state_file: str | Path | None = None,
        file: str | Path | None = None,
        watch: bool | None = None,
        inherited: Inherited | None = None,
        heir: Heir | None = None,
    ) -> None:
        filed = config_of(config)
        self._journal = Journal()
        self._on_change = on_change
        in_processes = workers == "process"
        self.engine = engine_for(
            filed, self._journal, in_processes=in_processes, inherited=inherited, heir=heir
        )
        self._heir = heir
        self._access_log = AccessLog.of(filed, self._journal.trouble)
        self._registry = Registry(filed)
        self._pace = Pace(self._put_in_force)
        self._dead: set[str] = set()  # their sessions are closed once nobody gets new ones
        self._lookout = Lookout(self._registry, self._observed_by_probe, self._journal.trouble)
        place = state_place(filed, state_file)
        self._steering = Steering(
            filed,
            self._registry,
            self._lookout,
            self._journal,
            apply=self._apply,
            settled=self.engine.settled,
            changed=self._tell,
            keeper=Keeper(StateFile(place) if place else None, self._journal),
        )
        if file is None and isinstance(config, str | Path):
            file = config
        self._reloading = Reloading(
            self, self._journal, file=Path(file) if file else None, strategies=self.engine.strategies
        )
        self._watch = Watch(self._reloading, lambda: self.filed_config.watch if watch is None else watch)
        self._warden = Warden(
            self._registry, self.engine, self._journal, apply=self._pace.persist, spawn=self._spawn
        )
        self._drains = Drains(self._registry, self.engine, self._journal, spawn=self._spawn)
        self._teller = Teller(
            self._registry,
            self.engine,
            self._steering,
            self._journal.events,
            self.status,
            self._warden.writers,
        )
        self._upgrading = Upgrading(
            self.engine, self._steering, self._registry, self._reloading, self._warden.posts, self._journal
        )
        # A program that embeds the balancer gets an admin server only when its configuration names one.
        self._wants_admin = in_processes or "admin" in filed.model_fields_set
        self._admin: AdminServer | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_serving = False
        self._has_started = False
        self._is_draining = False
        self.started_at = 0.0

    async def __aenter__(self) -> Self:
        """Start, and return when clients are accepted."""
        self.started_at = time.time()
        try:
            refuse_if_lacking(self.config)
            heir = self._heir
            self._steering.start(heir.overrides() if heir is not None else None)
            if heir is not None:
                heir.leave_verdicts(self._registry)
                self._warden.inherit(heir.posts())
            if self._access_log is not None:
                self._access_log.start()
                self.engine.tell_every_session(self._access_log.take)
            await self.engine.start(self._reported)
            await self._lookout.start()
            self._is_serving = True
            self._apply()
            await self._make_admin()
            if heir is not None:
                await self._take_over(heir)
            if heir is None and self._admin is not None:
                await self._admin.start()
        except BaseException:
            await self.stop()
            raise
        self._spawn(self._every(RESOLVE_EVERY_S, self._follow_names))
        self._spawn(self._every(SLOW_START_STEP_S, self._follow_slow_start))
        self._spawn(self._every(1.0, self._journal.flush))
        self._spawn(self._every(1.0, self._steering.expire))
        self._spawn(self._every(1.0, lambda: self._drains.expire(time.monotonic())))
        self._spawn(self._every(LOOK_EVERY_S, self._follow_file))
        self._has_started = True
        if heir is None:
            self._journal.tell(Kind.STARTED, "", _started_words(self.status()))
        else:
            self._journal.tell(Kind.UPGRADED, "", heir.words())
        return self

    async def _take_over(self, heir: Heir) -> None:
        assert isinstance(self.engine, HandsOver)  # noqa: S101 - made with what the predecessor has left
        has_admin = self._admin is not None and heir.has_given_admin
        await heir.take_over(self.engine, dropped={"dropped": self.engine.dropped(), "admin": has_admin})
        # The sessions are ours: whatever goes wrong from here on is no reason to end them.
        try:
            self._warden.inherit(heir.posts())
            self._apply()
            self._journal.events.restore(heir.events())
            if self._admin is not None:
                await self._admin.start()
        except Exception as error:  # noqa: BLE001 - whatever it was
            log.exception("the sessions are taken over, but not everything else")
            self._journal.trouble(f"after taking over: {error!r}")
        await heir.say_serving()

    async def __aexit__(self, *_: object) -> None:
        """End at once."""
        await self.stop()

    async def stop(self) -> None:
        """End every session, the workers, the probes and the admin server."""
        await self._upgrading.abort()
        is_ours = self._upgrading.successor is None and (self._heir is None or self._heir.is_done)
        if self._has_started and is_ours:  # of one that could not start, only the error is told
            self._journal.tell(Kind.STOPPED, "", "every session is closed")
        self._is_serving = self._has_started = False
        self._pace.cancel()
        self._journal.events.close()
        async with AsyncExitStack() as ends:  # from the last to the first, each also when another has trouble
            if self._access_log is not None:
                ends.push_async_callback(self._access_log.stop)
            ends.push_async_callback(self.engine.stop)
            ends.push_async_callback(self._lookout.stop)
            if self._admin is not None:
                ends.push_async_callback(self._admin.stop)
            self._admin = None
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def reopen_logs(self) -> None:
        """Go on in a new file: that of the access log was moved away."""
        if self._access_log is not None:
            self._access_log.reopen()

    async def upgrade(self, author: Author) -> str:
        """Start the new program and hand everything over, established sessions included; this one ends then.

        Raises:
            RefusedError: this program cannot be relieved, or its successor has failed; it goes on as before.
        """
        if self._is_draining:
            raise RefusedError("this program is ending")
        return await self._upgrading.run(author, self._admin)

    @property
    def upgrading(self) -> Upgrading:
        """Whether and by whom this program is relieved."""
        return self._upgrading

    async def drain(self, deadline_s: float | None = None) -> None:
        """Take no new sessions; return when the last has ended, or was closed at the deadline (seconds)."""
        self._is_draining = True
        await self._upgrading.abort()
        deadline_s = self.config.drain_timeout if deadline_s is None else deadline_s
        self._journal.tell(Kind.DRAINING, "", f"no new sessions; those that stand have {deadline_s:g} s")
        await self.engine.drain(deadline_s)

    # -- what only programs that embed it need

    @property
    def admin_address(self) -> Address | None:
        """Where the admin server listens; None without one."""
        return self._admin.address if self._admin is not None else None

    async def reload(self, config: Config | Mapping[str, object] | str | Path) -> None:
        """Put another configuration in force as a whole; established sessions stay where they are.

        New backends are probed first, and what operators have laid over the former one stays (:meth:`overrides`).
        ``workers``, ``admin``, ``log`` and ``state_file`` keep their values until the next start.

        Raises:
            ConfigError: it is wrong; nothing changes.
            EngineError: an address cannot be had; nothing changes.
        """
        source = str(config) if isinstance(config, str | Path) else ""
        await self.put_in_force(config_of(config), source=source)
        self._journal.tell(Kind.RELOADED, source, "another configuration is in force")

    async def put_in_force(self, config: Config, *, source: str) -> None:
        """Do what :meth:`reload` does, and leave it to the caller to tell of it; ``source`` says where it comes from."""
        refuse_if_lacking(config)
        await super().put_in_force(config, source=source)

    # -- what comes in

    def _reported(self, report: Report) -> None:
        if isinstance(report, Observation):
            self._take(report, from_traffic=True)
            self._lookout.hurry(report.backend)
        else:
            self._journal.end(report)

    def _observed_by_probe(self, observation: Observation) -> None:
        self._take(observation, from_traffic=False)

    def _take(self, observation: Observation, *, from_traffic: bool) -> None:
        known = self._registry.news
        change = self._registry.observe(observation, time.monotonic(), from_traffic=from_traffic)
        if self._is_serving and (change is not None or self._registry.news != known):
            if change is not None and change.is_healthy is False:
                # Also one that an operator is draining: its sessions hang on a dead server all the same.
                pool = self._registry.entries[change.backend].pool
                if self.config.pools[pool].close_sessions_on_down:
                    self._dead.add(change.backend)
            self._pace.soon()
        if change is not None:
            self._tell(change, None)

    def _tell(self, change: Change, author: Author | None) -> None:
        self._journal.change(change, author)
        if change.state == change.was:
            return
        if self._is_serving and change.state in STANCES.values():
            self._spawn(self._drains.tell_who_stays(change.backend))
        try:
            self._on_change(change)
        except Exception:  # noqa: BLE001 - a user's function may raise anything
            log.exception("on_change failed", extra={"backend": change.backend})

    def _apply(self) -> None:
        self._pace.now()

    def _put_in_force(self) -> None:
        if self._is_serving:
            self._warden.look()
            self.engine.apply(self._registry.snapshot(time.monotonic(), self._warden.writers()))
            self._warden.in_force()
            self._drains.look(time.monotonic(), time.time())
            while self._dead:
                self._spawn(self._close_sessions_of_dead(self._dead.pop()))

    async def _close_sessions_of_dead(self, backend: str) -> None:
        try:
            await self.engine.close_sessions(Where(backend=backend), "backend_down")
        except EngineError as error:
            self._journal.trouble(f"{backend} is down, and its sessions are still open: {error}")

    # -- what goes on by itself

    def _spawn(self, work: Coroutine[object, None, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed", exc_info=error)

    @staticmethod
    async def _every(seconds: float, step: Callable[[], object]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                result = step()
                if asyncio.iscoroutine(result):
                    await result
            except Exception:  # noqa: BLE001 - whatever it was, the next turn may go well
                log.exception("a periodic task failed; it goes on")

    def _follow_slow_start(self) -> None:
        if self._registry.is_any_rising(time.monotonic()):
            self._pace.persist()

    async def _follow_file(self) -> None:
        if not self._is_draining:
            await self._reloading.look()
            await self._watch.look()

    async def _follow_names(self) -> None:
        if await self._lookout.follow_names():
            self._pace.persist()

    async def _make_admin(self) -> None:
        """Take the admin server's address; it answers later."""
        admin = self.config.admin
        if admin is None or not self._wants_admin:
            return
        # FastAPI and uvicorn are loaded only by those who use them.
        from easyproxy.admin.server import AdminServer  # noqa: PLC0415

        server = AdminServer(
            self,
            admin.bind,
            token=read_token(admin),
            hosts=admin.hosts,
            haproxy_compatible=admin.haproxy_compatible,
        )
        self._admin = server
        await server.bind(self._heir.admin_socket(str(admin.bind)) if self._heir is not None else None)


def _started_words(status: Status) -> str:
    ready = sum(backend.state == "ready" for pool in status.pools for backend in pool.backends)
    total = sum(len(pool.backends) for pool in status.pools)
    return f"version {status.version}, {ready} of {total} backends ready"
