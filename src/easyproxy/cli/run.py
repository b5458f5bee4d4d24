"""``easyproxy run``: serve until a signal ends it.

Signals are nginx's: SIGTERM or Ctrl-C drains (a second one ends at once), SIGHUP loads the configuration again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from easyproxy.cli.words import Words

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Mapping

    from easyproxy.balancer import Balancer
    from easyproxy.cli.service import Told
    from easyproxy.config.schema import Config
    from easyproxy.control.heir import Heir

log = logging.getLogger("easyproxy")

EXIT_CONFIG = 2
EXIT_FAILED = 1

_EXAMPLES = """\b
Examples:
  easyproxy run easyproxy.yaml
  easyproxy run --listen :3306 --backend 10.0.0.1:3306 --backend 10.0.0.2:3306
  easyproxy run --engine kernel --listen :3306 --backend 10.0.0.1:3306 --backend 10.0.0.2:3306
  easyproxy run --watch /etc/easyproxy/easyproxy.yaml
  easyproxy run --listen 127.0.0.1:8080 --backend 127.0.0.1:8001 --check http --admin off

\b
Signals:
  SIGHUP            load the configuration again; a wrong one changes nothing
  SIGUSR1           open the access log again, after it was moved away
  SIGUSR2           start the new program and hand everything over (see: easyproxy upgrade --help)
  SIGTERM, Ctrl-C   take no new sessions, let the others finish (drain_timeout); a second one ends at once

\b
Exit status: 0 ended as asked, 1 could not start (an address in use, ...), 2 wrong configuration or usage.
"""


def _strategies() -> Iterable[str]:
    from easyproxy.strategy import BUILTIN  # noqa: PLC0415 - only completion needs it

    return BUILTIN


def _checks() -> Iterable[str]:
    from easyproxy.health.checks import CHECKS  # noqa: PLC0415 - as above

    return (*CHECKS, "none")


@click.command("run", epilog=_EXAMPLES)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Accept clients here; may be repeated.")
@click.option(
    "--backend", multiple=True, metavar="ADDRESS", help="Send them to this server; may be repeated."
)
@click.option(
    "--strategy",
    default=None,
    type=Words(_strategies),
    metavar="NAME",
    help="How a backend is chosen  [default: round_robin].",
)
@click.option(
    "--check",
    "check",
    default=None,
    type=Words(_checks),
    metavar="TYPE",
    help="Health check: tcp, http, mysql, postgresql, redis, none.",
)
@click.option(
    "--engine",
    default=None,
    type=Words(lambda: ("relay", "kernel")),
    metavar="NAME",
    help="What carries the sessions: relay or kernel  [default: relay].",
)
@click.option("--admin", default=None, metavar="ADDRESS", help="Address of the status page, or off.")
@click.option("--workers", default=None, metavar="N", help="Worker processes, or auto.")
@click.option(
    "--watch/--no-watch",
    default=None,
    help="Reload by itself when the file's content changes  [default: as the file says]",
)
def command(
    *,
    config: Path | None,
    listen: tuple[str, ...],
    backend: tuple[str, ...],
    strategy: str | None,
    check: str | None,
    engine: str | None,
    admin: str | None,
    workers: str | None,
    watch: bool | None,
) -> None:
    """Run the balancer, from a configuration file or from options alone."""
    from easyproxy.control.heir import failing, predecessor  # noqa: PLC0415
    from easyproxy.errors import ConfigError, EasyProxyError  # noqa: PLC0415 - see easyproxy.cli

    before = predecessor()
    tell = failing(before)
    options = {"strategy": strategy, "check": check, "engine": engine, "admin": admin, "workers": workers}
    try:
        if config is not None:
            if listen or backend or any(options.values()):
                raise click.UsageError(
                    "a configuration file and options do not go together; write them into the file"
                )
            loaded = _load(config)
        else:
            if watch:
                raise click.UsageError("there is no file to watch; write the options into one")
            loaded = _from_options(listen, backend, options)
        code = asyncio.run(serve(loaded, config, watch=watch, before=before))
    except ConfigError as error:
        tell(error)
        click.echo(error, err=True)
        sys.exit(EXIT_CONFIG)
    except EasyProxyError as error:
        tell(error)
        click.echo(f"easyproxy: {error}", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(code)


def beside(path: Path) -> None:
    """Let strategies and checks of the user's own be found beside the file that names them."""
    # This folder may have been removed, and so has a file that is named from here.
    with contextlib.suppress(FileNotFoundError):
        sys.path.append(str(path.resolve().parent))


