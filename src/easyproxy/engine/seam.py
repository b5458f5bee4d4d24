"""The one seam between control and data: what an engine is asked, and what it tells.

Downwards go whole snapshots, upwards observations, ended sessions and counters. Control imports this module and
never the inside of an engine; an engine imports this module and never control, health, config or admin.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from easyproxy.model import Snapshot


class Outcome(StrEnum):
    """What one look at a backend found."""

    SUCCESS = "success"
    REFUSED = "refused"  # nobody listens, or the network says unreachable
    TIMEOUT = "timeout"
    RESET = "reset"  # the connection broke before the backend's first byte
    FAILED = "failed"  # it answered, but not as it should


@dataclass(frozen=True, slots=True)
class Facts:
    """What a probe has learnt of a server besides that it is well. Engines pass it on and never look at it.

    Attributes:
        role: ``primary`` (it takes writes), ``replica``, or empty where the check does not know.
        lag_s: how far a replica is behind, in seconds; infinite when it does not follow any more, negative when that is not
            known, and for a primary.
        version: of the server, for people.
        timeline: which history of writes a PostgreSQL server follows; a later one wins. 0 where there is no such thing.
        notes: further pairs of a word and what it is, for people: the position, the state of a cluster.
    """

    role: str = ""
    lag_s: float = -1.0
    version: str = ""
    timeline: int = 0
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def lag_words(self) -> str:
        """How far a replica is behind, for people.

        >>> [Facts("replica", lag_s).lag_words for lag_s in (0.0, 7.25, 12.0, 90000.5)]
        ['up to date', '7.2 s behind', '12 s behind', '90000 s behind']
        >>> [Facts("replica", lag_s).lag_words for lag_s in (-1.0, float("inf"))]
        ['lag unknown', 'does not follow its primary']
        """
        if self.lag_s < 0:
            return "lag unknown"
        if self.lag_s == float("inf"):
            return "does not follow its primary"
        if self.lag_s < 0.05:
            return "up to date"
        return f"{self.lag_s:.{0 if self.lag_s >= 100 or self.lag_s == int(self.lag_s) else 1}f} s behind"


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a backend: from a probe, or from live traffic.

    Attributes:
        backend: the backend's ``id``.
        outcome: what was seen.
        detail: the same in words, for an operator.
        at: seconds since the epoch.
        duration_s: how long it took; 0 where that says nothing.
        facts: what else was learnt; None where nobody asked, or the probe failed.
    """

    backend: str
    outcome: Outcome
    detail: str
    at: float
    duration_s: float = 0.0
    facts: Facts | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A candidate that was passed over for a session: ``why`` in words (refused, full, timed out)."""

    backend: str
    why: str


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a session ended. Bytes are those handed to the other side.

    The sink is told of sessions that broke; whoever wants every session asks for it (``Engine.tell_every_session``).

    Attributes:
        started_at: when the client was accepted, in seconds since the epoch.
        connect_s: from accept until a backend stood; negative where none was reached.
        tried: candidates that were passed over before, in order.
    """

    id: str
    listener: str
    backend: str  # id, or "" where none was reached
    client: str
    reason: str  # docs/lexicon.md, "Why a session ended"
    age_s: float
    bytes_from_client: int
    bytes_from_backend: int
    detail: str = ""
    started_at: float = 0.0
    connect_s: float = -1.0
    tried: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One live session, on demand. Times in seconds; ``connect_s`` is negative while no backend stands.

    Attributes:
        transaction: where the pool has ``drain: between_transactions``, whether one is open: ``none``, ``open``, ``busy`` (a
            request or the login is under way), or ``unknown: `` and why; else empty.
    """

    id: str
    listener: str
    backend: str
    client: str
    state: str
    age_s: float
    idle_s: float
    bytes_from_client: int
    bytes_from_backend: int
    worker: int
    engine: str = "relay"
    connect_s: float = -1.0
    tried: tuple[Attempt, ...] = ()
    transaction: str = ""


@dataclass(frozen=True, slots=True)
class Distribution:
    """How often a value lay in which range. Only grows.

    Attributes:
        bounds: upper ends of the ranges, ascending; the last range has none.
        counts: one more than ``bounds``.
        sum: of all values.
    """

    bounds: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sum: float = 0.0

    def percentile(self, share: float) -> float:
        """Return the upper end of the range in which the ``share`` (0 to 1) of all values lies; 0 without any.

        >>> Distribution((1.0, 2.0), (1, 8, 1)).percentile(0.5)
        2.0
        """
        total = sum(self.counts)
        if not total or not self.bounds:
            return 0.0
        seen = 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            seen += count
            if seen >= share * total:
                return bound
        return self.bounds[-1]


@dataclass(frozen=True, slots=True)
class BackendDistributions:
    """Of the sessions of one backend: time to connect and length in seconds, bytes each way."""

    connect_s: Distribution = field(default_factory=Distribution)
    length_s: Distribution = field(default_factory=Distribution)
    bytes_from_client: Distribution = field(default_factory=Distribution)
    bytes_from_backend: Distribution = field(default_factory=Distribution)


@dataclass(frozen=True, slots=True)
class ListenerCounters:
    """Counters of one listener over all workers; all but ``sessions`` only grow."""

    sessions: int = 0
    accepted: int = 0
    refused: int = 0  # at max_sessions with overload: refuse, or by client_rate
    no_backend: int = 0
    accept_errors: int = 0


@dataclass(frozen=True, slots=True)
class BackendCounters:
    """Counters of one backend over all workers; all but ``sessions`` only grow."""

    sessions: int = 0
    total: int = 0
    bytes_from_client: int = 0
    bytes_from_backend: int = 0
    connect_errors: int = 0  # refused, unreachable, timed out, not greeted
    local_errors: int = 0  # EADDRNOTAVAIL and the like: ours, never the backend's fault
    client_resets: int = 0
    backend_resets: int = 0
    timeouts: int = 0
    retries: int = 0  # sessions that reached another backend after this one failed


@dataclass(frozen=True, slots=True)
class Statistics:
    """Everything that an engine counts: by listener name and by backend id.

    ``queued`` is by pool: clients that wait for a free place, or are held. ``ends`` is by reason, over all sessions.
    ``lost_reports`` counts session ends that a worker could not hand over.
    """

    listeners: Mapping[str, ListenerCounters] = field(default_factory=dict)
    backends: Mapping[str, BackendCounters] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    ends: Mapping[str, int] = field(default_factory=dict)
    workers: int = 0
    worker_restarts: int = 0
    lost_reports: int = 0
    distributions: Mapping[str, BackendDistributions] = field(default_factory=dict)  # by backend id
    worker_python: str = ""  # which Python runs the workers, for people
    io_uring: str = ""  # whether the workers use it: on, off, or why there is none


@dataclass(frozen=True, slots=True)
class Where:
    """Which sessions: every given field must match. An empty one matches all."""

    backend: str = ""
    client: str = ""  # address without port
    listener: str = ""
    id: str = ""


class Ends(Protocol):
    """Sessions that ended, in order. They become SessionEnds only when walked, which any thread may do, once or often."""

    def __len__(self) -> int:
        """How many."""

    def __iter__(self) -> Iterator[SessionEnd]:
        """One after the other."""


CUTS = ("operator", "backend_down", "failover", "lagging", "drained")
"""Reasons for which sessions are closed on demand."""

Report = Observation | SessionEnd
Sink = Callable[[Report], None]
EndsTaker = Callable[[Ends], None]


class Engine(Protocol):
    """A data plane. Its reports go to the :data:`Sink` of :meth:`start`, in the control process's event loop."""

    name: str
    strategies: frozenset[str]
    """Names of strategies that it can express; a configuration with others is refused before serving."""

    async def start(self, sink: Sink) -> None:
        """Make ready to take snapshots. Raises EngineError where the platform lacks something."""

    def apply(self, snapshot: Snapshot) -> None:
        """Take over the snapshot as a whole; applying the same one again changes nothing.

        Raises EngineError (an address in use, ...), and then the former snapshot stays in force.
        """

    async def settled(self) -> None:
        """Return when the snapshot that was applied last is acted by everywhere, or when somebody does not answer in time."""

    def addresses(self) -> Mapping[str, str]:
        """Where each listener (by name) really listens, with the port that the system chose."""

    def statistics(self) -> Statistics:
        """Read the counters; asks no worker and never waits."""

    def process_ids(self) -> Mapping[str, int]:
        """Process ids of its own processes, by name; empty when it has none."""

    async def sessions(self) -> list[SessionInfo]:
        """List the live sessions."""

    async def recent_ends(self, where: Where) -> list[SessionEnd]:
        """List the sessions that ended last, clean ends too, oldest first: about a thousand for each worker."""

    def tell_every_session(self, taker: EndsTaker | None) -> None:
        """Hand every session that ends to ``taker``, in batches in the control process's event loop; None ends that.

        The sink goes on being told of those that broke. What could not be handed over is in ``lost_reports``.
        """

    async def stacks(self) -> Mapping[str, str]:
        """What every worker is doing: its name to the stacks of its threads, or to why there are none."""

    async def close_sessions(self, where: Where, reason: str = "operator") -> int:
        """Close the sessions that match, both sides, and return how many. ``reason`` is one of ``CUTS``, else ValueError."""

    async def drain(self, deadline_s: float) -> None:
        """Take no new sessions, wait until the last has ended, at the deadline close the rest."""

    async def stop(self) -> None:
        """End at once, with everything it owns."""


