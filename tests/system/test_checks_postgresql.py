"""The postgresql check against real servers: what it learns, and what it leaves in their logs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from checks_support import look, target
from eventually import comes_true
from pydantic import SecretStr
from servers.postgresql_cluster import PLACES, WORD, Cluster, Node

from easyproxy.engine.seam import Outcome
from easyproxy.health.checks import Finding
from easyproxy.health.checks.postgresql import PostgresqlCheck
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
PATIENCE_S = 10.0
"""Longer than any login takes on a busy machine."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        cluster.standby("b", cluster.primary("a"))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def primary(cluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture
def standby(cluster) -> Node:
    return cluster.nodes[1]


def account(user: str = "monitor", **options: object) -> PostgresqlCheck:
    return PostgresqlCheck(user=user, password=SecretStr(WORD), **options)


def at(node: Node) -> Address:
    return Address("127.0.0.1", node.port)


async def found(node: Node | Address, check: PostgresqlCheck) -> Finding:
    finding = await check.probe(target(node if isinstance(node, Address) else at(node), check, PATIENCE_S))
    assert isinstance(finding, Finding), finding
    return finding


async def until_level(node: Node) -> None:
    await comes_true(node.is_caught_up, f"{node.name} has caught up")


async def level(standby: Node, check: PostgresqlCheck) -> Finding:
    """Look until it has replayed all: a record may have come that it is about to replay."""
    async with asyncio.timeout(60):
        while (finding := await found(standby, check)).facts.lag_s > 0:
            await until_level(standby)
    return finding


async def test_a_primary_says_what_it_is(primary):
    finding = await found(primary, account())
    assert finding.detail == f"primary, {finding.facts.version}"
    assert (finding.facts.role, finding.facts.timeline) == ("primary", 1)
    assert dict(finding.facts.notes)["position"].startswith("0/")


async def test_a_standby_that_streams_and_has_replayed_all_has_no_lag_even_if_nothing_is_written(
    primary, standby
):
    await until_level(standby)
    finding = await level(standby, account())
    assert finding.detail == f"replica, up to date, {finding.facts.version}"
    assert (finding.facts.role, finding.facts.lag_s, finding.facts.timeline) == ("replica", 0.0, 1)
    notes = dict(finding.facts.notes)
    assert notes["receiver"] == "streaming"
    assert notes["follows"] == primary.address


async def test_without_pg_monitor_it_learns_the_same_and_says_what_it_does_not_see(standby):
    await until_level(standby)
    finding = await level(standby, account("blind"))
    assert (finding.facts.role, finding.facts.lag_s, finding.facts.timeline) == ("replica", 0.0, 1)
    assert "GRANT pg_monitor TO blind" in dict(finding.facts.notes)["rights"]


async def test_a_unix_socket_is_a_way_in(primary):
    finding = await found(Address(path=str(primary.socket)), account())
    assert finding.facts.role == "primary"


@pytest.mark.parametrize("user", ["monitor", "weak", "secure", "clear"])
async def test_every_method_logs_in_with_tls_and_a_verified_certificate(cluster, primary, user):
    check = account(user, tls=True, tls_ca=str(cluster.folder / "ca.pem"), server_name="db.example")
    assert (await found(primary, check)).facts.role == "primary"


@pytest.mark.parametrize("user", ["monitor", "weak"])
async def test_without_tls_a_password_that_is_not_shown_is_enough(primary, user):
    assert (await found(primary, account(user))).facts.role == "primary"


async def test_where_no_password_is_asked_for_any_is_enough(primary):
    assert (await found(primary, account("trusted"))).facts.role == "primary"


async def test_a_password_is_not_shown_without_tls(primary):
    finding = await found(primary, account("clear"))
    assert "wants to read the password, which needs tls: true" in finding.detail
    assert finding.facts.role == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server_name": "other.example"}, "TLS certificate refused"),
        ({}, "TLS certificate refused"),
    ],
)
async def test_a_certificate_that_is_not_valid_is_refused(cluster, primary, options, words):
    ca = {"tls_ca": str(cluster.folder / "ca.pem")} if options else {}
    observation = await look(at(primary), account(tls=True, **ca, **options), PATIENCE_S)
    assert observation.outcome is Outcome.FAILED
    assert words in observation.detail


async def test_a_login_that_is_refused_says_so_and_takes_nobody_away(primary):
    for check, words in (
        (PostgresqlCheck(user="monitor", password=SecretStr("wrong")), "28P01"),
        (account("nobody"), "28P01"),
        (account("outcast"), "28000"),
        (account("narrow"), "53300"),
        (account(database="nowhere"), "3D000"),
    ):
        finding = await found(primary, check)
        assert "alive, role unknown" in finding.detail
        assert words in finding.detail
        assert WORD not in finding.detail


async def test_probes_leave_nothing_in_the_log(cluster, primary, standby):
    tls = {"tls": True, "tls_ca": str(cluster.folder / "ca.pem"), "server_name": "db.example"}
    checks = [
        PostgresqlCheck(),
        PostgresqlCheck(**tls),
        PostgresqlCheck(user="trusted"),
        account(),
        account(**tls),
    ]
    checks += [account("weak"), account("clear"), account("blind")]
    before = primary.log, standby.log
    for node in (primary, standby):
        for check in checks:
            assert (await look(at(node), check, PATIENCE_S)).outcome is Outcome.SUCCESS
        await comes_true(
            lambda node=node: (
                node.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == "1"
            ),
            "only our own question runs",
        )
    assert (primary.log_since(before[0]), standby.log_since(before[1])) == ([], [])


