"""What a probe reads of a protocol: exact amounts, out of a budget. For checks whose protocol says lengths itself.

A server can name any length and send for ever. Here no probe takes more than its budget, whatever is named, and what
came too early (behind the last plain byte before TLS) is noticed instead of read as if it had come later.
"""

from __future__ import annotations

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.connection import Connection

_PIECE = 16 * 1024


class Intake:
    """Reads from ``connection`` no more than ``budget`` bytes in all, each read within the connection's deadline."""

    def __init__(self, connection: Connection, budget: int) -> None:
        self._connection = connection
        self._left = budget
        self._budget = budget
        self._held = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether everything that has come was read."""
        return not self._held

    def held(self, limit: int) -> bytes:
        """Show what has come and was not read, without reading it."""
        return bytes(self._held[:limit])

    async def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            ProbeFailed: they would be more than the budget; nothing is read then.
            EOFError: the server has ended the connection before.
            TimeoutError: they did not come in time.
        """
        if count > len(self._held) + self._left:
            raise self._too_much()
        while len(self._held) < count:
            await self._more()
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    async def line(self, limit: int) -> bytes:
        r"""Return what stands before the next ``\r\n``, which is read too. Raises as :meth:`exactly` does."""
        while (end := self._held.find(b"\r\n", 0, limit + 2)) < 0:
            if len(self._held) >= limit + 2:
                raise ProbeFailed(f"sent a line of more than {limit} bytes")
            await self._more()
        taken = bytes(self._held[:end])
        del self._held[: end + 2]
        return taken

    async def _more(self) -> None:
        if not self._left:
            raise self._too_much()
        data = await self._connection.read_some(min(_PIECE, self._left))
        if not data:
            raise EOFError
        self._left -= len(data)
        self._held += data

    def _too_much(self) -> ProbeFailed:
        return ProbeFailed(f"sent more than the {self._budget // 1024} KiB that a probe reads")
