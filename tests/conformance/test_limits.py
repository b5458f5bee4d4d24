"""Limits hold over all workers, those who wait are served or told, and crowds do not hurt."""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import pytest

from conformance.backends import greet
from conformance.crowd import Crowd
from conformance.engines import behaviour
from conformance.observe import eventually, stays
from conformance.peers import Peer
from conformance.rig import Rig
from conformance.streams import KIB
from easyproxy.model import Address, Backend

pytestmark = pytest.mark.anyio

TICK_S = 0.1


async def serve_briefly(peer: Peer) -> None:
    """Answer one byte after a moment, and be the first to close."""
    await peer.read(1)
    await asyncio.sleep(0.02)
    await peer.send(b"done")
    peer.close()


async def _serve_all(rig: Rig, count: int) -> None:
    """Let ``count`` clients come at once. The backend's peak is the measure: a gauge may count a mere attempt."""

    async def one() -> None:
        client = await rig.client()
        await client.send(b"!")
        assert await client.read_to_end() == b"done"
        client.close()

    await asyncio.gather(*(one() for _ in range(count)))
    await rig.quiet()


@behaviour(18)
async def test_beyond_max_sessions_of_a_listener_clients_wait_in_the_backlog(rig: Rig) -> None:
    """Behaviour 18: the default."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend, max_sessions=4)
    clients = [await rig.client() for _ in range(4)]
    for client in clients:
        await client.read(5)
    waiting = [await rig.client() for _ in range(6)]
    await stays(lambda: (len(backend.connections), rig.listener().accepted), (4, 4))
    await waiting[0].send(b"sent while waiting")
    for client in clients:
        client.close()
    for client in waiting:
        assert await client.read(5) == b"hello"
        if client is waiting[0]:
            assert await client.read(18) == b"sent while waiting"
        client.close()
    await rig.quiet()
    assert backend.peak <= 4
    assert rig.listener().accepted == 10
    assert rig.listener().refused == 0


@behaviour(18)
async def test_beyond_max_sessions_of_a_listener_clients_are_refused_if_so_configured(rig: Rig) -> None:
    """Behaviour 18: ``overload: refuse``."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend, max_sessions=2, overload="refuse")
    first, second = await rig.client(), await rig.client()
    await first.read(5)
    await second.read(5)
    for _ in range(3):
        assert await rig.knock() == "reset"
    await eventually(lambda: rig.listener().refused, 3)
    assert len(backend.connections) == 2
    first.close()
    await eventually(lambda: rig.listener().sessions, 1)
    assert await (await rig.client()).read(5) == b"hello"


@behaviour(18)
async def test_refused_clients_are_reported_with_their_reason(rig: Rig) -> None:
    """Behaviour 18."""
    rig.serve(rig.backend("a", greet(b"hello")), max_sessions=1, overload="refuse")
    await (await rig.client()).read(5)
    assert await rig.knock(source=("127.0.0.6", 0)) == "reset"
    [end] = await rig.reported("refused")
    assert (end.listener, end.backend) == ("front", "")
    assert end.client.startswith("127.0.0.6:")


@behaviour(18)
async def test_max_sessions_of_a_listener_is_never_exceeded_and_all_are_served(rig: Rig) -> None:
    """Behaviour 18: 60 clients at once, five places, over all workers."""
    backend = rig.backend("a", serve_briefly)
    rig.serve(backend, max_sessions=5)
    await _serve_all(rig, 60)
    assert backend.peak <= 5
    assert rig.listener().accepted == 60


@behaviour(18)
async def test_a_raised_limit_lets_those_in_who_wait(rig: Rig) -> None:
    """Behaviour 18: a new snapshot with a higher limit is enough."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend, max_sessions=1)
    await (await rig.client()).read(5)
    waiting = await rig.client()
    await stays(lambda: len(backend.connections), 1, for_s=0.3)
    rig.serve(backend, max_sessions=2)
    assert await waiting.read(5) == b"hello"


@behaviour(19)
async def test_max_sessions_of_a_backend_is_never_exceeded_and_all_are_served(rig: Rig) -> None:
    """Behaviour 19: 60 clients at once, five places, over all workers."""
    backend = rig.backend("a", serve_briefly)
    rig.serve(backend.model(max_sessions=5), queue_timeout_s=60)
    await _serve_all(rig, 60)
    assert backend.peak <= 5
    assert rig.counters(backend).total == 60
    assert not rig.session_ends()


@behaviour(19)
async def test_a_full_backend_leaves_the_client_to_the_others(rig: Rig) -> None:
    """Behaviour 19: the next candidate, without waiting."""
    small, large = rig.backend("small", greet(b"s")), rig.backend("large", greet(b"l"))
    rig.serve(small.model(max_sessions=2), large, strategy="first")
    clients = [await rig.client() for _ in range(5)]
    greetings = sorted([await client.read(1) for client in clients])
    assert greetings == [b"l", b"l", b"l", b"s", b"s"]
    assert rig.counters(small).connect_errors == 0, "full is not failed"
    assert not rig.observations()


@behaviour(19)
async def test_a_place_that_becomes_free_serves_the_queue(rig: Rig) -> None:
    """Behaviour 19: whichever worker freed it."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend.model(max_sessions=1), queue_timeout_s=60)
    clients = [await rig.client()]
    await clients[0].read(5)
    for number in range(1, 6):
        clients.append(await rig.client())
        await eventually(rig.queued, number)
    await clients[3].send(b"sent while queued")
    served: set[int] = {0}
    current = 0
    while len(served) < len(clients):
        if current == 3:
            assert await clients[3].read(17) == b"sent while queued"
        clients[current].close()
        await eventually(lambda: len(backend.connections), len(served) + 1)
        current = await _first_greeted(
            [client if i not in served else None for i, client in enumerate(clients)]
        )
        served.add(current)
    await eventually(rig.queued, 0)
    assert backend.peak <= 1


