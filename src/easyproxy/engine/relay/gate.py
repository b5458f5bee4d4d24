"""The gate of a pool that holds its clients: they wait here while it has no backend, and are let in one by one afterwards.

What comes back after a failover must not be trampled by all who waited for it. So they are let in at a bounded rate, and
whoever comes meanwhile stands in line behind them. The rate is for all workers together, but nothing is asked of another
worker: everybody sees how many of them hold somebody, and takes that part of the rate. Who has let in its last leaves the
rest to the others. The order is that of coming, in each worker; over all of them it is as even as accepting is.

Here is no socket and no clock.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.timers import TICK_S

if TYPE_CHECKING:
    from collections.abc import Sized

    from easyproxy.engine.relay.counters import Counters
    from easyproxy.model import Pool


class Held(Protocol):
    """Whoever waits at a gate: a dial."""

    def enter(self) -> None:
        """Pass: it is one's turn, or there is nothing to wait for any more."""


class Gated(Protocol):
    """What a gate needs of its pool."""

    pool: Pool
    slot: int
    cell: int
    is_shut: bool

    @property
    def backends(self) -> Sized:
        """The ready ones."""


W = TypeVar("W", bound=Held)


class Gate(Generic[W]):
    """Who is held of one pool, in one worker. It is shut exactly while ``pool.is_shut``."""

    __slots__ = ("_counters", "_next_at", "_pool", "dials", "opened_at")

    def __init__(self, counters: Counters, pool: Gated) -> None:
        self._counters = counters
        self._pool: Gated = weakref.proxy(pool)  # which has us
        self.dials: dict[W, None] = {}  # in the order of their coming
        self.opened_at = 0.0  # since when the pool has a backend for those who are held
        self._next_at = 0.0  # the next is not let in before

    def hold(self, dial: W, now: float) -> None:
        """Let a client wait."""
        if dial in self.dials:
            return
        cells, cell = self._counters.cells, self._pool.cell
        self.dials[dial] = None
        cells[cell + c.P_QUEUED] += 1
        cells[cell + c.P_HELD] += 1
        if len(self.dials) == 1:
            self._next_at = max(self._next_at, now + self._interval())

    def leave(self, dial: W) -> None:
        """Let a client go, wherever to; nothing if it is not held."""
        if dial in self.dials:
            cells, cell = self._counters.cells, self._pool.cell
            del self.dials[dial]
            cells[cell + c.P_QUEUED] -= 1
            cells[cell + c.P_HELD] -= 1

    @property
    def holds_nobody(self) -> bool:
        """Whether nobody is held by any worker."""
        return not self._counters.sum(self._pool.slot, c.P_HELD)

    def judge(self, now: float) -> None:
        """Shut or open, after the pool's backends have changed: it stays shut until nobody is held any more."""
        pool = self._pool
        if not pool.backends:
            pool.is_shut = True
        elif pool.is_shut:
            if self.holds_nobody:
                pool.is_shut = False
            else:
                self.let_in_from(now)

    def let_in_from(self, now: float) -> None:
        """Begin to let in; the workers that hold somebody take turns, so that they do not begin all at once."""
        self._pool.is_shut = True
        self.opened_at = now
        rate = self._pool.pool.admit_per_s
        self._next_at = now + self._counters.busy_before(self._pool.slot, c.P_HELD) / rate if rate else 0.0

    def _interval(self) -> float:
        """Return the seconds between two of this worker's clients."""
        rate = self._pool.pool.admit_per_s
        return self._counters.busy(self._pool.slot, c.P_HELD) / rate if rate else 0.0

    def let_in(self, now: float) -> None:
        """Let in whose turn has come."""
        dials = self.dials
        if not self._pool.backends:
            if not self._pool.pool.hold_s:  # it was taken out of the configuration
                for dial in tuple(dials):
                    dial.enter()
            return
        # A tick is the grain. Who was late for more than that does not make up for it: that would be a rush.
        self._next_at = max(self._next_at, now - TICK_S)
        while dials and self._next_at <= now:
            self._next_at += self._interval()
            next(iter(dials)).enter()
