"""What a failed connect says, and of whom: of this machine, or of the backend. Then the control process hears of it."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from easyproxy.engine.relay import counters as c
from easyproxy.engine.seam import Outcome

if TYPE_CHECKING:
    from easyproxy.engine.relay.core import Core
    from easyproxy.engine.relay.runtime import BackendRuntime

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that stay until somebody closes something."""
OURS = EXHAUSTED | frozenset(
    {
        errno.EADDRNOTAVAIL,
        errno.EAGAIN,
        errno.EADDRINUSE,
        errno.ENOSPC,  # epoll_ctl(2): max_user_watches
    }
)
"""Errors of connect(2) that say something about this machine and nothing about the backend."""


def observe(core: Core, backend: BackendRuntime, outcome: Outcome, detail: str, attempted_at: float) -> None:
    """Count and report a failed attempt that began at ``attempted_at`` (the worker's clock; 0: it failed at once)."""
    core.cells[backend.cell + c.B_CONNECT_ERRORS] += 1
    if backend.is_proven:
        # Failures are told one by one, successes only where they lie between two failures: so that a backend
        # that refuses one client in a hundred does not look as if it refused them all.
        backend.is_proven = False
        _tell(core, backend, Outcome.SUCCESS, "connected", attempted_at)
    _tell(core, backend, outcome, detail, attempted_at)


def _tell(core: Core, backend: BackendRuntime, outcome: Outcome, detail: str, attempted_at: float) -> None:
    core.report(
        {
            "kind": "observation",
            "backend": backend.backend.id,
            "outcome": outcome.value,
            "detail": f"{detail[:1].lower()}{detail[1:]} for a client",
            "at": time.time(),
            "duration_s": core.now - attempted_at if attempted_at else 0.0,
        }
    )
