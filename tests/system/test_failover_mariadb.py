"""Failovers of MariaDB behind one listener for writes and one for reads, while clients write that do not give up.

Replication is semi-synchronous, so a row that was acknowledged is on a replica; who promotes the one that is furthest loses
none. What is proved is that the balancer does not spoil this: it sends writes to one server at a time, and to the right one.
How long there were no writes is printed, not judged.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
from eventually import eventually
from proxy import RunningBalancer, Settings
from servers.mariadb import MariaDb
from servers.replication import MONITOR, NAMES, PASSWORD, WRITER, Replication
from writing import Writers
from writing import prove as prove_in_order

A, B, C = 1, 2, 3
"""The servers' numbers."""
NUMBER = dict(zip(NAMES, (A, B, C), strict=True))


@pytest.fixture
def replication(mariadb_template, tmp_path) -> Iterator[Replication]:
    running = Replication(mariadb_template, tmp_path / "replication")
    yield running
    running.stop()


def configuration(
    replication: Replication, folder: Path, *, check: Settings | None = None, **pool
) -> Settings:
    (folder / "password").write_text(PASSWORD + "\n")
    check_ = {
        "type": "mysql",
        "user": MONITOR,
        "password_file": str(folder / "password"),
        # A second of patience: a busy machine is no dead primary.
        "interval": "1s",
        "fast_interval": "200ms",
        "timeout": "1s",
        "rise": 1,
        "fall": 2,
        "max_lag": "4s",
    }
    backends = [{"name": name, "address": replication[name].address} for name in NAMES]
    return {
        "listeners": [
            {"bind": "127.0.0.1:0", "name": "rw", "pool": "orders", "role": "primary"},
            {"bind": "127.0.0.1:0", "name": "ro", "pool": "orders", "role": "replica", "fallback": "primary"},
        ],
        "pools": {"orders": {"backends": backends, "check": check_ | (check or {}), **pool}},
    }


class Rows:
    """A session that blocks its thread, as the driver does; ``server`` is the number of the one that it has come to."""

    def __init__(self, port: int) -> None:
        self._connection = pymysql.connect(
            host="127.0.0.1",
            port=port,
            user=WRITER,
            database="shop",
            autocommit=True,
            connect_timeout=20,
            read_timeout=60,
        )
        try:
            self.server = self._execute("SELECT @@server_id")
        except BaseException:
            self._connection.close()
            raise

    def _execute(self, statement: str, *values: int) -> int:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return int((cursor.fetchone() or (0,))[0])

    async def write(self, attempt: int) -> None:
        self._execute("INSERT INTO numbered VALUES (%s, @@server_id, NOW(6), CONNECTION_ID())", attempt)

    async def close(self) -> None:
        with contextlib.suppress(pymysql.err.Error, OSError):
            self._connection.close()


async def enter(port: int) -> Rows:
    return Rows(port)


def rows(server: MariaDb) -> dict[int, tuple[int, str]]:
    """Return what a server holds: every attempt, and who wrote it and when, by its own clock: they all have the same."""
    found = server.sql("SELECT id, server, at FROM shop.numbered")
    return {int(attempt): (int(writer), at) for attempt, writer, at in found}


def prove(writers: Writers, survivor: MariaDb, order: tuple[int, ...]) -> None:
    """Prove besides that no two servers took writes at the same time, whoever the clients were."""
    held = rows(survivor)
    prove_in_order(writers.acks, {attempt: writer for attempt, (writer, _) in held.items()}, order)
    for earlier, later in itertools.pairwise(order):
        last = max(at for writer, at in held.values() if writer == earlier)
        first = min(at for writer, at in held.values() if writer == later)
        assert last < first, f"{earlier} has written at {last}, after {later} had begun at {first}"


@pytest.fixture
def begin(start, replication, tmp_path) -> Iterator:
    """Start a balancer with these rules for failovers, and the writers."""
    running: list[Writers] = []

    def begin_one(**failover: object) -> tuple[RunningBalancer, Writers]:
        rules = {"fence": True, "hold": "10s", "close_sessions": True} | failover
        balancer = start(configuration(replication, tmp_path, failover=rules))
        eventually(lambda: balancer.writers() == ["orders/a"], "a takes writes")
        port = balancer.port("rw")
        writers = Writers(lambda: enter(port), clients=4)
        running.append(writers)
        writers.wait_for(15, A, "a is written to")
        return balancer, writers

    yield begin_one
    for writers in running:
        writers.stop()


