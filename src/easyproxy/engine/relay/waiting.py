"""What a dial waits for: a backend at all, a free place, time, and a client that leaves meanwhile.

The base of :class:`easyproxy.engine.relay.dial.Dial`, which looks for a backend. The client is not watched before it has to
wait for longer than a tick: most backends answer at once, and then its first event already belongs to a flow.
"""

from __future__ import annotations

import errno
import fcntl
import sys
import termios
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.life import Event
from easyproxy.engine.relay.poller import ERR, HUP, IN, RDHUP, STREAM
from easyproxy.engine.relay.session import NEWCOMER
from easyproxy.engine.seam import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime
    from easyproxy.engine.relay.session import Session
    from easyproxy.model import Backend

FULL = "every candidate is at its max_sessions"

GIVEN_UP_AFTER_S = 1.0
"""A client that ends without a byte before its backend stands has probably gone, but may be half-closing."""


def readable(fd: int) -> int:
    """Return how many bytes can be read from a socket (FIONREAD, ioctl_tty(2), tcp(7))."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


class Waiting:
    """The part of a dial that waits. It has no socket of its own."""

    __slots__ = (
        "_candidates",
        "_chosen_from",
        "_deadline",
        "_is_held",
        "_is_short",
        "_left",
        "_queue_until",
        "_why",
        "client_mask",
        "core",
        "gave_up_at",
        "session",
    )

    no_from: AbstractSet[BackendRuntime] = frozenset()
    """Those that have turned the client away (:mod:`.turned_away`); it does not wait for a place there."""
    core: Core
    session: Session
    client_mask: int  # edges of the client that are to be looked at once the backend stands
    gave_up_at: float
    _candidates: Iterator[Backend] | None
    _chosen_from: frozenset[BackendRuntime] | None  # the pool's backends at that time
    _left: int  # attempts
    _deadline: float
    _queue_until: float
    _is_held: bool  # it waits at the pool's gate
    _is_short: bool  # a candidate was passed over for want of a place, or of something of ours
    _why: str

    def start(self, *, is_let_in: bool = False) -> None:
        """Choose candidates and dial the first."""
        raise NotImplementedError

    def _next(self) -> None:
        raise NotImplementedError

    def _choose(self) -> None:
        """Have the pool's strategy name candidates, for as many attempts as the pool allows."""
        pool = self.session.listener.pool
        self._candidates, self._chosen_from = pool.choose(self.session.host), pool.roster
        self._left = pool.pool.retries + 1
        self._is_short = False

    def _attempt_failed(self, outcome: Outcome, error: int, detail: str = "") -> None:
        raise NotImplementedError

    # -- for a backend

    def _stops_at_gate(self) -> bool:
        """Wait until the pool has a backend again and it is one's turn, or end; return whether it came to that."""
        core, session = self.core, self.session
        pool = session.listener.pool
        gate = pool.gate
        if gate is None or not (pool.backends or pool.pool.hold_s):
            close.cut(core, session, Event.NO_BACKEND, f"pool {pool.pool.name} has no ready backend")
            return True
        if pool.backends and gate.holds_nobody:
            pool.is_shut = False
            return False
        if pool.backends and not pool.pool.hold_s and not self._is_held:
            return False  # the hold was taken out of the configuration: nobody stands in line behind those who still do
        gate.hold(self, core.now)
        if not self._is_held or not self._queue_until:
            self._is_held = True
            self._queue_until = core.now + pool.pool.hold_s
        self._deadline = self._queue_until
        if session.tick != NEWCOMER or self._watch_client():
            self._place()
        return True

    def enter(self) -> None:
        """Pass the gate: it is one's turn, or there is nothing to wait for any more."""
        self._is_held = False
        self._queue_until = 0.0  # who finds every place taken has the whole time for that
        pool = self.session.listener.pool
        if pool.backends:
            self.start(is_let_in=True)
        else:
            self._stops_at_gate()
        if pool.gate is not None:
            pool.gate.leave(self)

    def resume(self) -> None:
        """Wait on in another pool or another program: who was held is let in there at the pool's rate."""
        pool = self.session.listener.pool
        if self._is_held and pool.gate is not None:
            if not pool.is_shut:
                pool.gate.let_in_from(self.core.now)
            pool.gate.hold(self, self.core.now)
        elif self._is_held:
            self._is_held = False
            self._queue_until = 0.0
        self.start()

    def _held_too_long(self) -> None:
        """End what was held in vain; once there is a backend, there is as much time again to be let in."""
        pool = self.session.listener.pool
        hold_s = pool.pool.hold_s
        if not pool.backends:
            detail = f"pool {pool.pool.name} had no ready backend for {hold_s:g} s"
            close.cut(self.core, self.session, Event.NO_BACKEND, detail)
        elif pool.gate is not None and self.core.now < pool.gate.opened_at + hold_s:
            self._queue_until = self._deadline = pool.gate.opened_at + hold_s
            self._place()
        else:
            detail = f"pool {pool.pool.name} lets in {pool.pool.admit_per_s:g} clients a second, and it was not its turn"
            close.cut(self.core, self.session, Event.QUEUE_TIMEOUT, detail)

    # -- for a place

    def _queue(self) -> None:
        """Wait for a place, in the order of coming."""
        core, session = self.core, self.session
        pool = session.listener.pool
        if self not in pool.waiting:
            pool.waiting[self] = None
            core.cells[pool.cell + c.P_QUEUED] += 1
        if not self._queue_until:
            self._queue_until = core.now + pool.pool.queue_timeout_s
        self._deadline = self._queue_until
        if session.tick != NEWCOMER or self._watch_client():
            self._place()

    def retry(self) -> bool:
        """Try again from the queue; return whether it left the queue."""
        pool = self.session.listener.pool
        self._choose()
        if not pool.backends:
            self._queue_until = 0.0
            self._stops_at_gate()
            self._leave_queue()
            return True
        self._next()
        if self in pool.waiting and self.session.socket is None:
            return False
        self._leave_queue()
        return True

    def _leave_queue(self) -> None:
        pool = self.session.listener.pool
        if self in pool.waiting:
            del pool.waiting[self]
            self.core.cells[pool.cell + c.P_QUEUED] -= 1

    @property
    def _may_wait(self) -> bool:
        """Whether a place may yet come free in time."""
        is_late = 0 < self._queue_until <= self.core.now
        return self._is_short and self.session.listener.pool.pool.queue_timeout_s > 0 and not is_late

    @property
    def waits_for(self) -> str:
        """What was lacking when it came into the queue, in words."""
        return self._why

    @property
    def is_starved(self) -> bool:
        """Whether it waits for something that this machine is short of."""
        return self._is_short and self._why != FULL

    def _waited_in_vain(self) -> None:
        """End: there is no time left for the queue."""
        close.cut(self.core, self.session, self._no_place(), self._why)

    def _no_place(self) -> Event:
        """Say what it was that the client waited for in vain: a place, or something that this machine was short of."""
        return Event.QUEUE_TIMEOUT if self._why == FULL else Event.CONNECT_FAILED

    # -- time, and the client

    def expired(self) -> None:
        """The wheel has come round: see which deadline it was."""
        now = self.core.now
        if self.gave_up_at and now >= self.gave_up_at:
            close.cut(self.core, self.session, Event.CLIENT_GAVE_UP)
        elif now < self._deadline:
            self._place()
        elif self._is_held:
            self._held_too_long()
        elif self.session.socket is None:
            self._waited_in_vain()
        else:
            self._attempt_failed(Outcome.TIMEOUT, errno.ETIMEDOUT)

    def settle(self) -> None:
        """It takes longer than a tick: have the client watched, and the time."""
        if self._watch_client():
            self.expired()

    def _watch_client(self) -> bool:
        """Be told of the client's events; return whether the session lives on."""
        if not self.core.is_edge_triggered:  # Session.watch has seen to it
            return True
        try:
            self.core.watch(self.session.client_fd, STREAM)
        except OSError as error:  # epoll_ctl(2): ENOSPC, ENOMEM
            detail = f"cannot watch the client: {error.strerror}"
            close.cut(self.core, self.session, Event.CONNECT_FAILED, detail)
            return False
        return True

    def _place(self) -> None:
        deadline = min(self._deadline, self.gave_up_at) if self.gave_up_at else self._deadline
        life = self.session.listener.listener.life_timeout_s
        if life:
            deadline = min(deadline, self.session.accepted_at + life)
        self.core.wheel.place(self.session, deadline)

    def _client_ready(self, fd: int, mask: int) -> None:
        # A unix client that has sent all and closed is a HUP without an error, and its bytes are still here.
        if mask & ERR or (mask & HUP and not readable(fd)):
            close.cut(self.core, self.session, Event.CLIENT_GAVE_UP)
            return
        self.client_mask |= mask
        if mask & (RDHUP if self.core.is_edge_triggered else IN) and not self.gave_up_at and not readable(fd):
            self.gave_up_at = self.core.now + GIVEN_UP_AFTER_S
            self._place()

    def release(self) -> None:
        """Leave the queue, or the gate; the session is over, or another pool takes it on."""
        self._leave_queue()
        gate = self.session.listener.pool.gate
        if gate is not None:
            gate.leave(self)
        self._candidates = None
