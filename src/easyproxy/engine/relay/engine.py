"""The relay engine as control sees it: workers, their listening sockets, and what they report.

It lives in the control process's event loop. Workers are processes, or one thread of this process for programs that
embed the balancer. A worker that dies is replaced, and its successor takes over the same listening sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay import interpreter, stuck, talkative, tally
from easyproxy.engine.relay.address import socket_address
from easyproxy.engine.relay.crew import Crew, Member
from easyproxy.engine.relay.ends import REASON, Batch
from easyproxy.engine.relay.handing import HandingOver
from easyproxy.engine.relay.inherited import Inherited
from easyproxy.engine.relay.life import CLEAN
from easyproxy.engine.relay.listening import group_of
from easyproxy.engine.relay.poller import has_epoll
from easyproxy.engine.relay.question import ANSWER_WITHIN_S, PING, Inquiry, Roll
from easyproxy.engine.relay.rates import Rates
from easyproxy.engine.relay.slots import Slots
from easyproxy.engine.relay.sockets import Sockets
from easyproxy.engine.relay.succession import Legacy, Succession
from easyproxy.engine.relay.talkative import AUTO, OFF
from easyproxy.engine.relay.tickets import Tickets
from easyproxy.engine.relay.wire import keys_of, plain_snapshot
from easyproxy.engine.seam import (
    CUTS,
    Attempt,
    EndsTaker,
    Observation,
    Outcome,
    SessionEnd,
    SessionInfo,
    Sink,
    Statistics,
    Where,
)
from easyproxy.errors import EngineError
from easyproxy.model import Address, Snapshot
from easyproxy.stacks import stack_of
from easyproxy.strategy import BUILTIN, StrategyError
from easyproxy.strategy import load as load_strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from easyproxy.engine.relay.channel import Frame

WATCH_EVERY_S = 1.0
STACKS_WITHIN_S = 1.0
"""One that does not say so soon what it is doing is looked at from outside."""


class RelayEngine(HandingOver):
    """The user-space engine; implements :class:`easyproxy.engine.seam.Engine`.

    Args:
        workers: how many event loops share the work.
        processes: a process for each worker; otherwise one thread of this process (``workers`` must be 1).
        portable: use ``selectors`` and copying even where epoll and splice exist.
        orphan_drain_s: how long sessions may go on when the control process is killed.
        complain: takes a line of text about the engine itself (a user's strategy failed).
        worker_died: takes a line of text when a worker has died, and its sessions with it; None is ``complain``.
        inherited: listening sockets that somebody else opened; the engine owns them and closes them with itself.
        legacy: what a predecessor that still serves has left; the engine takes no client before :meth:`wake`.
        worker_python: which Python runs worker processes: ``same``, ``auto``, or a path, see ``interpreter``.
        io_uring: whether it carries talkative sessions: ``auto``, ``early`` or ``off``, see ``talkative``.
    """

    name = "relay"
    strategies = frozenset(BUILTIN)

    def __init__(
        self,
        *,
        workers: int = 1,
        processes: bool = True,
        portable: bool = False,
        orphan_drain_s: float = 30.0,
        complain: Callable[[str], None] = lambda _text: None,
        worker_died: Callable[[str], None] | None = None,
        inherited: Inherited | None = None,
        legacy: Legacy | None = None,
        worker_python: str = "same",
        io_uring: str = AUTO,
    ) -> None:
        if not processes and workers != 1:
            raise EngineError(f"workers: {workers} needs processes; a thread is one worker")
        self._workers = workers
        self._worker_python = worker_python if processes else "same"
        self._complain = complain
        self._worker_died = worker_died or complain
        given = legacy.inherited() if legacy is not None else inherited or Inherited()
        self._sockets = Sockets(given, complain)
        self._is_dormant = legacy is not None
        self._slots = Slots()
        try:
            self._counters_fd = c.Counters.create(workers)
            self._counters = c.Counters(self._counters_fd, workers, workers)
        except OSError as error:
            raise EngineError(
                f"the system gives no shared memory for counters: {error.strerror}; look at ulimit -n and ulimit -f "
                "(LimitNOFILE= and LimitFSIZE= in a systemd unit)"
            ) from error
        self._tickets = Tickets(legacy.take_tickets() if legacy is not None else {})
        self._rates = Rates(legacy.take_rates() if legacy is not None else {})
        self._snapshot: Snapshot | None = None
        self._sink: Sink = lambda _report: None
        self._ends_taker: EndsTaker | None = None
        self._no_uring = ""
        self._is_draining = False
        self._deaf = Roll(set())
        self._drained = Roll(set())
        self._hello = {
            "workers": workers,
            "portable": portable,
            "io_uring": OFF if portable or not has_epoll() else io_uring,
            "drain_s": orphan_drain_s,
            "dormant": self._is_dormant,
        }
        self._crew = Crew(
            self._hello,
            self._counters_fd,
            processes=processes,
            on_frame=self._received,
            on_death=self._died,
            on_birth=self._equip,
            complain=complain,
            generation=legacy.generation if legacy is not None else 0,
        )
        self._inquiry = Inquiry(self._crew, self._turned)
        self._succession = Succession(self._crew)
        self._watch: asyncio.Task[None] | None = None
        self._in_processes = processes

    # -- life

    async def start(self, sink: Sink) -> None:
        """Start the workers. Raises EngineError when a worker cannot be started."""
        self._sink = sink
        if self._worker_python != "same":
            self._crew.interpreter = await asyncio.to_thread(interpreter.choose, self._worker_python)
        if self._hello["io_uring"] != OFF:
            self._no_uring = talkative.why_not()
            if self._no_uring:
                self._hello["io_uring"] = OFF
        self._crew.start(self._workers)
        self._watch = asyncio.create_task(self._keep_watch(), name="easyproxy-watch")

    async def stop(self) -> None:
        """End the workers at once, close every session and every listening socket."""
        if self._watch is not None:
            self._watch.cancel()
        await self._crew.stop()
        self._sockets.close()
        self._tickets.close()
        self._rates.close()
        if self._counters_fd >= 0:
            self._counters.close()
            os.close(self._counters_fd)
            self._counters_fd = -1

    @property
    def python(self) -> str:
        """Which Python runs the relay loops, for people."""
        return str(self._crew.interpreter)

    async def _keep_watch(self) -> None:
        """Look after what nobody tells of: a worker that hangs, the file of a socket that somebody has removed."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if not (self._is_dormant or self._is_draining) and (found := self._sockets.reopen_lost()):
                self._send_all(found)
            await self._inquiry.ask({"op": PING})

    def worker_pids(self) -> list[int]:
        """Process ids of the workers; empty for a thread."""
        return self._crew.pids()

    def process_ids(self) -> dict[str, int]:
        """Process ids by the worker's name; empty for a thread."""
        return {f"relay {member.index}": member.pid for member in self._crew.members() if member.pid}

    # -- downwards

    def apply(self, snapshot: Snapshot) -> None:
        """Take over the snapshot as a whole; the former one stays in force when this raises EngineError."""
        if self._snapshot is not None and snapshot == self._snapshot:
            return
        self._check(snapshot)
        # Before anything is opened, because it may raise; names that come to nothing lose their slots to others.
        self._slots.assign(keys_of(snapshot), self._is_slot_idle, self._counters.clear)
        with contextlib.ExitStack() as undo:
            try:
                sockets = self._sockets.prepare(
                    snapshot.listeners,
                    undo,
                    may_open=not self._is_draining,  # health may still change the snapshot then
                )
                tickets = self._tickets.prepare(snapshot.pools, undo)
                rates = self._rates.prepare(snapshot.listeners, undo)
                if not self._is_dormant:  # sockets that are borrowed are tuned when it wakes
                    self._sockets.tune(sockets, snapshot.listeners)
            except OSError as error:
                raise EngineError(f"the system gives no further descriptor: {error.strerror}") from error
            undo.pop_all()
        self._tickets.settle(tickets)
        self._rates.settle(rates)
        self._snapshot = snapshot
        self._send_all(self._sockets.settle(sockets, snapshot.listeners))

    async def settled(self) -> None:
        """Return when every worker acts by the last snapshot; a silent one is not waited for."""
        # Commands keep their order: who answers this has obeyed what came before.
        await self._inquiry.ask({"op": PING})

    def _check(self, snapshot: Snapshot) -> None:
        for listener in snapshot.listeners:
            if listener.engine != self.name:
                raise EngineError(
                    f"listener {listener.name}: engine: {listener.engine} is made ready when the program starts with it; "
                    "easyproxy upgrade does that, and keeps every session"
                )
            if listener.pool not in snapshot.pool_by_name:
                raise EngineError(f"listener {listener.name}: there is no pool {listener.pool}")
        for listener in self._sockets.changed(snapshot.listeners):  # what is in force needs its group no more
            group_of(listener)
        for pool in snapshot.pools:
            try:
                load_strategy(pool.strategy)
            except StrategyError as error:
                raise EngineError(f"pool {pool.name}: {error}") from error
            for backend in pool.backends:
                if not backend.address.is_numeric:
                    raise EngineError(f"backend {backend.id}: {backend.address} was not resolved")
                _check_scope(backend.id, backend.address)
            if pool.source is not None:
                _check_scope(f"pool {pool.name}", pool.source)

    def _equip(self, member: Member) -> None:
        """Give a new worker everything that is in force, and have it say when it has started."""
        member.send({"op": PING, "request": 0})
        if self._ends_taker is not None:
            member.send({"op": "tell", "clean": True})
        if self._snapshot is not None:
            self._send_listeners(member, {} if self._is_draining else self._sockets.groups)
            self._send_snapshot(member)

    def _send_all(self, moved: Mapping[str, list[socket.socket]]) -> None:
        """Give every worker the sockets that it does not have yet, and what is in force."""
        for member in self._crew.members():
            self._send_listeners(member, moved)
            self._send_snapshot(member)

    def _send_listeners(self, member: Member, sockets: Mapping[str, list[socket.socket]]) -> None:
        for name, group in sockets.items():
            # One for all, or those that a predecessor of another version had for its workers.
            for sock in group[member.index :: self._workers] or [group[member.index % len(group)]]:
                member.send({"op": "listen", "listener": name}, [sock.fileno()])

    def _send_snapshot(self, member: Member) -> None:
        assert self._snapshot is not None  # noqa: S101 - the caller looked
        self._tickets.equip(member)
        self._rates.equip(member)
        member.send(
            {
                "op": "snapshot",
                "snapshot": plain_snapshot(self._snapshot),
                "slots": {key: self._slots.by_key[key] for key in keys_of(self._snapshot)},
            }
        )

    def addresses(self) -> dict[str, str]:
        """Where each listener really listens."""
        return self._sockets.addresses()

    # -- upwards

    def _received(self, member: Member, frame: Frame) -> None:
        match frame["op"]:
            case "reports":
                for item in frame["items"]:
                    self._report(item)
            case "ends":
                self._ended(_batch(frame))
            case "sessions" | "closed" | "recent" | "stacks" | "pong":
                self._inquiry.take(member, frame)
            case "deaf" | "drained" as what:
                (self._deaf if what == "deaf" else self._drained).mark(member.index)
            case "given" | "thawed" | "left" | "adopted" | "awake":
                self._succession.received(member, frame)

    def _report(self, item: dict[str, Any]) -> None:
        kind = item.pop("kind")
        if kind == "observation":
            item["outcome"] = Outcome(item["outcome"])
            self._sink(Observation(**item))
        else:
            self._complain(item["detail"])

    def _ended(self, batch: Batch) -> None:
        for row in batch.rows:
            if row[REASON] not in CLEAN:
                self._sink(batch.end(row))
        if self._ends_taker is not None:
            self._ends_taker(batch)

    def _died(self, member: Member, how: str) -> None:
        """Forget what a dead worker had counted in; its successor is on its way."""
        slots = self._slots.by_key
        self._counters.clear_gauges(member.index, slots.values())
        held = [slot for key, slot in slots.items() if key.startswith("pool:")]
        self._counters.clear_gauges(member.index, held, c.P_HELD)
        for roll in (self._deaf, self._drained):
            roll.mark(member.index)
        self._inquiry.died(member.index)
        self._succession.died(member)
        self._worker_died(
            f"relay worker {member.index} (pid {member.pid}) {how}; its sessions are lost, a successor starts"
        )

    def _turned(self, member: Member, is_silent: bool) -> None:
        what = (
            "does not answer: its sessions may stand still, and lists lack them; GET /debug tells what it is doing"
            if is_silent
            else "answers again"
        )
        self._complain(f"relay worker {member.index} (pid {member.pid}) {what}")

    def statistics(self) -> Statistics:
        """Read the shared counters; asks no worker."""
        return tally.statistics(
            self._counters,
            self._slots.by_key,
            workers=len(self._crew.members()) - len(self._inquiry.silent),
            worker_restarts=self._crew.restarts,
            worker_python=self.python,
            io_uring=self._no_uring or ("off" if self._hello["io_uring"] == OFF else "on"),
        )

    async def sessions(self) -> list[SessionInfo]:
        """List the live sessions of all workers, those of the first one first: who looks again finds each in its place."""
        frames = await self._inquiry.ask({"op": "sessions"})
        found = [_info(item) for frame in frames for item in frame["items"]]
        return sorted(found, key=lambda session: session.worker)

    async def recent_ends(self, where: Where) -> list[SessionEnd]:
        """List the sessions that ended last, oldest first; each worker remembers so many (``core.REMEMBERED_ENDS``)."""
        frames = await self._inquiry.ask({"op": "recent", "where": asdict(where)})
        ends = [end for frame in frames for end in _batch(frame)]
        return sorted(ends, key=lambda end: end.started_at + end.age_s)

    def tell_every_session(self, taker: EndsTaker | None) -> None:
        """Hand every session that ends to ``taker``, in batches; None ends that."""
        self._ends_taker = taker
        for member in self._crew.members():
            member.send({"op": "tell", "clean": taker is not None})

    async def stacks(self) -> dict[str, str]:
        """Say what every worker is doing, also one that does not answer."""
        members = self._crew.members()
        threads = {f"relay {m.index}": stack_of(m.thread) for m in members if m.thread is not None}
        asked = [member for member in members if member.process is not None]
        if not asked:
            return threads
        frames = await self._inquiry.ask({"op": "stacks"}, within_s=STACKS_WITHIN_S)
        answers = {frame["worker"]: frame["text"] for frame in frames}
        return {f"relay {m.index}": answers.get(m.index) or await self._stack_of_silent(m) for m in asked}

    @staticmethod
    async def _stack_of_silent(member: Member) -> str:
        if member.stacks_fd < 0:
            return "it has just ended"
        fd = os.dup(member.stacks_fd)  # the worker may end meanwhile
        try:
            return f"does not answer: {await stuck.stacks_of(member.pid, fd)}"
        finally:
            os.close(fd)

    async def close_sessions(self, where: Where, reason: str = "operator") -> int:
        """Close the sessions that match; ``reason`` is one of ``CUTS``, else ValueError."""
        if reason not in CUTS:
            raise ValueError(f"{reason!r} is no reason to close sessions; write {', '.join(CUTS)}")
        frames = await self._inquiry.ask({"op": "close", "where": asdict(where), "reason": reason})
        return sum(frame["count"] for frame in frames)

    async def drain(self, deadline_s: float) -> None:
        """Take no new sessions, wait for the last to end, and close the rest at the deadline."""
        self._is_draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        members = self._crew.members()
        self._deaf, self._drained = (Roll({member.index for member in members}) for _ in range(2))
        for member in members:
            member.send({"op": "drain"})
        # Each worker first takes in who waits in its backlog; only then may the sockets go.
        await self._deaf.is_complete(min(deadline_s, ANSWER_WITHIN_S))
        self._sockets.stop_listening()
        if not await self._drained.is_complete(max(0.0, deadline - loop.time())):
            await self.close_sessions(Where(), "drained")
            await self._drained.is_complete(ANSWER_WITHIN_S)


def _batch(frame: Frame) -> Batch:
    return Batch(frame["rows"], frame["prefix"], frame["epoch"])


def _info(item: dict[str, Any]) -> SessionInfo:
    item["tried"] = tuple(Attempt(*one) for one in item["tried"])
    return SessionInfo(**item)


def _check_scope(name: str, address: Address) -> None:
    """Refuse an address whose scope is no interface of this machine; a worker could not use it."""
    try:
        socket_address(address)
    except OSError as error:
        raise EngineError(f"{name}: {address}: there is no such interface on this machine") from error
