"""io_uring(7), as far as a worker needs it: one pair of rings, one ring of buffers, and two system calls.

Facts this relies on (Linux 6.1 and later; io_uring_setup(2), io_uring_enter(2), io_uring_prep_recv_multishot(3)):

- With ``IORING_SETUP_DEFER_TASKRUN`` and ``IORING_SETUP_SINGLE_ISSUER`` all work is done, and every completion posted, within
  io_uring_enter(2) of the one thread that owns the ring. So nothing here needs a memory barrier.
- Requests are carried out in the order in which they were queued. A send with ``MSG_DONTWAIT`` is over when io_uring_enter(2) has
  taken it; with ``IOSQE_CQE_SKIP_SUCCESS`` a completion tells only of one that went wrong, and with ``MSG_WAITALL`` that
  includes one that was taken in part.
- Buffers are used in the order in which they lie in their ring. Whoever gives them back in that order finds each where it was,
  and has to write nothing but the ring's end.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct

RECV, SEND, POLL_ADD, ASYNC_CANCEL = 27, 26, 6, 14
"""Operations (linux/io_uring.h)."""
BUFFER_SELECT, SKIP_SUCCESS = 1 << 5, 1 << 6
"""Flags of a request."""
MULTISHOT, POLL_FIRST = 1 << 1, 1 << 0
"""Of a recv, in ``ioprio``."""
HAS_BUFFER, HAS_MORE = 1 << 32, 1 << 33
"""Flags of a completion, as they stand in its second word."""

_SETUP, _ENTER, _REGISTER = 425, 426, 427  # system calls, the same on every architecture that Python runs on
_CQSIZE, _SUBMIT_ALL, _SINGLE_ISSUER, _DEFER_TASKRUN = 1 << 3, 1 << 7, 1 << 12, 1 << 13
_SINGLE_MMAP, _CQE_SKIP = 1 << 0, 1 << 11
_AT_REQUESTS = 0x10000000
_WAITING = 1 << 0 | 1 << 3  # IORING_ENTER_GETEVENTS, IORING_ENTER_EXT_ARG
_REGISTER_BUFFERS = 22
_PARAMS = struct.Struct("=20I 10I")  # struct io_uring_params without the addresses in it
_BUFFERS = struct.Struct("=QIHHQQQ")  # struct io_uring_buf_reg
_ARGUMENT = struct.Struct("=QIIQ")  # struct io_uring_getevents_arg

REQUESTS = 1024
COMPLETIONS = 16384
WORDS = 8
"""Words of 64 bits in a request (struct io_uring_sqe)."""
BUFFERS = 128
BUFFER_BYTES = 4096


class Uring:
    """One io_uring with a ring of buffers. Belongs to the thread that makes it; raises OSError where the system gives none."""

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        params = ctypes.create_string_buffer(_PARAMS.size)
        flags = _CQSIZE | _SUBMIT_ALL | _SINGLE_ISSUER | _DEFER_TASKRUN
        struct.pack_into("=3I", params, 0, 0, COMPLETIONS, flags)
        self._fd = self._checked(self._call(_SETUP, REQUESTS, params))
        self._maps: list[mmap.mmap] = []
        try:
            self._map(_PARAMS.unpack(params.raw))
            self._lay_out_buffers()
        except BaseException:
            self.close()
            raise

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(result)

    def _map(self, params: tuple[int, ...]) -> None:
        requests, completions, features = params[0], params[1], params[5]
        if features & (_SINGLE_MMAP | _CQE_SKIP) != _SINGLE_MMAP | _CQE_SKIP:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        of_requests, of_completions = params[10:20], params[20:30]
        size = max(of_requests[6] + 4 * requests, of_completions[5] + 16 * completions)
        shared = self._shared(size, 0)
        self.numbers = memoryview(shared)[: size // 4 * 4].cast("I")
        self.requests = memoryview(self._shared(requests * WORDS * 8, _AT_REQUESTS)).cast("Q")
        begin = of_completions[5]
        self.completions = memoryview(shared)[begin : begin + 16 * completions].cast("Q")
        self._requests_tail = of_requests[1] // 4
        self.completions_head = of_completions[0] // 4
        self.completions_tail = of_completions[1] // 4
        for index in range(requests):  # request ``index`` lies at place ``index``, for good
            self.numbers[of_requests[6] // 4 + index] = index

    def _shared(self, size: int, offset: int) -> mmap.mmap:
        self._maps.append(mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED, offset=offset))
        return self._maps[-1]

    def _lay_out_buffers(self) -> None:
        store, ring, time = (mmap.mmap(-1, size) for size in (BUFFERS * BUFFER_BYTES, BUFFERS * 16, 64))
        self._maps += (store, ring, time)
        self.store = memoryview(store)
        begin, at, until = (ctypes.addressof(ctypes.c_char.from_buffer(each)) for each in (store, ring, time))
        self.addresses = [begin + index * BUFFER_BYTES for index in range(BUFFERS)]
        entries = memoryview(ring).cast("Q")
        for index, address in enumerate(self.addresses):
            entries[2 * index] = address
            entries[2 * index + 1] = BUFFER_BYTES | index << 32
        self._buffers_tail = memoryview(ring)[14:16].cast("H")  # overlaid on the first entry
        self._buffers_tail[0] = BUFFERS
        told = ctypes.create_string_buffer(_BUFFERS.pack(at, BUFFERS, 0, 0, 0, 0, 0))
        self._checked(self._call(_REGISTER, self._fd, _REGISTER_BUFFERS, told, 1))
        self._until = memoryview(time)[:16].cast("q")
        self._argument = ctypes.create_string_buffer(_ARGUMENT.pack(0, 0, 0, until), _ARGUMENT.size)
        self._none = ctypes.c_size_t(0)
        self._size = ctypes.c_size_t(
            _ARGUMENT.size
        )  # an int would be passed as 32 bits, beside which anything may stand

    def enter(self, tail: int, count: int, timeout: float) -> int:
        """Have the last ``count`` of ``tail`` requests carried out, and wait for a completion, but no longer than so many seconds (under 1).

        Returns:
            How many requests were taken. Raises OSError for what cannot be mended; a signal, or that the time is over, is nothing.
        """
        self.numbers[self._requests_tail] = tail & 0xFFFFFFFF
        self._until[1] = int(timeout * 1_000_000_000) if timeout > 0 else 0
        done: int = self._call(_ENTER, self._fd, count, timeout > 0, _WAITING, self._argument, self._size)
        return done if done >= 0 else self._failed()

    def submit(self, tail: int, count: int) -> int:
        """Have requests carried out, and nothing else; the same otherwise."""
        self.numbers[self._requests_tail] = tail & 0xFFFFFFFF
        done: int = self._call(_ENTER, self._fd, count, 0, 0, None, self._none)
        return done if done >= 0 else self._failed()

    def _failed(self) -> int:
        number = ctypes.get_errno()
        if number not in (errno.ETIME, errno.EINTR, errno.EAGAIN, errno.EBUSY):
            raise OSError(number, os.strerror(number))
        return 0

    def give_buffers(self, count: int) -> None:
        """Let the kernel use the so many oldest of the buffers that were read into."""
        self._buffers_tail[0] = (self._buffers_tail[0] + count) & 0xFFFF

    def close(self) -> None:
        """Close it: what is under way ends with it."""
        os.close(self._fd)
