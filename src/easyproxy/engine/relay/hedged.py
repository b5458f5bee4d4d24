"""A dial that races: when a backend takes longer than usual to greet, the next candidate is tried beside it.

The first to greet has the client, and the other one is closed. What is usual is learned, for each pool and worker: about one
greeting in twenty takes longer. When all of them become slow, so does what is usual, and the load of racing stays what it was.
(Q. Ma, S. Muthukrishnan and M. Sandler, "Frugal Streaming for Estimating Quantiles", 2013; here with factors instead of steps.)
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import failures
from easyproxy.engine.relay.greeted import GreetedDial
from easyproxy.engine.relay.greeting import JUDGES, LOOK_BYTES, Heard, Refusal, any_words
from easyproxy.engine.relay.poller import ERR, HUP, IN, OUT, READ, WRITE
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.engine.seam import Outcome

if TYPE_CHECKING:
    from _socket import socket as raw_socket
    from collections.abc import Callable

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime
    from easyproxy.engine.relay.session import Session

SLOWER, FASTER = 1.19, 0.99
"""What is usual grows and shrinks by these; it stands still where one greeting in 19 is slower."""
_LOST = "another one has greeted first"
_OUT = "it was raced, and the client is to speak first now"


class Aside:
    """The attempt that has become slow, beside the one that races it. Owns its socket and its place."""

    __slots__ = ("attempted_at", "backend", "deadline", "dial", "is_connected", "mask", "sock")

    def __init__(self, dial: HedgedDial, backend: BackendRuntime, sock: raw_socket) -> None:
        self.dial = dial
        self.backend = backend
        self.sock = sock
        self.attempted_at = self.deadline = 0.0
        self.is_connected = False
        self.mask = 0

    @property
    def session(self) -> Session:
        """Whose it is."""
        return self.dial.session

    def ready(self, _fd: int, mask: int) -> None:
        """Take an event of its socket."""
        self.mask |= mask
        self.dial.look_aside()


class HedgedDial(GreetedDial):
    """The dial of a pool whose backends greet first and race when that takes long; once for each session."""

    __slots__ = ("_aside", "_has_raced")

    def __init__(self, core: Core, session: Session) -> None:
        super().__init__(core, session)
        self._aside: Aside | None = None
        self._has_raced = False

    @property
    def _race_at(self) -> float:
        """When the attempt under way has become slow; 0 when it is not raced."""
        if self._has_raced or self._client_speaks_first or self.session.socket is None:
            return 0.0
        return self._attempted_at + self.session.listener.pool.usual_s

    def _place(self) -> None:
        super()._place()
        core, session = self.core, self.session
        for at in (self._race_at, self._aside.deadline if self._aside is not None else 0.0):
            if at:
                core.wheel.bring_forward(session, at)

    def expired(self) -> None:
        """See which deadline it was: also that of the slow attempt, or the one by which an attempt is slow."""
        self._end_race()
        now, aside = self.core.now, self._aside
        if aside is not None:
            if now >= aside.deadline:
                self._aside_failed(Outcome.TIMEOUT, "no greeting in time")
            elif not self.core.is_edge_triggered:
                self.look_aside()
        elif 0 < self._race_at <= now < self._deadline and not self.gave_up_at:
            self._race()
        if self.session.dial is self:
            super().expired()

    def _race(self) -> None:
        """Try the next candidate beside the attempt under way."""
        session = self.session
        assert session.backend is not None  # noqa: S101 - an attempt is under way
        assert session.socket is not None  # noqa: S101
        self._has_raced = True
        self._aside = aside = Aside(self, session.backend, session.socket)
        aside.attempted_at, aside.deadline = self._attempted_at, self._deadline
        aside.is_connected, aside.mask = self._is_listening, self._backend_mask
        self.core.handlers[aside.sock.fileno()] = aside
        session.backend = session.socket = None
        self._is_listening = False
        self._next()

    def _end_race(self) -> None:
        """Let the slow one go if a reload says that the client speaks first: what it says is for one backend at a time."""
        if self._client_speaks_first:
            self._let_go(_OUT)

    def _listen(self) -> None:
        self._end_race()
        super()._listen()

    def look_aside(self) -> None:
        """See whether the slow one has greeted after all."""
        aside = self._aside
        if aside is None or not (aside.is_connected or self._is_connected(aside)):
            return
        try:
            words = aside.sock.recv(LOOK_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            self._aside_failed(Outcome.RESET, os.strerror(error.errno or 0))
            return
        judge = JUDGES.get(self.session.listener.pool.pool.greeting, any_words)
        judgement = judge(words) if words else Heard.TOO_LITTLE
        if judgement is Heard.GREETING:
            if self.session.socket is not None:
                self._pass_over(self._drop_attempt().backend.id, _LOST)
            self._take_back()
            self._stand()
        elif isinstance(judgement, Refusal):
            self._aside = None
            self._keep_refused(aside.backend, aside.sock, judgement, aside.attempted_at)
        elif not words:
            self._aside_failed(Outcome.RESET, "the connection ended without a greeting")

    def _is_connected(self, aside: Aside) -> bool:
        if not aside.mask & (OUT | ERR | HUP):
            return False
        error = aside.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._aside_failed(Outcome.REFUSED, os.strerror(error))
            return False
        aside.is_connected = True
        aside.deadline = self.core.now + self.session.listener.pool.pool.greeting_timeout_s
        return True

    def _aside_failed(self, outcome: Outcome, why: str) -> None:
        aside = self._aside
        assert aside is not None  # noqa: S101 - the caller looked
        failures.observe(self.core, aside.backend, outcome, why, aside.attempted_at)
        self._let_go(why)

    def _let_go(self, why: str = "") -> None:
        """Close the slow one."""
        aside, self._aside = self._aside, None
        if aside is not None:
            if why:
                self._pass_over(aside.backend.backend.id, why)
            self._close(aside.backend, aside.sock)

    def _take_back(self) -> None:
        """Make the slow one the attempt under way again."""
        aside, self._aside = self._aside, None
        assert aside is not None  # noqa: S101 - the caller looked
        session = self.session
        session.backend, session.socket = aside.backend, aside.sock
        self._attempted_at, self._deadline = aside.attempted_at, aside.deadline
        self._backend_mask, self._broke = aside.mask & ~OUT, 0
        self._is_listening = aside.is_connected
        self.core.handlers[aside.sock.fileno()] = self
        self._place()

    def _exhausted(self) -> None:
        if self._aside is not None:
            self._take_back()
        else:
            super()._exhausted()

    def _stand(self, *, is_refused: bool = False) -> None:
        self._let_go(_LOST)
        if not is_refused:
            pool = self.session.listener.pool
            is_slow = self._has_raced or self.core.now - self._attempted_at > pool.usual_s
            usual = pool.usual_s * (SLOWER if is_slow else FASTER)
            pool.usual_s = max(TICK_S, min(usual, pool.pool.greeting_timeout_s / 2))
        super()._stand(is_refused=is_refused)

    def start_over(self) -> None:
        """Give up both attempts."""
        self._let_go()
        super().start_over()

    def release(self) -> None:
        """Leave what it waits in, and every backend."""
        self._let_go()
        super().release()

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for."""
        super().watch(want)
        aside = self._aside
        if aside is not None:
            want(aside.sock.fileno(), (0 if aside.mask & IN else READ) if aside.is_connected else WRITE)
