"""The balancer put together: configuration, registry, health, engine, admin server. The same for programs and `run`.

Everything meets here and nothing is decided here: the registry knows, the pure parts judge, the engine moves bytes.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from easyproxy.config.load import from_dict, load, read_token
from easyproxy.config.schema import Config
from easyproxy.control.journal import Journal, log
from easyproxy.control.overview import clients_of, overview
from easyproxy.control.registry import Registry
from easyproxy.discovery.names import RESOLVE_EVERY_S, resolve
from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.seam import Engine, Observation, Report, SessionInfo, Statistics, Where
from easyproxy.errors import ConfigError, Problem
from easyproxy.health.checks import make as make_check
from easyproxy.health.checks.base import Target
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from easyproxy.admin.server import AdminServer
    from easyproxy.control.registry import Change, Entry
    from easyproxy.control.status import ClientStatus, Status

SLOW_START_STEP_S = 0.5


class Balancer:
    """A TCP load balancer inside this program: ``async with Balancer(config) as balancer: ...``.

    Entering starts everything and returns when clients are accepted: the first probe of every backend has been
    judged by then. Leaving ends every session at once; call :meth:`drain` before to let them finish.

    Args:
        config: a :class:`Config`, a mapping of the same shape, or the path of a configuration file.
        workers: ``thread`` runs one relay loop in a thread of this program; ``process`` runs the configured number
            of worker processes.
        on_change: called with every change of a backend's state.

    Raises:
        ConfigError: on construction, with every error at once.
        EngineError: on entering, when an address is in use or not permitted.
    """

    def __init__(
        self,
        config: Config | Mapping[str, object] | str | Path,
        *,
        workers: Literal["thread", "process"] = "thread",
        on_change: Callable[[Change], None] = lambda _change: None,
    ) -> None:
        self.config = _config(config)
        self._journal = Journal()
        self._on_change = on_change
        in_processes = workers == "process"
        self.engine: Engine = RelayEngine(
            workers=worker_count(self.config) if in_processes else 1,
            processes=in_processes,
            orphan_drain_s=self.config.drain_timeout,
            complain=self._journal.trouble,
        )
        self._registry = Registry(self.config)
        self._monitor = Monitor(self._observed_by_probe, self._registry.is_changing)
        # A program that embeds the balancer gets an admin server only when its configuration names one.
        self._wants_admin = in_processes or "admin" in self.config.model_fields_set
        self._admin: AdminServer | None = None
        self._tasks: set[asyncio.Task[object]] = set()
        self._reloading = asyncio.Lock()
        self._is_serving = False
        self.started_at = 0.0

    async def __aenter__(self) -> Self:
        """Start, and return when clients are accepted."""
        self.started_at = time.time()
        try:
            await self.engine.start(self._reported)
            await self._resolve_names(self._registry, self._registry.entries)
            self._monitor.watch(self._targets(self.config, self._registry.entries))
            await self._monitor.first_round()
            self._is_serving = True
            self._apply()
            await self._start_admin()
        except BaseException:
            await self.stop()
            raise
        self._spawn(self._every(RESOLVE_EVERY_S, self._follow_names))
        self._spawn(self._every(SLOW_START_STEP_S, self._follow_slow_start))
        self._spawn(self._every(1.0, self._journal.flush))
        return self

    async def __aexit__(self, *_: object) -> None:
        """End at once."""
        await self.stop()

    async def stop(self) -> None:
        """End every session, the workers, the probes and the admin server."""
        self._is_serving = False
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._admin is not None:
            await self._admin.stop()
            self._admin = None
        await self._monitor.stop()
        await self.engine.stop()

    async def drain(self, deadline_s: float | None = None) -> None:
        """Take no new sessions; return when the last has ended, or was closed at the deadline (seconds)."""
        await self.engine.drain(self.config.drain_timeout if deadline_s is None else deadline_s)

    # -- what users read

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each listener really listens, by name."""
        return self.engine.addresses()

    @property
    def admin_address(self) -> Address | None:
        """Where the admin server listens; None without one."""
        return self._admin.address if self._admin is not None else None

    def status(self) -> Status:
        """Everything but sessions and clients, at this moment."""
        return overview(
            self._registry,
            self.engine.statistics(),
            self.engine.addresses(),
            engine=self.engine.name,
            started_at=self.started_at,
            now=time.time(),
            clock=time.monotonic(),
        )

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

    # -- changing it

    async def reload(self, config: Config | Mapping[str, object] | str | Path) -> None:
        """Put another configuration in force as a whole; established sessions stay where they are.

        New backends are probed first. ``workers``, ``admin`` and ``log`` keep their values until the next start.

        Raises:
            ConfigError: it is wrong; nothing changes.
            EngineError: an address cannot be had; nothing changes.
        """
        fresh = _config(config)
        async with self._reloading:
            # What is new is resolved and probed apart; the old configuration serves meanwhile, and follows its health.
            trial = Registry(fresh)
            self._targets(
                fresh, trial.entries
            )  # raises before anything is touched when a check cannot be made
            new = {key: entry for key, entry in trial.entries.items() if not self._registry.knows(entry)}
            await self._resolve_names(trial, new)
            await self._look_at(trial, new)
            old = self._registry.config, self._registry.entries
            entries = {**self._registry.entries_for(fresh), **new}
            self._registry.replace(fresh, {key: entries[key] for key in trial.entries})
            try:
                self._apply()
            except BaseException:
                self._registry.replace(*old)
                raise
            self.config = fresh
            self._monitor.watch(self._targets(fresh, self._registry.entries))

    async def _look_at(self, trial: Registry, new: Mapping[str, Entry]) -> None:
        """Probe these backends once, so that the first verdict stands before the first client comes."""

        def observe(observation: Observation) -> None:
            trial.observe(observation, time.monotonic())

        monitor = Monitor(observe, trial.is_changing)
        monitor.watch(self._targets(trial.config, new))
        try:
            await monitor.first_round()
        finally:
            await monitor.stop()

    # -- what comes in

    def _reported(self, report: Report) -> None:
        if isinstance(report, Observation):
            self._take(report, from_traffic=True)
            if self._registry.is_changing(report.backend):
                self._monitor.hurry(report.backend)
        else:
            self._journal.end(report)

    def _observed_by_probe(self, observation: Observation) -> None:
        self._take(observation, from_traffic=False)

    def _take(self, observation: Observation, *, from_traffic: bool) -> None:
        change = self._registry.observe(observation, time.monotonic(), from_traffic=from_traffic)
        if change is not None:
            self._changed(change)

    def _changed(self, change: Change) -> None:
        self._journal.change(change)
        if self._is_serving:
            self._apply()
            entry = self._registry.entries[change.backend]
            if change.state == "down" and self._registry.config.pools[entry.pool].close_sessions_on_down:
                self._spawn(self.engine.close_sessions(Where(backend=change.backend), "backend_down"))
        try:
            self._on_change(change)
        except Exception:  # noqa: BLE001 - a user's function may raise anything
            log.exception("on_change failed", extra={"backend": change.backend})

    def _apply(self) -> None:
        self.engine.apply(self._registry.snapshot(time.monotonic()))

    # -- what goes on by itself

    def _spawn(self, work: Coroutine[object, None, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if self._is_serving and self._registry.is_any_rising(time.monotonic()):
            self._apply()

    async def _follow_names(self) -> None:
        entries = self._registry.entries
        if (
            await self._resolve_names(self._registry, entries)
            and self._is_serving
            and entries is self._registry.entries
        ):
            self._monitor.watch(self._targets(self._registry.config, entries))
            self._apply()

    async def _resolve_names(self, registry: Registry, entries: Mapping[str, Entry]) -> bool:
        """Ask for every name; return whether an address changed. A failure keeps the address that was known."""
        named = [entry for entry in entries.values() if not entry.config.address.is_numeric]
        answers = await asyncio.gather(
            *(resolve(entry.config.address, entry.address) for entry in named), return_exceptions=True
        )
        is_changed = False
        for entry, answer in zip(named, answers, strict=True):
            if registry.entries.get(entry.id) is not entry:
                continue  # a reload has come in between
            if isinstance(answer, Address):
                is_changed |= answer != entry.address
                registry.locate(entry.id, answer)
            elif entry.address is None:
                self._journal.trouble(f"backend {entry.id}: {answer}")
        return is_changed

    def _targets(self, config: Config, entries: Mapping[str, Entry]) -> list[Target]:
        targets = []
        for entry in entries.values():
            check = config.pools[entry.pool].check
            if not entry.is_checked:
                continue
            try:
                made = make_check(check.type, check.options())
            except ValueError as error:
                raise ConfigError([Problem("", f"pools.{entry.pool}.check", str(error))]) from error
            if entry.address is None:
                continue
            address = entry.address
            if check.port and not address.path:
                address = Address(address.host, check.port)
            targets.append(
                Target(
                    backend=entry.id,
                    pool=entry.pool,
                    name=entry.config.name,
                    address=address,
                    check=made,
                    interval_s=check.interval,
                    fast_interval_s=check.fast_interval,
                    timeout_s=check.timeout,
                    jitter=check.jitter,
                    host=entry.config.address.host,
                )
            )
        return targets

    async def _start_admin(self) -> None:
        admin = self.config.admin
        if admin is None or not self._wants_admin:
            return
        # FastAPI and uvicorn are loaded only by those who use them.
        from easyproxy.admin.server import AdminServer  # noqa: PLC0415

        server = AdminServer(
            self, admin.bind, token=read_token(admin), haproxy_compatible=admin.haproxy_compatible
        )
        await server.start()
        self._admin = server


def _config(source: Config | Mapping[str, object] | str | Path) -> Config:
    if isinstance(source, Config):
        return source
    strategies = RelayEngine.strategies
    if isinstance(source, str | Path):
        return load(source, strategies=strategies)
    return from_dict(source, strategies=strategies)


def worker_count(config: Config) -> int:
    """Resolve ``workers: auto``: one for each CPU that this process may use."""
    if isinstance(config.workers, int):
        return config.workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
