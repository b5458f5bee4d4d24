"""Strategies of a user's own, as a snapshot names them: ``conformance.own_strategy:Last``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from easyproxy.model import Backend
from easyproxy.strategy.base import Strategy


class Last(Strategy):
    """Prefers the last backend of the configuration."""

    def build(self, backends: Sequence[Backend]) -> None:
        self._backends = tuple(reversed(backends))

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - everyone gets the same
        return iter(self._backends)


class Faulty(Last):
    """Fails for every client."""

    def candidates(self, client: str) -> Iterator[Backend]:
        raise ZeroDivisionError(client)
