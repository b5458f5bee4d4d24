"""Snapshots change what is new and leave what lives; worker processes may die."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections import Counter

import pytest

from conformance.backends import ScriptedBackend, echo, greet
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.peers import Peer, Place, connect
from conformance.rig import LISTENER, POOL, Rig
from easyproxy.errors import EngineError
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

pytestmark = pytest.mark.anyio

ANY_PORT = Address("127.0.0.1", 0)


async def visit(rig: Rig, listener: str = LISTENER) -> bytes:
    """Connect, read the greeting's first byte, leave."""
    client = await rig.client(rig.place(listener))
    name = await client.read(1)
    client.close()
    return name


async def answers(rig: Rig, count: int = 20, listener: str = LISTENER) -> set[bytes]:
    """Return all who answered ``count`` clients; enough to meet every worker."""
    return {await visit(rig, listener) for _ in range(count)}


async def still_speaks(client: Peer, text: bytes = b"still there") -> None:
    """Prove a session by an echo."""
    await client.send(text)
    assert await client.read(len(text)) == text


@behaviour(30)
async def test_sessions_stay_on_their_backend_over_many_snapshots(rig: Rig) -> None:
    """Behaviour 30: backends come, go, change weight and limits; the pool's strategy changes."""
    a, b, c = (rig.backend(name, greet(name.encode())) for name in "abc")
    turns: list[tuple[tuple[ScriptedBackend | Backend, ...], str]] = [
        ((a, b, c), "maglev"),
        ((c,), "random"),
        ((b.model(weight=9), c.model(max_sessions=1)), "round_robin"),
        ((), "source_hash"),
    ]
    rig.serve(a, b)
    clients = [await rig.client() for _ in range(6)]
    homes = [await client.read(1) for client in clients]
    assert set(homes) == {b"a", b"b"}
    for turn, (backends, strategy) in enumerate(turns):
        rig.serve(*backends, strategy=strategy, idle_timeout_s=100 + turn)
        for client in clients:
            await still_speaks(client)
    assert len(a.connections) + len(b.connections) == 6
    assert not rig.session_ends()


@behaviour("snapshots")
async def test_a_backend_that_comes_gets_sessions_and_one_that_leaves_gets_none(rig: Rig) -> None:
    a, b, c = (rig.backend(name, greet(name.encode())) for name in "abc")
    rig.serve(a, b)
    assert await answers(rig) == {b"a", b"b"}
    rig.serve(a, b, c)
    await eventually(lambda: answers(rig), {b"a", b"b", b"c"})
    rig.serve(b, c)
    await rig.engine.settled()
    seen = len(a.connections)
    assert await answers(rig, 50) == {b"b", b"c"}
    assert len(a.connections) == seen


@behaviour("snapshots")
async def test_a_backend_may_change_its_address_under_the_same_id(rig: Rig) -> None:
    old, new = rig.backend("same", greet(b"o")), rig.backend("same", greet(b"n"))
    rig.serve(old)
    client = await rig.client()
    assert await client.read(1) == b"o"
    rig.serve(new)
    await eventually(lambda: answers(rig), {b"n"})
    await still_speaks(client)


@behaviour("snapshots")
async def test_listeners_come_and_go_and_the_sessions_of_a_gone_one_stay(rig: Rig) -> None:
    backend = rig.backend("a", greet(b"a"))
    pool = Pool(POOL, backends=(backend.model(),))
    one, two = Listener("one", ANY_PORT, POOL), Listener("two", ANY_PORT, POOL)
    rig.apply(Snapshot(1, (one,), (pool,)))
    assert set(rig.engine.addresses()) == {"one"}
    rig.apply(Snapshot(2, (one, two), (pool,)))
    assert set(rig.engine.addresses()) == {"one", "two"}
    assert rig.place("one") != rig.place("two")
    client = await rig.client(rig.place("two"))
    assert await client.read(1) == b"a"
    gone = rig.place("two")

    rig.apply(Snapshot(3, (one,), (pool,)))
    assert set(rig.engine.addresses()) == {"one"}
    await eventually(lambda: _is_refused(gone), True)
    assert await visit(rig, "one") == b"a"
    await still_speaks(client)
    client.close()
    await eventually(lambda: rig.counters(backend).sessions, 0)


