"""The one JSON file of the old EasyProxy, read strictly and turned into a configuration of today.

``heartbeat`` is the check interval in seconds, ``maxprocessor`` the workers, ``webport`` the port of the admin server,
``service`` the name of the pool. What the old file cannot say takes today's defaults.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from pydantic import Field
from pydantic_core import PydanticCustomError

from easyproxy.config.addresses import BackendAddress, ListenAddress
from easyproxy.config.bases import Settings
from easyproxy.config.checks import TcpCheckSettings
from easyproxy.config.cross import collide
from easyproxy.config.document import Document, path_text, shown
from easyproxy.config.fields import Text, Whole, Word
from easyproxy.config.schema import AdminConfig, BackendConfig, Config, ListenerConfig, PoolConfig, PoolName
from easyproxy.config.words import listing, nearest
from easyproxy.errors import Problem
from easyproxy.model import Address
from easyproxy.strategy import ALIASES

_KEYS = ("service", "host", "port", "webport", "strategy", "heartbeat", "maxprocessor", "backends")
_NEW_KEYS = frozenset({"listeners", "pools", "admin", "workers", "drain_timeout", "log", "access_log"})

Host = Annotated[str, Text(most=253, line=True)]
Port = Annotated[int, Whole(1, 65535)]


class OldBackend(Settings):
    """A server in the old file."""

    host: Host
    port: Port


class OldFile(Settings):
    """The old file as it is."""

    service: PoolName = "default"
    host: Host = ""
    port: Port
    webport: Port = 7259
    strategy: Annotated[str, Word(tuple(sorted({*ALIASES, "random"})))] = "poll"
    heartbeat: Annotated[int, Whole(1, 86400)] = 2
    maxprocessor: Annotated[int, Whole(1, 256)] = 1
    backends: Annotated[tuple[OldBackend, ...], Field(min_length=1, max_length=65536)]


def is_legacy(raw: Mapping[str, object]) -> bool:
    """Tell the old shape: some of its keys, and none of today's."""
    return not _NEW_KEYS.intersection(raw) and bool(set(_KEYS).intersection(raw))


def explain_unknown(path: tuple[str | int, ...], _: object) -> str:
    """Say what an unknown key in the old file could mean."""
    known = _KEYS if len(path) == 1 else ("host", "port")
    key = str(path[-1])
    near = nearest(key, known)
    hint = f"did you mean {near}?" if near else f"it has {listing(known, 'and')}"
    return f"there is no setting {shown(key)} in a file of the old EasyProxy; {hint}"


def _address(host: str, port: int) -> Address:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.IPv6Address(bare)
    except ValueError:
        return Address.parse(f"{host}:{port}")
    return Address(bare, port)


def contradictions(old: OldFile, document: Document) -> list[Problem]:
    """Find what the types cannot say: hosts that are none, addresses used twice."""
    found: list[Problem] = []

    def tell(path: tuple[str | int, ...], message: str) -> None:
        found.append(Problem(document.where(document.mark(path)), path_text(path), message))

    try:
        bind = _address(old.host, old.port)
        ListenAddress().read(bind)
        if collide(bind, Address("127.0.0.1", old.webport)) or old.port == old.webport:
            tell(("webport",), f"{old.webport} is already the port that clients use")
    except (ValueError, PydanticCustomError) as error:
        tell(("host",), _words(error))
    seen: dict[Address, int] = {}
    for index, backend in enumerate(old.backends):
        path = ("backends", index, "host")
        try:
            address = BackendAddress().read(_address(backend.host, backend.port))
        except (ValueError, PydanticCustomError) as error:
            tell(path, _words(error))
            continue
        if address in seen:
            tell(path, f"{shown(str(address))} is already in the list as backends[{seen[address]}]")
        seen.setdefault(address, index)
    return found


def _words(error: Exception) -> str:
    return error.message() if isinstance(error, PydanticCustomError) else str(error)


def convert(old: OldFile) -> Config:
    """Say the same in today's words. The admin server stays on the listener's address where that is private."""
    bind = _address(old.host, old.port)
    admin = Address(bind.host if bind.is_private else "127.0.0.1", old.webport)
    pool = PoolConfig(
        strategy=ALIASES.get(old.strategy, old.strategy),
        check=TcpCheckSettings.model_validate({"interval": timedelta(seconds=old.heartbeat)}),
        backends=tuple(
            BackendConfig(address=_address(backend.host, backend.port)) for backend in old.backends
        ),
    )
    return Config.model_validate(
        {
            "listeners": (ListenerConfig(name=old.service, bind=bind, pool=old.service),),
            "pools": {old.service: pool},
            "admin": AdminConfig(bind=admin),
            "workers": old.maxprocessor,
        }
    )


def warnings(old: OldFile, document: Document) -> tuple[Problem, ...]:
    """Say what is different from the old program."""
    bind = _address(old.host, old.port)
    if bind.is_private:
        return ()
    message = (
        f"the old program served its statistics to everybody; here they are on 127.0.0.1:{old.webport}."
        " For another address write a file of today's shape, with a token"
    )
    return (Problem(document.where(document.mark(("webport",))), "webport", message),)
