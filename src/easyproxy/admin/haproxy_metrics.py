"""The metrics of HAProxy's built-in Prometheus exporter that EasyProxy can give: same names, types and labels.

A dashboard made for HAProxy then shows a balancer as it showed the old one. What is not measured here is not exported. The
words (states, checks) follow from :mod:`.haproxy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from easyproxy.admin.exposition import Kind, Metric, Moment, Row
from easyproxy.admin.haproxy import bytes_of, check_status, serving, state
from easyproxy.control.status import BackendStatus, ListenerStatus, PoolStatus

Read = Callable[[Moment], Iterable[Row]]
_PROXY, _SERVER = ("proxy",), ("proxy", "server")
_STATES = ("DOWN", "UP", "MAINT", "DRAIN", "NOLB")
_CHECK_WORDS = (
    "HANA SOCKERR L4OK L4TOUT L4CON L6OK L6TOUT L6RSP L7TOUT L7RSP L7OK L7OKC L7STS PROCERR PROCTOUT PROCOK"
)
_CHECKS = tuple(_CHECK_WORDS.split())


def _frontends(read: Callable[[ListenerStatus], float]) -> Read:
    return lambda now: (((one.name,), read(one)) for one in now.status.listeners)


def _frontend_bytes(direction: int) -> Read:
    def rows(now: Moment) -> Iterator[Row]:
        for listener in now.status.listeners:
            if (known := bytes_of(now.status, listener)) is not None:
                yield (listener.name,), known[direction]

    return rows


def _pools(read: Callable[[PoolStatus], float]) -> Read:
    return lambda now: (((one.name,), read(one)) for one in now.status.pools)


def _sums(read: Callable[[BackendStatus], float]) -> Read:
    return _pools(lambda pool: sum(read(backend) for backend in pool.backends))


def _servers(read: Callable[[BackendStatus], float]) -> Read:
    return lambda now: (
        ((pool.name, one.name), read(one)) for pool in now.status.pools for one in pool.backends
    )


def _ready(pool: PoolStatus) -> list[BackendStatus]:
    return [backend for backend in pool.backends if backend.state == "ready"]


def _frontend_states(now: Moment) -> Iterator[Row]:
    for listener in now.status.listeners:
        yield (listener.name, "DOWN"), 0
        yield (listener.name, "UP"), 1


def _pool_states(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        is_up = bool(_ready(pool))
        yield (pool.name, "DOWN"), float(not is_up)
        yield (pool.name, "UP"), float(is_up)


def _server_states(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        for backend in pool.backends:
            for word in _STATES:
                yield (pool.name, backend.name, word), float(state(backend) == word)


def _counted_states(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        for word in _STATES:
            yield (pool.name, word), sum(state(backend) == word for backend in pool.backends)


def _server_checks(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        for backend in pool.backends:
            seen = check_status(pool, backend)
            for word in _CHECKS:
                yield (pool.name, backend.name, word), float(seen == word)


def _check_times(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        for backend in pool.backends:
            if check_status(pool, backend) and backend.last_probe:
                yield (pool.name, backend.name), backend.last_probe.duration_s


def _changes(now: Moment) -> Iterator[Row]:
    for pool in now.status.pools:
        for backend in pool.backends:
            if backend.since:
                yield (pool.name, backend.name), max(0, int(now.status.now - backend.since))


def _table(
    kind: Kind, prefix: str, labels: tuple[str, ...], rows: dict[str, tuple[str, Read]]
) -> list[Metric]:
    return [Metric(f"{prefix}_{name}", kind, text, labels, read) for name, (text, read) in rows.items()]


_PROCESS = [
    *_table(
        Kind.GAUGE,
        "haproxy_process",
        (),
        {
            "nbthread": ("Workers.", lambda now: [((), now.status.workers)]),
            "uptime_seconds": (
                "Seconds since the start.",
                lambda now: [((), int(now.status.now - now.status.started_at))],
            ),
            "start_time_seconds": (
                "Start, in seconds since the epoch.",
                lambda now: [((), int(now.status.started_at))],
            ),
            "current_connections": (
                "Sessions of all listeners now.",
                lambda now: [((), sum(one.counters.sessions for one in now.status.listeners))],
            ),
        },
    ),
    *_table(
        Kind.COUNTER,
        "haproxy_process",
        (),
        {
            "connections_total": (
                "Clients accepted by all listeners.",
                lambda now: [((), sum(one.counters.accepted for one in now.status.listeners))],
            ),
        },
    ),
]

_FRONTEND = [
    *_table(
        Kind.GAUGE,
        "haproxy_frontend",
        _PROXY,
        {
            "current_sessions": ("Sessions now.", _frontends(lambda one: one.counters.sessions)),
            "limit_sessions": (
                "Sessions allowed; 0 is no limit.",
                _frontends(lambda one: one.max_sessions),
            ),
        },
    ),
    Metric(
        "haproxy_frontend_status", Kind.GAUGE, "State of the listener.", (*_PROXY, "state"), _frontend_states
    ),
    *_table(
        Kind.COUNTER,
        "haproxy_frontend",
        _PROXY,
        {
            "sessions_total": ("Clients accepted.", _frontends(lambda one: one.counters.accepted)),
            "connections_total": ("Clients accepted.", _frontends(lambda one: one.counters.accepted)),
            "bytes_in_total": (
                "Bytes from clients; only where one listener alone serves a pool.",
                _frontend_bytes(0),
            ),
            "bytes_out_total": (
                "Bytes from backends; only where one listener alone serves a pool.",
                _frontend_bytes(1),
            ),
        },
    ),
]

_COUNTED: dict[str, tuple[str, Callable[[BackendStatus], float]]] = {
    "sessions_total": ("Sessions that were started.", lambda one: one.counters.total),
    "loadbalanced_total": ("Sessions that were started.", lambda one: one.counters.total),
    "bytes_in_total": ("Bytes from clients.", lambda one: one.counters.bytes_from_client),
    "bytes_out_total": ("Bytes from backends.", lambda one: one.counters.bytes_from_backend),
    "connection_errors_total": ("Attempts to connect that failed.", lambda one: one.counters.connect_errors),
    "connection_attempts_total": (
        "Attempts to connect.",
        lambda one: one.counters.total + one.counters.connect_errors,
    ),
    "redispatch_warnings_total": (
        "Sessions that reached another backend after this one failed.",
        lambda one: one.counters.retries,
    ),
    "client_aborts_total": ("Sessions reset by the client.", lambda one: one.counters.client_resets),
    "server_aborts_total": ("Sessions reset by the backend.", lambda one: one.counters.backend_resets),
}

_BACKEND = [
    *_table(
        Kind.GAUGE,
        "haproxy_backend",
        _PROXY,
        {
            "current_queue": ("Clients that wait for a free place.", _pools(lambda pool: pool.queued)),
            "current_sessions": ("Sessions now.", _sums(lambda one: one.counters.sessions)),
            "weight": (
                "Weights in force of the backends that get new sessions.",
                _pools(lambda pool: sum(one.effective_weight for one in serving(pool))),
            ),
            "uweight": (
                "Weights of the backends that get new sessions.",
                _pools(lambda pool: sum(one.weight for one in serving(pool))),
            ),
            "active_servers": (
                "Ready backends.",
                _pools(lambda pool: sum(not one.backup for one in _ready(pool))),
            ),
            "backup_servers": (
                "Ready backups.",
                _pools(lambda pool: sum(one.backup for one in _ready(pool))),
            ),
        },
    ),
    Metric("haproxy_backend_status", Kind.GAUGE, "State of the pool.", (*_PROXY, "state"), _pool_states),
    Metric(
        "haproxy_backend_agg_server_status",
        Kind.GAUGE,
        "Backends by state.",
        (*_PROXY, "state"),
        _counted_states,
    ),
    *_table(
        Kind.COUNTER,
        "haproxy_backend",
        _PROXY,
        {name: (text, _sums(read)) for name, (text, read) in _COUNTED.items()},
    ),
]

_OF_SERVERS = [
    *_table(
        Kind.GAUGE,
        "haproxy_server",
        _SERVER,
        {
            "current_sessions": ("Sessions now.", _servers(lambda one: one.counters.sessions)),
            "used_connections_current": ("Sessions now.", _servers(lambda one: one.counters.sessions)),
            "limit_sessions": ("Sessions allowed; 0 is no limit.", _servers(lambda one: one.max_sessions)),
            "weight": ("The weight in force.", _servers(lambda one: one.effective_weight)),
            "uweight": ("The weight.", _servers(lambda one: one.weight)),
            "check_last_change_seconds": ("Seconds since the state changed.", _changes),
            "check_duration_seconds": ("How long the last probe took.", _check_times),
        },
    ),
    Metric("haproxy_server_status", Kind.GAUGE, "State of the backend.", (*_SERVER, "state"), _server_states),
    Metric("haproxy_server_check_status", Kind.GAUGE, "The last probe.", (*_SERVER, "state"), _server_checks),
    *_table(
        Kind.COUNTER,
        "haproxy_server",
        _SERVER,
        {name: (text, _servers(read)) for name, (text, read) in _COUNTED.items()},
    ),
]

HAPROXY_METRICS = (*_PROCESS, *_FRONTEND, *_BACKEND, *_OF_SERVERS)
