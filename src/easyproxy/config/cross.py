"""What concerns several settings at once: references, names and addresses used twice, an admin server in the open.

It works on the file's raw data as far as that can be read, so that its findings are told together with every wrong
type and unknown key. Pure: data in, findings out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from posixpath import normpath

from pydantic import BaseModel

from easyproxy.config import drain, files, greeting, kernel, roles
from easyproxy.config.document import Path, path_text, shown
from easyproxy.config.rates import LONGEST_REFILL_S, rate_of
from easyproxy.config.raw import Finding, address_of, backend_address, get, items, pools_of
from easyproxy.config.roles import PASSWORDS
from easyproxy.config.words import format_duration, listing, nearest
from easyproxy.model import MAX_COUNTED, Address

DEFAULT_ADMIN = Address("127.0.0.1", 7259)


def problems(raw: object) -> list[Finding]:
    """Find every contradiction between settings."""
    return [
        *_listener_pools(raw),
        *_listener_names(raw),
        *_backends(raw),
        *_addresses(raw),
        *_passwords(raw),
        *_admin(raw),
        *_loops(raw),
        *_number(raw),
        *_rates(raw),
        *_permissions(raw),
        *files.problems(raw),
        *greeting.problems(raw),
        *kernel.problems(raw),
        *roles.problems(raw),
        *drain.problems(raw),
    ]


def warnings(raw: object) -> list[Finding]:
    """Find what is allowed but probably not meant."""
    used = {get(listener, "pool") for listener in items(get(raw, "listeners"))}
    found = []
    for name, pool in pools_of(raw).items():
        if name not in used:
            found.append(
                Finding(("pools", name), "no listener uses this pool; its backends are checked for nothing")
            )
        backends = items(get(pool, "backends"))
        if backends and all(get(backend, "backup") is True for backend in backends):
            found.append(
                Finding(("pools", name, "backends"), "every backend is a backup; backup then changes nothing")
            )
        check = get(pool, "check")
        found += [
            Finding(("pools", name, "check", key), f"{key} has no effect without tls: true")
            for key in ("tls_verify", "tls_ca", "server_name")
            if get(check, key) not in (None, "", True) and get(check, "tls") is not True
        ]
    found += [
        Finding(("listeners", index, "client_burst"), "it has no effect without client_rate")
        for index, listener in enumerate(items(get(raw, "listeners")))
        if get(listener, "client_burst") not in (None, 0)
        and get(listener, "client_rate") in (None, 0, "0", "none")
    ]
    return [
        *found,
        *greeting.warnings(raw),
        *kernel.warnings(raw),
        *roles.warnings(raw),
        *drain.warnings(raw),
    ]


def _listener_pools(raw: object) -> Iterator[Finding]:
    pools = pools_of(raw)
    for index, listener in enumerate(items(get(raw, "listeners"))):
        pool = get(listener, "pool")
        if isinstance(pool, str) and pools and pool not in pools:
            near = nearest(pool, pools)
            hint = f"did you mean {near}?" if near else f"there {_are(pools)}"
            yield Finding(("listeners", index, "pool"), f"there is no pool {shown(pool)}; {hint}")


def _are(pools: Mapping[str, object]) -> str:
    names = [str(shown(name)) for name in list(pools)[:10]]
    return f"{'is' if len(names) == 1 else 'are'} {listing(names, 'and')}" + (
        " and more" if len(pools) > 10 else ""
    )


def _listener_names(raw: object) -> Iterator[Finding]:
    seen: dict[object, Path] = {}
    for index, listener in enumerate(items(get(raw, "listeners"))):
        name = get(listener, "name")
        if not isinstance(name, str):
            continue
        path: Path = ("listeners", index, "name")
        if name in seen:
            yield Finding(path, f"the name {shown(name)} is already taken by {path_text(seen[name][:-1])}")
        seen.setdefault(name, path)


def _backends(raw: object) -> Iterator[Finding]:
    for pool_name, pool in pools_of(raw).items():
        names: dict[str, Path] = {}
        addresses: dict[tuple[object, int], Path] = {}
        for index, backend in enumerate(items(get(pool, "backends"))):
            here: Path = ("pools", pool_name, "backends", index)
            address = backend_address(backend)
            given = get(backend, "name")
            name = given if isinstance(given, str) else str(address) if address else None
            if address:
                key = _key(address)
                if key in addresses:
                    yield Finding(
                        (*here, "address"),
                        f"{shown(str(address))} is already in this pool as {path_text(addresses[key])};"
                        " give one of them the weight of both",
                    )
                    continue
                addresses[key] = here
            if name is not None and name in names:
                yield Finding(
                    (*here, "name"), f"the name {shown(name)} is already taken by {path_text(names[name])}"
                )
            elif name is not None:
                names[name] = here


def _key(address: Address) -> tuple[object, int]:
    """Make equal addresses equal however they are written."""
    if address.path:
        return normpath(address.path), -1
    try:
        return ipaddress.ip_address(address.host), address.port
    except ValueError:
        return address.host.lower().rstrip("."), address.port


def _host(address: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Say which numeric address a bind takes; None is every one of both families."""
    if not address.host:
        return None
    if address.host == "localhost":
        return ipaddress.ip_address("127.0.0.1")
    host = ipaddress.ip_address(address.host)
    return None if host.version == 6 and host.is_unspecified else host