async def _first_greeted(clients: list[Peer | None]) -> int:
    reads = {asyncio.create_task(client.read(5)): i for i, client in enumerate(clients) if client}
    done, pending = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    [task] = done
    assert task.result() == b"hello"
    return reads[task]


@behaviour(19)
async def test_waiting_in_the_queue_has_a_time_limit(rig: Rig) -> None:
    """Behaviour 19."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend.model(max_sessions=1), queue_timeout_s=0.5)
    first = await rig.client()
    await first.read(5)
    late = await rig.client()
    assert await late.ending() == "reset"
    [end] = await rig.reported("queue_timeout")
    assert end.age_s >= 0.5 - TICK_S
    assert end.client.endswith(str(late.port))
    await eventually(rig.queued, 0)
    assert rig.listener().sessions == 1
    await first.send(b"alive")
    assert await first.read(5) == b"alive"


@behaviour(19)
async def test_without_a_queue_the_client_is_reset_at_once(rig: Rig) -> None:
    """Behaviour 19: ``queue_timeout_s`` of 0."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend.model(max_sessions=1), queue_timeout_s=0)
    first = await rig.client()
    await first.read(5)
    assert await rig.knock() == "reset"
    await rig.reported("queue_timeout")
    assert len(backend.connections) == 1


@pytest.mark.parametrize("how", ["fin", "reset"])
@behaviour(19)
async def test_a_client_that_leaves_is_dequeued(rig: Rig, how: str) -> None:
    """Behaviour 19."""
    backend = rig.backend("a", greet(b"hello"))
    rig.serve(backend.model(max_sessions=1), queue_timeout_s=60)
    first = await rig.client()
    await first.read(5)
    leaving, staying = await rig.client(), await rig.client()
    await eventually(rig.queued, 2)
    if how == "fin":
        leaving.close()
    else:
        leaving.reset()
    await eventually(rig.queued, 1)
    await rig.reported("client_gave_up")
    first.close()
    assert await staying.read(5) == b"hello"
    assert len(backend.connections) == 2


@behaviour(19)
async def test_a_session_that_ends_badly_gives_its_place_back(rig: Rig) -> None:
    """Behaviour 19: a count is a lease, whatever ends the session."""
    backend = rig.backend("a")
    rig.serve(backend.model(max_sessions=1), queue_timeout_s=60)
    for ending in ("client reset", "backend reset", "client fin", "backend fin"):
        client, server = await rig.pair(backend)
        one, other = (client, server) if ending.startswith("client") else (server, client)
        if ending.endswith("reset"):
            one.reset()
        else:
            one.close()
        await other.ending()
        other.close()
    await rig.quiet()
    assert rig.counters(backend).sessions == 0
    assert rig.counters(backend).total == 4


@behaviour(20)
async def test_thousands_of_slow_clients_do_not_slow_a_good_one(rig: Rig) -> None:
    """Behaviour 20: 5,000 sessions that send a byte now and then; the budget is 50 ms for the median exchange."""
    async with Crowd() as crowd:
        backend = Backend("pool/crowd", "crowd", Address("127.0.0.1", await crowd.backend()))
        rig.serve(backend)
        await crowd.enter(rig.place(), _crowd_size(rig, 5_000))
        await crowd.chatter(per_second=500)
        good = await rig.client()
        times = []
        for _ in range(300):
            start = time.perf_counter()
            await good.send(b"x" * 100)
            await good.read(100)
            times.append(time.perf_counter() - start)
        assert statistics.median(times) < 0.05
        before, start = rig.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(1)
        share = (rig.cpu_seconds() - before) / (time.perf_counter() - start)
        assert share < 0.7, f"{share:.0%} of a core for 500 bytes/s: something looks at every session"
        await crowd.leave()
        good.close()
        await rig.quiet()


@behaviour(21)
async def test_thousands_of_idle_sessions_and_what_they_cost(
    rig: Rig, record_property: Callable[[str, object], None]
) -> None:
    """Behaviour 21: 8,000; another crowd of the same size finds the memory of the first."""
    async with Crowd() as crowd:
        backend = Backend("pool/crowd", "crowd", Address("127.0.0.1", await crowd.backend()))
        rig.serve(backend)
        await crowd.enter(rig.place(), 100)
        await crowd.leave()
        await rig.quiet()
        size = _crowd_size(rig, 8_000)
        descriptors, base = rig.descriptors(), rig.memory()
        full = []
        for _ in range(3):
            await crowd.enter(rig.place(), size)
            assert rig.listener().sessions == size
            full.append(rig.memory())
            await crowd.leave()
            await rig.quiet()
            await eventually(
                rig.descriptors, lambda now: now <= descriptors, f"descriptors at base ({descriptors})"
            )
        per_session = (full[0] - base) / size
        record_property("bytes_per_idle_session", round(per_session))
        assert per_session < 8 * KIB
        # A leak grows with every crowd; what else this process does with its memory does not.
        growth = min(after - before for before, after in pairwise(full)) / size
        assert growth < KIB / 2, f"{growth} bytes per session of the first crowd were never used again"


def _crowd_size(rig: Rig, full: int) -> int:
    # Two descriptors per session, in the crowd and in the engine each.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(round(full * rig.entry.crowd), (limit - 500) // 2)
