"""Sessions that end between two transactions: their flows are overheard, and whoever is to leave goes when nothing is under way.

Only pools with a ``conversation`` come here; the flows of all others know nothing of it. What is overheard is judged by
:mod:`.conversation` (pure). A session is to leave when its backend or its listener is, or when the whole worker takes nobody
in any more; until then it costs the overhearing and nothing else.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.conversation import CONVERSATIONS, NONE, OPEN, UNKNOWN, Conversation
from easyproxy.engine.relay.flow import Flow
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.session import Session
from easyproxy.engine.relay.waiting import readable

if TYPE_CHECKING:
    from _socket import socket as raw_socket
    from collections.abc import Callable, Iterator, Mapping

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime, PoolRuntime

FRESH_S = 1.0
"""A client that has just logged in has come to ask something: it may do so, unless it is silent for so long."""
SLICE = 250
"""Sessions per turn of the loop."""
BEGAN_BEFORE = "it began before its pool had drain: between_transactions"
_RELAYING = State.RELAYING


class Ear:
    """A socket to read from, whose every byte a conversation hears before it is passed on. Owns nothing."""

    __slots__ = ("_hear", "_recv_into", "_view", "fileno", "setsockopt")

    def __init__(self, sock: raw_socket, view: memoryview, hear: Callable[[memoryview], None]) -> None:
        self._recv_into = sock.recv_into
        self._view = view
        self._hear = hear
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt

    def recv_into(self, buffer: bytearray) -> int:
        """Read into the worker's buffer, of which ``view`` is one; raises what recv(2) does."""
        count = self._recv_into(buffer)
        if count:
            self._hear(self._view[:count])
        return count


class OverheardFlow(Flow):
    """One direction of a session whose conversation is followed. It never splices: what moves in a pipe is not heard."""

    __slots__ = ()

    def pump(self) -> None:
        """Move what is there; then see whether this is the moment to leave."""
        Flow.pump(self)
        core, session = self.core, self.session
        if is_leaving(core, session) and session.state is _RELAYING:
            part(core, session)

    def _pump_bulk(self) -> None:
        self._leave_bulk()
        self.core.again.append(self)


def follow(core: Core, session: Session, conversation: Conversation, cell: int) -> tuple[Flow, Flow]:
    """Make the flows (from the client, from the backend) of a session that is followed from now on.

    ``cell`` is its backend's first. Both of its sockets stand.
    """
    client, sock = session.client_socket, session.socket
    assert sock is not None  # noqa: S101 - the caller has connected it
    core.follows = True
    session.conversation = conversation
    outbound = OverheardFlow(core, session, client, sock, cell + c.B_FROM_CLIENT)
    inbound = OverheardFlow(core, session, sock, client, cell + c.B_FROM_BACKEND)
    outbound.source = Ear(client, core.view, conversation.from_client)
    inbound.source = Ear(sock, core.view, conversation.from_backend)
    return outbound, inbound


def conversation_of(protocol: str) -> Conversation:
    """Begin to follow a session of a protocol, by its word in ``Pool.conversation``."""
    return CONVERSATIONS[protocol]()


def is_leaving(core: Core, session: Session) -> bool:
    """Whether a session is to end as soon as no transaction is open."""
    backend = session.backend
    return core.is_leaving or (backend is not None and backend.is_leaving) or session.listener.is_leaving


def part(core: Core, session: Session) -> bool:
    """End a session that stands if this is the moment; return whether it was.

    Each side is told in its protocol's own words, as far as that has any, and gets a clean end: the backend does not count an
    aborted client.
    """
    conversation, outbound, inbound = session.conversation, session.outbound, session.inbound
    if (
        conversation is None
        or outbound is None
        or inbound is None
        or session.state is not _RELAYING
        or conversation.transaction != NONE
        or outbound.is_blocked
        or inbound.is_blocked
    ):
        return False
    if conversation.is_fresh and core.now < session.active_at + FRESH_S:
        core.wheel.bring_forward(session, session.active_at + FRESH_S)
        return False
    client, backend = session.client_socket, session.socket
    assert backend is not None  # noqa: S101 - it stands
    # Something may be under way after all; its event comes.
    if readable(client.fileno()) or readable(backend.fileno()):
        return False
    _say(client, conversation.farewell_to_client)
    _say(backend, conversation.farewell_to_backend)
    close.cut(core, session, Event.BETWEEN_TRANSACTIONS, _why(core, session))
    return True


def _say(sock: raw_socket, words: bytes) -> None:
    if words:
        with contextlib.suppress(OSError):  # full, or broken: then it goes without
            sock.send(words)


def _why(core: Core, session: Session) -> str:
    if core.is_leaving:
        return "no sessions are served any more"
    return "its listener is gone" if session.listener.is_leaving else "its backend is drained"


def see_off(core: Core, pools: Mapping[str, PoolRuntime]) -> Iterator[None]:
    """Learn who is to leave after a change, and end those who can go at once; a slice per turn of the loop."""
    everyone = list(core.sessions.values())
    for start in range(0, len(everyone), SLICE):
        for session in everyone[start : start + SLICE]:
            backend = session.backend
            if backend is None or session.state is State.CLOSED:
                continue
            backend.is_leaving = _is_to_leave(backend, pools)
            if session.conversation is not None and is_leaving(core, session):
                part(core, session)
        yield


def _is_to_leave(backend: BackendRuntime, pools: Mapping[str, PoolRuntime]) -> bool:
    """Whether a backend is drained, or not the one any more that is configured. One that is down keeps its sessions."""
    pool = pools.get(backend.pool)
    if pool is None:
        return True
    here = pool.backends.get(backend.backend.id, backend)
    return bool(pool.pool.conversation) and (
        backend.backend.id not in pool.keeps or here.backend.address != backend.backend.address
    )


def transaction_of(session: Session) -> str:
    """Say what is known of a session's transaction: a word, and why where it is ``unknown``; empty where nobody asks."""
    conversation = session.conversation
    if conversation is not None:
        known = conversation.transaction
        return f"{known}: {conversation.doubt}" if known == UNKNOWN else known
    pool = session.listener.pool.pool
    return f"{UNKNOWN}: {BEGAN_BEFORE}" if pool.conversation and session.dial is None else ""


def at_the_deadline(session: Session) -> str:
    """Say why a session is still there when the time for draining is over; empty where nobody has followed it."""
    known, _, doubt = transaction_of(session).partition(": ")
    if not known:
        return ""
    if known == UNKNOWN:
        return f"at the deadline; whether a transaction was open is not known: {doubt}"
    return "at the deadline, with a transaction open" if known == OPEN else "at the deadline, in mid-request"
