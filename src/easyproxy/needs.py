"""What this machine lacks for a configuration: asked before a balancer starts or reloads, and by ``easyproxy check``.

The engine itself sees only snapshots, which hold the backends that are ready; what the others need must be there as well.
"""

from __future__ import annotations

import grp
import ssl
from typing import TYPE_CHECKING

from easyproxy.config.load import read_token
from easyproxy.control.compose import Standing, backend_id, compose
from easyproxy.errors import ConfigError, EngineError, Problem
from easyproxy.health.checks import make
from easyproxy.health.checks.password import NoPasswordError, Password
from easyproxy.strategy import StrategyError, load

if TYPE_CHECKING:
    from collections.abc import Iterator

    from easyproxy.config.schema import Config, PoolConfig
    from easyproxy.model import Snapshot


def needs_kernel(config: Config) -> bool:
    """Whether any listener is the kernel engine's."""
    return any(listener.engine == "kernel" for listener in config.listeners)


def lacking(config: Config, *, only_vital: bool = False) -> list[str]:
    """Say what is missing, each with its remedy; ``only_vital`` leaves out what can be lived without."""
    if not needs_kernel(config):
        return []
    from easyproxy.engine.kernel import requirements  # noqa: PLC0415 - loaded only by those who use it

    kernel = config.kernel
    return requirements(
        _whole(config), manages=kernel.manage_sysctl, only_vital=only_vital, shortcut=kernel.shortcut
    )


def refuse_if_lacking(config: Config) -> None:
    """Raise EngineError where something is missing that it cannot be served without."""
    if missing := lacking(config, only_vital=True):
        raise EngineError("\n".join(missing))


def absent(config: Config) -> list[Problem]:
    """Say which of the files, classes and groups that a configuration names cannot be had here, each under its setting.

    Looking at classes of the user's own imports, and so runs, their modules.
    """
    found = []
    if config.admin is not None:
        try:
            read_token(config.admin)
        except ConfigError as error:
            found += error.problems
    for index, listener in enumerate(config.listeners):
        try:
            if listener.group:
                grp.getgrnam(listener.group)
        except KeyError:
            found.append(Problem("", f"listeners[{index}].group", f"there is no group {listener.group}"))
    for name, pool in config.pools.items():
        for key, problem in (("strategy", _of_strategy(pool)), *_of_check(pool)):
            if problem:
                found.append(Problem("", f"pools.{name}.{key}", problem))
    return found


def _of_strategy(pool: PoolConfig) -> str:
    try:
        load(pool.strategy)
    except StrategyError as error:
        return str(error)
    return ""


def _of_check(pool: PoolConfig) -> Iterator[tuple[str, str]]:
    check = pool.check
    if check.type == "none":
        return
    try:
        make(check.type, check.options())
    except ValueError as error:
        yield "check", str(error)
    if certificates := getattr(check, "tls_ca", ""):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificates)
        except (OSError, ssl.SSLError) as error:
            yield "check.tls_ca", f"cannot use the certificates in {certificates}: {error.strerror or error}"
    # A credential exists only in the service, and a variable of the environment as well.
    if "/" in (password := getattr(check, "password_file", "") or ""):
        try:
            Password(file=password).read()
        except NoPasswordError as error:
            yield "check.password_file", str(error)


def _whole(config: Config) -> Snapshot:
    """Compose the kernel engine's part as if every backend were ready; what is behind a name is not known here."""
    from easyproxy.engine.composite import share  # noqa: PLC0415 - as above

    standings = {
        backend_id(name, backend): Standing(
            is_ready=True, address=backend.address if backend.address.is_numeric else None
        )
        for name, pool in config.pools.items()
        for backend in pool.backends
    }
    return share(compose(config, standings, now=0.0), "kernel")