async def _is_refused(place: Place) -> bool:
    try:
        client = await connect(place)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closed while this one waited in its backlog
        return False
    client.close()
    return False


@behaviour("snapshots")
async def test_a_listener_can_move_to_another_pool_and_keeps_its_address(rig: Rig) -> None:
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    pools = (Pool("red", backends=(a.model(),)), Pool("blue", backends=(b.model(),)))
    rig.apply(Snapshot(1, (Listener(LISTENER, ANY_PORT, "red"),), pools))
    place = rig.place()
    client = await rig.client()
    assert await client.read(1) == b"a"
    rig.apply(Snapshot(2, (Listener(LISTENER, ANY_PORT, "blue"),), pools))
    assert rig.place() == place
    await eventually(lambda: answers(rig), {b"b"})
    await still_speaks(client)


@behaviour("snapshots")
async def test_applying_the_same_snapshot_again_changes_nothing(rig: Rig) -> None:
    """The port that the system chose stays, and so do sessions and the strategy's turn."""
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    snapshot = rig.snapshot((a, b))
    rig.apply(snapshot)
    place = rig.place()
    client = await rig.client()
    assert await client.read(1) == b"a"
    for _ in range(5):
        rig.apply(snapshot)
    assert rig.place() == place
    await still_speaks(client)
    assert [await visit(rig), await visit(rig)] == [b"b", b"a"]


@behaviour("snapshots")
async def test_an_address_in_use_refuses_the_whole_snapshot(rig: Rig) -> None:
    """All or nothing: neither the good listener nor the other backend of the bad snapshot comes into force."""
    old, new = rig.backend("old", greet(b"o")), rig.backend("new", greet(b"n"))
    rig.serve(old)
    before = dict(rig.engine.addresses())
    client = await rig.client()
    assert await client.read(1) == b"o"
    with socket.socket() as foreign, socket.socket() as free:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        free.bind(("127.0.0.4", 0))
        good_place = free.getsockname()
        free.close()
        taken = Address("127.0.0.1", foreign.getsockname()[1])
        keep = Listener(LISTENER, ANY_PORT, POOL)
        good, bad = Listener("good", Address(*good_place), POOL), Listener("bad", taken, POOL)
        with pytest.raises(EngineError, match=str(taken.port)):
            rig.apply(Snapshot(2, (keep, good, bad), (Pool(POOL, backends=(new.model(),)),)))
    assert dict(rig.engine.addresses()) == before
    assert await _is_refused(good_place)
    assert await answers(rig) == {b"o"}
    await still_speaks(client)
    rig.version = 2
    rig.serve(new)
    await eventually(lambda: answers(rig), {b"n"})


@pytest.mark.long
@pytest.mark.timeout(900)
@behaviour(29)
async def test_a_thousand_snapshots_under_a_stream_of_clients_cost_none_of_them(rig: Rig) -> None:
    """Behaviour 29: 0 refused, 0 reset, 0 corrupted."""
    backends = [rig.backend(name, greet(name.encode())) for name in "abcd"]
    rig.serve(*backends)
    long_lived = await rig.client()
    await long_lived.read(1)
    is_over = False
    served = 0

    async def stream_of_clients(number: int) -> None:
        nonlocal served
        while not is_over:
            with await connect(rig.place()) as client:
                assert await client.read(1) in b"abcd"
                await still_speaks(client, f"client {number}/{served}".encode())
                client.finish()
                assert await client.read_to_end() == b""
            served += 1

    clients = [asyncio.create_task(stream_of_clients(number)) for number in range(4)]
    for turn in range(1000):
        if turn % 2:
            rig.serve(*backends[turn % 3 :], strategy="round_robin", idle_timeout_s=60 + turn)
        else:
            rig.serve(*(backend.model(weight=1 + turn % 5) for backend in backends), strategy="maglev")
        await asyncio.sleep(0)
    seen = served
    await eventually(lambda: served, lambda now: now > seen + 20, "clients served after the last snapshot")
    is_over = True
    await asyncio.gather(*clients)
    await still_speaks(long_lived)
    long_lived.close()
    await rig.quiet()
    assert rig.session_ends() == []
    assert rig.observations() == []


