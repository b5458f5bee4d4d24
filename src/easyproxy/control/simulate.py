"""Where a client would go now: the pool's strategy asked as the engine asks it, and why each backend stands there.

Pure: the snapshot in force and a status go in. Where chance or the turn of other clients decides, shares are told instead of an order that would be made up.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import TYPE_CHECKING

from easyproxy.control.operations import Candidate, Choice, RefusedError, UnknownError
from easyproxy.control.wording import clock, counted, percent
from easyproxy.strategy import ALIASES, BUILTIN, Context, StrategyError
from easyproxy.strategy import load as load_strategy
from easyproxy.strategy.tiers import Tiers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from easyproxy.control.status import BackendStatus, PoolStatus, Status
    from easyproxy.model import Backend, Pool, Snapshot

BY_ADDRESS = {"source_hash": "the hash ring", "maglev": "the hash table"}
_HALF = 0.5  # a strategy of a user's own may ask for chance; the same question gets the same answer


def simulate(
    snapshot: Snapshot, status: Status, client: str, *, pool: str = "", without: Iterable[str] = ()
) -> list[Choice]:
    """Say where a client would go now.

    Args:
        snapshot: what the engine has.
        status: states, counters and limits of the same moment.
        client: its address; a port is ignored, ``unix`` is a client of a unix socket.
        pool: one pool only, or one use of it (``orders/primary``); otherwise each.
        without: ids of backends that are left out, as if they were not ready.

    Raises:
        UnknownError: there is no such pool.
        RefusedError: the client is no address.
    """
    host = client_host(client)
    by_name = {one.name: one for one in status.pools}
    # A pool that listeners use by role is one for each use in the snapshot: orders/primary.
    uses = [(one, one.name.partition("/")[0]) for one in snapshot.pools]
    if pool and pool not in by_name and all(pool != one.name for one, _ in uses):
        raise UnknownError(f"there is no pool {pool}; there is {', '.join(by_name)}")
    gone = frozenset(without)
    in_kernel = {listener.pool for listener in snapshot.listeners if listener.engine == "kernel"}
    return [
        _choice_of_kernel(one, by_name[name], host, gone, status.now)
        if one.name in in_kernel and ALIASES.get(one.strategy, one.strategy) in BY_ADDRESS
        else _choice(one, by_name[name], host, gone, status.now)
        for one, name in uses
        if name in by_name and pool in ("", name, one.name)
    ]


def client_host(client: str) -> str:
    """Return a client's address as strategies get it: numeric, without port.

    >>> client_host("10.0.0.9:5555"), client_host("[2001:DB8::1]:80"), client_host("::ffff:10.0.0.9")
    ('10.0.0.9', '2001:db8::1', '10.0.0.9')

    Raises:
        RefusedError: it is no address.
    """
    if client == "unix":
        return client
    text = client.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise RefusedError(
            f"{client!r} is not an address of a client; write one, for example 10.0.0.9"
        ) from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _choice(pool: Pool, status: PoolStatus, host: str, gone: frozenset[str], now: float) -> Choice:
    known = {backend.id: backend for backend in status.backends}
    name = ALIASES.get(pool.strategy, pool.strategy)
    ready = [backend for backend in pool.backends if backend.id not in gone]
    open_to_it = [backend for backend in ready if not _is_full(backend, known)]
    order, is_certain, note = _order(name, pool.strategy, ready, known, host)
    tier = min((backend.priority for backend in open_to_it), default=0)
    whys = _whys(name, [one for one in open_to_it if one.priority == tier], known)
    ranked: list[Candidate] = []
    for backend in [one for one in order if not _is_full(one, known)]:
        why = whys.get(backend.id) or "backup: only if none of those before takes the session"
        if name in BY_ADDRESS and backend.priority == tier:
            what = BY_ADDRESS[name]
            why = f"{what} gives it this client" if not ranked else f"next on {what}"
        ranked.append(Candidate(backend.id, len(ranked) + 1, why))
    out = [
        Candidate(backend.id, 0, _left_out(backend, pool.name, gone, now))
        for backend in status.backends
        if all(backend.id != candidate.backend for candidate in ranked)
    ]
    notes = [note] if note and len(ranked) > 1 else []
    if not ready and pool.hold_s:
        notes, is_certain = [f"no server takes writes: the client is held, {pool.hold_s:g} s at most"], True
    elif not ready:
        notes, is_certain = ["no backend is ready: the client is turned away with a reset"], True
    elif not ranked and not notes:
        wait = (
            f"it waits for a place, {pool.queue_timeout_s:g} s at most"
            if pool.queue_timeout_s
            else "it is reset"
        )
        notes, is_certain = [f"every ready backend is full: {wait}"], True
    elif status.queued:
        notes.append(
            f"{counted(status.queued, 'client')} of this pool already wait for a place and come first"
        )
    return Choice(
        pool=pool.name,
        strategy=pool.strategy,
        client=host,
        candidates=(*ranked, *out),
        is_certain=is_certain or len(ranked) == 1,
        note="; ".join(notes),
    )


def _choice_of_kernel(pool: Pool, status: PoolStatus, host: str, gone: frozenset[str], now: float) -> Choice:
    """The kernel hashes in its own way, with a seed: what is known are the shares."""
    choice = _choice(replace(pool, strategy="random"), status, host, gone, now)
    note = choice.note.replace(_WHO_DECIDES["random"], _WHO_DECIDES["kernel"])
    return replace(choice, strategy=pool.strategy, note=note)


def _is_full(backend: Backend, known: Mapping[str, BackendStatus]) -> bool:
    found = known.get(backend.id)
    return found is not None and 0 < backend.max_sessions <= found.counters.sessions


def _order(
    name: str, wanted: str, ready: Sequence[Backend], known: Mapping[str, BackendStatus], host: str
) -> tuple[list[Backend], bool, str]:
    """Return the backends in the strategy's order, whether it is certain, and what else decides."""
    if not ready:
        return [], True, ""
    context = Context(
        ticket=lambda: 0,
        load=lambda backend: _sessions(backend, known),
        random=lambda: _HALF,
    )
    try:
        order = list(Tiers(load_strategy(wanted), context, ready).candidates(host))
    except StrategyError as error:
        return list(ready), False, f"{error}; meanwhile the order of the configuration serves"
    if name == "first" or name in BY_ADDRESS:
        return order, True, ""
    if name == "least_connections":
        least = [_load(backend, known) for backend in order if not _is_full(backend, known)]
        if len(least) < 2 or least[0] < least[1]:
            return order, True, ""
        return order, False, "backends with equally few sessions take turns"
    if name in BUILTIN:
        shares = _shares(name, ready, known)
        order = sorted(ready, key=lambda backend: (backend.priority, -shares.get(backend.id, 0.0)))
        return order, False, _WHO_DECIDES[name]
    return order, False, "a strategy of your own decides; this is what a fresh one answers"


