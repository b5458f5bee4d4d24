"""``easyproxy reload``: let the running balancer load its file again, confirm that, or take it back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.asking import EXIT_USAGE, asks, authored
from easyproxy.cli.client import RefusedError, post
from easyproxy.cli.plan import described, told
from easyproxy.cli.text import printable, remaining
from easyproxy.cli.times import TimeParam

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easyproxy.cli.asking import Asker

Json = dict[str, Any]

_EXAMPLES = """\b
Examples:
  easyproxy reload
  easyproxy reload --rollback-after 30s --why "new backends" && check-it && easyproxy reload --confirm
  easyproxy reload --rollback

\b
With --rollback-after it goes back by itself: when nobody confirms it in time, when connects to backends of a
changed pool fail more than before, or when such a pool has no ready backend left.

\b
Exit status:
  0  done
  1  refused: nothing to confirm or to go back to, an address in use, an unconfirmed reload, ...
  2  the configuration is wrong, or the token, or the command
  3  the balancer does not answer
"""


@click.command("reload", epilog=_EXAMPLES)
@click.option(
    "--rollback-after", type=TimeParam(), default="", help="Go back after 30s, 5m ... unless confirmed."
)
@click.option("--confirm", is_flag=True, help="Keep what an unconfirmed reload has put in force.")
@click.option("--rollback", is_flag=True, help="Go back to the configuration before the last reload.")
@authored
@asks
def command(asker: Asker, *, rollback_after: str, confirm: bool, rollback: bool, author: Json) -> None:
    """Load the configuration file again and put it in force, whole or not at all.

    Established sessions stay where they are. What has changed is printed; a wrong file changes nothing, and every
    error is told with its place.
    """
    if confirm + rollback + bool(rollback_after) > 1:
        raise click.UsageError("--rollback-after, --confirm and --rollback do not go together")
    if confirm or rollback:
        state = _ask(asker, "/api/reload/confirm" if confirm else "/api/reload/rollback", author)
        asker.show(state, [f"{printable(state['outcome']).replace('_', ' ')}: {printable(state['detail'])}"])
        return
    plan = _ask(asker, "/api/reload", author | {"rollback_after": rollback_after})
    state = {}
    if rollback_after:
        state = asker.get("/api/reload")
    asker.show(plan, _lines(plan, state))


def _lines(plan: Json, state: Json) -> Iterator[str]:
    yield from described(plan)
    if until := state.get("confirm_until"):
        left = remaining(until - time.time())
        yield f"In force. It goes back in {left} unless confirmed: easyproxy reload --confirm"
    else:
        yield "In force."


def _ask(asker: Asker, path: str, body: Json) -> Json:
    """Ask as every command does, but tell each error of a wrong configuration with its place."""
    with asker.failing():
        try:
            answer: Json = post(
                asker.address, path, {key: value for key, value in body.items() if value}, asker.token
            )
        except RefusedError as error:
            if not error.problems:
                raise
            for line in told(error.problems):
                click.echo(line, err=True)
            asker.fail("reload refused, nothing has changed", EXIT_USAGE)
    return answer
