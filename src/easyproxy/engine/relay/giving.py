"""The old worker's side of an upgrade: it stands still, and gives its sessions to workers of the new program.

From the first record on no byte of any session is touched here: the loop is not running. The kernel keeps the edges
of its epoll meanwhile, so that a worker that goes on after all has missed nothing.

Both sides hold every connection for a moment, but only one may read and write it. Who that is, the link decides:
the taker sends *taken* before it touches anything, and the giver shuts the link down before it goes on. Whichever
the kernel sees first holds (see ``Channel.shut``), so it needs no third party, and neither side's death, nor that of
a control process, leaves it open.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.handover import DIALECT, MOST_FDS, Batch, Runtimes, session_to_record
from easyproxy.engine.relay.life import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easyproxy.engine.relay.channel import Channel, Frame
    from easyproxy.engine.relay.core import Core, Lingering
    from easyproxy.engine.relay.inforce import InForce
    from easyproxy.engine.relay.session import Session

FDS_PER_FRAME = 240
BYTES_PER_FRAME = 1024 * 1024
STILL_AT_MOST_S = 60.0
"""The control process has shorter limits; this one holds when it is stuck itself."""
_LOOK_AGAIN_MS = 20
VERDICTS = frozenset({"thaw", "leave", "stop"})


class _Share:
    """What goes over one link."""

    def __init__(self, link: Channel) -> None:
        self.link = link
        self.sessions: list[Session] = []
        self.lingering: list[Lingering] = []
        self.frames: Iterator[None] | None = None
        self.is_sent = False
        self.is_taken = False


class Giving:
    """One attempt to give away all sessions of a worker. Owns the links."""

    def __init__(self, core: Core, in_force: InForce, links: list[Channel]) -> None:
        self._core = core
        self._in_force = in_force
        self._shares = [_Share(link) for link in links]
        self._again = frozenset(id(flow) for flow in core.again)
        shares = self._shares
        for index, session in enumerate(self._in_order()):
            shares[index % len(shares)].sessions.append(session)
        shares[0].lingering = list(core.lingering)
        for share in shares:
            share.frames = self._frames(share)

    def _in_order(self) -> Iterator[Session]:
        """Sessions in the order of their coming, but those that wait in that of their queue."""
        waiting = [dial.session for pool in self._in_force.pools.values() for dial in pool.in_line]
        theirs = set(map(id, waiting))
        for session in self._core.sessions.values():
            if id(session) not in theirs and session.state is not State.CLOSED:
                yield session
        yield from waiting

    @property
    def sessions(self) -> int:
        """How many sessions are given."""
        return sum(len(share.sessions) for share in self._shares)

    def stand_still(
        self, channel: Channel, within_s: float = STILL_AT_MOST_S
    ) -> tuple[str, list[tuple[Frame, list[int]]]]:
        """Give everything, and wait for the verdict of the control process.

        Returns:
            ``thaw``, ``leave`` or ``stop`` (or ``lost``: the control process is gone, or silent for too long), and
            the commands that came meanwhile.
        """
        deadline = time.monotonic() + within_s
        later: list[tuple[Frame, list[int]]] = []
        verdict = ""
        is_told = False
        while not verdict:
            for share in self._shares:
                self._send(share)
            if not is_told and all(share.is_sent for share in self._shares):
                is_told = True
                channel.send({"op": "given", "count": self.sessions})
            self._wait(channel)
            channel.flush()
            for frame, fds in channel.receive():
                if frame["op"] in VERDICTS:
                    verdict = frame["op"]
                else:
                    later.append((frame, fds))
            for share in self._shares:
                self._listen(share)
            is_decided = all(share.is_taken or share.link.is_closed for share in self._shares)
            if (channel.is_closed and is_decided) or time.monotonic() > deadline:
                verdict = verdict or "lost"
        self._decide()
        return verdict, later

    def _wait(self, channel: Channel) -> None:
        poll = select.poll()
        for one in (channel, *(share.link for share in self._shares)):
            if not one.is_closed:
                is_blocked = one.outbox and not one.is_crowded
                poll.register(one.fileno(), select.POLLIN | (select.POLLOUT if is_blocked else 0))
        poll.poll(_LOOK_AGAIN_MS)

    def _send(self, share: _Share) -> None:
        link = share.link
        while link.flush() and not link.is_closed and share.frames is not None:
            if next(share.frames, share) is share:
                share.frames = None
        share.is_sent = share.frames is None and not link.outbox

    def _frames(self, share: _Share) -> Iterator[None]:
        """Send a frame at each step."""
        runtimes = Runtimes()
        link = share.link
        link.send({"op": "begin", "dialect": DIALECT})
        yield
        batch = Batch()
        for session in share.sessions:
            session_to_record(self._core, session, runtimes, batch, self._again)
            if len(batch.fds) > FDS_PER_FRAME - MOST_FDS or batch.blob_bytes > BYTES_PER_FRAME:
                self._flush(link, runtimes, batch)
                yield
                batch = Batch()
        if batch.records:
            self._flush(link, runtimes, batch)
            yield
        for start in range(0, len(share.lingering), FDS_PER_FRAME):
            part = share.lingering[start : start + FDS_PER_FRAME]
            items = [(deadline, runtimes.number(backend)) for deadline, _fd, backend in part]
            fds = [fd for _deadline, fd, _backend in part]
            link.send({"op": "lingering", "news": runtimes.take_news(), "items": items}, fds, are_lent=True)
            yield
        link.send({"op": "end", "count": len(share.sessions)})

    @staticmethod
    def _flush(link: Channel, runtimes: Runtimes, batch: Batch) -> None:
        frame = {"op": "sessions", "news": runtimes.take_news(), "records": batch.records}
        link.send(frame, batch.fds, b"".join(batch.blobs), are_lent=True)

    @staticmethod
    def _listen(share: _Share) -> None:
        if not share.link.is_closed:
            share.is_taken |= any(frame["op"] == "taken" for frame, _fds in share.link.receive())

    def _decide(self) -> None:
        """Find out whose the sessions are, and forget those that are ours no longer."""
        for share in self._shares:
            share.link.shut()
            share.is_taken |= any(frame["op"] == "taken" for frame, _fds in share.link.receive())
            share.link.close()
            if share.is_taken:
                for session in share.sessions:
                    self._forget(session)
                gone = {fd for _deadline, fd, _backend in share.lingering}
                self._core.lingering = [item for item in self._core.lingering if item[1] not in gone]
                for _deadline, fd, backend in share.lingering:
                    self._leave(fd)
                    if backend is not None:
                        self._core.cells[backend.cell + c.B_SESSIONS] -= 1
            else:
                self._go_on(share)

    def _go_on(self, share: _Share) -> None:
        """Keep what nobody has taken. Whoever was to take it may have its copies for a while."""
        shared = self._core.shared
        shared.update(fd for _deadline, fd, _backend in share.lingering)
        for session in share.sessions:
            shared.add(session.client_fd)
            if session.socket is not None:
                shared.add(session.socket.fileno())

    def _forget(self, session: Session) -> None:
        """Close our copies of what is somebody else's now: without a FIN, because they are not the last."""
        core = self._core
        core.wheel.remove(session)
        core.sessions.pop(session.number, None)
        core.cells[session.listener.cell + c.L_SESSIONS] -= 1
        if session.dial is not None:
            session.dial.release()
            session.dial = None
        for flow in (session.outbound, session.inbound):
            if flow is not None:
                if flow in core.again:
                    core.again.remove(flow)
                flow.release()
                flow.back = None
        session.outbound = session.inbound = None
        self._leave(session.client_socket.detach())
        if session.socket is not None:
            self._leave(session.socket.detach())
        if session.backend is not None:
            core.cells[session.backend.cell + c.B_SESSIONS] -= 1
        session.state = State.CLOSED

    def _leave(self, fd: int) -> None:
        # The registration would outlive this descriptor, because the connection does (epoll(7)).
        self._core.handlers[fd] = None
        with contextlib.suppress(OSError):
            self._core.poller.remove(fd)
        os.close(fd)
