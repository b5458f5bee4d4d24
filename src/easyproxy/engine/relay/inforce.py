"""The snapshot in force in one worker: its listeners, pools and backends, and how the next one takes over.

Sessions keep the runtime objects that they began with; only what is new, changed or gone is touched here, between two
events of the loop.
"""

from __future__ import annotations

import os
import random
import socket
from typing import TYPE_CHECKING

from easyproxy.engine.relay import close
from easyproxy.engine.relay.accept import Acceptor
from easyproxy.engine.relay.counters import Descriptor, ticket_counter
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.relay.greeted import GreetedDial
from easyproxy.engine.relay.greeting import JUDGES
from easyproxy.engine.relay.hedged import HedgedDial
from easyproxy.engine.relay.life import Event
from easyproxy.engine.relay.rate import Meter
from easyproxy.engine.relay.runtime import BackendRuntime, ListenerRuntime, PoolRuntime
from easyproxy.strategy import BUILTIN
from easyproxy.strategy import load as load_strategy
from easyproxy.strategy.base import Context, Strategy, StrategyError
from easyproxy.strategy.tiers import Tiers

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.rate import Table
    from easyproxy.engine.relay.runtime import Accepting
    from easyproxy.model import Backend, Listener, Pool, Snapshot


class InForce:
    """What a worker serves now. Owns its listening sockets and ticket counters."""

    def __init__(self, core: Core, *, is_dormant: bool = False) -> None:
        self.core = core
        self.is_dormant = is_dormant  # accepts nobody before wake()
        self.listeners: dict[str, ListenerRuntime] = {}
        self.pools: dict[str, PoolRuntime] = {}
        self._sockets: dict[str, list[socket.socket]] = {}  # handed over, not yet in use
        self._tickets: dict[str, Descriptor] = {}
        self._meters: dict[str, Meter] = {}
        self._looked_at = 0

    def bring_socket(self, listener: str, fd: int) -> None:
        """Take a listening socket for a listener of the next snapshot."""
        sock = socket.socket(fileno=fd)
        self._sockets.setdefault(listener, []).append(sock)
        sock.setblocking(False)  # a program may have called socket.setdefaulttimeout

    def bring_ticket(self, pool: str, fd: int) -> None:
        """Take the ticket counter for a pool of the next snapshot."""
        self._tickets[pool] = Descriptor(fd)

    def bring_meter(self, listener: str, table: Table) -> None:
        """Take the meter for a listener of the next snapshot; owns the descriptor."""
        try:
            self._meters[listener] = Meter(table.fd, table.rate, table.burst)
        finally:
            os.close(table.fd)

    def replace(self, snapshot: Snapshot, slots: dict[str, int]) -> list[ListenerRuntime]:
        """Put a snapshot in force; return the listeners whose settings have changed under living sessions."""
        for pool in snapshot.pools:
            self._take_pool(pool, slots)
        changed = [
            runtime for listener in snapshot.listeners if (runtime := self._take_listener(listener, slots))
        ]
        for name in self.listeners.keys() - {listener.name for listener in snapshot.listeners}:
            runtime = self.listeners.pop(name)
            runtime.is_leaving = True
            self._stop(runtime)
            self._meters.pop(name, None)
        for name in self.pools.keys() - {pool.name for pool in snapshot.pools}:
            for dial in self.pools.pop(name).in_line:
                close.cut(self.core, dial.session, Event.NO_BACKEND, f"pool {name} is no longer configured")
            del self._tickets[name]
        return changed

    def _take_listener(self, listener: Listener, slots: dict[str, int]) -> ListenerRuntime | None:
        """Take over one listener; return it if it was there and its settings are others now."""
        pool = self.pools[listener.pool]
        runtime = self.listeners.get(listener.name)
        is_changed = runtime is not None and runtime.listener != listener
        if runtime is None:
            slot = slots[f"listener:{listener.name}"]
            runtime = ListenerRuntime(listener, slot, self.core.counters.base(slot), pool)
            self.listeners[listener.name] = runtime
        if listener.name in self._sockets and not self.is_dormant:
            # A new listener, or one that has moved; none comes while the engine is draining.
            self._stop(runtime)
            runtime.listener = listener
            self._listen(runtime)
        runtime.listener = listener
        if listener.client_rate is None:
            self._meters.pop(listener.name, None)
        runtime.meter = self._meters.get(listener.name)
        if runtime.pool is not pool:
            self._move(runtime, pool)
        return runtime if is_changed else None

    def _listen(self, runtime: ListenerRuntime) -> None:
        runtime.acceptor, *further = [
            Acceptor(self.core, runtime, sock) for sock in self._sockets.pop(runtime.listener.name)
        ]
        runtime.further = tuple(further)

    def wake(self) -> None:
        """Accept from now on."""
        self.is_dormant = False
        for runtime in self.listeners.values():
            if runtime.listener.name in self._sockets:
                self._listen(runtime)

    @staticmethod
    def _move(runtime: ListenerRuntime, pool: PoolRuntime) -> None:
        """Give a listener another pool; its clients that wait try their luck there."""
        waiting = [dial for dial in runtime.pool.in_line if dial.session.listener is runtime]
        for dial in waiting:
            dial.release()
        runtime.pool = pool
        for dial in waiting:
            dial.resume()

    def _take_pool(self, pool: Pool, slots: dict[str, int]) -> None:
        counters = self.core.counters
        runtime = self.pools.get(pool.name)
        if runtime is None:
            slot = slots[f"pool:{pool.name}"]
            runtime = self.pools[pool.name] = PoolRuntime(pool, slot, counters.base(slot), _dial_of(pool))
        elif runtime.pool == pool:
            return
        backends: dict[str, BackendRuntime] = {}
        for backend in pool.backends:
            known = runtime.backends.get(backend.id)
            if known is not None and known.backend.address == backend.address:
                known.backend, known.is_leaving = backend, False
                backends[backend.id] = known
            else:
                slot = slots[f"backend:{backend.id}"]
                backends[backend.id] = BackendRuntime(backend, slot, counters.base(slot), runtime)
        tiers = runtime.tiers
        if tiers is None or runtime.pool.strategy != pool.strategy:
            tiers = Tiers(self._strategy(pool.strategy), self._context(runtime), ())
        runtime.take(self.core, pool, backends, tiers, _dial_of(pool))
        if tiers.failure is not None:
            self.core.report({"kind": "error", "detail": str(tiers.failure)})

    def _context(self, runtime: PoolRuntime) -> Context:
        total, backends = self.core.counters.sum, runtime.backends

        def load(backend: Backend) -> int:
            # A dial under way may ask about one that has left the snapshot since it began.
            known = backends.get(backend.id)
            return total(known.slot, 0) if known is not None else 0

        return Context(
            ticket=ticket_counter(self._tickets[runtime.pool.name]), load=load, random=random.random
        )

    def _strategy(self, name: str) -> type[Strategy]:
        try:
            return load_strategy(name)
        except StrategyError as error:
            # Control has loaded it before; something has changed on the disk since.
            self.core.report({"kind": "error", "detail": f"{error}; round_robin serves instead"})
            return BUILTIN["round_robin"]

    def look_around(self) -> None:
        """See whether clients wait at one of the listeners, the next one with each call."""
        acceptors = [runtime.acceptor for runtime in self.listeners.values() if runtime.acceptor is not None]
        if acceptors:
            self._looked_at += 1
            acceptors[self._looked_at % len(acceptors)].look()

    def stop_accepting(self) -> None:
        """Accept no more."""
        for runtime in self.listeners.values():
            self._stop(runtime)

    @staticmethod
    def _stop(runtime: ListenerRuntime) -> None:
        """Close a listener, but take in who already waits in its backlog: closing it would reset them."""
        for acceptor in _take_acceptors(runtime):
            acceptor.empty_backlog()
            acceptor.close()

    def close(self) -> None:
        """Close every listening socket at once."""
        for runtime in self.listeners.values():
            for acceptor in _take_acceptors(runtime):
                acceptor.close()
        for sockets in self._sockets.values():
            for sock in sockets:
                sock.close()
        self._sockets.clear()


def _dial_of(pool: Pool) -> type[Dial]:
    """Say who looks for the backends of a pool."""
    if pool.hedge and pool.greeting in JUDGES:
        return HedgedDial
    return GreetedDial if pool.greeting else Dial


def _take_acceptors(runtime: ListenerRuntime) -> list[Accepting]:
    acceptors = [runtime.acceptor, *runtime.further] if runtime.acceptor is not None else []
    runtime.acceptor, runtime.further = None, ()
    return acceptors