def collide(one: Address, other: Address) -> bool:
    """Tell whether two sockets cannot listen on these addresses at the same time.

    A wildcard takes its families: ``:80`` and ``[::]:80`` both, ``0.0.0.0:80`` IPv4. Port 0 never collides.
    """
    if one.path or other.path:
        return normpath(one.path) == normpath(other.path)
    if one.port != other.port or one.port == 0:
        return False
    try:
        mine, theirs = _host(one), _host(other)
    except ValueError:  # a name; that is told elsewhere
        return False
    if mine is None or theirs is None or mine == theirs:
        return True
    return mine.version == theirs.version and (mine.is_unspecified or theirs.is_unspecified)


def _addresses(raw: object) -> Iterator[Finding]:
    seen: list[tuple[Address, Path]] = []
    for index, listener in enumerate(items(get(raw, "listeners"))):
        address = address_of(get(listener, "bind"))
        if address:
            path: Path = ("listeners", index, "bind")
            yield from _taken(address, path, seen)
            seen.append((address, path))
    admin = admin_bind(raw)
    if admin:
        given = get(get(raw, "admin"), "bind") is not None
        yield from _taken(
            admin, ("admin", "bind") if given else ("admin",), seen, "" if given else " (the default)"
        )


def _taken(
    address: Address, path: Path, seen: list[tuple[Address, Path]], note: str = ""
) -> Iterator[Finding]:
    for other, where in seen:
        if collide(address, other):
            same = "" if address == other else f", which includes it: {other}"
            if same and (other.host and address.host in ("", "0.0.0.0", "::")):  # noqa: S104 - compared, not bound
                same = f": {other} is part of it"
            yield Finding(path, f"{shown(str(address))}{note} is already taken by {path_text(where)}{same}")
            return


def admin_bind(raw: object) -> Address | None:
    """Say where the admin server would listen; None if nowhere or if it cannot be told."""
    admin = get(raw, "admin")
    if isinstance(raw, Mapping) and "admin" not in raw:
        return DEFAULT_ADMIN
    if not isinstance(admin, Mapping | BaseModel):
        return None
    bind = get(admin, "bind")
    return DEFAULT_ADMIN if bind is None else address_of(bind)


def _passwords(raw: object) -> Iterator[Finding]:
    for name, pool in pools_of(raw).items():
        check = get(pool, "check")
        first, *others = [key for key in PASSWORDS if get(check, key) not in (None, "")] or ("",)
        for key in others:
            yield Finding(
                ("pools", name, "check", key), f"there is {first} already; give one of {listing(PASSWORDS)}"
            )


