"""``easyproxy kernel``: what the kernel engine needs on this machine, and removing what it has left there."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from easyproxy.cli.asking import writing

EXIT_FAILED = 1
EXIT_CONFIG = 2

_EXAMPLES = """\b
Examples:
  easyproxy kernel check
  easyproxy kernel check easyproxy.yaml
  easyproxy kernel clean
"""
_CHECK = """\b
Exit status: 0 nothing is missing, 1 something is, 2 wrong configuration.
"""
_CLEAN = """\b
Exit status: 0 nothing of EasyProxy is left in the kernel, 1 it could not be removed.
"""


@click.group("kernel", epilog=_EXAMPLES)
def command() -> None:
    """See to the kernel engine, for listeners with `engine: kernel`."""


@command.command("check", epilog=_CHECK, short_help="Tell what this machine lacks.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def check(file: Path | None) -> None:
    """Tell what this machine lacks for the kernel engine, each with the command that sets it.

    With FILE it is what this configuration needs, for example of IPv6; without, what every one does. Nothing is changed.
    Run it as the balancer runs: as another user, or in another network namespace, something else may be missing.
    """
    if file is None:
        from easyproxy.engine.kernel import requirements  # noqa: PLC0415 - see easyproxy.cli

        missing = requirements()
    else:
        from easyproxy.config.load import examine  # noqa: PLC0415
        from easyproxy.errors import ConfigError  # noqa: PLC0415
        from easyproxy.needs import lacking  # noqa: PLC0415

        try:
            missing = lacking(examine(file).config)
        except ConfigError as error:
            click.echo(error, err=True)
            sys.exit(EXIT_CONFIG)
    with writing("kernel check"):
        for text in missing or ("nothing is missing for the kernel engine",):
            click.echo(text)
    if missing:
        sys.exit(EXIT_FAILED)


@command.command("clean", epilog=_CLEAN, short_help="Remove everything of EasyProxy from the kernel.")
def clean() -> None:
    """Remove the table that a killed balancer has left, with everything in it, and put back what it has set.

    Nothing else is touched. Do not use it while a balancer with `engine: kernel` runs: new clients would find nobody.
    """
    from easyproxy.engine.kernel import clean as remove  # noqa: PLC0415 - see easyproxy.cli
    from easyproxy.errors import EngineError  # noqa: PLC0415

    try:
        restored = remove()
    except EngineError as error:
        click.echo(f"easyproxy: {error}", err=True)
        sys.exit(EXIT_FAILED)
    if restored is None:
        click.echo("there is nothing of EasyProxy in the kernel")
        return
    click.echo("removed: the nftables table inet easyproxy, with its rules, sets and counters")
    for setting in restored:
        click.echo(f"put back: {setting}")
