"""The MySQL check against a MariaDB server that counts and logs all it can.

The server keeps no errors of 127.0.0.1, so the probes reach it through a forwarder with another loopback address.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from checks_support import LATE, look, serving

from easyproxy.engine.seam import Outcome
from easyproxy.health.checks.mysql import MysqlCheck
from easyproxy.health.checks.tcp import TcpCheck
from easyproxy.model import Address
from ports import free_port

pytestmark = pytest.mark.anyio
MAX_CONNECT_ERRORS = 10
COUNTERS = (
    "'Aborted_clients', 'Aborted_connects', 'Aborted_connects_preauth', 'Access_denied_errors', 'Connections'"
)
sources = itertools.count(10)


@dataclass(frozen=True)
class Server:
    root: Path
    address: Address

    def query(self, sql: str) -> list[list[str]]:
        command = ["mariadb", "--no-defaults", "-uroot", f"--socket={self.root}/sock", "-NBe", sql]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def counters(self) -> dict[str, int]:
        where = f"variable_name in ({COUNTERS}) or variable_name like 'Connection_errors%'"
        return {name: int(value) for name, value in self.query(f"show global status where {where}")}

    def growth(self, before: dict[str, int]) -> dict[str, int]:
        """What grew since, without the connections that were only counted."""
        now = self.counters()
        return {
            name: now[name] - before[name]
            for name in now
            if now[name] != before[name] and name != "Connections"
        }

    def connect_errors(self, source: str) -> list[list[str]]:
        columns = "sum_connect_errors, count_host_blocked_errors, count_handshake_errors"
        where = f"where ip = '{source}'"
        return self.query(f"select {columns} from performance_schema.host_cache {where}")  # noqa: S608 - our own

    def log_since(self, before: str) -> list[str]:
        lines = self.log().removeprefix(before).splitlines()
        return [
            line for line in lines if "could not be resolved" not in line
        ]  # reverse DNS, once per address

    def log(self) -> str:
        return (self.root / "error.log").read_text()

    def until_closed(self) -> None:
        """Wait until only our own query runs: a server counts a connection when it ends."""
        while self.query("select count(*) from information_schema.processlist where command != 'Daemon'") != [
            ["1"]
        ]:
            time.sleep(0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    for program in ("mariadbd", "mariadb-install-db", "mariadb"):
        assert shutil.which(program), f"{program} is needed: apt-get install mariadb-server"
    user = "mysql" if getpass.getuser() == "root" else getpass.getuser()
    with contextlib.ExitStack() as stack:
        # Not pytest's folder: the server's user must reach it, and a socket's path may have 107 bytes only.
        root = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ep-mysql-", ignore_cleanup_errors=True))
        )
        root.chmod(0o755)
        data = root / "data"
        data.mkdir()
        shutil.chown(data, user)
        (root / "run").mkdir()
        install = ["mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}"]
        install += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(install, check=True, capture_output=True)
        shutil.chown(root, user)
        port = free_port()
        options = [
            f"--user={user}",
            f"--datadir={data}",
            f"--socket={root}/sock",
            f"--pid-file={root}/pid",
            f"--log-error={root}/error.log",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--performance-schema=ON",
            "--log-warnings=9",
            f"--max-connect-errors={MAX_CONNECT_ERRORS}",
            "--innodb-buffer-pool-size=16M",
        ]
        process = subprocess.Popen(["mariadbd", "--no-defaults", *options], stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.terminate)
        running = Server(root, Address("127.0.0.1", port))
        while True:
            assert process.poll() is None, running.log()
            try:
                running.query("select 1")
                break
            except subprocess.CalledProcessError:
                time.sleep(0.05)
        running.query("install soname 'auth_ed25519'")
        running.query("create user open_account@'%'")
        running.query("create user locked_account@'%' account lock")
        running.query("create user native_account@'%' identified by 'secret'")
        running.query("create user ed25519_account@'%' identified via ed25519 using password('secret')")
        yield running


@contextlib.asynccontextmanager
async def seen_as(source: str, server: Server) -> AsyncIterator[Address]:
    """Forward to the server from the address ``source``; bytes and ends pass as they come."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.write_eof()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", server.address.port, local_addr=(source, 0))
        try:
            await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))
        finally:
            there[1].close()

    async with serving(talk) as address:
        yield address


async def probes(server: Server, check: MysqlCheck, count: int = 200) -> tuple[str, set[tuple[Outcome, str]]]:
    """Probe ``count`` times from an address of its own; return it and the distinct results."""
    source = f"127.0.1.{next(sources)}"
    async with seen_as(source, server) as address:
        seen = [await look(address, check) for _ in range(count)]
    await asyncio.to_thread(server.until_closed)
    return source, {(one.outcome, one.detail) for one in seen}


def version(server: Server) -> str:
    return server.query("select version()")[0][0]


@pytest.mark.parametrize("user", ["easyproxy", "native_account", "ed25519_account", "another", "x", "nobody"])
async def test_200_probes_without_a_password_are_no_aborted_clients_and_no_connect_errors(server, user):
    """Behaviour 26: whether the account exists or not; ``max_connect_errors`` is 10."""
    before, log = server.counters(), server.log()
    source, results = await probes(server, MysqlCheck(user=user))
    assert results == {(Outcome.SUCCESS, version(server))}
    assert server.connect_errors(source) == [["0", "0", "0"]]
    assert server.growth(before) == {"Aborted_connects": 200, "Access_denied_errors": 200}
    assert [line for line in server.log_since(log) if "Access denied for user" not in line] == []


