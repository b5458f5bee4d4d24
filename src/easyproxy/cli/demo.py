"""``easyproxy demo``: the balancer before a few small backends, and what to try with them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

if TYPE_CHECKING:  # imported when the command runs: asyncio and pydantic would slow --help down
    from collections.abc import Callable

    from easyproxy.control.registry import Change
    from easyproxy.demo.stage import Actor, Stage

_LETTERS = "abcdefghijklmnopqrstuvwxyz"

_EXAMPLES = """\b
Examples:
  easyproxy demo
  easyproxy demo --backends 5
  easyproxy demo --listen 127.0.0.1:8080 --admin 127.0.0.1:8081
"""


class AddressParam(click.ParamType[Address]):
    """An address as the configuration has them."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Address:  # noqa: ANN401 - click's signature
        """Parse it, or fail with what was expected."""
        try:
            return value if isinstance(value, Address) else Address.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("demo", epilog=_EXAMPLES)
@click.option(
    "--listen",
    type=AddressParam(),
    default="127.0.0.1:9527",
    show_default=True,
    help="Where clients connect.",
)
@click.option(
    "--admin",
    type=AddressParam(),
    default="127.0.0.1:7259",
    show_default=True,
    help="Where the status page is.",
)
@click.option(
    "--backends", type=click.IntRange(1, 26), default=3, show_default=True, help="How many backends."
)
def command(*, listen: Address, admin: Address, backends: int) -> None:
    """Try it: a balancer before a few small backends.

    The backends are web servers on this machine. Kill one and see it leave; it comes back by itself.
    """
    try:
        asyncio.run(_demo(listen, admin, backends))
    except EasyProxyError as error:
        click.echo(f"easyproxy demo: {error}", err=True)
        if other := elsewhere(listen, admin):
            click.echo(f"Try: {other}", err=True)
        sys.exit(1)


async def _demo(listen: Address, admin: Address, count: int) -> None:
    from easyproxy import Balancer  # noqa: PLC0415 - see the module's imports
    from easyproxy.config.load import from_dict  # noqa: PLC0415
    from easyproxy.control.limits import raise_descriptor_limit  # noqa: PLC0415
    from easyproxy.demo.stage import Stage  # noqa: PLC0415

    raise_descriptor_limit()  # who tries it with wrk may want thousands of connections
    _log_errors_only()

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Stage(list(_LETTERS[:count]), _say_return) as stage:
        config = from_dict(configuration(listen, admin, {actor.name: actor.port for actor in stage.actors}))
        async with Balancer(config, workers="process", on_change=Announcer(_say)):
            click.echo(introduction(listen, admin, stage))
            await stop.wait()
            click.echo("\nGood-bye.")


def configuration(listen: Address, admin: Address, ports: dict[str, int]) -> dict[str, object]:
    """The demo's configuration, in the shape of a file."""
    return {
        "listeners": [{"bind": str(listen), "pool": "demo"}],
        "pools": {
            "demo": {
                "strategy": "round_robin",
                "check": {"type": "tcp", "interval": "500ms", "timeout": "500ms", "rise": 2, "fall": 2},
                "backends": [{"name": name, "address": f"127.0.0.1:{port}"} for name, port in ports.items()],
            }
        },
        "admin": {"bind": str(admin)},
    }


def introduction(listen: Address, admin: Address, stage: Stage) -> str:
    """What to try, with the addresses and process ids of this very run."""
    victim = stage.actors[min(1, len(stage.actors) - 1)]
    names = ", ".join(actor.name for actor in stage.actors)
    status = f"{_command()} status"
    if admin != Address("127.0.0.1", 7259):
        status += f" --admin {admin}"
    tries = [
        (_curl(listen), f"a few times: {names} answer in turn"),
        (f"kill {victim.pid}", f"backend {victim.name}: see it leave; it comes back by itself after 10 s"),
        (status, "in another terminal"),
        ("Ctrl-C", "ends everything"),
    ]
    width = max(len(what) for what, _ in tries)
    lines = [
        click.style("EasyProxy is running before the backends ", bold=True) + click.style(names, bold=True),
        "",
        f"  clients      {_url(listen)}",
        f"  status page  {_url(admin)}",
        "",
        "Try:",
        *(f"  {click.style(what.ljust(width), fg='cyan')}   {why}" for what, why in tries),
        "",
    ]
    return "\n".join(lines)


def elsewhere(listen: Address, admin: Address) -> str:
    """The command that starts the demo on addresses that are free, where one of these is taken; empty where none is."""
    from easyproxy.demo.stage import free_ports  # noqa: PLC0415 - see the module's imports

    wanted = {"--listen": listen, "--admin": admin}
    free = {
        option: address if address.path else Address("127.0.0.1", free_ports(1, address.port)[0])
        for option, address in wanted.items()
    }
    taken = [option for option in wanted if free[option].port != wanted[option].port]
    return " ".join([_command(), "demo", *(f"{option} {free[option]}" for option in free)]) if taken else ""


def _command() -> str:
    """How this program is started in another terminal: by its name only where the shell would find this very one."""
    found = shutil.which("easyproxy")
    me = Path(sys.argv[0])
    if me.name != "easyproxy" or (found is not None and me.exists() and me.samefile(found)):
        return "easyproxy"
    here = me.absolute()
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)


def _url(address: Address) -> str:
    return str(address) if address.path else f"http://{_reachable(address)}/"


def _curl(address: Address) -> str:
    if address.path:
        return f"curl --unix-socket {address.path} http://demo/"
    return f"curl {_url(address)}"


def _reachable(address: Address) -> Address:
    return address if address.host not in {"", "0.0.0.0", "::"} else Address("127.0.0.1", address.port)  # noqa: S104


class Announcer:
    """Says when a backend leaves and when it returns. Give it to the balancer as ``on_change``."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._gone: set[str] = set()

    def __call__(self, change: Change) -> None:
        """Say it, unless it is a backend's first good news."""
        name = change.backend.rpartition("/")[2]
        if change.state == "down":
            self._gone.add(name)
            self._say(click.style(f"{name} left", fg="red") + f": {change.reason}")
        elif change.state == "ready" and name in self._gone:
            self._gone.remove(name)
            self._say(click.style(f"{name} is back", fg="green") + f": {change.reason}")


def _log_errors_only() -> None:
    # What the log says about backends, the announcer says more shortly.
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)
    logging.getLogger("easyproxy").addHandler(handler)


def _say_return(actor: Actor) -> None:
    _say(f"{actor.name} was started again; once more: kill {actor.pid}")


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {line}")
