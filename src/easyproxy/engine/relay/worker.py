"""One worker: the loop over ready descriptors, the tick, and the commands of the control process.

It runs in a process of its own or in a thread of the calling one; either way it owns everything it touches except
the shared counters, and it talks to the control process through one channel.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from typing import TYPE_CHECKING, Any

from easyproxy.engine.relay import close
from easyproxy.engine.relay.accept import Acceptor
from easyproxy.engine.relay.core import Core
from easyproxy.engine.relay.counters import Counters, Descriptor, ticket_counter
from easyproxy.engine.relay.runtime import BackendRuntime, ListenerRuntime, PoolRuntime
from easyproxy.engine.relay.session import Event, Session, State
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.engine.relay.wire import snapshot_from
from easyproxy.strategy import BUILTIN
from easyproxy.strategy import load as load_strategy
from easyproxy.strategy.base import Context, Strategy, StrategyError
from easyproxy.strategy.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from easyproxy.engine.relay.channel import Channel, Frame
    from easyproxy.model import Backend, Pool

REPORTS_PER_FRAME = 500
MAX_UNSENT_FRAMES = 32
RESERVED_DESCRIPTORS = 16
SESSIONS_PER_SLICE = 250
_KEEPALIVE_PROBES = 3


class Worker:
    """The event loop of one worker. ``run`` returns when it was told to stop, or when control is gone."""

    def __init__(self, channel: Channel, hello: Frame, counters: Counters) -> None:
        self.channel = channel
        self.core = Core(hello["index"], hello["generation"], counters, portable=hello["portable"])
        self.orphan_drain_s: float = hello["drain_s"]
        self._listeners: dict[str, ListenerRuntime] = {}
        self._pools: dict[str, PoolRuntime] = {}
        self._sockets: dict[str, socket.socket] = {}  # handed over, not yet in use
        self._tickets: dict[str, Descriptor] = {}
        self._jobs: list[Iterator[None]] = []  # work on many sessions, a slice per turn of the loop
        self._is_running = True
        self._is_draining = False
        self._reserve: list[int] = []
        self._fill_reserve()
        self._ends_at = 0.0
        self.core.handle(channel.fileno(), self)
        self._is_channel_blocked = False
        self.core.poller.add(channel.fileno())

    def run(self) -> None:
        """Serve until told otherwise; then close everything."""
        core = self.core
        poll = core.poller.poll
        handlers = core.handlers
        is_level = not core.is_edge_triggered
        clock = time.monotonic
        next_tick = core.now
        try:
            while self._is_running:
                timeout = 0.0 if core.again or self._jobs else max(0.0, next_tick - core.now)
                events = poll(timeout)
                core.now = now = clock()
                for fd, mask in events:
                    handler = handlers[fd]
                    if handler is not None:
                        handler.ready(fd, mask)
                        if is_level:
                            self._refresh(handler)
                if core.again:
                    again, core.again = core.again, []
                    for flow in again:
                        flow.pump()
                        if is_level and flow.session.state is not State.CLOSED:
                            core.poller.refresh(flow.session)
                if now >= next_tick:
                    self._tick()
                    next_tick = now + TICK_S
                if core.closing:
                    close.close_descriptors(core)
                if core.reports:
                    self._hand_over()
                if self._jobs:
                    self._work()
        finally:
            self._close()

    def _refresh(self, handler: Any) -> None:  # noqa: ANN401 - a Dial or a Flow has a session, the rest have none
        session: Session | None = getattr(handler, "session", None)
        if session is not None and session.state is not State.CLOSED:
            self.core.poller.refresh(session)

    # -- time

    def _tick(self) -> None:
        core = self.core
        for session in core.wheel.due(core.now):
            if session.state is not State.CLOSED:
                self._expire(session)
                self._refresh(session)
        for pool in self._pools.values():
            if pool.waiting:  # a place may have become free in another worker
                pool.wake()
        if core.lingering:
            close.settle_resets(core)
        for acceptor in tuple(core.paused):
            acceptor.resume()
        if self._is_draining and not core.sessions and not core.lingering:
            self.channel.send({"op": "drained"})
            self._is_draining = False
            if self._ends_at:
                self._is_running = False
        if self._ends_at and core.now >= self._ends_at:
            self._is_running = False

    def _expire(self, session: Session) -> None:
        """Look at a session whose place in the wheel has come up."""
        core, listener, now = self.core, session.listener.listener, self.core.now
        life = session.accepted_at + listener.life_timeout_s if listener.life_timeout_s else 0.0
        if life and now >= life:
            close.cut(core, session, Event.LIFE_TIMEOUT)
            return
        if session.dial is not None:
            session.dial.expired()
            return
        if not session.armed:
            session.armed = True
            self._arm(session)
        event, limit = Event.IDLE_TIMEOUT, listener.idle_timeout_s
        if session.state is not State.RELAYING:
            half = listener.half_closed_timeout_s
            if half and (not limit or half <= limit):
                event, limit = Event.HALF_CLOSED_TIMEOUT, half
        if limit and now >= session.active_at + limit:
            close.cut(core, session, event)
        elif limit or life:
            deadlines = ([session.active_at + limit] if limit else []) + ([life] if life else [])
            core.wheel.place(session, min(deadlines))

    @staticmethod
    def _arm(session: Session) -> None:
        """Let the kernel find out when the backend vanishes. Short sessions never come here and save the calls."""
        sock, listener = session.socket, session.listener.listener
        if sock is None or sock.family == socket.AF_UNIX:
            return
        arm_keepalive(sock.setsockopt, listener.keepalive_s, listener.user_timeout_s)

    # -- the channel

    def ready(self, _fd: int, _mask: int) -> None:
        """Read commands, and send what had to wait."""
        if self.channel.flush() and self._is_channel_blocked:
            self._is_channel_blocked = False
            self.core.poller.add(self.channel.fileno())
        # Descriptors that come with a command find room even when sessions have used up all others: the kernel
        # would drop them without a word (unix(7), MSG_CTRUNC).
        for fd in self._reserve:
            os.close(fd)
        self._reserve.clear()
        commands = self.channel.receive()
        self._fill_reserve()
        for frame, fds in commands:
            self.obey(frame, fds)
        if self.channel.is_closed and not self._ends_at:
            self._orphaned()

    def _fill_reserve(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reserve) < RESERVED_DESCRIPTORS:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _orphaned(self) -> None:
        """Control is gone: free the addresses for its successor at once, and let the sessions end in peace."""
        self.core.poller.remove(self.channel.fileno())
        self.core.handlers[self.channel.fileno()] = None
        self._ends_at = self.core.now + self.orphan_drain_s
        self._do_drain({}, [])

    def _hand_over(self) -> None:
        core, channel = self.core, self.channel
        if len(channel.outbox) < MAX_UNSENT_FRAMES:
            batch, core.reports = core.reports[:REPORTS_PER_FRAME], core.reports[REPORTS_PER_FRAME:]
            self._send({"op": "reports", "items": batch})

    def _send(self, frame: Frame) -> None:
        self.channel.send(frame)
        if self.channel.outbox and not self._is_channel_blocked:
            self._is_channel_blocked = True
            self.core.poller.add(self.channel.fileno(), writable=True)

    # -- commands

    def obey(self, frame: Frame, fds: list[int]) -> None:
        """Carry out one command of the control process; owns the descriptors that came with it."""
        getattr(self, f"_do_{frame['op']}")(frame, fds)

    def _do_listen(self, frame: Frame, fds: list[int]) -> None:
        self._sockets[frame["listener"]] = socket.socket(fileno=fds[0])

    def _do_ticket(self, frame: Frame, fds: list[int]) -> None:
        self._tickets[frame["pool"]] = Descriptor(fds[0])

    def _do_snapshot(self, frame: Frame, _fds: list[int]) -> None:
        snapshot = snapshot_from(frame["snapshot"])
        slots: dict[str, int] = frame["slots"]
        for pool in snapshot.pools:
            self._take_pool(pool, slots)
        for listener in snapshot.listeners:
            pool_runtime = self._pools[listener.pool]
            runtime = self._listeners.get(listener.name)
            if runtime is None:
                slot = slots[f"listener:{listener.name}"]
                runtime = ListenerRuntime(listener, slot, self.core.counters.base(slot), pool_runtime)
                self._listeners[listener.name] = runtime
                sock = self._sockets.pop(listener.name, None)
                if sock is not None:  # none comes while the engine is draining
                    runtime.acceptor = Acceptor(self.core, runtime, sock)
            elif runtime.listener != listener:
                self._jobs.append(self._look_again(runtime))
            runtime.listener = listener
            if runtime.pool is not pool_runtime:
                self._move(runtime, pool_runtime)
        for name in self._listeners.keys() - {listener.name for listener in snapshot.listeners}:
            self._stop_accepting(self._listeners.pop(name))
        for name in self._pools.keys() - {pool.name for pool in snapshot.pools}:
            for dial in tuple(self._pools.pop(name).waiting):
                close.cut(self.core, dial.session, Event.NO_BACKEND, f"pool {name} is no longer configured")
            del self._tickets[name]

    @staticmethod
    def _move(runtime: ListenerRuntime, pool: PoolRuntime) -> None:
        """Give a listener another pool; its clients that wait for a place try their luck there."""
        waiting = [dial for dial in runtime.pool.waiting if dial.session.listener is runtime]
        for dial in waiting:
            dial.release()
        runtime.pool = pool
        for dial in waiting:
            dial.start()

    def _take_pool(self, pool: Pool, slots: dict[str, int]) -> None:
        counters = self.core.counters
        runtime = self._pools.get(pool.name)
        if runtime is None:
            slot = slots[f"pool:{pool.name}"]
            runtime = self._pools[pool.name] = PoolRuntime(pool, slot, counters.base(slot))
        elif runtime.pool == pool:
            return
        backends: dict[str, BackendRuntime] = {}
        for backend in pool.backends:
            known = runtime.backends.get(backend.id)
            if known is not None and known.backend.address == backend.address:
                known.backend = backend
                backends[backend.id] = known
            else:
                slot = slots[f"backend:{backend.id}"]
                backends[backend.id] = BackendRuntime(backend, slot, counters.base(slot), runtime)
        tiers = runtime.tiers
        if tiers is None or runtime.pool.strategy != pool.strategy:
            tiers = Tiers(self._strategy(pool.strategy), self._context(runtime), ())
        runtime.take(pool, backends, tiers)
        if tiers.failure is not None:
            self.core.report({"kind": "error", "detail": str(tiers.failure)})

    def _context(self, runtime: PoolRuntime) -> Context:
        total = self.core.counters.sum

        def load(backend: Backend) -> int:
            # A dial under way may ask about one that has left the snapshot since it began.
            known = runtime.backends.get(backend.id)
            return total(known.slot, 0) if known is not None else 0

        return Context(
            ticket=ticket_counter(self._tickets[runtime.pool.name]), load=load, random=random.random
        )

    def _strategy(self, name: str) -> type[Strategy]:
        try:
            return load_strategy(name)
        except (
            StrategyError
        ) as error:  # control has loaded it before; something has changed on the disk since
            self.core.report({"kind": "error", "detail": f"{error}; round_robin serves instead"})
            return BUILTIN["round_robin"]

    def _stop_accepting(self, runtime: ListenerRuntime) -> None:
        acceptor, runtime.acceptor = runtime.acceptor, None
        if acceptor is not None:
            acceptor.close()

    def _do_drain(self, _frame: Frame, _fds: list[int]) -> None:
        """Accept no more, but take in who already waits in the backlog: closing it would reset them."""
        for runtime in self._listeners.values():
            if runtime.acceptor is not None:
                runtime.acceptor.empty_backlog()
            self._stop_accepting(runtime)
        self._is_draining = True
        self._send({"op": "deaf"})

    def _do_stop(self, _frame: Frame, _fds: list[int]) -> None:
        self._is_running = False

    def _do_sessions(self, frame: Frame, _fds: list[int]) -> None:
        self._jobs.append(self._list_sessions(frame["request"]))

    def _do_close(self, frame: Frame, _fds: list[int]) -> None:
        self._jobs.append(self._close_sessions(frame["request"], frame["where"], Event(frame["reason"])))

    # -- work on many sessions, in slices

    def _work(self) -> None:
        job = self._jobs[0]
        if next(job, self) is self:
            self._jobs.remove(job)

    def _list_sessions(self, request: int) -> Iterator[None]:
        everyone = list(self.core.sessions.values())
        for start in range(0, len(everyone), SESSIONS_PER_SLICE):
            items = [self._describe(session) for session in everyone[start : start + SESSIONS_PER_SLICE]]
            self._send({"op": "sessions", "request": request, "items": items, "more": True})
            yield
        self._send({"op": "sessions", "request": request, "items": [], "more": False})

    def _describe(self, session: Session) -> Frame:
        core = self.core
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
        }

    def _look_again(self, runtime: ListenerRuntime) -> Iterator[None]:
        """Let living sessions have the listener's new time-outs: each is looked at with the next tick."""
        everyone = list(self.core.sessions.values())
        for start in range(0, len(everyone), SESSIONS_PER_SLICE):
            for session in everyone[start : start + SESSIONS_PER_SLICE]:
                if session.listener is runtime and session.state is not State.CLOSED and session.dial is None:
                    self.core.wheel.place(session, self.core.now)
            yield

    def _close_sessions(self, request: int, where: dict[str, str], event: Event) -> Iterator[None]:
        closed = 0
        everyone = list(self.core.sessions.values())
        for start in range(0, len(everyone), SESSIONS_PER_SLICE):
            for session in everyone[start : start + SESSIONS_PER_SLICE]:
                if session.state is not State.CLOSED and self._matches(session, where):
                    close.cut(self.core, session, event)
                    closed += 1
            yield
        self._send({"op": "closed", "request": request, "count": closed})

    def _matches(self, session: Session, where: dict[str, str]) -> bool:
        backend = session.backend.backend.id if session.backend is not None else ""
        return all(
            not wanted or wanted == actual
            for wanted, actual in (
                (where["backend"], backend),
                (where["client"], session.host),
                (where["listener"], session.listener.listener.name),
                (where["id"], self.core.session_id(session.number)),
            )
        )

    def _close(self) -> None:
        core = self.core
        for runtime in self._listeners.values():
            self._stop_accepting(runtime)
        for sock in self._sockets.values():
            sock.close()
        for session in list(core.sessions.values()):
            close.cut(core, session, Event.DRAINED)
        for _deadline, fd in core.lingering:
            close.reset(core, fd)
        close.close_descriptors(core)
        self._hand_over()
        for fd in self._reserve:
            os.close(fd)
        core.pipes.close()
        core.poller.close()
        self.channel.close()


def arm_keepalive(
    setsockopt: Callable[[int, int, int], None], keepalive_s: float, user_timeout_s: float
) -> None:
    """Make the kernel probe a silent peer, and give up on one that does not acknowledge (tcp(7), socket(7))."""
    setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive_s > 0))
    if keepalive_s:
        interval = max(1, round(keepalive_s / _KEEPALIVE_PROBES))
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        if idle is not None:
            setsockopt(socket.IPPROTO_TCP, idle, max(1, round(keepalive_s)))
        setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(user_timeout_s * 1000))