@behaviour(32)
async def test_a_killed_worker_costs_only_its_own_sessions(rig: Rig) -> None:
    """Behaviour 32: and its successor serves; the counters are right again."""
    backend = rig.backend("a", echo)
    rig.serve(backend)
    await rig.sessions()  # every worker has answered, so it has the listener
    clients = {}
    by_worker: dict[int, set[int]] = {}
    while len(by_worker) < 2:  # one that is not interrupted may take the first of them all
        assert len(clients) < 1000, "all clients met one worker only"
        for client in await asyncio.gather(*(rig.client() for _ in range(24))):
            await still_speaks(client)
            clients[client.port] = client
        for session in await rig.sessions():
            by_worker.setdefault(session.worker, set()).add(int(session.client.rpartition(":")[2]))
    pids = rig.processes()
    os.kill(pids[0], signal.SIGKILL)

    await eventually(lambda: rig.statistics().worker_restarts, 1)
    await eventually(
        lambda: rig.listener().sessions, lambda left: left in {len(part) for part in by_worker.values()}
    )
    survivors = {int(session.client.rpartition(":")[2]) for session in await rig.sessions()}
    assert survivors in by_worker.values()
    for port, client in clients.items():
        if port in survivors:
            await still_speaks(client)
        else:
            assert await client.ending() in {"fin", "reset"}
    assert rig.counters(backend).sessions == len(survivors)
    assert rig.counters(backend).total == len(clients)

    await eventually(lambda: len(rig.processes()), len(pids))
    met: set[int] = set()
    for _ in range(40):
        for client in await asyncio.gather(*(rig.client() for _ in range(24))):
            await still_speaks(client)
        met = {session.worker for session in await rig.sessions()}
        if len(met) == len(by_worker):
            break
    assert len(met) == len(by_worker)


@behaviour(32)
async def test_clients_that_wait_for_a_killed_worker_are_served_by_its_successor(rig: Rig) -> None:
    """Behaviour 32: the backlog is not lost, since the listening socket is not the worker's."""
    rig.serve(rig.backend("a", greet(b"a")))
    assert await visit(rig) == b"a"
    pids = rig.processes()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [await rig.client() for _ in range(24)]
        for client in waiting:
            await client.send(b"waiting")
    finally:
        os.kill(pids[0], signal.SIGKILL)
        for pid in pids[1:]:
            os.kill(pid, signal.SIGCONT)
    for client in waiting:
        assert await client.read(8) == b"awaiting"


@behaviour(32)
async def test_every_worker_killed_and_all_is_well_again(rig: Rig) -> None:
    """Behaviour 32: round robin goes on in turn, and limits hold: nothing that the dead held is locked or lost."""
    a, b = rig.backend("a", greet(b"a")), rig.backend("b", greet(b"b"))
    rig.serve(a.model(max_sessions=3), b.model(max_sessions=3), queue_timeout_s=60)
    for _ in range(6):
        await (await rig.client()).read(1)
    for number, pid in enumerate(rig.processes(), start=1):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: rig.statistics().worker_restarts, number)
    await eventually(lambda: (rig.counters(a).sessions, rig.counters(b).sessions), (0, 0))
    seen = Counter([await (await rig.client()).read(1) for _ in range(6)])
    assert seen == {b"a": 3, b"b": 3}
    waiting = await rig.client()
    await eventually(rig.queued, 1)
    a.connections[-1].reset()
    assert await waiting.read(1) == b"a"
