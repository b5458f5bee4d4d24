"""Where a PostgreSQL server stands: its role, its timeline, how far it is behind, and why. Pure: a row in, a finding out."""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from easyproxy.engine.seam import Facts
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, plain
from easyproxy.health.checks.database import PRIMARY, REPLICA, known

_RECOVERY = "CASE WHEN pg_is_in_recovery() THEN {} END"
_SERVING = "CASE WHEN pg_is_in_recovery() THEN NULL ELSE {} END"
_COLUMNS = {
    "in_recovery": "pg_is_in_recovery()",
    "version": "current_setting('server_version')",
    "read_only": "current_setting('default_transaction_read_only')",
    # Of a primary the timeline is in the name of the file that it writes; what pg_control_checkpoint() says is that of
    # the last checkpoint, which may be minutes older than a promotion.
    "walfile": _SERVING.format("pg_walfile_name(pg_current_wal_lsn())"),
    "written": _SERVING.format("pg_current_wal_lsn()"),
    "received": _RECOVERY.format("pg_last_wal_receive_lsn()"),
    "replayed": _RECOVERY.format("pg_last_wal_replay_lsn()"),
    "age": _RECOVERY.format("extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())"),
    "paused": _RECOVERY.format("pg_is_wal_replay_paused()"),
    # As JSON, because its columns differ from version to version; without pg_monitor all but the pid are NULL.
    "receiver": "(SELECT row_to_json(w) FROM pg_stat_wal_receiver w LIMIT 1)",
    "timeline": _RECOVERY.format(
        "(SELECT greatest(c.timeline_id, r.min_recovery_end_timeline)"
        " FROM pg_control_checkpoint() c, pg_control_recovery() r)"
    ),
    # Only whether they are set: primary_conninfo may hold a password. NULL without pg_monitor.
    "streams": "(SELECT setting <> '' FROM pg_settings WHERE name = 'primary_conninfo')",
    "restores": "(SELECT setting <> '' FROM pg_settings WHERE name = 'restore_command')",
}
QUESTION = "SELECT " + ", ".join(f"{value}::text AS {name}" for name, value in _COLUMNS.items())
"""One question, for PostgreSQL 10 and later. Only ``receiver``, ``streams`` and ``restores`` need a right (pg_monitor)."""

_MARKS = 256


