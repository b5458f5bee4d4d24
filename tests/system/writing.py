"""A client that writes numbered rows through a balancer, and never gives up: what it was promised can be compared afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from eventually import comes_true

ATTEMPT_S = 12.0
"""For one attempt, connecting included; longer than the balancer holds a client."""
PER_CLIENT = 1_000_000_000
"""Attempts of one client are numbered upwards from its own multiple of this."""


class Session(Protocol):
    """One connection to whatever takes writes."""

    async def write(self, attempt: int, number: int) -> None:
        """Write a row, and return when it is acknowledged; raises whatever the driver raises."""

    async def close(self) -> None:
        """End at once."""


@dataclass
class Writer:
    """Writes rows one after the other, each until it is acknowledged. Every attempt has a number of its own."""

    client: int
    connect: Callable[[], Awaitable[Session]]
    acknowledged: dict[int, int] = field(default_factory=dict)  # attempt: row
    acknowledged_at: dict[int, float] = field(default_factory=dict)
    last_error: str = ""
    is_over: bool = False

    async def run(self) -> None:
        attempt, number = self.client * PER_CLIENT, 0
        session: Session | None = None
        try:
            while not self.is_over:
                attempt += 1
                try:
                    async with asyncio.timeout(ATTEMPT_S):  # no driver's own limit covers everything
                        if session is None:
                            session = await self.connect()
                        await session.write(attempt, number)
                except Exception as error:  # noqa: BLE001 - whatever it is, it tries again
                    self.last_error = repr(error)
                    if session is not None:
                        await session.close()
                    session = None
                    await asyncio.sleep(0.02)
                else:
                    self.acknowledged[attempt] = number
                    self.acknowledged_at[attempt] = time.monotonic()
                    number += 1
        finally:
            if session is not None:
                await session.close()


class Writers:
    """Several of them at work."""

    def __init__(self, writers: list[Writer]) -> None:
        self._writers = writers

    @property
    def acknowledged(self) -> dict[int, int]:
        return {attempt: number for one in self._writers for attempt, number in one.acknowledged.items()}

    @property
    def acknowledged_at(self) -> dict[int, float]:
        return {attempt: at for one in self._writers for attempt, at in one.acknowledged_at.items()}

    async def progress(self, rows: int = 20) -> None:
        """Wait until each of them has got so many more rows acknowledged."""
        wanted = [(one, len(one.acknowledged) + rows) for one in self._writers]
        for one, count in wanted:
            await comes_true(
                lambda one=one, count=count: len(one.acknowledged) >= count,
                f"client {one.client} writes {rows} more rows; its last error was {one.last_error}",
            )

    def without_writes_s(self) -> float:
        """Return the longest time in which none of them got anything acknowledged."""
        times = sorted(self.acknowledged_at.values())
        return max(later - earlier for earlier, later in pairwise(times))


@contextlib.asynccontextmanager
async def writing(connect: Callable[[], Awaitable[Session]], clients: int = 2) -> AsyncIterator[Writers]:
    """Let so many clients write from the beginning of the block to its end."""
    writers = [Writer(number + 1, connect) for number in range(clients)]
    tasks = [asyncio.create_task(one.run()) for one in writers]
    try:
        yield Writers(writers)
    finally:
        for one in writers:
            one.is_over = True  # not cancelled: drivers have been seen to swallow that
        await asyncio.gather(*tasks)


def publish(
    what: str,
    writers: Writers,
    survivor: Mapping[int, int],
    port: int,
    ready_at: float,
    record: Callable[[str, object], None],
) -> None:
    """Tell how long nothing was written, and how much of that after the servers had been set up anew. It is not judged."""
    first = min(at for attempt, at in writers.acknowledged_at.items() if survivor.get(attempt) == port)
    figures = {
        "seconds_without_writes": round(writers.without_writes_s(), 2),
        "of_these_when_the_servers_were_ready": round(max(0.0, first - ready_at), 2),
    }
    for name, value in figures.items():
        record(name, value)
    print(f"{what}: {figures}")  # noqa: T201 - this is how it is published


def prove(
    acknowledged: Iterable[int], survivor: Mapping[int, int], old: Mapping[int, int], ports: tuple[int, int]
) -> None:
    """Compare what was promised with what is there: attempts with the port of the server that executed them.

    No acknowledged row is lost, and no client has written to the old primary once it had written to the new one.
    """
    was, now = ports
    lost = set(acknowledged) - survivor.keys()
    assert not lost, f"{len(lost)} acknowledged rows are lost: {sorted(lost)[:10]}"
    there = {**old, **survivor}
    assert set(there.values()) == {was, now}, "rows were written to both, one after the other"
    for client in {attempt // PER_CLIENT for attempt in there}:
        mine = {attempt: port for attempt, port in there.items() if attempt // PER_CLIENT == client}
        last_before = max((attempt for attempt, port in mine.items() if port == was), default=0)
        first_after = min(attempt for attempt, port in mine.items() if port == now)
        assert last_before < first_after, f"client {client} wrote to both: {last_before} after {first_after}"
