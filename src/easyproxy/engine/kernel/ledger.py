"""What the flows of the kernel mean: which session of which listener and backend, what it moved, and how it ended.

Pure: flows and the time come in, counts and ended sessions go out. Flows are looked at now and then, so the length of a
session is right to within one look; those that came and went between two looks are told by the kernel as it forgets them.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from easyproxy.engine.kernel import flows as ct
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.reach import families_of, is_any
from easyproxy.engine.kernel.ruleset import CLOSED_S
from easyproxy.engine.seam import SessionEnd, SessionInfo, Where
from easyproxy.model import Address, Snapshot

REMEMBERED = 1000
FIN = "fin"
"""Both ends have finished, between two looks: the kernel does not tell which one was first."""
CLEAN = frozenset({"client_fin", "backend_fin", FIN})
SILENCES = frozenset({"idle_timeout", "half_closed_timeout"})
TIMEOUTS = SILENCES | {"life_timeout"}
RESET = "reset"
"""The kernel does not tell which side sent it."""
_EARLY_S = 30.0
"""More than between two looks: what vanishes so long before its time is not idle for that long."""
_ROUNDING_S = 2.0
"""How far the kernel's count-down, in whole seconds, may be from ours between two looks."""

_STATES = {
    ct.SYN_SENT: "connecting",
    ct.SYN_RECV: "connecting",
}
_FINISHING = frozenset({ct.FIN_WAIT, ct.CLOSE_WAIT, ct.LAST_ACK})
_Place = tuple[bytes, int]


class _Front(NamedTuple):
    """What a session at an address of ours belongs to."""

    listener: str
    pool: str
    idle_timeout_s: float


@dataclass(slots=True)
class Session:
    """A flow of ours, as it was last seen."""

    listener: str
    backend: str
    started_at: float
    idle_limit_s: float
    flow: Flow
    moved_at: float
    """When a look has last found that bytes had moved."""
    is_ended: bool = False
    turn: int = 0
    """The look that has seen it last."""

    @property
    def is_live(self) -> bool:
        """Whether it goes on, as far as the last look tells."""
        return self.flow.is_live and not self.is_ended

    @property
    def client(self) -> str:
        """The client's address."""
        return text_of(self.flow.client[0])


class Ended(NamedTuple):
    """A session that has ended. Most of many are only counted, so they are put into words when somebody asks."""

    flow: Flow
    listener: str
    backend: str
    started_at: float
    age_s: float
    reason: str
    detail: str

    def told(self) -> SessionEnd:
        """Put it into words."""
        return SessionEnd(
            id=id_of(self.flow),
            listener=self.listener,
            backend=self.backend,
            client=_with_port(self.flow.client),
            reason=self.reason,
            age_s=self.age_s,
            bytes_from_client=self.flow.bytes_from_client,
            bytes_from_backend=self.flow.bytes_from_backend,
            detail=self.detail,
            started_at=self.started_at,
        )


