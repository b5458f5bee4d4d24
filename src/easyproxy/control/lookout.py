"""Who is looked at, and where: names become addresses, entries become targets, newcomers are probed apart.

An asyncio edge between the registry, the resolver and the monitor; it judges nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from easyproxy.discovery.names import resolve
from easyproxy.errors import ConfigError, Problem
from easyproxy.health.checks import CHECKS
from easyproxy.health.checks import make as make_check
from easyproxy.health.checks.base import Target
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from easyproxy.config.schema import Config
    from easyproxy.control.registry import Entry, Registry
    from easyproxy.engine.seam import Observation
    from easyproxy.health.checks.base import Check


class Lookout:
    """Looks at the backends of one registry.

    Args:
        registry: whose entries are watched; their addresses are written there.
        observe: takes the observation of every probe.
        complain: takes a line of text when a name cannot be resolved, once for each reason.
    """

    def __init__(
        self, registry: Registry, observe: Callable[[Observation], None], complain: Callable[[str], None]
    ) -> None:
        self._registry = registry
        self._complain = complain
        self._monitor = Monitor(observe, registry.is_changing)

    def watch(self) -> None:
        """Watch exactly the entries that the registry has now. Raises ConfigError when a check cannot be made."""
        self._monitor.watch(targets(self._registry.config, self._registry.entries))

    async def start(self) -> None:
        """Resolve every name and wait until every backend was looked at once."""
        await self.resolve_names(self._registry, self._registry.entries)
        self.watch()
        await self._monitor.first_round()

    async def stop(self) -> None:
        """Look no longer."""
        await self._monitor.stop()

    def hurry(self, backend: str) -> None:
        """Look at a backend soon, because its verdict is changing."""
        if self._registry.is_changing(backend):
            self._monitor.hurry(backend)

    async def follow_names(self) -> bool:
        """Ask for every name again; return whether an address changed, and watch it there."""
        entries = self._registry.entries
        is_changed = await self.resolve_names(self._registry, entries)
        if not is_changed or entries is not self._registry.entries:
            return False
        self.watch()
        return True

    async def look_at(self, trial: Registry, new: Mapping[str, Entry]) -> None:
        """Resolve and probe newcomers once, so that the first verdict stands before the first client comes."""
        await self.resolve_names(trial, new)

        def observe(observation: Observation) -> None:
            trial.observe(observation, time.monotonic())

        monitor = Monitor(observe, trial.is_changing)
        monitor.watch(targets(trial.config, new))
        try:
            await monitor.first_round()
        finally:
            await monitor.stop()

    async def resolve_names(self, registry: Registry, entries: Mapping[str, Entry]) -> bool:
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
            elif entry.unresolved != (why := str(answer)):  # it is asked for every ten seconds
                entry.unresolved = why
                kept = f"; it stays at {entry.address}" if entry.address is not None else ""
                self._complain(f"backend {entry.id}: {why}{kept}")
        return is_changed


def targets(config: Config, entries: Mapping[str, Entry]) -> list[Target]:
    """Make what the monitor watches: every entry that has a check, an address, and is not in maintenance.

    Raises:
        ConfigError: a check cannot be made.
    """
    found = []
    ours: dict[str, Check] = {}  # by pool: what they keep is kept by server, of a user's own nobody knows
    for entry in entries.values():
        check = config.pools[entry.pool].check
        if not entry.is_checked:
            continue
        made = ours.get(entry.pool)
        if made is None:
            try:
                made = make_check(check.type, check.options())
            except ValueError as error:
                raise ConfigError([Problem("", f"pools.{entry.pool}.check", str(error))]) from error
            if check.type in CHECKS:
                ours[entry.pool] = made
        if entry.address is None or not entry.is_probed:
            continue
        address = entry.address
        if check.port and not address.path:
            address = Address(address.host, check.port)
        found.append(
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
    return found
