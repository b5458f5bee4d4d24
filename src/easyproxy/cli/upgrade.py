"""``easyproxy upgrade``: let the running balancer be relieved by the program that is installed now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.asking import asks, authored
from easyproxy.cli.text import printable

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

_EXAMPLES = """\b
Examples:
  pip install --upgrade easyproxy && easyproxy upgrade
  easyproxy upgrade --why "workers: 4" --config /etc/easyproxy.yaml

\b
What the running balancer was started with is started once more: the version that is installed now, with the
configuration as it is now, also those settings that a reload cannot change. No client is refused and no session
ends: the new program goes on with all of them. SIGUSR2 does the same.

\b
Exit status:
  0  the new program serves, the old one ends
  1  the new program could not start or take over; the old one goes on as before
  2  the command was not right, or the token is missing or wrong
  3  the balancer does not answer
"""


@click.command("upgrade", epilog=_EXAMPLES)
@authored
@asks
def command(asker: Asker, *, author: dict[str, Any]) -> None:
    """Start the new program and hand everything over, established sessions included."""
    answer = asker.post("/api/upgrade", author)
    asker.show(answer, [printable(answer["successor"])])
