"""The registry: the one place where what is known of every backend is written down.

Observations and addresses come in; changes of state and snapshots go out. No I/O and no tasks: the balancer calls
it, in one event loop, and carries out what follows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from easyproxy.control.compose import Standing, backend_id, compose
from easyproxy.control.operations import Action
from easyproxy.control.overrides import STANCES
from easyproxy.control.roles import PRIMARY, REPLICA, lags
from easyproxy.engine.seam import Outcome
from easyproxy.health.verdict import INITIAL, Rule, Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from easyproxy.config.schema import BackendConfig, Config, PoolConfig
    from easyproxy.control.operations import Override
    from easyproxy.engine.seam import Facts, Observation
    from easyproxy.model import Address, Snapshot

TRAFFIC_COUNTS = frozenset({Outcome.REFUSED, Outcome.TIMEOUT, Outcome.SUCCESS})
"""What live traffic may say of a healthy backend. A reset may be the client's doing, and only probes bring one back."""

REMEMBERED = 20
"""Observations that are kept of each backend, to explain its state."""


@dataclass(slots=True)
class Entry:
    """One backend as the registry keeps it.

    Attributes:
        unresolved: why its name could not be resolved when it was asked for last, as was told; empty where it could.
        rising_since: when it came back, for slow start, in seconds of the registry's clock; 0 for none.
        stance: the drain or maintenance that an operator has laid over it.
        stance_since: when that began or ended, in seconds since the epoch.
        is_returning: it comes back from maintenance: the next success counts as its return.
        seen: its newest observations, the oldest first.
        facts: what its last successful probe has learnt; None where the check learns nothing.
        role_since: when it began to say what it is, in seconds since the epoch.
        is_lagging: as a replica it is further behind than its check allows.
        was_lagging: what that was when its lag was last known.
        is_unconfirmed: its role is what it said before; its last probe could not see it.
        current_at: when its lag was last known, or it was no replica, or nobody wrote, in seconds since the epoch; 0 while it was never known.
    """

    id: str
    pool: str
    config: BackendConfig
    rule: Rule
    is_checked: bool
    address: Address | None = None
    unresolved: str = ""
    verdict: Verdict = field(default=INITIAL)
    rising_since: float = 0.0
    stance: Override | None = None
    stance_since: float = 0.0
    is_returning: bool = False
    seen: deque[Observation] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    max_lag_s: float | None = None
    facts: Facts | None = None
    role_since: float = 0.0
    is_lagging: bool = False
    was_lagging: bool = False
    is_unconfirmed: bool = False
    current_at: float = 0.0

    @property
    def role(self) -> str:
        """What it said last that it is; empty where it does not say."""
        return self.facts.role if self.facts is not None else ""

    @property
    def is_doubtful(self) -> bool:
        """Whether it has not answered its last probe, or not said again what it is."""
        is_silent = self.verdict.last is not None and self.verdict.last.outcome is not Outcome.SUCCESS
        return is_silent or self.is_unconfirmed

    @property
    def role_standing(self) -> tuple[str, int, bool, bool]:
        """What roles and failovers go by, besides its state."""
        timeline = self.facts.timeline if self.facts is not None else 0
        return self.role, timeline, self.is_lagging, self.is_doubtful

    @property
    def is_healthy(self) -> bool | None:
        """What the verdict says, whatever the operator says; None without a verdict."""
        return self.verdict.healthy if self.is_checked else None

    @property
    def is_probed(self) -> bool:
        """Whether anybody is to look at it: it has a check, and is not in maintenance."""
        return self.is_checked and (self.stance is None or self.stance.action is not Action.MAINTENANCE)

    @property
    def since(self) -> float:
        """When its state last changed, in seconds since the epoch."""
        return self.stance_since if self.stance else max(self.verdict.since, self.stance_since)

    @property
    def reason(self) -> str:
        """Why it is in its state, in words."""
        if self.stance is not None:
            author = self.stance.author
            return f"by {author.who}" + (f": {author.why}" if author.why else "")
        if self.address is None:
            return "its name cannot be resolved"
        return self.verdict.reason if self.is_checked else "no check is configured"

    @property
    def state(self) -> str:
        """The word of the status. What the operator says stands before what the verdict says."""
        if self.stance is not None:
            return STANCES[self.stance.action]
        if self.address is None:
            return "down"
        if not self.is_checked:
            return "ready"
        if self.verdict.healthy is None:
            return "checking"
        return "ready" if self.verdict.healthy else "down"


@dataclass(frozen=True, slots=True)
class Change:
    """A backend has changed its state, or its health in the same state (``was``) while an operator keeps it out."""

    backend: str
    state: str
    reason: str
    was: str = ""
    is_healthy: bool | None = None


