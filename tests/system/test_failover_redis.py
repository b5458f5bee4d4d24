"""Redis fails over behind the balancer while clients write: nothing promised is lost, nobody writes to two primaries."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from eventually import eventually
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from servers.redis_replication import RedisNode
from writing import Writers, prove

CHECK = {
    "type": "redis",
    # A second of patience: a busy machine is no dead primary.
    "interval": "1s",
    "fast_interval": "200ms",
    "timeout": "1s",
    "rise": 1,
    "fall": 2,
}
TIME_OUT_S = 5.0
Nodes = list[RedisNode]


@pytest.fixture
def nodes(tmp_path) -> Iterator[Nodes]:
    """A primary and two replicas."""
    nodes = [RedisNode(name, tmp_path / name) for name in "abc"]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.stop)
            node.start()
        for replica in nodes[1:]:
            replica.follow(nodes[0])
        yield nodes


def settings(nodes: Nodes, **failover: object) -> dict[str, object]:
    return {
        "listeners": [
            {"bind": "127.0.0.1:0", "pool": "cache", "name": "writes", "role": "primary"},
            {
                "bind": "127.0.0.1:0",
                "pool": "cache",
                "name": "reads",
                "role": "replica",
                "fallback": "primary",
            },
        ],
        "pools": {
            "cache": {
                "backends": [{"name": node.name, "address": node.address} for node in nodes],
                "check": CHECK,
                "failover": {"fence": True, "hold": "10s", "close_sessions": True, **failover},
            }
        },
    }


def enter(port: int) -> Redis:
    return Redis(
        port=port,
        single_connection_client=True,
        socket_timeout=TIME_OUT_S,
        socket_connect_timeout=TIME_OUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        protocol=2,
    )


class Rows:
    """A session; ``server`` is the port of the one which it came to: a session never changes its server.

    What counts as acknowledged is what all ``replicas`` have that the primary had when the session began.
    """

    def __init__(self, client: Redis, server: int, replicas: int) -> None:
        self._client = client
        self.server = server
        self._replicas = replicas

    async def write(self, attempt: int) -> None:
        if not self._replicas:
            raise RedisError("the primary has no replica, so nothing that it says is a promise")
        async with self._client.pipeline(transaction=False) as batch:
            batch.set(f"row:{attempt}", str(self.server))
            batch.wait(self._replicas, int(TIME_OUT_S * 1000 / 2))
            _, having = await batch.execute()
        if having < self._replicas:
            raise RedisError(f"only {having} replicas have it")

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._client.aclose()


async def begin(port: int) -> Rows:
    client = enter(port)
    try:
        server = int((await client.info("server"))["tcp_port"])
        replicas = int((await client.info("replication"))["connected_slaves"])
    except BaseException:
        await client.aclose()
        raise
    return Rows(client, server, replicas)


async def _server_of(port: int) -> int:
    async with enter(port) as client:
        return int((await client.info("server"))["tcp_port"])


def server_of(port: int) -> int:
    """Say to which server a new session comes."""
    return asyncio.run(_server_of(port))


def rows_of(node: RedisNode) -> dict[int, int]:
    """Return what is there: every attempt, and the port of the server that it was written to."""
    names = [line for line in node.cli("KEYS", "row:*").splitlines() if line]
    values = node.cli("MGET", *names).splitlines() if names else []
    pairs = zip(names, values, strict=True)
    return {int(name.partition(":")[2]): int(value) for name, value in pairs}


def handed_over(nodes: Nodes) -> None:
    """A switch in order: the old primary waits for the new one, and follows it (FAILOVER, since Redis 6.2)."""
    old, new, third = nodes
    assert old.cli("FAILOVER", "TO", "127.0.0.1", str(new.port)) == "OK"
    eventually(lambda: new.info("replication")["role"] == "master", "the new one is primary")
    third.follow(new)


def crash(nodes: Nodes) -> None:
    old, new, third = nodes
    old.kill()
    new.promote()
    third.follow(new)


def promoted_beside(nodes: Nodes) -> None:
    """A replica is promoted by hand while the primary is alive and well, and stays so."""
    _, new, third = nodes
    new.promote()
    third.follow(new)
    eventually(lambda: new.info("replication")["connected_slaves"] == "1", "the third follows the new one")


@pytest.mark.parametrize("fail", [handed_over, crash])
def test_clients_go_on_with_the_new_primary_and_nothing_promised_is_lost(
    start, nodes, record_property, fail: Callable
):
    old, new, _ = nodes
    balancer = start(settings(nodes, split_brain="keep"))
    port = balancer.port("writes")
    with Writers(lambda: begin(port)) as writers:
        writers.wait_for(20, old.port, "a is written to")
        assert balancer.writers() == ["cache/a"]
        fail(nodes)
        ready_at = time.monotonic()
        eventually(lambda: balancer.writers() == ["cache/b"], "b takes writes")
        if fail is crash:
            old.start()  # split brain: it comes back, and does not know better
            eventually(
                lambda: balancer.role("a") == "primary", "the old one says that it is the primary as well"
            )
        writers.wait_for(50, new.port, "b is written to")
        assert balancer.writers() == ["cache/b"]
        assert server_of(port) == new.port
    writers.publish(f"Redis, {fail.__name__}", new.port, ready_at, record_property)
    # The old one keeps nothing over a crash, and after a hand-over it has what the new one has.
    assert fail is not crash or rows_of(old) == {}, "nothing was written to the one that came back"
    prove(writers.acks, rows_of(new), (old.port, new.port))


def test_with_two_primaries_and_nothing_that_decides_no_writes_go_anywhere(start, nodes):
    old, new, _ = nodes
    balancer = start(settings(nodes))
    port = balancer.port("writes")
    with Writers(lambda: begin(port)) as writers:
        writers.wait_for(20, old.port, "a is written to")
        promoted_beside(nodes)
        eventually(lambda: balancer.writers() == [], "nobody takes writes")
        assert "nothing decides between them" in balancer.log()
        with pytest.raises((OSError, RedisError)):
            server_of(port)
        before = rows_of(old), rows_of(new)
        # Whoever runs the database decides: the old one follows.
        old.follow(new)
        eventually(lambda: balancer.writers() == ["cache/b"], "b takes writes")
        writers.wait_for(20, new.port, "b is written to")
    assert not [port for port in before[1].values() if port == new.port], (
        "nothing was written to the new one before"
    )


def test_readers_are_served_by_replicas_whose_link_is_up(start, nodes):
    primary, one, other = nodes
    config = settings(nodes)
    config["pools"]["cache"]["check"] = {**CHECK, "max_lag": "2s"}
    balancer = start(config)
    reads = balancer.port("reads")
    assert {server_of(reads) for _ in range(6)} == {one.port, other.port}
    # It follows one that does not exist, while its former primary lives and takes writes.
    other.cli("REPLICAOF", "127.0.0.1", "1")
    balancer.wait_until_told("serves as a replica no more")
    assert {server_of(reads) for _ in range(6)} == {one.port}
    other.follow(primary)
    balancer.wait_until_told("serves as a replica again")
    eventually(lambda: balancer.backends()["c"]["role"] == "replica", "it is a replica")
    assert {server_of(reads) for _ in range(6)} == {one.port, other.port}