@dataclass(frozen=True, slots=True)
class Books:
    """What was counted up to the last look."""

    sessions_by_listener: Counter[str] = field(default_factory=Counter)
    sessions_by_backend: Counter[str] = field(default_factory=Counter)
    bytes_from_client: Counter[str] = field(default_factory=Counter)
    bytes_from_backend: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    timeouts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Follows flows from look to look. Used by one thread at a time."""

    def __init__(self) -> None:
        self._fronts: dict[tuple[int, _Place], _Front] = {}
        self._ports: dict[tuple[int, int], _Front] = {}
        self._backends: dict[tuple[str, _Place], str] = {}
        self._life: dict[str, float] = {}
        self._sessions: dict[tuple[int, int, bytes], Session] = {}
        self._turn = 0
        self._totals = Books()
        self.forgotten: list[Flow] = []
        """Of the last look: flows that the kernel gave up, whose ends may not know yet."""
        self.doubted: list[Flow] = []
        """Of the last look: flows that the kernel gives up soon if neither end says something, after a reset that it could not judge."""
        self._looked_at = 0.0
        self.recent: deque[Ended] = deque(maxlen=REMEMBERED)

    def know(self, snapshot: Snapshot) -> None:
        """Learn addresses. What left the snapshot stays known, since its flows go on."""
        self._life = {listener.name: listener.life_timeout_s for listener in snapshot.listeners}
        for listener in snapshot.listeners:
            front = _Front(listener.name, listener.pool, listener.idle_timeout_s)
            for family in families_of(listener):
                if is_any(listener):
                    self._ports[family, listener.bind.port] = front
                else:
                    self._fronts[family, _place(listener.bind)] = front
        for pool in snapshot.pools:
            for backend in pool.backends:
                if not backend.address.path:
                    self._backends[pool.name, _place(backend.address)] = backend.id

    def look(
        self, flows: Iterable[Flow], now: float, has: Callable[[Flow], bool] = lambda _flow: False
    ) -> tuple[Books, list[Ended]]:
        """Take in all flows that there are and that are gone; return the counts, and the sessions that ended since the last look.

        ``has`` is asked about a flow that is missing though nobody has said that it is gone.
        """
        # What stays is not put into another dict: so many new keys would set off the garbage collector, which then walks
        # over all sessions, and everybody in this process waits.
        sessions, self._turn = self._sessions, self._turn + 1
        passed, self._looked_at = now - self._looked_at, now
        ended: list[Ended] = []
        self.forgotten, self.doubted = [], []
        for flow in flows:
            key = flow.identity
            session = sessions.get(key)
            if session is None:
                session = self._recognise(flow, now)
                if session is None:
                    continue
                sessions[key] = session
                self._count(session.backend, flow, None)
            else:
                if self._count(session.backend, flow, session.flow):
                    session.moved_at = now
                if _is_doubted(flow, session.flow, passed):
                    self.doubted.append(flow)
                # Of a flow that is gone, the kernel says nothing of this any more.
                session.flow = flow._replace(first_fin=session.flow.first_fin) if flow.is_gone else flow
            session.turn = self._turn
            if flow.is_gone:
                if not session.is_ended:
                    ended.append(self._gone(session, now))
                del sessions[key]
            elif flow.state in ct.ENDED:
                if not session.is_ended:
                    ended.append(self._end(session, now, *_how(flow)))
            else:
                session.is_ended = False  # the client has used its port again
        for key, session in [item for item in sessions.items() if item[1].turn != self._turn]:
            if not session.is_ended and has(session.flow):
                session.turn = self._turn
            elif session.turn < self._turn - 1:  # else it went just now, and the next look hears how
                if not session.is_ended:
                    ended.append(self._gone(session, now))
                del sessions[key]
        return self._books(), ended

    def matching(self, where: Where) -> list[Session]:
        """List live sessions, as of the last look."""
        return [
            session
            for session in self._sessions.values()
            if session.is_live
            and where.backend in ("", session.backend)
            and where.listener in ("", session.listener)
            and where.client in ("", session.client)
            and where.id in ("", id_of(session.flow))
        ]

    def too_old(self, now: float) -> list[Session]:
        """List live sessions that exceed their listener's ``life_timeout``."""
        if not any(self._life.values()):
            return []
        return [
            session
            for session in self._sessions.values()
            if session.is_live
            and (limit := self._life.get(session.listener, 0.0))
            and now - session.started_at > limit
        ]

    def closed(self, sessions: Iterable[Session], reason: str, now: float) -> list[Ended]:
        """Note that these were closed by us."""
        return [self._end(session, now, reason, "") for session in sessions if not session.is_ended]

    def infos(self, now: float) -> list[SessionInfo]:
        """Describe the live sessions."""
        return [
            SessionInfo(
                id=id_of(session.flow),
                listener=session.listener,
                backend=session.backend,
                client=_with_port(session.flow.client),
                state=_state(session.flow),
                age_s=max(0.0, now - session.started_at),
                idle_s=min(_idle(session), max(0.0, now - session.started_at)),
                bytes_from_client=session.flow.bytes_from_client,
                bytes_from_backend=session.flow.bytes_from_backend,
                worker=0,
                engine="kernel",
            )
            for session in self.matching(Where())
        ]

    def _recognise(self, flow: Flow, now: float) -> Session | None:
        front = self._fronts.get((flow.family, flow.front)) or self._ports.get((flow.family, flow.front[1]))
        if front is None:
            return None
        backend = self._backends.get((front.pool, flow.back)) or f"{front.pool}/{_with_port(flow.back)}"
        started = flow.started_ns / 1e9 or now
        return Session(front.listener, backend, started, front.idle_timeout_s, flow, now)

    def _count(self, backend: str, flow: Flow, former: Flow | None) -> bool:
        if former is not None and flow.bytes_from_client < former.bytes_from_client:
            former = None
        sent, got = (former.bytes_from_client, former.bytes_from_backend) if former is not None else (0, 0)
        if flow.bytes_from_client != sent:
            self._totals.bytes_from_client[backend] += flow.bytes_from_client - sent
        if flow.bytes_from_backend != got:
            self._totals.bytes_from_backend[backend] += flow.bytes_from_backend - got
        return flow.bytes_from_client != sent or flow.bytes_from_backend != got

    def _gone(self, session: Session, now: float) -> Ended:
        if session.flow.state in ct.ENDED:
            return self._end(session, now, *_how(session.flow))
        reason, detail = _how_it_vanished(session, now)
        if reason in SILENCES or reason == RESET:
            self.forgotten.append(session.flow)
        return self._end(session, now, reason, detail)

    def _end(self, session: Session, now: float, reason: str, detail: str) -> Ended:
        session.is_ended = True
        self._totals.ends[reason] += 1
        if reason == "connect_failed":
            self._totals.failures[session.backend] += 1
        elif reason in TIMEOUTS:
            self._totals.timeouts[session.backend] += 1
        started = session.started_at
        end = Ended(
            session.flow, session.listener, session.backend, started, max(0.0, now - started), reason, detail
        )
        self.recent.append(end)
        return end

    def _books(self) -> Books:
        by_listener: Counter[str] = Counter()
        by_backend: Counter[str] = Counter()
        live = Counter(
            (session.listener, session.backend)
            for session in self._sessions.values()
            if session.turn == self._turn and not session.is_ended
        )
        for (listener, backend), count in live.items():
            by_listener[listener] += count
            by_backend[backend] += count
        totals = self._totals
        return Books(
            by_listener,
            by_backend,
            totals.bytes_from_client.copy(),
            totals.bytes_from_backend.copy(),
            totals.failures.copy(),
            totals.timeouts.copy(),
            totals.ends.copy(),
        )


