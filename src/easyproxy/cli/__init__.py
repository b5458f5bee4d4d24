"""The command ``easyproxy``: its subcommands by name, each loaded when it is asked for.

What a command needs is imported when it runs, so that ``--help``, ``--version`` and shell completion stay quick.
No command's work is done here.
"""

from __future__ import annotations

import difflib
import importlib

import click

from easyproxy import __version__
from easyproxy.cli.streams import open_closed, wants_colours

COMMANDS = {
    "run": "Run the balancer.",
    "check": "Check a configuration: every error at once.",
    "schema": "Print the JSON Schema of the configuration.",
    "demo": "Try it: a balancer before three small backends.",
    "status": "Show the running balancer: backends, clients, sessions.",
    "top": "The same, live, on the whole terminal.",
    "sessions": "List the live sessions.",
    "clients": "List the clients.",
    "events": "Tell what happened, and why.",
    "explain": "Why this backend, why down, who closed first.",
    "simulate": "Where would this client go?",
    "drain": "Give a backend no new sessions.",
    "maintenance": "The same, and do not probe it.",
    "ready": "End drain or maintenance.",
    "weight": "Change a backend's share.",
    "add": "Add a backend to a pool.",
    "remove": "Take a backend out of its pool.",
    "overrides": "List what operators have changed.",
    "forget": "Take such a change away.",
    "close": "End sessions now.",
    "plan": "Show what a file would change.",
    "reload": "Load the file again; confirm it, or go back.",
    "upgrade": "Let the program that is installed now take over.",
    "kernel": "The kernel engine: what it lacks, and cleaning up.",
}
"""Each subcommand with its line in ``--help``. The module of the same name in this package exports ``command``."""

_ROOMS = {
    **dict.fromkeys(
        ("drain", "maintenance", "ready", "weight", "add", "remove", "overrides", "forget"), "backends"
    ),
    **dict.fromkeys(("sessions", "clients", "events"), "live"),
    **dict.fromkeys(("explain", "simulate"), "explain"),
}
"""Subcommands that live together: their module exports each under its own name."""

_EXAMPLES = """\b
Examples:
  easyproxy demo
  easyproxy check easyproxy.yaml
  easyproxy run easyproxy.yaml
  easyproxy run --listen :3306 --backend 10.0.0.1:3306 --backend 10.0.0.2:3306
  easyproxy status

\b
Completion of commands and options in the shell, for bash, zsh and fish:
  bash   eval "$(_EASYPROXY_COMPLETE=bash_source easyproxy)"    in ~/.bashrc
  zsh    eval "$(_EASYPROXY_COMPLETE=zsh_source easyproxy)"     in ~/.zshrc
  fish   _EASYPROXY_COMPLETE=fish_source easyproxy | source     in ~/.config/fish/config.fish
"""


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when that subcommand is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Name the subcommands in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say which subcommand may have been meant; click knows only of those that are loaded."""
        name = args[0]
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        if near and name not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        """Import the subcommand."""
        if cmd_name not in COMMANDS:
            return None
        room = _ROOMS.get(cmd_name)
        module = importlib.import_module(f"easyproxy.cli.{room or cmd_name}")
        command = getattr(module, cmd_name if room else "command")
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} of {module.__name__} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="easyproxy %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """EasyProxy is a TCP load balancer.

    Clients connect to a listener, a strategy picks a backend, the bytes flow. Each command explains itself with
    --help.
    """
    open_closed()
    if not wants_colours():
        # For all that click prints in any command; where there is no terminal it does so itself.
        context.color = False
