"""The metrics of ``/metrics``: each with its name, what it says, and where it is read. One table, and its document.

``python -m easyproxy.admin.metrics docs/metrics.md`` renews the tables there. No metric has a label whose values clients can choose.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from easyproxy.admin import role_metrics
from easyproxy.admin.exposition import Kind, Metric, Moment, Row
from easyproxy.control.status import BackendStatus, ListenerStatus
from easyproxy.engine.seam import BackendDistributions, Distribution

STATES = ("ready", "down", "checking", "draining", "maintenance")
"""Of a backend, as in :class:`easyproxy.control.status.BackendStatus`."""
RELOADS = ("none", "applied", "refused", "confirmed", "rolled_back")
"""Outcomes of a reload, as in :class:`easyproxy.control.operations.ReloadState`."""

Read = Callable[[Moment], Iterable[Row]]


def _one(read: Callable[[Moment], float | None]) -> Read:
    def rows(moment: Moment) -> Iterator[Row]:
        if (value := read(moment)) is not None:
            yield (), value

    return rows


def _each_listener(read: Callable[[ListenerStatus], float]) -> Read:
    return lambda moment: (((one.name,), read(one)) for one in moment.status.listeners)


def _each_backend(read: Callable[[BackendStatus], float | None]) -> Read:
    def rows(moment: Moment) -> Iterator[Row]:
        for pool in moment.status.pools:
            for backend in pool.backends:
                if (value := read(backend)) is not None:
                    yield (pool.name, backend.name), value

    return rows


def _each_backend_and(*reads: tuple[str, Callable[[BackendStatus], float]]) -> Read:
    def rows(moment: Moment) -> Iterator[Row]:
        for pool in moment.status.pools:
            for backend in pool.backends:
                for label, read in reads:
                    yield (pool.name, backend.name, label), read(backend)

    return rows


def _each_distribution(
    *reads: tuple[tuple[str, ...], Callable[[BackendDistributions], Distribution]],
) -> Read:
    def rows(moment: Moment) -> Iterator[Row]:
        for pool in moment.status.pools:
            for backend in pool.backends:
                found = moment.distributions.get(backend.id)
                if found is None:
                    continue  # the engine does not measure it
                for labels, read in reads:
                    if read(found).counts:
                        yield (pool.name, backend.name, *labels), read(found)

    return rows


def _states(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        for backend in pool.backends:
            for state in STATES:
                yield (pool.name, backend.name, state), float(backend.state == state)


def _pool_states(moment: Moment) -> Iterator[Row]:
    for pool in moment.status.pools:
        for state in STATES:
            yield (pool.name, state), float(sum(backend.state == state for backend in pool.backends))


def _reloads(moment: Moment) -> Iterator[Row]:
    if moment.reload is not None:
        for outcome in RELOADS:
            yield (outcome,), float(moment.reload.outcome == outcome)


def _access_log(moment: Moment) -> Iterator[Row]:
    if (access_log := moment.status.access_log) is not None:
        yield ("written",), access_log.lines
        yield ("lost",), access_log.lost


def _probe_time(backend: BackendStatus) -> float | None:
    return backend.last_probe.duration_s if backend.last_probe else None


def _probe_at(backend: BackendStatus) -> float | None:
    return backend.last_probe.at if backend.last_probe else None


def _probe_success(backend: BackendStatus) -> float | None:
    return float(backend.last_probe.outcome == "success") if backend.last_probe else None


_BALANCER = (
    Metric(
        "easyproxy_build_info",
        Kind.GAUGE,
        "Always 1; the labels say which program this is.",
        ("version", "engine", "python"),
        lambda now: [((now.status.version, now.status.engine, platform.python_version()), 1.0)],
    ),
    Metric(
        "easyproxy_start_timestamp_seconds",
        Kind.GAUGE,
        "When the balancer started, in seconds since the epoch.",
        (),
        _one(lambda now: now.status.started_at),
    ),
    Metric(
        "easyproxy_workers", Kind.GAUGE, "Workers that serve now.", (), _one(lambda now: now.status.workers)
    ),
    Metric(
        "easyproxy_worker_restarts_total",
        Kind.COUNTER,
        "Workers that died and were replaced; each death cost the sessions of that worker.",
        (),
        _one(lambda now: now.status.worker_restarts),
    ),
    Metric(
        "easyproxy_session_ends_total",
        Kind.COUNTER,
        "Sessions that have ended, by reason (docs/sessions.md lists them).",
        ("reason",),
        lambda now: (((reason,), count) for reason, count in now.status.ends.items()),
    ),
    Metric(
        "easyproxy_lost_reports_total",
        Kind.COUNTER,
        "Ends of sessions that are counted, but could not be told to the log.",
        (),
        _one(lambda now: now.status.lost_reports),
    ),
    Metric(
        "easyproxy_access_log_lines_total",
        Kind.COUNTER,
        "Lines of the access log; `lost` could not be written.",
        ("outcome",),
        _access_log,
    ),
    Metric(
        "easyproxy_reload_outcome",
        Kind.GAUGE,
        "1 for the outcome of the last reload, 0 for the others.",
        ("outcome",),
        _reloads,
    ),
    Metric(
        "easyproxy_reload_timestamp_seconds",
        Kind.GAUGE,
        "When the last reload ended, in seconds since the epoch; 0 before the first.",
        (),
        _one(lambda now: now.reload.at if now.reload else None),
    ),
    Metric(
        "easyproxy_reload_confirm_until_timestamp_seconds",
        Kind.GAUGE,
        "When an unconfirmed reload goes back, in seconds since the epoch; 0 when none waits.",
        (),
        _one(lambda now: now.reload.confirm_until if now.reload else None),
    ),
)

_LISTENERS = (
    Metric(
        "easyproxy_listener_info",
        Kind.GAUGE,
        "Always 1; the labels say where it listens, which pool serves it, and with which engine.",
        ("listener", "address", "pool", "engine"),
        lambda now: (((one.name, one.address, one.pool, one.engine), 1.0) for one in now.status.listeners),
    ),
    Metric(
        "easyproxy_listener_sessions",
        Kind.GAUGE,
        "Sessions now.",
        ("listener",),
        _each_listener(lambda one: one.counters.sessions),
    ),
    Metric(
        "easyproxy_listener_max_sessions",
        Kind.GAUGE,
        "Sessions that are allowed at the same time; 0 is no limit.",
        ("listener",),
        _each_listener(lambda one: one.max_sessions),
    ),
    Metric(
        "easyproxy_listener_accepted_total",
        Kind.COUNTER,
        "Clients that were accepted.",
        ("listener",),
        _each_listener(lambda one: one.counters.accepted),
    ),
    Metric(
        "easyproxy_listener_refused_total",
        Kind.COUNTER,
        "Clients that were refused: at max_sessions (overload: refuse), or by client_rate.",
        ("listener",),
        _each_listener(lambda one: one.counters.refused),
    ),
    Metric(
        "easyproxy_listener_no_backend_total",
        Kind.COUNTER,
        "Clients that were turned away because no backend was ready.",
        ("listener",),
        _each_listener(lambda one: one.counters.no_backend),
    ),
    Metric(
        "easyproxy_listener_accept_errors_total",
        Kind.COUNTER,
        "Times that the system refused to give a client (out of descriptors, out of memory).",
        ("listener",),
        _each_listener(lambda one: one.counters.accept_errors),
    ),
)

_POOLS = (
    Metric(
        "easyproxy_pool_info",
        Kind.GAUGE,
        "Always 1; the labels say how a backend is chosen and checked.",
        ("pool", "strategy", "check"),
        lambda now: (((pool.name, pool.strategy, pool.check), 1.0) for pool in now.status.pools),
    ),
    Metric(
        "easyproxy_pool_queued",
        Kind.GAUGE,
        "Clients that wait for a free place, or are held.",
        ("pool",),
        lambda now: (((pool.name,), pool.queued) for pool in now.status.pools),
    ),
    Metric(
        "easyproxy_pool_backends",
        Kind.GAUGE,
        "Backends of the pool, by state. No backend ready means that clients are turned away.",
        ("pool", "state"),
        _pool_states,
    ),
)

_OF_BACKEND = ("pool", "backend")
_BACKENDS = (
    Metric(
        "easyproxy_backend_info",
        Kind.GAUGE,
        "Always 1; the labels say where it serves, and whether it is a backup.",
        (*_OF_BACKEND, "address", "backup"),
        lambda now: (
            ((pool.name, one.name, one.address, "true" if one.backup else "false"), 1.0)
            for pool in now.status.pools
            for one in pool.backends
        ),
    ),
    Metric(
        "easyproxy_backend_state",
        Kind.GAUGE,
        "1 for the state that it is in, 0 for the others.",
        (*_OF_BACKEND, "state"),
        _states,
    ),
    Metric(
        "easyproxy_backend_state_timestamp_seconds",
        Kind.GAUGE,
        "When it came into its state, in seconds since the epoch.",
        _OF_BACKEND,
        _each_backend(lambda one: one.since),
    ),
    Metric(
        "easyproxy_backend_overrides",
        Kind.GAUGE,
        "Changes by operators that lie over the configuration of the backend.",
        _OF_BACKEND,
        _each_backend(lambda one: len(one.overrides)),
    ),
    Metric(
        "easyproxy_backend_weight",
        Kind.GAUGE,
        "Share of new sessions relative to the other backends.",
        _OF_BACKEND,
        _each_backend(lambda one: one.weight),
    ),
    Metric(
        "easyproxy_backend_effective_weight",
        Kind.GAUGE,
        "The weight in force now: less than the weight during a slow start.",
        _OF_BACKEND,
        _each_backend(lambda one: one.effective_weight),
    ),
    Metric(
        "easyproxy_backend_sessions",
        Kind.GAUGE,
        "Sessions now.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.sessions),
    ),
    Metric(
        "easyproxy_backend_max_sessions",
        Kind.GAUGE,
        "Sessions that are allowed at the same time; 0 is no limit.",
        _OF_BACKEND,
        _each_backend(lambda one: one.max_sessions),
    ),
    Metric(
        "easyproxy_backend_sessions_started_total",
        Kind.COUNTER,
        "Sessions that it was chosen for and reached.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.total),
    ),
    Metric(
        "easyproxy_backend_bytes_total",
        Kind.COUNTER,
        "Bytes handed to the other side, by where they came from (client, backend).",
        (*_OF_BACKEND, "source"),
        _each_backend_and(
            ("client", lambda one: one.counters.bytes_from_client),
            ("backend", lambda one: one.counters.bytes_from_backend),
        ),
    ),
    Metric(
        "easyproxy_backend_connect_errors_total",
        Kind.COUNTER,
        "Attempts to connect that were refused, unreachable or timed out, or whose greeting did not come or turned the client away.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.connect_errors),
    ),
    Metric(
        "easyproxy_backend_local_errors_total",
        Kind.COUNTER,
        "Attempts to connect that failed on this machine (no free port, no memory): not the backend's fault.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.local_errors),
    ),
    Metric(
        "easyproxy_backend_resets_total",
        Kind.COUNTER,
        "Sessions that were reset, by the side that did it (client, backend).",
        (*_OF_BACKEND, "side"),
        _each_backend_and(
            ("client", lambda one: one.counters.client_resets),
            ("backend", lambda one: one.counters.backend_resets),
        ),
    ),
    Metric(
        "easyproxy_backend_timeouts_total",
        Kind.COUNTER,
        "Sessions that a time limit ended.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.timeouts),
    ),
    Metric(
        "easyproxy_backend_retries_total",
        Kind.COUNTER,
        "Sessions that reached another backend after this one failed.",
        _OF_BACKEND,
        _each_backend(lambda one: one.counters.retries),
    ),
    Metric(
        "easyproxy_backend_probe_success",
        Kind.GAUGE,
        "Whether the last observation (a probe, or live traffic) was a success; absent before the first.",
        _OF_BACKEND,
        _each_backend(_probe_success),
    ),
    Metric(
        "easyproxy_backend_probe_duration_seconds",
        Kind.GAUGE,
        "How long the last observation took; absent before the first.",
        _OF_BACKEND,
        _each_backend(_probe_time),
    ),
    Metric(
        "easyproxy_backend_probe_timestamp_seconds",
        Kind.GAUGE,
        "When the last observation was made, in seconds since the epoch; absent before the first.",
        _OF_BACKEND,
        _each_backend(_probe_at),
    ),
)

_DISTRIBUTIONS = (
    Metric(
        "easyproxy_session_connect_seconds",
        Kind.HISTOGRAM,
        "Time from accepting the client until the backend stood.",
        _OF_BACKEND,
        _each_distribution(((), lambda one: one.connect_s)),
    ),
    Metric(
        "easyproxy_session_length_seconds",
        Kind.HISTOGRAM,
        "From accepting the client to the end of the session.",
        _OF_BACKEND,
        _each_distribution(((), lambda one: one.length_s)),
    ),
    Metric(
        "easyproxy_session_bytes",
        Kind.HISTOGRAM,
        "Bytes of a session, by where they came from (client, backend).",
        (*_OF_BACKEND, "source"),
        _each_distribution(
            (("client",), lambda one: one.bytes_from_client),
            (("backend",), lambda one: one.bytes_from_backend),
        ),
    ),
)

_PROCESSES = (
    Metric(
        "easyproxy_process_cpu_seconds_total",
        Kind.COUNTER,
        "CPU time of the process, its own and the kernel's for it.",
        ("process",),
        lambda now: (((one.name,), one.cpu_s) for one in now.processes),
    ),
    Metric(
        "easyproxy_process_resident_memory_bytes",
        Kind.GAUGE,
        "Memory of the process that is resident.",
        ("process",),
        lambda now: (((one.name,), one.resident_bytes) for one in now.processes),
    ),
    Metric(
        "easyproxy_process_open_fds",
        Kind.GAUGE,
        "Open descriptors; a session takes two of its worker, four while bulk data moves.",
        ("process",),
        lambda now: (((one.name,), one.open_descriptors) for one in now.processes),
    ),
    Metric(
        "easyproxy_process_max_fds",
        Kind.GAUGE,
        "Descriptors that the process may open; 0 is no limit.",
        ("process",),
        lambda now: (((one.name,), one.max_descriptors) for one in now.processes),
    ),
)

GROUPS = {
    "The balancer": _BALANCER,
    "Listeners": _LISTENERS,
    "Pools": _POOLS,
    "Backends": _BACKENDS,
    "Roles and failovers": role_metrics.METRICS,
    "Distributions over sessions": _DISTRIBUTIONS,
    "Processes": _PROCESSES,
}
METRICS = tuple(metric for group in GROUPS.values() for metric in group)

_BEGIN, _END = "<!-- tables: begin -->", "<!-- tables: end -->"


def tables() -> str:
    """The document's tables, in Markdown."""
    lines = []
    for title, group in GROUPS.items():
        lines += [f"## {title}", "", "| metric | type | labels | says |", "|---|---|---|---|"]
        for metric in group:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |")
        lines.append("")
    return "\n".join(lines)


def document(text: str) -> str:
    """Put the tables between the marks of a document."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{tables()}\n{_END}{rest.partition(_END)[2]}"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(document(file.read_text()))
