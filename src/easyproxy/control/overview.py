"""The status of the whole balancer, put together from the registry and the engine's counters. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from easyproxy.control.compose import burst_of, rise
from easyproxy.control.failover import Post
from easyproxy.control.roles import PRIMARY, REPLICA, uses_of
from easyproxy.control.status import (
    BackendStatus,
    ClientStatus,
    ListenerStatus,
    PoolStatus,
    ProbeStatus,
    Status,
    WritesStatus,
)
from easyproxy.engine.seam import BackendCounters, BackendDistributions, Facts, ListenerCounters
from easyproxy.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from easyproxy.control.operations import Override
    from easyproxy.control.registry import Entry, Registry
    from easyproxy.engine.seam import SessionInfo, Statistics


_NO_FACTS = Facts()


def overview(
    registry: Registry,
    statistics: Statistics,
    addresses: Mapping[str, str],
    *,
    engine: str,
    started_at: float,
    now: float,
    clock: float,
    overrides: Iterable[Override] = (),
    posts: Mapping[str, Post] = MappingProxyType({}),
    is_draining: bool = False,
) -> Status:
    """Put together everything at one moment; ``now`` since the epoch, ``clock`` of the registry's clock."""
    config = registry.config
    laid: dict[str, tuple[str, ...]] = {}
    for override in overrides:
        laid[override.backend] = (*laid.get(override.backend, ()), override.id)
    entries: dict[str, list[Entry]] = {}
    for entry in registry.entries.values():
        entries.setdefault(entry.pool, []).append(entry)
    return Status(
        version=__version__,
        started_at=started_at,
        now=now,
        engine=engine,
        workers=statistics.workers,
        worker_restarts=statistics.worker_restarts,
        worker_python=statistics.worker_python,
        io_uring=statistics.io_uring,
        listeners=tuple(
            ListenerStatus(
                name=listener.name,
                address=addresses.get(listener.name, str(listener.bind)),
                pool=listener.pool,
                max_sessions=listener.max_sessions,
                counters=statistics.listeners.get(listener.name, ListenerCounters()),
                engine=listener.engine,
                role=listener.role or "",
                fallback=listener.fallback or "",
                client_rate=str(listener.client_rate or ""),
                client_burst=burst_of(listener),
            )
            for listener in config.listeners
        ),
        pools=tuple(
            PoolStatus(
                name=name,
                strategy=pool.strategy,
                check=_check_words(pool.check.type, pool.check.interval),
                queued=sum(statistics.queued.get(use.name, 0) for use in uses_of(name, config.listeners)),
                backends=tuple(
                    _backend(
                        registry, entry, statistics, clock, laid.get(entry.id, ()), posts.get(name, _NO_POST)
                    )
                    for entry in entries.get(name, ())
                ),
                writes=_writes(name, posts, statistics),
                drain=pool.drain.when,
                drain_deadline_s=pool.drain.deadline,
            )
            for name, pool in config.pools.items()
        ),
        ends=dict(statistics.ends),
        lost_reports=statistics.lost_reports,
        is_draining=is_draining,
    )


_NO_POST = Post()


def _writes(pool: str, posts: Mapping[str, Post], statistics: Statistics) -> WritesStatus | None:
    post = posts.get(pool)
    if post is None:
        return None
    held = statistics.queued.get(f"{pool}/{PRIMARY}", 0)
    return WritesStatus(post.writers, post.since, post.why, post.is_split, held)


def _check_words(kind: str, interval_s: float) -> str:
    return "no check" if kind == "none" else f"{kind} every {interval_s:g} s"


def _backend(
    registry: Registry,
    entry: Entry,
    statistics: Statistics,
    clock: float,
    overrides: tuple[str, ...],
    post: Post,
) -> BackendStatus:
    verdict, config, facts = entry.verdict, entry.config, entry.facts or _NO_FACTS
    last = verdict.last
    connect = statistics.distributions.get(entry.id, BackendDistributions()).connect_s
    share = rise(registry.standing(entry.id), registry.config.pools[entry.pool].slow_start, clock)
    return BackendStatus(
        id=entry.id,
        name=config.name,
        address=str(entry.address or config.address),
        state=entry.state,
        since=entry.since,
        reason=entry.reason,
        weight=config.weight,
        effective_weight=round(config.weight * share, 2),
        max_sessions=config.max_sessions,
        backup=config.backup,
        last_probe=None
        if last is None
        else ProbeStatus(last.at, last.outcome.value, last.detail, last.duration_s),
        last_error=verdict.last_error,
        last_error_at=verdict.last_error_at,
        counters=statistics.backends.get(entry.id, BackendCounters()),
        is_healthy=entry.is_healthy,
        connect_p50_s=connect.percentile(0.5),
        connect_p95_s=connect.percentile(0.95),
        connect_p99_s=connect.percentile(0.99),
        overrides=overrides,
        role=facts.role,
        role_since=entry.role_since,
        takes_writes=entry.id in post.writers,
        is_rival=entry.id in post.rivals,
        lag_s=facts.lag_s if 0 <= facts.lag_s < float("inf") else None,
        lag=facts.lag_words if facts.role == REPLICA else "",
        is_lagging=entry.is_lagging,
        server_version=facts.version,
        timeline=facts.timeline,
        notes=facts.notes,
    )


def host_of(client: str) -> str:
    """Take the port from the text of a client's address.

    >>> host_of("10.0.0.9:5"), host_of("[fd00::1]:5"), host_of("unix")
    ('10.0.0.9', 'fd00::1', 'unix')
    """
    return client.rpartition(":")[0].strip("[]") or client


def clients_of(sessions: Iterable[SessionInfo]) -> list[ClientStatus]:
    """Add up live sessions by client address, most sessions first."""
    totals: dict[str, list[int]] = {}
    for session in sessions:
        total = totals.setdefault(host_of(session.client), [0, 0, 0])
        total[0] += 1
        total[1] += session.bytes_from_client
        total[2] += session.bytes_from_backend
    return sorted(
        (ClientStatus(address, *total) for address, total in totals.items()),
        key=lambda client: (-client.sessions, client.address),
    )
