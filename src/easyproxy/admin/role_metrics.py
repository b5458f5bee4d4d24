"""The metrics of roles and failovers: who says what, who takes writes, how far replicas lag. Only pools whose check asks have them."""

from __future__ import annotations

from collections.abc import Iterator

from easyproxy.admin.exposition import Kind, Metric, Moment, Row

ROLES = ("primary", "replica")
"""Of a server, as in :class:`easyproxy.control.status.BackendStatus`."""


def _roles(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        for backend in pool.backends:
            if backend.role:
                for role in ROLES:
                    yield (pool.name, backend.name, role), float(backend.role == role)


def _lags(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        for backend in pool.backends:
            if backend.lag_s is not None:
                yield (pool.name, backend.name), backend.lag_s


def _lagging(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        for backend in pool.backends:
            if backend.role == "replica":
                yield (pool.name, backend.name), float(backend.is_lagging)


def _writers(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        if pool.writes is not None:
            for backend in pool.backends:
                yield (pool.name, backend.name), float(backend.takes_writes)


def _split(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        if pool.writes is not None:
            yield (pool.name,), float(pool.writes.is_split)


def _held(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        if pool.writes is not None:
            yield (pool.name,), pool.writes.held


def _since(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        if pool.writes is not None and pool.writes.since:
            yield (pool.name,), pool.writes.since


_OF_BACKEND = ("pool", "backend")
METRICS = (
    Metric(
        "easyproxy_backend_role",
        Kind.GAUGE,
        "1 for the role that the server says it has, 0 for the other.",
        (*_OF_BACKEND, "role"),
        _roles,
    ),
    Metric(
        "easyproxy_backend_lag_seconds",
        Kind.GAUGE,
        "How far a replica is behind; missing where that is not known, and where it does not follow at all.",
        _OF_BACKEND,
        _lags,
    ),
    Metric(
        "easyproxy_backend_lagging",
        Kind.GAUGE,
        "1 for a replica that is too far behind to serve.",
        _OF_BACKEND,
        _lagging,
    ),
    Metric(
        "easyproxy_backend_takes_writes",
        Kind.GAUGE,
        "1 for the server to which clients of listeners with role: primary go now.",
        _OF_BACKEND,
        _writers,
    ),
    Metric(
        "easyproxy_pool_split_brain",
        Kind.GAUGE,
        "1 while several servers say that they are the primary, and nothing decides between them.",
        ("pool",),
        _split,
    ),
    Metric(
        "easyproxy_pool_held_clients",
        Kind.GAUGE,
        "Clients that wait for a primary.",
        ("pool",),
        _held,
    ),
    Metric(
        "easyproxy_pool_writes_changed_timestamp_seconds",
        Kind.GAUGE,
        "When another server began to take writes, or none did, in seconds since the epoch.",
        ("pool",),
        _since,
    ),
)
