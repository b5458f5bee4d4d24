"""Clients that write numbered rows through a balancer and do not give up: what they were promised can be compared afterwards."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from eventually import eventually

ATTEMPT_S = 12.0
"""For one attempt, connecting included; longer than the balancer holds a client."""
PER_CLIENT = 1_000_000_000
"""Attempts of one client are numbered upwards from its own multiple of this."""
_SESSION_ROWS = 7
"""One in so many rows is the last of its session: whoever is sent elsewhere then is noticed."""
_PAUSE_S, _PAUSE_AFTER_FAILURE_S = 0.002, 0.02


class Session(Protocol):
    """One connection to whatever takes writes; ``server`` is the number or the port of the one that it has come to."""

    server: int

    async def write(self, attempt: int) -> None:
        """Write a row, and return when it is acknowledged; raises whatever the driver raises."""

    async def close(self) -> None:
        """End at once."""


@dataclass(frozen=True, slots=True)
class Ack:
    """An attempt that the client was told has succeeded, when (by the monotonic clock), and by which server."""

    attempt: int
    at: float
    server: int


class Writers:
    """Clients at work until the end of the block. Every attempt has a number of its own.

    Each has a thread and an event loop of its own, so that neither the test nor another client holds it up.
    """

    def __init__(self, connect: Callable[[], Awaitable[Session]], clients: int = 2) -> None:
        self._connect = connect
        self._is_over = threading.Event()
        self.acks: list[Ack] = []
        self.errors: list[str] = []
        self._clients = range(1, clients + 1)
        self._threads = [threading.Thread(target=self._begin, args=(one,)) for one in self._clients]
        for thread in self._threads:
            thread.start()

    def _begin(self, client: int) -> None:
        asyncio.run(self._run(client * PER_CLIENT))

    async def _run(self, attempt: int) -> None:
        session: Session | None = None
        while not self._is_over.is_set():
            attempt += 1
            try:
                async with asyncio.timeout(ATTEMPT_S):  # no driver's own limit covers everything
                    if session is None:
                        session = await self._connect()
                    await session.write(attempt)
            except Exception as error:  # noqa: BLE001 - whatever it is, it tries again
                self.errors.append(repr(error))
                if session is not None:
                    await session.close()
                session = None
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)
                continue
            self.acks.append(Ack(attempt, time.monotonic(), session.server))
            if attempt % _SESSION_ROWS == 0:
                await session.close()
                session = None
            await asyncio.sleep(_PAUSE_S)
        if session is not None:
            await session.close()

    def wait_for(self, rows: int, server: int, what: str) -> None:
        """Wait until each of them has got so many more rows acknowledged by one server."""
        before = len(self.acks)

        def least() -> int:
            fresh = [ack.attempt // PER_CLIENT for ack in self.acks[before:] if ack.server == server]
            return min(fresh.count(client) for client in self._clients)

        eventually(lambda: least() >= rows, f"{what}; the last errors were {self.errors[-3:]}")

    def wait_for_failures(self, count: int) -> None:
        """Wait until so many more attempts have failed."""
        before = len(self.errors)
        eventually(lambda: len(self.errors) >= before + count, "writers are turned away")

    def stop(self) -> None:
        """Let each of them finish what it does."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def publish(self, what: str, server: int, ready_at: float, record: Callable[[str, object], None]) -> None:
        """Tell how long nobody got anything acknowledged, and how much of that after the servers had been set up anew.

        It is not judged. ``server`` is the one that took writes then.
        """
        times = sorted(ack.at for ack in self.acks)
        first = min((ack.at for ack in self.acks if ack.server == server and ack.at > ready_at), default=0.0)
        figures = {
            "rows": len(times),
            "seconds_without_writes": round(max(later - one for one, later in itertools.pairwise(times)), 2),
            "of_these_when_the_servers_were_ready": round(max(0.0, first - ready_at), 2),
        }
        for name, value in figures.items():
            record(name, value)
        print(f"{what}: {figures}")  # noqa: T201 - this is how it is published


def prove(
    acks: Sequence[Ack],
    survivor: Mapping[int, int],
    order: tuple[int, ...],
    elsewhere: Mapping[int, int] | None = None,
) -> None:
    """Prove that nothing was lost, and that no client has written to a primary once it had written to the next.

    Args:
        acks: what clients were promised.
        survivor: what the server holds that is the primary in the end: attempts, each with the server that executed it.
        order: the servers that were the primary, one after the other.
        elsewhere: what other servers hold.
    """
    lost = [ack for ack in acks if ack.attempt not in survivor]
    assert not lost, f"{len(lost)} of {len(acks)} acknowledged rows are lost, the first: {lost[:3]}"
    there = {**(elsewhere or {}), **survivor}
    assert set(there.values()) == set(order), "each of them was written to, and nobody else"
    for client in {attempt // PER_CLIENT for attempt in there}:
        mine = {attempt: server for attempt, server in there.items() if attempt // PER_CLIENT == client}
        for was, now in itertools.pairwise(order):
            last_before = max((attempt for attempt, server in mine.items() if server == was), default=0)
            first_after = min(attempt for attempt, server in mine.items() if server == now)
            assert last_before < first_after, (
                f"client {client} wrote to both: {last_before} after {first_after}"
            )