_WHO_DECIDES = {
    "round_robin": "backends take turns, and the clients of all workers count; shares say how often it is whose turn",
    "random": "chance decides; shares say how likely each is",
    "power_of_two": "chance draws two and the less loaded one takes it; shares say how likely each is",
    "kernel": "the kernel's own hash of the client's address decides, always the same; shares say how likely each is",
}


def _load(backend: Backend, known: Mapping[str, BackendStatus]) -> float:
    return (_sessions(backend, known) + 1) / backend.weight


def _shares(name: str, tier: Sequence[Backend], known: Mapping[str, BackendStatus]) -> dict[str, float]:
    """Return how much of new sessions each gets, of those of one priority."""
    total = sum(backend.weight for backend in tier)
    weights = {backend.id: backend.weight / total for backend in tier}
    if name != "power_of_two" or len(tier) > 500:  # pairs of more would take noticeable time
        return weights
    shares = dict.fromkeys(weights, 0.0)
    for one in tier:
        for other in tier:
            if one is not other:
                # The first is drawn from all, the second from what the first leaves; ties go to the first.
                pair = weights[one.id] * weights[other.id] / (1 - weights[one.id])
                less = _sessions(other, known) * one.weight < _sessions(one, known) * other.weight
                shares[(other if less else one).id] += pair
    return shares if len(tier) > 1 else weights


def _sessions(backend: Backend, known: Mapping[str, BackendStatus]) -> int:
    return known[backend.id].counters.sessions if backend.id in known else 0


def _whys(name: str, tier: Sequence[Backend], known: Mapping[str, BackendStatus]) -> dict[str, str]:
    """Say why each stands where it stands."""
    if not tier:
        return {}
    if name == "first":
        return {backend.id: "the order of the configuration" for backend in tier}
    if name == "least_connections":
        return {
            backend.id: f"{counted(_sessions(backend, known), 'session')}, weight {backend.weight}"
            for backend in tier
        }
    if name in BY_ADDRESS or name not in BUILTIN:
        return {backend.id: f"strategy {name}" for backend in tier}
    if len(tier) == 1:
        return {tier[0].id: "the only one that can take it"}
    shares = _shares(name, tier, known)
    return {backend.id: f"{percent(shares[backend.id])} of new sessions" for backend in tier}


def _left_out(backend: BackendStatus, pool: str, gone: frozenset[str], now: float) -> str:
    if backend.id in gone:
        return "left out, as asked"
    role = pool.partition("/")[2].partition("+")[0]
    if backend.state == "ready" and role == "primary" and not backend.takes_writes:
        return "it does not take writes" + (f": it is a {backend.role}" if backend.role == "replica" else "")
    if backend.state == "ready" and role == "replica" and (backend.role != role or backend.is_lagging):
        return f"a replica that lags: {backend.lag}" if backend.is_lagging else "it is no replica"
    if backend.state == "ready":
        return f"full: {backend.counters.sessions} of {backend.max_sessions} sessions"
    return why_not_ready(backend, now)


def why_not_ready(backend: BackendStatus, now: float) -> str:
    """Say why a backend gets no sessions: ``down since 12:00:01: connection refused``."""
    since = f" since {clock(backend.since, now)}" if backend.since else ""
    if backend.state == "draining":
        return f"draining{since}, {backend.reason}"
    if backend.state == "maintenance":
        return f"in maintenance{since}, {backend.reason}"
    return f"{backend.state}{since}: {backend.reason}"
