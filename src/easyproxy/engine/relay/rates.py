"""The tables of all listeners that have a ``client_rate``, as the control process has them. Nothing is judged here.

Another rate or burst is another table, because what the former one holds was counted in other intervals.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from easyproxy.engine.relay.rate import make_table
from easyproxy.model import Rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import ExitStack

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.crew import Member
    from easyproxy.model import Listener


@dataclass(frozen=True, slots=True)
class Table:
    """The shared memory of one listener's rate; whoever holds it in :class:`Rates` owns the descriptor."""

    rate: Rate
    burst: int
    fd: int

    def frame(self, listener: str) -> Frame:
        """Say what it is, for a worker or for a successor; the descriptor goes with it."""
        rate = {"count": self.rate.count, "per_s": self.rate.per_s}
        return {"op": "rate", "listener": listener, "rate": rate, "burst": self.burst}


def table_of(frame: Frame, fd: int) -> Table:
    """Return the table that a frame is about."""
    return Table(Rate(**frame["rate"]), frame["burst"], fd)


class Rates:
    """The tables by listener. Owns their descriptors; ``close`` it."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = dict(tables)

    def prepare(self, listeners: Iterable[Listener], undo: ExitStack) -> dict[str, Table]:
        """Keep or make the tables of these listeners; those newly made are closed with ``undo``."""
        tables: dict[str, Table] = {}
        for listener in listeners:
            rate, burst = listener.client_rate, listener.client_burst
            if rate is None or listener.bind.path:  # clients of a unix socket have no address
                continue
            table = self.tables.get(listener.name)
            if table is None or (table.rate, table.burst) != (rate, burst):
                table = Table(rate, burst, make_table())
                undo.callback(os.close, table.fd)
            tables[listener.name] = table
        return tables

    def settle(self, tables: dict[str, Table]) -> None:
        """Take over what was prepared, and close the rest."""
        former, self.tables = self.tables, tables
        kept = {table.fd for table in tables.values()}
        for table in former.values():
            if table.fd not in kept:
                os.close(table.fd)

    def equip(self, member: Member) -> None:
        """Give a worker those tables that it does not have."""
        member.rates = {name: table for name, table in member.rates.items() if table is self.tables.get(name)}
        for name, table in self.tables.items():
            if name not in member.rates:
                member.rates[name] = table
                member.send(table.frame(name), [table.fd])

    def close(self) -> None:
        """Close them all."""
        self.settle({})
