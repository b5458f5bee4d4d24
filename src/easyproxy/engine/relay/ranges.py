"""The ranges in which times and bytes of sessions are counted, and how a value finds its range. Pure.

A range is found by the length of a number in bits, which is one call and one look into a table: ranges double (time
to connect) or grow by four (length of a session, bytes). A worker pays this for every session; a search among bounds
would cost several times as much.

The upper end belongs to the range, as in a Prometheus histogram; a time of exactly that length, to the microsecond,
stands in the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

_BITS = 80  # more than any count or time of 64 bits can have


@dataclass(frozen=True, slots=True)
class Ranges:
    """A row of ranges.

    Attributes:
        bounds: upper ends, ascending, in seconds or bytes.
        unit: how many units of the cells make one of ``bounds``.
        of_bits: range by the length in bits of the value in units (of bytes: of their number less one, at least 0).
    """

    bounds: tuple[float, ...]
    unit: int
    of_bits: tuple[int, ...]

    @property
    def cells(self) -> int:
        """How many cells it takes: the ranges, the last without an end, and the sum."""
        return len(self.bounds) + 2


def _ranges(first_bits: int, step_bits: int, count: int, unit: int) -> Ranges:
    """Make ``count`` bounds: 2 to the power of ``first_bits``, and so on, each ``step_bits`` further."""
    return Ranges(
        tuple(2 ** (first_bits + step_bits * index) / unit for index in range(count)),
        unit,
        tuple(min(count, max(0, -(-(bits - first_bits) // step_bits))) for bits in range(_BITS)),
    )


CONNECT = _ranges(6, 1, 20, 1_000_000)
"""64 microseconds to 33.6 seconds, doubling."""
LENGTH = _ranges(10, 2, 15, 1_000_000)
"""1.024 milliseconds to 3.2 days, by four."""
BYTES = _ranges(6, 2, 16, 1)
"""64 bytes to 64 GiB, by four."""

CONNECT_OF, LENGTH_OF, BYTES_OF = CONNECT.of_bits, LENGTH.of_bits, BYTES.of_bits
