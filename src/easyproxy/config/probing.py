"""How many probes a second a configuration asks for, and whether that is more than one control process should make. Pure."""

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
    """Find that probes would come too often, at the pool that asks for the most."""
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
