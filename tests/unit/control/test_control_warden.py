"""A failover, step by step: who takes writes, when, and whose sessions end before that."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyproxy.config.load import from_dict
from easyproxy.control.events import Kind
from easyproxy.control.journal import Journal
from easyproxy.control.registry import Registry
from easyproxy.control.warden import Warden
from easyproxy.control.will import plain_posts, posts_from
from easyproxy.engine.seam import Facts, Observation, Outcome
from easyproxy.errors import EngineError

pytestmark = pytest.mark.anyio
A, B = "db/a", "db/b"


class Engine:
    """Closes sessions when the test lets it."""

    def __init__(self) -> None:
        self.closed: list[tuple[str, str, str]] = []
        self.may_close = asyncio.Event()
        self.may_close.set()
        self.refuses = 0

    async def close_sessions(self, where, reason="operator"):
        await self.may_close.wait()
        if self.refuses:
            self.refuses -= 1
            raise EngineError("no answer")
        self.closed.append((where.backend, where.listener, reason))
        return 3


LISTENERS = (
    {"name": "rw", "bind": "127.0.0.1:1", "pool": "db", "role": "primary"},
    {"name": "ro", "bind": "127.0.0.1:2", "pool": "db", "role": "replica"},
    {"name": "any", "bind": "127.0.0.1:3", "pool": "db", "role": "replica", "fallback": "primary"},
)


def config(*listeners, **failover):
    pool = {
        "check": {"type": "ours:Check", "rise": 1, "fall": 2},
        "backends": [{"name": "a", "address": "10.0.0.1:1"}, {"name": "b", "address": "10.0.0.2:1"}],
        "failover": failover,
        "close_sessions_on_lag": True,
    }
    return from_dict({"listeners": [*listeners], "pools": {"db": pool}})


class Lab:
    """Two servers, a listener for writes and two for reads; what the servers say is the test's."""

    def __init__(self, engine=None, **failover) -> None:
        self.registry = Registry(config(*LISTENERS, **failover))
        for entry in self.registry.entries.values():
            entry.max_lag_s = 5.0
        self.engine, self.journal = engine or Engine(), Journal()
        self.tasks: set[asyncio.Task] = set()
        self.snapshots = []
        self.warden = Warden(self.registry, self.engine, self.journal, apply=self.apply, spawn=self.spawn)

    def spawn(self, work) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def apply(self) -> None:
        self.warden.look()
        self.snapshots.append(self.registry.snapshot(0.0, self.warden.writers()))
        self.warden.in_force()

    def says(self, backend: str, role: str, at: float = 1.0, **more) -> None:
        observation = Observation(backend, Outcome.SUCCESS, "well", at, facts=Facts(role, **more))
        self.registry.observe(observation, 1.0)
        self.apply()

    def fails(self, backend: str, times: int = 2) -> None:
        for _ in range(times):
            self.registry.observe(Observation(backend, Outcome.REFUSED, "refused", 1.0), 1.0)
            self.apply()

    async def settled(self) -> None:
        while self.tasks:
            await asyncio.gather(*self.tasks)

    def serving(self, listener: str) -> list[str]:
        snapshot = self.snapshots[-1]
        [pool] = [one.pool for one in snapshot.listeners if one.name == listener]
        found = sorted(snapshot.pool_by_name[pool].backends, key=lambda one: one.priority)
        return [backend.name for backend in found]

    def told(self) -> list[tuple[str, str]]:
        return [(event.kind, event.subject) for event in self.journal.events.newest()]


async def test_writes_go_to_the_primary_and_reads_to_the_replicas():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", lag_s=0.0)
    assert (lab.serving("rw"), lab.serving("ro"), lab.serving("any")) == (["a"], ["b"], ["b", "a"])
    assert lab.engine.closed == []
    assert lab.told() == [(Kind.PRIMARY, "db")]


async def test_a_server_that_does_not_say_what_it_is_serves_neither():
    lab = Lab()
    lab.says(A, "")
    assert (lab.serving("rw"), lab.serving("ro"), lab.serving("any")) == ([], [], [])


async def test_the_new_primary_serves_only_when_the_sessions_on_the_old_one_are_closed():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica")
    lab.engine.may_close.clear()
    lab.says(A, "replica")
    assert lab.serving("rw") == [], "nobody new gets to the old one from this moment on"
    lab.says(B, "primary")
    await asyncio.sleep(0)
    assert lab.serving("rw") == []
    lab.engine.may_close.set()
    await lab.settled()
    assert lab.engine.closed == [(A, "rw", "failover")]
    assert lab.serving("rw") == ["b"]
    assert all(len(snapshot.pool_by_name["db/primary"].backends) <= 1 for snapshot in lab.snapshots)


async def test_sessions_on_a_primary_that_died_are_closed_when_another_takes_its_place():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica")
    lab.fails(A)
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == ([], []), "it may come back"
    lab.says(B, "primary")
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == (["b"], [(A, "rw", "failover")])


