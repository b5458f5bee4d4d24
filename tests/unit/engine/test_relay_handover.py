"""Sessions go from the workers of one engine to those of another: what is carried, and whose they are when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from relay_rig import Rig, backend, relay, until
from relay_words import GREETING, PG_OK, mysql_error, pg_error, pg_startup

import speech as s
from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.relay.flow import Flow
from easyproxy.engine.relay.greeting import SSL_REQUEST, request
from easyproxy.engine.relay.handover import (
    DIAL_FIELDS,
    DIAL_REST,
    FLOW_FIELDS,
    FLOW_REST,
    GREETED_FIELDS,
    GREETED_REST,
    SESSION_FIELDS,
    SESSION_REST,
)
from easyproxy.engine.relay.hedged import HedgedDial
from easyproxy.engine.relay.pipes import Pipe
from easyproxy.engine.relay.session import Session
from easyproxy.engine.relay.succession import Legacy
from easyproxy.engine.relay.timers import TICK_S
from easyproxy.errors import EngineError
from easyproxy.model import Address, Pool, Rate


@pytest.mark.parametrize(
    ("kind", "carried", "rest"),
    [
        (Session, SESSION_FIELDS, SESSION_REST),
        (Flow, FLOW_FIELDS, FLOW_REST),
        (Dial, DIAL_FIELDS, DIAL_REST),
        (HedgedDial, DIAL_FIELDS + GREETED_FIELDS, DIAL_REST | GREETED_REST),
        (Pipe, ("held", "read_end", "size", "write_end"), frozenset()),
    ],
)
def test_every_field_is_known_to_the_handover(kind, carried, rest):
    """A field that is neither carried nor made anew would be lost with the next upgrade."""
    slots = {slot for part in kind.__mro__[:-1] for slot in part.__slots__}
    assert set(carried) | rest == slots
    assert not set(carried) & rest


def heir_of(old: Rig, stack: contextlib.ExitStack, **options) -> Rig:
    legacy = Legacy()
    for frame, fds in old.engine.legacy():
        legacy.take(frame, [os.dup(fd) for fd in fds])
    return Rig(stack, legacy=legacy, **options)


def links(count: int) -> tuple[list[socket.socket], list[socket.socket]]:
    pairs = [socket.socketpair() for _ in range(count)]
    return [a for a, _ in pairs], [b for _, b in pairs]


@contextlib.asynccontextmanager
async def successor(old: Rig, pool: Pool, *, workers: int, listener=None, **options):
    """A second engine that is ready to take over, with the snapshot of the first."""
    with contextlib.ExitStack() as stack:
        new = heir_of(old, stack, workers=workers, **options)
        try:
            await new.engine.start(new.reports.append)
            new.apply(pool, **(listener or {}))
            yield new
        finally:
            await new.engine.stop()


async def transfer(old: RelayEngine, new: RelayEngine, workers: int) -> int:
    """Everything up to the decision; return how many sessions went over."""
    ours, theirs = links(workers)
    try:
        given = asyncio.ensure_future(old.give([sock.fileno() for sock in ours], 10))
        adopted = await new.adopt([sock.fileno() for sock in theirs], old.keys(), 10)
        assert await given == adopted
    except EngineError:
        given.cancel()
        raise
    finally:
        for sock in (*ours, *theirs):
            sock.close()
    return adopted


@pytest.mark.anyio
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (3, 1), (1, 3)])
async def test_established_sessions_go_on_in_the_other_engine(before, after):
    """Behaviour 33."""
    async with relay(workers=before, processes=True) as old:
        server = old.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        old.apply(pool)
        pairs = []
        for number in range(12):
            client = await old.client()
            await old.send(client, b"up%02d" % number)
            remote = await old.taken(server)
            assert await old.read(remote, 4) == b"up%02d" % number
            pairs.append((client, remote))
        earlier = {session.id: session for session in await old.engine.sessions()}
        async with successor(old, pool, workers=after) as new:
            assert await transfer(old.engine, new.engine, max(before, after)) == 12
            for client, remote in pairs:  # what comes meanwhile waits in the kernel
                await old.send(client, b"more")
                await old.send(remote, b"down")
            assert await new.engine.wake(old.engine.totals()) == 12
            assert await old.engine.leave(()) == 0
            for client, remote in pairs:
                assert await old.read(remote, 4) == b"more"
                assert await old.read(client, 4) == b"down"
            later = {session.id: session for session in await new.engine.sessions()}
            assert later.keys() == earlier.keys()
            for name, session in later.items():
                assert session.client == earlier[name].client
                assert session.bytes_from_client == earlier[name].bytes_from_client + 4
                assert session.age_s > earlier[name].age_s
            counters = new.engine.statistics().backends["p/a"]
            assert (counters.sessions, counters.total) == (12, 12)
            await until(lambda: new.engine.statistics().backends["p/a"].bytes_from_client >= 12 * 8)
            assert new.engine.statistics().backends["p/a"].bytes_from_client == 12 * 8
            late = await new.client()
            (await old.taken(server)).close()
            late.close()
            for client, remote in pairs:
                client.shutdown(socket.SHUT_WR)
                assert await old.read(remote) == b""
                remote.shutdown(socket.SHUT_WR)
                assert await old.read(client) == b""
            await until(lambda: new.engine.statistics().ends["client_fin"] >= 12)
            await until(lambda: new.sessions == 0)
            assert not old.reports
            assert not old.complaints
            assert not new.complaints


@pytest.mark.anyio
async def test_what_an_address_has_opened_counts_in_the_other_engine_too():
    limits = {"client_rate": Rate(1, 3600), "client_burst": 2}
    async with relay(workers=1, processes=True) as old:
        server = old.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        old.apply(pool, **limits)
        await old.client()
        await old.taken(server)
        async with successor(old, pool, workers=1, listener=limits) as new:
            await transfer(old.engine, new.engine, 1)
            await new.engine.wake(old.engine.totals())
            await old.engine.leave(())
            await new.client()
            await old.taken(server)
            with pytest.raises(ConnectionResetError):
                await new.read(await new.client())
            await until(lambda: new.engine.statistics().ends["rate_limited"] == 1)


@contextlib.asynccontextmanager
async def scene(**options):
    """An engine with one worker process and one backend; what clients send is read by the test."""
    async with relay(workers=1, processes=True, **options) as old:
        server = old.server()
        pool = Pool("p", backends=(backend("p", "a", server),))
        yield old, server, pool


async def pair(rig: Rig, server: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = await rig.client()
    await rig.send(client, b"x")
    remote = await rig.taken(server)
    assert await rig.read(remote, 1) == b"x"
    return client, remote


async def hand_over(old: Rig, new: Rig) -> None:
    count = await transfer(old.engine, new.engine, 1)
    assert await new.engine.wake(old.engine.totals()) == count
    assert await old.engine.leave(()) == 0


async def stuff(sock: socket.socket, data: bytes, sent: int = 0) -> int:
    """Send until nothing goes for a while; return how much of ``data``, again and again, has gone in all."""
    quiet = 0
    while quiet < 20:
        try:
            sent += sock.send(data[sent % len(data) :])
            quiet = 0
        except BlockingIOError:
            quiet += 1
            await asyncio.sleep(0.01)
    return sent


def pipes_of(rig: Rig) -> list[str]:
    (pid,) = rig.engine.worker_pids()
    links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("pipe:") and links.count(link) == 2]


@pytest.mark.anyio
@pytest.mark.parametrize("portable", [False, True])
async def test_bytes_that_wait_in_a_buffer_or_a_pipe_arrive_whole_and_in_order(portable):
    """Behaviours 1, 5 and 33: both directions are blocked when the session changes hands."""
    async with scene(portable=portable) as (old, server, pool):
        old.apply(pool)
        client, remote = await pair(old, server)
        noise = os.urandom(1_000_003)
        up, down = await asyncio.gather(stuff(client, noise), stuff(remote, noise))
        got_up = got_down = b""
        if portable:
            assert not pipes_of(old), "the bytes wait in a buffer"
        async with asyncio.timeout(60):
            # They wait in a pipe once it is bulk: several full reads in a row. How soon that comes is the kernel's
            # to say, whose windows grow with what is read.
            while not portable and len(pipes_of(old)) < 4:
                got_up += await old.read(remote, up - len(got_up))
                got_down += await old.read(client, down - len(got_down))
                up, down = await asyncio.gather(stuff(client, noise, up), stuff(remote, noise, down))
        async with successor(old, pool, workers=1, portable=portable) as new:
            await hand_over(old, new)
            got_up += await old.read(remote, up - len(got_up))
            got_down += await old.read(client, down - len(got_down))
            assert got_up == (noise * (up // len(noise) + 1))[:up]
            assert got_down == (noise * (down // len(noise) + 1))[:down]
            (session,) = await new.engine.sessions()
            assert (session.bytes_from_client, session.bytes_from_backend) == (up + 1, down)
            client.shutdown(socket.SHUT_WR)
            assert await old.read(remote) == b""


@pytest.mark.anyio
async def test_half_closed_sessions_stay_half_closed_and_end_as_they_should():
    """Behaviours 3 and 33."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        by_client, by_backend = await pair(old, server), await pair(old, server)
        by_client[0].shutdown(socket.SHUT_WR)
        assert await old.read(by_client[1]) == b""
        by_backend[1].shutdown(socket.SHUT_WR)
        assert await old.read(by_backend[0]) == b""
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            states = {session.state for session in await new.engine.sessions()}
            assert states == {"half_closed_by_client", "half_closed_by_backend"}
            await old.send(by_client[1], b"answer")
            by_client[1].close()
            assert await old.read(by_client[0]) == b"answer"
            await old.send(by_backend[0], b"question")
            by_backend[0].close()
            assert await old.read(by_backend[1]) == b"question"
            await until(lambda: sum(new.engine.statistics().ends.values()) == 2)
            ends = new.engine.statistics().ends
            assert (ends["client_fin"], ends["backend_fin"]) == (1, 1)
            assert new.sessions == 0


