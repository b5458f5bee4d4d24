"""The new program goes on with every session and every client, or the old one does as if nothing had happened."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from operator import le
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from proxy import command, name_of, simple
from servers.postgresql import binary
from traffic import Visit, Wrk, ask
from upgrading import Upgradable, at, children

from easyproxy import Balancer
from easyproxy.cli.client import RefusedError, fetch, post
from easyproxy.control import operations
from ports import free_port
from programs import Program

UPGRADES = 20
MIB = 1024 * 1024


def no_more(now: list[int], before: list[int]) -> bool:
    """Whether no process has more descriptors than before; then, one that was about to be closed may have counted."""
    return len(now) == len(before) and all(map(le, now, before))


@pytest.fixture
def begin(tmp_path):
    """Start balancers that are to be upgraded; end them and their successors, and look whether they failed inside."""
    running = []
    with ExitStack() as stack:

        def begin_one(config, **more):
            balancer = Upgradable(tmp_path / f"balancer-{len(running)}", config, **more)
            running.append(balancer)
            stack.callback(balancer.stop)
            return balancer

        yield begin_one
    for balancer in running:
        log = balancer.log()
        assert "Traceback" not in log, log
        assert "Warning:" not in log, log


class Echo:
    """A backend that sends back what it gets, and a client's bulk transfer through the balancer that is checked."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._answer, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    @staticmethod
    def _answer(sock: socket.socket) -> None:
        with sock:
            while data := sock.recv(MIB):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)


