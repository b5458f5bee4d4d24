"""From what is configured and what is known to the snapshot that an engine gets. Pure.

Only ready backends enter a snapshot. Slow start is a matter of weights, so every engine can do it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easyproxy.config.drain import BETWEEN_TRANSACTIONS, PROTOCOLS
from easyproxy.config.greeting import NO_GREETING
from easyproxy.control.roles import FALLBACK_PRIORITY, PRIMARY, REPLICA, Use, use_of, uses_of
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
        role: what it says that it is; empty where it does not say.
        is_lagging: as a replica it is too far behind to serve.
        keeps_sessions: its sessions are not to leave: no operator drains it.
    """

    is_ready: bool
    address: Address | None
    rising_since: float = 0.0
    role: str = ""
    is_lagging: bool = False
    keeps_sessions: bool = True


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


def compose(
    config: Config,
    standings: Mapping[str, Standing],
    now: float,
    version: int = 0,
    writers: Collection[str] = (),
) -> Snapshot:
    """Make the snapshot that follows from the configuration and what is known at ``now``.

    ``writers`` are the ids of the backends that may take writes, for listeners with ``role: primary``.
    """
    return Snapshot(
        version=version,
        listeners=tuple(_listener(listener) for listener in config.listeners),
        pools=tuple(
            _pool(name, pool, use, standings, now, writers)
            for name, pool in config.pools.items()
            for use in uses_of(name, config.listeners)
        ),
    )


def burst_of(config: ListenerConfig) -> int:
    """Return how many sessions one client may open at once: as many as its rate names, unless the file says otherwise."""
    if config.client_rate is None:
        return 0
    return config.client_burst or config.client_rate.count


def _listener(config: ListenerConfig) -> Listener:
    return Listener(
        name=config.name,
        bind=config.bind,
        pool=use_of(config),
        max_sessions=config.max_sessions,
        overload=config.overload,
        backlog=config.backlog,
        idle_timeout_s=config.idle_timeout,
        half_closed_timeout_s=config.half_closed_timeout,
        life_timeout_s=config.max_lifetime,
        user_timeout_s=config.user_timeout,
        keepalive_s=config.keepalive,
        engine=config.engine,
        client_rate=config.client_rate,
        client_burst=burst_of(config),
        mode=int(config.mode, 8) if config.mode else None,
        group=config.group,
    )


def _pool(
    name: str,
    config: PoolConfig,
    use: Use,
    standings: Mapping[str, Standing],
    now: float,
    writers: Collection[str],
) -> Pool:
    ready: list[tuple[Backend, float]] = []
    for backend in config.backends:
        key = backend_id(name, backend)
        standing = standings[key]
        if not standing.is_ready or standing.address is None:
            continue
        rank = _rank(standing, use.role, use.fallback, takes_writes=key in writers)
        if rank is not None:
            made = _backend(name, backend, standing.address)
            made = replace(made, priority=made.priority + rank) if rank else made
            ready.append((made, rise(standing, config.slow_start, now)))
    if any(share < 1 for _, share in ready):
        backends = tuple(
            replace(backend, weight=max(1, round(backend.weight * SLOW_START_SCALE * share)))
            for backend, share in ready
        )
    else:
        backends = tuple(backend for backend, _ in ready)
    conversation = conversation_of(config)
    kept = (backend_id(name, backend) for backend in config.backends)
    return Pool(
        name=use.name,
        strategy=config.strategy,
        backends=backends,
        connect_timeout_s=config.connect_timeout,
        retries=config.retries,
        queue_timeout_s=config.queue_timeout,
        greeting="" if config.greeting == NO_GREETING else config.greeting,
        greeting_timeout_s=config.greeting_timeout,
        hedge=config.hedge,
        hold_s=config.failover.hold if use.role == PRIMARY else 0.0,
        admit_per_s=config.failover.admit_per_second if use.role == PRIMARY else 0.0,
        source=Address(config.source) if config.source else None,
        conversation=conversation,
        keeps=tuple(key for key in kept if standings[key].keeps_sessions) if conversation else (),
    )


def conversation_of(config: PoolConfig) -> str:
    """Name the protocol in which a pool's sessions are followed; empty where they are not."""
    if config.drain.when != BETWEEN_TRANSACTIONS:
        return ""
    named = (config.drain.protocol, config.check.type, config.greeting)
    return next((protocol for protocol in named if protocol in PROTOCOLS), "")


def _rank(standing: Standing, role: str, fallback: str, *, takes_writes: bool) -> int | None:
    """Say at which further priority a ready backend serves a use of its pool; None is not at all."""
    match role:
        case "":
            return 0
        case "primary":
            return 0 if takes_writes else None
    if standing.role == REPLICA:
        return None if standing.is_lagging else 0
    return FALLBACK_PRIORITY if fallback and takes_writes else None


def _backend(pool: str, config: BackendConfig, address: Address) -> Backend:
    return Backend(
        id=backend_id(pool, config),
        name=config.name,
        address=address,
        weight=config.weight,
        max_sessions=config.max_sessions,
        priority=1 if config.backup else 0,
    )
