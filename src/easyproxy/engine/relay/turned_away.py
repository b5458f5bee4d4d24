"""What a dial does when a backend turns its client away: it goes on, waits where that may help, or lets the client hear why.

Such a backend stays connected until another one takes the client. If none does, the client hears from the last of them why.
If one is only at its ``max_sessions``, the client waits for a place there, and nothing stays connected meanwhile. Nobody tells
when a server that is full by its own count is so no more. Whoever waits has asked it once, and asks it again when the time is over: not
each time that somebody else makes room. So those who come later do not stand in line behind them, but ask for themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay import failures
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.seam import Outcome

if TYPE_CHECKING:
    from _socket import socket as raw_socket

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.greeting import Refusal
    from easyproxy.engine.relay.runtime import BackendRuntime
    from easyproxy.engine.relay.session import Session


class TurnedAway(Dial):
    """The part of a dial that may be turned away. Owns the connection to the last backend that has done so."""

    __slots__ = ("_refused", "no_from")

    _sent: int

    def __init__(self, core: Core, session: Session) -> None:
        super().__init__(core, session)
        self.no_from: set[BackendRuntime] = set()
        self._refused: tuple[BackendRuntime, raw_socket, int] | None = None

    def _hear_refusal(self, backend: BackendRuntime, sock: raw_socket, sent: int) -> None:
        """Give the client to a backend that has turned it away."""
        raise NotImplementedError

    def _keep_refused(
        self, backend: BackendRuntime, sock: raw_socket, refusal: Refusal, attempted_at: float
    ) -> None:
        """Remember that it is not this one; owns its connection."""
        core = self.core
        self._forget_refused()
        core.handlers[sock.fileno()] = None
        core.poller.forget(sock.fileno())
        self._refused = (backend, sock, self._sent)
        self.no_from.add(backend)
        if not self._is_short:  # else that is what it will have waited for
            self._why = f"{backend.backend.id}: {refusal.words}"
        self._pass_over(backend.backend.id, refusal.words)
        if refusal.is_busy:  # it is well, and says so
            core.cells[backend.cell + c.B_CONNECT_ERRORS] += 1
        else:
            failures.observe(core, backend, Outcome.FAILED, refusal.words, attempted_at)
        self._failed = backend

    def _exhausted(self) -> None:
        refused = self._refused
        if self._may_wait or not self.no_from or not self.session.listener.pool.backends:
            self._forget_refused()
            super()._exhausted()
        elif refused is None:  # it has waited since
            self._waited_in_vain()
        else:
            self._refused = None
            self._hear_refusal(*refused)

    def _forget_refused(self) -> None:
        if self._refused is not None:
            backend, sock, _ = self._refused
            self._refused = None
            self._close(backend, sock)

    # -- in the queue

    def _choose(self) -> None:
        super()._choose()
        pool = self.session.listener.pool
        if self._candidates is not None and self in pool.waiting:
            chosen, asked = self._candidates, self.no_from
            self._candidates = (each for each in chosen if pool.backends.get(each.id) not in asked)

    def _waited_in_vain(self) -> None:
        """Ask once more who has turned the client away: there may be a place by now, and else it hears why not."""
        if not self.no_from:
            super()._waited_in_vain()
            return
        self.no_from.clear()
        self._leave_queue()
        self._choose()
        self._next()

    def release(self) -> None:
        """Leave what it waits in, and the backend that had turned the client away."""
        super().release()
        self._forget_refused()