@pytest.mark.anyio
async def test_a_fin_behind_bytes_that_wait_is_passed_on_after_them():
    """Behaviours 6 and 33."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        client, remote = await pair(old, server)
        noise = os.urandom(1_000_003)
        sent = await stuff(client, noise)
        client.shutdown(socket.SHUT_WR)
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            got = await old.read(remote)
            assert len(got) == sent
            assert got == (noise * (sent // len(noise) + 1))[:sent]


@pytest.mark.anyio
async def test_what_is_not_taken_stays_and_goes_on():
    """Behaviour 33: the successor is ready, and then nothing comes of it."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        pairs = [await pair(old, server) for _ in range(3)]
        noise = os.urandom(1_000_003)
        sent = await stuff(pairs[0][0], noise)
        async with successor(old, pool, workers=1) as new:
            assert await transfer(old.engine, new.engine, 1) == 3
            await old.send(pairs[1][0], b"meanwhile")
            pairs[2][0].shutdown(socket.SHUT_WR)
        # It has ended, and closed its copies.
        assert await old.engine.thaw() == 3
        assert (await old.read(pairs[0][1], sent)) == (noise * (sent // len(noise) + 1))[:sent]
        assert await old.read(pairs[1][1], 9) == b"meanwhile"
        assert await old.read(pairs[2][1]) == b""
        assert old.sessions == 3
        assert not old.reports
        client, _ = await pair(old, server)
        client.close()


@pytest.mark.anyio
async def test_a_successor_that_wakes_too_late_touches_nothing():
    """Behaviour 33: the old worker has gone on, so nothing is left to take."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        client, remote = await pair(old, server)
        async with successor(old, pool, workers=1) as new:
            assert await transfer(old.engine, new.engine, 1) == 1
            assert await old.engine.thaw() == 1
            assert await new.engine.wake(old.engine.totals()) == 0
            assert new.sessions == 0
            await old.send(client, b"still here")
            assert await old.read(remote, 10) == b"still here"
            assert old.sessions == 1


@pytest.mark.anyio
async def test_what_was_taken_is_not_touched_by_an_old_worker_that_goes_on():
    """Behaviour 33: the successor's control process dies after its workers took over; sessions live on in them."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        client, remote = await pair(old, server)
        async with successor(old, pool, workers=1) as new:
            assert await transfer(old.engine, new.engine, 1) == 1
            assert await new.engine.wake(old.engine.totals()) == 1
            assert await old.engine.thaw() == 0
            assert (old.sessions, new.sessions) == (0, 1)
            await old.send(client, b"there")
            assert await old.read(remote, 5) == b"there"
            client.close()
            assert await old.read(remote) == b""


@pytest.mark.anyio
async def test_clients_that_wait_for_a_place_keep_their_order_and_their_time():
    """Behaviours 19 and 33."""
    async with relay(workers=1, processes=True) as old:
        server = old.server()
        pool = Pool("p", backends=(backend("p", "a", server, max_sessions=1),), queue_timeout_s=30)
        old.apply(pool)
        first, remote = await pair(old, server)
        waiting = []
        for number in range(3):
            client = await old.client()
            await old.send(client, b"%d" % number)
            waiting.append(client)
            await until(lambda n=number: old.engine.statistics().queued["p"] == n + 1)
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            await until(lambda: new.engine.statistics().queued["p"] == 3)
            assert new.engine.statistics().backends["p/a"].sessions == 1
            first.close()
            for number, client in enumerate(waiting):
                remote.close()
                remote = await old.taken(server)
                assert await old.read(remote, 1) == b"%d" % number
                client.close()
            remote.close()
            await until(lambda: new.sessions == 0)
            assert new.engine.statistics().queued["p"] == 0


@pytest.mark.anyio
async def test_clients_that_are_held_are_held_on_and_let_in_at_the_same_rate():
    """Behaviour 33, and what a pool that holds its clients promises."""
    async with relay(workers=1, processes=True) as old:
        server = old.server()
        pool = Pool("p", hold_s=60.0, admit_per_s=10.0)
        old.apply(pool)
        for number in range(5):
            await old.send(await old.client(), b"%d" % number)
            await until(lambda n=number: old.engine.statistics().queued["p"] == n + 1)
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            await until(lambda: new.engine.statistics().queued["p"] == 5)
            new.apply(replace(pool, backends=(backend("p", "a", server),)))
            for number in range(5):
                assert await old.read(await old.taken(server), 1) == b"%d" % number
            await until(lambda: new.engine.statistics().queued["p"] == 0)


@pytest.mark.anyio
async def test_who_waits_to_be_let_in_is_let_in_at_the_same_rate_by_the_successor():
    async with relay(workers=1, processes=True) as old:
        server = old.server()
        pool = Pool("p", hold_s=60.0, admit_per_s=10.0)
        old.apply(pool)
        for _ in range(8):
            await old.client()
        await until(lambda: old.engine.statistics().queued["p"] == 8)
        pool = replace(pool, backends=(backend("p", "a", server),))
        async with successor(old, pool, workers=1) as new:
            old.apply(pool)
            await old.taken(server)
            await hand_over(old, new)
            for _ in range(7):
                await old.taken(server)
            sessions = await new.engine.sessions()
            stood = sorted(session.age_s - session.connect_s for session in sessions)
            assert stood[-1] - stood[0] >= 7 / 10 - 2 * TICK_S, "at ten a second"


@pytest.mark.anyio
async def test_a_session_that_waits_for_a_greeting_waits_for_it_in_the_other_engine():
    """Behaviour 33: the next candidate is tried there, when it does not come."""
    async with relay(workers=1, processes=True) as old:
        first, second = old.server(), old.server()
        pool = Pool(
            "p",
            strategy="first",
            backends=(backend("p", "a", first), backend("p", "b", second)),
            greeting="mysql",
            greeting_timeout_s=60,
        )
        old.apply(pool)
        client = await old.client()
        remote = await old.taken(first)
        await old.send(remote, GREETING[:3])
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            await old.send(remote, GREETING[3:])
            assert await old.read(client, len(GREETING)) == GREETING
            other = await old.client()
            remote = await old.taken(first)
            await old.send(remote, mysql_error(1040, b"Too many connections"))
            remote = await old.taken(second)
            await old.send(remote, GREETING)
            assert await old.read(other, len(GREETING)) == GREETING


@pytest.mark.anyio
async def test_what_postgresql_was_told_is_told_once_whichever_engine_hears_the_answer():
    """Behaviour 33: a request for encryption was denied, and the startup packet sent, before the session changed hands."""
    async with relay(workers=1, processes=True) as old:
        first, second = old.server(), old.server()
        pool = Pool(
            "p",
            strategy="first",
            backends=(backend("p", "a", first), backend("p", "b", second)),
            greeting="postgresql",
            greeting_timeout_s=60,
        )
        old.apply(pool)
        client = await old.client()
        await old.send(client, request(SSL_REQUEST))
        remote = await old.taken(first)
        assert await old.read(remote, 8) == request(SSL_REQUEST)
        await old.send(remote, b"N")
        assert await old.read(client, 1) == b"N"
        packet = pg_startup(user="u")
        await old.send(client, packet)
        assert await old.read(remote, len(packet)) == packet
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            await old.send(remote, pg_error("53300", "too many"))
            remote = await old.taken(second)
            assert await old.read(remote, 8) == request(SSL_REQUEST)
            await old.send(remote, b"N")
            assert await old.read(remote, len(packet)) == packet
            await old.send(remote, PG_OK)
            assert await old.read(client, len(PG_OK)) == PG_OK
            await old.send(client, b"and on")
            assert await old.read(remote, 6) == b"and on"
            client.close()
            assert await old.read(remote) == b""


@pytest.mark.anyio
async def test_an_attempt_under_way_goes_on_with_its_deadline():
    """Behaviours 13 and 33: the backend does not answer yet; the next candidate is tried in the new program."""
    async with relay(workers=1, processes=True) as old:
        # A full backlog: connects to it neither succeed nor fail.
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent.getsockname())
        server = old.server()
        pool = Pool(
            "p",
            strategy="first",
            backends=(backend("p", "a", silent), backend("p", "b", server)),
            connect_timeout_s=3,
        )
        old.apply(pool)
        async with successor(old, pool, workers=1) as new:
            await new.engine.sessions()  # it has started, which may take longer than the attempt
            client = await old.client()
            await old.send(client, b"patient")
            await until(lambda: old.engine.statistics().backends["p/a"].sessions == 1)
            await hand_over(old, new)
            assert new.engine.statistics().backends["p/a"].sessions == 1
            remote = await old.taken(server)
            assert await old.read(remote, 7) == b"patient"
            backends = new.engine.statistics().backends
            assert (backends["p/a"].sessions, backends["p/a"].connect_errors) == (0, 1)
            assert (backends["p/b"].sessions, backends["p/a"].retries) == (1, 1)
        for sock in (silent, *fillers):
            sock.close()


@pytest.mark.anyio
async def test_time_outs_go_on_where_they_stood():
    """Behaviours 14 and 33: a session that was silent for a while before is not given that time again."""
    async with scene() as (old, server, pool):
        idle = {"idle_timeout_s": 5}
        old.apply(pool, **idle)
        async with successor(old, pool, workers=1, listener=idle) as new:
            await new.engine.sessions()  # it has started, which may take longer than the session has
            await pair(old, server)
            (before,) = await old.engine.sessions()
            while before.idle_s < 1:
                await asyncio.sleep(0.05)
                (before,) = await old.engine.sessions()
            await hand_over(old, new)
            (after,) = await new.engine.sessions()
            assert after.idle_s >= before.idle_s
            await until(lambda: new.reports)
            (end,) = new.reports
        assert end.reason == "idle_timeout"
        assert end.id == before.id
        assert end.age_s >= 5 - TICK_S


@pytest.mark.anyio
async def test_a_backend_and_a_listener_that_the_new_configuration_lacks_keep_their_sessions():
    """Behaviours 30 and 33."""
    async with scene() as (old, server, pool):
        old.apply(pool, listeners={"front": "p", "side": "p"})
        client, remote = await pair(old, server)
        other = old.server()
        async with successor(old, Pool("q", backends=(backend("q", "b", other),)), workers=1) as new:
            await hand_over(old, new)
            await old.send(client, b"on")
            assert await old.read(remote, 2) == b"on"
            (session,) = await new.engine.sessions()
            assert session.backend == "p/a"
            assert new.engine.statistics().backends["p/a"].sessions == 1
            client.close()
            assert await old.read(remote) == b""
            remote.close()
            await until(lambda: new.engine.statistics().backends["p/a"].sessions == 0)
            late = await new.client()
            (await old.taken(other)).close()
            late.close()


@pytest.mark.anyio
async def test_a_client_that_is_owed_the_rest_of_a_broken_session_gets_it_from_the_other_engine():
    """Behaviours 9 and 33: the session has ended, its last bytes wait for a slow client."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", Address.parse(old.engine.addresses()["front"]).port))
        client.setblocking(False)
        remote = await old.taken(server)
        noise = os.urandom(300_000)
        await old.send(remote, noise)
        remote.shutdown(socket.SHUT_WR)
        await until(lambda: old.engine.statistics().backends["p/a"].bytes_from_backend == len(noise))
        remote.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        remote.close()
        await until(lambda: old.reports)
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            with client:
                assert await old.read(client, len(noise)) == noise
        assert old.sessions == 0


@pytest.mark.anyio
async def test_a_worker_without_room_for_the_descriptors_says_so_and_the_sessions_stay():
    """Behaviours 16 and 33."""
    async with scene() as (old, server, pool):
        old.apply(pool)
        pairs = [await pair(old, server) for _ in range(40)]
        async with successor(old, pool, workers=1) as new:
            await new.engine.sessions()  # the worker has started
            (pid,) = new.engine.worker_pids()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (70, 70))
            with pytest.raises(EngineError, match="open files"):
                await transfer(old.engine, new.engine, 1)
        assert await old.engine.thaw() == 40
        for client, remote in pairs:
            await old.send(client, b"on")
            assert await old.read(remote, 2) == b"on"


@pytest.mark.anyio
async def test_what_is_known_of_a_transaction_goes_along():
    """One session is handed over in the middle of an answer, one in a transaction, one that nobody could follow."""
    async with scene() as (old, server, plain):
        pool = replace(plain, conversation="postgresql", keeps=("p/a",))
        old.apply(pool)

        async def say(rig: Rig, speaker: socket.socket, hearer: socket.socket, what: bytes) -> None:
            await rig.send(speaker, what)
            assert await rig.read(hearer, len(what)) == what

        pairs = []
        for _ in range(3):
            client = await old.client()
            await old.send(client, s.STARTUP)
            remote = await old.taken(server)
            assert await old.read(remote, len(s.STARTUP)) == s.STARTUP
            pairs.append((client, remote))
        middle, open_, unknown = pairs
        answer = s.row(b"1") + s.complete() + s.ready()
        for client, remote in (middle, open_):
            await say(old, remote, client, s.LET_IN)
            await say(old, client, remote, s.query(b"BEGIN"))
        await say(old, middle[1], middle[0], answer[:-3])
        await say(old, open_[1], open_[0], s.ready(b"T"))
        await say(old, *reversed(unknown), b"what?")
        async with successor(old, pool, workers=1) as new:
            await hand_over(old, new)
            new.apply(replace(pool, keeps=()))
            known = [session.transaction for session in await new.engine.sessions()]
            assert known == ["busy", "open", "unknown: what it says is not understood"]
            await say(new, middle[1], middle[0], answer[-3:])
            await say(new, *open_, s.query(b"COMMIT"))
            await say(new, *reversed(open_), s.ready())
            for client, remote in (middle, open_):
                assert b"C57P01\0" in await new.read(client)
                assert await new.read(remote) == s.TERMINATE
            await say(new, *unknown, b"still there")
            assert new.engine.statistics().ends["between_transactions"] == 2
            assert not new.complaints