async def test_a_primary_that_comes_back_alone_goes_on_and_nobody_is_closed():
    lab = Lab()
    lab.says(A, "primary")
    lab.fails(A)
    assert lab.serving("rw") == []
    lab.says(A, "primary")
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == (["a"], [])


async def test_two_primaries_get_no_writes_and_the_sessions_are_closed():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "primary")
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == ([], [(A, "rw", "failover")])
    assert (Kind.SPLIT_BRAIN, "db") in lab.told()
    assert lab.warden.posts["db"].is_split
    lab.says(A, "replica")
    await lab.settled()
    assert lab.serving("rw") == ["b"]


async def test_the_old_primary_that_comes_back_on_an_older_timeline_gets_nothing():
    lab = Lab()
    lab.says(A, "primary", timeline=1)
    lab.fails(A)
    lab.says(B, "primary", timeline=2)
    await lab.settled()
    lab.says(A, "primary", timeline=1)
    await lab.settled()
    assert lab.serving("rw") == ["b"]
    assert Kind.SPLIT_BRAIN not in dict(lab.told())
    lab.says(A, "primary", timeline=1)
    assert lab.told().count((Kind.SECOND_PRIMARY, "db")) == 1
    assert lab.warden.posts["db"].rivals == (A,)
    lab.says(A, "replica", timeline=2)
    assert lab.warden.posts["db"].rivals == ()


async def test_sessions_that_came_along_from_a_predecessor_are_closed_though_ours_were_closed_before():
    lab, heir = Lab(), Lab()
    lab.says(A, "primary")
    heir.warden.inherit(posts_from(plain_posts(lab.warden.posts)))
    heir.says(A, "replica")
    heir.says(B, "primary")
    await heir.settled()
    assert heir.engine.closed == [(A, "rw", "failover")]
    heir.warden.inherit(posts_from(plain_posts(lab.warden.posts)))
    heir.apply()
    await heir.settled()
    assert heir.engine.closed == [(A, "rw", "failover")] * 2
    assert heir.serving("rw") == ["b"]


async def test_where_sessions_are_not_to_be_closed_they_are_not():
    lab = Lab(close_sessions=False)
    lab.says(A, "primary")
    lab.says(A, "replica")
    lab.says(B, "primary")
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == (["b"], [])


async def test_sessions_that_cannot_be_closed_keep_the_new_primary_waiting_and_are_tried_again(monkeypatch):
    monkeypatch.setattr("easyproxy.control.warden._AGAIN_S", 0.01)
    lab = Lab()
    lab.says(A, "primary")
    lab.engine.refuses = 2
    lab.says(A, "replica")
    lab.says(B, "primary")
    await lab.settled()
    assert (lab.serving("rw"), lab.engine.closed) == (["b"], [(A, "rw", "failover")])
    assert dict(lab.told())[Kind.TROUBLE] == ""


async def test_clients_of_the_listener_for_writes_are_held_and_others_are_not():
    lab = Lab(hold="7s", admit_per_second=20)
    lab.says(A, "primary")
    pools = lab.snapshots[-1].pool_by_name
    assert (pools["db/primary"].hold_s, pools["db/primary"].admit_per_s) == (7.0, 20)
    assert (pools["db/replica"].hold_s, pools["db/replica+primary"].hold_s) == (0.0, 0.0)


async def test_a_replica_that_lags_too_far_leaves_returns_with_hysteresis_and_loses_its_sessions():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", lag_s=4.9)
    assert lab.serving("ro") == ["b"]
    lab.says(B, "replica", lag_s=5.1)
    await lab.settled()
    assert (lab.serving("ro"), lab.serving("any")) == ([], ["a"])
    assert lab.engine.closed == [(B, "ro", "lagging"), (B, "any", "lagging")]
    lab.says(B, "replica", lag_s=4.0)
    assert lab.serving("ro") == [], "it must have caught up well before it returns"
    lab.says(B, "replica", lag_s=2.0)
    assert lab.serving("ro") == ["b"]
    assert [kind for kind, subject in lab.told() if subject == B] == [Kind.REPLICA_LAG, Kind.REPLICA_LAG]


async def test_a_replica_that_does_not_follow_leaves_at_once():
    lab = Lab()
    lab.says(B, "replica", lag_s=float("inf"))
    assert lab.serving("ro") == []


async def test_nothing_is_told_before_it_is_in_force():
    lab = Lab()
    lab.registry.observe(Observation(A, Outcome.SUCCESS, "well", 1.0, facts=Facts("primary")), 1.0)
    lab.warden.look()
    assert lab.told() == []
    lab.apply()
    assert lab.told() == [(Kind.PRIMARY, "db")]


async def test_a_change_of_role_is_told_with_the_server():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(A, "replica")
    await lab.settled()
    assert (Kind.ROLE, A) in lab.told()


