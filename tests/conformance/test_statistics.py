"""What the engine tells and what it does on demand: counters, the list of sessions, closing, draining."""

from __future__ import annotations

import asyncio

import pytest

from conformance.backends import echo, greet
from conformance.engines import behaviour
from conformance.observe import eventually, stays
from conformance.peers import Peer, connect
from conformance.rig import LISTENER, POOL, Rig
from conformance.streams import KIB, MIB, Stream
from easyproxy.engine.seam import Where
from easyproxy.model import Address, Listener, Pool, Snapshot

pytestmark = pytest.mark.anyio


@behaviour("counters")
async def test_every_session_and_every_byte_is_counted(rig: Rig) -> None:
    a, b = rig.backend("a"), rig.backend("b")
    rig.serve(a, b)
    sizes = {"a": (10, 2000), "b": (3 * MIB, 70 * KIB)}
    open_ = []
    for backend in (a, b):
        client, server = await rig.pair(backend)
        up, down = (Stream(f"{backend.name}{i}", size) for i, size in enumerate(sizes[backend.name]))
        await asyncio.gather(
            client.send_stream(up),
            server.send_stream(down),
            server.receive_stream(up),
            client.receive_stream(down),
        )
        open_.append((client, server))
    assert rig.listener().accepted == 2
    assert rig.listener().sessions == 2
    for backend in (a, b):
        assert (rig.counters(backend).sessions, rig.counters(backend).total) == (1, 1)
    for client, server in open_:
        client.close()
        assert await server.ending() == "fin"
        server.close()
    await rig.quiet()
    for backend in (a, b):
        counters = rig.counters(backend)
        assert (counters.bytes_from_client, counters.bytes_from_backend) == sizes[backend.name]
        assert (counters.sessions, counters.total) == (0, 1)
    assert rig.statistics().lost_reports == 0
    assert rig.statistics().workers >= 1


@behaviour("counters")
async def test_bytes_of_a_living_session_are_counted_while_it_lives(rig: Rig) -> None:
    backend = rig.backend("a", echo)
    rig.serve(backend)
    client = await rig.client()
    for turn in range(1, 4):
        await client.send(b"1234567890")
        await client.read(10)
        [session] = await rig.sessions()
        assert (session.bytes_from_client, session.bytes_from_backend) == (10 * turn, 10 * turn)
    await eventually(lambda: rig.counters(backend).bytes_from_client, 30)
    await eventually(lambda: rig.counters(backend).bytes_from_backend, 30)


@behaviour("counters")
async def test_counters_survive_snapshots_and_a_backend_that_comes_back(rig: Rig) -> None:
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    rig.serve(a)
    for _ in range(3):
        (await _greeted(rig)).close()
    await rig.quiet()
    rig.serve(b)
    await eventually(lambda: _name(rig), b"b")
    rig.serve(a)
    await eventually(lambda: _name(rig), b"a")
    assert rig.counters(a).total >= 4
    assert rig.listener().accepted == rig.counters(a).total + rig.counters(b).total


async def _greeted(rig: Rig) -> Peer:
    client = await rig.client()
    await client.read(1)
    return client


async def _name(rig: Rig) -> bytes:
    client = await _greeted(rig)
    client.close()
    return bytes(client.data)


@behaviour("operator")
async def test_living_sessions_are_listed_with_both_ends(rig: Rig) -> None:
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    rig.serve(a, b)
    clients = {client.port: client for client in [await _greeted(rig) for _ in range(8)]}
    sessions = await rig.sessions()
    assert len({session.id for session in sessions}) == 8
    for session in sessions:
        host, _, port = session.client.rpartition(":")
        assert host == "127.0.0.1"
        assert session.backend == f"pool/{clients.pop(int(port)).data.decode()}"
        assert session.listener == LISTENER
        assert session.state
        assert session.age_s >= session.idle_s >= 0
    assert not clients


@behaviour("operator")
async def test_a_half_closed_session_is_told_from_an_open_one(rig: Rig) -> None:
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    [before] = await rig.sessions()
    client.finish()
    assert await server.read_to_end() == b""
    [after] = await rig.sessions()
    assert before.state != after.state


async def _three_ways_in(rig: Rig) -> dict[str, Peer]:
    """Open sessions that differ in one thing each: listener, client address, backend."""
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    rig.apply(
        Snapshot(
            1,
            (
                Listener(LISTENER, Address("127.0.0.1", 0), POOL),
                Listener("side", Address("127.0.0.1", 0), "other"),
            ),
            (Pool(POOL, backends=(a.model(),)), Pool("other", backends=(b.model(),))),
        )
    )
    made = {
        "plain": await rig.client(),
        "other client": await rig.client(source=("127.0.0.5", 0)),
        "other listener": await rig.client(rig.place("side")),
    }
    for client in made.values():
        await client.read(1)
    return made


