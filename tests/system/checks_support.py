"""What the tests of the checks share: a small server, a target, and one look through the monitor."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from easyproxy.engine.seam import Observation
from easyproxy.health.checks.base import Check, Target
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def serving(talk: Talk, path: Path | None = None) -> AsyncIterator[Address]:
    """Run ``talk`` for each connection; it must close the writer."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            tasks.discard(task)

    if path:
        server = await asyncio.start_unix_server(run, path)
        address = Address(path=str(path))
    else:
        server = await asyncio.start_server(run, "127.0.0.1", 0)
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield address
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


PATIENCE_S = 30.0
"""Longer than anything takes on a busy machine: only who looks for a time-out waits for it."""

LATE = 10
"""So many of the plain probes of one test may leave a trace: those that had to wait for a processor at the wrong moment."""


def target(address: Address, check: Check, timeout_s: float = PATIENCE_S) -> Target:
    return Target("p/a", "p", "a", address, check, timeout_s=timeout_s)


async def look(address: Address, check: Check, timeout_s: float = PATIENCE_S) -> Observation:
    """Let the monitor probe once."""
    seen: list[Observation] = []
    monitor = Monitor(seen.append, lambda _: False)
    monitor.watch([target(address, check, timeout_s)])
    await monitor.first_round()
    await monitor.stop()
    return seen[0]


async def probe(address: Address, check: Check) -> str:
    return await check.probe(target(address, check))