def fail_over(replication: Replication) -> str:
    """Do what an operator or a tool does when the primary is gone: promote the furthest, have the other follow it."""
    heir = replication.furthest("b", "c")
    replication.wait_until_applied(heir, replication.position(heir))
    replication.lead(heir)
    replication.follow("c" if heir == "b" else "b", heir)
    return heir


def test_a_planned_change_of_the_primary_loses_nothing(replication, begin, record_property):
    balancer, writers = begin()
    replication["a"].sql("SET GLOBAL read_only = 1")
    replication.wait_until_applied("b", replication.position("a"))
    replication.lead("b")
    for name in "ac":
        replication.follow(name, "b")
    writers.wait_for(15, B, "b is written to")
    writers.stop()
    prove(writers, replication["b"], (A, B))
    eventually(lambda: balancer.role("a") == "replica", "a is seen as a replica")
    eventually(lambda: balancer.writers() == ["orders/b"], "b takes writes")
    writers.publish("planned", B, replication.changed_at, record_property)


@pytest.mark.parametrize("comes_back_writable", [False, True])
def test_a_primary_that_crashes_is_followed_by_the_replica_that_is_promoted(
    replication, begin, record_property, comes_back_writable
):
    """Also when it comes back and does not know better."""
    balancer, writers = begin(split_brain="keep")
    replication["a"].kill()
    heir = fail_over(replication)
    writers.wait_for(15, NUMBER[heir], f"{heir} is written to")
    replication["a"].start()
    if comes_back_writable:
        replication["a"].sql("SET GLOBAL read_only = 0")
    expected = "primary" if comes_back_writable else "replica"
    eventually(lambda: balancer.role("a") == expected, f"a is seen as a {expected}")
    writers.wait_for(15, NUMBER[heir], f"{heir} is written to as before")
    writers.stop()
    prove(writers, replication[heir], (A, NUMBER[heir]))
    eventually(lambda: balancer.writers() == [f"orders/{heir}"], f"{heir} takes writes")
    # What only the old primary has, nobody was told is written.
    stray = rows(replication["a"]).keys() - rows(replication[heir]).keys()
    assert not stray & {ack.attempt for ack in writers.acks}
    writers.publish("crash", NUMBER[heir], replication.changed_at, record_property)


def test_a_primary_that_hangs_gets_no_writes_when_it_wakes_up(replication, begin, record_property):
    balancer, writers = begin(split_brain="keep")
    replication["a"].freeze()
    heir = fail_over(replication)
    writers.wait_for(15, NUMBER[heir], f"{heir} is written to")
    replication["a"].thaw()
    eventually(lambda: balancer.role("a") == "primary", "a is back and says that it is the primary")
    writers.wait_for(15, NUMBER[heir], f"{heir} is written to as before")
    writers.stop()
    prove(writers, replication[heir], (A, NUMBER[heir]))
    eventually(lambda: balancer.writers() == [f"orders/{heir}"], f"{heir} takes writes")
    stray = rows(replication["a"]).keys() - rows(replication[heir]).keys()
    assert not stray & {ack.attempt for ack in writers.acks}
    writers.publish("hang", NUMBER[heir], replication.changed_at, record_property)


def split(replication: Replication) -> None:
    """Make a second server that takes writes, beside the first."""
    replication["b"].sql("STOP ALL SLAVES; RESET SLAVE ALL; SET GLOBAL read_only = 0")


AT_WORK = f"SELECT ID FROM information_schema.PROCESSLIST WHERE USER = '{WRITER}'"  # noqa: S608 - our own


def written_by(replication: Replication, name: str) -> int:
    return sum(writer == NUMBER[name] for writer, _ in rows(replication[name]).values())


def test_of_two_primaries_neither_gets_writes(replication, begin, record_property):
    balancer, writers = begin(split_brain="refuse", hold=0)
    split(replication)
    eventually(lambda: balancer.status()["pools"][0]["writes"]["is_split"], "the split is noticed")
    assert balancer.writers() == []
    eventually(lambda: not balancer.sessions(), "nobody is left on the old primary")
    eventually(lambda: not replication["a"].sql(AT_WORK), "the old primary is done with them")
    count = written_by(replication, "a")
    writers.wait_for_failures(20)
    assert written_by(replication, "a") == count
    replication.follow("b", "a")
    writers.wait_for(15, A, "a is written to again")
    writers.stop()
    prove(writers, replication["a"], (A,))
    assert written_by(replication, "b") == 0
    assert "no writes go anywhere" in balancer.log()
    writers.publish("two primaries, refuse", A, replication.changed_at, record_property)


