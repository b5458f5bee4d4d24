"""Work on all sessions of a worker, in slices: each is a generator that the loop advances once per turn.

Whoever asks about ten thousand sessions must not make them wait.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay.ends import BACKEND, HOST, LISTENER
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.polite import at_the_deadline, transaction_of
from easyproxy.engine.relay.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.ends import Row
    from easyproxy.engine.relay.runtime import ListenerRuntime

    Send = Callable[[Frame], None]

SLICE = 250
"""Sessions per turn of the loop."""
CLOCK_SLACK_S = 0.05
"""The calendar follows the monotonic clock unless it was set: a session's beginning is the same whenever one asks."""


def _slices(core: Core) -> Iterator[list[Session]]:
    everyone = list(core.sessions.values())
    for start in range(0, len(everyone), SLICE):
        # Some may have ended since the list was made.
        yield [session for session in everyone[start : start + SLICE] if session.state is not State.CLOSED]


def list_sessions(core: Core, request: int, send: Send) -> Iterator[None]:
    """Send a description of every session."""
    for sessions in _slices(core):
        items = [_describe(core, session) for session in sessions]
        send({"op": "sessions", "request": request, "items": items, "more": True})
        yield
    send({"op": "sessions", "request": request, "items": [], "more": False})


def _describe(core: Core, session: Session) -> Frame:
    outbound, inbound = session.outbound, session.inbound
    return {
        "id": core.session_id(session.number),
        "listener": session.listener.listener.name,
        "backend": session.backend.backend.id if session.backend is not None else "",
        "client": session.client,
        "state": session.state.value,
        "age_s": core.now - session.accepted_at,
        "idle_s": core.now - session.active_at,
        "bytes_from_client": outbound.moved if outbound is not None else 0,
        "bytes_from_backend": inbound.moved if inbound is not None else 0,
        "worker": core.index,
        "connect_s": session.connected_at - session.accepted_at if session.connected_at else -1.0,
        "tried": list(session.tried.items()) if session.tried else [],
        "transaction": transaction_of(session),
    }


def ends_head(core: Core) -> Frame:
    """Return what goes with rows of ended sessions (``ends.Batch``)."""
    epoch = time.time() - time.monotonic()
    if abs(epoch - core.epoch) > CLOCK_SLACK_S:
        core.epoch = epoch
    return {"prefix": core.prefix, "epoch": core.epoch}


def list_ends(core: Core, request: int, where: dict[str, str], send: Send) -> Iterator[None]:
    """Send the remembered ends that match, in the order in which they came."""
    rows = list(core.recent_ends)
    head = {"op": "recent", "request": request, **ends_head(core)}
    for start in range(0, len(rows), SLICE):
        found = [row for row in rows[start : start + SLICE] if _matches_row(core, row, where)]
        send({**head, "rows": found, "more": True})
        yield
    send({**head, "rows": [], "more": False})


def _matches_row(core: Core, row: Row, where: dict[str, str]) -> bool:
    return (
        where["backend"] in ("", row[BACKEND])
        and where["client"] in ("", row[HOST])
        and where["listener"] in ("", row[LISTENER])
        and where["id"] in ("", core.session_id(row[0]))
    )


def close_sessions(
    core: Core, request: int, where: dict[str, str], event: Event, send: Send
) -> Iterator[None]:
    """Close every session that matches, and send how many those were."""
    closed = 0
    is_drained = event is Event.DRAINED
    for sessions in _slices(core):
        for session in sessions:
            # One of this slice may have ended with another: a place that became free changes who waits.
            if session.state is not State.CLOSED and _matches(core, session, where):
                if event is Event.FAILOVER and session.dial is not None:
                    session.dial.start_over()  # it has nobody yet: the next primary does as well
                    continue
                close.cut(core, session, event, at_the_deadline(session) if is_drained else "")
                closed += 1
        yield
    send({"op": "closed", "request": request, "count": closed})


def _matches(core: Core, session: Session, where: dict[str, str]) -> bool:
    backend = session.backend.backend.id if session.backend is not None else ""
    return all(
        not wanted or wanted == actual
        for wanted, actual in (
            (where["backend"], backend),
            (where["client"], session.host),
            (where["listener"], session.listener.listener.name),
            (where["id"], core.session_id(session.number)),
        )
    )


def look_again(core: Core, runtime: ListenerRuntime) -> Iterator[None]:
    """Let living sessions have their listener's new time-outs: each is looked at with the next tick."""
    for sessions in _slices(core):
        for session in sessions:
            if session.listener is runtime and session.dial is None:
                core.wheel.place(session, core.now)
        yield
