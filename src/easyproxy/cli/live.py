"""Commands that list what goes on now: sessions, clients, events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli import client
from easyproxy.cli.asking import ALL, asks, epilog_of
from easyproxy.cli.naming import BackendName, ListenerName, find_backend, find_listener
from easyproxy.cli.report import client_table, session_table
from easyproxy.cli.text import printable, terminal_width

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

Json = dict[str, Any]

_COLOURS = {"warning": "yellow", "error": "red"}
_TELL_THEMSELVES = ("backend_", "override_", "trouble", "worker_")
"""Kinds of events whose text is a whole sentence about their subject."""
_PATIENCE_S = 30.0
"""A balancer that is upgraded or started again meanwhile is followed on."""


@click.command(
    "sessions", epilog=epilog_of("sessions", "sessions --client 10.1.2.3", "sessions --backend db/a --json")
)
@click.option("--client", "client_address", metavar="ADDRESS", default="", help="Only of this client.")
@click.option("--backend", type=BackendName(), default="", help="Only on this backend.")
@click.option("--listener", type=ListenerName(), default="", help="Only of this listener.")
@click.option("--limit", type=click.IntRange(1, ALL), default=100, show_default=True, help="At most so many.")
@asks
def sessions(asker: Asker, *, client_address: str, backend: str, listener: str, limit: int) -> None:
    """List the live sessions: who, where to, for how long, how many bytes."""
    where = find_backend(asker, backend)["id"] if backend else ""
    accepted_by = find_listener(asker, listener) if listener else ""
    rows = asker.get("/api/sessions", client=client_address, backend=where, listener=accepted_by, limit=limit)
    asker.show(
        rows,
        _rows_or(
            session_table(rows, width=terminal_width()) if rows else [], "No sessions.", len(rows), limit
        ),
    )


@click.command("clients", epilog=epilog_of("clients", "clients --limit 10 --json"))
@click.option("--limit", type=click.IntRange(1, ALL), default=100, show_default=True, help="At most so many.")
@asks
def clients(asker: Asker, *, limit: int) -> None:
    """List the clients with live sessions, most sessions first."""
    rows = asker.get("/api/clients", limit=limit)
    asker.show(rows, _rows_or(client_table(rows) if rows else [], "No clients.", len(rows), limit))


def _rows_or(lines: list[str], nothing: str, rows: int, limit: int) -> Iterator[str]:
    yield from lines or [nothing]
    if rows == limit:
        yield click.style(f"there may be more than {limit}; --limit shows them", dim=True)


@click.command("events", epilog=epilog_of("events", "events --follow", "events --limit 1000 --json"))
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many."
)
@click.option("--follow", "-f", is_flag=True, help="Go on and print events as they happen, until Ctrl-C.")
@asks
def events(asker: Asker, *, limit: int, follow: bool) -> None:
    """Tell what happened: every change of state with its cause, oldest first."""
    rows = asker.get("/api/events", limit=limit)
    if not follow:
        asker.show(rows, _rows_or([event_line(row) for row in rows], "Nothing has happened yet.", 0, limit))
        return
    seen: tuple[float, int] = (0.0, 0)  # ids start anew with the program, time does not
    for row in rows:
        seen = (row["at"], row["id"])
        _print(asker, row)
    with asker.failing():
        for kind, row in client.follow(asker.address, "/api/stream", asker.token, patience_s=_PATIENCE_S):
            if kind == "event" and (row["at"], row["id"]) > seen:
                _print(asker, row)


def _print(asker: Asker, row: Json) -> None:
    if asker.as_json:
        click.echo(json.dumps(row))
    else:
        click.echo(event_line(row))


def event_line(event: Json) -> str:
    """Render one event: local time, what it happened to, what happened, by whom."""
    what = (
        ""
        if event["kind"].startswith(_TELL_THEMSELVES)
        else f"{printable(event['kind']).replace('_', ' ')}: "
    )
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    text = what + printable(event["text"])
    author = event.get("author")
    if author and author["who"]:
        text += click.style(
            f"  ({printable(author['who'])}{': ' if author['why'] else ''}{printable(author['why'])})",
            dim=True,
        )
    subject = f"{printable(event['subject'])}: " if event["subject"] else ""
    return f"{click.style(when, dim=True)}  {click.style(subject + text, fg=_COLOURS.get(event['level']))}"
