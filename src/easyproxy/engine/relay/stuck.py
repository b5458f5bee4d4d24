"""Where a worker stands that does not answer: it is asked by a signal, and the interpreter itself writes its stacks.

The faulthandler module does so from within the signal handler, without running Python code: a worker in an endless
loop or in a system call that does not return can be seen all the same. It writes to a file without a name that both
processes have.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from pathlib import Path

ASK = signal.SIGRTMIN if hasattr(signal, "SIGRTMIN") else signal.SIGPROF
"""A signal that nobody else sends."""
WITHIN_S = 1.0
_LOOK_EVERY_S = 0.02
_MOST_BYTES = 256 * 1024
_STATES = {
    "R": "running",
    "S": "waiting",
    "D": "in a system call that cannot be interrupted",
    "T": "stopped",
    "t": "traced",
    "Z": "dead",
}


def prepare(fd: int) -> None:
    """Let this process write its stacks to the file when it is asked to."""
    faulthandler.register(ASK, file=fd, all_threads=True, chain=False)
    os.write(fd, b"\n")  # from now on the signal does not end the process


async def stacks_of(pid: int, fd: int) -> str:
    """Ask a process that was prepared; return its stacks, or why there are none, in words."""
    state = _state(pid)
    if not os.fstat(fd).st_size:
        return f"{state}; it has not finished starting"
    os.ftruncate(fd, 1)
    os.lseek(fd, 1, os.SEEK_SET)  # both processes share the place at which the next byte is written
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, ASK)
    import asyncio  # noqa: PLC0415 - only the control process asks; a worker is spared three megabytes

    size, loop = 1, asyncio.get_running_loop()
    deadline = loop.time() + WITHIN_S
    while loop.time() < deadline:
        await asyncio.sleep(_LOOK_EVERY_S)
        former, size = size, os.fstat(fd).st_size
        if 1 < size == former:
            break
    text = os.pread(fd, _MOST_BYTES, 1).decode(errors="replace")
    return f"{state}\n{text}" if text else f"{state}; it does not take a signal either"


def _state(pid: int) -> str:
    """Say in a word what the kernel says of the process (proc(5), /proc/pid/stat)."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "state unknown"
    return _STATES.get(letter, f"state {letter}")
