"""Real servers that accept and do not serve: full, stopped, starting. The client notices nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from eventually import eventually
from proxy import RunningBalancer, Settings, simple
from servers.mariadb import MariaDb
from servers.postgresql import PostgreSql, binary

from programs import run_client

SMALL = 4
"""So many clients the small PostgreSQL takes."""


def in_order(*servers: object, greeting: str, **settings: object) -> Settings:
    """The first server is tried first, and nothing but its greeting speaks for it."""
    return simple(*servers, strategy="first", check={"type": "none"}, greeting=greeting, **settings)


def ask_mariadb(port: int) -> str:
    """Return the data directory of the server that answers."""
    return run_client(
        *("mariadb", "--no-defaults", "--host=127.0.0.1", f"--port={port}", "--user=app", "-N", "-B"),
        *("-e", "SELECT @@port"),
    ).strip()


def knock_at_mariadb(port: int) -> socket.socket | None:
    """Come in, and say nothing; None when there is no place. Who has just left may have one still."""
    client = socket.create_connection(("127.0.0.1", port), 20)
    if client.recv(5)[4] != 0xFF:
        return client
    client.close()
    return None


@pytest.fixture
def full_mariadb(mariadbs: list[MariaDb]) -> Iterator[MariaDb]:
    """The first of them, with as many clients as it takes."""
    server = mariadbs[0]
    # Who is greeted and says nothing has a place as well, for connect_timeout.
    server.sql("SET GLOBAL max_connections = 10; SET GLOBAL connect_timeout = 600")
    with ExitStack() as stack:
        for _ in range(11):  # it greets one more, who may be its administrator
            stack.enter_context(eventually(lambda: knock_at_mariadb(server.port), "there is a place"))
        yield server

    def has_places_again() -> bool:
        try:
            server.sql("SET GLOBAL max_connections = 600; SET GLOBAL connect_timeout = 10")
        except AssertionError:
            return False
        return True

    eventually(has_places_again, "it has places again")


def only_one_that_was_passed_over(balancer: RunningBalancer, name: str) -> Settings:
    backend = balancer.backends()[name]
    assert backend["counters"]["total"] == 0
    return backend


def test_a_mariadb_at_its_max_connections_is_left_for_the_next(start, full_mariadb, mariadbs):
    balancer = start(in_order(*mariadbs[:2], greeting="mysql"))
    for _ in range(5):
        assert ask_mariadb(balancer.port()) == str(mariadbs[1].port)
    passed_over = only_one_that_was_passed_over(balancer, full_mariadb.name)
    assert passed_over["counters"]["connect_errors"] == 5
    assert passed_over["state"] == "ready", "it is full and not ill"


def test_when_every_mariadb_is_full_the_client_hears_so(start, full_mariadb):
    balancer = start(in_order(full_mariadb, greeting="mysql"))
    with socket.create_connection(("127.0.0.1", balancer.port()), 20) as client:
        heard = b"".join(iter(lambda: client.recv(1000), b""))
    assert b"Too many connections" in heard
    balancer.wait_for_no_sessions()


def test_a_mariadb_that_is_stopped_accepts_by_its_backlog_and_is_left_for_the_next(start, mariadbs):
    balancer = start(in_order(*mariadbs[:2], greeting="any", greeting_timeout="3s"))
    assert ask_mariadb(balancer.port()) == str(mariadbs[0].port)
    mariadbs[0].pause()
    try:
        assert ask_mariadb(balancer.port()) == str(mariadbs[1].port)
    finally:
        mariadbs[0].go_on()
    assert balancer.backends()[mariadbs[0].name]["counters"]["connect_errors"] == 1


def test_a_mariadb_that_hangs_is_raced_by_the_next(start, mariadbs):
    balancer = start(in_order(*mariadbs[:2], greeting="mysql", greeting_timeout="10m", hedge=True))
    mariadbs[0].pause()
    try:
        assert ask_mariadb(balancer.port()) == str(mariadbs[1].port)
    finally:
        mariadbs[0].go_on()
    assert balancer.backends()[mariadbs[0].name]["counters"]["connect_errors"] == 0


@pytest.fixture(scope="module")
def small_postgresql() -> Iterator[PostgreSql]:
    server = PostgreSql(connections=SMALL)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def closed_postgresql() -> Iterator[PostgreSql]:
    server = PostgreSql(is_closed=True)
    yield server
    server.stop()


def named(name: str, server: PostgreSql) -> Settings:
    return {"name": name, "address": server.address}


def ask_postgresql(port: int, **env: str) -> str:
    """Return the port of the server that answers."""
    return run_client(
        *(binary("psql"), "-h", "127.0.0.1", "-p", str(port), "-U", "tester", "-X", "-A", "-t"),
        *("-c", "SELECT setting FROM pg_settings WHERE name = 'port'", "postgres"),
        env=env,
    ).strip()


def log_in_to_postgresql(port: int) -> socket.socket | None:
    """Log in, and say nothing more; None when there is no place. Who has just left may have one still."""
    body = b"\0\3\0\0user\0tester\0database\0postgres\0\0"
    client = socket.create_connection(("127.0.0.1", port), 20)
    client.sendall((len(body) + 4).to_bytes(4, "big") + body)
    if client.recv(1) == b"R":
        return client
    client.close()
    return None


@pytest.fixture
def full_postgresql(small_postgresql: PostgreSql) -> Iterator[PostgreSql]:
    """With as many clients as it takes."""
    with ExitStack() as stack:
        for _ in range(SMALL):
            stack.enter_context(
                eventually(lambda: log_in_to_postgresql(small_postgresql.port), "there is a place")
            )
        yield small_postgresql


@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
def test_a_postgresql_at_its_max_connections_is_left_for_the_next(
    start, full_postgresql, postgresql, sslmode
):
    """By default its clients ask for TLS first, and hear that there is none."""
    balancer = start(
        in_order(named("full", full_postgresql), named("well", postgresql), greeting="postgresql")
    )
    for _ in range(3):
        assert ask_postgresql(balancer.port(), PGSSLMODE=sslmode) == str(postgresql.port)
    passed_over = only_one_that_was_passed_over(balancer, "full")
    assert passed_over["counters"]["connect_errors"] == 3
    assert passed_over["state"] == "ready", "it is full and not ill"


@pytest.mark.parametrize("sslmode", ["prefer", "disable"])
def test_a_postgresql_that_takes_nobody_yet_is_left_for_the_next(
    start, closed_postgresql, postgresql, sslmode
):
    balancer = start(
        in_order(named("closed", closed_postgresql), named("well", postgresql), greeting="postgresql")
    )
    assert ask_postgresql(balancer.port(), PGSSLMODE=sslmode) == str(postgresql.port)
    only_one_that_was_passed_over(balancer, "closed")


def test_when_no_postgresql_takes_it_the_client_hears_why(start, closed_postgresql):
    balancer = start(in_order(named("closed", closed_postgresql), greeting="postgresql"))
    with pytest.raises(AssertionError, match="not accepting connections"):
        ask_postgresql(balancer.port())
    balancer.wait_for_no_sessions()


def test_pgbench_with_a_connection_for_each_transaction_is_served_around_a_full_server(
    start, full_postgresql, postgresql, tmp_path
):
    script = tmp_path / "script.sql"
    script.write_text("SELECT 1;\n")
    balancer = start(
        in_order(named("full", full_postgresql), named("well", postgresql), greeting="postgresql")
    )
    told = run_client(
        *(binary("pgbench"), "-h", "127.0.0.1", "-p", str(balancer.port()), "-U", "tester"),
        *("--connect", "-n", "-c", "4", "-t", "25", "-f", str(script), "postgres"),
    )
    assert "number of transactions actually processed: 100/100" in told
    balancer.wait_for_no_sessions()