def test_of_two_primaries_the_one_that_has_served_keeps_its_writes(replication, begin):
    balancer, writers = begin(split_brain="keep")
    split(replication)
    eventually(lambda: balancer.role("b") == "primary", "b is seen as a primary")
    writers.wait_for(15, A, "a is written to as before")
    eventually(lambda: balancer.writers() == ["orders/a"], "a takes writes")
    writers.stop()
    prove(writers, replication["a"], (A,))
    assert written_by(replication, "b") == 0


def test_a_monitor_whose_password_has_changed_stops_nothing(replication, begin, tmp_path):
    """Writes go where they went; the new password needs no reload."""
    balancer, writers = begin()
    replication["a"].sql(f"ALTER USER {MONITOR}@'%' IDENTIFIED BY 'another-one'")

    def details() -> list[str]:
        return [backend["last_probe"]["detail"] for backend in balancer.backends().values()]

    eventually(lambda: all("alive, role unknown" in each for each in details()), "nobody lets the check in")
    writers.wait_for(15, A, "a is written to as before")
    eventually(lambda: balancer.writers() == ["orders/a"], "a takes writes")
    balancer.wait_until_told("counts as primary as before, but its check cannot see it any more")
    (tmp_path / "password").write_text("another-one")
    eventually(lambda: not any("unknown" in each for each in details()), "everybody lets the check in")
    eventually(lambda: balancer.writers() == ["orders/a"], "a takes writes")
    writers.stop()
    prove(writers, replication["a"], (A,))


# -- reads


def answering(balancer: RunningBalancer, count: int = 6) -> set[int]:
    """Return the numbers of the servers that reads are sent to."""
    found = set()
    for _ in range(count):
        with read_session(balancer) as session, session.cursor() as cursor:
            cursor.execute("SELECT @@server_id")
            found.add(cursor.fetchone()[0])
    return found


def read_session(balancer: RunningBalancer) -> pymysql.Connection:
    return pymysql.connect(host="127.0.0.1", port=balancer.port("ro"), user=WRITER, connect_timeout=20)


def test_a_replica_that_lags_leaves_and_comes_back(replication, start, tmp_path):
    balancer = start(configuration(replication, tmp_path, close_sessions_on_lag=True))
    eventually(lambda: answering(balancer) == {B, C}, "both replicas serve reads")
    balancer.wait_until_obeyed()
    sessions = [read_session(balancer) for _ in range(4)]
    with pymysql.connect(unix_socket=str(replication["b"].socket), user="root") as holder:
        holder.cursor().execute("LOCK TABLES shop.sale READ")
        replication["a"].sql("INSERT INTO shop.sale (v) VALUES ('x')")
        eventually(lambda: balancer.backends()["b"]["is_lagging"], "b is too far behind")
        assert balancer.backends()["b"]["state"] == "ready"
        eventually(lambda: answering(balancer) == {C}, "only c serves reads")
        eventually(lambda: len(balancer.sessions()) == 2, "the sessions on b are closed, those on c are not")
    eventually(lambda: answering(balancer) == {B, C}, "b serves reads again")
    assert "serves as a replica no more: " in balancer.log()
    assert "serves as a replica again: " in balancer.log()
    for session in sessions:
        session.close()


def test_while_no_replica_follows_the_primary_serves_reads(replication, start, tmp_path):
    balancer = start(configuration(replication, tmp_path))
    for name in "bc":
        replication[name].sql("STOP SLAVE SQL_THREAD")
    eventually(lambda: answering(balancer) == {A}, "the primary serves reads")
    assert "the SQL thread is stopped" in balancer.backends()["b"]["last_probe"]["detail"]
    for name in "bc":
        replication[name].sql("START SLAVE SQL_THREAD")
    eventually(lambda: answering(balancer) == {B, C}, "the replicas serve reads")


def test_while_there_is_no_primary_the_replicas_go_on_serving_reads(replication, start, tmp_path):
    """Nothing is written that they could miss, for however long."""
    balancer = start(configuration(replication, tmp_path))
    eventually(lambda: answering(balancer) == {B, C}, "both replicas serve reads")
    replication["a"].kill()
    balancer.wait_for_state("a", "down")
    eventually(
        lambda: all("lag unknown" in balancer.backends()[name]["last_probe"]["detail"] for name in "bc"),
        "both have noticed",
    )
    assert answering(balancer) == {B, C}, balancer.backends()
