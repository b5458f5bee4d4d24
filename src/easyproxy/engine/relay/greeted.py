"""A dial that has reached a backend only when that has greeted: its first bytes decide (:mod:`.greeting`), not the handshake.

Nothing is taken out of a socket before the backend stands, only looked at (MSG_PEEK, recv(2)): so the client can be tried at the
next candidate, and what was said is moved by the flows as ever, also after an upgrade in the midst of it. What a client of
PostgreSQL says first is sent to every candidate anew. One exception: a server's "no" to a request for encryption is told to
the client, because only then it goes on; every further candidate is then asked the same first, and must say no as well.

Whom a backend turns away is :mod:`.turned_away`'s.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close, polite
from easyproxy.engine.relay.dial import release_ack
from easyproxy.engine.relay.flow import TAIL_UNSURE
from easyproxy.engine.relay.greeting import (
    JUDGES,
    LOOK_BYTES,
    NO_ENCRYPTION,
    POSTGRESQL,
    STARTUP_BYTES,
    Heard,
    Judgement,
    Refusal,
    postgresql,
    request,
    startup,
)
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.poller import ERR, HUP, IN, OUT, RDHUP, READ
from easyproxy.engine.relay.session import NEWCOMER
from easyproxy.engine.relay.turned_away import TurnedAway
from easyproxy.engine.seam import Outcome

if TYPE_CHECKING:
    from _socket import socket as raw_socket
    from collections.abc import Callable

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime
    from easyproxy.engine.relay.session import Session

MOST_REQUESTS = 2
"""For TLS and for GSSAPI; nobody asks more often."""
_PEEK, _ENDS = socket.MSG_PEEK, RDHUP | HUP | ERR


class GreetedDial(TurnedAway):
    """The dial of a pool whose backends greet."""

    __slots__ = ("_asked", "_backend_mask", "_broke", "_is_listening", "_sent", "_step")

    def __init__(self, core: Core, session: Session) -> None:
        super().__init__(core, session)
        self._is_listening = False  # connected, and the greeting has not come
        self._backend_mask = 0
        self._broke = 0
        self._sent = 0  # bytes of the client's that this backend has been sent, and which still stand in the client's socket
        self._asked: list[int] = []  # requests for encryption to which the client has heard a no
        self._step = 0  # how many of them this backend has answered

    @property
    def _is_postgresql(self) -> bool:
        return self.session.listener.pool.pool.greeting == POSTGRESQL

    @property
    def _client_speaks_first(self) -> bool:
        """Whether the client's words come before the backend's; once some were passed on, whatever has become of the setting."""
        return self._is_postgresql or self._sent > 0 or bool(self._asked)

    # -- an attempt

    def _connect(self, backend: BackendRuntime) -> bool:
        self._is_listening = False
        self._backend_mask = self._broke = self._sent = self._step = 0
        return super()._connect(backend)

    def _connected(self, fd: int, mask: int, broke: int) -> None:
        """Begin to listen: the handshake alone says little."""
        core, session = self.core, self.session
        backend, sock = session.backend, session.socket
        assert backend is not None  # noqa: S101 - an attempt is under way
        assert sock is not None  # noqa: S101
        if backend.may_meet_itself and sock.getsockname()[:2] == backend.address[:2]:
            self._attempt_failed(Outcome.REFUSED, errno.ECONNREFUSED)
            return
        self._backend_mask, self._broke = mask & ~OUT, broke
        if session.tick == NEWCOMER and not self._watch_client():
            return
        if self._holds_ack and not (self._is_postgresql and self._peek(session.client_socket)):
            self._holds_ack = False
            release_ack(sock)
        self._is_listening = True
        self._deadline = core.now + session.listener.pool.pool.greeting_timeout_s
        self._place()
        core.handlers[fd] = core.handlers[session.client_fd] = self
        self._listen()

    def ready(self, fd: int, mask: int) -> None:
        """Take an event of the client's or of the backend's socket."""
        session = self.session
        if not self._is_listening:
            super().ready(fd, mask)
        elif fd == session.client_fd:
            self._client_ready(fd, mask)
            if session.dial is self:
                self._listen()
        elif session.socket is not None and session.socket.fileno() == fd:
            self._backend_mask |= mask & ~OUT
            self._listen()

    def expired(self) -> None:
        """See which deadline it was; a partial packet is looked at again where nobody tells of its growing."""
        if not self._is_listening or (self.gave_up_at and self.core.now >= self.gave_up_at):
            super().expired()
        elif self.core.now < self._deadline:
            if not self.core.is_edge_triggered:
                self._listen()
            if self._is_listening and self.session.dial is self:
                self._place()
        elif self._is_postgresql and not self._sent and self._step == len(self._asked):
            self._forgive()
            self._stand()  # the client says nothing, and that is no fault of the backend's
        else:
            limit = self.session.listener.pool.pool.greeting_timeout_s
            self._attempt_failed(
                Outcome.TIMEOUT, errno.ETIMEDOUT, f"connected, but no greeting in {limit:g} s"
            )

    def _drop_attempt(self) -> BackendRuntime:
        self._is_listening = False
        return super()._drop_attempt()

    def _place(self) -> None:
        if self._is_listening and not self.core.is_edge_triggered:  # what grows is looked at with each tick
            self.core.wheel.place(self.session, self.core.now)
        else:
            super()._place()

    # -- listening

    def _listen(self) -> None:
        """Go as far as what was said so far allows."""
        greeting = self.session.listener.pool.pool.greeting
        if self._client_speaks_first:
            while self._converse():
                pass
        elif greeting in JUDGES:
            self._judge(JUDGES[greeting])
        else:  # the pool wants none any more
            self._stand()

    def _judge(self, judge: Callable[[bytes], Judgement]) -> None:
        """See what the backend has said so far."""
        words = self._peek_backend()
        if words is None:
            return
        judgement = judge(words)
        if judgement is Heard.GREETING:
            self._stand()
        elif isinstance(judgement, Refusal):
            self._turned_away(judgement)
        elif self._backend_mask & _ENDS:
            self._attempt_failed(
                Outcome.RESET, errno.ECONNRESET, "the connection ended in the midst of the greeting"
            )

    def _peek_backend(self) -> bytes | None:
        """Return what the backend has said; None when that is nothing, or the attempt has failed."""
        sock = self.session.socket
        assert sock is not None  # noqa: S101 - an attempt is under way
        try:
            words = sock.recv(LOOK_BYTES, _PEEK)
        except BlockingIOError:
            return None
        except OSError as error:
            self._attempt_failed(Outcome.RESET, error.errno or errno.ECONNRESET)
            return None
        if not words:
            self._attempt_failed(Outcome.RESET, errno.ECONNRESET, "the connection ended without a greeting")
            return None
        return words

    @staticmethod
    def _peek(client: raw_socket) -> bytes:
        """Return what the client has said; nothing also when its connection is broken, of which its own event tells."""
        try:
            return client.recv(STARTUP_BYTES, _PEEK)
        except OSError:
            return b""

    # -- PostgreSQL: the client speaks first

    def _converse(self) -> bool:
        """Take one step; return whether there may be another one."""
        if self._step < len(self._asked):
            return self._ask_again()
        session = self.session
        said = self._peek(session.client_socket)
        packet = startup(said)
        if not packet.length:
            self._stand()
            return False
        if not packet.is_whole:
            if self.client_mask & RDHUP and said:
                close.cut(
                    self.core, session, Event.CLIENT_GAVE_UP, "it left in the midst of its startup packet"
                )
            else:
                self._backend_waits()
            return False
        if not self._send(said[: packet.length]):
            return False
        if packet.request:
            return self._hear_about_encryption(packet.request)
        self._judge(postgresql)
        return False

    def _backend_waits(self) -> None:
        """Find out whether the backend has gone while the client says nothing."""
        if self._backend_mask & (_ENDS | IN) and self._peek_backend() is not None:
            self._stand()  # it speaks without having been asked

    def _send(self, packet: bytes) -> bool:
        """Send what is left of a packet to the backend; return whether all of it is there."""
        sock = self.session.socket
        assert sock is not None  # noqa: S101 - an attempt is under way
        if self._sent >= len(packet):
            return True
        if not self._sent:
            self._forgive()
            self._place()
        try:
            self._sent += sock.send(packet[self._sent :])
        except BlockingIOError:
            return False
        except OSError:  # what it said before it broke is still to be heard
            self._sent = len(packet)
            self._backend_mask |= ERR
        return self._sent == len(packet)

    def _forgive(self) -> None:
        """Begin to count the backend's time anew: what has passed was the client's."""
        limit = self.session.listener.pool.pool.greeting_timeout_s
        self._attempted_at += self.core.now - (self._deadline - limit)
        self._deadline = self.core.now + limit

    def _hear_about_encryption(self, code: int) -> bool:
        answer = self._peek_backend()
        if answer is None:
            return False
        session = self.session
        if answer[:1] != NO_ENCRYPTION or len(self._asked) >= MOST_REQUESTS:
            self._stand()  # what follows cannot be read, or is the client's to judge
            return False
        assert session.socket is not None  # noqa: S101 - an attempt is under way
        try:
            session.client_socket.send(NO_ENCRYPTION)
        except OSError:
            close.cut(self.core, session, Event.CLIENT_GAVE_UP)
            return False
        session.socket.recv(1)
        self._take_from_client()
        self._asked.append(code)
        self._step += 1
        self.client_mask &= ~IN
        self._backend_mask &= ~IN
        return True

    def _ask_again(self) -> bool:
        """Ask a further backend what the client has heard a no to."""
        if not self._send(request(self._asked[self._step])):
            return False
        answer = self._peek_backend()
        if answer is None:
            return False
        if answer[:1] != NO_ENCRYPTION:
            why = "it encrypts, and another one has told the client that it does not"
            self._pass_over(self._drop_attempt().backend.id, why)
            self._next()
            return False
        assert self.session.socket is not None  # noqa: S101 - an attempt is under way
        self.session.socket.recv(1)
        self._step += 1
        self._sent = 0
        self._backend_mask &= ~IN
        return True

    def _take_from_client(self) -> bytes:
        """Take out of the client's socket what the backend has been sent already, and return it."""
        said = b""
        while self._sent > 0:
            try:
                taken = self.session.client_socket.recv(self._sent)
            except OSError:  # broken: its own event follows
                taken = b""
            if not taken:
                break
            said += taken
            self._sent -= len(taken)
        self._sent = 0
        return said

    def _recall(self, said: bytes) -> None:
        """Let the session's conversation hear what was said before its flows are there."""
        conversation = polite.conversation_of(self.session.listener.pool.pool.conversation)
        for code in self._asked:
            conversation.from_client(memoryview(request(code)))
            conversation.from_backend(memoryview(NO_ENCRYPTION))
        if said:
            conversation.from_client(memoryview(said))
        self.session.conversation = conversation

    # -- the end of it

    def _turned_away(self, refusal: Refusal) -> None:
        """Go on to the next candidate, and keep the connection for when there is none."""
        session = self.session
        backend, sock = session.backend, session.socket
        assert backend is not None  # noqa: S101 - an attempt is under way
        assert sock is not None  # noqa: S101
        self._is_listening = False
        session.backend = session.socket = None
        self._keep_refused(backend, sock, refusal, self._attempted_at)
        self._next()

    def _hear_refusal(self, backend: BackendRuntime, sock: raw_socket, sent: int) -> None:
        self.session.backend, self.session.socket, self._sent = backend, sock, sent
        self._backend_mask = IN
        self._broke = 0
        self._stand(is_refused=True)

    def _stand(self, *, is_refused: bool = False) -> None:
        """The backend stands: what has been said so far is counted, and the flows move all the rest."""
        session = self.session
        backend, sock = session.backend, session.socket
        assert backend is not None  # noqa: S101 - an attempt is under way
        assert sock is not None  # noqa: S101
        self._is_listening = False
        self._forget_refused()
        told = 8 * len(self._asked) + self._sent
        said = self._take_from_client()
        if session.listener.pool.pool.conversation:
            self._recall(said)
        mask, self.client_mask, client_mask = self._backend_mask | IN, 0, self.client_mask
        fd = sock.fileno()
        super()._connected(fd, OUT, self._broke)
        outbound, inbound = session.outbound, session.inbound
        if outbound is None or inbound is None:  # over already
            return
        if is_refused:
            backend.is_proven = False
            inbound.tail = TAIL_UNSURE
        outbound.moved, inbound.moved = told, len(self._asked)
        outbound.count()
        inbound.count()
        inbound.ready(fd, mask)
        if client_mask & ~OUT and session.state is not State.CLOSED:
            outbound.ready(session.client_fd, client_mask)

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for."""
        sock = self.session.socket
        if not self._is_listening or sock is None:
            super().watch(want)
            return
        # What was looked at and left there would be reported for ever: ``expired`` looks again with each tick.
        want(self.session.client_fd, 0 if self.client_mask else READ)
        want(sock.fileno(), 0 if self._backend_mask & IN else READ)
