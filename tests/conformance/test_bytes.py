"""No byte is lost, invented or reordered, whoever speaks first, ends first or reads slowly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance.backends import echo, greet
from conformance.engines import behaviour
from conformance.observe import eventually, stays
from conformance.peers import Peer
from conformance.rig import Rig
from conformance.streams import KIB, MIB, Check, Stream
from easyproxy.model import Address

pytestmark = pytest.mark.anyio


@behaviour(1)
async def test_the_backend_may_speak_first(rig: Rig) -> None:
    """Behaviour 1."""
    rig.serve(rig.backend("a", greet(b"5.5.5-greeting")))
    client = await rig.client()
    assert await client.read(14) == b"5.5.5-greeting"


@behaviour(1)
async def test_single_bytes_go_there_and_back(rig: Rig) -> None:
    """Behaviour 1: neither side is made to wait for more."""
    rig.serve(rig.backend("a", echo))
    client = await rig.client()
    for number in range(200):
        await client.send(bytes([number]))
        assert await client.read(1) == bytes([number])


@behaviour(2)
async def test_data_and_fin_of_the_client_arrive_together(rig: Rig) -> None:
    """Behaviour 2: the client ends right after its data, again and again."""
    backend = rig.backend("a")
    rig.serve(backend)
    for number in range(30):
        client, server = await rig.pair(backend)
        await client.send(b"x" * (number + 1))
        client.finish()
        assert await server.read_to_end() == b"x" * (number + 1)
        server.close()
        assert await client.read_to_end() == b""


@behaviour(2)
async def test_data_and_fin_of_the_backend_arrive_together(rig: Rig) -> None:
    """Behaviour 2: the backend answers and closes at once."""

    async def answer_and_close(peer: Peer) -> None:
        await peer.send(b"answer" * 100)
        peer.close()

    rig.serve(rig.backend("a", answer_and_close))
    for _ in range(30):
        client = await rig.client()
        assert await client.read_to_end() == b"answer" * 100


@pytest.mark.parametrize("first", ["client", "backend"])
@behaviour(3)
async def test_after_a_half_close_50_mib_flow_the_other_way(rig: Rig, first: str) -> None:
    """Behaviour 3."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    ended, open_ = (client, server) if first == "client" else (server, client)
    await ended.send(b"request")
    ended.finish()
    assert await open_.read_to_end() == b"request"

    stream = Stream("half-closed", 50 * MIB)
    _, digest = await asyncio.gather(open_.send_stream(stream), ended.receive_stream(stream))
    assert digest == stream.digest()

    open_.close()
    assert await ended.ending() == "fin"
    ended.close()
    await rig.quiet()
    assert rig.ends(f"{first}_fin") == 1


@behaviour(4)
async def test_data_and_fin_before_the_backend_connection_stands_are_delivered(rig: Rig) -> None:
    """Behaviour 4."""
    backend = rig.unreachable("a")
    rig.serve(backend, connect_timeout_s=30)
    client = await rig.client()
    await client.send(b"early")
    client.finish()
    await eventually(lambda: rig.listener().sessions, 1)
    backend.make_reachable()
    server = await backend.taken()
    assert await server.read_to_end() == b"early"
    await server.send(b"late")
    server.close()
    assert await client.read_to_end() == b"late"


@behaviour(5)
async def test_a_slow_reader_loses_nothing_and_costs_no_memory(rig: Rig) -> None:
    """Behaviour 5: 64 KiB/s at first; the rest is read at full speed, since only the stall matters."""
    backend = rig.backend("a")
    rig.serve(backend)
    # The slow client may come to any worker; what one touches for the first time is no byte held back.
    warm_up = Stream("warm-up", 4 * MIB)
    pairs = [await rig.pair(backend) for _ in range(4)]
    for warm_client, warm_server in pairs:
        await asyncio.gather(warm_server.send_stream(warm_up), warm_client.receive_stream(warm_up))
    client, server = await rig.pair(backend, receive_buffer=32 * KIB)
    before = rig.memory()

    stream = Stream("slow", 50 * MIB)
    sending = asyncio.create_task(server.send_stream(stream))
    check = Check(stream)
    await client.receive_into(check, 128 * KIB, pause_s=0.25, piece=16 * KIB)
    growth = rig.memory() - before
    # Python and the test's own buffers are noise of this size; 50 MiB held back would not fit in it.
    assert growth < (4 * MIB if rig.entry.is_apart else 8 * MIB), f"{growth} bytes held for one slow client"

    await client.receive_into(check, stream.size - check.received)
    await sending
    assert check.digest() == stream.digest()


