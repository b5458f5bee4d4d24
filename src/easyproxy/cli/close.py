"""``easyproxy close``: end sessions now, both sides."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.asking import ALL, EXIT_REFUSED, asks, authored, epilog_of
from easyproxy.cli.naming import BackendName, ListenerName, find_backend
from easyproxy.cli.text import counted

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker


@click.command(
    "close",
    epilog=epilog_of(
        "close 0.0.1234",
        "close --client 10.1.2.3 --why 'runaway job'",
        "close --backend db/10.0.0.1:3306 --yes",
    ),
)
@click.argument("session", required=False, default="")
@click.option(
    "--client", "client_address", metavar="ADDRESS", default="", help="All sessions of this client."
)
@click.option("--backend", type=BackendName(), default="", help="All sessions on this backend.")
@click.option("--listener", type=ListenerName(), default="", help="All sessions of this listener.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before closing several.")
@authored
@asks
def command(
    asker: Asker,
    *,
    session: str,
    client_address: str,
    backend: str,
    listener: str,
    yes: bool,
    author: dict[str, Any],
) -> None:
    """Close sessions by id, or those of a client, a backend, a listener; every condition given must match."""
    where: dict[str, Any] = {
        "id": session,
        "client": client_address,
        "backend": find_backend(asker, backend)["id"] if backend else "",
        "listener": listener,
    }
    if not any(where.values()):
        raise click.UsageError("say which: a session's id, --client, --backend or --listener")
    if not session and not yes and sys.stdin.isatty():
        rows = asker.get("/api/sessions", **where, limit=ALL)
        if rows and not click.confirm(f"Close {counted(len(rows), 'session')}?"):
            sys.exit(EXIT_REFUSED)
    answer = asker.post("/api/close", {**where, **author})
    asker.show(answer, [f"{counted(answer['closed'], 'session')} closed"])
    if not answer["closed"]:
        sys.exit(EXIT_REFUSED)
