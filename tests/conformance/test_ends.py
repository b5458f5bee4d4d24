"""What an engine says of sessions that have ended: distributions, the last ones, every one, and who was passed over."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

import pytest

from conformance.backends import echo, refused_address
from conformance.engines import behaviour
from conformance.observe import eventually
from conformance.rig import LISTENER, POOL, Rig
from easyproxy.engine.seam import Attempt, Ends, SessionEnd, Where
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

pytestmark = pytest.mark.anyio

EVERYBODY = Where()


async def exchange(rig: Rig, size: int, **settings: object) -> int:
    """Send so many bytes to an echo, read them back and end; return the client's port."""
    client = await rig.client(**settings)
    await client.send(b"x" * size)
    client.finish()
    assert len(await client.read_to_end()) == size
    client.close()
    return client.port


@behaviour("ends", "distributions")
async def test_sessions_are_counted_in_ranges_of_time_and_bytes(rig: Rig) -> None:
    a, b = rig.backend("a", echo), rig.backend("b", echo)
    rig.serve(a, b, strategy="first")
    sizes = (0, 1, 64, 65, 5000)
    for size in sizes:
        await exchange(rig, size)
    await rig.quiet()
    found = rig.statistics().distributions[a.id]
    for distribution in (found.connect_s, found.length_s, found.bytes_from_client, found.bytes_from_backend):
        assert list(distribution.bounds) == sorted(set(distribution.bounds))
        assert len(distribution.counts) == len(distribution.bounds) + 1
        assert sum(distribution.counts) == rig.counters(a).total == 5
    assert found.bytes_from_client.sum == found.bytes_from_backend.sum == sum(sizes)
    upto = [
        sum(
            count
            for count, bound in zip(
                found.bytes_from_client.counts, found.bytes_from_client.bounds, strict=False
            )
            if bound <= at
        )
        for at in (64, 256, 16384)
    ]
    assert upto == [3, 4, 5], "the upper end of a range belongs to it"
    assert 0 < found.connect_s.sum < found.length_s.sum < 60
    assert sum(rig.statistics().distributions[b.id].length_s.counts) == 0


@behaviour("ends", "distributions")
async def test_the_time_to_connect_is_known_while_a_session_lives(rig: Rig) -> None:
    backend = rig.backend("a")
    rig.serve(backend)
    client, _ = await rig.pair(backend)
    [session] = await rig.sessions()
    assert 0 <= session.connect_s <= session.age_s
    found = rig.statistics().distributions[backend.id]
    assert (sum(found.connect_s.counts), sum(found.length_s.counts)) == (1, 0)
    client.close()


@behaviour("ends", "counters")
async def test_the_last_ends_are_remembered_with_clean_ones_and_found_by_every_trait(rig: Rig) -> None:
    a, b = rig.backend("a", echo), rig.backend("b")
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
    before = time.time()
    first = await exchange(rig, 1000)
    second = await exchange(rig, 0, source=("127.0.0.5", 0))
    client, server = await rig.pair(b, place=rig.place("side"))
    await client.send(b"1234")
    await server.read(4)
    server.reset()
    assert await client.ending() == "reset"
    await rig.quiet()
    ends = await rig.engine.recent_ends(EVERYBODY)
    assert [(end.backend, end.reason, end.bytes_from_client) for end in ends] == [
        (a.id, "client_fin", 1000),
        (a.id, "client_fin", 0),
        (b.id, "backend_reset", 4),
    ]
    assert [end.client for end in ends[:2]] == [f"127.0.0.1:{first}", f"127.0.0.5:{second}"]
    for end in ends:
        assert before - 1 < end.started_at < time.time() + 1
        assert 0 <= end.connect_s <= end.age_s < 60
        assert end.tried == ()
        assert await rig.engine.recent_ends(Where(id=end.id)) == [end]
    assert await rig.engine.recent_ends(Where(client="127.0.0.5")) == [ends[1]]
    assert await rig.engine.recent_ends(Where(backend=b.id)) == [ends[2]]
    assert await rig.engine.recent_ends(Where(listener="side")) == [ends[2]]
    assert await rig.engine.recent_ends(Where(listener=LISTENER, backend=b.id)) == []
    assert await rig.reported("backend_reset") == rig.session_ends() == [ends[2]]