async def test_a_pool_without_listeners_for_writes_has_no_post_any_more():
    lab = Lab()
    lab.says(A, "primary")
    other = config({"name": "rw", "bind": "127.0.0.1:1", "pool": "db"})
    lab.registry.replace(other, lab.registry.entries_for(other), 1.0)
    lab.apply()
    assert lab.warden.posts == {}
    assert lab.serving("rw") == ["a"], (
        "what it has learnt of them it keeps; who is not probed yet is not ready"
    )


async def test_a_primary_that_does_not_let_us_in_any_more_keeps_taking_writes():
    """The monitor's password has changed: that is no reason to take the server away from its clients."""
    lab = Lab()
    lab.says(A, "primary")
    lab.says(A, "", notes=(("login", "access denied"),))
    assert lab.serving("rw") == ["a"]
    lab.says(A, "primary")
    assert [event.text for event in lab.journal.events.newest() if event.subject == A] == [
        "counts as primary as before, but its check cannot see it any more: access denied",
        "lets its check see again what it is",
    ]


async def test_what_it_was_counts_for_nothing_after_it_was_away():
    lab = Lab()
    lab.says(A, "primary")
    lab.fails(A)
    lab.says(A, "")
    assert lab.serving("rw") == []


async def test_beside_one_that_says_it_is_the_primary_one_that_was_it_is_doubtful():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(A, "")
    lab.says(B, "primary")
    await lab.settled()
    assert lab.serving("rw") == []
    lab.says(A, "replica", lag_s=0.0)
    await lab.settled()
    assert lab.serving("rw") == ["b"]


async def test_a_replica_that_has_lost_its_primary_serves_until_there_could_be_something_to_miss():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", at=10.0, lag_s=0.0)
    lab.fails(A)
    lab.says(B, "replica", at=100.0)
    assert lab.serving("ro") == ["b"]
    lab.says(A, "primary", at=101.0)
    lab.says(B, "replica", at=102.0)
    assert lab.serving("ro") == ["b"]
    lab.says(B, "replica", at=106.0)
    assert lab.serving("ro") == []
    lab.says(B, "replica", at=107.0, lag_s=1.0)
    assert lab.serving("ro") == ["b"]


async def test_a_replica_that_knew_of_the_end_of_its_primary_before_us_serves_on():
    """Its connection has broken at once; the check of the primary has to wait for its time-out."""
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", at=10.0, lag_s=0.0)
    lab.says(B, "replica", at=16.0)
    assert lab.serving("ro") == [], "as far as we know, there is something to miss"
    lab.fails(A)
    lab.says(B, "replica", at=17.0)
    assert lab.serving("ro") == ["b"]


async def test_a_replica_that_was_behind_when_its_primary_died_stays_away():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", at=10.0, lag_s=9.0)
    lab.fails(A)
    lab.says(B, "replica", at=12.0)
    assert lab.serving("ro") == []


async def test_a_replica_whose_lag_was_never_known_serves():
    lab = Lab()
    lab.says(A, "primary")
    lab.says(B, "replica", at=10.0)
    lab.says(B, "replica", at=1000.0)
    assert lab.serving("ro") == ["b"]


class Sessions:
    """Closes when the story says so, and may fail to."""

    def __init__(self) -> None:
        self.open = {A: 0, B: 0}
        self.asked: list[tuple[str, asyncio.Future[None]]] = []

    async def close_sessions(self, where, _reason):
        answer = asyncio.get_running_loop().create_future()
        self.asked.append((where.backend, answer))
        await answer
        closed, self.open[where.backend] = self.open[where.backend], 0
        return closed


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


BACKENDS = st.sampled_from([A, B])
STORY = st.lists(
    st.one_of(
        st.just(("comes",)),
        st.tuples(st.just("says"), BACKENDS, st.sampled_from(["primary", "replica", ""]), st.integers(0, 2)),
        st.tuples(st.just("fails"), BACKENDS),
        st.tuples(st.just("closes"), st.booleans()),
    ),
    min_size=20,
    max_size=60,
)


@settings(max_examples=300)
@given(STORY, st.sampled_from(["refuse", "keep", "first"]))
def test_whatever_happens_no_client_comes_to_one_server_while_another_has_sessions(story, split_brain):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("easyproxy.control.warden._AGAIN_S", 0.0)
        asyncio.run(tell(story, split_brain))


async def tell(story, split_brain: str) -> None:
    sessions = Sessions()
    lab = Lab(sessions, split_brain=split_brain)
    for what, *details in story:
        if what == "says":
            backend, role, timeline = details
            lab.says(backend, role, timeline=timeline)
        elif what == "fails":
            lab.fails(*details, times=1)
        elif what == "closes" and sessions.asked:
            _, answer = sessions.asked.pop(0)
            if details[0]:
                answer.set_result(None)
            else:
                answer.set_exception(EngineError("no answer"))
            await turn()
        elif what == "comes" and lab.snapshots and lab.serving("rw"):
            [name] = lab.serving("rw")
            sessions.open[f"db/{name}"] += 1
            assert len([one for one, count in sessions.open.items() if count]) == 1
        await turn()
    for task in lab.tasks:
        task.cancel()
    await asyncio.gather(*lab.tasks, return_exceptions=True)
