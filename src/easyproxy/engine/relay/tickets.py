"""The ticket counters of all pools, as the control process has them; ``counters.ticket_counter`` says what they are for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from easyproxy.engine.relay.counters import anonymous_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from easyproxy.engine.relay.crew import Member
    from easyproxy.model import Pool


class Tickets:
    """The descriptors by pool. Owns them; ``close`` it."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds

    def prepare(self, pools: Iterable[Pool], undo: ExitStack) -> dict[str, int]:
        """Keep or make the counters of these pools; those newly made are closed with ``undo``. Raises OSError."""
        fds: dict[str, int] = {}
        for pool in pools:
            fd = self.fds.get(pool.name)
            if fd is None:
                fd = anonymous_file("easyproxy-tickets")
                undo.callback(os.close, fd)
            fds[pool.name] = fd
        return fds

    def settle(self, fds: dict[str, int]) -> None:
        """Take over what was prepared, and close the rest."""
        for name in self.fds.keys() - fds.keys():
            os.close(self.fds[name])
        self.fds = fds

    def equip(self, member: Member) -> None:
        """Give a worker those that it does not have."""
        member.tickets &= self.fds.keys()  # a pool that comes back has another counter
        for name, fd in self.fds.items():
            if name not in member.tickets:
                member.tickets.add(name)
                member.send({"op": "ticket", "pool": name}, [fd])

    def close(self) -> None:
        """Close them all."""
        self.settle({})
