"""How a reload does while nobody has confirmed it: what was before it, and whether it has become worse since.

Reads counters and states; the rule itself stands in :mod:`.worse`, and what follows from it in :mod:`.reloading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from easyproxy.config.words import format_duration
from easyproxy.control.plan import changed_pools
from easyproxy.control.worse import WINDOW_S, Connects, Record, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easyproxy.config.load import Source
    from easyproxy.config.schema import Config
    from easyproxy.control.operations import Override
    from easyproxy.control.status import Status
    from easyproxy.engine.seam import Statistics


class InForce(Protocol):
    """What reloading needs of the balancer."""

    @property
    def config(self) -> Config:
        """What is in force, overrides included."""

    @property
    def filed_config(self) -> Config:
        """The same as the file said it."""

    async def put_in_force(self, config: Config, *, source: str) -> None:
        """Serve another file's configuration from now on, as a whole; raises and changes nothing when it cannot."""

    def overrides(self) -> list[Override]:
        """What operators have laid over the file."""

    def statistics(self) -> Statistics:
        """The counters now."""

    def status(self) -> Status:
        """What is ready now."""


@dataclass(frozen=True, slots=True)
class Before:
    """How it was before a reload: connects and ready backends by pool."""

    connects: Mapping[str, Connects]
    ready: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Applied:
    """The last reload that changed something, and what is needed to judge it and to undo it.

    Attributes:
        at: when it came into force, by the monotonic clock.
        rollback_after_s: 0 when it needs nobody to confirm it.
    """

    former: Config
    config: Config
    source: Source
    before: Before
    at: float
    rollback_after_s: float


class Probation:
    """Looks at the counters, seldom while all is well and each second while a reload is unconfirmed."""

    def __init__(self, balancer: InForce) -> None:
        self._balancer = balancer
        self._record = Record()
        self._last_look = float("-inf")

    def look_seldom(self, now: float) -> None:
        """Look when the last look is long ago: what was before is only compared, and counters cost time."""
        if now - self._last_look >= WINDOW_S:
            self._look(now)

    def before(self, now: float) -> Before:
        """Say how it is, just before a reload."""
        self._look(now)
        return Before(self._record.connects(), self._ready())

    def begin(self, now: float) -> None:
        """Count what comes from now on as what comes after the reload."""
        self._look(now)

    def why_back(self, applied: Applied, now: float) -> str:
        """Say why an unconfirmed reload should go back; empty when it need not yet."""
        self._look(now)
        why = verdict(
            changed_pools(applied.former, applied.config),
            before=applied.before.connects,
            after=self._record.connects(applied.at),
            ready_before=applied.before.ready,
            ready_now=self._ready(),
        )
        if not why and now >= applied.at + applied.rollback_after_s:
            why = f"nobody confirmed it within {format_duration(applied.rollback_after_s)}"
        return why

    def _look(self, now: float) -> None:
        self._last_look = now
        self._record.look(now, self._balancer.statistics())

    def _ready(self) -> dict[str, int]:
        return {
            pool.name: sum(backend.state == "ready" for backend in pool.backends)
            for pool in self._balancer.status().pools
        }