@behaviour("ends", 13)
async def test_candidates_that_were_passed_over_are_named_in_order_with_the_reason(rig: Rig) -> None:
    """Behaviour 13."""
    away = Backend("pool/away", "away", refused_address())
    full, alive = rig.backend("full"), rig.backend("alive")
    rig.serve(away, full.model(max_sessions=1), alive, strategy="first")
    await rig.pair(full)
    client, _ = await rig.pair(alive)
    [session] = [one for one in await rig.sessions() if one.backend == alive.id]
    assert [attempt.backend for attempt in session.tried] == [away.id, full.id]
    assert session.tried == (
        Attempt(away.id, "Connection refused"),
        Attempt(full.id, "at its max_sessions"),
    )
    client.reset()
    [end] = await rig.reported("client_reset")
    assert end.tried == session.tried
    assert end.id == session.id


@behaviour("ends", 13)
async def test_a_session_that_reached_nobody_names_all_that_it_tried(rig: Rig) -> None:
    """Behaviour 13."""
    away = [Backend(f"pool/{name}", name, refused_address()) for name in "ab"]
    rig.serve(*away, strategy="first")
    assert await rig.knock() == "reset"
    [end] = await rig.reported("connect_failed")
    assert (end.backend, end.connect_s) == ("", -1.0)
    assert [attempt.backend for attempt in end.tried] == ["pool/a", "pool/b"]


@behaviour("ends", 13)
async def test_a_connect_that_timed_out_is_named_as_such(rig: Rig) -> None:
    """Behaviour 13."""
    slow, alive = rig.unreachable("slow"), rig.backend("alive", echo)
    rig.serve(slow, alive, strategy="first", connect_timeout_s=0.3)
    await exchange(rig, 10)
    await rig.quiet()
    [end] = await rig.engine.recent_ends(EVERYBODY)
    assert end.tried == (Attempt(slow.id, "Connection timed out"),)
    assert end.connect_s >= 0.2


@behaviour("ends", 19)
async def test_waiting_for_a_place_passes_over_a_full_backend_once(rig: Rig) -> None:
    """Behaviour 19: however often the client in the queue has looked."""
    full = rig.backend("full", echo)
    rig.serve(full.model(max_sessions=1), queue_timeout_s=60)
    first = await rig.client()
    await first.send(b"1")
    await first.read(1)
    waiting = await rig.client()
    await eventually(rig.queued, 1)
    first.close()
    await waiting.send(b"2")
    await waiting.read(1)
    waiting.close()
    await rig.quiet()
    ends = await rig.engine.recent_ends(EVERYBODY)
    assert [end.tried for end in ends] == [(), (Attempt(full.id, "at its max_sessions"),)]


async def _all_kinds_of_sessions(rig: Rig) -> int:
    """Let sessions end in every way that a test can bring about; return the bytes that the backends were given."""
    good, breaking = rig.backend("good", echo), rig.backend("breaking")
    away = Backend("pool/away", "away", refused_address())
    pools = {"front": (away, good.model()), "breaking": (breaking.model(),), "away": (away,), "none": ()}
    settings = {"brief": {"idle_timeout_s": 2}, "tight": {"max_sessions": 1, "overload": "refuse"}}
    # One snapshot: a client may be faster than the next one.
    rig.apply(
        Snapshot(
            1,
            tuple(
                Listener(
                    name,
                    Address("127.0.0.1", 0),
                    name if name in pools else "front",
                    **settings.get(name, {}),
                )
                for name in (*pools, *settings)
            ),
            tuple(Pool(name, backends=backends) for name, backends in pools.items()),
        )
    )
    sent = 0
    for size in (0, 1, 70_000, 300):
        await exchange(rig, size)
        sent += size
    for size in (5, 6):  # the client breaks it
        client = await rig.client()
        await client.send(b"y" * size)
        await client.read(size)
        client.reset()
        sent += size
    idle = await rig.client(rig.place("brief"))
    await idle.send(b"then silence")
    await idle.read(12)
    assert await idle.ending() == "reset"
    sent += 12
    client, server = await rig.pair(breaking, place=rig.place("breaking"))  # the backend breaks it
    await client.send(b"z" * 7)
    await server.read(7)
    server.reset()
    assert await client.ending() == "reset"
    sent += 7
    for listener in ("away", "none"):
        assert await rig.knock(rig.place(listener)) == "reset"
    busy = await rig.client(rig.place("tight"))
    await busy.send(b"b")
    await busy.read(1)
    assert await rig.knock(rig.place("tight")) == "reset"
    busy.close()
    sent += 1
    await rig.quiet()
    return sent


