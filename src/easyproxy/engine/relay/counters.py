"""Counters in shared memory: every worker writes its own cells, anybody reads all of them without asking.

The memory is a file without a name, mapped by the control process and by every worker. A *slot* belongs to one
listener, backend or pool, or to the table of session ends; in it every worker has FIELDS cells of 64 bits, and so
has the control process, for totals that it took over from a former one. A cell has one writer, so no lock is needed,
and none can be left behind by a worker that was killed.

Limits over all workers (``max_sessions``) need no lock either. A worker first counts itself in and then adds up
everybody's cells; whoever finds the sum too high counts itself out again. Two workers at the last place may both
step back and try again, but the limit is never passed (the idea of Dekker's algorithm: announce, then look). That
needs the announcement to be visible before the look. Between the two lies a system call on one file description that
all workers share: it takes that file's lock, so of two workers the second sees what the first announced before it.

The same system call is the ticket counter of a pool: lseek(fd, 1, SEEK_CUR) is an atomic "fetch and add" over all
processes that share the file description (POSIX.1-2017, XSI 2.9.7; Linux, fs/file.c, file_needs_f_pos_lock). A worker
that dies can neither hold nor lose it.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from easyproxy.engine.relay.ranges import BYTES, CONNECT, LENGTH
from easyproxy.model import MAX_COUNTED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FIELDS = 96
SLOTS = 1 + MAX_COUNTED  # and one for the ends of sessions
_CELL = 8

# Cells of a listener's slot.
L_SESSIONS, L_ACCEPTED, L_REFUSED, L_NO_BACKEND, L_ACCEPT_ERRORS = range(5)
# Cells of a backend's slot.
(
    B_SESSIONS,
    B_TOTAL,
    B_FROM_CLIENT,
    B_FROM_BACKEND,
    B_CONNECT_ERRORS,
    B_LOCAL_ERRORS,
    B_CLIENT_RESETS,
    B_BACKEND_RESETS,
    B_TIMEOUTS,
    B_RETRIES,
) = range(10)
# Distributions over its sessions: for each the ranges, then the sum in units (easyproxy.engine.relay.ranges).
B_CONNECT = 16
B_LENGTH = B_CONNECT + CONNECT.cells
B_UP = B_LENGTH + LENGTH.cells
B_DOWN = B_UP + BYTES.cells
B_CONNECT_SUM, B_LENGTH_SUM = B_LENGTH - 1, B_UP - 1
B_UP_SUM, B_DOWN_SUM = B_DOWN - 1, B_DOWN + BYTES.cells - 1
# Cells of a pool's slot: who waits for a place or for a backend; those of them that its gate holds.
P_QUEUED, P_HELD = range(2)
# Slot 0 counts session ends by reason (life.REASONS), and in the last cell the reports that could not be handed over.
ENDS_SLOT = 0
E_LOST = FIELDS - 1


def _columns(cells: list[int]) -> list[list[int]]:
    return [cells[start : start + FIELDS] for start in range(0, len(cells), FIELDS)]


def anonymous_file(name: str) -> int:
    """Make a file without a name, and return its descriptor (close-on-exec; the caller owns it)."""
    if hasattr(os, "memfd_create"):
        made = os.memfd_create(name, os.MFD_CLOEXEC)
        try:
            # lseek(2) locks what open(2) has opened, and not what memfd_create(2) returns (FMODE_ATOMIC_POS).
            return os.open(f"/proc/self/fd/{made}", os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # no /proc
            pass
        finally:
            os.close(made)
    import tempfile  # noqa: PLC0415 - hardly ever needed, and slow to import

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Descriptor:
    """Owns a descriptor, and closes it when nobody can use it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        """Close it."""
        os.close(self.fd)


def ticket_counter(file: Descriptor) -> Callable[[], int]:
    """Return a function that gives 0, 1, 2, ... over all processes that share the file description.

    It keeps the descriptor open: whoever still chooses among the backends of a pool that is gone may draw on.
    """
    lseek, cur = os.lseek, os.SEEK_CUR

    def ticket() -> int:
        return lseek(file.fd, 1, cur) - 1

    return ticket


