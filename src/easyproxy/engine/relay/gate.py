"""The gate of a pool that holds its clients: they wait here while it has no backend, and are let in one by one afterwards.

What comes back after a failover must not be trampled by all who waited for it. So they are let in at a bounded rate, and
whoever comes meanwhile stands in line behind them. The rate is for all workers together, but nothing is asked of another
worker: everybody sees how many of them hold somebody, and takes that part of the rate. Who has let in its last leaves the
rest to the others. The order is that of coming, in each worker; over all of them it is as even as accepting is.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.timers import TICK_S

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import PoolRuntime
    from easyproxy.engine.relay.waiting import Waiting


class Gate:
    """Who is held of one pool, in one worker. It is shut exactly while ``pool.is_shut``."""

    __slots__ = ("_core", "_next_at", "_pool", "dials", "opened_at")

    def __init__(self, core: Core, pool: PoolRuntime) -> None:
        self._core = core
        self._pool: PoolRuntime = weakref.proxy(pool)  # which has us
        self.dials: dict[Waiting, None] = {}  # in the order of their coming
        self.opened_at = 0.0  # since when the pool has a backend for those who are held
        self._next_at = 0.0  # the next is not let in before

    def hold(self, dial: Waiting) -> None:
        """Let a client wait."""
        if dial in self.dials:
            return
        cells, cell = self._core.cells, self._pool.cell
        self.dials[dial] = None
        cells[cell + c.P_QUEUED] += 1
        cells[cell + c.P_HELD] += 1
        if len(self.dials) == 1:
            self._next_at = max(self._next_at, self._core.now + self._interval())

    def leave(self, dial: Waiting) -> None:
        """Let a client go, wherever to; nothing if it is not held."""
        if dial in self.dials:
            cells, cell = self._core.cells, self._pool.cell
            del self.dials[dial]
            cells[cell + c.P_QUEUED] -= 1
            cells[cell + c.P_HELD] -= 1

    @property
    def holds_nobody(self) -> bool:
        """Whether nobody is held by any worker."""
        return not self._core.counters.sum(self._pool.slot, c.P_HELD)

    def judge(self) -> None:
        """Shut or open, after the pool's backends have changed: it stays shut until nobody is held any more."""
        pool = self._pool
        if not pool.backends:
            pool.is_shut = True
        elif pool.is_shut:
            if self.holds_nobody:
                pool.is_shut = False
            else:
                self.let_in_from(self._core.now)

    def let_in_from(self, now: float) -> None:
        """Begin to let in; the workers that hold somebody take turns, so that they do not begin all at once."""
        self._pool.is_shut = True
        self.opened_at = now
        rate = self._pool.pool.admit_per_s
        self._next_at = (
            now + self._core.counters.busy_before(self._pool.slot, c.P_HELD) / rate if rate else 0.0
        )

    def _interval(self) -> float:
        """Return the seconds between two of this worker's clients."""
        rate = self._pool.pool.admit_per_s
        return self._core.counters.busy(self._pool.slot, c.P_HELD) / rate if rate else 0.0

    def let_in(self) -> None:
        """Let in whose turn has come."""
        now, dials = self._core.now, self.dials
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
