"""PostgreSQL fails over behind the balancer while clients write: nothing promised is lost, nobody writes to two primaries."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from eventually import eventually
from servers.postgresql_cluster import WORD, Cluster, Node
from writing import Writers, prove

CHECK = {
    "type": "postgresql",
    "user": "monitor",
    "password": WORD,
    # A second of patience: a busy machine is no dead primary.
    "interval": "1s",
    "fast_interval": "200ms",
    "timeout": "1s",
    "rise": 1,
    "fall": 2,
}
TIME_OUT_S = 5.0
WHERE = "SELECT inet_server_port()"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        primary = cluster.primary("a")
        cluster.standby("b", primary)
        # What is acknowledged is on the standby too: only then can a promise outlive the primary.
        primary.set("synchronous_standby_names", "*")
        yield cluster
    finally:
        cluster.stop()


def settings(*nodes: Node, **check: object) -> dict[str, object]:
    return {
        "listeners": [
            {"bind": "127.0.0.1:0", "pool": "db", "name": "writes", "role": "primary"},
            {"bind": "127.0.0.1:0", "pool": "db", "name": "reads", "role": "replica", "fallback": "primary"},
        ],
        "pools": {
            "db": {
                "backends": [{"name": node.name, "address": node.address} for node in nodes],
                "check": {**CHECK, **check},
                "failover": {"fence": True, "hold": "10s", "close_sessions": True},
            }
        },
    }


class Rows:
    """A session of the application's account; ``server`` is the port of the one that it has come to."""

    def __init__(self, connection: asyncpg.Connection, server: int) -> None:
        self._connection = connection
        self.server = server

    async def write(self, attempt: int) -> None:
        await self._connection.execute(
            "INSERT INTO written VALUES ($1, inet_server_port())", attempt, timeout=TIME_OUT_S
        )

    async def close(self) -> None:
        self._connection.terminate()


async def enter(port: int) -> asyncpg.Connection:
    where = {"host": "127.0.0.1", "port": port, "user": "app", "database": "postgres"}
    return await asyncpg.connect(**where, ssl=False, timeout=TIME_OUT_S)


async def begin(port: int) -> Rows:
    connection = await enter(port)
    try:
        return Rows(connection, await connection.fetchval(WHERE, timeout=TIME_OUT_S))
    except BaseException:
        connection.terminate()
        raise


async def _server_of(port: int) -> int:
    connection = await enter(port)
    try:
        return await connection.fetchval(WHERE)
    finally:
        await connection.close()


def server_of(port: int) -> int:
    """Say to which server a new session comes."""
    return asyncio.run(_server_of(port))


def rows_of(node: Node) -> dict[int, int]:
    """Return what is there: every attempt, and the port of the server that it was written to."""
    lines = node.sql("SELECT attempt, port FROM written").splitlines()
    return {int(attempt): int(port) for attempt, port in (line.split("|") for line in lines)}


def planned(old: Node, new: Node) -> None:
    """A switch in order: the old primary sends all it has when it ends."""
    old.stop()
    new.promote()


def crash(old: Node, new: Node) -> None:
    old.stop(signal.SIGKILL)
    new.promote()


def crash_and_return(old: Node, new: Node) -> None:
    """The timeline fork: the old primary comes back writable, and does not know better."""
    old.stop(signal.SIGKILL)
    new.promote()
    old.start("ssl=on")


def promoted_beside(_: Node, new: Node) -> None:
    """The new one is promoted while the old one is alive and well."""
    new.promote()


def frozen(old: Node, new: Node) -> None:
    """The old primary hangs with all its processes."""
    old.send_all(signal.SIGSTOP)
    new.promote()


@pytest.mark.parametrize("fail", [planned, crash, crash_and_return, promoted_beside, frozen])
def test_clients_go_on_with_the_new_primary_and_nothing_promised_is_lost(
    start, cluster, record_property, fail: Callable
):
    old, new = cluster.nodes
    balancer = start(settings(old, new))
    port = balancer.port("writes")

    with Writers(lambda: begin(port)) as writers:
        writers.wait_for(20, old.port, "a is written to")
        assert balancer.writers() == ["db/a"]
        fail(old, new)
        ready_at = time.monotonic()
        eventually(lambda: balancer.writers() == ["db/b"], "b takes writes")
        writers.wait_for(20, new.port, "b is written to")
        if fail is frozen:
            old.send_all(signal.SIGCONT)
        if old.is_running:
            # From here on it would take whatever it were given.
            old.set("synchronous_standby_names", "")
            eventually(
                lambda: balancer.role("a") == "primary", "the old one says that it is the primary as well"
            )
        writers.wait_for(50, new.port, "b is written to as before")
        assert balancer.writers() == ["db/b"]
        assert server_of(port) == new.port
    writers.publish(f"PostgreSQL, {fail.__name__}", new.port, ready_at, record_property)
    if not old.is_running:
        old.start("ssl=on")
    prove(writers.acks, rows_of(new), (old.port, new.port), rows_of(old))


def test_a_replica_that_lags_leaves_the_listener_for_reads_and_returns(start, cluster):
    primary, replica = cluster.nodes
    balancer = start(settings(primary, replica, max_lag="4s"))
    reads = balancer.port("reads")
    # The first probe may meet the moment when a record has come and is not replayed yet.
    eventually(lambda: server_of(reads) == replica.port, "the replica serves")
    replica.sql("SELECT pg_wal_replay_pause()")
    primary.sql("CREATE TABLE later (n int)")
    balancer.wait_until_told("serves as a replica no more")
    assert server_of(reads) == primary.port
    assert "paused" in str(balancer.backends()["b"])
    replica.sql("SELECT pg_wal_replay_resume()")
    balancer.wait_until_told("serves as a replica again")
    assert server_of(reads) == replica.port


def test_the_password_of_the_check_is_nowhere_to_be_seen(start, cluster, tmp_path: Path):
    secret = tmp_path / "monitor"
    secret.write_text(WORD + "\n")
    check = {"password": None, "password_file": str(secret)}
    config = settings(*cluster.nodes)
    config["pools"]["db"]["check"] = {k: v for k, v in {**CHECK, **check}.items() if v is not None}
    balancer = start(config)
    assert balancer.backends()["a"]["role"] == "primary"
    assert WORD not in str(balancer.status()) + balancer.log() + balancer.file.read_text()
