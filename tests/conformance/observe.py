"""Waiting for a condition and reading what the system says about processes: descriptors, memory, CPU time.

Nothing here opens a connection. Conditions are polled until a generous deadline; nobody sleeps in hope.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

DEADLINE_S = 40.0
"""For one step of a test; far more than a busy machine needs, so reaching it means "never"."""

_POLL_S = 0.01
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def _holds(value: Any, wanted: Any) -> bool:
    return bool(wanted(value)) if callable(wanted) else bool(value == wanted)


async def _look(observe: Callable[[], Any]) -> Any:
    value = observe()
    return await value if inspect.isawaitable(value) else value


async def eventually(
    observe: Callable[[], Any], wanted: Any, what: str = "", deadline_s: float = DEADLINE_S
) -> Any:
    """Poll ``observe`` (plain or async) until it gives ``wanted`` (a value or a predicate); return what it gave.

    Raises:
        AssertionError: the deadline passed; the message shows the last value.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = await _look(observe)
        if _holds(value, wanted):
            return value
        if time.monotonic() > end:
            goal = what or ("the condition" if callable(wanted) else repr(wanted))
            raise AssertionError(f"never reached {goal} in {deadline_s} s; last seen: {value!r}")
        await asyncio.sleep(_POLL_S)


async def stays(observe: Callable[[], Any], wanted: Any, for_s: float = 0.5) -> None:
    """Poll ``observe`` for a while and raise AssertionError as soon as it stops giving ``wanted``.

    For claims that something does not happen: a slow machine can only make it pass.
    """
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        value = await _look(observe)
        assert _holds(value, wanted), f"did not stay {wanted!r}: {value!r}"
        await asyncio.sleep(_POLL_S)


def descriptors(pids: Iterable[int]) -> int:
    """Count the open file descriptors of these processes, but those of an io_uring: it is made when first needed, and stays."""
    return sum(not _is_ring(entry) for pid in pids for entry in os.scandir(f"/proc/{pid}/fd"))


def _is_ring(descriptor: os.DirEntry[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):  # closed meanwhile
        return str(Path(descriptor.path).readlink()) == "anon_inode:[io_uring]"
    return True


def memory(pids: Iterable[int]) -> int:
    """Return the bytes of memory that belong to these processes alone (shared pages are not theirs)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time, user and system, that these processes have used."""
    total = 0
    for pid in pids:
        # proc(5): the name may hold spaces, so count fields after its closing parenthesis; utime is field 14.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS_PER_S
