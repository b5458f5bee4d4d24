"""``easyproxy status``: ask the running balancer, print what it says. How it looks is decided in :mod:`.report`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from easyproxy.cli.client import NoAnswerError, TokenError, fetch, parse_admin
from easyproxy.cli.report import Answers, is_served, report
from easyproxy.model import Address

DEFAULT_ADMIN = Address("127.0.0.1", 7259)
_ALL = 1_000_000

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
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON document.")
@click.option("--all", "show_all", is_flag=True, help="List every client and session, not just ten.")
@click.option(
    "--admin", metavar="URL|unix:PATH", help="Where the admin server listens.  [default: 127.0.0.1:7259]"
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Take the admin address (and token) from this configuration.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="File that holds the token of the admin server.",
)
def command(
    *, as_json: bool, show_all: bool, admin: str | None, config_file: str | None, token_file: str | None
) -> None:
    """Show the running balancer.

    Its pools and backends, since when they are as they are and why; listeners, clients and sessions.
    """
    address, token = _from_config(config_file) if config_file else (DEFAULT_ADMIN, None)
    if admin is not None:
        try:
            address = parse_admin(admin)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--admin") from error
    if token_file is not None:
        token = _read_token(token_file)
    try:
        answers = Answers(
            status=fetch(address, "/api/status", token),
            clients=fetch(address, f"/api/clients?limit={_ALL}", token),
            sessions=fetch(address, f"/api/sessions?limit={_ALL}", token),
        )
    except TokenError as error:
        _fail(error, 2)
    except NoAnswerError as error:
        _fail(error, 3)
    if as_json:
        document = {**answers.status, "clients": answers.clients, "sessions": answers.sessions}
        click.echo(json.dumps(document, indent=2))
    else:
        _print(answers, None if show_all else 10)
    sys.exit(0 if is_served(answers.status) else 1)


def _print(answers: Answers, rows: int | None) -> None:
    # https://no-color.org; click strips the colours itself where the output is not a terminal.
    color = False if os.environ.get("NO_COLOR") else None
    for line in report(answers, rows=rows, ascii_only=not _is_unicode(sys.stdout.encoding)):
        click.echo(line, color=color)


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")


def _from_config(path: str) -> tuple[Address, str | None]:
    from easyproxy.config.load import load  # noqa: PLC0415 - pydantic takes 140 ms
    from easyproxy.errors import ConfigError  # noqa: PLC0415 - stays with its only user

    try:
        config = load(path)
    except ConfigError as error:
        _fail(error, 2)
    if config.admin is None:
        _fail(f"{path} runs without an admin server (admin: off), so there is nothing to ask", 2)
    if config.admin.token is not None:
        return config.admin.bind, config.admin.token.get_secret_value()
    if config.admin.token_file is not None:
        return config.admin.bind, _read_token(config.admin.token_file)
    return config.admin.bind, None


def _read_token(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        _fail(f"the token file {path} cannot be read: {error}", 2)


def _fail(error: object, code: int) -> NoReturn:
    click.echo(f"easyproxy status: {error}", err=True)
    sys.exit(code)