async def test_200_probes_of_an_account_without_a_password_leave_no_trace_at_all(server):
    """Behaviour 26: at log_warnings=9, the most that the server can say."""
    before, log = server.counters(), server.log()
    source, results = await probes(server, MysqlCheck(user="open_account"))
    assert results == {(Outcome.SUCCESS, version(server))}
    assert server.connect_errors(source) == [["0", "0", "0"]]
    assert server.growth(before) == {}
    assert server.log_since(log) == []


async def test_200_probes_of_a_locked_account_leave_nothing_in_the_log(server):
    """Behaviour 26: an account that nobody can use does as well, at the price of a counter."""
    before, log = server.counters(), server.log()
    source, results = await probes(server, MysqlCheck(user="locked_account"))
    assert results == {(Outcome.SUCCESS, version(server))}
    assert server.connect_errors(source) == [["0", "0", "0"]]
    assert server.growth(before) == {"Aborted_connects": 200}
    assert server.log_since(log) == []


async def test_a_plain_tcp_probe_is_never_seen_by_the_server(server):
    """Behaviour 26."""
    before, log = server.counters(), server.log()
    for _ in range(200):
        assert (await look(server.address, TcpCheck())).outcome is Outcome.SUCCESS
    grown = server.counters()["Connections"] - before["Connections"]
    assert grown <= 1 + LATE  # one is ours that asks
    await asyncio.to_thread(server.until_closed)
    assert all(growth <= LATE for growth in server.growth(before).values())
    assert len(server.log_since(log)) <= LATE


async def test_an_address_that_others_got_blocked_is_told_in_the_server_s_words(server):
    """What a probe that leaves after the greeting would do to its own balancer: the counters above can fail."""
    source = f"127.0.1.{next(sources)}"
    async with seen_as(source, server) as address:
        for _ in range(MAX_CONNECT_ERRORS):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            await reader.read(1)
            writer.close()
            await writer.wait_closed()
            await asyncio.to_thread(server.until_closed)
        seen = await look(address, MysqlCheck())
    assert server.connect_errors(source)[0][0] == str(MAX_CONNECT_ERRORS)
    assert seen.outcome is Outcome.FAILED
    assert "is blocked because of many connection errors" in seen.detail
    assert seen.detail.endswith("(error 1129)")


def raise_limit(server: Server) -> None:
    """Give the server its places back, as soon as it lets us in again."""
    while True:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.query("set global max_connections = 151")
            break
    server.until_closed()


async def test_too_many_connections_are_a_failure_with_these_words(server):
    server.query("set global max_connections = 10")
    async with contextlib.AsyncExitStack() as stack:
        try:
            for _ in range(12):  # one more is kept for an administrator
                _, writer = await asyncio.open_connection(server.address.host, server.address.port)
                stack.callback(writer.close)
            seen = await look(server.address, MysqlCheck())
        finally:
            await stack.aclose()
            await asyncio.to_thread(raise_limit, server)
    assert (seen.outcome, seen.detail) == (Outcome.FAILED, "Too many connections (error 1040)")


@pytest.mark.parametrize(
    ("greeting", "outcome", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Outcome.FAILED, "does not speak MySQL: 'SSH-2.0-OpenSSH_9.2p1'"),
        (b"\x01\x00\x00\x00\x09", Outcome.FAILED, "does not speak MySQL (protocol 9): ''"),
        (b"\x05\x00\x00\x00\x0aabcd", Outcome.FAILED, "does not speak MySQL (protocol 10): 'abcd'"),
        (b"\x03\x00\x00\x00\xff\x10", Outcome.RESET, "closed the connection before it answered"),
        (b"\x02\x00\x00\x00\xff\x10", Outcome.FAILED, "an error without a code (error 0)"),
        (b"\xff\xff\xff\x00" + b"x" * 1000, Outcome.FAILED, "does not speak MySQL"),
        (b"\x00\x00\x00\x00", Outcome.FAILED, "does not speak MySQL"),
        (b"", Outcome.RESET, "closed the connection before it answered"),
    ],
)
async def test_whatever_else_a_server_says_is_a_failure_in_plain_words(greeting, outcome, words):
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)

    async with serving(talk) as address:
        seen = await look(address, MysqlCheck())
    assert seen.outcome is outcome
    assert words in seen.detail


@pytest.mark.parametrize("packet", [b"\x01\x01", b"\xfemysql_native_password\0salt", b"\x01"])
async def test_a_server_that_never_decides_is_a_failure(packet):
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x05\x00\x00\x00\x0a8.0\x00")
        for sequence in range(2, 100, 2):
            try:
                head = await reader.readexactly(4)
            except asyncio.IncompleteReadError:
                return
            await reader.readexactly(int.from_bytes(head[:3], "little"))
            writer.write(len(packet).to_bytes(3, "little") + bytes([sequence]) + packet)

    async with serving(talk) as address:
        seen = await look(address, MysqlCheck())
    assert (seen.outcome, seen.detail) == (Outcome.FAILED, "8.0, does not decide about a login")


async def test_a_server_that_does_not_greet_is_a_timeout():
    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(talk) as address:
        seen = await look(address, MysqlCheck(), timeout_s=2)
    assert (seen.outcome, seen.detail) == (
        Outcome.TIMEOUT,
        "connected, but the handshake was not done in time",
    )
