"""The tables of all listeners that have a ``client_rate``, as the control process has them. Nothing is judged here.

Another rate or burst is another table, because what the former one holds was counted in other intervals.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from easyproxy.engine.relay.rate import Table, make_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from contextlib import ExitStack

    from easyproxy.engine.relay.crew import Member
    from easyproxy.model import Listener


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
