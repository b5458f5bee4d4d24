"""A backend has a client only once it has greeted; what each protocol says first is in the unit tests."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from conformance.backends import greet
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.peers import Peer
from conformance.rig import Rig
from conformance.streams import MIB, Stream
from easyproxy.engine.seam import Outcome

pytestmark = pytest.mark.anyio

TICK_S = 0.1
FULL = b"\x17\0\0\0\xff\x10\x04Too many connections"
STARTUP = struct.pack(">II", 16, 3 << 16) + b"user\0u\0\0"
NO_PLACE = b"E\0\0\0\x12SFATAL\0C53300\0\0"


def in_order(**settings: Any) -> dict[str, Any]:
    return {"strategy": "first", "greeting": "any", "greeting_timeout_s": 30.0, **settings}


async def turn_away(peer: Peer) -> None:
    """As a MySQL server at its max_connections."""
    await peer.send(FULL)
    peer.close()


@behaviour("greeting", 24)
async def test_a_backend_that_accepts_and_says_nothing_is_left_for_the_next(rig: Rig) -> None:
    """Its kernel accepts for it: a stopped server looks like this."""
    silent, well = rig.backend("silent", is_accepting=False), rig.backend("well", greet(b"hello"))
    rig.serve(silent, well, **in_order(greeting_timeout_s=2.0))
    client = await rig.client()
    await client.send(b"first words")
    assert await client.read(5) == b"hello"
    assert await client.read(11) == b"first words"
    await eventually(lambda: [item.outcome for item in rig.observations(silent)], [Outcome.TIMEOUT])
    [seen] = rig.observations(silent)
    assert seen.duration_s >= 2.0 - TICK_S
    assert (rig.counters(silent).connect_errors, rig.counters(silent).retries) == (1, 1)
    [session] = await rig.sessions()
    assert (session.backend, [item.backend for item in session.tried]) == (well.id, [silent.id])


@pytest.mark.parametrize("how", ["fin", "reset"])
@behaviour("greeting", 24)
async def test_a_backend_that_leaves_without_a_word_is_left_for_the_next(rig: Rig, how: str) -> None:
    async def leave(peer: Peer) -> None:
        peer.close() if how == "fin" else peer.reset()

    leaving, well = rig.backend("leaving", leave), rig.backend("well", greet(b"hello"))
    rig.serve(leaving, well, **in_order())
    assert await (await rig.client()).read(5) == b"hello"
    await eventually(lambda: [item.outcome for item in rig.observations(leaving)], [Outcome.RESET])


@behaviour("greeting")
async def test_a_backend_without_a_place_is_left_for_the_next_and_is_not_ill(rig: Rig) -> None:
    full, well = rig.backend("full", turn_away), rig.backend("well", greet(b"\x01\0\0\0\x0ahello"))
    rig.serve(full, well, **in_order(greeting="mysql"))
    client = await rig.client()
    assert await client.read(10) == b"\x01\0\0\0\x0ahello"
    assert not rig.observations(full)
    client.close()
    await rig.quiet()
    assert (rig.counters(full).sessions, rig.counters(full).total, rig.counters(well).total) == (0, 0, 1)


@behaviour("greeting")
async def test_when_none_has_a_place_the_client_hears_so(rig: Rig) -> None:
    one, other = rig.backend("one", turn_away), rig.backend("other", turn_away)
    rig.serve(one, other, **in_order(greeting="mysql"))
    client = await rig.client()
    assert await client.read_to_end() == FULL
    client.close()
    await rig.quiet()
    assert [rig.counters(each).sessions for each in (one, other)] == [0, 0]


@behaviour("greeting", 19)
async def test_whom_one_turns_away_waits_for_a_place_at_the_other(rig: Rig) -> None:
    hello = b"\x01\0\0\0\x0ahello"
    full, busy = rig.backend("full", turn_away), rig.backend("busy", greet(hello))
    rig.serve(full, busy.model(max_sessions=1), **in_order(greeting="mysql", queue_timeout_s=30.0))
    first = await rig.client()
    assert await first.read(10) == hello
    waiting = await rig.client()
    await eventually(rig.queued, 1)
    first.close()
    assert await waiting.read(10) == hello
    assert (len(full.connections), len(busy.connections)) == (2, 2)


@behaviour("greeting")
async def test_what_the_client_says_first_is_said_to_the_next_one_as_well(rig: Rig) -> None:
    async def full(peer: Peer) -> None:
        assert await peer.read(len(STARTUP)) == STARTUP
        await peer.send(NO_PLACE)
        peer.close()

    async def well(peer: Peer) -> None:
        assert await peer.read(len(STARTUP)) == STARTUP
        await peer.send(b"R")
        await peer.send(await peer.read(8))

    first, second = rig.backend("full", full), rig.backend("well", well)
    rig.serve(first, second, **in_order(greeting="postgresql"))
    client = await rig.client()
    await client.send(STARTUP[:5])
    await client.send(STARTUP[5:] + b"password")
    assert await client.read(9) == b"Rpassword"
    assert len(first.connections) == 1
    await eventually(lambda: rig.counters(second).bytes_from_client, len(STARTUP) + 8)


@behaviour("greeting")
async def test_a_backend_that_is_slow_to_greet_is_raced_by_the_next(rig: Rig) -> None:
    """Slow is not ill: nothing is observed."""
    silent, well = rig.backend("silent", is_accepting=False), rig.backend("well", greet(b"hello"))
    rig.serve(silent, well, **in_order(greeting_timeout_s=600.0, hedge=True))
    client = await rig.client()
    assert await client.read(5) == b"hello"
    assert not rig.observations()
    await eventually(lambda: (rig.counters(silent).sessions, rig.counters(well).sessions), (0, 1))


@behaviour("greeting")
async def test_a_long_stream_behind_the_greeting_is_whole(rig: Rig) -> None:
    """What was looked at is moved like all the rest."""
    sent = Stream("behind the greeting", 8 * MIB)

    async def script(peer: Peer) -> None:
        await peer.send_stream(sent)
        peer.close()

    rig.serve(rig.backend("a", script), **in_order())
    client = await rig.client()
    assert await client.receive_stream(sent) == sent.digest()
    assert await client.ending() == "fin"
