"""Whether all is well, in one sentence: what the page, the command line and the readiness check agree on. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum

from easyproxy.control.status import BackendStatus, PoolStatus, Status
from easyproxy.control.wording import counted, in_words


class Level(StrEnum):
    """How urgent it is. Only ``critical`` means that clients are turned away."""

    OK = "ok"
    CHECKING = "checking"
    WARNING = "warning"
    CRITICAL = "critical"


_HELD = frozenset(
    {"draining", "maintenance"}
)  # out of service because an operator wants it, which is no alarm


@dataclass(frozen=True, slots=True)
class Headline:
    """The state of everything in a few words (``title``) and one sentence (``detail``)."""

    level: Level
    title: str
    detail: str


def unserved_pools(status: Status) -> tuple[PoolStatus, ...]:
    """Pools without a single ready backend: their clients are turned away."""
    return tuple(pool for pool in status.pools if all(backend.state != "ready" for backend in pool.backends))


def summarise(status: Status) -> Headline:
    """Say in one sentence whether all is well, and if not, what is wrong and what it means for clients."""
    backends = [backend for pool in status.pools for backend in pool.backends]
    if not backends:
        return Headline(
            Level.WARNING, "No backends", "The configuration names none, so nobody can be served."
        )
    backends = _told_apart(backends)
    down = [backend for backend in backends if backend.state == "down"]
    checking = len([backend for backend in backends if backend.state == "checking"])
    held = [backend for backend in backends if backend.state in _HELD]
    unserved = unserved_pools(status)
    dead = [pool for pool in unserved if all(backend.state != "checking" for backend in pool.backends)]
    if dead:
        return _critical(dead, len(status.pools))
    if (about_writes := _about_writes([pool for pool in status.pools if pool not in unserved])) is not None:
        return about_writes
    if unserved:
        return Headline(
            Level.CHECKING,
            f"Checking {counted(checking, 'backend')}",
            "Clients are served as soon as the first backend has passed its check.",
        )
    lagging = [backend for backend in backends if backend.is_lagging and backend.state == "ready"]
    if down or lagging:
        return _down(down, len(backends)) if down else _lagging(lagging)
    if checking:
        return Headline(
            Level.CHECKING, f"Checking {counted(checking, 'backend')}", "Every pool is served meanwhile."
        )
    if held:
        return Headline(Level.OK, _held(held, len(backends)), _served(len(status.pools)))
    return Headline(Level.OK, _all_ready(len(backends)), _served(len(status.pools)))


def _told_apart(backends: list[BackendStatus]) -> list[BackendStatus]:
    """Give those of several pools that have one name the pool's name too."""
    having = Counter(backend.name for backend in backends)
    return [
        replace(backend, name=backend.id) if having[backend.name] > 1 else backend for backend in backends
    ]


def _about_writes(pools: list[PoolStatus]) -> Headline | None:
    unwritten = [pool for pool in pools if _is_unwritten(pool)]
    if unwritten:
        return _without_primary(unwritten)
    rivals = [pool for pool in pools if any(backend.is_rival for backend in pool.backends)]
    return _with_rivals(rivals[0]) if rivals else None


def _is_unwritten(pool: PoolStatus) -> bool:
    return pool.writes is not None and not pool.writes.writers


def _without_primary(pools: list[PoolStatus]) -> Headline:
    """No server takes writes, though servers are ready."""
    first = pools[0]
    assert first.writes is not None  # noqa: S101 - that is why it is here
    if len(pools) > 1:
        names = ", ".join(pool.name for pool in pools)
        return Headline(
            Level.CRITICAL, f"{len(pools)} pools have no primary", f"Nobody takes writes in {names}."
        )
    title = (
        f"Pool {first.name} has two primaries"
        if first.writes.is_split
        else f"Pool {first.name} has no primary"
    )
    held = f" {counted(first.writes.held, 'client')} held." if first.writes.held else ""
    why = first.writes.why
    return Headline(Level.CRITICAL, title, f"Nobody takes writes: {why}.{held}")


def _with_rivals(pool: PoolStatus) -> Headline:
    """A server does not know that it is the primary no more."""
    too_many = " and ".join(backend.name for backend in pool.backends if backend.is_rival)
    writers = " and ".join(backend.name for backend in pool.backends if backend.takes_writes)
    return Headline(
        Level.WARNING,
        f"Pool {pool.name} has two primaries",
        f"Writes go to {writers} alone; {too_many} gets none, though it says that it is the primary.",
    )


def _critical(dead: list[PoolStatus], pools: int) -> Headline:
    if len(dead) == 1:
        title = f"Pool {dead[0].name} has no ready backend" if pools > 1 else "No backend is ready"
        count = len(dead[0].backends)
        why = "It names no backends" if count == 0 else _all_down(dead[0])
        return Headline(Level.CRITICAL, title, f"{why}. Its clients are turned away.")
    names = ", ".join(pool.name for pool in dead)
    everything = len(dead) == pools
    title = (
        "No pool has a ready backend" if everything else f"{len(dead)} of {pools} pools have no ready backend"
    )
    return Headline(Level.CRITICAL, title, f"Clients of {names} are turned away.")


def _all_down(pool: PoolStatus) -> str:
    backends = pool.backends
    if any(backend.state in _HELD for backend in backends):
        return _first([f"{backend.name}: {in_words(backend.state)}" for backend in backends], 3)
    if len(backends) == 1:
        return f"{backends[0].name} is down: {backends[0].reason}"
    reasons = {backend.reason for backend in backends}
    why = f": {reasons.pop()}" if len(reasons) == 1 else ""
    return f"All {len(backends)} backends of {pool.name} are down{why}"


def _down(down: list[BackendStatus], total: int) -> Headline:
    shown = _first([f"{backend.name}: {backend.reason}" for backend in down], 2)
    return Headline(
        Level.WARNING,
        f"{len(down)} of {total} backends down",
        f"Every pool is served by the others. {shown}.",
    )


def _lagging(lagging: list[BackendStatus]) -> Headline:
    """Tell of replicas that are well but serve nobody."""
    title = f"{lagging[0].name} lags too far" if len(lagging) == 1 else f"{len(lagging)} replicas lag too far"
    shown = _first([f"{backend.name}: {backend.lag}" for backend in lagging], 2)
    return Headline(Level.WARNING, title, f"New reads go elsewhere. {shown}.")


def _held(held: list[BackendStatus], backends: int) -> str:
    """Name those that operators took out; all others are ready."""
    names = (
        f"{held[0].name} is {in_words(held[0].state)}" if len(held) == 1 else f"{len(held)} held by operators"
    )
    return f"{backends - len(held)} of {backends} backends ready, {names}"


def _all_ready(backends: int) -> str:
    return "The backend is ready" if backends == 1 else f"All {backends} backends ready"


def _served(pools: int) -> str:
    return "Its pool is served." if pools == 1 else f"All {pools} pools are served."


def _first(told: list[str], most: int) -> str:
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return "; ".join(told[:most]) + more