@behaviour("ends", "counters")
async def test_who_wants_every_session_gets_every_session_and_every_byte(rig: Rig) -> None:
    """The sums over all that was told are the counters, and what the clients have counted."""
    batches: list[Ends] = []
    rig.engine.tell_every_session(batches.append)
    sent = await _all_kinds_of_sessions(rig)
    statistics = rig.statistics()
    total = sum(statistics.ends.values())
    await eventually(lambda: sum(map(len, batches)), total, "as many ends as were counted")
    ends: list[SessionEnd] = [end for batch in batches for end in batch]
    assert Counter(end.reason for end in ends) == Counter(
        {reason: count for reason, count in statistics.ends.items() if count}
    )
    assert len({end.id for end in ends}) == len(ends) == total
    assert sum(end.bytes_from_client for end in ends) == sent
    for backend, counters in statistics.backends.items():
        mine = [end for end in ends if end.backend == backend]
        assert len(mine) == counters.total
        assert sum(end.bytes_from_client for end in mine) == counters.bytes_from_client
        assert sum(end.bytes_from_backend for end in mine) == counters.bytes_from_backend
    assert statistics.lost_reports == 0
    assert {"client_fin", "client_reset", "backend_reset", "idle_timeout", "connect_failed", "refused"} <= {
        end.reason for end in ends
    }
    assert any(end.tried and end.backend for end in ends), "retries are among them"
    broken = [end for end in ends if end.reason not in ("client_fin", "backend_fin")]
    assert sorted(rig.session_ends(), key=_id) == sorted(broken, key=_id)
    assert sorted(await rig.engine.recent_ends(EVERYBODY), key=_id) == sorted(ends, key=_id)


def _id(end: SessionEnd) -> str:
    return end.id


@behaviour("ends")
async def test_who_wants_them_no_more_is_told_no_more(rig: Rig) -> None:
    batches: list[Ends] = []
    backend = rig.backend("a", echo)
    rig.engine.tell_every_session(batches.append)
    rig.serve(backend)
    await exchange(rig, 1)
    await eventually(lambda: sum(map(len, batches)), 1)
    rig.engine.tell_every_session(None)
    for _ in range(10):
        await exchange(rig, 1)
    await rig.quiet()
    assert sum(map(len, batches)) == 1
    assert len(await rig.engine.recent_ends(EVERYBODY)) == 11


@behaviour("ends", 34)
async def test_sessions_that_a_stop_ends_are_told_before_it_returns(rig: Rig) -> None:
    """Behaviour 34."""
    batches: list[Ends] = []
    rig.engine.tell_every_session(batches.append)
    backend = rig.backend("a")
    rig.serve(backend)
    clients = [await rig.client() for _ in range(300)]
    for _ in clients:
        await backend.taken()
    await eventually(lambda: rig.counters(backend).total, 300)
    await rig.engine.stop()
    assert len([end for batch in batches for end in batch if end.reason == "drained"]) == 300
    assert len(rig.session_ends()) == 300
    for client in clients:
        assert await client.ending() == "reset"


@behaviour("ends", 32)
async def test_distributions_outlive_a_killed_worker(rig: Rig) -> None:
    """Behaviour 32."""
    backend = rig.backend("a", echo)
    rig.serve(backend)
    for _ in range(10):
        await exchange(rig, 100)
    await rig.quiet()
    for pid in rig.processes():
        os.kill(pid, signal.SIGKILL)
    await eventually(lambda: rig.statistics().worker_restarts, 2)
    async with asyncio.timeout(30):
        await exchange(rig, 100)
    await rig.quiet()
    found = rig.statistics().distributions[backend.id]
    assert (sum(found.length_s.counts), found.bytes_from_client.sum) == (11, 1100)
