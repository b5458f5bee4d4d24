"""What flows and rules have counted, as the seam tells it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from easyproxy.engine.kernel.ledger import Books
from easyproxy.engine.kernel.ruleset import key_of
from easyproxy.engine.seam import BackendCounters, ListenerCounters, Statistics
from easyproxy.model import Snapshot

_REFUSALS = {
    ("l", "rate"): "rate_limited",
    ("l", "full"): "refused",
    ("l", "none"): "no_backend",
    ("b", "full"): "queue_timeout",  # nobody waits, so that is at once
}
"""Reasons by the first letter and the last part of the names of counters."""


def statistics(snapshot: Snapshot, books: Books, packets: Mapping[str, int]) -> Statistics:
    """Put together what the ledger knows of sessions, and packets by the names of the rules' counters."""
    names = {item.name for item in snapshot.listeners} | books.sessions_by_listener.keys()
    ids = {item.id for pool in snapshot.pools for item in pool.backends}
    ids |= books.sessions_by_backend.keys() | books.bytes_from_client.keys() | books.failures.keys()
    return Statistics(
        listeners={name: _listener(name, books, packets) for name in names},
        backends={
            id_: BackendCounters(
                sessions=books.sessions_by_backend[id_],
                total=packets.get(f"b{key_of(id_)}", 0),
                bytes_from_client=books.bytes_from_client[id_],
                bytes_from_backend=books.bytes_from_backend[id_],
                connect_errors=books.failures[id_],
                timeouts=books.timeouts[id_],
            )
            for id_ in ids
        },
        ends=dict(books.ends + _turned_away(packets)),
    )


def full_backends(snapshot: Snapshot, books: Books) -> frozenset[str]:
    """Name those that have all the sessions that they may."""
    backends = (backend for pool in snapshot.pools for backend in pool.backends)
    return frozenset(
        one.id
        for one in backends
        if one.max_sessions and books.sessions_by_backend[one.id] >= one.max_sessions
    )


def _listener(name: str, books: Books, packets: Mapping[str, int]) -> ListenerCounters:
    key = f"l{key_of(name)}"
    return ListenerCounters(
        sessions=books.sessions_by_listener[name],
        accepted=packets.get(key, 0),
        refused=packets.get(f"{key}_full", 0) + packets.get(f"{key}_rate", 0),
        no_backend=packets.get(f"{key}_none", 0),
    )


def _turned_away(packets: Mapping[str, int]) -> Counter[str]:
    """Count clients whom rules have refused, by reason: there was no session of which anything could be told."""
    ends: Counter[str] = Counter()
    for name, count in packets.items():
        if reason := _REFUSALS.get((name[:1], name.partition("_")[2])):
            ends[reason] += count
    return ends