async def test_a_server_that_refuses_the_login_of_a_check_without_a_password_writes_it_down_once(primary):
    check = PostgresqlCheck(user="outcast")
    before = primary.log
    details = [(await look(at(primary), check, PATIENCE_S)) for _ in range(3)]
    assert all(one.outcome is Outcome.SUCCESS for one in details)
    assert "none is tried now" in details[-1].detail
    assert len(primary.log_since(before)) == 1, primary.log_since(before)


async def test_without_a_password_it_says_what_the_server_wants(primary):
    assert (await look(at(primary), PostgresqlCheck(), PATIENCE_S)).detail == "begins a login (SASL)"
    assert (await look(at(primary), PostgresqlCheck(user="trusted"), PATIENCE_S)).detail.startswith(
        "lets us in, "
    )


async def test_paused_replay_lags_more_and_more_and_comes_back(primary, standby):
    await until_level(standby)
    check = account()
    assert (await level(standby, check)).facts.lag_s == 0
    standby.sql("SELECT pg_wal_replay_pause()")
    try:
        primary.sql("CREATE TABLE later (n int)")
        await comes_true(
            lambda: standby.sql("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()") == "t",
            "it has received it",
        )
        first = await found(standby, check)
        second = await found(standby, check)
        assert 0 < first.facts.lag_s < second.facts.lag_s
        assert "its replay is paused" in second.detail
        assert dict(second.facts.notes)["replay"] == "paused"
    finally:
        standby.sql("SELECT pg_wal_replay_resume()")
    await until_level(standby)
    back = await level(standby, check)
    assert back.facts.lag_s == 0
    assert "paused" not in back.detail


async def test_a_standby_that_does_not_stream_says_so_and_claims_no_lag(cluster):
    lonely = cluster.standby("lonely", cluster.nodes[0], "wal_receiver_timeout=60s")
    lonely.stop()
    lonely.start("primary_conninfo=host=127.0.0.1 port=1 user=replicator")
    finding = await found(lonely, account())
    assert (finding.facts.role, finding.facts.lag_s) == ("replica", -1.0)
    assert "its WAL receiver is not streaming" in finding.detail
    lonely.stop()
    lonely.start("primary_conninfo=")
    finding = await found(lonely, account())
    assert finding.facts.lag_s == float("inf")
    assert "not set up to follow another" in finding.detail
    lonely.stop()


async def test_a_server_that_is_not_ready_for_clients_says_so_with_and_without_a_password(cluster):
    node = cluster.standby("early", cluster.nodes[0])
    node.stop()
    node.start("hot_standby=off", patience=False)
    for check in (PostgresqlCheck(), account()):
        observation = await comes_true_of(node, check, "57P03")
        assert observation.outcome is Outcome.FAILED
    node.stop()


async def test_a_server_that_shuts_down_says_so(cluster):
    node = cluster.standby("leaving", cluster.nodes[0])
    session = await asyncpg.connect(host="127.0.0.1", port=node.port, user="app", database="postgres")
    try:
        node.send(signal.SIGTERM)  # the smart shutdown waits for sessions
        for check in (PostgresqlCheck(), account()):
            assert "57P03" in (await comes_true_of(node, check, "57P03")).detail
    finally:
        await session.close()
    node.stop()


async def place(node: Node) -> asyncpg.Connection:
    """Take a place, as soon as there is one: who has just left may have it still."""
    while True:
        try:
            return await asyncpg.connect(
                host=str(node.folder), port=node.port, user="tester", database="postgres"
            )
        except asyncpg.TooManyConnectionsError:
            await asyncio.sleep(0.03)


async def test_too_many_clients_are_told_in_the_servers_words(primary):
    async with AsyncExitStack() as sessions:
        async with asyncio.timeout(60):
            for _ in range(PLACES):
                session = await place(primary)
                sessions.push_async_callback(session.close)
        for check in (PostgresqlCheck(), account()):
            observation = await look(at(primary), check, PATIENCE_S)
            assert observation.outcome is Outcome.FAILED
            assert "53300" in observation.detail
    assert (await comes_true_of(primary, account(), "primary")).outcome is Outcome.SUCCESS


async def test_a_postmaster_that_hangs_is_a_time_out_and_no_probe_stays_behind(primary):
    primary.send(signal.SIGSTOP)
    try:
        for check in (PostgresqlCheck(), account()):
            observation = await look(at(primary), check, 2)
            assert observation.outcome is Outcome.TIMEOUT
            assert "the login was not done in time" in observation.detail
    finally:
        primary.send(signal.SIGCONT)
    assert (await comes_true_of(primary, account(), "primary")).outcome is Outcome.SUCCESS


async def test_a_promoted_standby_is_on_a_later_timeline_at_once(cluster):
    node = cluster.standby("heir", cluster.nodes[0])
    assert (await found(node, account())).facts.timeline == 1
    node.promote()
    finding = await found(node, account())
    assert (finding.facts.role, finding.facts.timeline) == ("primary", 2)
    node.stop()


async def comes_true_of(node: Node, check: PostgresqlCheck, words: str):
    """Look again and again until the detail holds ``words``."""
    async with asyncio.timeout(60):
        while words not in (observation := await look(at(node), check, PATIENCE_S)).detail:
            pass
    return observation
