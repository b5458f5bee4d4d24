"""Until when a backend or a listener may keep its sessions: the deadline of a drain, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from easyproxy.config.load import from_dict
from easyproxy.control.compose import compose
from easyproxy.control.drains import Drains
from easyproxy.control.events import Kind
from easyproxy.control.journal import Journal
from easyproxy.control.operations import Action, Author, Override
from easyproxy.control.registry import Registry
from easyproxy.engine.seam import SessionInfo, Where
from easyproxy.errors import EngineError

pytestmark = pytest.mark.anyio
WALL = 1e9
"""How far the clock of the epoch, by which overrides go, is ahead of the steady one."""


def config(*backends: str, listeners=("l",), **drain):
    made = [{"name": name, "address": f"10.0.0.{number}:1"} for number, name in enumerate(backends, 1)]
    return from_dict(
        {
            "listeners": [
                {"name": name, "bind": f"127.0.0.1:{number}", "pool": "db"}
                for number, name in enumerate(listeners, 9000)
            ],
            "pools": {"db": {"check": {"type": "none"}, "backends": made, "drain": drain}},
        }
    )


class Lab:
    """A registry, and an engine that notes what it is asked to close."""

    def __init__(self, *backends: str, **more) -> None:
        self.registry, self.journal = Registry(config(*backends, **more)), Journal()
        self.closed: list[tuple[Where, str]] = []
        self.refuses = False
        self.live: list[tuple[str, str]] = []
        self.tasks: list[asyncio.Task] = []
        self.drains = Drains(self.registry, self, self.journal, spawn=self.spawn)
        self.look(0)

    def spawn(self, work) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def close_sessions(self, where, reason="operator"):
        if self.refuses:
            raise EngineError("no answer")
        self.closed.append((where, reason))
        return 2

    async def sessions(self):
        return [
            SessionInfo("0", "l", backend, "c", "relaying", 0, 0, 0, 0, 0, transaction=word)
            for backend, word in self.live
        ]

    async def at(self, now: float) -> list[str]:
        """Let it become so late; return whose sessions have been closed so far."""
        self.drains.expire(now)
        await asyncio.gather(*self.tasks)
        assert {reason for _, reason in self.closed} <= {"drained"}
        return [where.backend or where.listener for where, _ in self.closed]

    def look(self, now: float) -> None:
        """Let it learn what there is, by a clock that is not the one of overrides."""
        self.drains.look(now, now + WALL)

    def drained(self, *names: str) -> None:
        self.held(*(Override(name, f"db/{name}", Action.DRAIN, Author("ann"), WALL) for name in names))

    def held(self, *stances: Override) -> None:
        self.registry.take_stances({stance.backend: stance for stance in stances}, WALL)


def asked(backend: str, at: float, deadline_s: float, number: int = 1) -> Override:
    """Make a drain with a deadline of its own."""
    return Override(
        f"o{number}", f"db/{backend}", Action.DRAIN, Author("ann"), WALL + at, deadline=WALL + at + deadline_s
    )


async def test_a_drained_backend_has_until_the_deadline_and_is_closed_once():
    lab = Lab("a", "b", deadline="5m")
    lab.drained("a")
    lab.look(100)
    lab.look(200)  # whatever else changes meanwhile
    assert await lab.at(399) == []
    assert await lab.at(400) == ["db/a"]
    assert await lab.at(1000) == ["db/a"]
    lab.look(2000)
    assert await lab.at(9000) == ["db/a"]
    [event] = lab.journal.events.newest()
    assert (event.kind, event.subject) == (Kind.SESSIONS_CLOSED, "db/a")
    assert event.text == "2 sessions closed: the drain's deadline of 5 min is over"


async def test_one_that_is_ready_again_keeps_its_sessions_and_has_all_the_time_anew():
    lab = Lab("a", "b", deadline="5m")
    lab.drained("a")
    lab.look(100)
    lab.drained()
    lab.look(200)
    assert await lab.at(1000) == []
    lab.drained("a")
    lab.look(1000)
    assert await lab.at(1299) == []
    assert await lab.at(1300) == ["db/a"]


async def test_backends_and_listeners_that_a_reload_takes_away_have_the_same():
    lab = Lab("a", "b", listeners=("l", "m"), deadline="5m")
    fresh = config("b", "c")
    lab.registry.replace(fresh, lab.registry.entries_for(fresh), 0.0)
    lab.look(100)
    assert await lab.at(399) == []
    assert sorted(await lab.at(400)) == ["db/a", "m"], "by what held when they were there"


async def test_without_a_deadline_nobody_is_closed():
    lab = Lab("a", "b")
    lab.drained("a")
    lab.look(100)
    assert await lab.at(1e9) == []


@pytest.mark.parametrize("usual", ["none", "5m"])
async def test_a_drain_may_have_a_deadline_of_its_own(usual):
    lab = Lab("a", "b", deadline=usual)
    lab.held(asked("a", at=100, deadline_s=60))
    lab.look(100)
    assert await lab.at(159) == []
    assert await lab.at(160) == ["db/a"]
    lab.look(200)
    assert await lab.at(9000) == ["db/a"], "it is closed once"
    [event] = lab.journal.events.newest()
    assert event.text == "2 sessions closed: the drain's deadline of 1 min is over"


async def test_the_deadline_of_a_drain_is_a_point_in_time_that_a_successor_holds():
    lab = Lab("a", "b", deadline="5m")
    lab.held(asked("a", at=-70, deadline_s=90), asked("b", at=-1000, deadline_s=90, number=2))
    lab.look(0)
    assert await lab.at(0) == ["db/b"], "it was over while nobody looked"
    assert await lab.at(19) == ["db/b"]
    assert await lab.at(20) == ["db/b", "db/a"]


async def test_a_drain_that_replaces_another_has_its_own_time():
    lab = Lab("a", "b")
    lab.held(asked("a", at=0, deadline_s=60))
    lab.look(0)
    lab.held(asked("a", at=50, deadline_s=60, number=2))
    lab.look(50)
    assert await lab.at(109) == []
    lab.drained("a")
    lab.look(109)
    assert await lab.at(9000) == [], "without a deadline it waits for ever"
    lab.held(asked("a", at=9000, deadline_s=1, number=3))
    lab.look(9000)
    assert await lab.at(9001) == ["db/a"]


async def test_one_that_is_taken_away_while_it_drains_keeps_its_deadline():
    lab = Lab("a", "b")
    lab.held(asked("a", at=0, deadline_s=60))
    lab.look(0)
    fresh = config("b")
    lab.registry.replace(fresh, lab.registry.entries_for(fresh), 0.0)
    lab.held()
    lab.look(10)
    assert await lab.at(59) == []
    assert await lab.at(60) == ["db/a"]


async def test_an_engine_that_does_not_answer_is_told_of():
    lab = Lab("a", "b", deadline="1s")
    lab.refuses = True
    lab.drained("a")
    lab.look(100)
    assert await lab.at(200) == []
    assert "still open at the deadline of the drain: no answer" in lab.journal.events.newest()[-1].text


async def test_who_cannot_be_followed_is_told_when_a_drain_begins():
    lab = Lab("a", "b", when="between_transactions", protocol="mysql", deadline="5m")
    lab.live = [
        (backend, word)
        for backend in ("db/a", "db/b")
        for word in ("none", "open", "unknown: it is encrypted", "unknown: it is encrypted", "unknown: other")
    ]
    await lab.drains.tell_who_stays("db/a")
    [event] = lab.journal.events.newest()
    assert (event.kind, event.subject, event.level) == (Kind.SESSIONS_STAY, "db/a", "warning")
    assert event.text == (
        "3 sessions cannot be told to be between two transactions, for 5 min at most: it is encrypted (2), other (1)"
    )
    lab.held(asked("a", at=0, deadline_s=60))
    await lab.drains.tell_who_stays("db/a")
    assert ", for 1 min at most: " in lab.journal.events.newest()[-1].text
    for quiet in (Lab("a"), Lab("a", when="between_transactions", protocol="mysql")):
        quiet.live = lab.live[:2]
        await quiet.drains.tell_who_stays("db/a")
        assert not quiet.journal.events.newest()


def test_a_snapshot_names_who_keeps_its_sessions_where_they_are_followed():
    fresh = config("a", "b", when="between_transactions", protocol="mysql")
    registry = Registry(fresh)
    registry.take_stances({"db/a": Override("a", "db/a", Action.MAINTENANCE, Author("ann"), 0.0)}, 0.0)
    [pool] = registry.snapshot(0.0).pools
    assert (pool.conversation, pool.keeps) == ("mysql", ("db/b",))
    plain = config("a", "b")
    standings = {name: registry.standing(name) for name in registry.entries}
    [pool] = compose(plain, standings, 0.0).pools
    assert (pool.conversation, pool.keeps) == ("", ())
