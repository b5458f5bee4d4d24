"""One line for one ended session: JSON, or the format of HAProxy's ``option tcplog``. Pure.

What HAProxy's format asks for and nobody here knows is not made up: it stands as -1, which is also what HAProxy
writes for a time that was never reached.
"""

from __future__ import annotations

import errno
import json
import os
import time
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.engine.seam import SessionEnd

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIMED_OUT = os.strerror(errno.ETIMEDOUT)

# HAProxy 3.2, configuration manual, section 8.5: who ended it, and in which phase; "*" stands for C (connecting) or
# D (data), as the session stood.
TERMINATION = {
    "client_fin": "--",
    "backend_fin": "--",
    "fin": "--",  # of the kernel engine, which does not always know the side
    "client_reset": "CD",
    "client_vanished": "CD",
    "client_gave_up": "CC",
    "backend_reset": "SD",
    "reset": "CD",  # of the kernel engine, which does not know the side
    "backend_vanished": "SD",
    "no_backend": "SC",
    "connect_failed": "SC",
    "queue_timeout": "sQ",
    "rate_limited": "PR",
    "refused": "PC",
    "idle_timeout": "cD",
    "half_closed_timeout": "cD",
    "life_timeout": "P*",
    "operator": "K*",
    "drained": "K*",
    "between_transactions": "K*",
    "backend_down": "D*",
    "failover": "D*",
    "lagging": "D*",
    "internal_error": "I*",
}


@lru_cache(8)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(8)
def _local(second: int) -> str:
    at = time.localtime(second)
    month = _MONTHS[at.tm_mon - 1]  # strftime would follow the locale of a program that embeds us
    return f"{at.tm_mday:02d}/{month}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d}"


def json_line(end: SessionEnd) -> str:
    """Write a session as one JSON object. ``tried`` and ``detail`` are left out where there is nothing to say."""
    at = int(end.started_at * 1000)
    tried = ""
    if end.tried:
        items = [{"backend": attempt.backend, "why": attempt.why} for attempt in end.tried]
        tried = f'"tried":{json.dumps(items, separators=(",", ":"))},'
    connect = f"{end.connect_s:.6f}" if end.connect_s >= 0 else "null"
    detail = f',"detail":{_quoted(end.detail)}' if end.detail else ""
    return (
        f'{{"time":"{_utc(at // 1000)}.{at % 1000:03d}Z","id":"{end.id}","client":{_quoted(end.client)},'
        f'"listener":{_quoted(end.listener)},"backend":{_quoted(end.backend)},{tried}'
        f'"connect_s":{connect},"total_s":{end.age_s:.6f},'
        f'"bytes_from_client":{end.bytes_from_client},"bytes_from_backend":{end.bytes_from_backend},'
        f'"reason":"{end.reason}"{detail}}}\n'
    )


def haproxy_line(end: SessionEnd) -> str:
    """Write a session as HAProxy does: ``%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq``."""
    at = int(end.started_at * 1000)
    host, _, port = end.client.rpartition(":")
    client = f"{host.strip('[]')}:{port}" if host else f"{end.client}:0"
    connect = int(end.connect_s * 1000) if end.connect_s >= 0 else -1
    listener = _word(end.listener)
    # As HAProxy does: the last that was tried, where none was reached.
    backend = end.backend or (end.tried[-1].backend if end.reason == "connect_failed" and end.tried else "")
    server = _word(backend) if backend else f"{listener}/<NOSRV>"
    redispatched = "+" if end.tried and end.backend else ""
    return (
        f"{client} [{_local(at // 1000)}.{at % 1000:03d}] {listener} {server} "
        f"{min(connect, 0)}/{connect}/{int(end.age_s * 1000)} {end.bytes_from_backend} {_termination(end)} "
        f"-1/-1/-1/-1/{redispatched}{len(end.tried)} -1/-1\n"
    )


def _termination(end: SessionEnd) -> str:
    if end.reason == "connect_failed" and end.tried and end.tried[-1].why == _TIMED_OUT:
        return "sC"
    return TERMINATION.get(end.reason, "I*").replace("*", "D" if end.connect_s >= 0 else "C")


def _word(name: str) -> str:
    """Keep a name one word: the fields of the line are told apart by spaces."""
    return "_".join(name.split())


FORMATS: dict[str, Callable[[SessionEnd], str]] = {"json": json_line, "haproxy": haproxy_line}