class Bulk:
    """Sends noise through the balancer and back until the end of the ``with`` block; then both hashes are known."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port))
        self._is_over = threading.Event()
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._read)]

    def _send(self) -> None:
        noise = os.urandom(4 * MIB + 1)
        place = 0
        try:
            while not self._is_over.is_set():
                part = noise[place : place + MIB]
                place = (place + MIB) % len(noise)
                self._sock.sendall(part)
                self._sent.update(part)
                self.bytes += len(part)
                time.sleep(0.1)  # leaves the machine to the others
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error

    def _read(self) -> None:
        try:
            while data := self._sock.recv(MIB):
                self._got.update(data)
        except OSError as error:
            self.error = error

    @property
    def is_whole(self) -> bool:
        return self.error is None and self._sent.digest() == self._got.digest()

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)
        self._sock.close()


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.close()


class PacedWrk(Wrk):
    """wrk that waits 20 ms before each request: upgrades are proved under traffic, not under want of processors."""

    def __init__(self, port: int, folder: Path, **more: Any) -> None:
        super().__init__(port, **more)
        script = folder / "pace.lua"
        script.write_text("function delay() return 20 end\n")
        self._arguments = ["-s", str(script), *self._arguments]


def web_database_and_bulk(nginxes, postgresql, echo):
    def pool_of(*backends):
        return {"check": {"type": "tcp", "interval": "500ms"}, "backends": list(backends)}

    return {
        "worker_python": "same",
        "listeners": [
            {"name": name, "bind": "127.0.0.1:0", "pool": name} for name in ("web", "database", "bulk")
        ],
        "pools": {
            "web": pool_of(*({"name": each.name, "address": each.address} for each in nginxes)),
            "database": pool_of({"name": "db", "address": postgresql.address}),
            "bulk": pool_of({"name": "echo", "address": f"127.0.0.1:{echo.port}"}),
        },
    }


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_upgrades_under_wrk_pgbench_and_bulk_lose_nothing(begin, nginxes, postgresql, echo, tmp_path):
    """Behaviour 33: 0 refused, 0 reset, 0 corrupted, and the counters account for every request."""
    balancer = begin(web_database_and_bulk(nginxes, postgresql, echo))
    web, database, bulk_port = (balancer.port(name) for name in ("web", "database", "bulk"))
    connection = ["-h", "127.0.0.1", "-p", str(database), "-U", "tester"]
    subprocess.run([binary("pgbench"), *connection, "-i", "-q", "postgres"], check=True, capture_output=True)
    first = balancer.pid
    with (
        Program(
            [
                binary("pgbench"),
                *connection,
                *("-n", "-S", "-C", "-c", "2", "-T", "600", "-P", "1", "postgres"),
            ],
            tmp_path / "pgbench.txt",
        ) as pgbench,
        PacedWrk(web, tmp_path, connections=10) as kept,
        PacedWrk(web, tmp_path, connections=4, close=True) as fresh,
        Bulk(bulk_port) as bulk,
    ):
        for _ in range(UPGRADES):
            before = bulk.bytes, sum(balancer.totals().values())
            balancer.upgrade()
            eventually(lambda b=before: bulk.bytes > b[0], "the transfer goes on")
            eventually(lambda b=before: sum(balancer.totals().values()) > b[1], "new clients are served")
        pgbench.send(signal.SIGINT)
        pgbench.ended()
    assert balancer.pid != first
    assert (kept.load.failed, fresh.load.failed) == (0, 0), f"{kept.load}, {fresh.load}\n{balancer.log()}"
    assert bulk.is_whole, bulk.error
    said = pgbench.text()
    assert "error" not in said.lower(), said
    assert "aborted" not in said, said
    balancer.wait_for_no_sessions()
    assert balancer.status()["ends"]["backend_reset"] == 0
    assert balancer.backends()["echo"]["counters"]["bytes_from_client"] == bulk.bytes
    assert balancer.backends()["echo"]["counters"]["bytes_from_backend"] == bulk.bytes
    assert sum(balancer.totals()[name] for name in "abc") >= fresh.load.requests


def test_established_sessions_go_on_in_the_new_process(begin, nginxes):
    """Behaviour 33: another process, the same sessions with their ids, ages, bytes and backends."""
    balancer = begin(simple(*nginxes))
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(balancer.port())) for _ in range(20)]
        names = [visit.ask() for visit in visits]
        before = {each["id"]: each for each in balancer.sessions()}
        old, workers, totals = balancer.pid, balancer.workers(), balancer.totals()
        since = {name: each["since"] for name, each in balancer.backends().items()}
        said = balancer.upgrade()
        assert balancer.program.ended() == 0
        assert balancer.pid != old
        assert not set(balancer.workers()) & set(workers)
        assert not any(name_of(pid) for pid in (old, *workers)), "nothing of the old program is left"
        assert re.search(r"with 20 sessions, which stood still for \d+ ms", said)
        after = {each["id"]: each for each in balancer.sessions()}
        assert after.keys() == before.keys()
        for key, session in after.items():
            assert session["age_s"] > before[key]["age_s"]
            assert session["bytes_from_backend"] == before[key]["bytes_from_backend"]
            assert session["backend"] == before[key]["backend"]
        assert balancer.totals() == totals
        assert {name: each["since"] for name, each in balancer.backends().items()} == since
        assert [visit.ask() for visit in visits] == names
        assert sum(balancer.live().values()) == 20
    balancer.wait_for_no_sessions()
    assert balancer.status()["ends"]["client_fin"] == 20
    # The pool's counter goes on, too: who is next is still exact.
    assert sorted(ask(balancer.port()) for _ in range(3)) == ["a", "b", "c"]


def test_a_session_that_waits_for_its_greeting_is_greeted_in_the_new_process(begin, mariadbs):
    """Behaviour 33: a stopped server has accepted it, and goes on when the old program has gone."""
    server = mariadbs[0]
    balancer = begin(simple(server, check={"type": "none"}, greeting="mysql", greeting_timeout="60s"))
    server.pause()
    try:
        client = socket.create_connection(("127.0.0.1", balancer.port()), 20)
        eventually(lambda: balancer.live()[server.name] == 1, "it is connected")
        balancer.upgrade()
        assert balancer.live()[server.name] == 1
    finally:
        server.go_on()
    with client:
        assert client.recv(5)[4] == 10, "the protocol's version"


def test_sigusr2_upgrades_and_so_does_the_command(begin, nginxes):
    """Behaviour 33."""
    balancer = begin(simple(*nginxes))
    with Visit(balancer.port()) as visit:
        name = visit.ask()
        balancer.program.send(signal.SIGUSR2)
        assert balancer.program.ended() == 0
        told = eventually(
            lambda: re.search(r"(version .* has taken over \(pid \d+\).*)'", balancer.log()),
            "the log tells of it",
        )
        balancer.follow(told[1])
        assert visit.ask() == name
        old = balancer.pid
        done = subprocess.run(
            command("upgrade", "--admin", str(balancer.admin), "--why", "a test"),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "has taken over" in done.stdout
        balancer.follow(done.stdout)
        eventually(lambda: not name_of(old), "the old program ends")
        assert visit.ask() == name
        kinds = [each["kind"] for each in fetch(balancer.admin, "/api/events")]
        assert kinds.count("upgraded") == 2
        assert kinds[0] == "backend_ready", "what happened before is not forgotten"


def test_another_version_takes_over_and_its_number_is_told(begin, nginxes):
    balancer = begin(simple(*nginxes))
    with Visit(balancer.port()) as visit:
        name = visit.ask()
        balancer.install("from easyproxy import version", "version.__version__ = '99.0.0'")
        assert "version 99.0.0 has taken over" in balancer.upgrade()
        assert balancer.status()["version"] == "99.0.0"
        assert visit.ask() == name


KILL = "os.kill(os.getpid(), signal.SIGKILL)"
FAILURES = {
    "a crash at the start": (["raise SystemExit(7)"], "ended with status 7"),
    "another protocol": (["from easyproxy.control import heir", "heir.PROTOCOL = 999"], "in another way"),
    "an end before it says a word": (list(at("hello", KILL)), "ended by signal 9"),
    "an end before it is ready": (list(at("ready", KILL)), "ended by signal 9"),
    "an end with every session in its hands": (list(at("adopted", KILL)), "ended by signal 9"),
    "sessions that it does not know": (
        [
            "import easyproxy.engine.relay.succession as s",
            "async def adopt(self, links, slots, within_s): raise s.EngineError('unknown here: colour')",
            "s.Succession.adopt = adopt",
        ],
        "unknown here: colour",
    ),
    "a time limit before it is ready": (list(at("ready", "time.sleep(100)")), "not answered within"),
    "a time limit with every session in its hands": (
        list(at("adopted", "os.kill(os.getpid(), signal.SIGSTOP)")),
        "not answered within",
    ),
}


@pytest.fixture(scope="module")
def enduring(tmp_path_factory, nginxes_of_session):
    """A balancer with ten sessions that has to endure every failure in turn."""
    balancer = Upgradable(
        tmp_path_factory.mktemp("enduring"),
        simple(*nginxes_of_session),
        lines=("from easyproxy.control import upgrade", "upgrade.TRANSFER_S = 5.0"),
    )
    with ExitStack() as stack:
        stack.callback(balancer.stop)
        visits = [stack.enter_context(Visit(balancer.port())) for _ in range(10)]
        yield balancer, visits, [visit.ask() for visit in visits]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_successor_that_fails_changes_nothing(enduring, nginxes_of_session, failure):
    """Behaviour 33: no session is lost, new clients are served, and nothing is left of the successor."""
    balancer, visits, names = enduring
    lines, why = FAILURES[failure]
    port, old, workers = balancer.port(), balancer.pid, sorted(balancer.workers())
    ids = {each["id"] for each in balancer.sessions()}
    descriptors = balancer.descriptors()
    if failure == "a time limit before it is ready":
        balancer.reload({**simple(*nginxes_of_session), "upgrade_timeout": "2s"})
    balancer.install(*lines)
    with pytest.raises(RefusedError, match=why):
        post(balancer.admin, "/api/upgrade", {"who": "test"})
    assert [visit.ask() for visit in visits] == names
    assert (balancer.pid, sorted(balancer.workers())) == (old, workers)
    assert {each["id"] for each in balancer.sessions()} == ids
    assert ask(port) in "abc"
    eventually(lambda: no_more(balancer.descriptors(), descriptors), "no descriptor is left over")
    eventually(lambda: sum(balancer.live().values()) == 10, "the counters are what they were")
    assert balancer.status()["worker_restarts"] == 0
    eventually(lambda: children(balancer.pid) == workers, "the new program has gone")
    if failure == "a time limit before it is ready":
        balancer.reload(simple(*nginxes_of_session))


def test_after_every_failure_the_next_upgrade_succeeds(enduring):
    """Behaviour 33."""
    balancer, visits, names = enduring
    ids = {each["id"] for each in balancer.sessions()}
    balancer.install()
    balancer.upgrade()
    assert [visit.ask() for visit in visits] == names
    assert {each["id"] for each in balancer.sessions()} == ids


def test_a_worker_that_is_stopped_ends_the_upgrade_and_goes_on_when_it_is_woken(begin, nginxes):
    """Behaviour 33: it finds order to give and order to go on at once, and must not stand still for the first."""
    balancer = begin(
        simple(*nginxes), lines=("from easyproxy.control import upgrade", "upgrade.TRANSFER_S = 3.0")
    )
    workers = sorted(balancer.workers())
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(balancer.port())) for _ in range(10)]
        names = [visit.ask() for visit in visits]
        os.kill(workers[0], signal.SIGSTOP)
        try:
            with pytest.raises(
                RefusedError, match=r"given within 3.* s: relay worker \d has not; this program goes on"
            ):
                post(balancer.admin, "/api/upgrade", {"who": "test"})
        finally:
            os.kill(workers[0], signal.SIGCONT)
        assert "upgrade failed" in balancer.log()
        eventually(lambda: children(balancer.pid) == workers, "the new program has gone")
        assert [visit.ask() for visit in visits] == names
        balancer.upgrade()
        assert [visit.ask() for visit in visits] == names


def test_a_worker_of_the_successor_that_dies_at_the_last_moment_costs_no_session(begin, nginxes):
    """Behaviours 32 and 33: what it has not taken yet stays in the old program, which ends with the last of them."""
    balancer = begin({**simple(*nginxes), "workers": 1, "drain_timeout": "10m"})
    port, old = balancer.port(), balancer.pid
    with Visit(port) as visit:
        name = visit.ask()
        balancer.install(*at("adopted", "os.kill(next(workers()), signal.SIGKILL)"))
        balancer.follow(post(balancer.admin, "/api/upgrade", {})["successor"])
        assert visit.ask() == name
        assert name_of(old)
        assert [ask(port) for _ in range(3)]
        assert visit.ask() == name
    assert balancer.program.ended() == 0
    assert sorted(ask(port) for _ in range(3)) == ["a", "b", "c"]


def test_names_of_sessions_stay_unique_when_a_worker_dies_during_an_upgrade(begin, nginxes):
    balancer = begin({**simple(*nginxes), "workers": 1})
    [worker] = balancer.workers()
    of_the_next = (
        "global client",
        "import socket",
        f"os.kill({worker}, signal.SIGKILL)",
        f"client = socket.create_connection(('127.0.0.1', {balancer.port()}))",  # waits for the next worker
        "client.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')",
        "assert client.recv(1)",
    )
    balancer.install(*at("ready", *of_the_next))
    balancer.upgrade()
    with Visit(balancer.port()) as visit:
        visit.ask()
        names = [each["id"] for each in balancer.sessions()]
    assert len(names) == len(set(names)) == 2
    post(balancer.admin, "/api/close", {"listener": "l"})  # the end need not wait for a client of its own


def test_a_program_that_is_gone_and_a_wrong_configuration_are_told_and_change_nothing(begin, nginxes):
    """Behaviours 31 and 33."""
    balancer = begin(simple(*nginxes))
    with Visit(balancer.port()) as visit:
        name = visit.ask()
        balancer.script.rename(balancer.script.with_name("away"))
        with pytest.raises(RefusedError, match="cannot be started"):
            post(balancer.admin, "/api/upgrade", {})
        balancer.install()
        text = balancer.file.read_text()
        balancer.write(text.replace('"pools"', '"poools"'))
        with pytest.raises(RefusedError, match="poools"):
            post(balancer.admin, "/api/upgrade", {})
        balancer.write(text)
        assert visit.ask() == name
        balancer.upgrade()
        assert visit.ask() == name


def test_when_the_old_program_is_killed_while_its_sessions_change_hands_none_is_lost(begin, nginxes):
    """Behaviour 33: its workers find out by themselves whose the sessions are."""
    balancer = begin({**simple(*nginxes), "drain_timeout": "60s"})
    with Visit(balancer.port()) as visit:
        name = visit.ask()
        balancer.install(*at("adopted", "os.kill(os.getppid(), signal.SIGKILL)"))
        workers = balancer.workers()
        balancer.program.send(signal.SIGUSR2)
        balancer.program.ended()
        for _ in range(5):
            assert visit.ask() == name
    eventually(lambda: not any(name_of(pid) for pid in workers), "its workers drain and end")


def test_an_upgrade_takes_a_changed_configuration_and_another_number_of_workers(begin, nginxes, tmp_path):
    """Behaviours 30 and 33: also what a reload cannot change."""
    a, b, c = nginxes
    path = tmp_path / "front.sock"
    config = {**simple(a, b), "workers": 3}
    config["listeners"] = [
        {"name": "l", "bind": "127.0.0.1:0", "pool": "p"},
        {"name": "unix", "bind": f"unix:{path}", "pool": "p"},
    ]
    balancer = begin(config)
    port, inode = balancer.port(), path.stat().st_ino
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(port)) for _ in range(12)]
        names = [visit.ask() for visit in visits]
        other = free_port()
        for workers in (1, 4):
            fresh = {**simple(a, c), "workers": workers}
            fresh["listeners"] = [
                *({**listener, "max_sessions": 100} for listener in config["listeners"]),
                {"name": "new", "bind": f"127.0.0.1:{other}", "pool": "p"},
            ]
            balancer.write(fresh)
            balancer.upgrade()
            assert len(balancer.workers()) == workers
            assert (balancer.port("l"), balancer.port("new")) == (port, other)
            assert [visit.ask() for visit in visits] == names, "also those of a backend that is gone"
            assert {ask(port) for _ in range(20)} == {"a", "c"}
            assert {ask(other) for _ in range(20)} == {"a", "c"}
            assert path.stat().st_ino == inode
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"GET /name HTTP/1.0\r\n\r\n")
                assert b"200 OK" in sock.recv(1000)
        balancer.write({**simple(a, c), "workers": 1})
        balancer.upgrade()
        eventually(lambda: not path.exists(), "a listener that is gone takes its file with it")
        assert [visit.ask() for visit in visits] == names


def test_overrides_and_limits_hold_across_an_upgrade(begin, nginxes):
    """Behaviours 18 and 33."""
    a, b, _ = nginxes
    config = simple(a, b)
    config["listeners"][0]["max_sessions"] = 3
    balancer = begin(config)
    port = balancer.port()
    post(
        balancer.admin,
        "/api/drain",
        {"backend": "p/b", "who": "test", "why": "repair", "ttl": "2h", "deadline": "1h"},
    )
    laid = fetch(balancer.admin, "/api/overrides")
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(port)) for _ in range(3)]
        assert [visit.ask() for visit in visits] == ["a"] * 3
        late = stack.enter_context(Visit(port))
        late.send()
        balancer.upgrade()
        assert balancer.backends()["b"]["state"] == "draining"
        assert fetch(balancer.admin, "/api/overrides") == laid, "with every point in time"
        assert balancer.status()["listeners"][0]["counters"]["sessions"] == 3
        assert [visit.ask() for visit in visits] == ["a"] * 3
        visits[0].close()
        assert late.receive() == "a", "who waited in the backlog gets the place that became free"


def test_upgrades_leave_no_descriptor_over(begin, nginxes):
    balancer = begin(simple(*nginxes))
    with Visit(balancer.port()) as visit:
        visit.ask()
        balancer.upgrade()
        eventually(lambda: len(balancer.workers()) == 2, "both workers are there")
        before = balancer.descriptors()
        for _ in range(2):
            balancer.upgrade()
        assert visit.ask()
        eventually(lambda: no_more(balancer.descriptors(), before), "the number of descriptors does not grow")


@pytest.mark.anyio
async def test_a_program_that_embeds_the_balancer_is_not_upgraded():
    async with Balancer(simple({"name": "a", "address": "127.0.0.1:1"})) as balancer:
        with pytest.raises(operations.RefusedError, match="embeds"):
            await balancer.upgrade(operations.Author("test"))


def test_a_reload_that_waits_behind_an_upgrade_does_not_keep_the_old_program(begin, nginxes):
    balancer = begin(simple(*nginxes))
    balancer.install(*at("ready", "os.kill(os.getppid(), signal.SIGHUP)", "time.sleep(0.5)"))
    old = balancer.pid
    balancer.upgrade()  # waits until the old program has ended
    assert balancer.pid != old


def test_sigterm_during_an_upgrade_ends_the_successor_and_drains(begin, nginxes):
    """Behaviours 34 and 35."""
    balancer = begin({**simple(*nginxes), "drain_timeout": "10m"})
    with Visit(balancer.port()) as visit:
        name = visit.ask()
        balancer.install(*at("ready", "time.sleep(100)"))
        balancer.program.send(signal.SIGUSR2)
        workers = balancer.workers()
        eventually(lambda: children(balancer.pid) != workers, "the new program is started")
        balancer.program.send(signal.SIGTERM)
        eventually(lambda: "draining" in balancer.log(), "it drains")
        eventually(lambda: children(balancer.pid) == workers, "the new program has gone")
        assert visit.ask() == name
    assert balancer.program.ended() == 0
