"""MariaDB behind the balancer, with mysqlslap and mariadb before it, and a heartbeat that the servers do not mind."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from eventually import eventually
from proxy import simple
from servers.mariadb import MariaDb

from easyproxy.strategy import BUILTIN
from programs import find, run_client

# With patience: a probe that gives up on a server without time leaves it in the middle of a handshake.
HEARTBEAT = {"type": "mysql", "interval": "2s", "fast_interval": "200ms", "timeout": "2s"}
COUNTERS = (
    "Aborted_clients",
    "Aborted_connects",
    "Aborted_connects_preauth",
    "Connection_errors_accept",
    "Connection_errors_internal",
    "Connection_errors_max_connections",
    "Connection_errors_peer_address",
)


def trouble(server) -> dict[str, Any]:
    """Return everything by which a server tells that clients have misbehaved."""
    found: dict[str, Any] = {name: server.count(name) for name in COUNTERS}
    found["warnings"] = [line for line in server.log.splitlines() if "[Warning]" in line or "[ERROR]" in line]
    found["host errors"] = server.sql("SELECT ip, SUM_CONNECT_ERRORS FROM performance_schema.host_cache")
    return found


def mysqlslap(port: int, *, queries: int, connections: int = 20) -> str:
    # --detach=1: a connection for each query, so that sessions come and go.
    return run_client(
        "mysqlslap",
        *("--no-defaults", "--host=127.0.0.1", f"--port={port}", "--user=app", "--protocol=tcp"),
        *(f"--concurrency={connections}", f"--number-of-queries={queries}", "--detach=1", "--no-drop"),
        *("--create-schema=shop", "--delimiter=;"),
        "--query=INSERT INTO sale (v) VALUES (REPEAT('x', 2000)); SELECT COUNT(*), SUM(LENGTH(v)) FROM sale",
    )


@pytest.fixture
def calm(mariadbs):
    """The three servers, which must have no more to complain about after the test than before."""
    for server in mariadbs:
        server.sql("TRUNCATE shop.sale")
    before = [trouble(server) for server in mariadbs]
    yield mariadbs
    assert [trouble(server) for server in mariadbs] == before


@pytest.mark.parametrize("strategy", sorted(BUILTIN))
def test_mysqlslap_is_served_and_no_server_counts_an_aborted_client(start, calm, strategy):
    """Behaviour 26, end to end: the heartbeat and the sessions leave no trace."""
    balancer = start(simple(*calm, strategy=strategy, check=HEARTBEAT))
    mysqlslap(balancer.port(), queries=320)
    balancer.wait_for_no_sessions()
    counts = [int(server.sql("SELECT COUNT(*) FROM shop.sale")[0][0]) for server in calm]
    totals = balancer.totals()
    assert sum(counts) == 160, counts  # every second query was an INSERT
    assert [bool(count) for count in counts] == [bool(totals[server.name]) for server in calm], (
        counts,
        totals,
    )
    if strategy in ("first", "source_hash", "maglev"):
        assert sum(bool(count) for count in counts) == 1, counts  # one client address
    else:
        assert all(counts), counts
    assert {backend["state"] for backend in balancer.backends().values()} == {"ready"}
    assert balancer.stop() == 0


def test_a_client_that_leaves_without_a_word_would_be_noticed(start, mariadbs):
    balancer = start(simple(mariadbs[0], check=HEARTBEAT))
    before = trouble(mariadbs[0])
    with socket.create_connection(("127.0.0.1", balancer.port())) as rude:
        assert rude.recv(1)

    def is_noticed() -> bool:
        now = trouble(mariadbs[0])
        fresh = now["warnings"][len(before["warnings"]) :]
        is_counted = now["Aborted_connects"] != before["Aborted_connects"]
        return is_counted and any("Aborted connection" in line for line in fresh)

    eventually(is_noticed, "the server counts it, and says so")


def test_the_mariadb_client_reads_and_writes_megabytes(start, calm):
    balancer = start(simple(calm[0], check=HEARTBEAT))
    client = ("mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={balancer.port()}", "--user=app")
    texts = [f"{digit}" * 2_000_000 for digit in range(10)]
    run_client(*client, "shop", stdin="".join(f"INSERT INTO sale (v) VALUES ('{text}');\n" for text in texts))  # noqa: S608
    answer = run_client(*client, "-N", "-B", "--quick", "shop", "-e", "SELECT v FROM sale ORDER BY id")
    assert answer.split() == texts


def test_the_heartbeat_goes_on_for_longer_than_max_connect_errors_allows(start, calm):
    """Behaviour 26: three errors would block the balancer; it has probed more often by then."""
    balancer = start(simple(*calm, check=HEARTBEAT))
    probes = [server.probes() for server in calm]
    for server, before in zip(calm, probes, strict=True):
        eventually(lambda s=server, b=before: s.probes() >= b + 5, f"{server.name} was probed five times")
    assert (
        run_client(
            *("mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={balancer.port()}", "--user=app"),
            *("-N", "-B", "-e", "SELECT 'served'"),
        )
        == "served\n"
    )


def test_from_another_address_the_heartbeat_never_gets_the_balancer_blocked(
    start, mariadb_template, elsewhere, tmp_path
):
    """Behaviour 26: MariaDB forgives 127.0.0.1 everything, so here everybody has a real address."""
    server = MariaDb("far", mariadb_template, tmp_path / "far", host="10.9.0.1", prefix=elsewhere)
    try:
        balancer = start(simple(server, bind="10.9.0.1:0", check=HEARTBEAT), prefix=elsewhere)
        client = (*elsewhere, find("mariadb"), "--no-defaults", "--host=10.9.0.1", "--user=app", "-N", "-B")
        served = (*client, f"--port={balancer.port()}", "-e", "SELECT 'served'")
        aborted = server.count("Aborted_connects")
        eventually(lambda: server.probes() >= 5, "it was probed more often than it would forgive")
        errors = "SELECT ip, SUM_CONNECT_ERRORS, COUNT_HANDSHAKE_ERRORS FROM performance_schema.host_cache"
        assert server.sql(errors) == [["10.9.0.1", "0", "0"]]
        assert (server.count("Aborted_connects"), server.count("Aborted_clients")) == (aborted, 0)
        assert run_client(*served) == "served\n"
        # What the heartbeat is spared: whoever knocks and leaves is counted. (A login forgives what was before it.)
        knock = f"exec 3<>/dev/tcp/10.9.0.1/{server.port}; head -c1 <&3 >/dev/null; exec 3>&-"
        run_client(*elsewhere, "bash", "-c", knock)
        eventually(lambda: server.sql(errors)[0][2] == "1", "the server counts it")
    finally:
        server.stop()


def test_a_server_that_stops_leaves_and_its_clients_go_to_the_others(
    start, mariadbs, mariadb_template, tmp_path
):
    """Behaviour 23: SHUTDOWN through the front door would be another server's business, so a fresh one is stopped."""
    mortal = MariaDb("mortal", mariadb_template, tmp_path / "mortal")
    try:
        balancer = start(simple(mortal, *mariadbs[:2], check=HEARTBEAT))
        for server in mariadbs[:2]:
            server.sql("TRUNCATE shop.sale")
        mortal.stop()
        mysqlslap(balancer.port(), queries=80)
        balancer.wait_for_state("mortal", "down")
        reached = balancer.totals()["mortal"]
        mysqlslap(balancer.port(), queries=80)
        assert balancer.totals()["mortal"] == reached
        assert sum(int(server.sql("SELECT COUNT(*) FROM shop.sale")[0][0]) for server in mariadbs[:2]) == 80
    finally:
        mortal.stop()
