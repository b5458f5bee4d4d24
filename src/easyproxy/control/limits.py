"""Open files: raising the limit, and telling an operator when it cannot hold what the configuration allows."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.config.schema import Config

_OWN = 100
"""Descriptors of a worker that are no session's: sockets, pipes, libraries."""
_PER_SESSION = 2


def raise_descriptor_limit() -> int:
    """Raise this process's soft limit of open files to the hard one (getrlimit(2)); return what is in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError):  # macOS refuses "unlimited"
            return soft
        soft = hard
    return soft


def descriptor_limit() -> int:
    """Return the limit of open files that is in force, for this process and for the workers that it starts."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def shortage(config: Config, workers: int, limit: int) -> str:
    """Say in words what is missing when the listeners' ``max_sessions`` need more than ``limit`` per worker.

    >>> from easyproxy.config.load import from_dict
    >>> listener, pools = {"bind": "127.0.0.1:0", "pool": "p"}, {"p": {"backends": ["127.0.0.1:1"]}}
    >>> config = from_dict({"listeners": [{**listener, "max_sessions": 5000}], "pools": pools})
    >>> shortage(config, workers=1, limit=1024)[:59]
    '5000 sessions (max_sessions of all listeners) need about 10'
    >>> shortage(config, workers=1, limit=20000)
    ''
    >>> shortage(from_dict({"listeners": [listener], "pools": pools}), workers=1, limit=64)[:58]
    'a worker needs about 100 open files before its first sessi'
    """
    # Sessions of the kernel engine have no descriptors.
    sessions = sum(listener.max_sessions for listener in config.listeners if listener.engine == "relay")
    # Workers accept from one queue and keep about level with each other, but not exactly (docs/decisions/0005-one-queue.md).
    needed = _OWN + int(_PER_SESSION * sessions / workers * (1.0 if workers == 1 else 1.2))
    if limit < 0 or needed <= limit:  # RLIM_INFINITY is -1
        return ""
    if not sessions:
        return (
            f"a worker needs about {_OWN} open files before its first session, but the limit is {limit}; raise it "
            "(ulimit -n, or LimitNOFILE= in a systemd unit)"
        )
    return (
        f"{sessions} sessions (max_sessions of all listeners) need about {needed} open files in each of "
        f"{workers} workers, but the limit is {limit}; raise it (ulimit -n, or LimitNOFILE= in a systemd unit) or "
        f"lower max_sessions. Beyond it new clients wait in the backlog."
    )
