"""From what is configured and what is known to the snapshot that an engine gets. Pure.

Only ready backends enter a snapshot. Slow start is a matter of weights, so every engine can do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from easyproxy.config.schema import BackendConfig, Config, ListenerConfig, PoolConfig

SLOW_START_SCALE = 20
"""Weights are multiplied by this while a backend of the pool is in slow start: its share grows in that many steps."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one backend.

    Attributes:
        is_ready: it may get sessions: healthy, and its operator lets it.
        address: where it is, numeric; None while its name is not resolved.
        rising_since: when it came back from being down, in seconds of the caller's clock; 0 for no slow start.
    """

    is_ready: bool
    address: Address | None
    rising_since: float = 0.0


def backend_id(pool: str, backend: BackendConfig) -> str:
    """Name a backend over all pools."""
    return f"{pool}/{backend.name}"


def rise(standing: Standing, slow_start_s: float, now: float) -> float:
    """Return the share of its weight that a backend has now: 1 outside of slow start.

    >>> rise(Standing(True, None, rising_since=100.0), slow_start_s=10, now=105.0)
    0.5
    """
    if not standing.rising_since or not slow_start_s:
        return 1.0
    done = (now - standing.rising_since) / slow_start_s
    return min(1.0, max(1 / SLOW_START_SCALE, int(done * SLOW_START_SCALE) / SLOW_START_SCALE))


def compose(config: Config, standings: Mapping[str, Standing], now: float, version: int = 0) -> Snapshot:
    """Make the snapshot that follows from the configuration and what is known at ``now``."""
    return Snapshot(
        version=version,
        listeners=tuple(_listener(listener) for listener in config.listeners),
        pools=tuple(_pool(name, pool, standings, now) for name, pool in config.pools.items()),
    )


def _listener(config: ListenerConfig) -> Listener:
    return Listener(
        name=config.name,
        bind=config.bind,
        pool=config.pool,
        max_sessions=config.max_sessions,
        overload=config.overload,
        backlog=config.backlog,
        idle_timeout_s=config.idle_timeout,
        half_closed_timeout_s=config.half_closed_timeout,
        life_timeout_s=config.max_lifetime,
        user_timeout_s=config.user_timeout,
        keepalive_s=config.keepalive,
        engine=config.engine,
    )


def _pool(name: str, config: PoolConfig, standings: Mapping[str, Standing], now: float) -> Pool:
    ready: list[tuple[Backend, float]] = []
    for backend in config.backends:
        standing = standings[backend_id(name, backend)]
        if standing.is_ready and standing.address is not None:
            share = rise(standing, config.slow_start, now)
            ready.append((_backend(name, backend, standing.address), share))
    if any(share < 1 for _, share in ready):
        backends = tuple(
            replace(backend, weight=max(1, round(backend.weight * SLOW_START_SCALE * share)))
            for backend, share in ready
        )
    else:
        backends = tuple(backend for backend, _ in ready)
    return Pool(
        name=name,
        strategy=config.strategy,
        backends=backends,
        connect_timeout_s=config.connect_timeout,
        retries=config.retries,
        queue_timeout_s=config.queue_timeout,
        source=Address(config.source) if config.source else None,
    )


def _backend(pool: str, config: BackendConfig, address: Address) -> Backend:
    return Backend(
        id=backend_id(pool, config),
        name=config.name,
        address=address,
        weight=config.weight,
        max_sessions=config.max_sessions,
        priority=1 if config.backup else 0,
    )
