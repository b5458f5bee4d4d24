"""From a client to a backend: candidates in order, connects, retries, and the queue when every place is taken.

A dial lives while its session is CONNECTING. Nothing is read from the client before a backend stands, so a failed
attempt costs the client nothing: its bytes wait in the kernel for the next candidate. How it waits is :mod:`.waiting`'s.

Where clients speak first, the acknowledgement that ends the handshake with the backend is held back (TCP_QUICKACK off,
tcp(7)), so that it goes with the client's first bytes: one or two packets and a wake-up less. Whether they do is learned,
by a look at one session in ``LOOK_EVERY`` as long as they do not. A wrong guess costs two system calls: an acknowledgement
with which nothing has gone by the loop's next turn is sent then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from _socket import socket as raw_socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close, failures, polite
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.failures import EXHAUSTED, OURS
from easyproxy.engine.relay.flow import TAIL_UNSURE, Flow
from easyproxy.engine.relay.life import TABLE, Event, State
from easyproxy.engine.relay.poller import ERR, HUP, IN, OUT, READ, STREAM, WRITE
from easyproxy.engine.relay.ranges import CONNECT_OF
from easyproxy.engine.relay.session import NEWCOMER, Session
from easyproxy.engine.relay.waiting import FULL, Waiting, readable
from easyproxy.engine.seam import Outcome
from easyproxy.strategy.base import StrategyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime
    from easyproxy.model import Backend

_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)
# Python names it from 3.12 on; the number is that of linux/in.h.
_BIND_ADDRESS_NO_PORT = getattr(
    socket, "IP_BIND_ADDRESS_NO_PORT", 24 if os.uname().sysname == "Linux" else None
)
_EINPROGRESS = errno.EINPROGRESS
_CLOSED = State.CLOSED
_STANDS = TABLE[State.CONNECTING, Event.CONNECTED].state
_QUICKACK = getattr(socket, "TCP_QUICKACK", 0)
LOOK_EVERY = 64
EARLY_IS_WORTH = 3
"""A right guess saves about three times what a wrong one costs."""
MOST_EARLY = 30

MAX_TRIED = 32
"""Candidates that were passed over and are remembered for the log."""


def settle_acks(greeted: list[tuple[Session, bool]]) -> None:
    """See whose clients have spoken since their backend stands, and send the acknowledgements that were held for nothing."""
    for session, holds_ack in greeted:
        pool, outbound, sock = session.listener.pool, session.outbound, session.socket
        pool.look_in = LOOK_EVERY
        if outbound is None or sock is None:  # over already
            continue
        if outbound.moved:
            pool.early = min(pool.early + EARLY_IS_WORTH, MOST_EARLY)
        elif holds_ack:
            pool.early -= 1
            release_ack(sock)


def release_ack(sock: raw_socket) -> None:
    """Send the acknowledgement that was held."""
    with contextlib.suppress(OSError):  # reset meanwhile: its own event follows
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class Dial(Waiting):
    """The search for a backend of one session. Owns the socket of the attempt under way."""

    __slots__ = (
        "_attempted_at",
        "_failed",
        "_holds_ack",
    )

    def __init__(self, core: Core, session: Session) -> None:
        self.core = core
        self.session = session
        self.client_mask = 0
        self.gave_up_at = 0.0
        self._candidates = None
        self._chosen_from: frozenset[BackendRuntime] | None = None
        self._failed: BackendRuntime | None = None
        self._left = 0
        self._holds_ack = False  # the end of the handshake waits for the client's first bytes
        self._deadline = 0.0
        self._attempted_at = 0.0
        self._queue_until = 0.0
        self._is_held = False
        self._is_short = False
        self._why = ""

    def start(self, *, is_let_in: bool = False) -> None:
        """Choose candidates and dial the first; the session may be over when this returns."""
        session = self.session
        pool = session.listener.pool
        if pool.is_shut and not is_let_in and self._stops_at_gate():
            return
        if pool.waiting and pool.is_fair and pool.pool.queue_timeout_s:  # first come, first served
            self._why = next(iter(pool.waiting)).waits_for
            self._queue()
            return
        self._choose()
        self._next()

    def _next(self) -> None:
        """Dial the next candidate; queue or give up when there is none."""
        core, session = self.core, self.session
        pool = session.listener.pool
        candidates = self._candidates
        while candidates is not None and self._left > 0:
            try:
                chosen = next(candidates, None)
            except StrategyError as error:
                # A user's strategy went wrong: priorities and the order of the configuration serve instead.
                core.report({"kind": "error", "detail": str(error)})
                candidates = self._candidates = iter(pool.tiers.backends if pool.tiers is not None else ())
                continue
            if chosen is None:
                candidates = self._candidates = self._come_since()
                continue
            backend = pool.backends.get(chosen.id)
            if backend is None:
                continue
            if not chosen.max_sessions:
                core.cells[backend.cell + c.B_SESSIONS] += 1
            elif not core.counters.take(backend.slot, chosen.max_sessions):
                self._is_short = True
                self._why = FULL
                self._pass_over(chosen.id, "at its max_sessions")
                continue
            if self._connect(backend):
                return
        self._candidates = None
        self._exhausted()

    def _come_since(self) -> Iterator[Backend] | None:
        """Return candidates that are new since the former were chosen: the pool has changed, or the listener has another."""
        pool, before = self.session.listener.pool, self._chosen_from
        if before is None or before is pool.roster:
            return None
        self._chosen_from = pool.roster
        chosen = pool.choose(self.session.host)
        return (each for each in chosen if pool.backends.get(each.id) not in before)

    def _exhausted(self) -> None:
        """Wait, where that may help, or give up: no candidate is left."""
        pool = self.session.listener.pool
        if not pool.backends and pool.gate is not None:  # the last one has gone meanwhile
            self._stops_at_gate()
        elif self._may_wait:
            self._queue()
        elif self._is_short:
            self._waited_in_vain()
        else:
            close.cut(self.core, self.session, Event.CONNECT_FAILED, self._why)

    def _connect(self, backend: BackendRuntime) -> bool:
        """Begin to connect; return whether an attempt is under way."""
        core, session = self.core, self.session
        sock = None
        fd = -1
        try:
            sock = raw_socket(backend.family, _STREAM)
            if not core.is_edge_triggered:
                sock.setblocking(False)
                # Urgent bytes keep their place; a flow can set this when it sees one coming only with epoll.
                if backend.family != socket.AF_UNIX:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            source = session.listener.pool.source
            if source is not None and source[0] == backend.family:
                if _BIND_ADDRESS_NO_PORT is not None:
                    # ip(7): the port is chosen at connect(2), so one local port serves many backends.
                    sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
                sock.bind(source[1])
            self._holds_ack = (
                session.listener.pool.early > 0 and backend.family != socket.AF_UNIX and _QUICKACK > 0
            )
            if self._holds_ack:
                sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)
            code = sock.connect_ex(backend.address)
            if code == _EINPROGRESS or not code:
                fd = sock.fileno()
                core.watch(fd, STREAM)
        except OSError as error:
            code, fd = error.errno or errno.EIO, -1
        if fd >= 0:
            self._left -= 1
            self._attempted_at = core.now
            self._deadline = core.now + session.listener.pool.pool.connect_timeout_s
            session.backend = backend
            session.socket = sock
            try:
                core.handlers[fd] = self
            except IndexError:
                core.handle(fd, self)
            if not core.is_edge_triggered:
                session.watch(core.poller.want)
            if session.tick != NEWCOMER:
                self._place()
            return True
        core.counters.give(backend.slot)
        if sock is not None:
            sock.close()
        self._failed_at_once(backend, code)
        return False

    def _pass_over(self, backend: str, why: str) -> None:
        """Remember for the log why it was not this one; a client that waits passes over the same ones again."""
        tried = self.session.tried
        if tried is None:
            self.session.tried = {backend: why}
        elif len(tried) < MAX_TRIED:
            tried.setdefault(backend, why)

    def _failed_at_once(self, backend: BackendRuntime, code: int) -> None:
        self._pass_over(backend.backend.id, os.strerror(code))
        self._why = f"{backend.backend.id}: {os.strerror(code)}"
        if code in OURS:
            self.core.cells[backend.cell + c.B_LOCAL_ERRORS] += 1
            self._is_short = True
            self.core.is_starved |= code in EXHAUSTED
        else:
            self._left -= 1
            failures.observe(self.core, backend, Outcome.REFUSED, os.strerror(code), attempted_at=0.0)
            self._failed = backend

    def ready(self, fd: int, mask: int) -> None:
        """Take an event of the client's or of the backend's socket."""
        if mask == OUT and self.core.is_edge_triggered and fd != self.session.client_fd:
            self._connected(fd, mask, 0)
            return
        if fd == self.session.client_fd:
            self._client_ready(fd, mask)
            return
        sock = self.session.socket
        if sock is None or sock.fileno() != fd:
            return
        error = 0
        if mask & (ERR | HUP) or not self.core.is_edge_triggered:
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        broke = 0
        if error in (errno.ECONNRESET, errno.EPIPE) and readable(fd):
            broke, error = error, 0  # it accepted, spoke and broke: what it said is the client's
        if error:
            self._attempt_failed(Outcome.RESET if error == errno.ECONNRESET else Outcome.REFUSED, error)
        elif mask & OUT:
            self._connected(fd, mask, broke)

    def _attempt_failed(self, outcome: Outcome, error: int, detail: str = "") -> None:
        backend, detail = self._drop_attempt(), detail or os.strerror(error)
        self._why = f"{backend.backend.id}: {detail}"
        self._pass_over(backend.backend.id, detail)
        if error in OURS:
            self.core.cells[backend.cell + c.B_LOCAL_ERRORS] += 1
            self._is_short = True
        else:
            failures.observe(self.core, backend, outcome, detail, self._attempted_at)
            self._failed = backend
        self._next()

    def _drop_attempt(self) -> BackendRuntime:
        """Give up the attempt under way, with its place, and return its backend."""
        session = self.session
        backend, sock = session.backend, session.socket
        assert backend is not None  # noqa: S101 - an attempt is under way
        assert sock is not None  # noqa: S101
        session.backend = session.socket = None
        self._close(backend, sock)
        return backend

    def _close(self, backend: BackendRuntime, sock: raw_socket) -> None:
        """Close a connection to a backend, after this batch of events, and free its place."""
        core = self.core
        fd = sock.detach()
        core.handlers[fd] = None
        core.poller.forget(fd)
        core.closing.append(fd)
        core.leaving.append(backend)

    def _connected(self, fd: int, mask: int, broke: int) -> None:  # noqa: PLR0915 - hot path: a call costs as much as a statement saves
        core, session = self.core, self.session
        backend, sock = session.backend, session.socket
        assert backend is not None  # noqa: S101 - an attempt is under way
        assert sock is not None  # noqa: S101
        if backend.may_meet_itself and sock.getsockname()[:2] == backend.address[:2]:
            self._attempt_failed(Outcome.REFUSED, errno.ECONNREFUSED)
            return
        if session.tick == NEWCOMER and not self._watch_client():
            return
        cells, cell = core.cells, backend.cell
        cells[cell + c.B_TOTAL] += 1
        took = int((core.now - self._attempted_at) * 1_000_000)
        cells[cell + c.B_CONNECT + CONNECT_OF[took.bit_length()]] += 1
        cells[cell + c.B_CONNECT_SUM] += took
        session.connected_at = core.now
        backend.is_proven = True
        if self._failed is not None and self._failed is not backend:
            cells[self._failed.cell + c.B_RETRIES] += 1
        client_fd, listener = session.client_fd, session.listener
        client, protocol = session.client_socket, listener.pool.pool.conversation
        if protocol:
            # Part of it may have been heard before the backend stood.
            conversation = session.conversation or polite.conversation_of(protocol)
            outbound, inbound = polite.follow(core, session, conversation, cell)
        else:
            outbound = Flow(core, session, client, sock, cell + c.B_FROM_CLIENT)
            inbound = Flow(core, session, sock, client, cell + c.B_FROM_BACKEND)
        outbound.back, inbound.back = inbound, outbound
        outbound.writes_until_nodelay = 2
        if listener.is_unix:
            outbound.tail = TAIL_UNSURE
        if backend.backend.address.path:
            inbound.tail = TAIL_UNSURE
        session.outbound, session.inbound = outbound, inbound
        session.dial = None
        session.state = _STANDS
        session.active_at = core.now
        if session.tick != NEWCOMER:
            limit = listener.listener.idle_timeout_s
            if limit:  # it may be over before the time that it had to connect
                core.wheel.bring_forward(session, core.now + limit)
        core.handlers[client_fd] = outbound
        core.handlers[fd] = inbound
        if broke:
            outbound.abandon_target()
            inbound.tail = TAIL_UNSURE
            if (
                broke == errno.ECONNRESET
            ):  # SO_ERROR has taken the error: the end that read(2) shows next is no FIN
                inbound.broken = Event.BACKEND_RESET
            mask |= IN
        elif self._holds_ack:
            core.greeted.append((session, True))
        else:
            pool = listener.pool
            pool.look_in -= 1
            if not pool.look_in:
                core.greeted.append((session, False))
        if mask & ~OUT:
            inbound.ready(fd, mask)
        if self.client_mask & ~OUT and session.state is not _CLOSED:
            outbound.ready(client_fd, self.client_mask)

    def start_over(self) -> None:
        """Give up the attempt under way, whose backend has become the wrong one, and begin anew."""
        if self.session.socket is not None:
            self._drop_attempt()
            self.start()

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for."""
        want(self.session.client_fd, 0 if self.client_mask else READ)
        if self.session.socket is not None and self.session.socket.fileno() >= 0:
            want(self.session.socket.fileno(), WRITE)
