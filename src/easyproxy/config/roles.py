"""Listeners by role: what they ask for, and whether the pool's check can tell. Pure, as ``cross`` is."""

from __future__ import annotations

from collections.abc import Iterator

from easyproxy.config.document import path_text, shown
from easyproxy.config.raw import Finding, check_type, get, given, items, pools_of

ROLES = ("primary", "replica")
FALLBACKS = ("primary",)
SPLIT_BRAIN = ("refuse", "keep", "first")
KNOWS_ROLES = ("mysql", "postgresql", "redis")
"""Checks that learn the role of a server; one of the user's own may."""
_NEEDS_PASSWORD = {"mysql", "postgresql"}
PASSWORDS = ("password", "password_file", "password_env")
"""Where a password may be given, one instead of the other."""


def problems(raw: object) -> list[Finding]:
    """Find what listeners with a role ask for and cannot have."""
    return [*_fallbacks(raw), *_checks(raw)]


def warnings(raw: object) -> list[Finding]:
    """Find what has no effect."""
    users = [(get(one, "role"), get(one, "pool")) for one in items(get(raw, "listeners"))]
    wanted = {pool for role, pool in users if role == "primary" and isinstance(pool, str)}
    replicas = {pool for role, pool in users if role == "replica" and isinstance(pool, str)}
    found = [
        Finding(("pools", name, "failover"), "it has no effect: no listener of this pool has role: primary")
        for name, pool in pools_of(raw).items()
        if given(pool, "failover") and name not in wanted
    ]
    found += [
        Finding(
            ("pools", name, "close_sessions_on_lag"),
            "it has no effect: no listener of this pool has role: replica",
        )
        for name, pool in pools_of(raw).items()
        if get(pool, "close_sessions_on_lag") is True and name not in replicas
    ]
    found += [
        Finding(
            ("pools", name, "check", "max_lag"),
            "it has no effect: no listener of this pool has role: replica",
        )
        for name, pool in pools_of(raw).items()
        if get(get(pool, "check"), "max_lag") not in (None, 0, "none") and name not in replicas
    ]
    return found


def _fallbacks(raw: object) -> Iterator[Finding]:
    for index, listener in enumerate(items(get(raw, "listeners"))):
        if get(listener, "fallback") is not None and get(listener, "role") != "replica":
            yield Finding(
                ("listeners", index, "fallback"),
                "only a listener with role: replica can fall back; add that, or leave it out",
            )


def _checks(raw: object) -> Iterator[Finding]:
    pools = pools_of(raw)
    for index, listener in enumerate(items(get(raw, "listeners"))):
        role, pool = get(listener, "role"), get(listener, "pool")
        if role not in ROLES or not isinstance(pool, str) or pool not in pools:
            continue
        check = get(pools[pool], "check")
        kind = check_type(pools[pool])
        where = path_text(("pools", pool, "check"))
        if not isinstance(kind, str) or ":" in kind:
            continue
        if kind not in KNOWS_ROLES:
            yield Finding(
                ("listeners", index, "role"),
                f"{where} is {shown(kind)}, which does not know who is the {role}; write one of"
                f" {', '.join(KNOWS_ROLES)} with user and password_file there",
            )
        elif kind in _NEEDS_PASSWORD and all(get(check, key) is None for key in PASSWORDS):
            yield Finding(
                ("listeners", index, "role"),
                f"{where} has no password, and without logging in it does not know who is the {role}; give user and"
                " password_file there",
            )
