"""The relay engine: user space, one epoll loop per worker, standard library only.

``RelayEngine`` is the control process's end. In a worker a connection goes through these files in this order:
``accept`` (and admit), ``dial`` (candidates, connect, retry, queue), ``flow`` (moving bytes), ``close`` (both
endings, accounting). ``life`` is the table that says what may follow what. The whole way: docs/architecture.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.engine.relay.engine import RelayEngine as RelayEngine

__all__ = ["RelayEngine"]


def __getattr__(name: str) -> object:
    # Workers import the modules beside this one, and must not load the control process's part (asyncio) with them.
    if name == "RelayEngine":
        from easyproxy.engine.relay.engine import RelayEngine  # noqa: PLC0415

        return RelayEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