def _load(path: Path) -> Config:
    from easyproxy.config.load import examine  # noqa: PLC0415
    from easyproxy.engine.relay import RelayEngine  # noqa: PLC0415

    beside(path)
    loaded = examine(path, strategies=RelayEngine.strategies)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    return loaded.config


def _from_options(
    listen: tuple[str, ...], backend: tuple[str, ...], options: Mapping[str, str | None]
) -> Config:
    from easyproxy.config.load import from_dict  # noqa: PLC0415
    from easyproxy.engine.relay import RelayEngine  # noqa: PLC0415

    if not listen or not backend:
        raise click.UsageError("name a configuration file, or at least one --listen and one --backend")
    pool: dict[str, object] = {"backends": list(backend)}
    if options["strategy"]:
        pool["strategy"] = options["strategy"]
    if options["check"]:
        pool["check"] = {"type": options["check"]}
    listener = {"pool": "default", **({"engine": options["engine"]} if options["engine"] else {})}
    raw: dict[str, object] = {
        "listeners": [{"bind": bind, **listener} for bind in listen],
        "pools": {"default": pool},
    }
    if options["admin"]:
        raw["admin"] = "off" if options["admin"] == "off" else {"bind": options["admin"]}
    if options["workers"]:
        is_number = re.fullmatch("-?[0-9]{1,9}", options["workers"])
        raw["workers"] = int(options["workers"]) if is_number else options["workers"]
    return from_dict(raw, strategies=RelayEngine.strategies)


class Signals:
    """What has been asked for by a signal. Made in the running event loop."""

    def __init__(self) -> None:
        self.stop, self.at_once, self.reload, self.upgrade = (asyncio.Event() for _ in range(4))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)
        loop.add_signal_handler(signal.SIGUSR2, self.upgrade.set)

    def _asked_to_stop(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()


async def serve(
    config: Config, path: Path | None, *, watch: bool | None = None, before: socket.socket | None = None
) -> int:
    """Run until a signal or a successor ends it; return the exit status.

    Args:
        config: what to begin with.
        path: of its file; None where there is none.
        watch: whether to reload by itself when the file changes; None is as the configuration says.
        before: leads to the program that this one relieves.
    """
    from easyproxy.assembly import worker_count  # noqa: PLC0415
    from easyproxy.balancer import Balancer  # noqa: PLC0415
    from easyproxy.cli.log import set_up  # noqa: PLC0415
    from easyproxy.cli.service import Told, sockets_given  # noqa: PLC0415
    from easyproxy.control.heir import Heir  # noqa: PLC0415
    from easyproxy.control.limits import raise_descriptor_limit, shortage  # noqa: PLC0415
    from easyproxy.control.state_file import default_place  # noqa: PLC0415
    from easyproxy.control.upgrade import command_line  # noqa: PLC0415

    set_up(config.log.level, config.log.format)
    if missing := shortage(config, worker_count(config), raise_descriptor_limit()):
        log.warning("%s", missing)
    signals = Signals()
    state = default_place(path, os.environ) if path is not None else None
    heir = await Heir.met(before) if before is not None else None
    given = sockets_given(config)
    balancer = Balancer(
        config, workers="process", state_file=state, file=path, watch=watch, inherited=given, heir=heir
    )
    balancer.upgrading.command = command_line()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_tell)
    loop.add_signal_handler(signal.SIGUSR1, balancer.reopen_logs)
    if not await _has_started(balancer, heir, signals):
        return 0
    # Collections need not walk over all that the program consists of, nor come with every 700 flows of the kernel engine.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    told = Told(balancer)
    try:
        _announce(balancer)
        has_successor = await _obey(balancer, told, signals)
        _tell_who_comes_too_late()
        if has_successor:
            await _leave(balancer, told, signals)
        else:
            await _drain(balancer, told, signals)
    finally:
        await balancer.stop()
        await told.end()
    log.info("ended")
    return 0


def _tell(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Say in one line what is no mistake of ours: asyncio's accept finds no descriptor, and tries again in a second."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in (
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOBUFS,
        errno.ENOMEM,
    ):
        log.error("the admin server accepts nobody for now: %s", error.strerror)
    else:
        loop.default_exception_handler(context)


async def _has_started(balancer: Balancer, heir: Heir | None, signals: Signals) -> bool:
    """Start; return False when it was told to stop before it served."""
    from easyproxy.errors import EasyProxyError  # noqa: PLC0415

    starting = asyncio.ensure_future(balancer.__aenter__())
    if await _first(starting, signals.stop) is not starting:
        starting.cancel()
        [ended] = await asyncio.gather(starting, return_exceptions=True)
        if not isinstance(ended, BaseException):  # it was through already
            await balancer.stop()
        return False
    try:
        starting.result()
    except EasyProxyError as error:
        if heir is not None:
            heir.fail(str(error))
        raise
    return True