@pytest.mark.parametrize(
    ("where", "closed"),
    [
        (Where(backend="pool/b"), {"other listener"}),
        (Where(client="127.0.0.5"), {"other client"}),
        (Where(listener=LISTENER), {"plain", "other client"}),
        (Where(listener=LISTENER, client="127.0.0.1"), {"plain"}),
        (Where(backend="pool/b", client="127.0.0.5"), set()),
        (Where(id="nobody"), set()),
        (Where(), {"plain", "other client", "other listener"}),
    ],
    ids=lambda value: str(value if isinstance(value, Where) else sorted(value)),  # a set has no order
)
@behaviour("operator")
async def test_the_sessions_that_match_are_closed_and_no_others(
    rig: Rig, where: Where, closed: set[str]
) -> None:
    clients = await _three_ways_in(rig)
    assert await rig.engine.close_sessions(where) == len(closed)
    for name, client in clients.items():
        if name in closed:
            assert await client.ending() == "reset"
        else:
            await client.send(b"alive")
            assert await client.read(5) == b"alive"
    ends = await rig.reported("operator", len(closed))
    assert {int(end.client.rpartition(":")[2]) for end in ends} == {clients[name].port for name in closed}
    assert len(await rig.sessions()) == 3 - len(closed)


@behaviour("operator")
async def test_one_session_is_closed_by_its_id_on_both_sides(rig: Rig) -> None:
    backend = rig.backend("a")
    rig.serve(backend)
    pairs = [await rig.pair(backend) for _ in range(4)]
    chosen = (await rig.sessions())[2]
    assert await rig.engine.close_sessions(Where(id=chosen.id)) == 1
    for client, server in pairs:
        if chosen.client.endswith(f":{client.port}"):
            assert await client.ending() == "reset"
            assert await server.ending() == "reset"
        else:
            await client.send(b"alive")
            assert await server.read(5) == b"alive"
    [end] = await rig.reported("operator")
    assert end.id == chosen.id


@behaviour("operator", 19)
async def test_a_session_that_still_connects_or_waits_can_be_closed(rig: Rig) -> None:
    slow = rig.unreachable("slow")
    rig.serve(slow.model(max_sessions=1), connect_timeout_s=60, queue_timeout_s=60)
    connecting, queued = await rig.client(), await rig.client()
    await eventually(lambda: (rig.listener().sessions, rig.queued()), (2, 1))
    await eventually(lambda: rig.engine.close_sessions(Where()), 2)
    assert await connecting.ending() == "reset"
    assert await queued.ending() == "reset"
    await rig.reported("operator", 2)
    await rig.quiet()


@behaviour(34)
async def test_draining_lets_sessions_live_takes_no_new_ones_and_ends_with_the_last(rig: Rig) -> None:
    """Behaviour 34."""
    backend = rig.backend("a", echo)
    rig.serve(backend)
    client = await rig.client()
    await client.send(b"before")
    await client.read(6)
    draining = asyncio.create_task(rig.engine.drain(60))
    await asyncio.sleep(0)  # it begins
    await rig.engine.settled()  # who comes before every worker has heard of it may still be let in
    late = asyncio.create_task(_knock(rig))
    for _ in range(10):
        await client.send(b"during")
        assert await client.read(6) == b"during"
        await asyncio.sleep(0.05)
    assert not draining.done()
    assert len(backend.connections) == 1
    client.close()
    async with asyncio.timeout(30):
        await draining
    late.cancel()
    await asyncio.wait([late])
    assert len(backend.connections) == 1
    assert rig.session_ends() == []


async def _knock(rig: Rig) -> None:
    """Try to be served while the engine drains: refused, reset or left waiting are all right."""
    try:
        with await connect(rig.place()) as client:
            await client.send(b"let me in")
            await client.ending()
    except (ConnectionError, KeyError):
        pass


@behaviour(34)
async def test_at_the_deadline_of_a_drain_the_rest_is_closed(rig: Rig) -> None:
    """Behaviour 34."""
    backend = rig.backend("a")
    rig.serve(backend)
    pairs = [await rig.pair(backend) for _ in range(3)]
    async with asyncio.timeout(30):
        await rig.engine.drain(0.5)
    for client, server in pairs:
        assert await client.ending() == "reset"
        assert await server.ending() == "reset"
    ends = await rig.reported("drained", 3)
    assert all(end.backend == backend.id for end in ends)
    assert rig.listener().sessions == 0


@behaviour(34)
async def test_a_drain_of_an_empty_engine_ends_at_once(rig: Rig) -> None:
    """Behaviour 34: well before its deadline."""
    rig.serve(rig.backend("a", echo))
    async with asyncio.timeout(30):
        await rig.engine.drain(300)


@behaviour("counters")
async def test_after_stop_nothing_of_the_engine_is_left(rig: Rig) -> None:
    """Sessions end, the port is free, and stopping twice does no harm."""
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    place = rig.place()
    await rig.engine.stop()
    assert await client.ending() in {"fin", "reset"}
    assert await server.ending() in {"fin", "reset"}
    with pytest.raises(ConnectionRefusedError):
        await connect(place)
    await stays(lambda: len(backend.connections), 1, for_s=0.1)
    await rig.engine.stop()