@runtime_checkable
class HandsOver(Protocol):
    """What an engine offers beyond :class:`Engine` when its sessions can go on in another process (an upgrade).

    The old program calls ``give``, then ``thaw`` or ``leave``; the new one, whose engine was made to sleep until then,
    ``adopt`` and ``wake``. *Links* are descriptors of socket pairs from a worker of one to a worker of the other.
    """

    @property
    def can_hand_over(self) -> bool:
        """Whether it can, as it was made."""

    @property
    def worker_count(self) -> int:
        """How many workers there are to be."""

    def totals(self) -> Any:  # noqa: ANN401 - the engine's own, for its successor
        """All that was counted."""

    def session_count(self) -> int:
        """How many sessions there are."""

    def legacy(self) -> list[tuple[dict[str, Any], list[int]]]:
        """What a successor's engine begins with: frames with descriptors that stay the engine's."""

    def keys(self) -> list[str]:
        """Names of everything that a session may refer to."""

    async def give(self, links: Sequence[int], within_s: float) -> int:
        """Stand still and give every session; return how many. Raises EngineError."""

    async def thaw(self) -> int:
        """Go on with every session that the successor has not taken; return how many those are."""

    async def leave(self, dropped: Collection[str]) -> int:
        """End the workers; the successor has everything but these listeners. Return how many sessions have stayed."""

    def dropped(self) -> list[str]:
        """Names of the predecessor's listeners that the snapshot does not have."""

    async def adopt(self, links: Sequence[int], keys: Sequence[str], within_s: float) -> int:
        """Take sessions in, without touching them; return how many. Raises EngineError."""

    async def wake(self, totals: Any) -> int:  # noqa: ANN401 - the engine's own, from its predecessor
        """Begin; return how many sessions have come along. ``totals`` are what the predecessor had counted."""
