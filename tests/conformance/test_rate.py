"""One client address opens no more new sessions than its listener's rate allows, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import time

import pytest

from conformance.backends import greet
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.rig import Rig
from easyproxy.model import Rate

pytestmark = pytest.mark.anyio

ONE, OTHER = "127.0.0.6", "127.0.0.7"
HARDLY_EVER = Rate(1, 3600)


async def is_served(rig: Rig, host: str = ONE) -> bool:
    """Come from an address, and read the greeting; the session goes on until the test ends."""
    try:
        client = await rig.client(source=(host, 0))
        return await client.read(1) == b"a"
    except (ConnectionRefusedError, ConnectionResetError):
        return False


def turned_away(rig: Rig) -> tuple[int, int]:
    return rig.listener().refused, rig.ends("rate_limited")


@behaviour("rate")
async def test_an_address_opens_its_burst_at_once_and_then_no_more(rig: Rig) -> None:
    rig.serve(rig.backend("a", greet(b"a")), client_rate=HARDLY_EVER, client_burst=5)
    assert [await is_served(rig) for _ in range(8)] == [True] * 5 + [False] * 3
    await eventually(lambda: turned_away(rig), (3, 3))
    assert await is_served(rig, OTHER)
    await eventually(lambda: rig.listener().sessions, 6)


@behaviour("rate")
async def test_of_many_that_come_at_once_so_many_are_served_as_the_burst_allows(rig: Rig) -> None:
    """Whichever worker takes them in; two that look in the same microsecond may let one more in."""
    rig.serve(rig.backend("a", greet(b"a")), client_rate=HARDLY_EVER, client_burst=20)
    served = sum(await asyncio.gather(*(is_served(rig) for _ in range(60))))
    assert 20 <= served <= 22
    await eventually(lambda: turned_away(rig), (60 - served, 60 - served))


@behaviour("rate")
async def test_it_may_open_another_after_each_interval(rig: Rig) -> None:
    rate, burst = Rate(600, 60), 2
    rig.serve(rig.backend("a", greet(b"a")), client_rate=rate, client_burst=burst)
    started, served = time.monotonic(), 0
    while served < 8:
        served += await is_served(rig)
        assert served <= burst + (time.monotonic() - started) * 10


@behaviour("rate")
async def test_a_session_that_ends_gives_no_other_one_back(rig: Rig) -> None:
    rig.serve(rig.backend("a", greet(b"a")), client_rate=HARDLY_EVER, client_burst=1)
    client = await rig.client(source=(ONE, 0))
    assert await client.read(1) == b"a"
    client.close()
    await rig.quiet()
    assert not await is_served(rig)


@behaviour("rate", "snapshots")
async def test_what_was_opened_counts_over_snapshots_that_keep_the_rate(rig: Rig) -> None:
    """Another rate or burst begins a new count, and without one everybody is served."""
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"a"))
    rig.serve(a, client_rate=HARDLY_EVER, client_burst=2)
    assert await is_served(rig)
    rig.serve(a, b, client_rate=HARDLY_EVER, client_burst=2, idle_timeout_s=100)
    assert [await is_served(rig), await is_served(rig)] == [True, False]
    rig.serve(b, client_rate=HARDLY_EVER, client_burst=3)
    await eventually(lambda: is_served(rig), True)
    rig.serve(b)
    await rig.engine.settled()
    assert [await is_served(rig) for _ in range(5)] == [True] * 5


@behaviour("rate", "refusals")
async def test_who_comes_too_often_is_told_of_with_the_reason(rig: Rig) -> None:
    rig.serve(rig.backend("a", greet(b"a")), client_rate=HARDLY_EVER, client_burst=1)
    assert [await is_served(rig), await is_served(rig)] == [True, False]
    [end] = await rig.reported("rate_limited")
    assert (end.listener, end.backend) == ("front", "")
    assert end.client.startswith(f"{ONE}:")
    assert end.detail == "its address has opened more than 1/h, and 1 at once"
    assert rig.listener().sessions == 1
