"""``easyproxy plan``: ask the running balancer what a file would change. The comparison itself is the balancer's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import click

from easyproxy.cli.asking import asks, fail, find
from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, post
from easyproxy.cli.text import counted, printable, table

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker
    from easyproxy.config.load import Source
    from easyproxy.model import Address

Json = dict[str, Any]

EXIT_NO_ANSWER, EXIT_CONFIG, EXIT_CHANGES = 1, 2, 3

_SIGNS = {
    "added": ("+", "green"),
    "removed": ("-", "red"),
    "changed": ("~", "yellow"),
    "conflict": ("!", "red"),
}

_EXAMPLES = """\b
Examples:
  easyproxy plan /etc/easyproxy.yaml
  easyproxy plan new.yaml --admin unix:/run/easyproxy/admin.sock
  easyproxy plan new.yaml --exit-code || echo "something would change, or is wrong"

\b
Where the balancer is: --admin, --config, else what FILE itself says of its admin server.

\b
Exit status:
  0  it is planned (with --exit-code: and nothing would change)
  1  no balancer answers, or it refuses to tell
  2  the configuration is wrong, or the token, or the command
  3  with --exit-code: something would change
"""


@click.command("plan", epilog=_EXAMPLES)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--exit-code", "exit_code", is_flag=True, help="Exit with 3 when something would change.")
@asks
def command(asker: Asker, *, file: str, exit_code: bool) -> None:
    """Show what FILE would change of the running balancer.

    Listeners, pools and backends that come, go or change, how many living sessions would drain, and what takes effect
    only at the next start or upgrade. Nothing is changed.
    """
    from easyproxy.config.load import read_source  # noqa: PLC0415 - pydantic takes 140 ms
    from easyproxy.errors import ConfigError  # noqa: PLC0415

    try:
        source = read_source(file)
    except ConfigError as error:
        _refuse(asker, file, [_plain(problem) for problem in error.problems])
    address, token = _whom(asker, source)
    here = f"<{source.form}>"  # the balancer sees a text without a name
    try:
        plan = post(address, "/api/plan", {"text": source.text, "form": source.form}, token)
    except RefusedError as error:
        if not error.problems:
            fail(asker.command, error, EXIT_NO_ANSWER)
        _refuse(
            asker,
            file,
            [each | {"where": file + str(each["where"]).removeprefix(here)} for each in error.problems],
        )
    except TokenError as error:
        fail(asker.command, error, EXIT_CONFIG)
    except NoAnswerError as error:
        text = f"{error}\nWithout one, this tells whether the file is right: easyproxy check {file}"
        fail(asker.command, text, EXIT_NO_ANSWER)
    warnings = [
        file + warning.removeprefix(here) if warning.startswith(here) else warning
        for warning in plan["warnings"]
    ]
    plan |= {"source": file, "warnings": warnings}
    asker.show(plan, described(plan))
    sys.exit(EXIT_CHANGES if exit_code and plan["differences"] else 0)


def described(plan: Json) -> Iterator[str]:
    """Render a plan line by line, with its sum at the end."""
    from easyproxy.control.operations import Difference, Plan  # noqa: PLC0415 - when there is an answer
    from easyproxy.control.plan import summary  # noqa: PLC0415

    differences = [Difference(**each) for each in plan["differences"]]
    if differences:
        yield from table(("", "WHAT", "NAME", "CHANGE"), [_row(each) for each in differences])
        yield ""
    for warning in plan["warnings"]:
        yield click.style(f"warning: {printable(warning)}", fg="yellow")
    yield printable(summary(Plan(plan["source"], tuple(differences), plan["sessions"]))).capitalize()


def _row(each: Any) -> tuple[str, str, str, str]:  # noqa: ANN401 - a Difference, imported when it is needed
    sign, color = _SIGNS.get(each.change, ("~", "yellow"))
    text = printable(each.text)
    if each.sessions:
        text += f" ({counted(each.sessions, 'session')} would drain)"
    if each.needs_restart:
        text += " (at the next start or upgrade)"
    return click.style(sign, fg=color), each.what, printable(each.name), text


def _whom(asker: Asker, source: Source) -> tuple[Address, str | None]:
    """Say whom to ask: what the options say, else the admin server that the file itself names."""
    options = click.get_current_context().params
    if options.get("admin") or options.get("config_file"):
        return asker.address, asker.token
    from easyproxy.config.load import examine_source  # noqa: PLC0415 - see above
    from easyproxy.errors import ConfigError  # noqa: PLC0415

    try:
        has_admin = examine_source(source).config.admin is not None
    except ConfigError:  # the balancer tells what is wrong
        return asker.address, asker.token
    if not has_admin:
        return asker.address, asker.token
    address, token = find(asker.command, None, source.name, options.get("token_file"))
    return address, token


def _refuse(asker: Asker, file: str, problems: list[Json]) -> NoReturn:
    """Tell every error with its place, and end."""
    if asker.as_json:
        click.echo(json.dumps({"source": file, "errors": problems}, indent=2))
    for line in told(problems):
        click.echo(line, err=True)
    fail(asker.command, f"{file}: {counted(len(problems), 'error')}; nothing can be planned", EXIT_CONFIG)


def told(problems: list[Json]) -> Iterator[str]:
    """Render problems as ``easyproxy check`` begins its lines: place, path, message."""
    for each in problems:
        parts = (each.get("where"), "error", each.get("path"), each.get("message"))
        yield ": ".join(printable(part) for part in parts if part)


def _plain(problem: Any) -> Json:  # noqa: ANN401 - a Problem, imported when it is needed
    return {"where": problem.where, "path": problem.path, "message": problem.message}
