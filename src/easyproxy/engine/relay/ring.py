"""Sessions that exchange short messages are carried by io_uring(7): the kernel reads for them, and one system call sends on what it has read for all.

A session moves its bytes by itself (:mod:`.flow`) until it turns out to be talkative, and again as soon as anything is not usual: an end,
an error, a message that fills a buffer, a target that does not take everything, the wish of anybody to close it. So there is one place for each of these, and
it is not here. While a session is carried epoll does not watch it; what epoll has to say of others comes through the ring.

What keeps bytes in order and in one place:

- A flow has at most one send under way. A second read of the same turn is sent after the first was seen to have gone.
- What a target has not taken, and what was read after that, is held in order and given back to the flow as its ``pending``.
- A session is given back when neither side is being read any more, and everything that was read has been sent or is held.
"""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

from easyproxy.engine.relay.flow import TAIL_OPEN, Flow
from easyproxy.engine.relay.life import State
from easyproxy.engine.relay.poller import IN, STREAM
from easyproxy.engine.relay.uring import (
    ASYNC_CANCEL,
    BUFFER_BYTES,
    BUFFER_SELECT,
    BUFFERS,
    COMPLETIONS,
    HAS_BUFFER,
    HAS_MORE,
    MULTISHOT,
    POLL_ADD,
    POLL_FIRST,
    RECV,
    REQUESTS,
    SEND,
    SKIP_SUCCESS,
    WORDS,
    Uring,
)

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.session import Session

_LOW = 0xFFFFFFFF
_READ = HAS_BUFFER | HAS_MORE
_SEND_FLAGS = (
    getattr(socket, "MSG_DONTWAIT", 0) | socket.MSG_WAITALL | getattr(socket, "MSG_NOSIGNAL", 0)
) << 32

# What a completion belongs to: a read has its descriptor, a send the place of its request.
_OF_SEND = 1 << 32
_OF_CANCEL = 1 << 33
_OF_EPOLL = 1 << 34

_PLACES = COMPLETIONS - 1
_LAST_WORD = REQUESTS * WORDS - 1
_FULL = REQUESTS - 2 * BUFFERS
"""More requests are not left waiting, so that there is always room for a send of what is in each buffer."""
PATIENCE = 100
"""So many tenths of a second without any completion for the kernel to end a read. It takes one turn, but after all who were ready before."""
MOST_CARRIED = COMPLETIONS // 2 - REQUESTS
"""So many sessions at once: if all of them end in one moment, there is still a place for every completion."""
_NOT_THE_PEERS = frozenset(
    {errno.ECANCELED, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EINVAL, errno.EBADF}
)
"""Reads may end with these although the connection stands."""


class _Carried:
    """A session while it is carried."""

    __slots__ = ("being_read", "broken", "flows", "held", "is_leaving", "refused", "session")

    def __init__(self, session: Session, flows: dict[int, Flow]) -> None:
        self.session = session
        self.flows = flows  # by the descriptor that each reads from
        self.being_read = set(flows)
        self.is_leaving = False
        self.held: dict[int, list[bytes]] = {}  # by the descriptor that it was read from
        self.broken: dict[int, int] = {}  # why a read failed
        self.refused: dict[int, int] = {}  # why a send of what was read from it failed


