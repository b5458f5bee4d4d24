"""The new worker's side of an upgrade: it takes in sessions from a worker of the old program.

Nothing is registered, read or written until :meth:`Taking.begin`, and then only what the link says is ours (see
:mod:`.giving`). Until then the old worker may go on at any time, and our copies are closed without a trace: no
shutdown, no reset.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from easyproxy.engine.relay import close
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.channel import Channel
from easyproxy.engine.relay.handover import Given, HandoverError, Taker
from easyproxy.engine.relay.life import Event
from easyproxy.engine.relay.poller import STREAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.core import Core, Lingering
    from easyproxy.engine.relay.inforce import InForce
    from easyproxy.engine.relay.session import Session
    from easyproxy.model import Backend

_CANDIDATES = "_candidates"


class Taking:
    """What comes over one link. Owns the link and every descriptor that has come, until they are at work.

    Args:
        number: of the link, as the control process counts.
        send: takes frames for the control process: *adopted* once everything is here, or why it is not.
    """

    def __init__(
        self,
        core: Core,
        in_force: InForce,
        slots: Mapping[str, int],
        link: socket.socket,
        number: int,
        send: Callable[[Frame], None],
    ) -> None:
        self._core = core
        self._taker = Taker(core, in_force, slots)
        self._number = number
        self._send = send
        self._link = Channel(link)
        self._given: list[Given] = []
        self._lingering: list[Lingering] = []
        self._is_open = True
        core.handle(self._link.fileno(), self)
        core.poller.add(self._link.fileno())

    def ready(self, _fd: int, _mask: int) -> None:
        """Take in what has come."""
        frames = self._link.receive()
        while frames and self._is_open:
            frame, fds = frames.pop(0)
            try:
                getattr(self, f"_on_{frame['op']}")(frame, fds)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the old worker goes on
                _close_all(fds)
                why = str(error) if isinstance(error, HandoverError) else repr(error)
                self._fail(why)
        for _frame, fds in frames:
            _close_all(fds)
        if self._is_open and self._link.is_closed:
            lost = "the limit of open files is too low for them (ulimit -n)"
            self._fail(lost if self._link.is_truncated else "the old worker goes on with them")

    def _on_begin(self, frame: Frame, _fds: list[int]) -> None:
        self._taker.agree(frame["dialect"])

    def _on_sessions(self, frame: Frame, fds: list[int]) -> None:
        self._taker.learn(frame["news"])
        blob = memoryview(frame.get("blob", b""))
        for record in frame["records"]:
            given, used = self._taker.session_from_record(record, fds, blob)
            blob = blob[used:]
            self._given.append(given)
            session = given.session
            # Counted in at once, so that no worker of ours gives these places to others.
            self._core.cells[session.listener.cell + c.L_SESSIONS] += 1
            if session.backend is not None:
                self._core.cells[session.backend.cell + c.B_SESSIONS] += 1

    def _on_lingering(self, frame: Frame, fds: list[int]) -> None:
        self._taker.learn(frame["news"])
        for deadline, number in frame["items"]:
            backend = self._taker.backend(number)
            self._lingering.append((deadline, fds.pop(0), backend))
            if backend is not None:
                self._core.cells[backend.cell + c.B_SESSIONS] += 1

    def _on_end(self, frame: Frame, _fds: list[int]) -> None:
        if frame["count"] != len(self._given):
            raise HandoverError(f"{len(self._given)} of {frame['count']} sessions have come")
        self._send({"op": "adopted", "link": self._number, "count": len(self._given)})

    def _fail(self, why: str) -> None:
        self.drop()
        self._send({"op": "adopted", "link": self._number, "count": -1, "why": why})

    def drop(self) -> None:
        """Close our copies of everything: the sessions are the old worker's."""
        if not self._is_open:
            return
        self._part()
        cells = self._core.cells
        for given in self._given:
            session = given.session
            cells[session.listener.cell + c.L_SESSIONS] -= 1
            if session.backend is not None:
                cells[session.backend.cell + c.B_SESSIONS] -= 1
            for flow in (session.outbound, session.inbound):
                if flow is not None:
                    flow.release()
            session.client_socket.close()
            if session.socket is not None:
                session.socket.close()
        for _deadline, fd, backend in self._lingering:
            os.close(fd)
            if backend is not None:
                cells[backend.cell + c.B_SESSIONS] -= 1
        self._given.clear()
        self._lingering.clear()

    def _part(self) -> None:
        self._is_open = False
        self._core.poller.remove(self._link.fileno())
        self._core.handlers[self._link.fileno()] = None
        self._link.close()

    def begin(self) -> int:
        """Take the sessions over, if they are still to be had, and go on with them; return how many."""
        if not self._is_open:
            return 0
        self._link.send({"op": "taken"})
        if self._link.is_closed or self._link.outbox:
            self.drop()
            return 0
        # Nothing is closed before the old worker has read that: a link that is cut could be mistaken for our death,
        # but it reads what was sent before.
        self._part()
        core = self._core
        core.lingering += self._lingering
        for given in self._given:
            session = given.session
            core.sessions[session.number] = session
            try:
                self._watch(session)
            except OSError as error:  # epoll_ctl(2): ENOSPC, ENOMEM
                close.cut(core, session, Event.INTERNAL_ERROR, f"cannot watch it: {error.strerror}")
        for given in self._given:
            self._go_on(given)
        return len(self._given)

    def _watch(self, session: Session) -> None:
        core = self._core
        # epoll_ctl(2) looks at a descriptor when it is added: what was ready before is told once more.
        core.shared.add(session.client_fd)  # the old worker closes its copies a moment later
        core.handle(session.client_fd, session.outbound or session.dial)
        core.watch(session.client_fd, STREAM)
        if session.socket is not None:
            core.shared.add(session.socket.fileno())
            core.handle(session.socket.fileno(), session.inbound or session.dial)
            core.watch(session.socket.fileno(), STREAM)

    def _go_on(self, given: Given) -> None:
        core, session, dial = self._core, given.session, given.session.dial
        if core.sessions.get(session.number) is not session:  # it could not be watched
            return
        if dial is not None and session.socket is None:
            dial.resume()
        elif dial is not None:
            setattr(dial, _CANDIDATES, _others(session))
        core.again += given.again
        if core.sessions.get(session.number) is session:
            if not core.is_edge_triggered:
                session.watch(core.poller.want)
            if given.settings_differ or (dial is not None and session.socket is not None):
                core.wheel.place(session, core.now)
            elif given.due and dial is None:
                core.wheel.place(session, given.due)


def _others(session: Session) -> Iterator[Backend]:
    """Candidates for when the attempt under way fails: those that were not passed over before."""
    known = set(session.tried or ())
    if session.backend is not None:
        known.add(session.backend.backend.id)
    return (backend for backend in session.listener.pool.choose(session.host) if backend.id not in known)


def _close_all(fds: list[Any]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
