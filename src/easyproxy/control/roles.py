"""Who may serve which role: what the servers say of themselves, and how far replicas lag. Pure.

A pool that listeners use by role becomes one pool of the snapshot for each of these uses (docs/decisions/0006).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from easyproxy.config.schema import ListenerConfig
    from easyproxy.engine.seam import Facts

PRIMARY, REPLICA = "primary", "replica"
FALLBACK_PRIORITY = 1000
"""Of the primary behind a listener of replicas that may fall back to it: behind every backup."""
_RETURNS_AT = 0.5
"""A replica that lagged too far returns at this share of ``max_lag``, so that it does not come and go."""


class Use(NamedTuple):
    """What listeners make of a pool: those with the same role and fallback share one pool of the snapshot."""

    name: str
    """Of the pool in the snapshot."""
    role: str = ""
    fallback: str = ""


def use_of(listener: ListenerConfig) -> str:
    """Name the pool that serves a listener in a snapshot: ``orders``, ``orders/primary``, ``orders/replica+primary``."""
    if not listener.role:
        return listener.pool
    return f"{listener.pool}/{listener.role}" + (f"+{listener.fallback}" if listener.fallback else "")


def uses_of(pool: str, listeners: Iterable[ListenerConfig]) -> tuple[Use, ...]:
    """List the uses of a pool, each once. A pool that no listener uses has one without a role."""
    names = {use_of(one): one for one in listeners if one.pool == pool}
    return tuple(Use(name, one.role or "", one.fallback or "") for name, one in names.items()) or (Use(pool),)


def lags(was_lagging: bool, facts: Facts, max_lag_s: float | None, unknown_s: float = 0.0) -> bool:
    """Whether a server lags too far to serve as a replica.

    One whose lag is not known stays what it was, but not for longer than ``max_lag_s``.

    Args:
        was_lagging: so far; where its lag is not known, when it last was.
        facts: what its last probe has learnt.
        max_lag_s: what is allowed; None or 0 is no limit.
        unknown_s: how long there have been writes to fall behind of without its lag being known.

    >>> from easyproxy.engine.seam import Facts
    >>> [lags(was, Facts("replica", lag_s=3.0), 5.0) for was in (False, True)]
    [False, True]
    """
    if facts.role != REPLICA:
        return False
    if facts.lag_s == float("inf"):
        return True
    if not max_lag_s:
        return False
    if facts.lag_s < 0:
        return was_lagging or unknown_s > max_lag_s
    return facts.lag_s > max_lag_s * (_RETURNS_AT if was_lagging else 1.0)
