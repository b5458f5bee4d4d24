"""What a pool may want to hear of a backend before a client is its own. Pure, as ``cross`` is."""

from __future__ import annotations

from easyproxy.config.raw import Finding, get, given, pools_of

NO_GREETING = "none"
GREETINGS = (NO_GREETING, "any", "mysql", "postgresql")
_SERVER_FIRST = ("any", "mysql")


def problems(raw: object) -> list[Finding]:
    """Find what cannot be had."""
    return [
        Finding(
            ("pools", name, "hedge"),
            "only backends that greet before the client has spoken can race; write greeting: any or greeting: mysql, or leave"
            " it out",
        )
        for name, pool in pools_of(raw).items()
        if get(pool, "hedge") is True and get(pool, "greeting") not in _SERVER_FIRST
    ]


def warnings(raw: object) -> list[Finding]:
    """Find what has no effect."""
    return [
        Finding(("pools", name, "greeting_timeout"), "it has no effect without greeting")
        for name, pool in pools_of(raw).items()
        if given(pool, "greeting_timeout") and get(pool, "greeting") in (None, NO_GREETING)
    ]
