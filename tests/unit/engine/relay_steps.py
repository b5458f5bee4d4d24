"""A worker that is stepped by hand, with a clock of the test's own: time-outs without waiting."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import fields

from easyproxy.engine.relay import close
from easyproxy.engine.relay.channel import Channel
from easyproxy.engine.relay.counters import P_QUEUED, Counters, anonymous_file
from easyproxy.engine.relay.dial import settle_acks
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.relay.poller import MAX_EVENTS
from easyproxy.engine.relay.ring import Ring
from easyproxy.engine.relay.session import Session
from easyproxy.engine.relay.talkative import OFF
from easyproxy.engine.relay.wire import plain_snapshot
from easyproxy.engine.relay.worker import Worker
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot


class Steps:
    """One worker, one listener, one pool, one backend; every socket is closed in the end.

    ``places`` are the ``max_sessions`` of backends, by name.
    """

    def __init__(self, stack: contextlib.ExitStack, *, portable: bool, io_uring: str, **settings) -> None:
        self._stack = stack
        fd = Counters.create(1)
        stack.callback(os.close, fd)
        counters = Counters(fd, 1)
        stack.callback(counters.close)
        ours, theirs = socket.socketpair()
        self.control = Channel(ours)
        stack.callback(self.control.close)
        hello = {"index": 0, "generation": 0, "portable": portable, "drain_s": 30.0, "io_uring": io_uring}
        self.worker = Worker(Channel(theirs), hello, counters)
        stack.callback(self.worker._close)
        self.core = self.worker.core
        self.server, self.front = self.listen(), self.listen()
        names = {field.name for field in fields(Pool)} | {"places"}
        self._pool = {name: settings.pop(name) for name in names & settings.keys()}
        self._places = self._pool.pop("places", {})
        self._listener = settings
        self.obey({"op": "listen", "listener": "l"}, [os.dup(self.front.fileno())])
        self.obey({"op": "ticket", "pool": "p"}, [anonymous_file("tickets")])
        self.serve(self.server)

    def serve(self, *servers: socket.socket, **pool) -> None:
        """Put a snapshot in force with these backends; settings of the pool stay as they were unless they are given."""
        self._pool |= pool
        backends = tuple(
            Backend(f"p/{name}", name, Address(*server.getsockname()), max_sessions=self._places.get(name, 0))
            for name, server in zip("abc", servers, strict=False)
        )
        snapshot = Snapshot(
            1,
            (Listener("l", Address("127.0.0.1", 0), "p", **self._listener),),
            (Pool("p", backends=backends, **self._pool),),
        )
        slots = {"listener:l": 1, "pool:p": 2, "backend:p/a": 3, "backend:p/b": 4, "backend:p/c": 5}
        self.obey({"op": "snapshot", "snapshot": plain_snapshot(snapshot), "slots": slots})

    def obey(self, frame: dict[str, object], fds: list[int] | None = None) -> None:
        """Give the worker a command."""
        self.worker.obey(frame, fds or [])

    def client(self) -> socket.socket:
        """Connect to the listener; the session may have to wait."""
        known = set(self.core.sessions)
        client = self._stack.enter_context(socket.create_connection(self.front.getsockname(), 20))
        self.until(lambda: set(self.core.sessions) - known)
        return client

    @property
    def queued(self) -> int:
        """How many clients wait."""
        return self.core.counters.sum(2, P_QUEUED)

    def listen(self) -> socket.socket:
        """Listen as a further backend."""
        sock = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sock.settimeout(20)
        return sock

    def deafen(self, server: socket.socket) -> None:
        """Have no further connect to a backend come to an end: its backlog is full (listen(2))."""
        server.listen(0)
        for _ in range(2):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())

    def step(self, wait_s: float = 0.0) -> int:
        """Do what one turn of the worker's loop does, without a tick; return the number of events."""
        core = self.core
        greeted, core.greeted = core.greeted, []
        ring = core.ring
        done = ring._head if isinstance(ring, Ring) else 0
        events = core.poll(0.0 if greeted else wait_s, MAX_EVENTS)
        for fd, mask in events:
            handler = core.handlers[fd]
            if handler is not None:
                handler.ready(fd, mask)
                if not core.is_edge_triggered:
                    self.worker._refresh(handler)
        again, core.again = core.again, []
        for flow in again:
            flow.pump()
        self.worker._settle_faults()
        settle_acks(greeted)
        if self.worker._talkative.is_early:
            self.worker._talkative.look_at_all()
        close.close_descriptors(core)
        return len(events) + len(again) + (ring._head - done if isinstance(ring, Ring) else 0)

    def until(self, holds: Callable[[], object]) -> None:
        """Take turns until it holds."""
        for _ in range(2000):
            if holds():
                return
            self.step(0.01)
        raise AssertionError("it did not come about")

    def settle(self) -> None:
        """Take turns until nothing is left to do."""
        while self.step(0.02):
            pass

    def after(self, seconds: float) -> None:
        """Let time pass, in ticks."""
        end = self.core.now + seconds
        while self.core.now < end:
            self.core.now = min(end, self.core.now + 0.1)
            self.worker._tick()
            self.step()
        self.core.now += 0.1001  # the tick that the wheel may take
        self.worker._tick()
        self.step()

    def taken(self, server: socket.socket) -> socket.socket:
        """Accept at a backend what the worker connects to it."""
        server.setblocking(False)
        taken: list[socket.socket] = []

        def is_taken() -> bool:
            with contextlib.suppress(BlockingIOError):
                taken.append(self._stack.enter_context(server.accept()[0]))
            return bool(taken)

        self.until(is_taken)
        taken[0].settimeout(20)
        return taken[0]

    def connect(self) -> tuple[socket.socket, socket.socket, Session]:
        """Open a session: the client's end, the backend's end, and the session between."""
        client = self._stack.enter_context(socket.create_connection(self.front.getsockname(), 20))
        known = set(self.core.sessions)
        self.until(lambda: set(self.core.sessions) - known)
        session = self.core.sessions[max(self.core.sessions)]
        self.until(lambda: session.dial is None)
        backend, _ = self.server.accept()
        backend.settimeout(20)
        return client, self._stack.enter_context(backend), session

    @property
    def ends(self) -> list[str]:
        """The reasons with which sessions have ended, in the order of the counters."""
        counts = [self.core.counters.sum(0, index) for index in range(len(REASONS))]
        return [reason for reason, count in zip(REASONS, counts, strict=True) for _ in range(count)]


@contextlib.contextmanager
def stepping(*, portable: bool = False, io_uring: str = OFF, **settings) -> Iterator[Steps]:
    """Make a worker for a test."""
    with contextlib.ExitStack() as stack:
        yield Steps(stack, portable=portable, io_uring=io_uring, **settings)
