"""What a worker keeps for each listener, pool and backend of the snapshot in force.

A session holds on to the runtime objects that it started with: a backend that has left the snapshot lives on for
its sessions, and for nobody else. A pool holds its backends, its strategies and with them its ticket counter's descriptor, and
nothing of that holds the pool: such a cycle would keep the descriptor until the garbage collector comes by, which is seldom.

A pool knows who waits in it, and so their sessions; a session knows its listener, and so its pool. That is why this,
:mod:`.session` and :mod:`.core` name each other: together they are what a worker remembers, and know of nobody who works on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from easyproxy.engine.relay.address import socket_address
from easyproxy.engine.relay.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.rate import Meter
    from easyproxy.engine.relay.session import Dialling, Session
    from easyproxy.model import Backend, Listener, Pool
    from easyproxy.strategy.tiers import Tiers


def _local_ports() -> range:
    """Return the ports from which the system chooses for outgoing connections (ip(7), ip_local_port_range)."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return range(1024, 65536)
    return range(int(low), int(high) + 1)


_LOCAL_PORTS = _local_ports()


class BackendRuntime:
    """One backend: where to connect, and where to count."""

    __slots__ = (
        "address",
        "backend",
        "cell",
        "family",
        "is_leaving",
        "is_proven",
        "may_meet_itself",
        "pool",
        "slot",
        "waiting",
    )

    def __init__(self, backend: Backend, slot: int, cell: int, pool: PoolRuntime) -> None:
        self.backend = backend
        self.slot = slot
        self.cell = cell  # index of the first of this worker's cells
        self.pool = pool.pool.name
        self.waiting = pool.waiting  # for a place at a backend of this pool
        self.family, self.address = socket_address(backend.address)
        self.is_leaving = False  # its sessions are to end between two transactions
        self.is_proven = False  # a client's connect has succeeded since the last failure
        # A connect to a port of this machine on which nobody listens can be answered by itself, when the system
        # happens to choose that very port as the local one (simultaneous open, RFC 9293 section 3.5).
        self.may_meet_itself = not backend.address.path and backend.address.port in _LOCAL_PORTS


class Waiter(Protocol):
    """A dial, as the pool in which it waits knows it."""

    @property
    def session(self) -> Session:
        """Whose it is."""

    @property
    def no_from(self) -> AbstractSet[BackendRuntime]:
        """Those that have turned the client away; it does not wait for a place there."""

    @property
    def waits_for(self) -> str:
        """What was lacking when it came into the queue, in words."""

    @property
    def is_starved(self) -> bool:
        """Whether it waits for something that this machine is short of."""

    def retry(self) -> bool:
        """Try again from the queue; return whether it left the queue."""

    def enter(self) -> None:
        """Pass the gate."""

    def release(self) -> None:
        """Leave the queue, or the gate."""

    def resume(self) -> None:
        """Wait on in another pool."""


class PoolRuntime:
    """One pool: its ready backends, how to choose among them, and who waits for a free place."""

    __slots__ = (
        "__weakref__",
        "backends",
        "cell",
        "choose",
        "dial",
        "early",
        "gate",
        "is_shut",
        "keeps",
        "look_in",
        "pool",
        "roster",
        "slot",
        "source",
        "tiers",
        "usual_s",
        "waiting",
    )

    def __init__(self, pool: Pool, slot: int, cell: int, dial: Callable[[Core, Session], Dialling]) -> None:
        self.pool = pool
        self.slot = slot
        self.cell = cell
        self.backends: dict[str, BackendRuntime] = {}  # one dict for life: strategies ask it for the load
        self.roster: frozenset[BackendRuntime] = (
            frozenset()
        )  # the same backends; another one with each change
        self.choose: Callable[[str], Iterator[Backend]] = lambda _client: iter(())
        self.tiers: Tiers | None = None
        self.keeps = frozenset(pool.keeps)
        self.waiting: dict[Waiter, None] = {}  # for a place, in the order of their coming
        self.is_shut = True  # nobody gets to a backend: there is none, or others came first; see ``gate``
        self.gate: Gate[Waiter] | None = None  # of a pool that holds its clients
        self.dial = dial  # makes who looks for a backend
        self.early = (
            0  # more than 0: clients have mostly spoken by the time their backend stands; see ``dial``
        )
        self.look_in = 1  # sessions until it is looked at again
        self.usual_s = 1.0  # within which nearly every backend greets; see ``hedged``
        self.source = socket_address(pool.source) if pool.source else None

    def take(
        self,
        core: Core,
        pool: Pool,
        backends: dict[str, BackendRuntime],
        tiers: Tiers,
        dial: Callable[[Core, Session], Dialling],
    ) -> None:
        """Replace what the pool is, between two events."""
        if pool.greeting != self.pool.greeting:
            self.early = 0
        self.pool = pool
        self.keeps = frozenset(pool.keeps)
        self.backends.clear()
        self.backends.update(backends)
        self.roster = frozenset(backends.values())
        self.tiers = tiers
        tiers.build(pool.backends)
        self.choose = tiers.candidates
        self.source = socket_address(pool.source) if pool.source else None
        self.dial = dial
        if self.gate is None and pool.hold_s:
            self.gate = Gate(core.counters, self)
        if self.gate is None:
            self.is_shut = not backends
        else:
            self.gate.judge(core.now)

    @property
    def in_line(self) -> list[Waiter]:
        """Everybody who waits, in order."""
        return [*(self.gate.dials if self.gate is not None else ()), *self.waiting]

    @property
    def yields_all(self) -> bool:
        """Whether every client is offered every backend, in whatever order."""
        return self.tiers is None or self.tiers.yields_all

    @property
    def is_fair(self) -> bool:
        """Whether all clients wait for the same places, so that they can be served in the order of their coming."""
        return self.yields_all and not (self.waiting and next(iter(self.waiting)).no_from)

    def wake(self) -> None:
        """Let those who wait for a place try, first come first served."""
        if self.is_fair:
            while self.waiting:
                if not next(iter(self.waiting)).retry():
                    return
        else:
            in_vain = None  # who waits for no other place than one before him need not try
            for dial in tuple(self.waiting):
                if dial not in self.waiting or (in_vain is not None and dial.no_from >= in_vain):
                    continue
                if not dial.retry() and self.yields_all:
                    in_vain = dial.no_from


class Accepting(Protocol):
    """An acceptor, as its listener knows it."""

    is_paused: bool

    def resume(self) -> None:
        """Accept again."""

    def look(self) -> None:
        """Accept without having been woken."""

    def empty_backlog(self) -> None:
        """Accept everybody who is waiting now."""

    def close(self) -> None:
        """Stop for good."""


class ListenerRuntime:
    """One listener: its settings, its pool, and where to count."""

    __slots__ = ("acceptor", "cell", "further", "is_leaving", "is_unix", "listener", "meter", "pool", "slot")

    def __init__(self, listener: Listener, slot: int, cell: int, pool: PoolRuntime) -> None:
        self.listener = listener
        self.slot = slot
        self.cell = cell
        self.pool = pool
        self.is_unix = bool(listener.bind.path)
        self.meter: Meter | None = None  # where the listener has a client_rate
        self.is_leaving = False  # as of a backend
        self.acceptor: Accepting | None = None
        self.further: tuple[Accepting, ...] = ()  # on sockets that a predecessor with more workers has left
