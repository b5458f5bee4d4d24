"""Sessions go from the workers of one engine to those of another: what is carried, and whose they are when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import pytest
from relay_rig import Rig, backend, relay, until

from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.relay.dial import Dial
from easyproxy.engine.relay.flow import Flow
from easyproxy.engine.relay.handover import (
    DIAL_FIELDS,
    DIAL_REST,
    FLOW_FIELDS,
    FLOW_REST,
    SESSION_FIELDS,
    SESSION_REST,
)
from easyproxy.engine.relay.pipes import Pipe
from easyproxy.engine.relay.session import Session
from easyproxy.engine.relay.succession import Legacy
from easyproxy.model import Pool


@pytest.mark.parametrize(
    ("kind", "carried", "rest"),
    [
        (Session, SESSION_FIELDS, SESSION_REST),
        (Flow, FLOW_FIELDS, FLOW_REST),
        (Dial, DIAL_FIELDS, DIAL_REST),
        (Pipe, ("held", "read_end", "size", "write_end"), frozenset()),
    ],
)
def test_every_field_is_known_to_the_handover(kind, carried, rest):
    """A field that is neither carried nor made anew would be lost with the next upgrade."""
    assert set(carried) | rest == set(kind.__slots__)
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
async def successor(old: Rig, pool: Pool, *, workers: int, **options):
    """A second engine that is ready to take over, with the snapshot of the first."""
    with contextlib.ExitStack() as stack:
        new = heir_of(old, stack, workers=workers, **options)
        try:
            await new.engine.start(new.reports.append)
            new.apply(pool)
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
            assert counters.bytes_from_client == 12 * 8
            late = await new.client()
            (await old.taken(server)).close()
            late.close()
            for client, remote in pairs:
                client.shutdown(socket.SHUT_WR)
                assert await old.read(remote) == b""
                remote.shutdown(socket.SHUT_WR)
                assert await old.read(client) == b""
            await until(lambda: new.sessions == 0)
            assert new.engine.statistics().ends["client_fin"] >= 12
            assert not old.reports
            assert not old.complaints
            assert not new.complaints
