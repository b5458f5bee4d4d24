"""Sessions as records for the wire, and back: the one place that knows every field of a session.

A worker that gives its sessions to the worker of another program writes records; the other makes sessions of them.
The two programs may be of different versions: the giver names the fields that it sends, the taker leaves the rest as
a new session has them and refuses what it does not know. No socket is read or written here.

Descriptors travel beside the records, in their order: client, backend, and both ends of each pipe that holds bytes.
Bytes that were read and not yet written stand in the blob. Times are those of the machine's monotonic clock, which
both programs share.
"""

from __future__ import annotations

import socket
from _socket import socket as raw_socket
from dataclasses import asdict, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from easyproxy.engine.relay import close, polite
from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.conversation import CONVERSATIONS
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.relay.flow import Flow
from easyproxy.engine.relay.greeted import GreetedDial
from easyproxy.engine.relay.life import Event, State
from easyproxy.engine.relay.names import number_elsewhere
from easyproxy.engine.relay.pipes import Pipe
from easyproxy.engine.relay.runtime import BackendRuntime, ListenerRuntime, PoolRuntime
from easyproxy.engine.relay.session import Session
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.model import Address, Backend, Listener, Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.inforce import InForce
    from easyproxy.engine.relay.session import Dialling

Plain = dict[str, Any]

# What is carried as it is. What is not: a field that is derived, translated or made anew, and where.
SESSION_FIELDS = ("accepted_at", "active_at", "armed", "connected_at", "host", "port", "tried")
SESSION_REST = frozenset(
    {
        "backend",  # a reference into the table of runtimes
        "listener",  # the same
        "client_fd",  # a descriptor
        "client_socket",  # the same one
        "socket",  # a descriptor, too
        "number",  # the id stays what it was
        "state",
        "dial",  # a record of its own
        "inbound",  # the same
        "outbound",  # the same
        "conversation",  # what it knows, behind the other parts of the record
        "tick",  # as the time at which the taker has to look at it
    }
)
FLOW_FIELDS = ("ended", "is_bulk", "moved", "streak", "tail", "target_gone", "writes_until_nodelay")
FLOW_REST = frozenset(
    {
        "broken",  # by its name
        "pending",  # in the blob
        "pipe",  # two descriptors
        "back",  # the other flow
        "core",
        "session",
        "source",
        "target",
        "cell",
        "counted",  # the giver has counted all
    }
)
DIAL_FIELDS = (
    "_attempted_at",
    "_deadline",
    "_holds_ack",
    "_is_held",
    "_is_short",
    "_left",
    "_queue_until",
    "_why",
    "client_mask",
    "gave_up_at",
)
DIAL_REST = frozenset(
    {
        "_candidates",  # the taker's strategy names new ones when the attempt under way fails
        "_chosen_from",  # with the candidates
        "_failed",  # a reference into the table of runtimes
        "core",
        "session",
    }
)
GREETED_FIELDS = ("_asked", "_sent", "_step")
GREETED_REST = frozenset(
    {
        "_backend_mask",  # the taker's poller tells anew
        "_broke",  # the same
        "_is_listening",  # begins anew when the poller tells that it is connected
        "_refused",  # left behind: nobody hears its reason any more
        "no_from",  # so it asks them once more
        "_aside",  # the same: the one that races it goes over
        "_has_raced",  # so it may once more
    }
)
DIALECT = {"session": SESSION_FIELDS, "flow": FLOW_FIELDS, "dial": DIAL_FIELDS, "greeted": GREETED_FIELDS}
"""What a giver says first."""

_FAILED = "_failed"

_session_values = attrgetter(*SESSION_FIELDS)
_flow_values = attrgetter(*FLOW_FIELDS)
_dial_values = attrgetter(*DIAL_FIELDS)
_greeted_values = attrgetter(*GREETED_FIELDS)
_failed_of = attrgetter(_FAILED)


class HandoverError(Exception):
    """What came over the link cannot be made a session of; the message says why."""