class Ring:
    """All sessions of a worker that are carried. Belongs to the worker's thread. Raises OSError where the system has no io_uring for us."""

    def __init__(self, core: Core, epoll: int) -> None:
        self._core = core
        self._uring = Uring()
        self._epoll = epoll
        self.left: set[int] = set()
        self._carried: dict[int, _Carried] = {}  # by both descriptors
        # By the descriptor that is read: how a send of that begins (0: it is held), and in which turn there was one.
        self._sends = [0] * 1024
        self._turns = [0] * 1024
        self._flows: dict[int, Flow] = {}
        self._turn = 1
        self._tail = 0  # requests so far
        self._taken = 0  # of these, what the kernel has taken
        self._head = 0  # completions so far
        self._late: list[int] = []  # completions that came when only failures were looked for
        self._used = 0  # buffers that were read into, and not yet given back
        self._is_listening = False  # to epoll
        self._has_events = False

    # -- coming and going

    @property
    def count(self) -> int:
        """How many sessions are carried."""
        return len(self._carried) // 2

    def takes(self, session: Session) -> bool:
        """Whether it can carry a session: it does not yet, it stands whole, and nothing about it is unusual."""
        outbound, inbound, again = session.outbound, session.inbound, self._core.again
        return (
            session.state is State.RELAYING
            and session.client_fd not in self._carried
            and self.count < MOST_CARRIED
            and type(outbound) is Flow
            and type(inbound) is Flow
            and _is_usual(outbound)
            and _is_usual(inbound)
            and not (again and (outbound in again or inbound in again))
        )

    def carry(self, session: Session) -> None:
        """Carry a session that :meth:`takes` was asked about."""
        backend, outbound, inbound = session.socket, session.outbound, session.inbound
        assert backend is not None  # noqa: S101 - it stands
        assert isinstance(outbound, Flow)  # noqa: S101 - as above
        assert isinstance(inbound, Flow)  # noqa: S101 - as above
        core = self._core
        try:  # nobody tells of an urgent byte here: it stays in the stream, where its sender put it (tcp(7))
            for sock in (session.client_socket, backend):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        except OSError:  # its own event follows
            return
        outbound.set_nodelay()
        ends = session.client_fd, backend.fileno()
        if max(ends) >= len(self._sends):
            more = [0] * (max(ends) + 1024 - len(self._sends))
            self._sends += more
            self._turns += more
        carried = _Carried(session, dict(zip(ends, (outbound, inbound), strict=True)))
        for source, target in (ends, ends[::-1]):
            core.poller.remove(source)
            self._carried[source] = carried
            self._flows[source] = carried.flows[source]
            self._sends[source] = SEND | SKIP_SUCCESS << 8 | target << 32
            self._read(source)
        core.poll = self.poll

    def flush(self) -> None:
        """Send what was read: whether its target takes it is known then."""
        while self._taken != self._tail:
            self._submit()

    def release(self, session: Session) -> None:
        """Give a session back at once, if it is carried: whoever closes it needs its sockets alone."""
        carried = self._carried.get(session.client_fd)
        if carried is not None:
            self._leave(carried)
            self._wait_while(session.client_fd, carried)

    def release_all(self) -> None:
        """Give every session back at once."""
        for carried in set(self._carried.values()):
            self._leave(carried)
        for fd, carried in list(self._carried.items()):
            self._wait_while(fd, carried)

    def _wait_while(self, fd: int, carried: _Carried) -> None:
        patience = PATIENCE
        while self._carried.get(fd) is carried:
            if not patience:
                # Whatever is read now would be sent to whoever gets the descriptor's number next: rather no worker than that.
                raise SystemError("io_uring does not end its reads")
            seen = self._head
            if not carried.being_read:  # what should have given it back went wrong
                self._give_back(carried)
            else:
                self._run(0.0 if self._late else 0.1)
            if self._head == seen:
                patience -= 1

    def close(self) -> None:
        """Close it. Nothing is carried any more."""
        self._uring.close()

    # -- requests

    def _push(self, first: int, address: int, length: int, data: int) -> None:
        while self._tail - self._taken >= _FULL:
            self._submit()
        requests = self._uring.requests
        place = self._tail * WORDS & _LAST_WORD
        requests[place] = first
        requests[place + 2] = address
        requests[place + 3] = length
        requests[place + 4] = data
        self._tail += 1

    def _read(self, fd: int) -> None:
        self._push(RECV | BUFFER_SELECT << 8 | (MULTISHOT | POLL_FIRST) << 16 | fd << 32, 0, 0, fd)

    def _send(self, fd: int, found: int) -> None:
        """Send on what was read; :meth:`_run` does the same in place."""
        flow, size = self._flows[fd], found & _LOW
        if flow.moved == flow.counted:
            self._core.moving.append(flow)
        flow.moved += size
        place = self._tail * WORDS & _LAST_WORD
        self._push(self._sends[fd], self._uring.addresses[found >> 48], size | _SEND_FLAGS, place | _OF_SEND)
        self._turns[fd] = self._turn

    def _leave(self, carried: _Carried) -> None:
        """Read no more for a session; it is given back when that has come to an end."""
        if carried.is_leaving:
            return
        carried.is_leaving = True
        for fd in carried.flows:
            self._sends[fd] = 0
        for fd in carried.being_read:
            self._push(ASYNC_CANCEL | SKIP_SUCCESS << 8 | _LOW << 32, fd, 0, _OF_CANCEL)

    def _submit(self) -> None:
        """Hand the requests in, and see at once which sends have failed."""
        self._taken += self._uring.submit(self._tail, self._tail - self._taken)
        if self._taken == self._tail:
            self._turn += 1
        self._set_aside(self._fetch())

    def _set_aside(self, batch: list[int]) -> None:
        """Handle the sends that have failed, and keep all other completions for later."""
        pairs = iter(batch)
        for data, found in zip(pairs, pairs, strict=True):
            if data & _OF_SEND:
                self._fell_short(data & _LOW, found)
            else:
                self._late += (data, found)

    # -- completions

    def poll(self, timeout: float, limit: int) -> list[tuple[int, int]]:
        """Move what is there; wait at most so many seconds for it. Return what epoll has to say: see :class:`.poller.Poller`."""
        if not self._is_listening:
            self._is_listening = True
            self._push(POLL_ADD | self._epoll << 32, 0, IN << 32, _OF_EPOLL)
        self._run(0.0 if self._late or self._has_events else timeout)
        if not self._has_events:
            return []
        self._has_events = self._is_listening = False
        return self._core.poller.poll(0, limit)

    def _fetch(self) -> list[int]:
        """Return the words of all completions, two of each. Failed sends come first: they were over before the kernel read."""
        uring = self._uring
        numbers, head = uring.numbers, self._head
        end = numbers[uring.completions_tail]
        if end == head:
            return []
        first, last = (head & _PLACES) * 2, (end & _PLACES) * 2
        if first < last:
            found: list[int] = uring.completions[first:last].tolist()
        else:
            found = uring.completions[first:].tolist() + uring.completions[:last].tolist()
        self._head = numbers[uring.completions_head] = end
        return found

    def _run(self, timeout: float) -> None:  # noqa: PLR0915 - the hot path is one function: a call costs as much as a branch saves
        """Carry messages until the time is over or something has come that is none: a loop within the worker's loop.

        Each turn hands the requests in, waits until there is something to take, and prepares to send on what was read.
        """
        core, uring = self._core, self._uring
        enter, fetch, clock = uring.enter, self._fetch, time.monotonic
        flows, sends, turns, moving = self._flows, self._sends, self._turns, core.moving
        requests, addresses = uring.requests, uring.addresses
        tail, turn = self._tail, self._turn
        now = clock()
        end = now + timeout
        is_usual = True
        while True:
            count = tail - self._taken
            done = enter(tail, count, 0.0 if self._late else end - now)
            self._taken += done
            if done == count:
                turn = self._turn = turn + 1
                if self._used:  # everything was sent that had been read
                    uring.give_buffers(self._used)
                    self._used = 0
            batch = fetch()
            if self._late:
                self._set_aside(batch)
                batch, self._late = self._late, []
                tail = self._tail
            now = core.now = clock()
            self._used += len(batch) // 2
            pairs = iter(batch)
            for data, found in zip(pairs, pairs):  # noqa: B905 - strict costs
                try:
                    if found & _READ == _READ and turns[data] != turn and (send := sends[data]):
                        size = found & _LOW
                        if size < BUFFER_BYTES:
                            turns[data] = turn
                            flow = flows[data]
                            moved = flow.moved
                            if moved == flow.counted:
                                moving.append(flow)
                            flow.moved = moved + size
                            place = tail * WORDS & _LAST_WORD
                            requests[place] = send
                            requests[place + 2] = addresses[found >> 48]
                            requests[place + 3] = size | _SEND_FLAGS
                            requests[place + 4] = place | _OF_SEND
                            tail += 1
                            continue
                    self._tail = tail
                    is_usual &= self._take(data, found)
                    turn, tail = self._turn, self._tail
                except Exception as error:  # noqa: BLE001 - see Worker._fault
                    self._tail = max(tail, self._tail)  # it may have made requests before
                    is_usual = self._went_wrong(data, found, error)
                    turn, tail = self._turn, self._tail
            self._tail = tail
            if now >= end or not is_usual:
                return

    def _take(self, data: int, found: int) -> bool:
        """Take a completion; return whether it was a message of a session that goes on: the second one in a turn."""
        if not found & HAS_BUFFER:
            self._used -= 1
        if found & _READ == _READ and self._sends[data] and found & _LOW < BUFFER_BYTES:
            self._submit()
            if self._sends[data] and self._turns[data] != self._turn:
                self._send(data, found)
                return True
        if data == _OF_EPOLL:
            self._has_events = True
        elif data & _OF_SEND:
            self._fell_short(data & _LOW, found)
        elif data in self._carried:
            self._read_ended(self._carried[data], data, found)
        return False

    def _went_wrong(self, data: int, found: int, error: Exception) -> bool:
        """Have the worker end the session of a completion that could not be handled."""
        if not found & HAS_MORE and data in self._carried:
            self._carried[data].being_read.discard(data)
        self._core.faults.append((self._flows.get(data), error))
        return False

    def _read_ended(self, carried: _Carried, fd: int, found: int) -> None:
        size = _signed(found)
        if size > 0:
            begin = (found >> 48) * BUFFER_BYTES
            carried.held.setdefault(fd, []).append(bytes(self._uring.store[begin : begin + size]))
        elif size == -errno.ENOBUFS and not carried.is_leaving:
            self._read(fd)
            return
        elif size < 0 and -size not in _NOT_THE_PEERS:
            carried.broken[fd] = -size
        if not found & HAS_MORE:
            carried.being_read.discard(fd)
        self._leave(carried)
        if not carried.being_read:
            self._give_back(carried)

    def _fell_short(self, place: int, found: int) -> None:
        """Hold what a target has not taken."""
        first, _, address, length = self._uring.requests[place : place + 4]
        target = first >> 32
        carried = self._carried[target]
        fd = next(each for each in carried.flows if each != target)
        size, sent = length & _LOW, max(_signed(found), 0)
        carried.flows[fd].moved -= size - sent
        error = -_signed(found)
        if error > 0 and error not in _NOT_THE_PEERS:
            carried.refused[fd] = error
        else:
            begin = address - self._uring.addresses[0]
            # A full buffer may have been read in the same turn: it is held already, and comes after this.
            carried.held.setdefault(fd, []).insert(0, bytes(self._uring.store[begin + sent : begin + size]))
        self._leave(carried)

    def _give_back(self, carried: _Carried) -> None:
        """Let the flows of a session go on by themselves."""
        self.flush()  # what was read before must go before
        core, session = self._core, carried.session
        self.left.add(session.number)
        for fd in carried.flows:
            del self._carried[fd]
            del self._flows[fd]
        if not self._carried:
            core.poll = core.poller.poll
        try:
            for fd, flow in carried.flows.items():
                core.watch(fd, STREAM)
                flow.go_on(b"".join(carried.held.get(fd, ())), carried.broken.get(fd, 0))
            for fd, error in carried.refused.items():
                if session.state is not State.CLOSED:
                    carried.flows[fd].was_refused(error)
        except Exception as error:  # noqa: BLE001 - see Worker._fault
            core.faults.append((session.outbound, error))


def _is_usual(flow: Flow) -> bool:
    return (
        flow.tail == TAIL_OPEN
        and not (flow.ended or flow.is_bulk or flow.target_gone)
        and flow.pending is None
        and flow.pipe is None
        and flow.broken is None
    )


def _signed(found: int) -> int:
    """Return the result in a completion: bytes, or a negative errno."""
    result = found & _LOW
    return result - (1 << 32) if result >> 31 else result
