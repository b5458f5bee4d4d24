"""Polite closing before real servers: nobody loses a transaction, and no server counts a client that left without a word."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from eventually import eventually
from proxy import QUICK, RunningBalancer, Settings, simple
from servers.certificate import certify
from servers.mariadb import MariaDb
from servers.postgresql import PostgreSql, binary
from talkers import lines, mariadb, psql
from upgrading import Upgradable

from easyproxy.cli.client import post
from programs import run_client

CHECK = {"type": "tcp", **QUICK}
DRAIN_PG: Settings = {"when": "between_transactions", "protocol": "postgresql"}
DRAIN_MY: Settings = {"when": "between_transactions", "protocol": "mysql"}


def served(backend: Settings, drain: object, log: Path, **more: object) -> Settings:
    spare = {"name": "spare", "address": "127.0.0.1:1", "backup": True}
    return {**simple(backend, spare, drain=drain, check={"type": "none"}, **more), "access_log": str(log)}


def drain(balancer: RunningBalancer, backend: str) -> None:
    post(balancer.admin, "/api/drain", {"backend": f"p/{backend}", "who": "test"})


def ends(log: Path) -> list[tuple[str, str]]:
    """Return reason and detail of every session that has ended."""
    found = [json.loads(line) for line in lines(log)]
    return [(end["reason"], end.get("detail", "")) for end in found]


def transactions(balancer: RunningBalancer) -> list[str]:
    return sorted(session["transaction"] for session in balancer.sessions())


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSql]:
    server = PostgreSql(has_tls=True)
    yield server
    server.stop()


@pytest.fixture
def mariadb_with_tls(mariadbs, tmp_path) -> Iterator[MariaDb]:
    key, certificate = certify(tmp_path)
    options = (f"--ssl-key={key}", f"--ssl-cert={certificate}")
    server = MariaDb("one", Path(mariadbs[0].folder).parent / "template", tmp_path / "one", options=options)
    yield server
    server.stop()


PARTED = ("between_transactions", "its backend is drained")
UNKNOWN = "at the deadline; whether a transaction was open is not known: "


def abandoned(port: int) -> int:
    """How many sessions PostgreSQL has lost without a word."""
    question = "SELECT sessions_abandoned + sessions_fatal FROM pg_stat_database WHERE datname = 'postgres'"
    rows = run_client(
        binary("psql"),
        "-X",
        "-A",
        "-t",
        "-c",
        question,
        f"host=127.0.0.1 port={port} user=tester dbname=postgres",
    )
    return int(rows)


def test_postgresql_clients_leave_between_their_transactions(start, postgresql, tmp_path):
    log = tmp_path / "access.log"
    db = {"name": "db", "address": postgresql.address}
    balancer = start(served(db, DRAIN_PG, log))
    port, before = balancer.port(), abandoned(postgresql.port)
    with psql(port) as idle, psql(port) as busy, psql(port, tls="require") as secret:
        for client in (idle, busy, secret):
            client.ask("SELECT 1")
        busy.ask(
            "DROP TABLE IF EXISTS kept", "CREATE TABLE kept (n int)", "BEGIN", "INSERT INTO kept VALUES (1)"
        )
        assert transactions(balancer) == ["none", "open", "unknown: it is encrypted"]
        drain(balancer, "db")
        eventually(lambda: ends(log) == [PARTED], "the idle one has left")
        words = "1 session cannot be told to be between two transactions: it is encrypted (1)"
        eventually(lambda: words in balancer.log(), "who stays is told")
        idle.is_cut_off("terminating connection due to administrator command")
        busy.ask("INSERT INTO kept SELECT generate_series(2, 1000)")
        assert "1000\n" in busy.ask("SELECT count(*) FROM kept")
        secret.ask("SELECT 1")
        busy.tell("COMMIT")
        eventually(lambda: ends(log) == [PARTED] * 2, "the other one leaves when it has committed")
        busy.is_cut_off("terminating connection due to administrator command")
        balancer.reload(served(db, {**DRAIN_PG, "deadline": "200ms"}, log))
        eventually(
            lambda: ends(log)[2:] == [("drained", UNKNOWN + "it is encrypted")],
            "the deadline is for the rest",
        )
        secret.is_cut_off("connection to server was lost")
    with psql(postgresql.port) as direct:
        assert "1000\n" in direct.ask("SELECT count(*) FROM kept")
    # PostgreSQL itself notices only the one that was cut.
    eventually(lambda: abandoned(postgresql.port) <= before + 1, "nobody else was lost")
    balancer.wait_until_told("drain's deadline of 200 ms is over")
    assert balancer.log().count("session broke") == 1


def test_mariadb_clients_leave_between_their_transactions(start, mariadb_with_tls, tmp_path):
    log, server = tmp_path / "access.log", mariadb_with_tls
    db = {"name": "one", "address": server.address}
    balancer = start(served(db, DRAIN_MY, log))
    port, before = balancer.port(), server.count("Aborted_clients")
    with (
        mariadb(port, "--skip-ssl") as idle,
        mariadb(port, "--skip-ssl") as busy,
        mariadb(port, "--skip-ssl") as manual,
        mariadb(port, "--skip-ssl", "--compress") as small,
        mariadb(port, "--ssl") as secret,
    ):
        for client in (idle, busy, small, secret):
            client.ask("SELECT 1")
        busy.ask("BEGIN", "INSERT INTO sale (v) VALUES ('a')")
        manual.ask("SET autocommit = 0", "SELECT COUNT(*) FROM sale")
        eventually(
            lambda: (
                transactions(balancer)
                == ["none", "open", "open", "unknown: it is compressed", "unknown: it is encrypted"]
            ),
            "what is known is shown",
        )
        drain(balancer, "one")
        eventually(lambda: ends(log) == [PARTED], "the idle one has left")
        idle.is_cut_off("ERROR 20")  # 2006 or 2013: the server has gone, or was lost
        busy.ask("INSERT INTO sale (v) SELECT v FROM sale", "INSERT INTO sale (v) SELECT v FROM sale")
        busy.tell("COMMIT")
        eventually(lambda: ends(log) == [PARTED] * 2, "the other one leaves when it has committed")
        busy.is_cut_off("ERROR 20")
        assert server.count("Aborted_clients") == before
        manual.tell("ROLLBACK")
        eventually(lambda: ends(log) == [PARTED] * 3, "so does who has no autocommit")
        assert server.count("Aborted_clients") == before
        balancer.reload(served(db, {**DRAIN_MY, "deadline": "200ms"}, log))
        rest = {("drained", UNKNOWN + "it is encrypted"), ("drained", UNKNOWN + "it is compressed")}
        eventually(lambda: set(ends(log)[3:]) == rest, "the deadline is for the rest")
    assert server.sql("SELECT COUNT(*) FROM shop.sale") == [["4"]]


@pytest.mark.parametrize(
    "mode", [[], ["--protocol=extended"], ["--protocol=prepared"]], ids=["simple", "extended", "prepared"]
)
def test_no_transaction_of_pgbench_is_cut(start, postgresql, tmp_path, mode):
    """Eight clients at work all the time: each leaves after a COMMIT, and what it was told is what there is."""
    log = tmp_path / "access.log"
    balancer = start(served({"name": "db", "address": postgresql.address}, DRAIN_PG, log))
    bench = (binary("pgbench"), "-h", "127.0.0.1", "-U", "tester")
    run_client(*bench, "-p", str(postgresql.port), "-i", "-q", "-s", "2", "postgres")
    mark = len(postgresql.log)
    work = subprocess.Popen(
        [*bench, "-p", str(balancer.port()), *mode, "-n", "-c", "8", "-j", "2", "-T", "60", "postgres"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PGSSLMODE": "disable"},
    )
    eventually(lambda: balancer.backends()["db"]["counters"]["bytes_from_client"] > 200_000, "it works")
    drain(balancer, "db")
    said, _ = work.communicate(timeout=120)
    eventually(
        lambda: [reason for reason, _ in ends(log)].count("between_transactions") == 8, "all have left"
    )
    found = re.search(r"number of transactions actually processed: (\d+)", said)
    assert found, said
    with psql(postgresql.port) as direct:
        rows = direct.ask(
            "SELECT count(*), sum(delta) FROM pgbench_history", "SELECT sum(abalance) FROM pgbench_accounts"
        ).split()
    count, total = rows[0].split("|")
    assert (count, total) == (found[1], rows[1])
    assert "FATAL" not in postgresql.log[mark:], postgresql.log[mark:]
    assert "unexpected EOF" not in postgresql.log[mark:], postgresql.log[mark:]


def test_a_stop_waits_for_transactions_and_for_nobody_else(start, postgresql, tmp_path):
    log = tmp_path / "access.log"
    config = served({"name": "db", "address": postgresql.address}, DRAIN_PG, log)
    balancer = start({**config, "drain_timeout": "60s"})
    port = balancer.port()
    with psql(port) as idle, psql(port) as busy:
        idle.ask("SELECT 1")
        busy.ask(
            "DROP TABLE IF EXISTS last", "CREATE TABLE last (n int)", "BEGIN", "INSERT INTO last VALUES (1)"
        )
        balancer.program.send(signal.SIGTERM)
        why = ("between_transactions", "no sessions are served any more")
        eventually(lambda: ends(log) == [why], "the idle one has left")
        busy.ask("INSERT INTO last VALUES (2)")
        busy.tell("COMMIT")
        assert balancer.program.ended() == 0
    assert ends(log) == [why] * 2
    with psql(postgresql.port) as direct:
        assert "2\n" in direct.ask("SELECT count(*) FROM last")


def test_a_reload_that_takes_a_backend_and_a_listener_away(start, postgresql, tmp_path):
    log = tmp_path / "access.log"
    config = served({"name": "db", "address": postgresql.address}, DRAIN_PG, log)
    other = {"name": "other", "bind": "127.0.0.1:0", "pool": "p"}
    balancer = start({**config, "listeners": [*config["listeners"], other]})
    with psql(balancer.port("l")) as first, psql(balancer.port("other")) as second:
        first.ask("SELECT 1")
        second.ask("BEGIN")
        balancer.reload(config)
        second.tell("COMMIT")
        eventually(
            lambda: ends(log) == [("between_transactions", "its listener is gone")], "the second leaves"
        )
        first.ask("SELECT 1")
        balancer.reload(served({"name": "new", "address": postgresql.address}, DRAIN_PG, log))
        eventually(lambda: ends(log)[1:] == [PARTED], "so does the first")
        first.is_cut_off("terminating connection due to administrator command")


def test_an_upgrade_takes_along_what_is_known(tmp_path, postgresql):
    log = tmp_path / "access.log"
    balancer = Upgradable(
        tmp_path / "balancer", served({"name": "db", "address": postgresql.address}, DRAIN_PG, log)
    )
    try:
        with psql(balancer.port()) as busy:
            busy.ask("DROP TABLE IF EXISTS moved", "CREATE TABLE moved (n int)", "BEGIN")
            balancer.upgrade()
            assert transactions(balancer) == ["open"]
            drain(balancer, "db")
            busy.ask("INSERT INTO moved VALUES (1)")
            busy.tell("COMMIT")
            eventually(lambda: ends(log) == [PARTED], "it leaves when it has committed")
    finally:
        balancer.stop()
