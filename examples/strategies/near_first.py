"""A strategy of one's own: backends in the client's network first, the others when those fail.

Name it ``strategy: near_first:NearFirst`` and start EasyProxy with this folder in ``PYTHONPATH``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy


class NearFirst(Strategy):
    """Rotate among the backends in the client's own network; then among all others. Weights are not used."""

    prefixes = {4: 24, 6: 64}  # noqa: RUF012 - made to be overridden in a subclass
    """How many leading bits make a network, for IPv4 and IPv6."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._backends: Sequence[Backend] = ()
        self._near: dict[str, list[Backend]] = {}

    def build(self, backends: Sequence[Backend]) -> None:
        """Sort the backends by network once, so that a choice is one look into a table."""
        self._backends = backends
        self._near = {}
        for backend in backends:
            if backend.address.host:  # a unix socket is in no network
                self._near.setdefault(self._network(backend.address.host), []).append(backend)

    def candidates(self, client: str) -> Iterator[Backend]:
        """Yield the near backends, the turn going round, and then the far ones."""
        near = self._near.get(self._network(client), []) if client else []
        turn = self.context.ticket()
        yield from rotated(near, turn)
        yield from rotated([backend for backend in self._backends if backend not in near], turn)

    def _network(self, host: str) -> str:
        address = ip_address(host.partition("%")[0])  # without the zone of a link-local address
        return str(ip_network(f"{address}/{self.prefixes[address.version]}", strict=False))


def rotated(backends: Sequence[Backend], turn: int) -> list[Backend]:
    """Return the backends, beginning with the one whose turn it is.

    >>> rotated("abc", 4)
    ['b', 'c', 'a']
    """
    start = turn % len(backends) if backends else 0
    return [*backends[start:], *backends[:start]]
