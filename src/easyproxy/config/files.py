"""Which paths a configuration names, and that a file which we write is nothing else besides: not a socket, a token, the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from posixpath import normpath

from easyproxy.config.document import Path, path_text, shown
from easyproxy.config.raw import Finding, address_of, backend_address, get, items, pools_of
from easyproxy.model import Address

_NO_FILES = ("off", "none", "stdout")


def problems(raw: object) -> list[Finding]:
    """Find files that we would write into although something else needs them. Pure, as ``cross`` is."""
    written, found = [*_written(raw)], []
    taken = {normpath(name): path for path, name in _needed(raw)} if written else {}
    for path, name in written:
        other = taken.setdefault(normpath(name), path)
        if other is not path:
            found.append(
                Finding(path, f"{shown(name)} is already taken by {path_text(other)}; name another file")
            )
    return found


def over_itself(raw: object, name: str) -> list[Finding]:
    """Find settings by which the configuration file ``name`` itself would be written into, also through a link."""
    return [
        Finding(path, "it is this configuration file; name another file")
        for path, written in _written(raw)
        if name and _real(written) == _real(name)
    ]


def _real(name: str) -> str | None:
    try:
        return os.path.realpath(name)
    except ValueError:  # a NUL, or what the locale cannot write: there is no such file
        return None


def _written(raw: object) -> Iterator[tuple[Path, str]]:
    """Files that we write."""
    log = get(raw, "access_log")
    path: Path = ("access_log",) if isinstance(log, str) else ("access_log", "path")
    for place, name in (
        (("state_file",), get(raw, "state_file")),
        (path, log if isinstance(log, str) else get(log, "path")),
    ):
        if isinstance(name, str) and name and name not in _NO_FILES:
            yield place, name


def _needed(raw: object) -> Iterator[tuple[Path, str]]:
    """Files that somebody else writes, and sockets."""
    admin = get(raw, "admin")
    named: list[tuple[Path, object]] = [
        (("admin", "token_file"), get(admin, "token_file")),
        (("worker_python",), get(raw, "worker_python")),
    ]
    sockets: list[tuple[Path, Address | None]] = [(("admin", "bind"), address_of(get(admin, "bind")))]
    for index, listener in enumerate(items(get(raw, "listeners"))):
        sockets.append((("listeners", index, "bind"), address_of(get(listener, "bind"))))
    for name, pool in pools_of(raw).items():
        check = get(pool, "check")
        named += [(("pools", name, "check", key), get(check, key)) for key in ("password_file", "tls_ca")]
        for index, backend in enumerate(items(get(pool, "backends"))):
            sockets.append((("pools", name, "backends", index), backend_address(backend)))
    named += [(path, address.path) for path, address in sockets if address is not None]
    for path, given in named:
        if isinstance(given, str) and "/" in given:
            yield path, given
