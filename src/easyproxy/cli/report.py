"""What ``easyproxy status`` says: from the admin server's answers to lines for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import click

from easyproxy.cli.text import counted, fitted, latency, printable, size, span, table
from easyproxy.control.wording import why

Json = dict[str, Any]

_COLOURS = {
    "ready": "green",
    "ok": "green",
    "down": "red",
    "critical": "red",
    "warning": "yellow",
    "checking": "blue",
    "draining": "yellow",
    "maintenance": "yellow",
}
_SYMBOLS = {
    "ready": "✓",
    "ok": "✓",
    "down": "✗",
    "critical": "✗",
    "warning": "!",
    "checking": "…",
    "draining": "↓",
    "maintenance": "‖",
}
_ASCII = {"✓": "+", "✗": "x", "…": "~", "↓": "v", "‖": "="}
_INDENT = "  "
_HEADINGS = (
    "STATE",
    "FOR",
    "BACKEND",
    "ADDRESS",
    "SESSIONS",
    "SERVED",
    "FROM/TO CLIENTS",
    "ERRORS",
    "PROBE",
    "WHY",
)
_SPARE = ("FROM/TO CLIENTS", "SERVED", "PROBE")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the admin server said: ``/api/status``, ``/api/clients``, ``/api/sessions``."""

    status: Json
    clients: list[Json]
    sessions: list[Json]


def is_served(status: Json) -> bool:
    """Whether every pool has a ready backend."""
    return all(any(backend["state"] == "ready" for backend in pool["backends"]) for pool in status["pools"])


def report(
    answers: Answers, *, rows: int | None = 10, ascii_only: bool = False, width: int | None = None
) -> Iterator[str]:
    """Yield the lines, with colours; whoever prints them strips those where they are not wanted.

    Args:
        answers: what is shown.
        rows: how many clients and sessions are listed; None is all.
        ascii_only: for terminals without Unicode.
        width: columns of the terminal; where they are few, what can be done without is left out. None is without end.
    """
    lines = _lines(answers, rows, width and width - len(_INDENT))
    yield from (_to_ascii(line) for line in lines) if ascii_only else lines


def _to_ascii(line: str) -> str:
    for symbol, plain in _ASCII.items():
        line = line.replace(symbol, plain)
    return line.encode("ascii", "replace").decode()


def _lines(answers: Answers, rows: int | None, width: int | None) -> Iterator[str]:
    status = answers.status
    yield from _headline(status)
    for pool in status["pools"]:
        yield ""
        yield from _pool(pool, status["now"], width)
    yield ""
    yield click.style("Listeners", bold=True)
    yield from _indented(_listeners(status["listeners"]))
    yield from _section("Clients", answers.clients, rows, client_table)
    yield from _section("Sessions", answers.sessions, rows, partial(session_table, width=width))


def _headline(status: Json) -> Iterator[str]:
    headline = status["headline"]
    symbol = _SYMBOLS.get(headline["level"], "?")
    yield click.style(
        f"{symbol} {printable(headline['title'])}", bold=True, fg=_COLOURS.get(headline["level"])
    )
    yield _INDENT + printable(headline["detail"])
    parts = [f"{status['engine']} engine"]
    if status["workers"]:
        parts.append(counted(status["workers"], "worker"))
    if status["worker_restarts"]:
        parts.append(f"{counted(status['worker_restarts'], 'worker')} restarted")
    parts += [f"up {span(status['now'] - status['started_at'])}", f"version {status['version']}"]
    yield click.style(_INDENT + printable(", ".join(parts)), dim=True)


def _pool(pool: Json, now: float, width: int | None) -> Iterator[str]:
    ready = len([backend for backend in pool["backends"] if backend["state"] == "ready"])
    about = [f"{ready} of {len(pool['backends'])} ready", pool["strategy"]]
    if pool["check"]:
        about.append(f"check: {pool['check']}")
    if pool["queued"]:
        about.append(f"{counted(pool['queued'], 'client')} waiting")
    if (writes := pool.get("writes")) is not None:
        who = " and ".join(name.partition("/")[2] for name in writes["writers"])
        about.append(f"writes go to {who}" if who else f"no writes: {writes['why']}")
    yield click.style(f"Pool {printable(pool['name'])}", bold=True) + "  " + printable(", ".join(about))
    headings: list[str] = [*_HEADINGS]
    rows = [list(_backend(backend, now)) for backend in pool["backends"]]
    right = {1, 4, 5, 6, 7, 8}
    if any(backend.get("role") for backend in pool["backends"]):
        right = {1, 5, 6, 7, 8, 9}
        headings.insert(4, "ROLE")
        for row, backend in zip(rows, pool["backends"], strict=True):
            row.insert(4, _role(backend))
    # A name is its address where the file gives none.
    twice = all(backend["name"] == backend["address"] for backend in pool["backends"])
    spare = (*(("ADDRESS",) if twice else ()), *_SPARE, "ADDRESS")
    yield from _indented(fitted(headings, rows, right=frozenset(right), spare=spare, width=width))
    for backend in pool["backends"]:
        if backend["last_error"]:
            ago = span(now - backend["last_error_at"])
            yield click.style(
                f"{_INDENT}last error of {printable(backend['name'])}, {ago} ago: {printable(backend['last_error'])}",
                dim=True,
            )


