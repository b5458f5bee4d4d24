"""When a session that stands must be looked at, and what has run out then: silence, or its whole life.

The timer wheel only says that a place has come up; the true deadline is computed here, from the listener's settings
as they are now. A session that still dials has its own deadlines (:mod:`.dial`).
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close, polite
from easyproxy.engine.relay.keepalive import HAS_USER_TIMEOUT, arm_keepalive, spare_who_does_not_read
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.session import Session

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core

NOT_TAKEN = "the other side did not take what it was owed"
_LOST = (Event.CLIENT_RESET, Event.BACKEND_RESET)
LOOKS = 2
"""So often within a listener's ``user_timeout`` its sessions are looked at, or up to twice as often: see :mod:`.keepalive`."""
_TURNS = 64
"""Sessions that came together are looked at in so many turns: thousands at once would have all others wait."""


def expire(core: Core, session: Session) -> None:
    """Look at a session whose place in the wheel has come up: end it, or place it further on."""
    listener, now = session.listener.listener, core.now
    life = session.accepted_at + listener.life_timeout_s if listener.life_timeout_s else 0.0
    if life and now >= life:
        close.cut(core, session, Event.LIFE_TIMEOUT)
        return
    if session.dial is not None:
        session.dial.expired()
        return
    if (
        session.conversation is not None
        and polite.is_leaving(core, session)
        and (polite.part(core, session) or session.tick)  # it is gone, or has been given another moment
    ):
        return
    if not session.armed:
        session.armed = True
        _arm(session)
    event, limit = _patience(session)
    if limit and now >= session.active_at + limit:
        close.cut(core, session, event, NOT_TAKEN if event in _LOST else "")
    else:
        _spare(session)
        place(core, session)


def place(core: Core, session: Session, by: float = float("inf")) -> None:
    """Put a session that stands where its next deadline is, or earlier."""
    _event, limit = _patience(session)
    listener = session.listener.listener
    if limit:
        by = min(by, session.active_at + limit)
    if listener.life_timeout_s:
        by = min(by, session.accepted_at + listener.life_timeout_s)
    if listener.user_timeout_s and HAS_USER_TIMEOUT:
        share = (1 + session.number % _TURNS / _TURNS) / 2
        by = min(by, core.now + listener.user_timeout_s / LOOKS * share)
    if by < float("inf"):
        core.wheel.place(session, by)


def _patience(session: Session) -> tuple[Event, float]:
    """For how many seconds a session may be silent (0: for ever), and what happens then."""
    listener, lost = session.listener.listener, _lost(session)
    limit, half = listener.idle_timeout_s, listener.half_closed_timeout_s
    if (lost or session.state is not State.RELAYING) and half and (not limit or half <= limit):
        return lost or Event.HALF_CLOSED_TIMEOUT, half
    return Event.IDLE_TIMEOUT, limit


def _lost(session: Session) -> Event | None:
    """Say which side is lost while the other one has not taken yet what that had said before."""
    outbound, inbound = session.outbound, session.inbound
    if inbound is not None and inbound.target_gone:
        return Event.CLIENT_RESET
    return Event.BACKEND_RESET if outbound is not None and outbound.target_gone else None


def _arm(session: Session) -> None:
    """Let the kernel find out when the backend vanishes. Short sessions never come here and save the calls."""
    sock, listener = session.socket, session.listener.listener
    if sock is None or sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # macOS: EINVAL once it is reset; its own event follows
        arm_keepalive(sock.setsockopt, listener.keepalive_s, listener.user_timeout_s)


def _spare(session: Session) -> None:
    """Look whether a side is there and only does not read."""
    user_timeout_s = session.listener.listener.user_timeout_s
    if user_timeout_s and HAS_USER_TIMEOUT:
        for sock in (session.client_socket, session.socket):
            if sock is not None:
                spare_who_does_not_read(sock, user_timeout_s)