class Counters:
    """One process's view of the shared cells. Owns the mapping, not the descriptor.

    ``worker`` is the index of the worker that looks; the control process is ``workers``, one after the last.
    """

    def __init__(self, fd: int, workers: int, worker: int = 0) -> None:
        self.workers = workers
        self.fd = fd
        self.stride = (workers + 1) * FIELDS
        self._worker = worker
        self._map = mmap.mmap(fd, SLOTS * self.stride * _CELL)
        self.cells = memoryview(self._map).cast("q")

    @staticmethod
    def create(workers: int) -> int:
        """Make the shared memory for so many workers; return its descriptor. Untouched pages cost nothing."""
        fd = anonymous_file("easyproxy-counters")
        os.ftruncate(fd, SLOTS * (workers + 1) * FIELDS * _CELL)
        return fd

    def base(self, slot: int) -> int:
        """Index of this worker's first cell in ``slot``."""
        return slot * self.stride + self._worker * FIELDS

    def sum(self, slot: int, field: int) -> int:
        """Add up one field of a slot over all workers, and what was inherited."""
        start = slot * self.stride
        return sum(self.cells[start + field : start + self.stride : FIELDS])

    def totals(self, slot: int) -> list[int]:
        """Add up every field of a slot over all workers, and what was inherited."""
        start = slot * self.stride
        cells = self.cells[start : start + self.stride].tolist()
        return [sum(of_one) for of_one in zip(*_columns(cells), strict=True)]

    def inherit(self, slot: int, totals: Sequence[int], gauges: int = 1) -> None:
        """Add what a former process had counted; only the control process may, in its own column.

        The first ``gauges`` fields are left out: they say what is now, and the sessions that live on count
        themselves in again.
        """
        mine = slot * self.stride + self.workers * FIELDS
        for field in range(gauges, min(len(totals), FIELDS)):
            if totals[field]:
                self.cells[mine + field] += totals[field]

    def take(self, slot: int, limit: int) -> bool:
        """Count this worker's session into a listener's or a backend's slot, unless ``limit`` is reached (0: none)."""
        cells = self.cells
        mine = slot * self.stride + self._worker * FIELDS  # L_SESSIONS and B_SESSIONS are cell 0
        cells[mine] += 1
        if limit:
            taken = self.sum(slot, 0)
            if taken > limit - self.workers:
                os.lseek(self.fd, 0, os.SEEK_SET)  # the barrier; see above
                taken = self.sum(slot, 0)
            if taken > limit:
                cells[mine] -= 1
                return False
        return True

    def least(self, slot: int) -> int:
        """Return the smallest gauge that another worker has in a slot; there must be another."""
        start = slot * self.stride
        if self.workers == 2:
            return self.cells[start + FIELDS - self._worker * FIELDS]
        gauges = self.cells[start : start + self.workers * FIELDS : FIELDS].tolist()
        del gauges[self._worker]
        return min(gauges)

    def busy(self, slot: int, field: int) -> int:
        """Return how many workers have something in a field; at least one, as if it were this one."""
        return max(1, self._busy(slot, field, self.workers))

    def busy_before(self, slot: int, field: int) -> int:
        """Return how many workers before this one have something in a field."""
        return self._busy(slot, field, self._worker)

    def _busy(self, slot: int, field: int, workers: int) -> int:
        start = slot * self.stride + field
        return sum(1 for cell in self.cells[start : start + workers * FIELDS : FIELDS] if cell)

    def give(self, slot: int) -> None:
        """Count a session out again."""
        self.cells[slot * self.stride + self._worker * FIELDS] -= 1

    def clear_gauges(self, worker: int, slots: Iterable[int], field: int = 0) -> None:
        """Take back what a dead worker had counted in: its cell 0, or another one, of these slots."""
        for slot in slots:
            self.cells[slot * self.stride + worker * FIELDS + field] = 0

    def clear(self, slot: int) -> None:
        """Zero a slot for its next owner."""
        for index in range(slot * self.stride, (slot + 1) * self.stride):
            self.cells[index] = 0

    def close(self) -> None:
        """Unmap."""
        self.cells.release()
        self._map.close()
