"""What a listener with ``engine: kernel`` can have: nothing that it cannot do is ever ignored. Pure, as ``cross`` is.

A setting that was written and has no effect is an error; in a pool that listeners of both engines use it still has
one for the others, and is a warning. Values that mean "without" are right, because that is how it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from importlib.metadata import entry_points

from easyproxy.config.document import Path, path_text, shown
from easyproxy.config.greeting import GREETINGS, NO_GREETING
from easyproxy.config.raw import Finding, address_of, backend_address, get, given, items, pools_of
from easyproxy.config.words import listing, parse_duration
from easyproxy.model import Address
from easyproxy.strategy import ALIASES, BUILTIN, ENTRY_POINTS

ENGINES = ("relay", "kernel")
KERNEL_SOURCES = ("masquerade", "transparent")
KERNEL_STRATEGIES = ("round_robin", "random", "source_hash", "maglev")
"""What rules of the kernel can express; the same as the engine's own list, which is not imported here."""

_WHY_NOT = {
    "least_connections": "its rules cannot compare numbers of sessions",
    "power_of_two": "its rules cannot compare numbers of sessions",
    "first": "it goes on to the next only when a connect fails, which the kernel does not do",
}
_OF_LISTENER = {
    "backlog": "nobody accepts clients there, so none waits for it",
    "keepalive": "client and backend are connected with each other, and each one's own keep-alive reaches the other",
    "user_timeout": "client and backend are connected with each other, and their own time-outs hold",
}
_OF_POOL = {
    "retries": "the client's own connect goes through to one backend",
    "queue_timeout": "a client that finds its backend full is refused",
    "greeting": "nobody hears what backends say",
    "hedge": "nobody hears what backends say",
}
_WITHOUT = {"retries": "0", "queue_timeout": "0", "hedge": "false"}
_ALWAYS = frozenset({"backlog"})  # no value of it means "without"


def problems(raw: object) -> list[Finding]:
    """Find what listeners with ``engine: kernel`` ask for and cannot have."""
    return [*_listeners(raw), *_pools(raw)]


def warnings(raw: object) -> list[Finding]:
    """Find what is otherwise than by default, and settings of pools that hold for some of their listeners only."""
    found = [
        Finding(
            (*path, "max_sessions"),
            "with engine: kernel the next client is refused at this limit; write overload: refuse to say so",
        )
        for path, listener in _kernel_listeners(raw)
        if get(listener, "max_sessions") not in (None, 0) and not given(listener, "overload")
    ]
    found += [
        Finding(
            ("pools", name, "failover", "hold"),
            f"it has no effect for {path_text(path)}, whose engine is kernel: nobody accepts clients there, so none waits"
            " for a primary",
        )
        for path, listener in _kernel_listeners(raw)
        if get(listener, "role") == "primary"
        and isinstance(name := get(listener, "pool"), str)
        and given(get(pools_of(raw).get(name), "failover"), "hold")
        and not _is_off(get(get(pools_of(raw).get(name), "failover"), "hold"))
    ]
    for name, path in _served(raw).items():
        if name not in _only_kernel(raw):
            found += [
                Finding(
                    ("pools", name, key),
                    f"it has no effect for {path_text(path)}, whose engine is kernel: {why}",
                )
                for key, why in _without_effect(pools_of(raw).get(name), _OF_POOL)
            ]
    return found


def _kernel_listeners(raw: object) -> Iterator[tuple[Path, object]]:
    for index, listener in enumerate(items(get(raw, "listeners"))):
        if get(listener, "engine") == "kernel":
            yield ("listeners", index), listener


def _served(raw: object) -> dict[str, Path]:
    """Name the pools that such listeners use, each with the first of these."""
    served: dict[str, Path] = {}
    for path, listener in _kernel_listeners(raw):
        pool = get(listener, "pool")
        if isinstance(pool, str):
            served.setdefault(pool, path)
    return served


def kernel_pools(raw: object) -> dict[str, tuple[Path, bool]]:
    """Name the pools that such listeners use: the first of these, and whether no listener of another engine uses it."""
    only = _only_kernel(raw)
    return {name: (path, name in only) for name, path in _served(raw).items()}


def _only_kernel(raw: object) -> set[str]:
    others = {
        pool
        for listener in items(get(raw, "listeners"))
        if get(listener, "engine") != "kernel" and isinstance(pool := get(listener, "pool"), str)
    }
    return {name for name in _served(raw) if name not in others}