class Registry:
    """What is known of the backends of one configuration."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.entries: dict[str, Entry] = {}
        self.news = 0  # how often a role, a lag or a doubt has changed
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
                    entry.address, entry.unresolved = known.address, known.unresolved
                    entry.rising_since = known.rising_since
                    if entry.is_checked == known.is_checked:
                        entry.verdict = known.verdict
                        entry.is_returning = known.is_returning
                        entry.seen = known.seen
                        entry.facts, entry.role_since = known.facts, known.role_since
                        entry.is_lagging, entry.was_lagging = known.is_lagging, known.was_lagging
                        entry.current_at = known.current_at
                if known is not None:
                    entry.stance, entry.stance_since = known.stance, known.stance_since
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

    def replace(self, config: Config, entries: dict[str, Entry], now: float) -> None:
        """Put another configuration in force, with entries made by :meth:`entries_for`.

        Those that nobody has looked at are as they are since ``now``, in seconds since the epoch.
        """
        for entry in entries.values():
            if not entry.verdict.since:
                entry.verdict = replace(entry.verdict, since=now)
        self.config = config
        self.entries = entries

    def take_stances(self, stances: Mapping[str, Override], now: float) -> list[Change]:
        """Take over the drains and maintenances of operators, by backend; return what changed its state.

        A backend in maintenance is not looked at, so its verdict is forgotten: the first probe afterwards decides.

        Args:
            stances: all of them; who is not named is restored.
            now: seconds since the epoch.
        """
        changes = []
        for entry in self.entries.values():
            stance, was = stances.get(entry.id), entry.state
            if stance == entry.stance:
                continue
            was_probed, entry.stance = entry.is_probed, stance
            if was_probed != entry.is_probed:
                reason = (
                    "not probed since its maintenance" if entry.is_probed else "in maintenance, not probed"
                )
                entry.verdict = replace(entry.verdict, healthy=None, streak=0, since=now, reason=reason)
                entry.is_returning = entry.is_probed
            if entry.state != was:
                entry.stance_since = stance.at if stance is not None else now
                changes.append(Change(entry.id, entry.state, entry.reason, was, entry.is_healthy))
        return changes

    def locate(self, backend: str, address: Address | None) -> None:
        """Note where a backend is; None when its name cannot be resolved."""
        entry = self.entries[backend]
        entry.address, entry.unresolved = address, ""

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
        before, was, stood = entry.verdict.healthy, entry.state, entry.role_standing
        entry.seen.append(observation)
        entry.verdict = judge(entry.verdict, observation, entry.rule)
        if observation.facts is not None:
            self._learn(entry, observation.facts, observation.at, was_healthy=before is True)
        self.news += entry.role_standing != stood
        if entry.verdict.healthy and (before is False or entry.is_returning):
            entry.rising_since = now
            entry.is_returning = False
        if entry.state == was:
            is_news = entry.verdict.healthy != before and False in (entry.verdict.healthy, before)
            if entry.stance is None or not is_news:  # the first look that finds all well is none
                return None
        return Change(entry.id, entry.state, entry.verdict.reason, was, entry.is_healthy)

    def _learn(self, entry: Entry, facts: Facts, at: float, *, was_healthy: bool) -> None:
        """Take over what a probe has learnt.

        A server that has not been away and does not let us see any more what it is (a password has changed) stays what it was:
        that must not take it away from its clients. If another says the same of itself, it is the doubtful one.
        """
        entry.is_unconfirmed = was_healthy and not facts.role and bool(entry.role)
        if entry.is_unconfirmed:
            facts = replace(facts, role=entry.role)
        if facts.role != entry.role:
            entry.role_since = at
        entry.facts = facts
        if facts.lag_s >= 0 or facts.role != REPLICA:
            entry.is_lagging = entry.was_lagging = lags(entry.is_lagging, facts, entry.max_lag_s)
            entry.current_at = at
            return
        if entry.current_at and not self._is_written_to(entry.pool):
            entry.current_at = at
        unknown_s = at - entry.current_at if entry.current_at else 0.0
        entry.is_lagging = lags(entry.was_lagging, facts, entry.max_lag_s, unknown_s)

    def _is_written_to(self, pool: str) -> bool:
        """Whether a primary lives: without one nothing is written that a replica could miss."""
        return any(
            one.pool == pool and one.role == PRIMARY and one.state == "ready" and not one.is_doubtful
            for one in self.entries.values()
        )

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
        return Standing(
            entry.state == "ready",
            entry.address,
            entry.rising_since,
            entry.role,
            entry.is_lagging,
            keeps_sessions=entry.stance is None,
        )

    def snapshot(self, now: float, writers: Collection[str] = ()) -> Snapshot:
        """Return the snapshot that follows from what is known; its version grows only when it differs.

        ``writers`` are the backends that may take writes, for listeners with ``role: primary``.
        """
        standings = {backend: self.standing(backend) for backend in self.entries}
        fresh = compose(self.config, standings, now, self._version, writers)
        if self._snapshot is None or fresh != self._snapshot:
            self._version += 1
            self._snapshot = replace(fresh, version=self._version)
        return self._snapshot


def _entry(pool_name: str, pool: PoolConfig, backend: BackendConfig) -> Entry:
    return Entry(
        id=backend_id(pool_name, backend),
        pool=pool_name,
        config=backend,
        rule=Rule(pool.check.rise, pool.check.fall),
        is_checked=pool.check.type != "none",
        address=backend.address if backend.address.is_numeric else None,
        max_lag_s=getattr(pool.check, "max_lag", None),
    )
