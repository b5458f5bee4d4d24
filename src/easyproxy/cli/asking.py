"""Asking the running balancer from a command: the options that say where it is, and what its refusals mean for the shell.

Every command that speaks to the admin server is made with :func:`asks` and gets an :class:`Asker`. Exit statuses are
the same everywhere: 0 done, 1 refused or not found, 2 wrong usage, configuration or token, 3 no answer.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlencode

import click

from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, fetch, parse_admin, post
from easyproxy.cli.text import printable
from easyproxy.model import Address

DEFAULT_ADMIN = Address("127.0.0.1", 7259)
ALL = 1_000_000
"""Rows of a list that is wanted whole."""

EXIT_REFUSED, EXIT_USAGE, EXIT_NO_ANSWER = 1, 2, 3

STATUSES = """\b
Exit status:
  0  done
  1  the balancer refused, or what was named does not exist
  2  the command was not right, or the token is missing or wrong
  3  the balancer does not answer
"""

_OPTIONS = (
    click.option(
        "--admin",
        metavar="URL|unix:PATH",
        envvar="EASYPROXY_ADMIN",
        show_envvar=True,
        help="Where the admin server listens.  [default: 127.0.0.1:7259]",
    ),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        envvar="EASYPROXY_CONFIG",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False),
        help="Take the admin address (and token) from this configuration.",
    ),
    click.option(
        "--token-file",
        metavar="FILE",
        envvar="EASYPROXY_TOKEN_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False),
        help="File that holds the token of the admin server.",
    ),
)
_AUTHOR = (
    click.option("--why", metavar="TEXT", default="", help="The reason; shown wherever the change is."),
    click.option("--who", metavar="NAME", default=None, help="Who does it.  [default: your user name]"),
)


def epilog_of(*examples: str) -> str:
    """Write what stands below the help of a command: examples, without the program's name, and what its exit status says."""
    return "\n".join(("\b", "Examples:", *(f"  easyproxy {example}" for example in examples), "", STATUSES))


@dataclass(frozen=True, slots=True)
class Asker:
    """One balancer to ask, for one command. Its methods end the program when the answer is no answer."""

    address: Address
    token: str | None
    as_json: bool
    command: str

    def get(self, path: str, **query: object) -> Any:  # noqa: ANN401 - any JSON value
        """GET; query values that are empty are left out, lists are repeated."""
        asked = urlencode(
            {key: value for key, value in query.items() if value not in (None, "", ())},
            doseq=True,
            errors="surrogateescape",  # an argument that is no UTF-8 goes as it was typed
        )
        with self.failing():
            return fetch(self.address, f"{path}?{asked}" if asked else path, self.token)

    def post(self, path: str, body: dict[str, object]) -> Any:  # noqa: ANN401 - any JSON value
        """POST; empty values of the body are left out."""
        with self.failing():
            return post(
                self.address,
                path,
                {key: value for key, value in body.items() if value not in (None, "")},
                self.token,
            )

    def failing(self) -> Failing:
        """Turn what goes wrong inside into a line and an exit status."""
        return Failing(self.command)

    def show(self, answer: object, lines: Iterable[str], *, warning: str = "") -> None:
        """Print the answer as JSON when that was asked for, else the lines; a warning goes to standard error."""
        if self.as_json:
            click.echo(json.dumps(answer, indent=2))
        else:
            for line in lines:
                click.echo(line if is_unicode() else line.encode("ascii", "replace").decode())
        if warning:
            text = click.style(f"warning: {printable(warning)}", fg="yellow")
            click.echo(text, err=True)

    def fail(self, error: object, code: int) -> NoReturn:
        """Say what is wrong and end."""
        fail(self.command, error, code)


