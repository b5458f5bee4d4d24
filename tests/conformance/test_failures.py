"""What happens when backends are away, peers fall silent, and the system runs out of something."""

from __future__ import annotations

import asyncio
import os
import resource

import pytest

from conformance.backends import echo, greet, refused_address
from conformance.engines import behaviour
from conformance.observe import eventually, stays
from conformance.peers import Peer, connect_on, unconnected
from conformance.rig import Rig
from conformance.streams import MIB, Check, Stream
from easyproxy.engine.seam import Outcome, Where
from easyproxy.model import Address, Backend

pytestmark = pytest.mark.anyio

TICK_S = 0.1


def dead(name: str) -> Backend:
    """Describe a backend that refuses."""
    return Backend(f"pool/{name}", name, refused_address())


@behaviour(12)
async def test_without_a_ready_backend_the_client_is_reset_and_counted(rig: Rig) -> None:
    """Behaviour 12."""
    rig.serve()
    assert await rig.knock(source=("127.0.0.6", 0)) == "reset"
    [end] = await rig.reported("no_backend")
    assert (end.listener, end.backend) == ("front", "")
    assert end.client.startswith("127.0.0.6:")
    assert rig.listener().no_backend == 1
    await rig.quiet()


@behaviour(13, 24)
async def test_a_refused_connect_is_tried_at_the_next_candidate(rig: Rig) -> None:
    """Behaviours 13 and 24: the client notices nothing, and the refusal is observed."""
    away, alive = dead("away"), rig.backend("alive", echo)
    rig.serve(away, alive, strategy="first")
    client = await rig.client()
    await client.send(b"sent before any backend stood")
    assert await client.read(29) == b"sent before any backend stood"
    assert rig.counters(away).connect_errors == 1
    assert rig.counters(away).retries == 1
    assert rig.counters(away).sessions == 0
    assert rig.counters(alive).total == 1
    await eventually(lambda: [seen.outcome for seen in rig.observations(away)], [Outcome.REFUSED])
    assert not rig.observations(alive)
    client.close()
    await rig.quiet()
    assert not rig.session_ends()


@behaviour(13, 14)
async def test_a_connect_that_times_out_is_tried_at_the_next_candidate(rig: Rig) -> None:
    """Behaviours 13 and 14."""
    silent, alive = rig.unreachable("silent"), rig.backend("alive", greet(b"hello"))
    rig.serve(silent, alive, strategy="first", connect_timeout_s=0.3)
    client = await rig.client()
    assert await client.read(5) == b"hello"
    assert rig.counters(silent).connect_errors == 1
    assert rig.counters(silent).sessions == 0
    assert rig.counters(alive).sessions == 1
    await eventually(lambda: [seen.outcome for seen in rig.observations(silent)], [Outcome.TIMEOUT])
    silent.make_reachable()
    await stays(lambda: len(silent.connections), 0)


@behaviour(13)
async def test_retries_end_at_their_number_and_the_client_is_reset(rig: Rig) -> None:
    """Behaviour 13: one attempt and one retry, though there are four candidates."""
    backends = [dead(name) for name in "abcd"]
    rig.serve(*backends, strategy="first", retries=1)
    assert await rig.knock() == "reset"
    await rig.reported("connect_failed")
    await rig.quiet()
    assert [rig.counters(backend).connect_errors for backend in backends] == [1, 1, 0, 0]
    assert [rig.counters(backend).sessions for backend in backends] == [0, 0, 0, 0]


@behaviour(13)
async def test_no_retry_when_none_is_wanted(rig: Rig) -> None:
    """Behaviour 13."""
    away, alive = dead("away"), rig.backend("alive", echo)
    rig.serve(away, alive, strategy="first", retries=0)
    assert await rig.knock() == "reset"
    await rig.reported("connect_failed")
    assert not alive.connections


@behaviour(13)
async def test_once_bytes_were_forwarded_nothing_is_tried_again(rig: Rig) -> None:
    """Behaviour 13: one delivery, exactly, although another backend stands ready."""
    first, second = rig.backend("first"), rig.backend("second", echo)
    rig.serve(first, second, strategy="first")
    client, server = await rig.pair(first)
    await client.send(b"INSERT")
    assert await server.read(6) == b"INSERT"
    server.reset()
    assert await client.ending() == "reset"
    await rig.reported("backend_reset")
    assert (len(first.connections), len(second.connections)) == (1, 0)


