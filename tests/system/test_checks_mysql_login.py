"""The MySQL check with an account, against MariaDB with replicas: what it sees, in which words, and what it leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from checks_support import look
from eventually import comes_true, eventually
from pydantic import SecretStr
from servers.mariadb import MariaDb
from servers.replication import MONITOR, PASSWORD, Replication

from easyproxy.engine.seam import Facts, Observation, Outcome
from easyproxy.health.checks.mysql import MysqlCheck
from easyproxy.model import Address
from ports import free_port

pytestmark = pytest.mark.anyio
COUNTERS = (
    "Aborted_clients",
    "Aborted_connects",
    "Aborted_connects_preauth",
    "Access_denied_errors",
    "Connection_errors_internal",
    "Connection_errors_peer_address",
    "Connection_errors_max_connections",
)


@pytest.fixture(scope="module")
def module_replication(mariadb_template, tmp_path_factory) -> Iterator[Replication]:
    running = Replication(mariadb_template, tmp_path_factory.mktemp("replication"))
    yield running
    running.stop()


@pytest.fixture
def replication(module_replication) -> Iterator[Replication]:
    """One primary, ``a``, and two replicas; a test may do what it likes to them."""
    yield module_replication
    module_replication.lead("a")
    for name in "bc":
        module_replication[name].sql("STOP ALL SLAVES; RESET SLAVE ALL")
        module_replication.follow(name, "a")
    for name in "bc":
        eventually(lambda n=name: module_replication.lag(n) == 0, f"{name} follows again")


def check(password: str | None = PASSWORD, **more) -> MysqlCheck:
    return MysqlCheck(
        **{"user": MONITOR, "password": None if password is None else SecretStr(password)} | more
    )


async def seen(server: MariaDb, **options) -> Observation:
    found = await look(Address.parse(server.address), check(**options))
    assert PASSWORD not in repr(found)
    return found


async def facts(server: MariaDb, **options) -> Facts:
    found = await seen(server, **options)
    assert found.outcome is Outcome.SUCCESS, found
    assert found.facts is not None, found
    return found.facts


def counters(server: MariaDb) -> dict[str, int]:
    return {name: server.count(name) for name in COUNTERS}


def complaints(server: MariaDb) -> list[str]:
    lines = [line for line in server.log.splitlines() if "[Warning]" in line or "[ERROR]" in line]
    return [line for line in lines if "max_open_files" not in line]  # of this machine, at the start


# -- where a server stands


async def test_the_primary_and_its_replicas_say_what_they_are(replication):
    replication["a"].sql("INSERT INTO shop.sale (v) VALUES ('x')")
    for name in "bc":
        replication.wait_until_applied(name, replication.position("a"))
    primary = await seen(replication["a"])
    version = replication["a"].sql("SELECT VERSION()")[0][0]
    assert (primary.outcome, primary.detail) == (Outcome.SUCCESS, f"primary, {version}")
    assert (primary.facts.role, primary.facts.version) == ("primary", version)
    for name in "bc":
        replica = await seen(replication[name])
        assert replica.detail == f"replica, up to date, {version}"
        assert (replica.facts.role, replica.facts.lag_s) == ("replica", 0.0)
        notes = dict(replica.facts.notes)
        assert notes["read_only"] == "ON"
        assert notes["follows"] == replication["a"].address
        assert notes["position"].startswith("0-1-")


async def test_200_probes_leave_no_trace_at_all(replication):
    before = [(counters(server), complaints(server)) for server in replication.servers.values()]
    for _ in range(200):
        assert (await facts(replication["a"])).role == "primary"
        assert (await facts(replication["b"])).role == "replica"
    assert [(counters(server), complaints(server)) for server in replication.servers.values()] == before


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("STOP SLAVE SQL_THREAD", "the SQL thread is stopped"),
        ("STOP SLAVE IO_THREAD", "the IO thread is stopped"),
        ("STOP SLAVE", "the SQL thread is stopped"),
        ("STOP SLAVE; RESET SLAVE ALL", "not set up to follow another"),
    ],
)
async def test_a_replica_that_was_stopped_does_not_follow(replication, statement, why):
    replication["b"].sql(statement)
    found = await seen(replication["b"])
    assert (found.facts.role, found.facts.lag_s) == ("replica", math.inf)
    assert why in found.detail


async def test_a_replica_that_cannot_apply_what_it_gets_says_the_server_s_reason(replication):
    replication["b"].sql("SET sql_log_bin = 0; INSERT INTO shop.numbered VALUES (77, 0, NOW(), 0)")
    replication["a"].sql("INSERT INTO shop.numbered VALUES (77, 0, NOW(), 0)")
    try:
        eventually(lambda: replication.status("b")["Slave_SQL_Running"] == "No", "b stumbles")
        found = await seen(replication["b"])
        assert found.facts.lag_s == math.inf
        assert "the SQL thread is stopped (error 1062): " in found.detail
    finally:
        replication["b"].sql("SET sql_log_bin = 0; DELETE FROM shop.numbered; START SLAVE")


async def test_a_replica_that_is_held_up_says_by_how_much(replication):
    """Its lag grows with the time for which it cannot apply what it has."""
    with pymysql.connect(unix_socket=str(replication["b"].socket), user="root") as holder:
        holder.cursor().execute("LOCK TABLES shop.sale READ")
        replication["a"].sql("INSERT INTO shop.sale (v) VALUES ('x')")
        for at_least in (1, 2):
            eventually(lambda n=at_least: (replication.lag("b") or 0) >= n, "b is behind")
            lag_s = (await facts(replication["b"])).lag_s
            assert at_least <= lag_s < math.inf
    eventually(lambda: replication.lag("b") == 0, "b catches up")
    assert (await facts(replication["b"])).lag_s == 0.0


async def test_of_several_sources_the_one_that_is_lost_is_named(replication):
    replication["b"].sql(
        "CHANGE MASTER 'second' TO MASTER_HOST='127.0.0.1', MASTER_PORT=1, MASTER_USER='x'; START SLAVE 'second'"
    )

    def is_lost() -> bool:
        return "error" in replication["b"].sql_text("SHOW SLAVE 'second' STATUS\\G")

    try:
        eventually(is_lost, "it has tried the other source")
        found = await seen(replication["b"])
    finally:
        replication["b"].sql("STOP SLAVE 'second'; RESET SLAVE 'second' ALL")
    assert (found.facts.role, found.facts.lag_s) == ("replica", -1.0)
    assert "lag unknown: no connection to 127.0.0.1:1 (second)" in found.detail
    assert replication["a"].address in dict(found.facts.notes)["follows"]


async def test_read_only_takes_the_role_of_a_primary_and_a_promotion_gives_it(replication):
    replication["a"].sql("SET GLOBAL read_only = 1")
    assert (await facts(replication["a"])).role == "replica"
    replication["b"].sql("STOP SLAVE; SET GLOBAL read_only = 0")
    half = await seen(replication["b"])
    assert half.facts.role == "replica"
    assert "RESET REPLICA ALL says so" in half.detail
    assert (await facts(replication["b"], writable_is_primary=True)).role == "primary"
    replication["b"].sql("RESET SLAVE ALL")
    assert (await facts(replication["b"])).role == "primary"
    replication.follow("a", "b")
    await comes_true(lambda: replication.lag("a") == 0, "a follows b")
    assert (await facts(replication["a"])).lag_s == 0.0


# -- accounts


async def test_a_wrong_password_leaves_the_server_alive_and_says_so(replication):
    found = await seen(replication["a"], password="another")  # noqa: S106 - the point
    assert found.outcome is Outcome.SUCCESS
    assert found.detail.startswith("alive, role unknown: Access denied for user 'monitor'@")
    assert found.detail.split(" (error ")[1].startswith("1045), 10.")
    assert found.facts.role == ""


async def test_a_password_that_cannot_be_read_leaves_the_server_alive_too(replication, tmp_path):
    found = await seen(replication["a"], password=None, password_file=str(tmp_path / "none"))
    assert found.outcome is Outcome.SUCCESS
    assert f"alive, role unknown: cannot read {tmp_path / 'none'}: there is no such file" in found.detail


@contextlib.contextmanager
def account(server: MariaDb, name: str, clause: str) -> Iterator[str]:
    server.sql(f"SET sql_log_bin = 0; CREATE USER {name}@'%' {clause}")
    try:
        yield name
    finally:
        server.sql(f"SET sql_log_bin = 0; DROP USER {name}@'%'")


@pytest.mark.parametrize(("name", "role"), [("a", ""), ("b", "replica")])
async def test_without_the_right_to_see_replication_the_grant_is_named(replication, name, role):
    server = replication[name]
    with account(server, "blind", f"IDENTIFIED BY '{PASSWORD}'") as user:
        found = await seen(server, user=user)
        assert (found.outcome, found.facts.role) == (Outcome.SUCCESS, role)
        assert "may not see replication (error 1227); GRANT SLAVE MONITOR ON *.* TO blind" in found.detail
        server.sql(f"SET sql_log_bin = 0; GRANT SLAVE MONITOR ON *.* TO {user}@'%'")
        assert (await facts(server, user=user)).role == ("primary" if name == "a" else "replica")


@pytest.mark.parametrize(
    "clause",
    [
        f"IDENTIFIED BY '{PASSWORD}'",
        f"IDENTIFIED VIA mysql_native_password USING PASSWORD('{PASSWORD}')",
        f"IDENTIFIED VIA ed25519 USING PASSWORD('{PASSWORD}')",
        # Two methods, of which the first is not ours: the server goes on to the next.
        f"IDENTIFIED VIA unix_socket OR ed25519 USING PASSWORD('{PASSWORD}')",
    ],
)
async def test_every_method_of_the_server_lets_us_in(replication, clause):
    server = replication["a"]
    with account(server, "one", clause) as user:
        server.sql(f"SET sql_log_bin = 0; GRANT SLAVE MONITOR ON *.* TO {user}@'%'")
        assert (await facts(server, user=user)).role == "primary"
        wrong = await seen(server, user=user, password="another")  # noqa: S106 - the point
        assert "Access denied" in wrong.detail


async def test_a_locked_account_and_an_expired_password_leave_the_server_alive(replication):
    server = replication["a"]
    for clause in ("ACCOUNT LOCK", "PASSWORD EXPIRE"):
        with account(server, "barred", f"IDENTIFIED BY '{PASSWORD}' {clause}") as user:
            found = await seen(server, user=user)
            assert found.outcome is Outcome.SUCCESS
            assert found.detail.startswith("alive, role unknown: "), found.detail


async def test_an_account_without_a_password_may_look_too(replication):
    server = replication["a"]
    with account(server, "open", "") as user:
        server.sql(f"SET sql_log_bin = 0; GRANT SLAVE MONITOR ON *.* TO {user}@'%'")
        assert (await facts(server, user=user, password="")).role == "primary"


async def test_too_many_connections_are_a_failure_that_says_so(replication):
    server = replication["a"]
    server.sql("SET GLOBAL max_connections = 10")
    with contextlib.ExitStack() as stack:
        try:
            # Who has just left may have a place still, so that it is not full yet when somebody is turned away.
            async with asyncio.timeout(60):
                while (found := await seen(server)).outcome is Outcome.SUCCESS:
                    with contextlib.suppress(pymysql.err.OperationalError):
                        stack.enter_context(
                            pymysql.connect(host="127.0.0.1", port=server.port, user="easyproxy")
                        )
        finally:
            stack.close()
            eventually(lambda: _raised(server), "the server has places again")
    assert found.outcome is Outcome.FAILED
    assert found.detail.startswith("Too many connections (error 1040")


def _raised(server: MariaDb) -> bool:
    with contextlib.suppress(AssertionError):
        server.sql("SET GLOBAL max_connections = 600")
        return True
    return False


# -- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    """Certificates of two authorities, ``ours`` and ``theirs``, each for db.example."""
    folder = tmp_path_factory.mktemp("authority")
    for name in ("ours", "theirs"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")),
                *("-subj", f"/CN=db.example/O={name}", "-addext", "subjectAltName=DNS:db.example"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


def tls_options(authority: Path) -> tuple[str, ...]:
    return (f"--ssl-cert={authority / 'ours.pem'}", f"--ssl-key={authority / 'ours.key'}")


@pytest.fixture(scope="module")
def tls_server(mariadb_template, authority, tmp_path_factory) -> Iterator[MariaDb]:
    folder = tmp_path_factory.mktemp("tls")
    server = MariaDb("tls", mariadb_template, folder / "tls", options=tls_options(authority))
    try:
        server.sql(
            f"CREATE USER strict@'%' IDENTIFIED BY '{PASSWORD}' REQUIRE SSL; GRANT SLAVE MONITOR ON *.* TO strict@'%'"
        )
        yield server
    finally:
        server.stop()


async def test_an_account_that_requires_tls_gets_it(tls_server, authority):
    ca = str(authority / "ours.pem")
    before = counters(tls_server), complaints(tls_server)
    for _ in range(10):
        found = await facts(tls_server, user="strict", tls=True, tls_ca=ca, server_name="db.example")
        assert found.role == "primary"
    assert (counters(tls_server), complaints(tls_server)) == before
    without = await seen(tls_server, user="strict")
    assert without.detail.startswith("alive, role unknown: Access denied"), without.detail


async def test_a_server_without_tls_is_told_nothing_that_is_secret(replication):
    found = await seen(replication["a"], tls=True)
    assert found.outcome is Outcome.FAILED
    assert found.detail.startswith("does not offer TLS (10.")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls_ca": "theirs.pem", "server_name": "db.example"}, "TLS certificate refused: "),
        ({"tls_ca": "ours.pem", "server_name": "other.example"}, "Hostname mismatch"),
        ({"tls_ca": "none.pem"}, "cannot use the certificates in"),
    ],
)
async def test_a_certificate_that_does_not_fit_costs_at_most_one_connect_error(
    tls_server, authority, options, why
):
    options = options | {"tls_ca": str(authority / options["tls_ca"])}
    check_ = check(user="strict", tls=True, **options)
    before = tls_server.count("Aborted_connects_preauth")
    for _ in range(10):
        found = await look(Address.parse(tls_server.address), check_)
        assert (found.outcome, why in found.detail) == (Outcome.FAILED, True), found
    # Those who leave before a login is decided are errors; a login that is refused is none.
    eventually(lambda: tls_server.count("Threads_connected") == 1, "all connections have ended")
    assert tls_server.count("Aborted_connects_preauth") <= before + 1


# -- from an address of its own, which the server does not forgive anything

HOST_ERRORS = "SELECT SUM_CONNECT_ERRORS, COUNT_HOST_BLOCKED_ERRORS FROM performance_schema.host_cache"


def distant(start, server: MariaDb, prefix: tuple[str, ...], tmp_path: Path, **check_options):
    (tmp_path / "password").write_text(PASSWORD)
    check_ = {
        "type": "mysql",
        "user": MONITOR,
        "password_file": str(tmp_path / "password"),
        # With patience: a probe that gives up on a server without time leaves it in the middle of a handshake.
        "interval": "1s",
        "fast_interval": "50ms",
        "timeout": "1s",
        "rise": 1,
        "fall": 2,
        **check_options,
    }
    return start(
        {
            "listeners": [{"bind": "10.9.0.1:0", "pool": "p", "name": "l"}],
            "pools": {"p": {"check": check_, "backends": [{"name": "far", "address": server.address}]}},
        },
        prefix=prefix,
    )


@pytest.fixture
def far(mariadb_template, elsewhere, authority, tmp_path) -> Iterator[MariaDb]:
    server = MariaDb(
        "far",
        mariadb_template,
        tmp_path / "far",
        host="10.9.0.1",
        prefix=elsewhere,
        options=tls_options(authority),
    )
    try:
        server.sql(
            f"CREATE USER {MONITOR}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SLAVE MONITOR ON *.* TO {MONITOR}@'%'"
        )
        yield server
    finally:
        server.stop()


def probes_of(server: MariaDb) -> int:
    rows = server.sql(
        f"SELECT SUM(TOTAL_CONNECTIONS) FROM performance_schema.accounts WHERE USER = '{MONITOR}'"  # noqa: S608
    )
    return 0 if rows[0][0] == "NULL" else int(rows[0][0])


def test_a_server_that_was_frozen_does_not_block_us_when_it_wakes_up(start, far, elsewhere, tmp_path):
    """It finds more dead connections than it forgives errors."""
    balancer = distant(start, far, elsewhere, tmp_path)
    eventually(lambda: probes_of(far) >= 2, "it was probed")
    before = counters(far)

    def last_probe_at() -> float:
        return balancer.backends()["far"]["last_probe"]["at"]

    last = last_probe_at()
    eventually(lambda: last_probe_at() != last, "one more is over: it is not frozen in the middle of a login")
    far.freeze()
    times: set[float] = set()
    eventually(
        lambda: times.add(last_probe_at()) or len(times) > 4, "it was probed more often than it forgives"
    )
    balancer.wait_for_state("far", "down")
    far.thaw()
    balancer.wait_for_state("far", "ready")
    seen_by_now = probes_of(far)
    eventually(lambda: probes_of(far) >= seen_by_now + 2, "it is probed as before")
    assert far.sql(HOST_ERRORS) == [["0", "0"]]
    # Those that it found dead had no address any more to blame.
    grown = {name: value - before[name] for name, value in counters(far).items()}
    assert grown["Aborted_connects"] == grown["Connection_errors_peer_address"], grown
    assert grown["Aborted_clients"] == 0
    assert [
        line for line in complaints(far) if "10.9.0.1" in line and "could not be resolved" not in line
    ] == []


def test_a_certificate_that_does_not_fit_does_not_block_us(start, far, elsewhere, authority, tmp_path):
    balancer = distant(
        start,
        far,
        elsewhere,
        tmp_path,
        tls=True,
        tls_ca=str(authority / "theirs.pem"),
        server_name="db.example",
    )
    eventually(
        lambda: far.count("Access_denied_errors") >= 6, "it was probed far more often than it forgives"
    )
    assert "TLS certificate refused" in balancer.backends()["far"]["reason"]
    [[errors, blocked]] = far.sql(HOST_ERRORS)
    assert (int(errors) <= 1, blocked) == (True, "0")


# -- Galera


@pytest.fixture
def node(mariadb_template, tmp_path) -> Iterator[MariaDb]:
    """The only node of a cluster."""
    provider = Path("/usr/lib/galera/libgalera_smm.so")
    if not provider.exists():
        pytest.fail("Galera is not installed; it comes with Debian's mariadb-server")
    options = (
        "--wsrep-on=ON",
        f"--wsrep-provider={provider}",
        "--wsrep-cluster-address=gcomm://",
        "--wsrep-node-address=127.0.0.1",
        f"--wsrep-provider-options=gmcast.listen_addr=tcp://127.0.0.1:{free_port()}",
        "--binlog-format=ROW",
        "--innodb-autoinc-lock-mode=2",
    )
    server = MariaDb("node", mariadb_template, tmp_path / "node", options=options)
    try:
        server.sql(
            f"CREATE USER {MONITOR}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SLAVE MONITOR ON *.* TO {MONITOR}@'%'"
        )
        yield server
    finally:
        server.stop()


async def test_a_node_of_galera_serves_while_it_is_synced(node):
    found = await facts(node)
    assert (found.role, dict(found.notes)["cluster"]) == ("primary", "Synced, 1 node")
    node.sql("SET GLOBAL wsrep_desync = ON")
    eventually(lambda: "Donor" in node.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'")[0][1], "it is out")
    seen_then = await seen(node)
    assert (seen_then.outcome, seen_then.detail) == (
        Outcome.FAILED,
        "Galera: the node is Donor/Desynced, not Synced",
    )
    node.sql("SET GLOBAL wsrep_desync = OFF")
    eventually(lambda: node.sql("SHOW STATUS LIKE 'wsrep_local_state_comment'")[0][1] == "Synced", "it is in")
    assert (await facts(node)).role == "primary"


# -- PAM: the server asks for the password itself, in a dialog or in clear text


@pytest.fixture
def pam_service(tmp_path) -> Iterator[str]:
    """A service of PAM that knows our password. Needs root, which may write to PAM's folder."""
    if os.geteuid() != 0:
        pytest.skip("needs root for a service of PAM")
    judge = tmp_path / "judge"
    judge.write_text(f'#!/bin/sh\n[ "$(tr -d "\\0")" = "{PASSWORD}" ]\n')
    judge.chmod(0o755)
    name = f"easyproxy-test-{os.getpid()}"
    file = Path("/etc/pam.d", name)
    file.write_text(
        f"auth required pam_exec.so quiet expose_authtok {judge}\naccount required pam_permit.so\n"
    )
    try:
        yield name
    finally:
        file.unlink()


@pytest.mark.parametrize("plugin", ["dialog", "mysql_clear_password"])
async def test_pam_lets_us_in_with_tls_and_is_told_nothing_without(
    mariadb_template, authority, pam_service, tmp_path, plugin
):
    options = (
        *tls_options(authority),
        "--plugin-load-add=auth_pam_v1",
        f"--pam-use-cleartext-plugin={'ON' if plugin == 'mysql_clear_password' else 'OFF'}",
    )
    server = MariaDb("pam", mariadb_template, tmp_path / "pam", options=options)
    try:
        server.sql(
            f"CREATE USER asked@'%' IDENTIFIED VIA pam USING '{pam_service}';"
            "GRANT SLAVE MONITOR ON *.* TO asked@'%'"
        )
        tls = {"tls": True, "tls_ca": str(authority / "ours.pem"), "server_name": "db.example"}
        assert (await facts(server, user="asked", **tls)).role == "primary"
        wrong = await seen(server, user="asked", password="another", **tls)  # noqa: S106 - the point
        assert "Access denied" in wrong.detail
        plain = await seen(server, user="asked")
        assert "goes out only with tls: true" in plain.detail
    finally:
        server.stop()