def _role(backend: Json) -> str:
    """``primary, writes``, ``replica, 7.2 s behind``: what it says that it is, and whether that is good."""
    parts = [backend["role"] or "-"]
    if backend["takes_writes"]:
        parts.append("writes")
    if backend["is_rival"]:
        parts.append("no writes")
    if backend["lag"]:
        parts.append(backend["lag"])
    text = printable(", ".join(parts))
    return click.style(text, fg="yellow") if backend["is_lagging"] or backend["is_rival"] else text


def _backend(backend: Json, now: float) -> tuple[str, ...]:
    counters = backend["counters"]
    errors = counters["connect_errors"] + counters["backend_resets"] + counters["timeouts"]
    probe = backend["last_probe"]
    state = backend["state"]
    name = printable(backend["name"]) + (" (backup)" if backend["backup"] else "")
    return (
        click.style(f"{_SYMBOLS.get(state, '?')} {printable(state)}", fg=_COLOURS.get(state)),
        span(now - backend["since"]),
        name,
        printable(backend["address"]),
        _limited(counters["sessions"], backend["max_sessions"]),
        str(counters["total"]),
        f"{size(counters['bytes_from_client'])} / {size(counters['bytes_from_backend'])}",
        click.style(str(errors), fg="red" if errors else None),
        latency(probe["duration_s"]) if probe else "-",
        printable(why_of(backend)),
    )


def why_of(backend: Json) -> str:
    """Say why a backend is in its state; of one that is well, what its newest probe found."""
    probe = backend["last_probe"] or {"outcome": "", "detail": ""}
    return why(backend["state"], backend["reason"], probe["outcome"], probe["detail"])


def _listeners(listeners: Sequence[Json]) -> list[str]:
    right = frozenset({3, 4, 5})
    rows: list[tuple[str, ...]] = [
        (
            printable(listener["name"]),
            printable(listener["address"]),
            printable(listener["pool"]) + _use(listener),
            _limited(listener["counters"]["sessions"], listener["max_sessions"]),
            str(listener["counters"]["accepted"]),
            str(listener["counters"]["refused"] + listener["counters"]["no_backend"]),
        )
        for listener in listeners
    ]
    head: tuple[str, ...] = ("LISTENER", "ADDRESS", "POOL", "SESSIONS", "ACCEPTED", "TURNED AWAY")
    # What is not usual has a column only where somebody has it.
    for name, key, usual in (("EACH CLIENT", "client_rate", ""), ("ENGINE", "engine", "relay")):
        values = [printable(listener.get(key, usual)) for listener in listeners]
        if set(values) != {usual}:
            head = (*head, name)
            rows = [(*row, value or "-") for row, value in zip(rows, values, strict=True)]
    # As where the file gives no names.
    if all(listener["name"] == listener["address"] for listener in listeners):
        head, rows, right = head[1:], [row[1:] for row in rows], frozenset({2, 3, 4})
    return table(head, rows, right=right)


def _use(listener: Json) -> str:
    """Say which servers of its pool a listener is for."""
    role, fallback = listener.get("role"), listener.get("fallback")
    if not role:
        return ""
    return f" ({role}, else {fallback})" if fallback else f" ({role})"


def client_table(clients: Sequence[Json]) -> list[str]:
    """Render clients as a table."""
    rows = [
        (
            printable(client["address"]),
            str(client["sessions"]),
            size(client["bytes_from_client"]),
            size(client["bytes_from_backend"]),
        )
        for client in clients
    ]
    return table(("ADDRESS", "SESSIONS", "SENT", "RECEIVED"), rows, right=frozenset({1, 2, 3}))


def session_table(sessions: Sequence[Json], *, width: int | None = None) -> list[str]:
    """Render live sessions as a table; whether a transaction is open where anybody follows that."""
    follows = any(session["transaction"] for session in sessions)
    rows = [
        (
            printable(session["id"]),
            printable(session["client"]),
            printable(session["listener"]),
            printable(session["backend"] or "-"),
            printable(session["state"]),
            span(session["age_s"]),
            span(session["idle_s"]),
            size(session["bytes_from_client"]),
            size(session["bytes_from_backend"]),
            *((printable(session["transaction"] or "-"),) if follows else ()),
        )
        for session in sessions
    ]
    headings: tuple[str, ...] = (
        "ID",
        "CLIENT",
        "LISTENER",
        "BACKEND",
        "STATE",
        "AGE",
        "IDLE",
        "SENT",
        "RECEIVED",
    )
    headings = (*headings, *(("TRANSACTION",) if follows else ()))
    return fitted(
        headings, rows, right=frozenset({5, 6, 7, 8}), spare=("LISTENER", "IDLE", "AGE"), width=width
    )


def _section(title: str, items: list[Json], rows: int | None, render: Any) -> Iterator[str]:  # noqa: ANN401 - a function
    yield ""
    yield click.style(title, bold=True) + f"  {len(items)}"
    if not items:
        return
    yield from _indented(render(items[:rows]))
    if rows is not None and len(items) > rows:
        yield click.style(f"{_INDENT}and {len(items) - rows} more; --all lists them", dim=True)


def _indented(lines: list[str]) -> Iterator[str]:
    return (_INDENT + line for line in lines)


def _limited(sessions: int, most: int) -> str:
    return f"{sessions}/{most}" if most else str(sessions)