@behaviour(13)
async def test_a_lower_priority_serves_when_all_of_the_higher_one_fail(rig: Rig) -> None:
    """Behaviour 13: candidates go on into the next priority, and only then."""
    main, backup = rig.backend("main", greet(b"m")), rig.backend("backup", greet(b"b"))
    rig.serve(main, backup.model(priority=1))
    for _ in range(4):
        assert await (await rig.client()).read(1) == b"m"
    await main.refuse()
    assert await (await rig.client()).read(1) == b"b"
    assert rig.counters(backup).total == 1


@behaviour(13, 14)
async def test_a_connect_that_never_stands_ends_the_session(rig: Rig) -> None:
    """Behaviour 14: connect timeout."""
    silent = rig.unreachable("silent")
    rig.serve(silent, connect_timeout_s=2, retries=0)
    client = await rig.client()
    await client.send(b"anyone?")
    assert await client.ending() == "reset"
    [end] = await rig.reported("connect_failed")
    assert end.age_s >= 2 - TICK_S
    await rig.quiet()


@behaviour(14)
async def test_an_idle_session_ends_and_a_busy_one_does_not(rig: Rig) -> None:
    """Behaviour 14: idle timeout, counted from the last byte in either direction."""
    backend = rig.backend("a")
    rig.serve(backend, idle_timeout_s=3)
    idle_client, idle_server = await rig.pair(backend)
    up_client, up_server = await rig.pair(backend)
    down_client, down_server = await rig.pair(backend)

    async def keep_busy() -> None:
        while not rig.session_ends():
            await up_client.send(b"u")
            await up_server.read(1)
            await down_server.send(b"d")
            await down_client.read(1)
            await asyncio.sleep(0.02)

    busy = asyncio.create_task(keep_busy())
    assert await idle_client.ending() == "reset"
    assert await idle_server.ending() == "reset"
    [end] = await rig.reported("idle_timeout")
    await busy
    assert end.client.endswith(str(idle_client.port))
    assert end.age_s >= 3 - TICK_S
    assert rig.counters(backend).timeouts == 1
    assert rig.listener().sessions == 2


@pytest.mark.parametrize("stopped", ["client", "backend"])
@behaviour(14)
async def test_an_idle_timeout_frees_a_session_whose_peer_stopped_reading(rig: Rig, stopped: str) -> None:
    """Behaviour 14: data is waiting, and nothing moves."""
    backend = rig.backend("a")
    rig.serve(backend, idle_timeout_s=1)
    client, server = await rig.pair(backend)
    sender = server if stopped == "client" else client
    sending = asyncio.create_task(sender.send_stream(Stream("unread", 500 * MIB)))
    with pytest.raises(ConnectionResetError):
        await sending
    await rig.reported("idle_timeout")
    await rig.quiet()


@pytest.mark.parametrize("first", ["client", "backend"])
@behaviour(14)
async def test_a_half_closed_session_without_bytes_ends(rig: Rig, first: str) -> None:
    """Behaviour 14: half-closed timeout, which starts with the first FIN and anew with every byte."""
    backend = rig.backend("a")
    rig.serve(backend, half_closed_timeout_s=2)
    client, server = await rig.pair(backend)
    ended, open_ = (client, server) if first == "client" else (server, client)
    ended.finish()
    assert await open_.read_to_end() == b""
    for _ in range(25):
        await open_.send(b".")
        await ended.read(1)
        await asyncio.sleep(0.1)
    assert not rig.session_ends()
    assert await ended.ending() == "reset"
    [end] = await rig.reported("half_closed_timeout")
    assert end.age_s >= 2.5 + 2 - TICK_S
    await rig.quiet()


@behaviour(14)
async def test_a_session_ends_with_its_life_however_busy(rig: Rig) -> None:
    """Behaviour 14: maximum life."""
    backend = rig.backend("a", echo)
    rig.serve(backend, life_timeout_s=1)
    client = await rig.client()
    with pytest.raises(ConnectionResetError):
        await _talk_for_ever(client)
    [end] = await rig.reported("life_timeout")
    assert end.age_s >= 1 - TICK_S
    assert rig.counters(backend).timeouts == 1
    await rig.quiet()


async def _talk_for_ever(client: Peer) -> None:
    while True:
        await client.send(b"busy")
        await client.read(4)