class Progress:
    """What a replica had received, and when we saw it: how far it is behind by our own clock.

    The age of the last replayed transaction says too much while a long transaction or an idle hour passes, and is wrong
    where two clocks differ. What had been received at some probe and is replayed now cannot be older than that probe.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()
        self._received = 0
        self._level_at: float | None = None

    def behind_s(self, now: float, received: int, replayed: int, *, is_live: bool = True) -> float | None:
        """Say how far it is behind at most, in seconds; None where that is not known yet.

        ``is_live``: it is connected, so that nothing is written that it does not hear of.

        >>> progress = Progress()
        >>> [progress.behind_s(*seen) for seen in ((0.0, 10, 5), (1.0, 20, 10), (2.0, 30, 10), (3.0, 30, 30))]
        [None, 1.0, 2.0, 0.0]
        """
        if received < self._received:  # another history, or another server
            self._marks.clear()
            self._level_at = None
        self._received = received
        if is_live:
            self._mark(now, received)
        while self._marks and self._marks[0][1] <= replayed:
            self._level_at, _ = self._marks.popleft()
        return None if self._level_at is None else max(0.0, now - self._level_at)

    def _mark(self, now: float, received: int) -> None:
        if self._marks and self._marks[-1][1] == received:
            self._marks.pop()  # nothing has come since: it was still all there is
        elif len(self._marks) >= _MARKS:
            self._marks = deque(list(self._marks)[::2])
        self._marks.append((now, received))


@dataclass(frozen=True, slots=True)
class _Receiver:
    """The process of a replica that receives from another server: whether it runs, and what may be seen of it."""

    is_running: bool = False
    state: str = ""
    follows: str = ""
    timeline: int = 0
    latest: int = 0

    @property
    def is_streaming(self) -> bool:
        """Whether it streams; where its state may not be seen, that it runs must do."""
        return self.is_running and self.state in ("streaming", "")


def position(words: str | None) -> int | None:
    """Read a position in the log of writes.

    >>> position("0/3000148"), position(None)
    (50331976, None)
    """
    match = re.fullmatch(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", words or "", re.ASCII)
    return None if match is None else (int(match[1], 16) << 32) + int(match[2], 16)


def judge(values: Sequence[str | None], progress: Progress, now: float, user: str = "") -> Finding:
    """Say where a server stands.

    Args:
        values: what :data:`QUESTION` gave.
        progress: of this server; it learns.
        now: in seconds of a clock that only goes forward.
        user: our account, for what it may not see.

    Raises:
        ProbeFailed: it answered something else than was asked.
    """
    row = dict(zip(_COLUMNS, values, strict=False))
    version = plain(row.get("version") or "", 60).partition(" ")[0]
    if len(values) != len(_COLUMNS) or row["in_recovery"] not in ("true", "false"):
        raise ProbeFailed("answered something else than where it stands")
    notes: list[tuple[str, str]] = []
    if row["in_recovery"] == "false":
        if at := row["written"]:
            notes.append(("position", plain(at, 20)))
        why = ""
        if row["read_only"] == "on":
            why = "default_transaction_read_only is on"
            notes.append(("read_only", "on"))
        timeline = _whole((row["walfile"] or "")[:8], 16)
        return known(Facts(PRIMARY, -1.0, version, timeline, tuple(notes)), why)
    receiver = _read_receiver(row["receiver"])
    lag_s, why = _lag(row, receiver, progress, now)
    if at := row["replayed"]:
        notes.append(("position", plain(at, 20)))
    if receiver.follows:
        notes.append(("follows", receiver.follows))
    notes.append(("receiver", receiver.state or ("running" if receiver.is_running else "not running")))
    if row["paused"] == "true":
        notes.append(("replay", "paused"))
    if receiver.is_running and not receiver.state:
        notes.append(("rights", f"sees less than it could; GRANT pg_monitor TO {plain(user, 63)}"))
    timeline = max(receiver.timeline, _whole(row["timeline"] or ""))
    return known(Facts(REPLICA, lag_s, version, timeline, tuple(notes)), why)


def _lag(
    row: Mapping[str, str | None], receiver: _Receiver, progress: Progress, now: float
) -> tuple[float, str]:
    """Say how far a replica is behind, and what makes it so."""
    replayed = position(row["replayed"]) or 0
    received = max(position(row["received"]) or 0, receiver.latest)
    age_s = _seconds(row["age"])
    reasons = ["its replay is paused"] if row["paused"] == "true" else []
    behind_s = progress.behind_s(now, received, replayed, is_live=receiver.is_streaming)
    if received > replayed:
        bounds = [bound for bound in (behind_s, age_s) if bound is not None]
        lag_s = min(bounds, default=-1.0)
    elif receiver.is_streaming:
        lag_s = 0.0
    elif row["streams"] == "false" and row["restores"] == "false":
        return math.inf, "it is not set up to follow another"
    elif row["streams"] == "false":
        # It is fed by an archive: the last transaction that came is all there is to go by.
        lag_s = -1.0 if age_s is None else age_s
        reasons.append("it follows an archive, and the age of its last transaction counts")
    else:
        lag_s = -1.0
    if not receiver.is_streaming and row["streams"] != "false":
        last = "" if age_s is None else f", last transaction {age_s:.0f} s ago"
        reasons.append(f"its WAL receiver is {receiver.state or 'not streaming'}{last}")
    return lag_s, "; ".join(reasons)


def _read_receiver(words: str | None) -> _Receiver:
    if not words:
        return _Receiver()
    try:
        found = json.loads(words)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ProbeFailed("answered something else than what its WAL receiver does")
    host = found.get("sender_host")
    return _Receiver(
        is_running=True,
        state=plain(str(found.get("status") or ""), 20),
        follows=plain(f"{host}:{found.get('sender_port')}", 100) if host else "",
        timeline=_whole(str(found.get("received_tli") or "")),
        latest=position(str(found.get("latest_end_lsn") or "")) or 0,
    )


def _seconds(words: str | None) -> float | None:
    if not words or not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{0,9})?", words, re.ASCII):
        return None
    return max(0.0, float(words))  # two clocks may differ


def _whole(words: str, base: int = 10) -> int:
    digits = r"[0-9]{1,10}" if base == 10 else r"[0-9A-F]{8}"
    return int(words, base) if re.fullmatch(digits, words, re.ASCII) else 0
