"""An ended session as a row: how a worker remembers and sends it, and how the control process reads it. Pure.

Workers keep rows of plain values because that is cheap for every session; a SessionEnd is made of one only where
somebody looks at it. Times in a row are those of the machine's monotonic clock, which all processes share; ``epoch``
of a batch brings them to the calendar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from easyproxy.engine.relay.names import client_text, name_of
from easyproxy.engine.seam import Attempt, SessionEnd

if TYPE_CHECKING:
    from collections.abc import Iterator

Row = tuple[int, str, str, str, int, str, float, float, float, int, int, str, dict[str, str] | None]
"""Number, listener, backend, the client's host and port, reason, times of accept, connect (0: never) and end, bytes
from the client and from the backend, detail, candidates that were passed over."""

REASON = 5
BACKEND, LISTENER, HOST = 2, 1, 3


class Batch:
    """Rows of one worker as SessionEnds; implements :class:`easyproxy.engine.seam.Ends`.

    Args:
        rows: as they came over the channel.
        prefix: of the ids of this worker's sessions.
        epoch: seconds between the epoch and the zero of the monotonic clock.
    """

    __slots__ = ("_epoch", "_prefix", "rows")

    def __init__(self, rows: list[Any], prefix: str, epoch: float) -> None:
        self.rows = rows
        self._prefix = prefix
        self._epoch = epoch

    def __len__(self) -> int:
        """How many sessions."""
        return len(self.rows)

    def __iter__(self) -> Iterator[SessionEnd]:
        """Make the SessionEnds, one after the other."""
        return map(self.end, self.rows)

    def end(self, row: Row) -> SessionEnd:
        """Make the SessionEnd of one row."""
        number, listener, backend, host, port, reason, accepted, connected, ended, up, down, detail, tried = (
            row
        )
        return SessionEnd(
            name_of(self._prefix, number),
            listener,
            backend,
            client_text(host, port),
            reason,
            ended - accepted,
            up,
            down,
            detail,
            accepted + self._epoch,
            connected - accepted if connected else -1.0,
            tuple([Attempt(*one) for one in tried.items()]) if tried else (),
        )