def _listeners(raw: object) -> Iterator[Finding]:
    for path, listener in _kernel_listeners(raw):
        bind = address_of(get(listener, "bind"))
        if bind is not None and bind.path:
            yield Finding(
                (*path, "bind"),
                f"{shown(str(bind))} is a unix socket, and engine: kernel forwards packets; write host:port,"
                " or engine: relay",
            )
        elif bind is not None and "%" in bind.host:
            yield Finding((*path, "bind"), _link_local(bind))
        if get(listener, "overload") == "wait" and given(listener, "overload"):
            yield Finding(
                (*path, "overload"),
                "with engine: kernel no client waits: at max_sessions the next one is refused; write refuse,"
                " or engine: relay",
            )
        for key, why in _without_effect(listener, _OF_LISTENER):
            yield Finding((*path, key), _no_effect(key, why))


def _pools(raw: object) -> Iterator[Finding]:
    pools = pools_of(raw)
    for name, path in _served(raw).items():
        pool = pools.get(name)
        yield from _strategy(name, pool, path)
        if name in _only_kernel(raw):
            for key, why in _without_effect(pool, _OF_POOL):
                yield Finding(("pools", name, key), _no_effect(key, why))
        yield from _paths(name, pool, path)
    for path, listener in _kernel_listeners(raw):
        if isinstance(pool_name := get(listener, "pool"), str):
            bind = address_of(get(listener, "bind"))
            yield from _families(pool_name, pools.get(pool_name), bind, path)


def _strategy(name: str, pool: object, path: Path) -> Iterator[Finding]:
    value = get(pool, "strategy")
    if not isinstance(value, str) or ALIASES.get(value, value) in KERNEL_STRATEGIES:
        return
    wanted = ALIASES.get(value, value)
    if (
        wanted not in BUILTIN
        and ":" not in wanted
        and not any(point.name == wanted for point in entry_points(group=ENTRY_POINTS))
    ):
        return  # not known at all, which is told elsewhere
    why = _WHY_NOT.get(wanted, "no Python runs where it chooses")
    yield Finding(
        ("pools", name, "strategy"),
        f"{path_text(path)} has engine: kernel, which cannot choose by {shown(value)}: {why};"
        f" write {listing(KERNEL_STRATEGIES)}, or engine: relay there",
    )


def _paths(name: str, pool: object, path: Path) -> Iterator[Finding]:
    for index, backend in enumerate(items(get(pool, "backends"))):
        address = backend_address(backend)
        if address is not None and address.path:
            yield Finding(
                ("pools", name, "backends", index, "address"),
                f"{shown(str(address))} is a unix socket, and {path_text(path)} has engine: kernel, which forwards"
                " packets; write host:port, or engine: relay there",
            )
        elif address is not None and "%" in address.host:
            yield Finding(("pools", name, "backends", index, "address"), _link_local(address))


def _link_local(address: Address) -> str:
    return (
        f"{shown(str(address))} is link-local, and engine: kernel cannot forward there; write a routed address,"
        " or engine: relay"
    )


def _families(name: str, pool: object, bind: Address | None, path: Path) -> Iterator[Finding]:
    family = _family(bind)
    for index, backend in enumerate(items(get(pool, "backends"))):
        other = _family(address := backend_address(backend))
        if family and other and family != other:
            yield Finding(
                ("pools", name, "backends", index, "address"),
                f"{shown(str(address))} is IPv{other}, and {path_text(path)} takes IPv{family}; engine: kernel cannot"
                " turn one into the other: write addresses of one family, or engine: relay there",
            )


def _family(address: Address | None) -> int:
    """Say 4 or 6; 0 for both, and for a name."""
    if address is None or address.path or address.host in ("", "::"):
        return 0
    if address.host == "localhost":
        return 4
    try:
        return ipaddress.ip_address(address.host.partition("%")[0]).version
    except ValueError:
        return 0


def _without_effect(item: object, reasons: dict[str, str]) -> Iterator[tuple[str, str]]:
    for key, why in reasons.items():
        if given(item, key) and (key in _ALWAYS or not _is_off(get(item, key))):
            yield key, why


def _is_off(value: object) -> bool:
    if value in GREETINGS:
        return value == NO_GREETING
    if isinstance(value, str) and value != "none":
        try:
            return parse_duration(value) == 0
        except ValueError:
            return True  # wrong in itself, which is told elsewhere
    return value is None or value in ("none", 0)


def _no_effect(key: str, why: str) -> str:
    leave = "leave it out" if key in _ALWAYS else f"leave it out or write {_WITHOUT.get(key, 'none')}"
    return f"it has no effect with engine: kernel: {why}; {leave}, or write engine: relay"
