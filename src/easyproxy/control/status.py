"""What the control process knows, as plain values for the admin server, the command line and Python callers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from easyproxy.engine.seam import BackendCounters, ListenerCounters, SessionInfo, Statistics


@dataclass(frozen=True, slots=True)
class ProbeStatus:
    """The last look at a backend. ``at`` in seconds since the epoch."""

    at: float
    outcome: str
    detail: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend: state, since when, why, and what it does now.

    Attributes:
        state: ``ready``, ``down``, ``checking`` (no verdict yet), ``draining`` or ``maintenance``.
        since: seconds since the epoch of the last change of state.
        reason: why it is in this state, in words.
        last_probe: the newest observation, from a probe or from traffic.
        last_error: the newest failure in words with its time, kept after recovery; empty if there was none.
        is_healthy: what the verdict says, whatever the operator says; None without a verdict.
        connect_p50_s: half of the sessions had connected within so many seconds (p95, p99 alike); 0 without any.
        overrides: ids of the overrides that concern it.
        role: ``primary`` or ``replica``, as the server says; empty where its check does not ask.
        role_since: seconds since the epoch.
        takes_writes: clients of listeners with ``role: primary`` go to it now.
        is_rival: it says that it is the primary, and another one takes the writes.
        lag_s: of a replica, in seconds; None where it is not known, or where it does not follow at all.
        lag: the same in words; empty for others than replicas.
        is_lagging: it is too far behind to serve as a replica.
        server_version: as the server says.
        timeline: which history of writes a PostgreSQL server follows; 0 for others.
        notes: what else its check has learnt: pairs of a word and what it is.
        effective_weight: the weight in force now (less than ``weight`` during slow start).
    """

    id: str
    name: str
    address: str
    state: str
    since: float
    reason: str
    weight: int
    effective_weight: float
    max_sessions: int
    backup: bool
    last_probe: ProbeStatus | None
    last_error: str
    last_error_at: float
    counters: BackendCounters
    is_healthy: bool | None = None
    connect_p50_s: float = 0.0
    connect_p95_s: float = 0.0
    connect_p99_s: float = 0.0
    overrides: tuple[str, ...] = ()
    role: str = ""
    role_since: float = 0.0
    takes_writes: bool = False
    is_rival: bool = False
    lag_s: float | None = None
    lag: str = ""
    is_lagging: bool = False
    server_version: str = ""
    timeline: int = 0
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class WritesStatus:
    """How writes stand in a pool that has listeners with ``role: primary``.

    Attributes:
        writers: ids of the backends that take them; one, or none, or without a fence several.
        since: when that last changed, in seconds since the epoch; 0 for never.
        why: in words.
        is_split: several servers say that they are the primary, and nothing decides between them.
        held: clients that wait for a primary.
    """

    writers: tuple[str, ...]
    since: float
    why: str
    is_split: bool
    held: int


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool and its backends, in the order of the configuration.

    Attributes:
        writes: None where no listener is for the primary.
        drain: how sessions end that are to leave: ``sessions_end`` or ``between_transactions``.
        drain_deadline_s: after so long those that are left are closed, unless the drain says another time; 0 is never.
    """

    name: str
    strategy: str
    check: str  # in words: "tcp every 2 s"
    queued: int
    backends: tuple[BackendStatus, ...]
    writes: WritesStatus | None = None
    drain: str = "sessions_end"
    drain_deadline_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ListenerStatus:
    """A listener.

    Attributes:
        address: where it really listens, with the port that the system chose.
        engine: what serves it.
        client_rate: new sessions that one client address may open, as in the file (``20/s``); empty is no limit.
        client_burst: how many of them may come at once.
        role: which servers of the pool serve its clients; empty is all of them.
        fallback: which other servers do while there is none of them; empty is none.
    """

    name: str
    address: str
    pool: str
    max_sessions: int
    counters: ListenerCounters
    engine: str = "relay"
    role: str = ""
    fallback: str = ""
    client_rate: str = ""
    client_burst: int = 0


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One client address with its live sessions and their bytes."""

    address: str
    sessions: int
    bytes_from_client: int
    bytes_from_backend: int


@dataclass(frozen=True, slots=True)
class AccessLogStatus:
    """Where the access log goes, how many lines it has, and how many could not be written."""

    path: str
    lines: int
    lost: int


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at one moment. ``ends`` counts ended sessions by reason.

    Attributes:
        is_draining: a stop was asked for: no new sessions, those that stand may end.
        worker_python: which Python runs the workers, for people.
        io_uring: whether the workers use it: ``on``, ``off``, or why there is none.
    """

    version: str
    started_at: float
    now: float
    engine: str
    workers: int
    worker_restarts: int
    listeners: tuple[ListenerStatus, ...]
    pools: tuple[PoolStatus, ...]
    ends: dict[str, int]
    lost_reports: int
    is_draining: bool = False
    access_log: AccessLogStatus | None = None
    worker_python: str = ""
    io_uring: str = ""


class View(Protocol):
    """What the admin server needs of the balancer."""

    def status(self) -> Status:
        """Everything but sessions and clients; cheap, never waits."""

    def statistics(self) -> Statistics:
        """What the engine counts, distributions included; cheap, never waits."""

    def processes(self) -> Mapping[str, int]:
        """Process ids by name: ``control``, and those of the engine (``relay 0``)."""

    async def sessions(self) -> list[SessionInfo]:
        """The live sessions."""

    async def clients(self) -> list[ClientStatus]:
        """The live clients, most sessions first."""
