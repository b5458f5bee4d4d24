"""What becomes of clients while a pool has no backend at all, and afterwards."""

from __future__ import annotations

import time

import pytest

from conformance.backends import greet
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.rig import Rig

pytestmark = pytest.mark.anyio

TICK_S = 0.1


@behaviour("hold")
async def test_clients_are_held_while_there_is_no_backend_and_served_when_there_is_one(rig: Rig) -> None:
    """What they have sent meanwhile is not lost; the listener's limit counts them."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(hold_s=60.0, max_sessions=3, overload="refuse")
    clients = [await rig.client() for _ in range(3)]
    await eventually(rig.queued, 3)
    assert await rig.knock() == "reset"
    await clients[0].send(b"sent while held")
    clients[2].close()
    await rig.reported("client_gave_up")
    await eventually(rig.queued, 2)
    rig.serve(backend, hold_s=60.0, max_sessions=3, overload="refuse")
    assert await clients[0].read(5) == await clients[1].read(5) == b"hello"
    assert await clients[0].read(15) == b"sent while held"
    await eventually(rig.queued, 0)
    assert rig.listener().no_backend == 0


@behaviour("hold")
async def test_being_held_has_a_time_limit(rig: Rig) -> None:
    """And then the reason is what it would have been at once."""
    rig.serve(hold_s=0.5)
    client = await rig.client()
    assert await client.ending() == "reset"
    [end] = await rig.reported("no_backend")
    assert end.age_s >= 0.5 - TICK_S
    await eventually(lambda: (rig.queued(), rig.listener().no_backend), (0, 1))


@behaviour("hold")
async def test_who_was_held_is_let_in_at_a_bounded_rate(rig: Rig) -> None:
    """20 at 20 a second, over all workers; after that the door is open."""
    backend = rig.backend("a", greet(b"hello"))
    settings = {"hold_s": 60.0, "admit_per_s": 20.0}
    rig.serve(**settings)
    clients = [await rig.client() for _ in range(20)]
    await eventually(rig.queued, 20)
    start = time.monotonic()
    rig.serve(backend, **settings)
    for client in clients:
        assert await client.read(5) == b"hello"
    assert time.monotonic() - start >= 1 - 3 * TICK_S
    await eventually(rig.queued, 0)
    assert await (await rig.client()).read(5) == b"hello"