@pytest.mark.root
@pytest.mark.parametrize("gone", ["client", "backend"])
@behaviour(15)
async def test_a_silent_peer_that_vanished_is_reaped(rig: Rig, gone: str) -> None:
    """Behaviour 15: no byte is under way, keep-alive finds out."""
    assert rig.namespace is not None
    backend = rig.backend("a")
    rig.serve(backend, keepalive_s=1, user_timeout_s=1)
    client, server = await rig.pair(backend)
    left, other = (client, server) if gone == "client" else (server, client)
    rig.namespace.drop_port(left.port if gone == "client" else backend.port)
    assert await other.ending() == "reset"
    await rig.reported(f"{gone}_vanished")
    await rig.quiet()


@pytest.mark.root
@pytest.mark.parametrize("gone", ["client", "backend"])
@behaviour(15)
async def test_a_peer_that_vanished_under_data_is_reaped(rig: Rig, gone: str) -> None:
    """Behaviour 15: data stays unacknowledged (TCP_USER_TIMEOUT)."""
    assert rig.namespace is not None
    backend = rig.backend("a")
    rig.serve(backend, keepalive_s=600, user_timeout_s=1)
    client, server = await rig.pair(backend)
    left, other = (client, server) if gone == "client" else (server, client)
    rig.namespace.drop_port(left.port if gone == "client" else backend.port)
    await other.send(b"are you there?")
    assert await other.ending() == "reset"
    await rig.reported(f"{gone}_vanished")
    await rig.quiet()


@pytest.mark.root
@pytest.mark.parametrize("gone", ["client", "backend"])
@behaviour(15)
async def test_a_peer_that_vanished_while_it_did_not_read_is_reaped(rig: Rig, gone: str) -> None:
    """Behaviour 15: it has no room for data, and does not answer when it is asked for some (TCP_USER_TIMEOUT)."""
    assert rig.namespace is not None
    backend = rig.backend("a")
    rig.serve(backend, keepalive_s=600, user_timeout_s=3)
    client, server = await rig.pair(backend)
    left, other = (client, server) if gone == "client" else (server, client)
    await other.send_until_stalled(Stream("too much", 500 * MIB))
    rig.namespace.drop_port(left.port if gone == "client" else backend.port)
    assert await other.ending() == "reset"
    await rig.reported(f"{gone}_vanished")
    await rig.quiet()


@behaviour(15)
async def test_peers_that_do_not_read_have_not_vanished(rig: Rig) -> None:
    """Behaviour 15, the other side of it: they answer, and keep their session for longer than TCP_USER_TIMEOUT."""
    backend = rig.backend("a")
    rig.serve(backend, user_timeout_s=3)
    client, server = await rig.pair(backend)
    there, back = Stream("there", 500 * MIB), Stream("back", 500 * MIB)
    up, down = await asyncio.gather(client.send_until_stalled(there), server.send_until_stalled(back))
    await stays(lambda: rig.listener().sessions, 1, for_s=8)
    await asyncio.gather(
        server.receive_into(Check(there), up),
        client.receive_into(Check(back), down),
    )
    client.finish()
    server.finish()
    assert (await client.ending(), await server.ending()) == ("fin", "fin")
    await rig.quiet()


@behaviour(16)
async def test_running_out_of_descriptors_pauses_accepting_and_nothing_else(rig: Rig) -> None:
    """Behaviour 16: sessions go on, the CPU stays quiet, and the waiting clients are served later."""
    backend = rig.backend("a", echo)
    rig.serve(backend)
    await rig.warm(backend)
    # Also without workers of its own the engine shares its limit with this test: make everything beforehand.
    sessions = [await rig.client() for _ in range(4)]
    for client in sessions:
        await client.send(b"1")
        await client.read(1)
    waiting = [rig.keep(unconnected(rig.place())) for _ in range(6)]
    pids = rig.processes()
    stat_pids = [open(f"/proc/{pid}/stat", "rb") for pid in pids]  # noqa: ASYNC230, PTH123, SIM115

    def cpu() -> float:
        total = 0
        for file in stat_pids:
            file.seek(0)
            fields = file.read().rpartition(b")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / os.sysconf("SC_CLK_TCK")

    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    try:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (_lowest_free(pid), limits[pid][1]))
        for client in waiting:
            await connect_on(client, rig.place())
            await client.send(b"2")
        await eventually(
            lambda: rig.listener().accept_errors, lambda errors: errors > 0, "an error of accept"
        )
        before = cpu()
        for _ in range(10):
            for client in sessions:
                await client.send(b"3")
                assert await client.read(1) == b"3"
            await asyncio.sleep(0.1)
        spent = cpu() - before
        assert spent < 0.6, f"{spent} s of CPU in a second of waiting"
        assert rig.listener().sessions == 4
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits[pid])
        for file in stat_pids:
            file.close()
    for client in waiting:
        assert await client.read(1) == b"2"
    assert rig.listener().accept_errors < 200, "accepting was tried again and again"


