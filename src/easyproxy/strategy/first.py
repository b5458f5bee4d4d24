"""First: always the first ready backend of the configuration, the next ones only when it fails.

Only this strategy lives here; it is for a primary with stand-ins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy


class First(Strategy):
    """Yield the backends in the order of the configuration. Weights say nothing here."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._backends: Sequence[Backend] = ()

    def build(self, backends: Sequence[Backend]) -> None:
        """Keep the order."""
        self._backends = backends

    def candidates(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - the same for everyone
        """Yield them as they stand."""
        return iter(self._backends)
