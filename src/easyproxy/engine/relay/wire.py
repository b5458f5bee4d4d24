"""Snapshots and reports as plain data for the channel, and back. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from easyproxy.model import Address, Backend, Listener, Pool, Rate, Snapshot

Plain = dict[str, Any]


def plain_snapshot(snapshot: Snapshot) -> Plain:
    """Turn a snapshot into what JSON can carry."""
    return {
        "version": snapshot.version,
        "listeners": [asdict(listener) for listener in snapshot.listeners],
        "pools": [asdict(pool) for pool in snapshot.pools],
    }


def snapshot_from(plain: Plain) -> Snapshot:
    """Turn it back; equal to what went in."""
    return Snapshot(
        version=plain["version"],
        listeners=tuple(
            Listener(
                **{
                    **listener,
                    "bind": Address(**listener["bind"]),
                    "client_rate": Rate(**listener["client_rate"]) if listener["client_rate"] else None,
                }
            )
            for listener in plain["listeners"]
        ),
        pools=tuple(
            Pool(
                **{
                    **pool,
                    "source": Address(**pool["source"]) if pool["source"] else None,
                    "keeps": tuple(pool["keeps"]),
                    "backends": tuple(
                        Backend(**{**backend, "address": Address(**backend["address"])})
                        for backend in pool["backends"]
                    ),
                }
            )
            for pool in plain["pools"]
        ),
    )


def keys_of(snapshot: Snapshot) -> list[str]:
    """Name everything of a snapshot that is counted: ``listener:name``, ``pool:name``, ``backend:id``."""
    return [
        *(f"listener:{listener.name}" for listener in snapshot.listeners),
        *(f"pool:{pool.name}" for pool in snapshot.pools),
        *(f"backend:{backend.id}" for pool in snapshot.pools for backend in pool.backends),
    ]
