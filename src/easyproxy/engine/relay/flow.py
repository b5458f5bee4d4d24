"""Moving bytes in one direction of a session, from one socket to the other. The hot path of the engine.

A flow copies through the worker's one buffer: one recv(2), one send(2), nothing kept. After several full reads in
a row it is bulk, and splice(2) moves the pages through a pipe instead. What the target does not take stays here, at
most one buffer or one pipe, and nothing more is read until it has gone: back-pressure is the sockets' own.

Facts this relies on:

- A read that fills less than the buffer has emptied a TCP socket, so the next edge will tell of more (epoll(7)).
  Two exceptions: a read stops at urgent data (tcp(7)), and on unix sockets where the writer's credentials change.
  Such sources are read until EAGAIN (``tail`` is ``TAIL_UNSURE``).
- EPOLLRDHUP says that the FIN is here, and so is every byte before it. A short read then needs no further read(2) to
  know the end (``TAIL_END``).
- After a reset, read(2) still gives what had arrived, and then 0 if a FIN had come before, else ECONNRESET. A write
  gives EPIPE if the FIN had come before, else ECONNRESET *once*, after which reads give 0: so an end that follows a
  failed write is not a FIN (``broken``). (Linux, net/ipv4/tcp_input.c, tcp_reset; tcp.c, tcp_recvmsg_locked.)
- What is sent with MSG_MORE waits for what follows: a FIN after it goes in the same segment, which spares both ends a
  packet and the peer a wake-up (send(2)).
- splice(2) gives EAGAIN for an empty socket and for a full pipe alike: what is in the pipe is counted here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING, Protocol, Self

from easyproxy.engine.relay import close
from easyproxy.engine.relay.core import BUFFER_BYTES, SMALL
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.poller import ERR, HUP, IN, OUT, PRI, RDHUP, READ, WRITE
from easyproxy.engine.relay.session import NEWCOMER, Session

if TYPE_CHECKING:
    from _socket import socket as raw_socket
    from collections.abc import Callable

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.pipes import Pipe

_USUAL = IN | OUT
_RARE = PRI | ERR | HUP
_UNUSUAL = _RARE | RDHUP
_READABLE = IN | _UNUSUAL

# Looking a member up on its Enum costs a call (Python 3.11), and these are needed for every session.
_CLOSED = State.CLOSED
_CLIENT_FIN = Event.CLIENT_FIN
_BACKEND_FIN = Event.BACKEND_FIN

TAIL_OPEN = 0  # a short read: wait for the next edge
TAIL_END = 1  # a short read: the FIN was next
TAIL_UNSURE = 2  # read until the kernel says that there is no more

FULL_READS_OF_BULK = 8
TURN = 8
"""Full reads, or pipes, that one flow may move before the others get their turn."""
NOT_YET = -1
"""Who has come since the last tick is counted with the next, or at its end: most sessions have none."""
STAYS_BULK = BUFFER_BYTES
"""A spliced flow that moves less than this at one wake-up goes back to copying."""

_SPLICE_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 0) | getattr(os, "SPLICE_F_MOVE", 0)
_MORE = getattr(socket, "MSG_MORE", 0)
_splice: Callable[..., int] = getattr(os, "splice", None)  # type: ignore[assignment] # used where core.can_splice


class Source(Protocol):
    """What a flow needs of the socket that it reads."""

    def recv_into(self, buffer: bytearray, /) -> int:
        """Read into a buffer (recv(2)); return how much."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Set an option (setsockopt(2))."""

    def fileno(self) -> int:
        """Its descriptor."""