def _admin(raw: object) -> Iterator[Finding]:
    admin = get(raw, "admin")
    if isinstance(raw, Mapping) and "admin" in raw and admin is None:
        yield Finding(
            ("admin",), "nothing is given here; write off to run without admin server, or leave it out"
        )
    token, file = get(admin, "token"), get(admin, "token_file")
    if token is not None and file is not None:
        yield Finding(("admin", "token_file"), "there is a token already; give either token or token_file")
    bind = admin_bind(raw)
    if bind and not bind.is_private and token is None and file is None:
        yield Finding(
            ("admin", "bind"),
            f"{shown(str(bind))} can be reached from other machines, and there is no token;"
            f" write 127.0.0.1:{bind.port}, or add token_file or token",
        )


def _loops(raw: object) -> Iterator[Finding]:
    """Find a backend that is the very listener that it serves: every session would open the next."""
    pools = pools_of(raw)
    for listener in items(get(raw, "listeners")):
        bind, pool = address_of(get(listener, "bind")), get(listener, "pool")
        if not bind or not isinstance(pool, str) or (not bind.path and not bind.port):
            continue
        for index, backend in enumerate(items(get(pools.get(pool), "backends"))):
            address = backend_address(backend)
            if address and address.host and _serves(bind, address):
                yield Finding(
                    ("pools", pool, "backends", index, "address"),
                    f"{shown(str(address))} is the listener {bind} itself; its sessions would go round for ever",
                )
            elif address and address.path and collide(bind, address):
                yield Finding(
                    ("pools", pool, "backends", index, "address"),
                    f"{shown(str(address))} is the listener itself; its sessions would go round for ever",
                )


def _number(raw: object) -> Iterator[Finding]:
    """Find more than there are counters for, whether or not all backends are ever ready together."""
    pools, listeners = pools_of(raw), items(get(raw, "listeners"))
    uses = {tuple(str(get(one, key) or "") for key in ("pool", "role", "fallback")) for one in listeners}
    unused = pools.keys() - {pool for pool, _role, _fallback in uses}
    backends = sum(len(items(get(pool, "backends"))) for pool in pools.values())
    number = len(listeners) + len(uses) + len(unused) + backends
    if number > MAX_COUNTED:
        yield Finding(
            ("pools",),
            f"listeners, pools and backends are {number:,}, and {MAX_COUNTED:,} are the most; spread them over several balancers",
        )


def _rates(raw: object) -> Iterator[Finding]:
    for index, listener in enumerate(items(get(raw, "listeners"))):
        rate, burst = rate_of(get(listener, "client_rate")), get(listener, "client_burst")
        if rate is None:
            continue
        bind = address_of(get(listener, "bind"))
        if bind is not None and bind.path:
            yield Finding(
                ("listeners", index, "client_rate"), "clients of a unix socket have no address; leave it out"
            )
        if isinstance(burst, int) and burst * rate.interval_ns > LONGEST_REFILL_S * 1_000_000_000:
            most = LONGEST_REFILL_S * 1_000_000_000 // rate.interval_ns
            yield Finding(
                ("listeners", index, "client_burst"),
                f"at {rate} it would take {format_duration(burst * rate.interval_ns // 1_000_000_000)} until so many may come"
                f" at once again, and nobody is remembered for longer than a day; {most} is the most",
            )


def _permissions(raw: object) -> Iterator[Finding]:
    for index, listener in enumerate(items(get(raw, "listeners"))):
        bind = address_of(get(listener, "bind"))
        if bind is None or bind.path:
            continue
        for key in ("mode", "group"):
            if get(listener, key) not in (None, ""):
                yield Finding(
                    ("listeners", index, key),
                    "only a unix socket has a file that permissions hold for; leave it out",
                )


def _serves(bind: Address, address: Address) -> bool:
    if bind.port != address.port:
        return False
    if bind.host and _key(bind) == _key(address):
        return True
    # A wildcard listener also has the machine's other addresses, which are not known here; loopback is certain.
    return address.is_private and collide(bind, address)
