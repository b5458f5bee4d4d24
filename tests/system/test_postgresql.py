"""PostgreSQL behind the balancer, with pgbench before it: the books balance afterwards."""

from __future__ import annotations

import re

import pytest
from proxy import QUICK, simple
from servers.postgresql import binary

from programs import run_client

CLIENTS, TRANSACTIONS = 8, 60


def pgbench(port: int, *arguments: str) -> str:
    return run_client(
        binary("pgbench"), *("-h", "127.0.0.1", "-p", str(port), "-U", "tester"), *arguments, "postgres"
    )


def ask(port: int, question: str) -> int:
    rows = run_client(
        binary("psql"),
        *("-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-X", "-A", "-t", "-c", question, "postgres"),
    )
    return int(rows)


@pytest.mark.parametrize(
    "mode", [["--connect"], [], ["--protocol=prepared"]], ids=["connect", "keep", "prepared"]
)
def test_pgbench_leaves_the_books_balanced(start, postgresql, mode):
    """TPC-B: every transaction moves the same amount in three tables and writes it down in a fourth."""
    balancer = start(simple({"name": "db", "address": postgresql.address}, check={"type": "tcp", **QUICK}))
    port = balancer.port()
    before = len(postgresql.log)
    pgbench(port, "-i", "-q", "-s", "2")
    told = pgbench(port, *mode, "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS))
    whole = CLIENTS * TRANSACTIONS
    assert f"number of transactions actually processed: {whole}/{whole}" in told
    failed = re.search(r"number of failed transactions: (\d+)", told)
    assert failed, told
    assert failed[1] == "0", told
    sums = {
        ask(port, f"SELECT COALESCE(SUM({column}), 0) FROM {table}")  # noqa: S608 - from the list below
        for column, table in (
            ("abalance", "pgbench_accounts"),
            ("tbalance", "pgbench_tellers"),
            ("bbalance", "pgbench_branches"),
            ("delta", "pgbench_history"),
        )
    }
    assert len(sums) == 1, sums
    assert ask(port, "SELECT COUNT(*) FROM pgbench_history") == whole
    balancer.wait_for_no_sessions()
    if mode == ["--connect"]:
        assert balancer.totals()["db"] >= whole
    log = postgresql.log[before:]
    assert "unexpected EOF" not in log, log
    assert "FATAL" not in log, log


def test_copy_brings_megabytes_in_and_out_unchanged(start, postgresql):
    balancer = start(simple({"name": "db", "address": postgresql.address}))
    address = (
        "-h",
        "127.0.0.1",
        "-p",
        str(balancer.port()),
        "-U",
        "tester",
        "-X",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
    )
    rows = "".join(f"{number}\t{'x' * 500}\n" for number in range(20_000))
    run_client(
        binary("psql"),
        *address,
        "postgres",
        stdin=f"DROP TABLE IF EXISTS big; CREATE TABLE big (n int, v text);\nCOPY big FROM stdin;\n{rows}\\.\n",
    )
    out = run_client(
        binary("psql"), *address, "-c", "COPY (SELECT * FROM big ORDER BY n) TO stdout", "postgres"
    )
    assert out == rows
