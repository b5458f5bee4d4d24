"""Where a Redis or Valkey server stands: its role, its link to its primary, and why. Pure: INFO in, a finding out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from easyproxy.engine.seam import Facts
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, plain
from easyproxy.health.checks.database import PRIMARY, REPLICA, alive, known

SILENCE_S = 11
"""A primary says something every ``repl-ping-replica-period`` (10 s); after more silence it may be out of reach."""

_ROLES = {"master": PRIMARY, "slave": REPLICA, "replica": REPLICA}


def judge(info: Mapping[str, str], login: str = "") -> Finding:
    """Say where a server stands.

    Args:
        info: what the sections server, replication and persistence of INFO say.
        login: why our account was not let in, if the server answers all the same.

    Raises:
        ProbeFailed: it is loading its data, and serves nobody yet.
    """
    version = version_of(info)
    if info.get("loading", "0") != "0":
        raise ProbeFailed(f"is loading its data{_how_far(info)}")
    mode = info.get("redis_mode", info.get("server_mode", "standalone"))
    if mode == "sentinel":
        return alive(version, "it is a Sentinel, which holds no data")
    role = _ROLES.get(info.get("role", ""), "")
    notes = _notes(info)
    if mode == "cluster":
        notes.append(("cluster", "its role is that within its shard"))
    if login:
        notes.append(("login", login))
    lag_s, why = _lag(info) if role == REPLICA else (-1.0, "")
    if not role:
        why = f"it calls itself {plain(info.get('role', 'nothing'), 30)}"
    elif role == PRIMARY and info.get("master_failover_state", "no-failover") != "no-failover":
        why = "it is handing over to a replica (FAILOVER), and holds writes meanwhile"
    return known(Facts(role, lag_s, version, 0, tuple(notes)), why)


def version_of(info: Mapping[str, str]) -> str:
    """Name the server and its version; Valkey says for compatibility that it is a Redis as well.

    >>> version_of({"redis_version": "7.2.4", "valkey_version": "8.1.1"}), version_of({"redis_version": "7.0.15"})
    ('Valkey 8.1.1', '7.0.15')
    """
    if valkey := info.get("valkey_version"):
        return f"Valkey {plain(valkey, 30)}"
    return plain(info.get("redis_version", ""), 30)


def _notes(info: Mapping[str, str]) -> list[tuple[str, str]]:
    notes = []
    is_replica = _ROLES.get(info.get("role", "")) == REPLICA
    offset = info.get("slave_repl_offset") if is_replica else info.get("master_repl_offset")
    if offset:
        notes.append(("position", plain(offset, 30)))
    if is_replica:
        notes.append(("follows", plain(f"{info.get('master_host')}:{info.get('master_port')}", 100)))
        notes.append(("link", plain(info.get("master_link_status", "unknown"), 20)))
    elif replicas := info.get("connected_slaves"):
        notes.append(("replicas", plain(replicas, 10)))
    return notes


def _lag(info: Mapping[str, str]) -> tuple[float, str]:
    """Say how far a replica is behind.

    Redis knows no lag in seconds. A replica applies what comes as it comes, so with its link up and its primary heard of it is
    taken to be up to date; what else there is to know of it, bytes, the primary alone knows.
    """
    if info.get("master_link_status") != "up":
        if info.get("master_sync_in_progress", "0") != "0":
            why = "it is taking over all data of its primary"
        else:
            why = "its link to its primary is down"
        # Redis counts from when the link was lost; -1: it has had none since it started.
        down_s = _seconds(info.get("master_link_down_since_seconds"))
        if down_s < 0:
            return math.inf, f"{why}, and was never up since it started"
        return -1.0, f"{why} for {down_s} s"
    silent_s = _seconds(info.get("master_last_io_seconds_ago"))
    if silent_s > SILENCE_S:
        return -1.0, f"its primary has said nothing for {silent_s} s"
    return 0.0, ""


def _how_far(info: Mapping[str, str]) -> str:
    share, left = info.get("loading_loaded_perc", ""), info.get("loading_eta_seconds", "")
    return f" ({plain(share, 6)} %, about {plain(left, 10)} s left)" if share and left else ""


def _seconds(words: str | None) -> int:
    return int(words) if words and re.fullmatch(r"[0-9]{1,12}", words, re.ASCII) else -1
