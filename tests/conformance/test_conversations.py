"""Sessions that are to leave end when no transaction is open, and not before; whoever cannot be followed waits for the deadline."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace

import pytest

import speech as s
from conformance.backends import ScriptedBackend
from conformance.engines import behaviour
from conformance.observe import eventually, stays
from conformance.peers import Peer
from conformance.rig import LISTENER, POOL, Rig
from conformance.streams import MIB, Stream
from easyproxy.engine.relay.polite import FRESH_S
from easyproxy.engine.seam import Where
from easyproxy.model import Listener, Pool, Snapshot

pytestmark = pytest.mark.anyio

PARTED = "between_transactions"


@dataclass(frozen=True)
class Language:
    """What each side says: pairs of a request and its answer, and what both hear when they part."""

    name: str
    login: tuple[tuple[bytes, bytes], ...]  # what the server says before, and what the client says then
    let_in: bytes
    begin: tuple[bytes, bytes]
    commit: tuple[bytes, bytes]
    nothing: tuple[bytes, bytes]
    to_client: bytes
    to_backend: bytes


POSTGRESQL = Language(
    "postgresql",
    ((b"", s.STARTUP),),
    s.LET_IN,
    (s.query(b"BEGIN"), s.complete(b"BEGIN") + s.ready(b"T")),
    (s.query(b"COMMIT"), s.complete(b"COMMIT") + s.ready()),
    (s.query(b"SELECT 1"), s.row(b"1") + s.complete() + s.ready()),
    s.message(
        b"E",
        b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0",
    ),
    s.TERMINATE,
)
MYSQL = Language(
    "mysql",
    ((s.greeting(), s.hello()),),
    s.ok(2),
    (s.ask(b"BEGIN"), s.ok(status=s.AUTOCOMMIT | s.IN_TRANSACTION)),
    (s.ask(b"COMMIT"), s.ok()),
    (s.ask(b"SELECT 1"), s.result(b"1")),
    b"",
    s.QUIT,
)
both = pytest.mark.parametrize("language", [POSTGRESQL, MYSQL], ids=lambda language: language.name)


async def say(speaker: Peer, hearer: Peer, what: bytes) -> None:
    await speaker.send(what)
    assert await hearer.read(len(what)) == what


async def exchange(client: Peer, server: Peer, request: tuple[bytes, bytes]) -> None:
    await say(client, server, request[0])
    await say(server, client, request[1])


async def log_in(rig: Rig, backend: ScriptedBackend, language: Language) -> tuple[Peer, Peer]:
    """Open a session that has logged in and asked for something."""
    client, server = await rig.pair(backend)
    for before, after in language.login:
        await say(server, client, before)
        await say(client, server, after)
    await say(server, client, language.let_in)
    await exchange(client, server, language.nothing)
    return client, server


def serve(rig: Rig, backend: ScriptedBackend, language: Language, *, keeps: bool = True) -> None:
    ids = (backend.id,) if keeps else ()
    rig.serve(*([backend] if keeps else []), conversation=language.name, keeps=ids)


async def begun(rig: Rig, language: Language) -> tuple[ScriptedBackend, Peer, Peer]:
    """Serve one backend, and open a session with it."""
    backend = rig.backend("a")
    serve(rig, backend, language)
    return backend, *await log_in(rig, backend, language)


async def parted(client: Peer, server: Peer, language: Language) -> None:
    """Both sides hear what they understand, and then a clean end."""
    assert await client.read_to_end() == language.to_client
    assert await server.read_to_end() == language.to_backend


@behaviour("conversations")
@both
async def test_an_idle_session_ends_in_good_order_when_its_backend_is_drained(
    rig: Rig, language: Language
) -> None:
    backend, client, server = await begun(rig, language)
    serve(rig, backend, language, keeps=False)
    await parted(client, server, language)
    await eventually(lambda: rig.ends(PARTED), 1)
    (end,) = await rig.engine.recent_ends(Where())
    assert (end.reason, end.detail) == (PARTED, "its backend is drained")
    assert not rig.session_ends(), "nothing broke"
    assert rig.counters(backend).sessions == rig.listener().sessions == 0


@behaviour("conversations")
@both
async def test_an_open_transaction_goes_on_until_it_is_committed(rig: Rig, language: Language) -> None:
    backend, client, server = await begun(rig, language)
    await exchange(client, server, language.begin)
    serve(rig, backend, language, keeps=False)
    await stays(lambda: rig.listener().sessions, 1)
    (session,) = await rig.engine.sessions()
    assert session.transaction == "open"
    for _ in range(3):
        await exchange(client, server, (language.nothing[0], language.begin[1]))
    await exchange(client, server, language.commit)
    await parted(client, server, language)
    await eventually(lambda: rig.ends(PARTED), 1)


@behaviour("conversations")
@both
async def test_an_answer_that_is_under_way_comes_whole(rig: Rig, language: Language) -> None:
    backend, client, server = await begun(rig, language)
    request, answer = language.nothing
    await say(client, server, request)
    serve(rig, backend, language, keeps=False)
    for at in range(0, len(answer), 3):
        await stays(lambda: rig.listener().sessions, 1, for_s=0.02)
        await say(server, client, answer[at : at + 3])
    await parted(client, server, language)


@behaviour("conversations")
@both
async def test_a_request_that_is_half_here_is_not_cut(rig: Rig, language: Language) -> None:
    backend, client, server = await begun(rig, language)
    request, answer = language.nothing
    await say(client, server, request[:6])
    serve(rig, backend, language, keeps=False)
    await stays(lambda: rig.listener().sessions, 1)
    await say(client, server, request[6:])
    await say(server, client, answer)
    await parted(client, server, language)


@behaviour("conversations")
@both
async def test_a_backend_that_is_down_or_comes_back_in_time_keeps_its_sessions(
    rig: Rig, language: Language
) -> None:
    backend, client, server = await begun(rig, language)
    rig.serve(conversation=language.name, keeps=(backend.id,))  # down: not ready, and not drained
    await stays(lambda: rig.listener().sessions, 1)
    await exchange(client, server, language.begin)
    serve(rig, backend, language, keeps=False)
    await exchange(client, server, (language.nothing[0], language.begin[1]))
    serve(rig, backend, language)
    await exchange(client, server, language.commit)
    await exchange(client, server, language.nothing)
    await stays(lambda: rig.listener().sessions, 1)


@behaviour("conversations")
@both
async def test_a_client_that_has_just_logged_in_may_ask_once(rig: Rig, language: Language) -> None:
    backend = rig.backend("a")
    while True:
        serve(rig, backend, language)
        client, server = await rig.pair(backend)
        for before, after in language.login:
            await say(server, client, before)
            await say(client, server, after)
        serve(rig, backend, language, keeps=False)
        begun = time.monotonic()
        await say(server, client, language.let_in)
        try:
            await exchange(client, server, language.nothing)
        except (AssertionError, ConnectionError):
            if time.monotonic() < begun + FRESH_S:
                raise
            continue  # the machine stood still for as long as such a client is waited for
        break
    await parted(client, server, language)


@behaviour("conversations")
@both
async def test_a_client_that_has_logged_in_and_stays_silent_is_not_waited_for(
    rig: Rig, language: Language
) -> None:
    backend = rig.backend("a")
    serve(rig, backend, language)
    client, server = await rig.pair(backend)
    for before, after in language.login:
        await say(server, client, before)
        await say(client, server, after)
    await say(server, client, language.let_in)
    serve(rig, backend, language, keeps=False)
    await parted(client, server, language)


@behaviour("conversations")
@both
async def test_sessions_of_a_listener_a_pool_or_an_address_that_is_gone_leave(
    rig: Rig, language: Language
) -> None:
    backend, other = rig.backend("a"), rig.backend("a")
    pool = Pool(POOL, backends=(backend.model(),), conversation=language.name, keeps=(backend.id,))
    front = rig.snapshot((backend,)).listeners[0]
    further = replace(front, name="further")
    elsewhere = Listener("elsewhere", front.bind, "elsewhere")
    second = rig.backend("b")
    second_pool = Pool(
        "elsewhere", backends=(second.model(),), conversation=language.name, keeps=(second.id,)
    )
    rig.apply(Snapshot(1, (front, further), (pool,)))
    kept = await log_in(rig, backend, language)
    client = await rig.client(rig.place("further"))
    server = await backend.taken()
    for before, after in language.login:
        await say(server, client, before)
        await say(client, server, after)
    await say(server, client, language.let_in)
    await exchange(client, server, language.nothing)
    rig.apply(Snapshot(2, (front,), (pool,)))
    await parted(client, server, language)
    assert [end.detail for end in await rig.engine.recent_ends(Where())] == ["its listener is gone"]
    await exchange(*kept, language.nothing)
    rig.apply(Snapshot(3, (front,), (replace(pool, backends=(other.model(),)),)))
    await parted(*kept, language)
    await rig.engine.settled()
    again = await log_in(rig, other, language)
    rig.apply(Snapshot(4, (replace(front, pool="elsewhere"), elsewhere), (second_pool,)))
    await parted(*again, language)
    assert rig.ends(PARTED) == 3


@behaviour("conversations")
@both
async def test_a_stop_lets_go_who_is_idle_and_waits_for_who_is_not(rig: Rig, language: Language) -> None:
    backend = rig.backend("a")
    serve(rig, backend, language)
    idle = await log_in(rig, backend, language)
    busy = await log_in(rig, backend, language)
    await exchange(*busy, language.begin)
    drained = asyncio.ensure_future(rig.engine.drain(30))
    await parted(*idle, language)
    assert not drained.done()
    await exchange(*busy, language.commit)
    await parted(*busy, language)
    await drained
    assert rig.ends(PARTED) == 2


@behaviour("conversations")
async def test_who_cannot_be_followed_is_told_from_who_can_and_ends_at_the_deadline(rig: Rig) -> None:
    backend = rig.backend("a")
    rig.serve(backend)
    before = await rig.pair(backend)
    await say(*before, b"x")
    serve(rig, backend, POSTGRESQL)
    await rig.engine.settled()
    encrypted, open_, busy = [await rig.pair(backend) for _ in range(3)]
    await exchange(*encrypted, (s.SSL_REQUEST, b"S"))
    await say(*encrypted, b"\x16\x03\x01whatever")
    await exchange(*open_, (s.STARTUP, s.LET_IN))
    await exchange(*open_, POSTGRESQL.begin)
    await say(*busy, s.STARTUP)

    def told() -> set[str]:
        return {end.detail for end in rig.session_ends() if end.reason == "drained"}

    assert sorted([session.transaction for session in await rig.engine.sessions()]) == [
        "busy",
        "open",
        "unknown: it began before its pool had drain: between_transactions",
        "unknown: it is encrypted",
    ]
    serve(rig, backend, POSTGRESQL, keeps=False)
    await stays(lambda: rig.listener().sessions, 4)
    assert await rig.engine.close_sessions(Where(backend=backend.id), "drained") == 4
    for client, server in (before, encrypted, open_, busy):
        assert (await client.ending(), await server.ending()) == ("reset", "reset")
    unknown = "at the deadline; whether a transaction was open is not known: "
    wanted = {
        unknown + "it began before its pool had drain: between_transactions",
        unknown + "it is encrypted",
        "at the deadline, with a transaction open",
        "at the deadline, in mid-request",
    }
    await eventually(told, wanted)


@behaviour("conversations")
@both
async def test_bytes_that_a_client_is_slow_to_take_are_all_its_own_before_the_end(
    rig: Rig, language: Language
) -> None:
    backend, client, server = await begun(rig, language)
    await say(client, server, language.nothing[0])
    rows = 200_000
    value = b"x" * 100
    many = (
        s.row(value) * rows + s.complete() + s.ready()
        if language is POSTGRESQL
        else b"".join((s.packet(1, b"\1"), s.packet(2, b"\3def" + b"\0" * 20)))
        + s.packet(3, bytes([len(value)]) + value) * rows
        + s.ok(4, head=0xFE)
    )
    sending = asyncio.ensure_future(server.send(many))
    serve(rig, backend, language, keeps=False)
    assert await client.read(len(many)) == many
    await sending
    await parted(client, server, language)


@behaviour("conversations")
@both
async def test_what_is_said_before_the_backend_stands_is_heard_too(rig: Rig, language: Language) -> None:
    backend = rig.backend("a")
    rig.serve(backend, conversation=language.name, keeps=(backend.id,), greeting=language.name)
    client = await rig.client()
    server = await backend.taken()
    if language is POSTGRESQL:
        for request in (s.GSS_REQUEST, s.SSL_REQUEST):
            await exchange(client, server, (request, b"N"))
    for before, after in language.login:
        await say(server, client, before)
        await say(client, server, after)
    await say(server, client, language.let_in)
    await exchange(client, server, language.begin)
    assert [session.transaction for session in await rig.engine.sessions()] == ["open"]
    await exchange(client, server, language.commit)
    serve(rig, backend, language, keeps=False)
    await parted(client, server, language)


@behaviour("conversations")
async def test_what_is_not_the_protocol_passes_unchanged(rig: Rig) -> None:
    """Also in bulk: nothing is spliced past the ear, and nothing is lost to it."""
    backend = rig.backend("a")
    serve(rig, backend, MYSQL)
    client, server = await rig.pair(backend)
    stream = Stream("noise", rig.entry.bulk * MIB // 8)
    sending = asyncio.ensure_future(server.send_stream(stream))
    assert await client.receive_stream(stream) == stream.digest()
    await sending
    (session,) = await rig.engine.sessions()
    assert session.transaction == "unknown: what it says is not understood"


@behaviour("conversations")
async def test_pools_without_it_know_nothing_of_it(rig: Rig) -> None:
    backend = rig.backend("a")
    rig.serve(backend)
    client, server = await rig.pair(backend)
    await exchange(client, server, (s.STARTUP, s.LET_IN))
    (session,) = await rig.engine.sessions()
    assert session.transaction == ""
    rig.apply(rig.snapshot(()))
    await stays(lambda: rig.listener(LISTENER).sessions, 1)
