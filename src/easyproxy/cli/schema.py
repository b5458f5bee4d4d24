"""The command ``easyproxy schema``: print the JSON Schema of the configuration, for editors and other programs."""

from __future__ import annotations

import click

from easyproxy.cli.asking import writing
from easyproxy.config.json_schema import render

_EXAMPLES = """\b
Examples:
  easyproxy schema > easyproxy.schema.json
"""


@click.command("schema", short_help="Print the JSON Schema of the configuration.", epilog=_EXAMPLES)
def command() -> None:
    """Print the JSON Schema (draft 2020-12) that describes configuration files.

    An editor with a YAML language server uses it after this first line of a file:

    # yaml-language-server: $schema=easyproxy.schema.json
    """
    with writing("schema"):
        click.echo(render(), nl=False)
