"""Where a MySQL or MariaDB server stands: its role, how far it is behind, and why. Pure: rows in, a finding out.

A server that is set up to follow another is a replica, even if it could be written to, and even if its replication is
stopped: of two errors (nobody takes writes; two do) the first can be mended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from easyproxy.engine.seam import Facts
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, plain
from easyproxy.health.checks.database import PRIMARY, REPLICA, known

Row = Mapping[str, str | None]

VARIABLES = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('read_only', 'super_read_only', 'innodb_read_only', "
    "'gtid_current_pos', 'gtid_executed', 'wsrep_on', 'wsrep_provider', 'group_replication_group_name')"
)
"""One question that every version answers, with those of these that it has; it needs no right."""
GALERA = (
    "SHOW GLOBAL STATUS WHERE Variable_name IN "
    "('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state_comment', 'wsrep_cluster_size')"
)
REPLICATION = ("SHOW REPLICA STATUS", "SHOW ALL SLAVES STATUS", "SHOW SLAVE STATUS")
"""MySQL since 8.0.22; MariaDB, all sources at once; MySQL before."""
READ_ONLY = ("read_only", "super_read_only", "innodb_read_only")  # the last: a replica of Amazon Aurora
POSITION_CHARACTERS = 120


def questions(version: str) -> tuple[str, ...]:
    """Put the ways to ask for replication in the order in which they are to be tried.

    >>> questions("10.11.19-MariaDB")[0], questions("8.0.21")[0], questions("8.4.3")[0]
    ('SHOW ALL SLAVES STATUS', 'SHOW SLAVE STATUS', 'SHOW REPLICA STATUS')
    """
    new, maria, old = REPLICATION
    if "MariaDB" in version:
        return maria, new, old
    return (new, maria, old) if _numbers(version) >= (8, 0, 22) else (old, maria, new)


def grant(version: str) -> str:
    """Write the beginning of the GRANT that lets an account see what a server follows.

    >>> grant("10.11.19-MariaDB"), grant("8.4.3"), grant("10.4.2-MariaDB")
    ('GRANT SLAVE MONITOR ON *.*', 'GRANT REPLICATION CLIENT ON *.*', 'GRANT REPLICATION CLIENT ON *.*')
    """
    is_divided = "MariaDB" in version and _numbers(version) >= (10, 5, 2)
    return f"GRANT {'SLAVE MONITOR' if is_divided else 'REPLICATION CLIENT'} ON *.*"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part[:4]) for part in re.findall(r"[0-9]+", version, re.ASCII)[:3])


def by_name(rows: Sequence[Row]) -> dict[str, str]:
    """Turn the rows of SHOW VARIABLES or SHOW STATUS into a mapping.

    >>> by_name([{"Variable_name": "Read_Only", "Value": "ON"}, {"Other": None}])
    {'read_only': 'ON'}
    """
    return {
        name.lower(): value
        for row in rows
        if (name := row.get("Variable_name")) is not None and (value := row.get("Value")) is not None
    }


def is_galera(variables: Mapping[str, str]) -> bool:
    """Whether the server is a node of a Galera cluster; some builds say ``wsrep_on`` without being one."""
    return variables.get("wsrep_on", "").upper() == "ON" and variables.get("wsrep_provider", "none") not in (
        "",
        "none",
    )


def refuse_unsynced(status: Mapping[str, str]) -> str:
    """Say what a Galera node is part of.

    Raises:
        ProbeFailed: it is not in a state to serve.
    """
    if not status:
        raise ProbeFailed("Galera is on, and does not say how it is")
    state = status.get("wsrep_local_state_comment", "")
    if (cluster := status.get("wsrep_cluster_status", "")).lower() != "primary":
        raise ProbeFailed(
            f"Galera: the node is in the {cluster or 'unknown'} part of the cluster, without a quorum"
        )
    if state != "Synced":
        raise ProbeFailed(f"Galera: the node is {state or 'in an unknown state'}, not Synced")
    if status.get("wsrep_ready", "").upper() != "ON":
        raise ProbeFailed("Galera: the node is not ready for queries (wsrep_ready is not ON)")
    size = status.get("wsrep_cluster_size", "?")
    return f"{state}, {size} node{'' if size == '1' else 's'}"


@dataclass(frozen=True, slots=True)
class Source:
    """One server that another follows, how far behind, and why."""

    name: str
    lag_s: float
    why: str = ""


def read_source(row: Row) -> Source:
    """Read one row of SHOW REPLICA STATUS, in its new words or its old ones."""

    def said(*names: str) -> str:
        return next((value for name in names if (value := row.get(name)) is not None), "")

    name = f"{said('Source_Host', 'Master_Host')}:{said('Source_Port', 'Master_Port')}"
    if channel := said("Channel_Name", "Connection_name"):
        name += f" ({channel})"
    name = plain(name, 100)
    for thread in ("SQL", "IO"):
        state = said(f"Replica_{thread}_Running", f"Slave_{thread}_Running") or "No"
        if state == "Yes":
            continue
        number, error = said(f"Last_{thread}_Errno"), said(f"Last_{thread}_Error")
        because = f" (error {number}): {plain(error, 100)}" if error else ""
        if state == "No":
            return Source(name, math.inf, f"the {thread} thread is stopped{because}")
        # The source is gone, or cannot be reached: how far behind that makes it is not known. It may have all there is.
        return Source(name, -1.0, f"no connection to {name}{because}")
    behind = said("Seconds_Behind_Source", "Seconds_Behind_Master")
    if not re.fullmatch(r"[0-9]{1,12}", behind, re.ASCII):
        return Source(name, -1.0, "it does not know how far it is behind")
    return Source(name, float(behind))


def _worst(followed: Sequence[Source]) -> Source:
    """Pick the source that decides: one that is not followed any more, one of unknown lag, the one furthest behind."""
    return max(
        followed,
        key=lambda source: (math.isinf(source.lag_s), source.lag_s < 0, source.lag_s),
        default=Source("", -1.0),
    )


def _is_on(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(name, "OFF").upper() not in ("OFF", "0")


def judge(
    version: str,
    variables: Mapping[str, str],
    rows: Sequence[Row] | None,
    *,
    cluster: str = "",
    writable_is_primary: bool = False,
    missing: str = "",
) -> Finding:
    """Say where a server stands.

    Args:
        version: as it calls itself.
        variables: what :data:`VARIABLES` gave.
        rows: what it follows; None where the account may not see that.
        cluster: what Galera says, if it is on.
        writable_is_primary: whether one that takes writes is a primary even if it follows another (a ring).
        missing: which right is missing, in words.
    """
    is_read_only = any(_is_on(variables, name) for name in READ_ONLY)
    # The applier of group replication is no source; whether a member takes writes is said by super_read_only.
    followed = [
        read_source(row)
        for row in rows or ()
        if not (row.get("Channel_Name") or "").startswith("group_replication_")
    ]
    worst = _worst(followed)
    # Members of these follow without being set up to; how far they are behind is not seen here.
    is_member = bool(cluster or variables.get("group_replication_group_name")) or _is_on(
        variables, "innodb_read_only"
    )
    notes = [("read_only", "ON" if is_read_only else "OFF")]
    if position := variables.get("gtid_current_pos") or variables.get("gtid_executed"):
        notes.append(("position", plain(position, POSITION_CHARACTERS)))
    if followed:
        notes.append(("follows", ", ".join(source.name for source in followed[:5])))
    if cluster:
        notes.append(("cluster", plain(cluster, 60)))
    is_replica = is_read_only or (bool(followed) and not writable_is_primary)
    role, lag_s, why = (REPLICA, worst.lag_s, worst.why) if is_replica else (PRIMARY, -1.0, "")
    if rows is None:
        # Whether one that takes writes follows another cannot be seen: no role is better than a wrong one.
        role, why = (role if is_read_only or writable_is_primary else ""), missing
        notes.append(("rights", plain(missing, 150)))
    elif is_replica and not followed and not is_member:
        lag_s, why = math.inf, "it takes no writes, and is not set up to follow another"
    elif is_replica and not is_read_only and math.isinf(lag_s):
        why += "; it takes writes: if it was promoted, RESET REPLICA ALL says so"
    return known(Facts(role, lag_s, version, 0, tuple(notes)), why)