def id_of(flow: Flow) -> str:
    """The name of a session: the kernel's number of the flow, which is used again, and what tells its bearers apart."""
    return f"k{flow.id ^ flow.started_ns & 0xFFFF_FFFF:08x}"


def text_of(packed: bytes) -> str:
    """Write a packed address."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def ends_of(flow: Flow) -> tuple[Address, Address]:
    """Where the backend is, and where it sees the client."""
    back, seen = (Address(text_of(host), port) for host, port in (flow.back, flow.seen))
    return back, seen


def where_of(end: SessionEnd, where: Where) -> bool:
    """Whether an ended session matches."""
    return (
        where.backend in ("", end.backend)
        and where.listener in ("", end.listener)
        and where.id in ("", end.id)
        and where.client in ("", Address.parse(end.client).host)
    )


def _with_port(place: _Place) -> str:
    return str(Address(text_of(place[0]), place[1]))


def _place(address: Address) -> _Place:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.inet_pton(family, address.host), address.port


def _idle(session: Session) -> float:
    """Since the last packet: the kernel starts its count-down anew with each."""
    if session.flow.state != ct.ESTABLISHED or not session.idle_limit_s:
        return 0.0
    return max(0.0, session.idle_limit_s - session.flow.timeout_s)


def _state(flow: Flow) -> str:
    if flow.state in _FINISHING:
        return f"half_closed_by_{flow.first_fin or 'client'}"
    return _STATES.get(flow.state, "relaying")


def _fin(flow: Flow) -> str:
    return f"{flow.first_fin}_fin" if flow.first_fin else FIN


def _is_doubted(flow: Flow, former: Flow, passed: float) -> bool:
    """Whether the kernel's count-down has been cut short: it gives an established flow as long as an ended one after such a reset."""
    return (
        not flow.is_gone
        and flow.timeout_s <= CLOSED_S < former.timeout_s
        and former.timeout_s - flow.timeout_s > passed + _ROUNDING_S
        and flow.state == former.state == ct.ESTABLISHED
    )


def _how(flow: Flow) -> tuple[str, str]:
    if flow.state == ct.TIME_WAIT:
        return _fin(flow), ""
    if flow.packets_from_backend <= 1 and flow.packets_from_client <= 1 and flow.has_reply:
        return "connect_failed", "the backend refused"
    return RESET, "one side has reset it; the kernel does not tell which"


def _how_it_vanished(session: Session, now: float) -> tuple[str, str]:
    match session.flow.state:
        case ct.SYN_SENT | ct.SYN_RECV:
            return "connect_failed", "the backend did not answer"
        case ct.ESTABLISHED:
            # The kernel gives one up early for a reset that it could not judge.
            if session.flow.has_reset or now - session.moved_at < session.idle_limit_s - _EARLY_S:
                return RESET, "one side has reset it, or somebody has deleted the flow"
            return "idle_timeout", ""
        case ct.LAST_ACK:
            return _fin(session.flow), ""
        case _:
            return "half_closed_timeout", ""
