"""Many clients and backends that behave in every way at once: whatever happens, nothing is left over and nothing went wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

import pytest
from relay_rig import Rig, backend, relay, until
from relay_words import GREETING, PG_OK, mysql_error, pg_error, pg_startup

from easyproxy.engine.relay.greeting import SSL_REQUEST, request
from easyproxy.model import Pool

pytestmark = pytest.mark.anyio

CLIENTS = 150
STARTUP = pg_startup(user="u", database="d")
RESET = struct.pack("ii", 1, 0)
SAYINGS = (
    GREETING,
    mysql_error(1040, b"Too many connections"),
    mysql_error(1129, b"Host is blocked"),
    b"\xff\xff\xff\0\xff",
    b"N",
    b"S",
    PG_OK,
    pg_error("53300", "too many"),
    pg_error("57P03", "starting"),
    b"E\0\0",
    b"x",
)


def close(sock: socket.socket, chance: random.Random) -> None:
    if chance.random() < 0.5:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


async def behave(sock: socket.socket, chance: random.Random, sayings: tuple[bytes, ...]) -> None:
    """Say and hear this and that, in pieces, and leave in some way."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, TimeoutError):
        for _ in range(chance.randrange(5)):
            match chance.randrange(4):
                case 0:
                    async with asyncio.timeout(chance.random() * 0.2):
                        await loop.sock_recv(sock, chance.choice([1, 8, 4096]))
                case 1:
                    await asyncio.sleep(chance.random() * 0.1)
                case _:
                    words = chance.choice(sayings)
                    middle = chance.randrange(len(words))
                    await loop.sock_sendall(sock, words[:middle])
                    await asyncio.sleep(0)
                    await loop.sock_sendall(sock, words[middle:])
        if chance.random() < 0.3:
            sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(chance.random() * 0.1)
    close(sock, chance)


async def serve(
    rig: Rig, server: socket.socket, chance: random.Random, at_work: set[asyncio.Task[None]]
) -> None:
    while True:
        sock = await rig.taken(server, within_s=None)
        task = asyncio.create_task(behave(sock, chance, SAYINGS))
        at_work.add(task)
        task.add_done_callback(at_work.discard)


@pytest.mark.parametrize("hedge", [False, True], ids=["", "hedge"])
@pytest.mark.parametrize("greeting", ["any", "mysql", "postgresql"])
@pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])
async def test_a_crowd_of_all_kinds_leaves_nothing_over(greeting, portable, hedge):
    chance = random.Random(f"{greeting} {portable} {hedge}")
    async with relay(portable=portable) as rig:
        servers = [rig.server() for _ in range(3)]
        pool = Pool(
            "p",
            backends=tuple(
                backend("p", name, server, max_sessions=20)
                for name, server in zip("abc", servers, strict=True)
            ),
            queue_timeout_s=0.3,
            greeting=greeting,
            greeting_timeout_s=0.3,
            hedge=hedge,
            hold_s=0.3,
            admit_per_s=200.0,
        )
        rig.apply(pool, half_closed_timeout_s=0.5, idle_timeout_s=0.5)
        at_work: set[asyncio.Task[None]] = set()
        accepting = [asyncio.create_task(serve(rig, server, chance, at_work)) for server in servers]
        said = (STARTUP, request(SSL_REQUEST), request(SSL_REQUEST) + STARTUP, STARTUP * 2, b"hello")
        clients = []
        for number in range(CLIENTS):
            sock = await rig.client()
            clients.append(asyncio.create_task(behave(sock, chance, said)))
            if number % 50 == 25:
                rig.apply(Pool("p", hold_s=0.3), half_closed_timeout_s=0.5, idle_timeout_s=0.5)
            if number % 50 == 30:
                rig.apply(pool, half_closed_timeout_s=0.5, idle_timeout_s=0.5)
        await asyncio.gather(*clients)
        await until(lambda: sum(rig.engine.statistics().ends.values()) == CLIENTS)
        await until(lambda: rig.sessions == 0)
        for task in (*accepting, *at_work):
            task.cancel()
        await asyncio.gather(*accepting, *at_work, return_exceptions=True)
        await until(lambda: all(one.sessions == 0 for one in rig.engine.statistics().backends.values()))
        statistics = rig.engine.statistics()
        assert rig.complaints == []
        assert statistics.queued == {"p": 0}
        assert statistics.ends["internal_error"] == 0
        assert sum(statistics.ends.values()) == statistics.listeners["front"].accepted == CLIENTS
