"""One worker: the loop over ready descriptors, the tick, and the commands of the control process.

It runs in a process of its own or in a thread of the calling one; either way it owns everything it touches except
the shared counters, and it talks to the control process through one channel.
"""

from __future__ import annotations

import socket
import time
import traceback
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from easyproxy.engine.relay import close, deadlines, polite
from easyproxy.engine.relay.accept import MOMENT_S, Acceptor
from easyproxy.engine.relay.channel import Channel
from easyproxy.engine.relay.core import Core
from easyproxy.engine.relay.dial import settle_acks
from easyproxy.engine.relay.giving import Giving
from easyproxy.engine.relay.inforce import InForce
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.messenger import ENDS_PER_FRAME, Messenger
from easyproxy.engine.relay.poller import MAX_EVENTS
from easyproxy.engine.relay.rate import table_of
from easyproxy.engine.relay.session import NEWCOMER, Session
from easyproxy.engine.relay.survey import (
    close_sessions,
    list_ends,
    list_sessions,
    look_again,
)
from easyproxy.engine.relay.taking import Taking
from easyproxy.engine.relay.talkative import Talkative, flows_of
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.engine.relay.wire import snapshot_from
from easyproxy.stacks import stacks_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.counters import Counters
    from easyproxy.engine.relay.runtime import Waiter


