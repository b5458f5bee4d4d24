"""Accepting clients of one listener, and admitting them: the first step of every session.

All workers accept from one queue, so that no client waits for a worker that is busy while another one is free. The kernel
wakes the first in line of those that are idle, and tells those before it (EPOLLEXCLUSIVE, epoll_ctl(2)). Who gets ahead of
another worker in sessions goes to the end of the line; who is far ahead leaves the next client to the others for a moment. A
worker that hangs may have been woken, so with each tick another listener is looked at without having been woken. Why:
docs/decisions/0005-one-queue.md.

Facts (accept(2)): EMFILE, ENFILE, ENOBUFS and ENOMEM stay until somebody closes something, and a level-triggered
poller would report the waiting client for ever, so accepting pauses. Errors of the network that were pending on the
new socket (ECONNABORTED, EPROTO, ...) concern that client only.

Clients that are held at a pool's gate could use up all descriptors before one of them reaches a backend, and then nobody ever
would. So with half of the descriptors in use, further ones are held in the backlog.
"""

from __future__ import annotations

import errno
import select
import socket
from _socket import socket as raw_socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.failures import EXHAUSTED
from easyproxy.engine.relay.life import Event
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
MAX_SHARED_BURST = 4
"""The same where there are other workers, which may wake up meanwhile."""
AHEAD, FAR_AHEAD = (0, 6), (2, 3)
"""By more than so many sessions, and one for every so many that the worker with the fewest has."""
MOMENT_S = 0.001
MOST_LASTS_S = 0.1
_FAMILY, _TYPE = int(socket.AF_INET), int(socket.SOCK_STREAM)


class Acceptor:
    """Accepts on one listening socket. Owns this process's descriptor of it."""

    __slots__ = (
        "_burst",
        "_is_full",
        "_is_last",
        "_is_one_of_many",
        "_most",
        "_most_until",
        "core",
        "is_paused",
        "runtime",
        "socket",
    )

    def __init__(self, core: Core, runtime: ListenerRuntime, sock: socket.socket) -> None:
        self.core = core
        self.runtime = runtime
        self.socket = sock
        self.is_paused = False
        self._burst = 1  # grows while clients stand in line, so that a single one costs no second accept(2)
        self._is_full = False
        self._most = 0  # sessions at a time, of late
        self._most_until = 0.0
        self._is_last = False  # every other worker stands in line before this one
        self._is_one_of_many = core.counters.workers > 1
        core.handle(sock.fileno(), self)
        core.poller.add(sock.fileno(), shared=True)

    def ready(self, _fd: int, _mask: int) -> None:
        """Accept who is waiting, unless the others should."""
        core = self.core
        if core.is_starved:  # a client that is taken in now would only take a descriptor from one who waits
            self.pause()
            return
        if not self._is_one_of_many:
            self.accept()
            return
        cells, cell = core.cells, self.runtime.cell
        if self._is_last and cells[cell] >= self._most and self._leads_by(*FAR_AHEAD):
            self._decline()
            return
        self.accept()
        # Sessions that come and go change places by themselves; only a number that grows is looked at.
        if cells[cell] > self._most:
            self._most = cells[cell]
            if self._leads_by(*AHEAD):
                self._go_to_the_end()
        elif core.now > self._most_until:
            self._most, self._most_until = cells[cell], core.now + MOST_LASTS_S

    def _leads_by(self, number: int, part: int) -> bool:
        """Whether it has that many sessions more than the worker with the fewest."""
        least = self.core.counters.least(self.runtime.slot)
        return self.core.cells[self.runtime.cell] - least > number + least // part

    def _go_to_the_end(self) -> None:
        """Be woken after all other workers."""
        if not self.is_paused:
            self._is_last = True
            self._burst, self._is_full = 1, False
            poller, fd = self.core.poller, self.socket.fileno()
            poller.remove(fd)
            poller.add(fd, shared=True)

    def _decline(self) -> None:
        """Leave the next client to the others for a moment. They stand before us in line, so they have heard of it."""
        self._is_last = False
        self.pause()
        self.core.declined.append((self.core.now + MOMENT_S, self))

    def look(self) -> None:
        """Accept without having been woken."""
        if self.is_paused or self.core.is_starved:
            return
        waiting = select.poll()  # select(2) ends at descriptor 1023
        waiting.register(self.socket, select.POLLIN)
        if waiting.poll(0):
            self.accept()

    def accept(self) -> None:
        """Accept who is waiting, up to a burst."""
        core, runtime = self.core, self.runtime
        counters, listener = core.counters, runtime.listener
        limit = listener.max_sessions
        waits = listener.overload == "wait"
        for _ in range(self._burst):
            if runtime.pool.is_shut and self._is_crowded():
                self.pause()
                return
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
            self._admit(fd, address, has_place)
        if self._is_full:
            self._burst = min(self._burst * 2, MAX_SHARED_BURST if self._is_one_of_many else MAX_BURST)
        self._is_full = not self._is_full

    def _is_crowded(self) -> bool:
        """Whether those who are held need the descriptors that are left."""
        gate = self.runtime.pool.gate
        return gate is not None and len(gate.dials) > 0 and len(self.core.sessions) >= self.core.most_held

    def _admit(self, fd: int, address: tuple[str, int], has_place: bool) -> None:
        core, runtime = self.core, self.runtime
        if runtime.is_unix:
            host, port = "unix", 0
        else:
            host, port = address[0], address[1]
            if host[0] == ":":  # perhaps an IPv4 client of a socket for both (RFC 4291, section 2.5.5.2)
                host = host.removeprefix("::ffff:")
        core.accepted = number = core.accepted + 1
        client = raw_socket(_FAMILY, _TYPE, 0, fd)  # as close.socket_of
        client.setblocking(False)
        session = Session(number, runtime, client, host, port, core.now)
        meter = runtime.meter
        if meter is not None and not meter.admits(host, int(core.now * 1e9)):
            if has_place:
                core.counters.give(runtime.slot)
            close.refuse(core, session, Event.RATE_LIMITED, meter.words)
            return
        if not has_place:
            close.refuse(core, session, Event.REFUSED, "the listener is at its max_sessions")
            return
        core.cells[runtime.cell + c.L_ACCEPTED] += 1
        core.sessions[number] = session
        session.dial = dial = runtime.pool.dial(core, session)
        try:
            core.handlers[fd] = dial
        except IndexError:
            core.handle(fd, dial)
        dial.start()
        if not core.is_edge_triggered:
            session.watch(core.poller.want)

    def _failed(self, error: OSError) -> None:
        self._burst, self._is_full = 1, False
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
            self.accept()

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
            self.core.poller.add(self.socket.fileno(), shared=True)

    def close(self) -> None:
        """Stop for good, and close this process's descriptor."""
        fd = self.socket.fileno()
        if self.is_paused:
            self.core.paused.remove(self)
            self.is_paused = False
        else:
            self.core.poller.remove(fd)
        self.core.handlers[fd] = None
        self.socket.close()
