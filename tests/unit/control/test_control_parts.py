"""The journal, the limits, the overview and the names."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from easyproxy.config.load import from_dict
from easyproxy.control.journal import LINES_PER_SECOND, Journal
from easyproxy.control.limits import raise_descriptor_limit, shortage
from easyproxy.control.lookout import Lookout
from easyproxy.control.overview import clients_of, overview
from easyproxy.control.registry import Change, Registry
from easyproxy.discovery.names import resolve
from easyproxy.discovery.resolver import AT_ONCE
from easyproxy.engine.seam import (
    BackendCounters,
    ListenerCounters,
    Observation,
    Outcome,
    SessionEnd,
    SessionInfo,
    Statistics,
)
from easyproxy.model import Address


def end(number: int = 1, **fields) -> SessionEnd:
    values = {
        "reason": "backend_reset",
        "age_s": 1.23456,
        "bytes_from_client": 1,
        "bytes_from_backend": 2,
    } | fields
    return SessionEnd(f"0.0.{number}", "l", "p/a", "10.0.0.9:5", **values)


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_clients_own_reset_is_told_to_those_who_debug_and_crowds_out_nobody(caplog):
    journal = Journal(Clock())
    with caplog.at_level(logging.INFO, "easyproxy"):
        for number in range(LINES_PER_SECOND):
            journal.end(end(number, reason="client_reset"))
        journal.end(end(reason="backend_reset"))
    with caplog.at_level(logging.DEBUG, "easyproxy"):
        journal.end(end(reason="client_reset"))
    told = [(line.levelname, line.reason) for line in caplog.records]
    assert told == [("INFO", "backend_reset"), ("DEBUG", "client_reset")]


def test_broken_sessions_are_told_one_by_one_up_to_a_limit_and_then_counted(caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    clock = Clock()
    journal = Journal(clock)
    for number in range(LINES_PER_SECOND + 30):
        journal.end(end(number))
    assert [record.message for record in caplog.records] == ["session broke"] * LINES_PER_SECOND
    caplog.clear()
    clock.now += 1
    journal.end(end())
    told, line = caplog.records
    assert (told.levelname, told.lines_not_shown) == ("WARNING", 30)
    assert (line.message, line.reason, line.age_s) == ("session broke", "backend_reset", 1.235)
    caplog.clear()
    clock.now += 1
    journal.end(end())
    assert len(caplog.records) == 1, "what was told once is not told again"


def test_fields_that_say_nothing_are_left_out(caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    Journal(Clock()).end(SessionEnd("0.0.1", "l", "", "c:1", "no_backend", 0.0, 0, 0))
    [record] = caplog.records
    assert not hasattr(record, "backend")
    assert not hasattr(record, "detail")
    assert not hasattr(record, "tried")
    assert record.bytes_from_client == 0
    assert not hasattr(record, "connect_s")


def test_times_of_a_broken_session_are_as_exact_as_they_are_known(caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    broken = SessionEnd("0.0.1", "l", "p/a", "c:1", "backend_reset", 1.23456, 0, 0)
    Journal(Clock()).end(replace(broken, started_at=1700000000.123456, connect_s=7.496200123568997e-05))
    Journal(Clock()).end(replace(broken, backend="", reason="connect_failed", connect_s=-1.0))
    reached, unreached = caplog.records
    assert (reached.age_s, reached.started_at, reached.connect_s) == (1.235, 1700000000.123, 0.000075)
    assert not hasattr(unreached, "connect_s")


def test_every_change_of_state_is_told_with_its_reason(caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    journal = Journal(Clock())
    journal.change(Change("p/a", "down", "3 failures in a row"))
    journal.change(Change("p/a", "ready", "2 successes in a row"))
    journal.trouble("a worker %s died")
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "backend down"),
        ("INFO", "backend ready"),
        ("ERROR", "a worker %s died"),
    ]
    assert caplog.records[0].reason == "3 failures in a row"


def limited(*max_sessions: int):
    listeners = [
        {"bind": f"127.0.0.1:{9000 + number}", "pool": "p", "max_sessions": limit}
        for number, limit in enumerate(max_sessions)
    ]
    return from_dict({"listeners": listeners, "pools": {"p": {"backends": ["127.0.0.1:1"]}}})


def test_too_few_descriptors_are_said_with_what_is_needed_and_what_to_do():
    """Behaviour 16."""
    assert shortage(limited(0), 1, 100) == "", "without a limit there is nothing to compare"
    assert shortage(limited(450), 1, 1000) == ""
    text = shortage(limited(300, 151), 1, 1000)
    assert text.startswith("451 sessions (max_sessions of all listeners) need about 1002 open files")
    assert "ulimit -n" in text
    assert shortage(limited(10**6), 1, resource.RLIM_INFINITY) == ""


def test_more_workers_need_less_each_but_more_than_an_even_share():
    assert shortage(limited(1000), 2, 1300) == ""
    assert shortage(limited(1000), 2, 1299) != ""


def test_the_soft_limit_is_raised_to_the_hard_one():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_descriptor_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert raise_descriptor_limit() == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
def registry() -> Registry:
    return Registry(
        from_dict(
            {
                "listeners": [{"name": "front", "bind": "127.0.0.1:0", "pool": "p", "max_sessions": 9}],
                "pools": {
                    "p": {
                        "slow_start": "20s",
                        "check": {"type": "tcp", "interval": "2s", "rise": 1, "fall": 1},
                        "backends": [{"name": "a", "address": "10.0.0.1:1", "weight": 4}, "db.example:2"],
                    },
                    "q": {"check": {"type": "none"}, "backends": [{"address": "10.0.0.3:1", "backup": True}]},
                },
            }
        )
    )


def test_the_overview_shows_every_backend_with_its_state_reason_and_counters(registry):
    for at, outcome in ((1.0, Outcome.SUCCESS), (2.0, Outcome.REFUSED), (3.0, Outcome.SUCCESS)):
        registry.observe(Observation("p/a", outcome, f"look {at:g}", at, 0.25), now=at)
    statistics = Statistics(
        listeners={"front": ListenerCounters(sessions=3)},
        backends={"p/a": BackendCounters(sessions=2), "p/gone": BackendCounters(total=7)},
        queued={"p": 5},
        ends={"drained": 1},
        workers=2,
        worker_restarts=1,
        lost_reports=4,
    )
    status = overview(
        registry,
        statistics,
        {"front": "127.0.0.1:4711"},
        engine="relay",
        started_at=10.0,
        now=20.0,
        clock=13.0,
    )
    assert (status.engine, status.workers, status.worker_restarts, status.lost_reports) == ("relay", 2, 1, 4)
    assert (status.started_at, status.now, status.ends) == (10.0, 20.0, {"drained": 1})
    [listener] = status.listeners
    assert (listener.address, listener.max_sessions, listener.counters.sessions) == ("127.0.0.1:4711", 9, 3)
    p, q = status.pools
    assert (p.name, p.check, p.queued, q.check, q.queued) == ("p", "tcp every 2 s", 5, "no check", 0)
    a, unresolved = p.backends
    assert (a.state, a.since, a.reason) == ("ready", 3.0, "look 3")
    assert (a.weight, a.effective_weight) == (4, 2.0), "ten of twenty seconds of slow start"
    assert (a.last_error, a.last_error_at, a.counters.sessions) == ("look 2", 2.0, 2)
    assert (a.last_probe.at, a.last_probe.outcome, a.last_probe.duration_s) == (3.0, "success", 0.25)
    assert (unresolved.state, unresolved.reason) == ("down", "its name cannot be resolved")
    assert (unresolved.address, unresolved.last_probe) == ("db.example:2", None)
    [unchecked] = q.backends
    assert (unchecked.state, unchecked.reason, unchecked.backup) == ("ready", "no check is configured", True)


def test_without_an_engines_word_a_listener_shows_what_is_configured(registry):
    status = overview(registry, Statistics(), {}, engine="relay", started_at=0, now=0, clock=0)
    assert status.listeners[0].address == "127.0.0.1:0"
    assert status.pools[0].backends[0].counters == BackendCounters()


def session(client: str, sent: int = 1, got: int = 2) -> SessionInfo:
    return SessionInfo("0.0.1", "l", "p/a", client, "relaying", 1.0, 0.0, sent, got, 0)


def test_clients_are_added_up_by_address_most_sessions_first():
    seen = clients_of(
        [
            session("10.0.0.2:1"),
            session("[fd00::1]:1"),
            session("10.0.0.1:9"),
            session("[fd00::1]:2", 5, 6),
            session("unix"),
        ]
    )
    assert [(one.address, one.sessions) for one in seen] == [
        ("fd00::1", 2), ("10.0.0.1", 1), ("10.0.0.2", 1), ("unix", 1),
    ]  # fmt: skip
    assert (seen[0].bytes_from_client, seen[0].bytes_from_backend) == (6, 8)


# -- names


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["10.0.0.1:5", "[::1]:5", "unix:/run/x"])
async def test_what_is_numeric_is_not_asked_for(text):
    assert await resolve(Address.parse(text), None) == Address.parse(text)


@pytest.mark.anyio
async def test_a_name_is_found_and_keeps_its_address_while_the_answer_holds_it(monkeypatch):
    found = await resolve(Address("localhost", 80), None)
    assert found.port == 80
    assert found.host in {"127.0.0.1", "::1"}
    answers = ["10.0.0.2", "10.0.0.1"]

    def getaddrinfo(_host, _port, **_):
        return [(2, 1, 6, "", (answer, 0)) for answer in answers]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    name = Address("db.example", 5)
    assert await resolve(name, Address("10.0.0.1", 5)) == Address("10.0.0.1", 5)
    assert await resolve(name, Address("10.0.0.9", 5)) == Address("10.0.0.2", 5)
    answers.clear()
    with pytest.raises(OSError, match=r"db\.example has no address"):
        await resolve(name, None)


@pytest.mark.anyio
@pytest.mark.parametrize("host", ["no-such-name.invalid", "a" * 64 + ".example", "a..b"])
async def test_a_name_that_cannot_be_resolved_is_an_error_in_words(host):
    with pytest.raises(OSError, match="cannot be resolved"):
        await resolve(Address(host, 80), None)


@pytest.mark.anyio
async def test_a_name_that_cannot_be_resolved_is_told_once_for_each_reason_until_it_can(monkeypatch):
    config = from_dict(
        {
            "listeners": [{"bind": "127.0.0.1:0", "pool": "p"}],
            "pools": {"p": {"backends": ["db.example:2"], "check": "none"}},
        }
    )
    registry, told = Registry(config), []
    lookout = Lookout(registry, lambda _observation: None, told.append)
    answers = iter(
        [socket.gaierror(-2, "unknown")] * 3
        + [socket.gaierror(-3, "try again")] * 2
        + [None] * 2
        + [socket.gaierror(-2, "gone")] * 2
    )

    def getaddrinfo(_host, _port, **_):
        if error := next(answers):
            raise error
        return [(2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    for _ in range(5):
        await lookout.follow_names()
        registry.replace(config, registry.entries_for(config), 0.0)  # as every reload does
    assert told == [
        "backend p/db.example:2: db.example cannot be resolved: unknown",
        "backend p/db.example:2: db.example cannot be resolved: try again",
    ]
    assert await lookout.follow_names()
    [entry] = registry.entries.values()
    assert (entry.address, entry.unresolved) == (Address("10.0.0.1", 2), "")
    del told[:]
    for _ in range(3):
        assert not await lookout.follow_names()
    assert told == ["backend p/db.example:2: db.example cannot be resolved: gone; it stays at 10.0.0.1:2"]
    assert entry.address == Address("10.0.0.1", 2)
    await lookout.stop()


@pytest.fixture
def silence(monkeypatch):
    """Name servers that are silent for all names but one, until the end of the test."""
    is_over, asked = threading.Event(), []

    def getaddrinfo(host, _port, **_):
        asked.append(host)
        if host != "good.example":
            is_over.wait()
        return [(2, 1, 6, "", ("10.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    is_over.set()


@pytest.mark.anyio
async def test_a_resolver_that_does_not_answer_is_given_up(silence, monkeypatch):
    monkeypatch.setattr("easyproxy.discovery.names._WITHIN_S", 0.01)
    for _ in range(2):
        with pytest.raises(OSError, match=r"did not answer for db\.example within 0\.01 s"):
            await resolve(Address("db.example", 1), None)
    while not silence:  # noqa: ASYNC110 - a thread asks, and may be long in coming to it
        await asyncio.sleep(0.001)
    assert silence == ["db.example"], "one question at a time"


@pytest.mark.anyio
@pytest.mark.usefixtures("silence")
async def test_names_that_hang_keep_no_other_name_and_no_other_work_waiting():
    hanging = [
        asyncio.create_task(resolve(Address(f"db{number}.example", 1), None)) for number in range(AT_ONCE - 1)
    ]
    assert await resolve(Address("good.example", 5), None) == Address("10.0.0.1", 5)
    assert not any(task.done() for task in hanging)
    assert await asyncio.to_thread(lambda: "done") == "done"
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


def test_a_program_ends_while_a_name_hangs():
    code = """if True:
        import asyncio, socket, threading
        from easyproxy.discovery.names import resolve
        from easyproxy.model import Address
        hangs = threading.Event()
        def getaddrinfo(*_, **__):
            hangs.set()
            threading.Event().wait()
        socket.getaddrinfo = getaddrinfo
        async def main():
            task = asyncio.create_task(resolve(Address("db.example", 1), None))
            await asyncio.to_thread(hangs.wait)
        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
