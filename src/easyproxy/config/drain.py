"""How a pool's sessions end when they are to leave: whether their transactions can be followed at all. Pure, as ``cross`` is."""

from __future__ import annotations

from collections.abc import Iterator

from easyproxy.config.document import path_text, shown
from easyproxy.config.kernel import kernel_pools
from easyproxy.config.raw import Finding, check_type, get, pools_of
from easyproxy.config.words import listing

SESSIONS_END, BETWEEN_TRANSACTIONS = WHEN = ("sessions_end", "between_transactions")
PROTOCOLS = ("mysql", "postgresql")
"""Protocols in which a stream shows whether a transaction is open; a check or a greeting of that name tells that the pool speaks it."""


def problems(raw: object) -> list[Finding]:
    """Find pools whose transactions cannot be followed."""
    return [*_unknown_protocols(raw), *_kernel(raw)]


def warnings(raw: object) -> list[Finding]:
    """Find what has no effect."""
    found = [
        Finding(
            ("pools", name, "drain", "protocol"),
            f"it has no effect without when: {BETWEEN_TRANSACTIONS}",
        )
        for name, pool in pools_of(raw).items()
        if get(get(pool, "drain"), "protocol") is not None and not _follows(pool)
    ]
    found += [
        Finding(
            ("pools", name, "drain"),
            f"{BETWEEN_TRANSACTIONS} has no effect for {path_text(path)}, whose engine is kernel: it does not see what sessions say",
        )
        for name, (path, is_only) in kernel_pools(raw).items()
        if not is_only and _follows(pools_of(raw).get(name))
    ]
    return found


def _follows(pool: object) -> bool:
    drain = get(pool, "drain")
    return BETWEEN_TRANSACTIONS in (drain, get(drain, "when"))


def _unknown_protocols(raw: object) -> Iterator[Finding]:
    for name, pool in pools_of(raw).items():
        if not _follows(pool) or get(get(pool, "drain"), "protocol") is not None:
            continue
        kind, greeting = check_type(pool), get(pool, "greeting")
        if isinstance(kind, str) and kind not in PROTOCOLS and greeting not in PROTOCOLS:
            and_greeting = (
                "and it has no greeting" if greeting in (None, "none") else f"its greeting {shown(greeting)}"
            )
            yield Finding(
                ("pools", name, "drain"),
                f"which protocol its clients speak is not known: its check is {shown(kind)}, {and_greeting}; write"
                f" {{when: {BETWEEN_TRANSACTIONS}, protocol: {listing(PROTOCOLS)}}}",
            )


def _kernel(raw: object) -> Iterator[Finding]:
    for name, (path, is_only) in kernel_pools(raw).items():
        if is_only and _follows(pools_of(raw).get(name)):
            yield Finding(
                ("pools", name, "drain"),
                f"{path_text(path)} has engine: kernel, which does not see what sessions say, so nobody knows when no"
                f" transaction is open; write {SESSIONS_END}, or engine: relay there",
            )
