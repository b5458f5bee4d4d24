"""Accepting clients of one listener, and admitting them: the first step of every session.

Facts (accept(2)): EMFILE, ENFILE, ENOBUFS and ENOMEM stay until somebody closes something, and a level-triggered
poller would report the waiting client for ever, so accepting pauses. Errors of the network that were pending on the
new socket (ECONNABORTED, EPROTO, ...) concern that client only.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.relay.failures import EXHAUSTED
from easyproxy.engine.relay.session import Session

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import ListenerRuntime

OF_ONE_CLIENT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.EPERM,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
    }
    | ({errno.ENONET} if hasattr(errno, "ENONET") else set())
)
MAX_BURST = 64
_set_blocking = os.set_blocking


class Acceptor:
    """Accepts on one listening socket. Owns this process's descriptor of it."""

    __slots__ = ("_burst", "core", "is_paused", "runtime", "socket")

    def __init__(self, core: Core, runtime: ListenerRuntime, sock: socket.socket) -> None:
        self.core = core
        self.runtime = runtime
        self.socket = sock
        self.is_paused = False
        self._burst = 1  # grows while clients stand in line, so that a single one costs no second accept(2)
        core.handle(sock.fileno(), self)
        core.poller.add(sock.fileno(), shared=runtime.is_unix)

    def ready(self, _fd: int, _mask: int) -> None:
        """Accept who is waiting."""
        core, runtime = self.core, self.runtime
        if core.is_starved:  # a client that is taken in now would only take a descriptor from one who waits
            self.pause()
            return
        counters, listener = core.counters, runtime.listener
        limit = listener.max_sessions
        waits = listener.overload == "wait"
        for _ in range(self._burst):
            if limit:
                has_place = counters.take(runtime.slot, limit)
            else:
                has_place = True
                core.cells[runtime.cell + c.L_SESSIONS] += 1
            if not has_place and waits:
                self.pause()
                return
            try:
                fd, address = self.socket._accept()  # type: ignore[attr-defined] # noqa: SLF001 - accept() would wrap the descriptor, at the price of a getsockname(2)
            except OSError as error:
                if has_place:
                    counters.give(runtime.slot)
                self._failed(error)
                return
            self._admit(fd, address, has_place=has_place)
        self._burst = min(self._burst * 2, MAX_BURST)

    def _admit(self, fd: int, address: tuple[str, int], *, has_place: bool) -> None:
        core, runtime = self.core, self.runtime
        if runtime.is_unix:
            host, port = "unix", 0
        else:
            host, port = address[0], address[1]
            if host[0] == ":":  # perhaps an IPv4 client of a socket for both (RFC 4291, section 2.5.5.2)
                host = host.removeprefix("::ffff:")
        core.accepted = number = core.accepted + 1
        session = Session(number, runtime, fd, host, port, core.now)
        if not has_place:
            close.refuse(core, session)
            return
        core.cells[runtime.cell + c.L_ACCEPTED] += 1
        core.sessions[number] = session
        session.dial = dial = Dial(core, session)
        try:
            core.handlers[fd] = dial
        except IndexError:
            core.handle(fd, dial)
        _set_blocking(fd, False)
        dial.start()
        if not core.is_edge_triggered:
            core.poller.refresh(session)

    def _failed(self, error: OSError) -> None:
        self._burst = 1
        if isinstance(error, BlockingIOError) or error.errno in OF_ONE_CLIENT:
            return
        self.core.cells[self.runtime.cell + c.L_ACCEPT_ERRORS] += 1
        self.pause()
        if error.errno not in EXHAUSTED:
            self.core.report(
                {
                    "kind": "error",
                    "detail": f"listener {self.runtime.listener.name}: accept: {error.strerror}",
                }
            )

    def empty_backlog(self) -> None:
        """Accept everybody who is waiting now."""
        waiting = -1
        while not self.is_paused and waiting != self.core.accepted:
            waiting = self.core.accepted
            self.ready(self.socket.fileno(), 0)

    def pause(self) -> None:
        """Stop accepting until a session of this listener ends, or until the next tick."""
        if not self.is_paused:
            self.is_paused = True
            self.core.poller.remove(self.socket.fileno())
            self.core.paused.append(self)

    def resume(self) -> None:
        """Accept again."""
        if self.is_paused:
            self.is_paused = False
            self.core.paused.remove(self)
            self.core.poller.add(self.socket.fileno(), shared=self.runtime.is_unix)

    def close(self) -> None:
        """Stop for good, and close this process's descriptor."""
        fd = self.socket.fileno()
        if self.is_paused:
            self.core.paused.remove(self)
        else:
            self.core.poller.remove(fd)
        self.core.handlers[fd] = None
        self.socket.close()