async def _obey(balancer: Balancer, told: Told, signals: Signals) -> bool:
    """Do what signals ask for until the end; return whether a successor goes on."""
    ends = (signals.stop, balancer.upgrading.handed_over)
    while (asked := await _first(*ends, signals.reload, signals.upgrade)) not in ends:
        if asked is signals.reload:
            signals.reload.clear()
            told.reloading()
            doing = asyncio.ensure_future(_reload(balancer))
        else:
            signals.upgrade.clear()
            doing = asyncio.ensure_future(_upgrade(balancer))
        # A reload that waits behind an upgrade waits for ever once that has succeeded.
        if await _first(doing, *ends) is not doing:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)
        if not balancer.upgrading.handed_over.is_set():
            told.ready()
    return balancer.upgrading.handed_over.is_set()


async def _drain(balancer: Balancer, told: Told, signals: Signals) -> None:
    told.stopping()
    if not await _has_drained(balancer, signals.at_once):
        log.warning("ending at once")


async def _has_drained(balancer: Balancer, at_once: asyncio.Event) -> bool:
    """Let the sessions end; return False when that was cut short. What fails is logged: the end comes anyway."""
    from easyproxy.errors import EasyProxyError  # noqa: PLC0415

    draining = asyncio.ensure_future(balancer.drain())
    if await _first(draining, at_once) is not draining:
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        return False
    try:
        draining.result()
    except EasyProxyError as error:
        log.error("not every session could be let end: %s", error)
    return True


def _tell_who_comes_too_late() -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGHUP, signal.SIGUSR2):
        loop.add_signal_handler(
            number, log.warning, "%s is ignored: this program is already ending", number.name
        )


async def _leave(balancer: Balancer, told: Told, signals: Signals) -> None:
    """End after an upgrade: at once, or when the sessions have ended that the successor could not take."""
    successor = balancer.upgrading.successor
    assert successor is not None  # noqa: S101 - it has been handed over
    told.successor(successor.pid)
    if balancer.upgrading.kept:
        log.warning("sessions have stayed here; they may end", extra={"sessions": balancer.upgrading.kept})
        await _has_drained(balancer, signals.stop)
    log.info("a successor goes on", extra={"pid": os.getpid(), "successor": successor.pid})


async def _first(*things: asyncio.Event | asyncio.Future[Balancer] | asyncio.Future[None]) -> object:
    """Wait for one of these events and futures, and return it; of several that have come, the first that is named."""
    waits = {
        asyncio.ensure_future(
            thing.wait() if isinstance(thing, asyncio.Event) else asyncio.shield(thing)
        ): thing
        for thing in things
    }
    done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in pending:
        wait.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for wait in done:
        wait.exception()  # looked at here; whoever asks the future itself gets it again
    return next(thing for wait, thing in waits.items() if wait in done)


def _announce(balancer: Balancer) -> None:
    status = balancer.status()
    for listener in status.listeners:
        engine = {} if listener.engine == "relay" else {"engine": listener.engine}
        log.info("listening", extra={"address": listener.address, "pool": listener.pool, **engine})
    for pool in status.pools:
        ready = sum(backend.state == "ready" for backend in pool.backends)
        level = logging.INFO if ready == len(pool.backends) else logging.WARNING
        log.log(
            level,
            "pool",
            extra={
                "pool": pool.name,
                "ready": f"{ready} of {len(pool.backends)}",
                "strategy": pool.strategy,
                "check": pool.check,
            },
        )
    if balancer.admin_address is not None:
        address = balancer.admin_address
        where = str(address) if address.path else f"http://{address}/"
        log.info("status page", extra={"address": where})
    about = {"workers": status.workers, "pid": os.getpid(), "version": status.version}
    log.info("serving", extra={**about, "worker_python": status.worker_python, "io_uring": status.io_uring})


async def _reload(balancer: Balancer) -> None:
    from easyproxy.control.operations import Author  # noqa: PLC0415

    # Whatever went wrong has been told where it happened, and nothing has changed.
    with contextlib.suppress(Exception):
        await balancer.reload_file(Author("signal", "SIGHUP"))


async def _upgrade(balancer: Balancer) -> None:
    from easyproxy.control.operations import Author  # noqa: PLC0415

    with contextlib.suppress(Exception):  # as above
        await balancer.upgrade(Author("signal", "SIGUSR2"))
