"""``easyproxy status``: ask the running balancer, print what it says. How it looks is decided in :mod:`.report`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from easyproxy.cli.asking import ALL, asks, is_unicode
from easyproxy.cli.report import Answers, is_served, report
from easyproxy.cli.text import terminal_width

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

_EXAMPLES = """\b
Examples:
  easyproxy status
  easyproxy status --config /etc/easyproxy.yaml
  easyproxy status --admin unix:/run/easyproxy/admin.sock --json
  watch easyproxy status

\b
Exit status:
  0  every pool has a ready backend
  1  a pool has none
  2  the command was not right, or the token is missing or wrong
  3  the balancer does not answer
"""


@click.command("status", epilog=_EXAMPLES)
@click.option("--all", "show_all", is_flag=True, help="List every client and session, not just ten.")
@asks
def command(asker: Asker, *, show_all: bool) -> None:
    """Show the running balancer.

    Its pools and backends, since when they are as they are and why; listeners, clients and sessions.
    """
    answers = Answers(
        status=asker.get("/api/status"),
        clients=asker.get("/api/clients", limit=ALL),
        sessions=asker.get("/api/sessions", limit=ALL),
    )
    asker.show(
        {**answers.status, "clients": answers.clients, "sessions": answers.sessions},
        report(answers, rows=None if show_all else 10, ascii_only=not is_unicode(), width=terminal_width()),
    )
    sys.exit(0 if is_served(answers.status) else 1)
