"""How often a configuration has servers probed: whether that is more than one control process should do, or too seldom. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from easyproxy.config.raw import Finding
from easyproxy.config.words import format_duration

if TYPE_CHECKING:
    from easyproxy.config.schema import Config

MANY = 1000
"""Probes a second that take a sixth (``tcp``) to a third (``http``) of the control process's time; it has other work."""


def warnings(config: Config) -> list[Finding]:
    """Find probes that come too often, all in all, or too seldom for what they are to find."""
    return [*_too_many(config), *_too_few(config)]


def _too_few(config: Config) -> list[Finding]:
    """Find replicas that would count as lagging though they are well.

    They lack the last record, as all do for a moment (PostgreSQL), or their primary has died and was not asked since.
    """
    return [
        Finding(
            ("pools", name, "check", "max_lag"),
            f"probes are {format_duration(check.interval)} apart, and nothing is known between them: replicas that are well may count as"
            f" lagging; give at least {format_duration(2 * check.interval)}, or shorten interval",
        )
        for name, pool in config.pools.items()
        if 0 < getattr(check := pool.check, "max_lag", 0) < 2 * check.interval
    ]


def _too_many(config: Config) -> list[Finding]:
    """Find it at the pool that asks for the most."""
    rates = {
        name: len(pool.backends) / pool.check.interval
        for name, pool in config.pools.items()
        if pool.check.type != "none"
    }
    total = sum(rates.values())
    if total <= MANY:
        return []
    name = max(rates, key=rates.__getitem__)
    longer = format_duration(math.ceil(config.pools[name].check.interval * total / MANY * 10) / 10)
    others = "" if len(rates) == 1 else f", {math.ceil(rates[name]):,} of them for this pool,"
    return [
        Finding(
            ("pools", name, "check", "interval"),
            f"{math.ceil(total):,} probes a second{others} are more than the {MANY:,} that leave the control process enough time for"
            f" everything else; lengthen interval, to {longer} for example",
        )
    ]
