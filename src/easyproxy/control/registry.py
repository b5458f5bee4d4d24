"""The registry: the one place where what is known of every backend is written down.

Observations and addresses come in; changes of state and snapshots go out. No I/O and no tasks: the balancer calls
it, in one event loop, and carries out what follows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from easyproxy.control.compose import Standing, backend_id, compose
from easyproxy.engine.seam import Outcome
from easyproxy.health.verdict import INITIAL, Rule, Verdict, judge

if TYPE_CHECKING:
    from easyproxy.config.schema import BackendConfig, Config, PoolConfig
    from easyproxy.engine.seam import Observation
    from easyproxy.model import Address, Snapshot

TRAFFIC_COUNTS = frozenset({Outcome.REFUSED, Outcome.TIMEOUT, Outcome.SUCCESS})
"""What live traffic may say of a healthy backend. A reset may be the client's doing, and only probes bring one back."""


@dataclass(slots=True)
class Entry:
    """One backend as the registry keeps it."""

    id: str
    pool: str
    config: BackendConfig
    rule: Rule
    is_checked: bool
    address: Address | None = None
    verdict: Verdict = field(default=INITIAL)
    rising_since: float = 0.0

    @property
    def state(self) -> str:
        """The word of the status: ready, down or checking."""
        if self.address is None:
            return "down"
        if not self.is_checked:
            return "ready"
        if self.verdict.healthy is None:
            return "checking"
        return "ready" if self.verdict.healthy else "down"


@dataclass(frozen=True, slots=True)
class Change:
    """A backend has changed its state."""

    backend: str
    state: str
    reason: str


class Registry:
    """What is known of the backends of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.entries: dict[str, Entry] = {}
        self._version = 0
        self._snapshot: Snapshot | None = None
        self.entries = self.entries_for(config)

    def entries_for(self, config: Config) -> dict[str, Entry]:
        """Make the entries of a configuration; a backend that stays where it was keeps what is known of it."""
        entries: dict[str, Entry] = {}
        for pool_name, pool in config.pools.items():
            for backend in pool.backends:
                entry = _entry(pool_name, pool, backend)
                known = self.entries.get(entry.id)
                if known is not None and known.config.address == backend.address:
                    entry.address = known.address
                    entry.rising_since = known.rising_since
                    if entry.is_checked and known.is_checked:
                        entry.verdict = known.verdict
                entries[entry.id] = entry
        return entries

    def knows(self, entry: Entry) -> bool:
        """Whether the backend of an entry is here already, at the same place, and checked if it is to be."""
        known = self.entries.get(entry.id)
        return (
            known is not None
            and known.config.address == entry.config.address
            and known.is_checked == entry.is_checked
        )

    def replace(self, config: Config, entries: dict[str, Entry]) -> None:
        """Put another configuration in force, with entries made by :meth:`entries_for`."""
        self.config = config
        self.entries = entries

    def locate(self, backend: str, address: Address | None) -> None:
        """Note where a backend is; None when its name cannot be resolved."""
        self.entries[backend].address = address

    def observe(self, observation: Observation, now: float, *, from_traffic: bool = False) -> Change | None:
        """Take one observation; return the change of state that it led to.

        Args:
            observation: of a backend that may be gone by now; then it is ignored.
            now: seconds of a monotonic clock, for slow start.
            from_traffic: it was not a probe: only what :data:`TRAFFIC_COUNTS` lists counts.
        """
        entry = self.entries.get(observation.backend)
        if entry is None or not entry.is_checked:
            return None
        if from_traffic and (observation.outcome not in TRAFFIC_COUNTS or not entry.verdict.healthy):
            return None
        before, was = entry.verdict.healthy, entry.state
        entry.verdict = judge(entry.verdict, observation, entry.rule)
        if entry.verdict.healthy and before is False:
            entry.rising_since = now
        if entry.state == was:
            return None
        return Change(entry.id, entry.state, entry.verdict.reason)

    def is_changing(self, backend: str) -> bool:
        """Whether a backend's verdict is changing."""
        entry = self.entries.get(backend)
        return entry is not None and entry.verdict.is_changing

    def is_any_rising(self, now: float) -> bool:
        """Whether a backend is in slow start."""
        return any(
            entry.rising_since and now - entry.rising_since <= self.config.pools[entry.pool].slow_start + 1
            for entry in self.entries.values()
        )

    def standing(self, backend: str) -> Standing:
        """What the composition needs to know of a backend."""
        entry = self.entries[backend]
        return Standing(entry.state == "ready", entry.address, entry.rising_since)

    def snapshot(self, now: float) -> Snapshot:
        """Return the snapshot that follows from what is known; its version grows only when it differs."""
        standings = {backend: self.standing(backend) for backend in self.entries}
        fresh = compose(self.config, standings, now, self._version)
        if self._snapshot is None or fresh != self._snapshot:
            self._version += 1
            self._snapshot = compose(self.config, standings, now, self._version)
        return self._snapshot


def _entry(pool_name: str, pool: PoolConfig, backend: BackendConfig) -> Entry:
    return Entry(
        id=backend_id(pool_name, backend),
        pool=pool_name,
        config=backend,
        rule=Rule(pool.check.rise, pool.check.fall),
        is_checked=pool.check.type != "none",
        address=backend.address if backend.address.is_numeric else None,
    )
