"""How sessions end: what the table answers is done to the sockets, and the session is accounted for, once.

A reset is sent with SO_LINGER 0 (socket(7)), which also throws away what the kernel has not sent yet. So it waits
until the peer has acknowledged what was written before (SIOCOUTQ, tcp(7)), but not for long. Until its descriptor is closed, a backend's
connection keeps its place: the backend never sees more than its ``max_sessions``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from _socket import socket as raw_socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.core import MAX_ENDS
from easyproxy.engine.relay.keepalive import is_acknowledged
from easyproxy.engine.relay.life import CLEAN, REASONS, TABLE, Ending, Event, State, Transition
from easyproxy.engine.relay.ranges import BYTES_OF, LENGTH_OF
from easyproxy.engine.relay.session import NEWCOMER, Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime

RESET_WAITS_S = 0.5
_LINGER_ZERO = struct.pack("ii", 1, 0)
_REASON_INDEX = {reason: index for index, reason in enumerate(REASONS)}
_RESETS = {
    Event.CLIENT_RESET.value: c.B_CLIENT_RESETS,
    Event.CLIENT_VANISHED.value: c.B_CLIENT_RESETS,
    Event.BACKEND_RESET.value: c.B_BACKEND_RESETS,
    Event.BACKEND_VANISHED.value: c.B_BACKEND_RESETS,
    Event.IDLE_TIMEOUT.value: c.B_TIMEOUTS,
    Event.HALF_CLOSED_TIMEOUT.value: c.B_TIMEOUTS,
    Event.LIFE_TIMEOUT.value: c.B_TIMEOUTS,
}


# Looking a member up on its Enum costs a call (Python 3.11), and these are needed for every session.
_CLOSED = State.CLOSED
_FIN, _CLOSE = Ending.FIN, Ending.CLOSE
_FAMILY, _TYPE, _SHUT_WR = int(socket.AF_INET), int(socket.SOCK_STREAM), socket.SHUT_WR
_CLIENT_FIN, _BACKEND_FIN = Event.CLIENT_FIN, Event.BACKEND_FIN


def socket_of(fd: int) -> raw_socket:
    """Wrap a descriptor; detach it when it shall stay open.

    All three arguments are given so that CPython asks the kernel for none of them; whatever the family, the calls
    that are made on it take no address.
    """
    sock = raw_socket(_FAMILY, _TYPE, 0, fd)
    sock.setblocking(False)  # a program may have called socket.setdefaulttimeout
    return sock


def happened(core: Core, session: Session, event: Event) -> None:
    """Move a session along its table, and do to both sides what the table says."""
    transition = TABLE[session.state, event]
    session.state = transition.state
    if transition.state is _CLOSED:
        _close(core, session, transition, "")
        return
    if transition.client is _FIN:
        _pass_fin(session.client_socket)
    elif transition.backend is _FIN and session.socket is not None:
        _pass_fin(session.socket)
    outbound, inbound = session.outbound, session.inbound
    if outbound is None or inbound is None:
        return
    # A side that broke after its FIN is told the other side only now that its last byte has gone.
    if event is _CLIENT_FIN and inbound.target_gone:
        happened(core, session, Event.CLIENT_RESET)
        return
    if event is _BACKEND_FIN and outbound.target_gone:
        happened(core, session, Event.BACKEND_RESET)
        return
    hasten(core, session)


def hasten(core: Core, session: Session) -> None:
    """Begin its ``half_closed_timeout``: one side has ended, or is lost."""
    session.active_at = core.now  # not with the last byte before it
    if session.tick == NEWCOMER:
        return
    limit = session.listener.listener.half_closed_timeout_s
    if limit:
        core.wheel.bring_forward(session, core.now + limit)


def _pass_fin(sock: raw_socket) -> None:
    try:
        sock.shutdown(_SHUT_WR)
    except OSError:  # reset meanwhile: its own event follows
        return


def cut(core: Core, session: Session, event: Event, detail: str = "") -> None:
    """End a session for a reason of ours, or before it had a backend."""
    if core.ring is not None:
        core.ring.release(session)
        if session.state is _CLOSED:  # it has just ended by itself
            return
    transition = TABLE[session.state, event]
    session.state = State.CLOSED
    _close(core, session, transition, detail)


def _close(core: Core, session: Session, transition: Transition, detail: str) -> None:
    if session.tick > 0:
        core.wheel.remove(session)
    del core.sessions[session.number]
    dial, outbound, inbound = session.dial, session.outbound, session.inbound
    if dial is not None:
        dial.release()
    from_client = from_backend = 0
    if outbound is not None and inbound is not None:
        from_client, from_backend = outbound.moved, inbound.moved
        outbound.count()
        inbound.count()
        if transition.client is not _CLOSE:  # else both have ended, and hold nothing
            outbound.release()
            inbound.release()
        # Break the cycles here, so that the garbage collector has nothing to find.
        outbound.back = inbound.back = None
        session.outbound = session.inbound = None
    client_fd, backend = session.client_socket.detach(), session.backend
    fd = session.socket.detach() if session.socket is not None else -1
    if transition.client is _CLOSE and core.is_edge_triggered and fd >= 0 and backend is not None:
        # The usual end, in as few steps as it takes.
        core.handlers[client_fd] = core.handlers[fd] = None
        core.closing += (client_fd, fd)
        core.leaving.append(backend)
    else:
        _end(core, client_fd, transition.client, session, None)
        if fd >= 0:
            _end(core, fd, transition.backend, session, backend)
    _account(core, session, transition.reason, detail, from_client, from_backend)
    session.dial = None


def _end(core: Core, fd: int, ending: Ending, session: Session, backend: BackendRuntime | None) -> None:
    core.handlers[fd] = None
    if not core.is_edge_triggered:
        core.poller.forget(fd)
    if ending is _CLOSE:
        core.closing.append(fd)
        if backend is not None:
            core.leaving.append(backend)
        return
    wait = RESET_WAITS_S
    if ending is Ending.RESET_WHEN_SENT:
        listener = session.listener.listener
        wait = listener.half_closed_timeout_s or listener.idle_timeout_s or float("inf")
    if _is_sent(fd):
        reset(core, fd, backend)
    else:
        core.lingering.append((core.now + wait, fd, backend))


def _is_sent(fd: int) -> bool:
    # A system that cannot say (macOS) gives the bytes all the time there is.
    with contextlib.suppress(OSError):
        if is_acknowledged(fd):
            return True
    # A connection that is gone keeps its count for ever.
    poll = select.poll()
    poll.register(fd, 0)
    return any(bits & select.POLLERR for _fd, bits in poll.poll(0))


def reset(core: Core, fd: int, backend: BackendRuntime | None = None) -> None:
    """Close a descriptor, after this batch of events, so that the peer gets a reset."""
    sock = socket_of(fd)
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    core.closing.append(sock.detach())
    if backend is not None:
        core.leaving.append(backend)


def settle_resets(core: Core) -> None:
    """Send the resets whose bytes have been acknowledged, or have waited long enough."""
    waiting = core.lingering
    core.lingering = []
    for deadline, fd, backend in waiting:
        if core.now >= deadline or _is_sent(fd):
            reset(core, fd, backend)
        else:
            core.lingering.append((deadline, fd, backend))


def _end_registrations(core: Core, closing: Iterable[int]) -> None:
    """Stop watching those that live on in another process: their events would be taken for those of whoever gets the number next."""
    for fd in core.shared.intersection(closing):
        core.shared.remove(fd)
        with contextlib.suppress(OSError):  # one that only lingers is not watched
            core.poller.remove(fd)


def close_descriptors(core: Core) -> None:
    """Close what the batch has left over."""
    closing = core.closing
    core.closing = []
    if core.shared:
        _end_registrations(core, closing)
    for fd in closing:
        try:
            os.close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:  # a double close would hit somebody else's descriptor next time
                raise
    leaving, core.leaving = core.leaving, []
    for backend in leaving:  # only now: the backend would see its next session before the end of the former
        core.cells[backend.cell + c.B_SESSIONS] -= 1
    for backend in leaving:
        if backend.waiting:
            next(iter(backend.waiting)).session.listener.pool.wake()


def _account(
    core: Core, session: Session, reason: str, detail: str, from_client: int, from_backend: int
) -> None:
    cells = core.cells
    listener = session.listener
    backend = session.backend
    cells[core.ends_cell + _REASON_INDEX[reason]] += 1
    if backend is not None:
        field = _RESETS.get(reason)
        if field is not None:
            cells[backend.cell + field] += 1
        if session.connected_at:
            cell = backend.cell
            length = int((core.now - session.accepted_at) * 1_000_000)
            cells[cell + c.B_LENGTH + LENGTH_OF[length.bit_length()]] += 1
            cells[cell + c.B_LENGTH_SUM] += length
            cells[cell + c.B_UP + BYTES_OF[((from_client or 1) - 1).bit_length()]] += 1
            cells[cell + c.B_UP_SUM] += from_client
            cells[cell + c.B_DOWN + BYTES_OF[((from_backend or 1) - 1).bit_length()]] += 1
            cells[cell + c.B_DOWN_SUM] += from_backend
    elif reason == Event.NO_BACKEND.value:
        cells[listener.cell + c.L_NO_BACKEND] += 1
    cells[listener.cell + c.L_SESSIONS] -= 1  # the last: who sees no session sees all that they counted
    if listener.acceptor is not None and listener.acceptor.is_paused:
        listener.acceptor.resume()
    _report(core, session, reason, detail, from_client, from_backend)


def refuse(core: Core, session: Session, event: Event, detail: str) -> None:
    """Reset a client whom the listener does not take in: counted and reported, but never a session."""
    reason = event.value
    core.cells[session.listener.cell + c.L_REFUSED] += 1
    core.cells[core.ends_cell + _REASON_INDEX[reason]] += 1
    _report(core, session, reason, detail, 0, 0)
    reset(core, session.client_socket.detach())


def _report(
    core: Core, session: Session, reason: str, detail: str, from_client: int, from_backend: int
) -> None:
    """Remember how it ended, and keep it for the control process if that wants to know; see ``ends.Row``."""
    row = (
        session.number,
        session.listener.listener.name,
        session.backend.backend.id if session.backend is not None else "",
        session.host,
        session.port,
        reason,
        session.accepted_at,
        session.connected_at,
        core.now,
        from_client,
        from_backend,
        detail,
        session.tried,
    )
    core.recent_ends.append(row)
    if core.tells_clean_ends or reason not in CLEAN:
        if len(core.ends) < MAX_ENDS:
            core.ends.append(row)
        else:
            core.cells[core.ends_cell + c.E_LOST] += 1