class Failing:
    """Ends the program with the status that belongs to an error of the client."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the program if something went wrong."""
        if isinstance(error, TokenError):
            fail(self._command, error, EXIT_USAGE)
        if isinstance(error, NoAnswerError):
            fail(self._command, error, EXIT_NO_ANSWER)
        if isinstance(error, RefusedError):
            fail(self._command, error, EXIT_REFUSED)


def fail(command: str, error: object, code: int) -> NoReturn:
    """Print an error under the command's name, and end."""
    text = "\n".join(printable(line) for line in str(error).splitlines())
    click.echo(f"easyproxy {command}: {text}", err=True)
    sys.exit(code)


@contextlib.contextmanager
def writing(command: str) -> Iterator[None]:
    """End with an error in words where standard output takes nothing more: a full disk."""
    try:
        yield
    except BrokenPipeError:  # head has seen enough; click ends quietly
        raise
    except OSError as error:
        fail(command, f"the answer cannot be written: {error.strerror}", EXIT_REFUSED)


def is_unicode() -> bool:
    """Whether standard output can show more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def asks(function: Callable[..., None], *, offers_json: bool = True) -> Callable[..., None]:
    """Add the options that say where the balancer is; the function gets an Asker as its first argument.

    Where ``--json`` is not offered the function gets it all the same, and says what to use instead.
    """

    @functools.wraps(function)
    def wrapped(
        *, as_json: bool, admin: str | None, config_file: str | None, token_file: str | None, **rest: object
    ) -> None:
        name = click.get_current_context().info_name or ""
        address, token = find(name, admin, config_file, token_file)
        try:
            with writing(name):  # the balancer's answer has been read by then
                function(Asker(address, token, as_json, name), **rest)
        except (LookupError, TypeError, AttributeError) as error:  # JSON, but not what was asked for
            text = f"the answer of {address} is not understood ({type(error).__name__}: {error}); "
            fail(name, text + "it is not EasyProxy, or not of this version", EXIT_NO_ANSWER)

    as_json = click.option(
        "--json", "as_json", is_flag=True, hidden=not offers_json, help="Print the answer as JSON."
    )
    for option in (*reversed(_OPTIONS), as_json):
        wrapped = option(wrapped)
    return wrapped


def authored(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--why`` and ``--who``; the function gets ``author``, a mapping for a request's body."""

    @functools.wraps(function)
    def wrapped(*args: object, who: str | None, why: str, **rest: object) -> None:
        function(*args, author={"who": who or user_name(), "why": why}, **rest)

    for option in reversed(_AUTHOR):
        wrapped = option(wrapped)
    return wrapped


def user_name() -> str:
    """Return the name of whoever typed the command, behind sudo too."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return str(os.getuid())


def find(
    command: str, admin: str | None, config_file: str | None, token_file: str | None
) -> tuple[Address, str | None]:
    """Say where the admin server is, and with which token it is asked."""
    address, token = _from_config(command, config_file) if config_file else (DEFAULT_ADMIN, None)
    if admin is not None:
        try:
            address = parse_admin(admin)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--admin") from error
    if token_file is not None:
        token = _read_token(command, token_file)
    return address, token


def _from_config(command: str, path: str) -> tuple[Address, str | None]:
    from easyproxy.config.load import load, read_token  # noqa: PLC0415 - pydantic takes 140 ms
    from easyproxy.errors import ConfigError  # noqa: PLC0415 - stays with its only user

    try:
        config = load(path)
        if config.admin is not None:
            return config.admin.bind, read_token(config.admin)
    except ConfigError as error:
        fail(command, error, EXIT_USAGE)
    fail(command, f"{path} runs without an admin server (admin: off), so there is nothing to ask", EXIT_USAGE)


def _read_token(command: str, path: str) -> str:
    try:
        token = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(command, f"the token file {path} cannot be read: {error}", EXIT_USAGE)
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        # It could not stand in a header, and what http.client says about that shows it.
        fail(
            command,
            f"the token file {path} does not hold a token: printable ASCII without spaces",
            EXIT_USAGE,
        )
    return token
