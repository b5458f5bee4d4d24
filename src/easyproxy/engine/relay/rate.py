"""How many new sessions one client address may open: a meter in shared memory, asked by every worker before it admits a client.

The rule is the Generic Cell Rate Algorithm in its virtual scheduling form (ITU-T Recommendation I.371, annex A; ATM Forum,
Traffic Management 4.0, 4.4.2). All that is remembered of an address is one number: when its next session would be due if
they came evenly (the theoretical arrival time). Who comes early by no more than the burst allows is let in and moves that
time on by one interval; who comes earlier is refused, and moves nothing. That is a token bucket without a timer, and what
nftables' ``limit rate over`` does in the kernel.

The numbers stand in a table of a fixed size, so that no number of addresses can use up memory. An address has one cell in
each of two rows, and its time is the smaller of the two (conservative update: Estan and Varghese, "New directions in
traffic measurement and accounting", SIGCOMM 2002). So an address is refused for what others did only where it shares both
its cells with addresses that are at their limit: with 1,000 of those, for one address in four thousand. Where the cells are
follows from a number that is drawn for each table (Carter and Wegman, "Universal classes of hash functions", 1979), so
nobody can choose an address that shares the cells of another.

There is no lock. A cell is read and written as one machine word; two workers that judge the same address in the same
microsecond may both write the same time, and then one session more than allowed is let in. Nobody is refused by that.
"""

from __future__ import annotations

import mmap
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from easyproxy.engine.relay.counters import anonymous_file
from easyproxy.model import Rate

if TYPE_CHECKING:
    from easyproxy.engine.relay.channel import Frame

_BITS = 16
_MASK = (1 << _BITS) - 1
_SECRET_BYTES = 32
_FIRST = _SECRET_BYTES // 8
_SECOND = _FIRST + (1 << _BITS)
_BYTES = (_SECOND + (1 << _BITS)) * 8
_PRIME = (1 << 89) - 1
_IPV6 = 1 << 64


def arrive(due_ns: int, now_ns: int, interval_ns: int, tolerance_ns: int) -> int:
    """Return when the next session of an address is due after one that comes now; 0 where that one comes too early. Pure.

    >>> arrive(0, 1000, 10, 20), arrive(1010, 1000, 10, 20), arrive(1030, 1000, 10, 20)
    (1010, 1020, 0)
    """
    if due_ns - now_ns > tolerance_ns:
        return 0
    return (max(now_ns, due_ns)) + interval_ns


def number_of(host: str) -> int:
    """Return what is counted as one client: an IPv4 address, or the /64 of an IPv6 one.

    Whoever has one IPv6 address has its whole /64 (RFC 6177; RFC 8981 has hosts change theirs within it).

    >>> number_of("0.0.1.1"), number_of("2001:db8::1") == number_of("2001:db8::2%eth0")
    (257, True)
    """
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        return _IPV6 | int.from_bytes(packed[:8], "big")
    return int.from_bytes(socket.inet_aton(host), "big")


def make_table() -> int:
    """Make the shared memory of one meter; return its descriptor. Untouched pages cost nothing."""
    fd = anonymous_file("easyproxy-rate")
    os.ftruncate(fd, _BYTES)
    os.pwrite(fd, os.urandom(_SECRET_BYTES), 0)
    return fd


@dataclass(frozen=True, slots=True)
class Table:
    """The shared memory of one listener's rate; whoever holds it (:mod:`.rates`) owns the descriptor."""

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


class Meter:
    """One process's view of the table of one listener. Owns the mapping, not the descriptor."""

    __slots__ = ("_cells", "_factor", "_interval_ns", "_offset", "_tolerance_ns", "words")

    def __init__(self, fd: int, rate: Rate, burst: int) -> None:
        self._cells = memoryview(mmap.mmap(fd, _BYTES)).cast("q")
        secret = os.pread(fd, _SECRET_BYTES, 0)
        half = _SECRET_BYTES // 2
        self._factor = int.from_bytes(secret[:half], "little") % (_PRIME - 1) + 1
        self._offset = int.from_bytes(secret[half:], "little") % _PRIME
        self._interval_ns = rate.interval_ns
        self._tolerance_ns = (burst - 1) * rate.interval_ns
        self.words = f"its address has opened more than {rate}, and {burst} at once"

    def admits(self, host: str, now_ns: int) -> bool:
        """Whether a client of this address may open a session now; if so, it is counted."""
        place = (self._factor * number_of(host) + self._offset) % _PRIME
        one, other = _FIRST + (place & _MASK), _SECOND + (place >> _BITS & _MASK)
        cells = self._cells
        first, second = cells[one], cells[other]
        due = arrive(min(second, first), now_ns, self._interval_ns, self._tolerance_ns)
        if not due:
            return False
        # Read anew: one that was held up since must not take back what others have counted meanwhile.
        for cell in (one, other):
            if cells[cell] < due:  # noqa: PLR1730 - max() would write also where there is nothing new
                cells[cell] = due
        return True
