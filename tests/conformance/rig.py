"""A started engine with everything that a test holds against it: snapshots, reports, clients, backends.

It talks to the engine by the seam only, and closes every socket of the test at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from typing import Any

from conformance import observe
from conformance.backends import ScriptedBackend, Unreachable
from conformance.engines import Entry
from conformance.namespace import Namespace
from conformance.observe import eventually
from conformance.peers import Ending, Peer, Place, connect, connect_on, unconnected
from easyproxy.engine.seam import (
    BackendCounters,
    Engine,
    ListenerCounters,
    Observation,
    Report,
    SessionEnd,
    SessionInfo,
    Statistics,
)
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

_POOL_SETTINGS = {field.name for field in fields(Pool)}
_LISTENER_SETTINGS = {field.name for field in fields(Listener)}

LISTENER = "front"
POOL = "pool"


@dataclass
class Rig:
    """Listener ``front`` before pool ``pool`` unless a test builds its own snapshots.

    Attributes:
        reports: all that the engine has told, in order.
        version: of the snapshot applied last.
        namespace: where the test has one of its own (``@pytest.mark.root``).
    """

    entry: Entry
    engine: Engine
    stack: AsyncExitStack
    namespace: Namespace | None = None
    reports: list[Report] = field(default_factory=list)
    version: int = 0

    # What stands around the engine

    def backend(self, name: str, script: Any = None, **settings: Any) -> ScriptedBackend:
        """Start a scripted backend; it ends with the test."""
        backend = ScriptedBackend(name, script, **settings)
        self.stack.push_async_callback(backend.stop)
        return backend

    def unreachable(self, name: str) -> Unreachable:
        """Start a backend to which connects stay under way."""
        backend = Unreachable(name)
        self.stack.push_async_callback(backend.stop)
        return backend

    async def client(self, place: Place | None = None, **settings: Any) -> Peer:
        """Connect to the listener (or another place); the client is closed with the test at the latest."""
        peer = await connect(place or self.place(), **settings)
        self.keep(peer)
        return peer

    async def knock(self, place: Place | None = None, **settings: Any) -> Ending:
        """Connect, say nothing, and return how the other side ended it; a reset may come before connect is through."""
        peer = self.keep(unconnected(place or self.place(), **settings))
        try:
            await connect_on(peer, place or self.place())
        except ConnectionResetError:
            return "reset"
        return await peer.ending()

    def keep(self, peer: Peer) -> Peer:
        """Close this peer at the end of the test at the latest."""
        self.stack.callback(peer.close)
        return peer

    async def pair(self, backend: ScriptedBackend, **settings: Any) -> tuple[Peer, Peer]:
        """Open a session and return both ends: the client's and the backend's. The backend has no script."""
        client = await self.client(**settings)
        server = await backend.taken()
        # The kernel accepts for the backend before the engine has heard of it.
        await eventually(
            lambda: self.counters(backend).total, lambda total: total >= len(backend.connections)
        )
        return client, server

    # Snapshots

    def snapshot(self, backends: Iterable[ScriptedBackend | Backend], **settings: Any) -> Snapshot:
        """Build the next snapshot: one listener, one pool; settings of either by their names in the model."""
        unknown = settings.keys() - _POOL_SETTINGS - _LISTENER_SETTINGS
        assert not unknown, f"neither a pool nor a listener has {unknown}"
        pool = {name: value for name, value in settings.items() if name in _POOL_SETTINGS}
        listener = {name: value for name, value in settings.items() if name in _LISTENER_SETTINGS}
        listener.setdefault("bind", Address("127.0.0.1", 0))
        models = tuple(item.model() if isinstance(item, ScriptedBackend) else item for item in backends)
        return Snapshot(
            self.version + 1,
            listeners=(Listener(name=LISTENER, pool=POOL, **listener),),
            pools=(Pool(name=POOL, backends=models, **pool),),
        )

    def apply(self, snapshot: Snapshot) -> None:
        """Hand a snapshot to the engine."""
        self.engine.apply(snapshot)
        self.version = snapshot.version

    def serve(self, *backends: ScriptedBackend | Backend, **settings: Any) -> None:
        """Build a snapshot and apply it; the listener keeps its address over several calls."""
        self.apply(self.snapshot(backends, **settings))

    def place(self, listener: str = LISTENER) -> Place:
        """Where a listener can be reached."""
        address = Address.parse(self.engine.addresses()[listener])
        return address.path or (address.host, address.port)

    # What the engine tells

    def statistics(self) -> Statistics:
        return self.engine.statistics()

    def listener(self, name: str = LISTENER) -> ListenerCounters:
        return self.engine.statistics().listeners.get(name, ListenerCounters())

    def counters(self, backend: ScriptedBackend | Backend) -> BackendCounters:
        return self.engine.statistics().backends.get(backend.id, BackendCounters())

    def ends(self, reason: str) -> int:
        """How many sessions have ended for this reason, by the counters."""
        return self.engine.statistics().ends.get(reason, 0)

    def session_ends(self) -> list[SessionEnd]:
        return [report for report in self.reports if isinstance(report, SessionEnd)]

    def observations(self, backend: ScriptedBackend | Backend | None = None) -> list[Observation]:
        seen = [report for report in self.reports if isinstance(report, Observation)]
        return [item for item in seen if backend is None or item.backend == backend.id]

    async def sessions(self) -> list[SessionInfo]:
        return await self.engine.sessions()

    async def reported(self, reason: str, count: int = 1) -> list[SessionEnd]:
        """Wait until ``count`` sessions were reported to have ended for this reason, and counted; return them."""

        def matching() -> list[SessionEnd]:
            return [end for end in self.session_ends() if end.reason == reason]

        def seen() -> tuple[int, int, list[str]]:
            return len(matching()), self.ends(reason), [end.reason for end in self.session_ends()]

        await eventually(
            seen, lambda got: got[0] == got[1] == count, what=f"{count} reports and ends of reason {reason}"
        )
        return matching()

    async def quiet(self) -> None:
        """Wait until the engine has no session any more, by the counters and by the list."""
        await eventually(lambda: (self.listener().sessions, self.queued()), (0, 0), "no session left")
        await eventually(self.sessions, [], "an empty list of sessions")

    def queued(self) -> int:
        return self.statistics().queued.get(POOL, 0)

    # What the system tells

    def processes(self) -> list[int]:
        return self.entry.processes(self.engine)

    def descriptors(self) -> int:
        return observe.descriptors(self.processes())

    def memory(self) -> int:
        return observe.memory(self.processes())

    def cpu_seconds(self) -> float:
        return observe.cpu_seconds(self.processes())

    async def warm(self, backend: ScriptedBackend) -> None:
        """Let one session of an echoing backend come and go: what an engine makes at first use is made then."""
        client = await self.client()
        await client.send(b"warm")
        await client.read(4)
        client.close()
        await self.quiet()
        await eventually(lambda: all(not peer.is_open for peer in backend.connections), True)
        backend.connections.clear()