class Flow:
    """One direction. Owns a leased pipe while bytes are in it; the session owns the sockets."""

    __slots__ = (
        "back",
        "broken",
        "cell",
        "core",
        "counted",
        "ended",
        "is_bulk",
        "moved",
        "pending",
        "pipe",
        "session",
        "source",
        "streak",
        "tail",
        "target",
        "target_gone",
        "writes_until_nodelay",
    )

    def __init__(
        self, core: Core, session: Session, source: raw_socket, target: raw_socket, cell: int
    ) -> None:
        self.core = core
        self.session = session
        self.source: Source = source
        self.target = target
        self.cell = cell  # where the backend's bytes in this direction are counted
        self.back: Self | None = None  # the opposite direction, as long as the session lives
        self.pending: memoryview | None = None  # read, not yet taken by the target
        self.pipe: Pipe | None = None
        self.moved = 0  # bytes that the target has taken
        self.counted = NOT_YET if session.tick == NEWCOMER else 0  # of these, what is in the cell
        self.streak = 0  # full reads in a row; below 0: short ones, since the last tick
        self.tail = TAIL_OPEN
        self.ended = False  # the source's end was read and everything before it handed on
        self.is_bulk = False
        self.target_gone = False  # the target's reset is known; what the source still says is thrown away
        self.broken: Event | None = None  # how the source broke, when a failed write found it out
        self.writes_until_nodelay = 0

    @property
    def is_blocked(self) -> bool:
        """Whether it holds bytes that the target has not taken."""
        return self.pending is not None or (self.pipe is not None and self.pipe.held > 0)

    def ready(self, _fd: int, mask: int) -> None:
        """Take an event of the source's socket, which is the opposite flow's target too."""
        if mask == _USUAL:
            self.pump()
            back = self.back
            if back is not None and (back.pending is not None or back.pipe is not None):
                back.pump()
            return
        if mask & _UNUSUAL:
            if mask & _RARE:
                self._note(mask)
            elif self.tail == TAIL_OPEN:
                self.tail = TAIL_END
        if mask & _READABLE:
            self.pump()
        back = self.back
        if mask & OUT and back is not None and (back.pending is not None or back.pipe is not None):
            back.pump()
        if mask & ERR and self.ended and self.session.state is not _CLOSED:
            close.happened(
                self.core, self.session, self._source_event(Event.CLIENT_RESET, Event.BACKEND_RESET)
            )

    def _note(self, mask: int) -> None:
        back = self.back
        if mask & ERR and back is not None:
            if back.is_blocked:
                # No edge will tell of what its source sent meanwhile: the source itself may be blocked by it.
                self.core.again.append(back)
            back.abandon_target()
        if mask & PRI and self.tail != TAIL_UNSURE:
            # Keep the urgent byte in the stream, where its sender put it (tcp(7), SO_OOBINLINE).
            self.source.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self.tail = TAIL_UNSURE

    def _source_event(self, client: Event, backend: Event) -> Event:
        return client if self is self.session.outbound else backend

    def pump(self) -> None:  # noqa: C901, PLR0911, PLR0912 - the hot path is one function: a call costs as much as a branch saves
        """Move what is there, until the source is empty, the target full, or it is the others' turn."""
        if self.ended or (self.pending is not None and not self._flush()):
            return
        if self.is_bulk:
            self._pump_bulk()
            return
        core = self.core
        turn = TURN
        while True:
            try:
                count = self.source.recv_into(core.buffer)
            except BlockingIOError:
                return
            except OSError as error:
                self._source_broke(error)
                return
            if not count:
                self._finish()
                return
            if not self.target_gone:
                self.session.active_at = core.now
                if self.tail == TAIL_END and count < BUFFER_BYTES:
                    self._write_last(count)
                    return
                if self.writes_until_nodelay:
                    self._count_down_to_nodelay()
                try:
                    sent = self.target.send(core.views[count] if count <= SMALL else core.view[:count])
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    if not self._target_broke(error):
                        return
                    sent = count
                else:
                    if self.moved == self.counted:
                        core.moving.append(self)
                    self.moved += sent
                if sent != count:
                    self.pending = memoryview(bytes(core.view[sent:count]))
                    return
            if count < BUFFER_BYTES:
                self.streak = self.streak - 1 if self.streak < 0 else -1
                if self.tail == TAIL_OPEN:
                    return
                if self.tail == TAIL_END:
                    self._finish()
                    return
            else:
                self.streak = self.streak + 1 if self.streak > 0 else 1
                if self.streak >= FULL_READS_OF_BULK and core.can_splice and not self.target_gone:
                    self.is_bulk = True
                    self._pump_bulk()
                    return
            turn -= 1
            if not turn:
                core.again.append(self)
                return

    def _write_last(self, count: int) -> None:
        """Write what the FIN follows."""
        core = self.core
        try:
            sent = self.target.send(core.views[count] if count <= SMALL else core.view[:count], _MORE)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            if self._target_broke(error):
                self._finish()
            return
        self._has_taken(sent)
        if sent == count:
            self._finish()
        else:
            self.pending = memoryview(bytes(core.view[sent:count]))

    def _flush(self) -> bool:
        pending = self.pending
        assert pending is not None  # noqa: S101 - the caller looked
        if self.writes_until_nodelay:
            self._count_down_to_nodelay()
        try:
            sent = self.target.send(pending)
        except BlockingIOError:
            return False
        except OSError as error:
            self.pending = None
            return self._target_broke(error)
        self.session.active_at = self.core.now
        self._has_taken(sent)
        if sent < len(pending):
            self.pending = pending[sent:]
            return False
        self.pending = None
        return True

    def _pump_bulk(self) -> None:
        core = self.core
        pipe = self.pipe = self.pipe or core.pipes.take()
        if pipe is None:  # none to be had: copying does as well
            self._leave_bulk()
            core.again.append(self)
            return
        source, target = self.source.fileno(), self.target.fileno()
        turn = TURN
        moved = 0
        while True:
            # EAGAIN says "the pipe is full" as well as "nothing there": only with an empty pipe is it the latter.
            was_empty = not pipe.held
            try:
                count = _splice(source, pipe.write_end, pipe.size, flags=_SPLICE_FLAGS)
                pipe.held += count
            except BlockingIOError:
                count = -1
            except OSError as error:
                if not pipe.held:
                    self._source_broke(error)
                    return
                self.broken = self._event_of(error, of_source=True)  # told when the pipe is empty
                count = 0
            if pipe.held:
                try:
                    sent = _splice(pipe.read_end, target, pipe.held, flags=_SPLICE_FLAGS)
                except BlockingIOError:
                    return  # the next OUT goes on
                except OSError as error:
                    self._target_broke(error)
                    if self.session.state is not _CLOSED:
                        core.again.append(self)
                    return
                pipe.held -= sent
                moved += sent
                self._has_taken(sent)
                self.session.active_at = core.now
                if pipe.held or count > 0 or not was_empty:
                    turn -= 1
                    if not turn:
                        core.again.append(self)
                        return
                    continue
            if count == 0:
                self._finish()
                return
            # Nothing held, nothing there: the lease ends.
            core.pipes.give(pipe)
            self.pipe = None
            if moved < STAYS_BULK or self.tail == TAIL_UNSURE:
                self._leave_bulk()
                if self.tail == TAIL_UNSURE:  # it also says "nothing there" before urgent data; read(2) knows
                    core.again.append(self)
            return

    def _leave_bulk(self) -> None:
        self.is_bulk = False
        self.streak = 0

    def _finish(self) -> None:
        self.ended = True
        if self.pipe is not None:
            self._drop_pipe()
        session = self.session
        event = self.broken or (_CLIENT_FIN if self is session.outbound else _BACKEND_FIN)
        close.happened(self.core, session, event)

    def _event_of(self, error: OSError, *, of_source: bool) -> Event:
        """Say which side broke and how."""
        client_side = (self is self.session.outbound) == of_source
        if error.errno in (errno.ECONNRESET, errno.EPIPE):
            return Event.CLIENT_RESET if client_side else Event.BACKEND_RESET
        return Event.CLIENT_VANISHED if client_side else Event.BACKEND_VANISHED

    def _source_broke(self, error: OSError) -> None:
        if error.errno == errno.EINVAL and self.is_bulk:  # this kind of socket cannot be spliced
            self.core.can_splice = self.is_bulk = False
            self._drop_pipe()
            self.core.again.append(self)
            return
        self.ended = True
        close.happened(self.core, self.session, self.broken or self._event_of(error, of_source=True))

    def _target_broke(self, error: OSError) -> bool:
        """Take a failed write; return whether the source is to be read on."""
        self.abandon_target()
        back = self.back
        if back is None:
            return False
        if error.errno != errno.EPIPE:
            back.broken = back.broken or self._event_of(error, of_source=False)
        if back.ended:
            close.happened(self.core, self.session, self._event_of(error, of_source=False))
            return False
        # What the target had said before it broke is still owed to the other side.
        back.tail = TAIL_UNSURE
        if back.broken is not None:
            back.pump()
            return False
        self.core.again.append(back)
        return True

    def abandon_target(self) -> None:
        """Stop writing: the target's connection is broken."""
        if not self.target_gone:
            self.target_gone = True
            close.hasten(self.core, self.session)
        self.pending = None
        self.is_bulk = False
        self._drop_pipe()

    def _drop_pipe(self) -> None:
        if self.pipe is not None:
            self.core.pipes.give(self.pipe)
            self.pipe = None

    def _count_down_to_nodelay(self) -> None:
        # The first write of a connection is never held back by Nagle's algorithm (RFC 9293, section 3.7.4: only
        # while earlier data is unacknowledged), so sessions of one request are spared this system call.
        self.writes_until_nodelay -= 1
        if self.writes_until_nodelay:
            return
        backend = self.session.socket
        if backend is not None and backend.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # macOS: EINVAL once it is reset; its own event follows
                backend.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _has_taken(self, sent: int) -> None:
        """Note what the target has taken, to be counted later; :meth:`pump` does the same in place."""
        if self.moved == self.counted:
            self.core.moving.append(self)
        self.moved += sent

    def count(self) -> None:
        """Add to the backend's counters what has moved since the last time. Each tick does, and the session's end.

        Counting each write at once, in shared memory, would cost a tenth of what the interpreter needs to move a short message.
        """
        self.core.cells[self.cell] += self.moved - max(self.counted, 0)
        self.counted = self.moved

    def set_nodelay(self) -> None:
        """Send from now on what there is: the session is not short."""
        if self.writes_until_nodelay:
            self.writes_until_nodelay = 1
            self._count_down_to_nodelay()

    def go_on(self, held: bytes, error: int) -> None:
        """Go on after another has read and written for it: what is held was read and not written; the errno is how reading ended, or 0."""
        if held:
            self.pending = memoryview(held)
        if error:
            # The read has taken the error: what read(2) gives next looks like the end.
            self.broken = self._event_of(OSError(error, ""), of_source=True)
            self._note(ERR)
            self.core.again.append(self)

    def was_refused(self, error: int) -> None:
        """Take the errno of a write that another has made for it."""
        if self._target_broke(OSError(error, "")):
            self.core.again.append(self)

    def watch(self, want: Callable[[int, int], None]) -> None:
        """Tell a level-triggered poller what to wait for on the source's socket, the opposite flow's target."""
        back = self.back
        reads = READ if not self.ended and not self.is_blocked else 0
        want(self.source.fileno(), reads | (WRITE if back is not None and back.is_blocked else 0))

    def release(self) -> None:
        """Give everything back; the session is over."""
        self.ended = True
        self.pending = None
        if self.pipe is not None:
            self._drop_pipe()