class Worker:
    """The event loop of one worker. ``run`` returns when it was told to stop, or when control is gone."""

    def __init__(self, channel: Channel, hello: Frame, counters: Counters) -> None:
        self.core = Core(hello["index"], hello["generation"], counters, portable=hello["portable"])
        self.orphan_drain_s: float = hello["drain_s"]
        self.in_force = InForce(self.core, is_dormant=hello.get("dormant", False))
        self._links: list[Channel] = []  # to a successor that is to get all sessions, until it stands still
        self._takings: list[Taking] = []  # sessions of a predecessor that are not at work yet
        self._jobs: list[Iterator[None]] = []  # work on many sessions, a slice per turn of the loop
        self._talkative = Talkative(self.core, hello["io_uring"])
        self._settled = 0  # sessions up to this number have had their place in the timer wheel
        self._is_running = True
        self._is_draining = False
        self._ends_at = 0.0
        self.messenger = Messenger(self.core, channel)
        self.messenger.attend(self)

    def run(self, early: Sequence[tuple[Frame, list[int]]] = ()) -> None:  # noqa: C901, PLR0912, PLR0915 - the loop is one function
        """Carry out the commands that came early, and serve until told otherwise; then close everything."""
        core = self.core
        handlers = core.handlers
        is_level = not core.is_edge_triggered
        clock = time.monotonic
        next_tick = now = core.now
        try:
            for frame, fds in early:
                self.obey(frame, fds)
            while self._is_running:
                greeted = core.greeted
                if greeted:
                    core.greeted = []
                if core.again or self._jobs or greeted:
                    timeout = 0.0
                elif core.declined:
                    timeout = MOMENT_S
                else:
                    timeout = next_tick - now
                events = core.poll(timeout, MAX_EVENTS)
                core.now = now = clock()
                for fd, mask in events:
                    handler = handlers[fd]
                    if handler is not None:
                        try:
                            handler.ready(fd, mask)
                        except Exception as error:  # noqa: BLE001 - see _fault
                            self._fault(handler, error)
                        if is_level:
                            self._refresh(handler)
                if core.again:
                    again, core.again = core.again, []
                    for flow in again:
                        try:
                            flow.pump()
                        except Exception as error:  # noqa: BLE001 - see _fault
                            self._fault(flow, error)
                        if is_level:
                            self._refresh(flow)
                if core.faults:
                    self._settle_faults()
                if greeted:
                    settle_acks(greeted)
                if self._talkative.is_early:
                    self._talkative.look_at_all()
                if core.declined and now >= core.declined[0][0]:
                    core.declined.pop(0)[1].resume()
                if now >= next_tick:
                    self._tick()
                    next_tick = now + TICK_S
                while core.closing:
                    close.close_descriptors(core)
                if core.reports:
                    self.messenger.hand_over_reports()
                if len(core.ends) >= ENDS_PER_FRAME:
                    self.messenger.hand_over_ends()
                if self._jobs:
                    self._work()
        finally:
            self._close()

    def _fault(self, culprit: object, error: Exception) -> None:
        """End the one session whose handling went wrong, and say so: a mistake of ours must not cost all others theirs."""
        if culprit is self:  # the channel: without commands a worker is of no use
            raise error
        self.core.report({"kind": "error", "detail": "".join(traceback.format_exception(error)).rstrip()})
        session: Session | None = getattr(culprit, "session", None)
        if isinstance(culprit, Acceptor):
            culprit.pause()
        elif session is not None and session.state is not State.CLOSED:
            close.cut(self.core, session, Event.INTERNAL_ERROR, repr(error))

    def _settle_faults(self) -> None:
        faults, self.core.faults = self.core.faults, []
        for culprit, error in faults:
            self._fault(culprit, error)

    def _refresh(self, handler: Any) -> None:  # noqa: ANN401 - a Dial or a Flow has a session, the rest have none
        """Have a level-triggered poller wait for what the session waits for now."""
        session: Session | None = getattr(handler, "session", None)
        if session is not None and session.state is not State.CLOSED:
            session.watch(self.core.poller.want)

    # -- time

    def _tick(self) -> None:
        core = self.core
        newcomers = self._newcomers()
        self._talkative.look([*core.moving, *flows_of(newcomers)])
        self._count()
        self._settle(newcomers)
        for session in core.wheel.due(core.now):
            if session.state is not State.CLOSED:
                try:
                    deadlines.expire(core, session)
                except Exception as error:  # noqa: BLE001 - see _fault
                    self._fault(session.dial or session.outbound, error)
                if not core.is_edge_triggered:
                    self._refresh(session.dial or session.outbound)
        for pool in self.in_force.pools.values():
            if pool.gate is not None and pool.gate.dials:
                self._wake(partial(pool.gate.let_in, core.now), pool.gate.dials)
            if pool.waiting:  # a place may have become free in another worker
                self._wake(pool.wake, pool.waiting)
        if core.lingering:
            close.settle_resets(core)
        if core.is_starved:
            core.is_starved = any(
                dial.is_starved for pool in self.in_force.pools.values() for dial in pool.waiting
            )
        for acceptor in tuple(core.paused):
            acceptor.resume()
        if core.counters.workers > 1:
            self.in_force.look_around()
        if core.ends:
            self.messenger.hand_over_ends()
        if self._is_draining and not core.sessions and not core.lingering:
            self.messenger.send({"op": "drained"})
            self._is_draining = False
            if self._ends_at:
                self._is_running = False
        if self._ends_at and core.now >= self._ends_at:
            self._is_running = False

    def _wake(self, wake: Callable[[], None], in_line: Mapping[Waiter, None]) -> None:
        try:
            wake()
        except Exception as error:  # noqa: BLE001 - see _fault
            self._fault(next(iter(in_line), None), error)

    def _count(self) -> None:
        """Count the bytes that have moved since the last tick."""
        if self.core.ring is not None:
            self.core.ring.flush()  # what no target has taken yet does not count
        moving, self.core.moving = self.core.moving, []
        for flow in moving:
            flow.count()
            flow.session.active_at = self.core.now  # the ring notes no more than that it has moved something

    def _newcomers(self) -> list[Session]:
        """Return those who have come since the last tick, the last one first."""
        core = self.core
        if core.accepted == self._settled:
            return []
        # Up to one who came before, or from elsewhere.
        return list(
            takewhile(
                lambda session: self._settled < session.number <= core.accepted,
                reversed(core.sessions.values()),
            )
        )

    def _settle(self, newcomers: list[Session]) -> None:
        """Give newcomers a place in the wheel. Who is gone again never needed one."""
        core = self.core
        for flow in flows_of(newcomers):
            flow.count()
        self._settled = core.accepted
        for session in reversed(newcomers):
            if session.tick != NEWCOMER:
                continue
            session.tick = 0
            if session.dial is None:
                deadlines.place(
                    core, session, by=session.accepted_at + session.listener.pool.pool.connect_timeout_s
                )
                continue
            try:
                session.dial.settle()
            except Exception as error:  # noqa: BLE001 - see _fault
                self._fault(session.dial, error)
            if not core.is_edge_triggered:
                self._refresh(session.dial or session.outbound)

    # -- the channel

    def ready(self, _fd: int, _mask: int) -> None:
        """Read commands, and send what had to wait."""
        for frame, fds in self.messenger.receive():
            self.obey(frame, fds)
        if self.messenger.channel.is_closed and not self._ends_at:
            self._orphaned()

    def _orphaned(self) -> None:
        """Control is gone: free the addresses for its successor at once, and let the sessions end in peace."""
        self.messenger.ignore()
        if self.in_force.is_dormant:  # nothing is ours yet
            self._is_running = False
            return
        self._ends_at = self.core.now + self.orphan_drain_s
        self._do_drain({}, [])

    # -- commands

    def obey(self, frame: Frame, fds: list[int]) -> None:
        """Carry out one command of the control process; owns the descriptors that came with it."""
        getattr(self, f"_do_{frame['op']}")(frame, fds)

    def _do_listen(self, frame: Frame, fds: list[int]) -> None:
        self.in_force.bring_socket(frame["listener"], fds[0])

    def _do_ticket(self, frame: Frame, fds: list[int]) -> None:
        self.in_force.bring_ticket(frame["pool"], fds[0])

    def _do_rate(self, frame: Frame, fds: list[int]) -> None:
        self.in_force.bring_meter(frame["listener"], table_of(frame, fds[0]))

    def _do_snapshot(self, frame: Frame, _fds: list[int]) -> None:
        for runtime in self.in_force.replace(snapshot_from(frame["snapshot"]), frame["slots"]):
            self._jobs.append(look_again(self.core, runtime))
        self._see_off()

    def _do_drain(self, _frame: Frame, _fds: list[int]) -> None:
        self.in_force.stop_accepting()
        self._is_draining = self.core.is_leaving = True
        self._see_off()
        self.messenger.send({"op": "deaf"})

    def _see_off(self) -> None:
        """Let go who is to leave now, where conversations are followed at all."""
        pools = self.in_force.pools
        if self.core.follows or any(runtime.pool.conversation for runtime in pools.values()):
            self._jobs.append(polite.see_off(self.core, pools))

    def _do_stop(self, _frame: Frame, _fds: list[int]) -> None:
        self._is_running = False

    def _do_sessions(self, frame: Frame, _fds: list[int]) -> None:
        self._jobs.append(list_sessions(self.core, frame["request"], self.messenger.send))

    def _do_recent(self, frame: Frame, _fds: list[int]) -> None:
        self._jobs.append(list_ends(self.core, frame["request"], frame["where"], self.messenger.send))

    def _do_tell(self, frame: Frame, _fds: list[int]) -> None:
        self.core.tells_clean_ends = frame["clean"]

    def _do_ping(self, frame: Frame, _fds: list[int]) -> None:
        self.messenger.send({"op": "pong", "request": frame["request"]})

    def _do_stacks(self, frame: Frame, _fds: list[int]) -> None:
        self.messenger.send(
            {"op": "stacks", "request": frame["request"], "worker": self.core.index, "text": stacks_here()}
        )

    def _do_close(self, frame: Frame, _fds: list[int]) -> None:
        event = Event(frame["reason"])
        if event is Event.DRAINED:  # the deadline is for those too whose bytes are under way
            soon = self.core.now + close.RESET_WAITS_S
            self.core.lingering = [(min(at, soon), fd, of) for at, fd, of in self.core.lingering]
        self._jobs.append(
            close_sessions(self.core, frame["request"], frame["where"], event, self.messenger.send)
        )

    # -- an upgrade

    def _do_freeze(self, _frame: Frame, fds: list[int]) -> None:
        self._links = [Channel(socket.socket(fileno=fd)) for fd in fds]
        self._jobs.append(self._give())

    def _give(self) -> Iterator[None]:
        """Stand still between two turns of the loop, when nothing is half done."""
        links, self._links = self._links, []
        if not links:  # the verdict has come before it did
            return
        if self.core.ring is not None:
            self.core.ring.release_all()
            self._settle_faults()
        settle_acks(self.core.greeted)
        self.core.greeted.clear()
        self._count()
        self._settle(self._newcomers())
        while self.core.closing:
            close.close_descriptors(self.core)
        giving = Giving(self.core, self.in_force, links)
        self.messenger.hand_over_last()
        verdict, later = giving.stand_still(self.messenger.channel)
        self.core.now = time.monotonic()
        for frame, more in later:
            self.obey(frame, more)
        kept = len(self.core.sessions)
        if verdict == "leave":
            self.in_force.close()  # who waits in a backlog is the successor's
            self._is_draining = True
            self._is_running = bool(kept or self.core.lingering)
            self.messenger.send({"op": "left", "kept": kept})
        elif verdict == "thaw":
            self.messenger.send({"op": "thawed", "kept": kept})
        self._is_running &= verdict != "stop"
        yield

    def _do_thaw(self, _frame: Frame, _fds: list[int]) -> None:
        """Nothing: it does not stand still any more, or not yet, and then it need not."""
        for link in self._links:
            link.close()
        self._links.clear()
        self.messenger.send({"op": "thawed", "kept": len(self.core.sessions)})

    def _do_leave(self, _frame: Frame, _fds: list[int]) -> None:
        """Stay: it has lost patience, and its sessions are its own."""
        self.messenger.send({"op": "left", "kept": len(self.core.sessions)})

    def _do_adopt(self, frame: Frame, fds: list[int]) -> None:
        for number, fd in zip(frame["links"], fds, strict=True):
            link = socket.socket(fileno=fd)
            self._takings.append(
                Taking(self.core, self.in_force, frame["slots"], link, number, self.messenger.send)
            )

    def _do_wake(self, _frame: Frame, _fds: list[int]) -> None:
        self.core.now = time.monotonic()
        taken = sum(taking.begin() for taking in self._takings)
        self._takings.clear()
        self.in_force.wake()
        self._see_off()
        self.messenger.send({"op": "awake", "sessions": taken})

    # -- work on many sessions, in slices

    def _work(self) -> None:
        job = self._jobs[0]
        try:
            is_done = next(job, self) is self
        except Exception as error:  # noqa: BLE001 - see _fault
            is_done = True
            self._fault(None, error)
        if is_done:
            self._jobs.remove(job)

    def _close(self) -> None:
        core = self.core
        for taking in self._takings:
            taking.drop()
        self.in_force.close()
        if core.ring is not None:
            core.ring.release_all()
        for session in list(core.sessions.values()):
            if session.state is not State.CLOSED:  # one that waited for a place may have ended with another
                close.cut(core, session, Event.DRAINED)
        core.moving.clear()  # they have been counted
        for _deadline, fd, backend in core.lingering:
            close.reset(core, fd, backend)
        close.close_descriptors(core)
        self.messenger.hand_over_last()
        core.pipes.close()
        if core.ring is not None:
            core.ring.close()
            core.ring = None  # and with it what it has mapped
        core.poller.close()
        # The worker is among them: without this cycle, descriptors that somebody still holds are closed with the worker.
        core.handlers.clear()
        self.messenger.close()
