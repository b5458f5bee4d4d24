"""``easyproxy top``: the command. What it shows is :mod:`.screen`'s, which needs the extra ``top`` (textual)."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import click

from easyproxy.cli.asking import EXIT_REFUSED, STATUSES, asks

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

_EXAMPLES = (
    """\b
Examples:
  easyproxy top
  easyproxy top --config /etc/easyproxy.yaml --every 5

\b
Keys:
  1 2 3 4    backends, sessions, clients, events
  d m r      drain, maintenance, ready of the backend under the cursor
  c          close the session under the cursor, or all of the client
  /          show only rows that contain a word
  q          quit

"""
    + STATUSES
)


@click.command("top", epilog=_EXAMPLES)
@click.option(
    "--every",
    metavar="SECONDS",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    help="Look so often.",
)
@partial(asks, offers_json=False)
def command(asker: Asker, *, every: float) -> None:
    """Watch the running balancer on the whole terminal: pools, backends, sessions, clients, events."""
    if asker.as_json:
        raise click.UsageError("top draws a screen; for JSON use: easyproxy status --json")
    try:
        from easyproxy.cli.screen import Screen  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        asker.fail(f"it needs {error.name}; install it with: pip install 'easyproxy[top]'", EXIT_REFUSED)
    asker.get("/api/status")  # who does not answer is told in words, before the screen is taken
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("top needs a terminal; elsewhere use: easyproxy status")
    screen = Screen(asker, every)
    screen.run()
    if screen.unsaid:
        asker.fail("\n".join(screen.unsaid), EXIT_REFUSED)