class Runtimes:
    """The giver's side of the table: a number for each listener and backend, described once for each link."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []  # so that no other object gets the same id()
        self._news: list[Plain] = []

    def number(self, runtime: ListenerRuntime | BackendRuntime | None) -> int:
        """Return the number of a runtime; -1 for None."""
        if runtime is None:
            return -1
        number = self._numbers.get(id(runtime))
        if number is None:
            number = self._numbers[id(runtime)] = len(self._kept)
            self._kept.append(runtime)
            if isinstance(runtime, BackendRuntime):
                what, pool = {"backend": asdict(runtime.backend)}, runtime.pool
            else:
                what, pool = {"listener": asdict(runtime.listener)}, runtime.pool.pool.name
            self._news.append({"number": number, "pool": pool, **what})
        return number

    def take_news(self) -> list[Plain]:
        """Return the descriptions that the taker does not have yet."""
        news, self._news = self._news, []
        return news


class Batch:
    """Records with their descriptors and bytes, for one frame."""

    __slots__ = ("blob_bytes", "blobs", "fds", "records")

    def __init__(self) -> None:
        self.records: list[list[Any]] = []
        self.fds: list[int] = []
        self.blobs: list[memoryview] = []
        self.blob_bytes = 0

    def keep(self, pending: memoryview) -> int:
        """Add bytes to the blob; return how many."""
        self.blobs.append(pending)
        self.blob_bytes += len(pending)
        return len(pending)


MOST_FDS = 6
"""Of one session: its two connections, and a pipe for each direction."""


def session_to_record(
    core: Core, session: Session, runtimes: Runtimes, batch: Batch, again: frozenset[int]
) -> None:
    """Write one session into a batch; ``again`` holds the ids of the flows that gave way with work left."""
    outbound, inbound, dial, sock = session.outbound, session.inbound, session.dial, session.socket
    conversation = session.conversation
    batch.fds.append(session.client_fd)
    if sock is not None:
        batch.fds.append(sock.fileno())
    batch.records.append(
        [
            core.session_id(session.number),
            session.state.value,
            runtimes.number(session.listener),
            runtimes.number(session.backend),
            -1 if sock is None else int(sock.family),
            session.tick * TICK_S,
            _session_values(session),
            None if dial is None else _dial_record(dial, runtimes),
            _flow_record(outbound, batch, again) if isinstance(outbound, Flow) else None,
            _flow_record(inbound, batch, again) if isinstance(inbound, Flow) else None,
            *([[conversation.protocol, conversation.to_plain()]] if conversation is not None else ()),
        ]
    )


def _dial_record(dial: Dialling, runtimes: Runtimes) -> list[Any]:
    record = [_dial_values(dial), runtimes.number(_failed_of(dial))]
    return [*record, _greeted_values(dial)] if isinstance(dial, GreetedDial) else record


def _flow_record(flow: Flow, batch: Batch, again: frozenset[int]) -> list[Any]:
    pipe = flow.pipe if flow.pipe is not None and flow.pipe.held else None
    if pipe is not None:
        batch.fds += (pipe.read_end, pipe.write_end)
    return [
        _flow_values(flow),
        flow.broken.value if flow.broken is not None else None,
        batch.keep(flow.pending) if flow.pending is not None else 0,
        [pipe.size, pipe.held] if pipe is not None else None,
        id(flow) in again,
    ]


class Given(NamedTuple):
    """One session that was made of a record, not yet at work."""

    session: Session
    due: float  # when it is to be looked at; 0 for never
    again: tuple[Flow, ...]  # to be pumped once
    settings_differ: bool  # the listener's settings are others than where it came from


class Taker:
    """The taker's side: makes sessions of records. Counts their places; registers nothing."""

    def __init__(self, core: Core, in_force: InForce, slots: Mapping[str, int]) -> None:
        self._core = core
        self._in_force = in_force
        self._slots = slots
        self._runtimes: dict[int, ListenerRuntime | BackendRuntime] = {}
        self._changed: set[int] = set()
        self._pools: dict[str, PoolRuntime] = {}
        self._names: tuple[tuple[str, ...], ...] = ()

    def agree(self, dialect: Mapping[str, Iterable[str]]) -> None:
        """Take the names of the giver's fields. Raises HandoverError for one that is unknown here."""
        for kind, known in DIALECT.items():
            unknown = set(dialect.get(kind, ())) - set(known)
            if unknown:
                raise HandoverError(f"its sessions have what is unknown here: {', '.join(sorted(unknown))}")
        self._names = tuple(tuple(dialect.get(kind, ())) for kind in DIALECT)

    def learn(self, news: Iterable[Plain]) -> None:
        """Take descriptions of listeners and backends; those in force here stand for their like."""
        for item in news:
            pool = self._pool(item["pool"])
            if "backend" in item:
                self._runtimes[item["number"]] = self._backend(item["backend"], pool)
            else:
                self._runtimes[item["number"]] = self._listener(item["listener"], pool, item["number"])

    def _pool(self, name: str) -> PoolRuntime:
        pool = self._in_force.pools.get(name) or self._pools.get(name)
        if pool is None:
            slot = self._slot(f"pool:{name}")
            pool = self._pools[name] = PoolRuntime(Pool(name), slot, self._core.counters.base(slot), Dial)
        return pool

    def _backend(self, plain: Plain, pool: PoolRuntime) -> BackendRuntime:
        backend = Backend(**_known(Backend, {**plain, "address": Address(**plain["address"])}))
        here = pool.backends.get(backend.id)
        if here is not None and here.backend.address == backend.address:
            return here
        slot = self._slot(f"backend:{backend.id}")
        return BackendRuntime(backend, slot, self._core.counters.base(slot), pool)

    def _listener(self, plain: Plain, pool: PoolRuntime, number: int) -> ListenerRuntime:
        listener = Listener(**_known(Listener, {**plain, "bind": Address(**plain["bind"])}))
        here = self._in_force.listeners.get(listener.name)
        if here is not None:
            if here.listener != listener:
                self._changed.add(number)
            return here
        slot = self._slot(f"listener:{listener.name}")
        gone = ListenerRuntime(listener, slot, self._core.counters.base(slot), pool)
        gone.is_leaving = True
        return gone

    def _slot(self, key: str) -> int:
        slot = self._slots.get(key)
        if slot is None:
            raise HandoverError(f"there is no slot for {key}")
        return slot

    def session_from_record(self, record: list[Any], fds: list[int], blob: memoryview) -> tuple[Given, int]:
        """Make a session; takes its descriptors from the front of ``fds``. Return it and how much of the blob it took."""
        name, state, listener_number, backend_number, family, due, values, dial, outbound, inbound, *more = (
            record
        )
        core = self._core
        listener, backend = self._runtimes[listener_number], self._runtimes.get(backend_number)
        if not isinstance(listener, ListenerRuntime) or isinstance(backend, ListenerRuntime):
            raise HandoverError(f"session {name} refers to what is no listener or no backend")
        session = Session(number_elsewhere(name), listener, close.socket_of(fds.pop(0)), "", 0, core.now)
        for field, value in zip(self._names[0], values, strict=True):
            setattr(session, field, value)
        session.tick = 0  # no newcomer: the taker has its client watched, and places it
        session.state = State(state)
        session.backend = backend
        if family >= 0:
            session.socket = raw_socket(family, socket.SOCK_STREAM, 0, fileno=fds.pop(0))
            session.socket.setblocking(False)
        used = 0
        again: tuple[Flow, ...] = ()
        if session.socket is not None and backend is not None and outbound is not None:
            flows = self._flows(session, session.socket, backend.cell, more)
            flows[0].back, flows[1].back = flows[1], flows[0]
            session.outbound, session.inbound = flows
            for flow, flow_record in zip(flows, (outbound, inbound), strict=True):
                used += self._fill(flow, flow_record, fds, blob[used:])
            again = tuple(
                flow for flow, flow_record in zip(flows, (outbound, inbound), strict=True) if flow_record[4]
            )
        elif dial is not None:
            session.dial = self._dial(session, dial)
        else:
            raise HandoverError(f"session {name} is {state}, but without what that takes")
        return Given(session, due, again, listener_number in self._changed), used

    def _flows(self, session: Session, sock: raw_socket, cell: int, more: list[Any]) -> tuple[Flow, Flow]:
        core, client = self._core, session.client_socket
        if more and more[0][0] in CONVERSATIONS:
            conversation = polite.conversation_of(more[0][0])
            conversation.take_plain(more[0][1])
            return polite.follow(core, session, conversation, cell)
        return (
            Flow(core, session, client, sock, cell + c.B_FROM_CLIENT),
            Flow(core, session, sock, client, cell + c.B_FROM_BACKEND),
        )

    def _fill(self, flow: Flow, record: list[Any], fds: list[int], blob: memoryview) -> int:
        values, broken, pending, pipe, _again = record
        for field, value in zip(self._names[1], values, strict=True):
            setattr(flow, field, value)
        flow.counted = flow.moved
        if broken is not None:
            flow.broken = Event(broken)
        if pending:
            flow.pending = memoryview(bytes(blob[:pending]))
        if pipe is not None:
            size, held = pipe
            flow.pipe = Pipe(fds.pop(0), fds.pop(0), size)
            flow.pipe.held = held
        return int(pending)

    def _dial(self, session: Session, record: list[Any]) -> Dialling:
        values, failed, *greeted = record
        dial = session.listener.pool.dial(self._core, session)
        if greeted and not isinstance(dial, GreetedDial):
            dial = GreetedDial(self._core, session)
        for names, of_them in zip(self._names[2:], (values, *greeted), strict=False):
            for field, value in zip(names, of_them, strict=True):
                setattr(dial, field, value)
        known = self._runtimes.get(failed)
        if isinstance(known, BackendRuntime):
            setattr(dial, _FAILED, known)
        return dial

    def backend(self, number: int) -> BackendRuntime | None:
        """Return a backend of the table; None for -1."""
        runtime = self._runtimes.get(number)
        return runtime if isinstance(runtime, BackendRuntime) else None


def _known(kind: type, plain: Plain) -> Plain:
    """Leave out what another version has and this one has not."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}