def _lowest_free(pid: int) -> int:
    # A limit of n forbids descriptors from n upwards, and the kernel gives the lowest free one (getrlimit(2)).
    if pid == os.getpid():
        probe = os.dup(0)  # listing our own would count the listing's
        os.close(probe)
        return probe
    taken = {int(number) for number in os.listdir(f"/proc/{pid}/fd")}  # noqa: PTH208 - numbers, no paths wanted
    return min(set(range(len(taken) + 1)) - taken)


@behaviour(17)
async def test_a_source_address_that_cannot_be_used_is_not_the_backends_fault(rig: Rig) -> None:
    """Behaviour 17: EADDRNOTAVAIL, provoked by a source that this machine does not have (RFC 5737).

    The client waits for what is short, as for a place, and no longer.
    """
    backend = rig.backend("a", echo)
    rig.serve(backend, source=Address("192.0.2.1", 0), queue_timeout_s=0.5)
    assert await rig.knock() == "reset"
    await rig.reported("connect_failed")
    counters = rig.counters(backend)
    assert counters.local_errors >= 1
    assert counters.connect_errors == 0
    await stays(lambda: rig.observations(backend), [])


@pytest.mark.root
@behaviour(17)
async def test_used_up_ports_are_counted_apart_and_the_next_candidate_serves(rig: Rig) -> None:
    """Behaviour 17: a range of 16 ephemeral ports, all taken by sessions to one backend."""
    assert rig.namespace is not None
    full, spare = rig.backend("full", greet(b"f")), rig.backend("spare", greet(b"s"))
    rig.serve(full, spare, strategy="first")
    rig.namespace.limit_ports(20000, 20015)
    for number in range(16):
        assert await (await rig.client(source=("127.0.0.1", 30000 + number))).read(1) == b"f"
    assert await (await rig.client(source=("127.0.0.1", 30016))).read(1) == b"s"
    assert rig.counters(full).local_errors == 1
    assert rig.counters(full).connect_errors == 0
    assert rig.counters(full).sessions == 16
    await stays(rig.observations, [])


@behaviour(28)
async def test_the_sessions_of_a_backend_that_went_down_can_be_ended_on_both_sides(rig: Rig) -> None:
    """Behaviour 28: with ``close_sessions_on_down``."""
    down, up = rig.backend("down"), rig.backend("up")
    rig.serve(down, up)
    for _ in range(4):
        await rig.client()
    await eventually(lambda: (len(down.connections), len(up.connections)), (2, 2))
    rig.serve(up)
    assert await rig.engine.close_sessions(Where(backend=down.id), reason="backend_down") == 2
    for server in down.connections:
        assert await server.ending() == "reset"
    ends = await rig.reported("backend_down", 2)
    assert {end.backend for end in ends} == {down.id}
    assert rig.listener().sessions == 2


@behaviour(28, 30)
async def test_the_sessions_of_a_backend_that_went_down_are_left_otherwise(rig: Rig) -> None:
    """Behaviours 28 and 30: leaving the snapshot ends no session."""
    backend, other = rig.backend("a"), rig.backend("b", greet(b"b"))
    rig.serve(backend)
    client, server = await rig.pair(backend)
    rig.serve(other)
    await eventually(lambda: _greeting(rig), b"b")
    await client.send(b"still")
    assert await server.read(5) == b"still"
    await server.send(b"here")
    assert await client.read(4) == b"here"
    assert rig.session_ends() == []


async def _greeting(rig: Rig) -> bytes:
    client = await rig.client()
    try:
        async with asyncio.timeout(0.5):
            return await client.read(1)
    except TimeoutError:
        return b""
    finally:
        client.close()