@behaviour(5)
async def test_a_reader_that_stops_stops_the_sender(rig: Rig) -> None:
    """Behaviour 5: back-pressure reaches the backend; what was held back comes out complete."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend, receive_buffer=32 * KIB)
    stream = Stream("stalled", 200 * MIB)
    sent = await server.send_until_stalled(stream)
    assert sent < stream.size, "200 MiB vanished into buffers"
    cpu = rig.cpu_seconds()
    await stays(lambda: rig.listener().sessions, 1, for_s=1)
    assert rig.cpu_seconds() - cpu < 0.6, "the engine is busy while nothing can move"
    server.finish()
    check = Check(stream)
    await client.receive_into(check, sent)
    assert await client.ending() == "fin"
    assert check.received == sent
    assert not client.data


async def _stalled(count: Callable[[], int]) -> None:
    """Wait until nothing moves; on a machine too busy to tell, the round is weaker and no more."""
    before, now = -1, count()
    while before != now:
        await asyncio.sleep(0.05)
        before, now = now, count()


@pytest.mark.parametrize("receive_buffer", [0, 32 * KIB, 256 * KIB], ids=lambda size: f"buffer-{size}")
@behaviour(5)
async def test_a_reader_that_stops_again_and_again_is_never_forgotten(rig: Rig, receive_buffer: int) -> None:
    """Behaviour 5: after each stall the engine holds bytes, and has to hear of room and of more data alike."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend, receive_buffer=receive_buffer)
    stream = Stream("stop and go", 64 * MIB)
    sending = asyncio.create_task(server.send_stream(stream))
    check = Check(stream)
    while check.received < stream.size:
        await _stalled(lambda: rig.counters(backend).bytes_from_backend)
        await client.receive_into(check, min(4 * MIB, stream.size - check.received))
    await sending
    assert check.digest() == stream.digest()


@behaviour(6)
async def test_what_a_closed_client_has_sent_is_delivered_when_the_backend_resumes(rig: Rig) -> None:
    """Behaviour 6: up to 20 MiB, as much as the system's buffers on the way take."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend, send_buffer=20 * MIB)
    stream = Stream("left behind", 20 * MIB)
    sent = await client.send_until_stalled(stream)
    assert sent > 128 * KIB
    client.close()

    check = Check(stream)
    await server.receive_into(check, sent)
    assert await server.ending() == "fin"
    assert not server.data, "more arrived than was sent"
    server.close()
    await rig.quiet()


@behaviour(7)
async def test_both_ways_at_once_at_full_speed(rig: Rig) -> None:
    """Behaviour 7: 1 GiB each way where the engine's entry says so."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    up = Stream("up", rig.entry.bulk * MIB)
    down = Stream("down", rig.entry.bulk * MIB)
    _, _, received_up, received_down = await asyncio.gather(
        client.send_stream(up),
        server.send_stream(down),
        server.receive_stream(up),
        client.receive_stream(down),
    )
    assert (received_up, received_down) == (up.digest(), down.digest())
    client.close()
    assert await server.ending() == "fin"


@behaviour(7)
async def test_many_sessions_echo_streams_of_their_own(rig: Rig) -> None:
    """Behaviour 7: nothing crosses from one session to another."""
    rig.serve(rig.backend("a", echo), rig.backend("b", echo))

    async def one(number: int) -> None:
        client = await rig.client()
        stream = Stream(f"session {number}", 300 * KIB + number)
        await asyncio.gather(client.send_stream(stream), client.receive_stream(stream))
        client.finish()
        assert await client.ending() == "fin"

    await asyncio.gather(*(one(number) for number in range(50)))
    await rig.quiet()


@pytest.mark.parametrize("sizes", [(1,), (127 * KIB, 128 * KIB, 129 * KIB), (1, MIB, 1, 3 * MIB, 7)], ids=str)
@behaviour(7)
async def test_short_and_long_exchanges_alternate(rig: Rig, sizes: tuple[int, ...]) -> None:
    """Behaviour 7: an engine may move small and large data by different means; changing over loses nothing."""
    rig.serve(rig.backend("a", echo))
    client = await rig.client()
    for turn in range(6):
        for size in sizes:
            stream = Stream(f"{turn}/{size}", size)
            await asyncio.gather(client.send_stream(stream), client.receive_stream(stream))


@behaviour(7, "urgent")
async def test_urgent_data_stays_in_its_place_in_the_stream(rig: Rig) -> None:
    """Behaviour 7: MSG_OOB of send(2); a relay that ignores it loses a byte."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    for one, other in ((client, server), (server, client)):
        other.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        await one.send(b"before")
        one.sock.send(b"!", socket.MSG_OOB)
        await one.send(b"after")
        assert await other.read(12) == b"before!after"


@behaviour(1, 3, "unix")
async def test_unix_sockets_carry_the_same_bytes(rig: Rig, tmp_path: Path) -> None:
    """Behaviours 1 and 3 over unix sockets on both sides."""
    backend = rig.backend("a", path=str(tmp_path / "backend"))
    rig.serve(backend, bind=Address(path=str(tmp_path / "front")))
    client, server = await rig.pair(backend)
    await server.send(b"hello")
    assert await client.read(5) == b"hello"
    client.finish()
    assert await server.read_to_end() == b""
    stream = Stream("unix", 5 * MIB)
    _, digest = await asyncio.gather(server.send_stream(stream), client.receive_stream(stream))
    assert digest == stream.digest()
    server.close()
    assert await client.ending() == "fin"
    await rig.quiet()


@behaviour(1, "ipv6")
async def test_ipv6_on_both_sides(rig: Rig) -> None:
    """Behaviour 1 over IPv6."""
    rig.serve(rig.backend("a", greet(b"six"), host="::1"), bind=Address("::1", 0))
    client = await rig.client()
    assert await client.read(3) == b"six"
    [session] = await rig.sessions()
    assert "::1" in session.client
