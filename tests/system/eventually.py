"""Waiting for what must become true, without asserting how long it takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

PATIENCE_S = 60.0
"""Much longer than anything takes on a machine that is busy with other things; only a failure waits so long."""


def eventually(claim: Callable[[], Value], what: str, patience_s: float = PATIENCE_S) -> Value:
    """Ask again and again until the answer is true, and return it; fail with ``what`` was expected."""
    deadline = time.monotonic() + patience_s
    while not (value := claim()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come about that {what}; the last look found {value!r}")
        time.sleep(0.03)
    return value


async def comes_true(claim: Callable[[], Value], what: str, patience_s: float = PATIENCE_S) -> Value:
    """Do the same in an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + patience_s
    while not (value := claim()):
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not come about that {what}; the last look found {value!r}")
        await asyncio.sleep(0.01)
    return value
