"""The redis check against real servers: what it learns, and what it says of those that do not let it in."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from checks_support import look, target
from eventually import comes_true
from pydantic import SecretStr
from servers.redis_replication import RedisNode

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.health.checks import Finding
from easyproxy.health.checks.redis import RedisCheck
from easyproxy.model import Address
from ports import free_port
from programs import run_client

pytestmark = pytest.mark.anyio
PATIENCE_S = 10.0
WORD = "hunter2-hunter2"
Make = Callable[..., RedisNode]


@pytest.fixture
def make(tmp_path) -> Iterator[Make]:
    """Make servers that end with the test."""
    with ExitStack() as stack:

        def one(name: str, *options: str, **more: object) -> RedisNode:
            node = RedisNode(name, tmp_path / name)
            stack.callback(node.stop)
            node.start(*options, **more)
            return node

        yield one


@pytest.fixture
def pair(make) -> tuple[RedisNode, RedisNode]:
    primary, replica = make("primary"), make("replica")
    replica.follow(primary)
    return primary, replica


def at(node: RedisNode) -> Address:
    return Address("127.0.0.1", node.port)


def account(user: str = "default", word: str = WORD, **options: object) -> RedisCheck:
    return RedisCheck(user=user, password=SecretStr(word), **options)


async def found(node: RedisNode, check: RedisCheck | None = None) -> Finding:
    check = check or RedisCheck()
    finding = await check.probe(target(at(node), check, PATIENCE_S))
    assert isinstance(finding, Finding), finding
    return finding


async def seen(node: RedisNode, check: RedisCheck | None = None) -> Observation:
    return await look(at(node), check or RedisCheck(), PATIENCE_S)


async def until_said(node: RedisNode, words: str) -> Observation:
    """Look again and again until the detail holds ``words``."""
    async with asyncio.timeout(60):
        while True:
            observation = await seen(node)
            if words in observation.detail:
                return observation
            await asyncio.sleep(0.03)


async def test_primary_and_replica_say_what_they_are(pair):
    primary, replica = pair
    one, other = await found(primary), await found(replica)
    assert one.detail == f"primary, {one.facts.version}"
    assert (one.facts.role, dict(one.facts.notes)["replicas"]) == ("primary", "1")
    assert other.detail == f"replica, up to date, {other.facts.version}"
    notes = dict(other.facts.notes)
    assert (other.facts.role, other.facts.lag_s, notes["link"], notes["follows"]) == (
        "replica",
        0.0,
        "up",
        primary.address,
    )


async def test_probes_leave_nothing_in_the_log(pair):
    await comes_true(
        lambda: re.search("Synchronization with replica .* succeeded", pair[0].log), "it is done"
    )
    before = [node.log for node in pair]
    for node in pair:
        for _ in range(3):
            assert (await seen(node)).outcome is Outcome.SUCCESS
            assert (await seen(node, account(word="wrong"))).outcome is Outcome.SUCCESS
    assert [node.log for node in pair] == before


async def test_a_broken_link_says_so_and_the_lag_is_not_known(pair):
    primary, replica = pair
    primary.kill()
    facts = (await until_said(replica, "its link to its primary is down for")).facts
    assert facts is not None
    assert (facts.role, facts.lag_s) == ("replica", -1.0)


async def test_a_replica_that_has_never_had_a_link_does_not_follow(make):
    node = make("lonely", "--replicaof", "127.0.0.1", "1")
    facts = (await found(node)).facts
    assert facts.lag_s == float("inf")
    assert "was never up since it started" in (await found(node)).detail


async def test_a_primary_that_says_nothing_any_more_makes_the_lag_unknown(make):
    primary, replica = make("primary"), make("replica")
    replica.follow(primary)
    primary.send(signal.SIGSTOP)
    facts = (await until_said(replica, "its primary has said nothing for")).facts
    assert facts is not None
    assert facts.lag_s == -1.0
    primary.send(signal.SIGCONT)
    await until_said(replica, "up to date")


async def test_a_promoted_replica_is_a_primary_with_the_next_probe(pair):
    _, replica = pair
    replica.promote()
    assert (await found(replica)).facts.role == "primary"


async def test_a_server_that_is_loading_its_data_is_not_ready(make):
    node = make("slow", "--enable-debug-command", "yes", "--appendonly", "no")
    node.cli("DEBUG", "POPULATE", "2000")
    node.cli("SAVE")
    node.stop()
    node.start("--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024", patience=False)
    observation = await until_said(node, "is loading its data")
    assert observation.outcome is Outcome.FAILED


async def test_a_server_that_wants_a_password_is_alive_without_one_and_tells_all_with_it(make):
    node = make("closed", "--requirepass", WORD, login=("-a", WORD))
    without = await found(node)
    assert "alive, role unknown: NOAUTH" in without.detail
    wrong = await found(node, account(word="wrong"))
    assert "alive, role unknown: WRONGPASS" in wrong.detail
    assert (await found(node, account())).facts.role == "primary"


async def test_an_account_needs_no_more_than_ping_and_info(make):
    node = make("named")
    node.cli("ACL", "SETUSER", "monitor", "on", f">{WORD}", "+ping", "+info")
    node.cli("ACL", "SETUSER", "poor", "on", f">{WORD}", "+ping")
    node.cli("ACL", "SETUSER", "default", "off")
    assert (await found(node, account("monitor"))).facts.role == "primary"
    poor = await found(node, account("poor"))
    assert "alive, role unknown: NOPERM" in poor.detail
    assert "NOAUTH" in (await found(node)).detail


async def test_a_password_that_nobody_asks_for_is_noted_and_does_no_harm(make):
    finding = await found(make("open"), account())
    assert finding.facts.role == "primary"
    assert "without any password" in dict(finding.facts.notes)["login"]


def come_in(node: RedisNode) -> socket.socket | None:
    """Take a place; None when there is none. Who has just left may have it still."""
    client = socket.create_connection(("127.0.0.1", node.port), PATIENCE_S)
    with contextlib.suppress(ConnectionError):
        client.sendall(b"PING\r\n")
        if client.recv(100) == b"+PONG\r\n":
            return client
    client.close()
    return None


async def test_too_many_clients_are_told_in_the_servers_words(make):
    node = make("full", "--maxclients", "1")
    with await comes_true(lambda: come_in(node), "there is a place"):
        observation = await until_said(node, "max number of clients reached")
    assert observation.outcome is Outcome.FAILED


async def test_a_primary_that_cannot_save_and_so_takes_no_writes_is_not_well(make):
    node = make("sick", "--stop-writes-on-bgsave-error", "yes")
    node.cli("CONFIG", "SET", "save", "3600 1")
    node.cli("SET", "a", "b")
    (node.folder / "dump.rdb").mkdir()
    node.cli("BGSAVE")
    observation = await until_said(node, "MISCONF")
    assert observation.outcome is Outcome.FAILED
    (node.folder / "dump.rdb").rmdir()  # it does not end before it can save


async def test_a_replica_that_refuses_stale_reads_is_not_well_without_its_primary(make):
    primary, replica = make("primary"), make("replica", "--replica-serve-stale-data", "no")
    replica.follow(primary)
    primary.kill()
    assert (await until_said(replica, "MASTERDOWN")).outcome is Outcome.FAILED


async def test_a_server_that_hangs_is_a_time_out(make):
    node = make("hung")
    node.send(signal.SIGSTOP)
    assert (await look(at(node), RedisCheck(), 0.3)).outcome is Outcome.TIMEOUT


async def test_a_sentinel_is_alive_and_has_no_role(tmp_path):
    node = RedisNode("sentinel", tmp_path / "sentinel")
    file = node.folder / "sentinel.conf"
    file.write_text("")
    try:
        node.start_sentinel(file)
        finding = await found(node)
        assert "a Sentinel, which holds no data" in finding.detail
        assert finding.facts.role == ""
    finally:
        node.stop()


async def test_a_node_of_a_cluster_says_that_its_role_is_that_within_its_shard(make):
    # The port of the cluster's bus is by default 10,000 above the other, where an outgoing connection may be.
    node = make("node", "--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    notes = dict((await found(node)).facts.notes)
    assert "shard" in notes["cluster"]


async def test_tls_is_spoken_and_verified(tmp_path: Path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    run_client(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"),
        *(
            "-keyout",
            str(key),
            "-out",
            str(certificate),
            "-subj",
            "/CN=db",
            "-addext",
            "subjectAltName=DNS:db.example",
        ),
    )
    node = RedisNode("secret", tmp_path / "secret")
    try:
        node.start_tls(key, certificate)
        check = RedisCheck(tls=True, tls_ca=str(certificate), server_name="db.example")
        assert (await found(node, check)).facts.role == "primary"
        other = RedisCheck(tls=True, tls_ca=str(certificate), server_name="other.example")
        assert "TLS certificate refused" in (await seen(node, other)).detail
    finally:
        node.stop()
