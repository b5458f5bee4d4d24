"""What is known of backends, and the snapshots that follow from it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.config.load import from_dict
from easyproxy.control.compose import SLOW_START_SCALE, Standing, compose, rise
from easyproxy.control.operations import Action, Author, Override
from easyproxy.control.registry import Registry
from easyproxy.engine.seam import Observation, Outcome
from easyproxy.model import Address


def config(*backends, listeners=None, **pool):
    pool = {"check": {"type": "tcp", "rise": 2, "fall": 2}} | pool
    return from_dict(
        {
            "listeners": listeners or [{"name": "l", "bind": "127.0.0.1:9000", "pool": "p"}],
            "pools": {"p": {"backends": list(backends) or ["10.0.0.1:1", "10.0.0.2:1"], **pool}},
        }
    )


class Lab:
    """A registry with a clock, fed by hand."""

    def __init__(self, made=None) -> None:
        self.registry, self.now = Registry(made or config()), 1000.0

    def see(self, outcome, backend="p/10.0.0.1:1", *, traffic=False, times=1):
        changes = []
        for _ in range(times):
            self.now += 1
            observation = Observation(backend, outcome, outcome.value, self.now)
            changes.append(self.registry.observe(observation, self.now, from_traffic=traffic))
        return [change for change in changes if change is not None]

    def ready(self):
        return [backend.name for pool in self.registry.snapshot(self.now).pools for backend in pool.backends]


UP, REFUSED, TIMEOUT, RESET, FAILED = (
    Outcome.SUCCESS,
    Outcome.REFUSED,
    Outcome.TIMEOUT,
    Outcome.RESET,
    Outcome.FAILED,
)


def test_nobody_is_ready_before_the_first_look_and_the_first_look_decides():
    """Behaviour 25."""
    lab = Lab()
    assert lab.ready() == []
    [change] = lab.see(UP)
    assert (change.backend, change.state) == ("p/10.0.0.1:1", "ready")
    [change] = lab.see(REFUSED, "p/10.0.0.2:1")
    assert (change.backend, change.state) == ("p/10.0.0.2:1", "down")
    assert lab.ready() == ["10.0.0.1:1"]


def test_probes_take_a_backend_down_and_bring_it_back_by_fall_and_rise():
    """Behaviours 22 and 23."""
    lab = Lab()
    lab.see(UP)
    assert [change.state for change in lab.see(FAILED, times=3)] == ["down"]
    assert [change.state for change in lab.see(UP, times=3)] == ["ready"]


@pytest.mark.parametrize("outcome", [REFUSED, TIMEOUT])
def test_failed_connects_of_clients_take_a_backend_down(outcome):
    """Behaviour 24."""
    lab = Lab()
    lab.see(UP)
    assert lab.see(outcome, traffic=True) == []
    assert lab.registry.is_changing("p/10.0.0.1:1")
    assert [change.state for change in lab.see(outcome, traffic=True)] == ["down"]


def test_a_client_that_is_served_ends_a_row_of_failures_but_brings_no_backend_back():
    """Behaviour 24: rare refusals among many sessions are no reason; only probes bring a backend back."""
    lab = Lab()
    lab.see(UP)
    for _ in range(5):
        assert lab.see(REFUSED, traffic=True) == lab.see(UP, traffic=True) == []
    assert lab.ready() == ["10.0.0.1:1"]
    lab.see(REFUSED, traffic=True, times=2)
    assert lab.see(UP, traffic=True, times=10) == []
    assert lab.ready() == []


@pytest.mark.parametrize("outcome", [RESET, FAILED])
def test_what_clients_cause_themselves_says_nothing_about_a_backend(outcome):
    lab = Lab()
    lab.see(UP)
    assert lab.see(outcome, traffic=True, times=10) == []
    assert lab.ready() == ["10.0.0.1:1"]


def test_traffic_is_not_asked_before_the_first_probe_nor_without_a_check():
    lab = Lab()
    assert lab.see(REFUSED, traffic=True, times=5) == []
    assert lab.registry.entries["p/10.0.0.1:1"].state == "checking"
    unchecked = Lab(config(check={"type": "none"}))
    assert unchecked.ready() == ["10.0.0.1:1", "10.0.0.2:1"]
    assert unchecked.see(REFUSED, traffic=True, times=5) == []
    assert unchecked.ready() == ["10.0.0.1:1", "10.0.0.2:1"]


def test_an_observation_of_a_backend_that_is_gone_is_ignored():
    lab = Lab()
    assert lab.see(UP, "p/gone") == []
    assert not lab.registry.is_changing("p/gone")


@given(st.lists(st.tuples(st.sampled_from([UP, REFUSED]), st.sampled_from(["1", "2"])), max_size=40))
def test_a_version_grows_exactly_when_the_snapshot_changes(history):
    lab = Lab()
    before = lab.registry.snapshot(lab.now)
    for outcome, number in history:
        lab.see(outcome, f"p/10.0.0.{number}:1")
        snapshot = lab.registry.snapshot(lab.now)
        assert lab.registry.snapshot(lab.now) is snapshot
        changed = snapshot.pools != before.pools
        assert snapshot.version == before.version + changed
        assert [b.name for b in snapshot.pools[0].backends] == [
            entry.config.name for entry in lab.registry.entries.values() if entry.state == "ready"
        ]
        before = snapshot


def test_a_backend_whose_name_cannot_be_resolved_is_down_until_it_can():
    lab = Lab(config("db.example:3306"))
    lab.see(UP, "p/db.example:3306")
    entry = lab.registry.entries["p/db.example:3306"]
    assert (entry.state, lab.ready()) == ("down", [])
    lab.registry.locate(entry.id, Address("10.0.0.9", 3306))
    assert (entry.state, lab.ready()) == ("ready", ["db.example:3306"])
    lab.registry.locate(entry.id, None)
    assert lab.ready() == []


def test_a_reload_keeps_what_is_known_of_backends_that_stay_where_they_were():
    """Behaviours 25, 29 and 30."""
    lab = Lab()
    lab.see(UP)
    lab.see(REFUSED, "p/10.0.0.2:1", times=2)
    version = lab.registry.snapshot(lab.now).version
    fresh = config("10.0.0.1:1", {"address": "10.0.0.2:1", "weight": 5}, "10.0.0.3:1")
    entries = lab.registry.entries_for(fresh)
    assert [entry.state for entry in entries.values()] == ["ready", "down", "checking"]
    assert lab.registry.snapshot(lab.now).version == version, "nothing is in force before replace()"
    lab.registry.replace(fresh, entries, lab.now)
    assert lab.ready() == ["10.0.0.1:1"]
    lab.see(UP, "p/10.0.0.2:1", times=2)
    assert [backend.weight for backend in lab.registry.snapshot(lab.now).pools[0].backends] == [1, 5]


def test_a_backend_of_the_same_name_at_another_address_is_looked_at_anew():
    lab = Lab(config({"name": "a", "address": "10.0.0.1:1"}))
    lab.see(UP, "p/a")
    moved = lab.registry.entries_for(config({"name": "a", "address": "10.0.0.7:1"}))
    assert [(entry.state, entry.address) for entry in moved.values()] == [
        ("checking", Address("10.0.0.7", 1))
    ]


def test_a_reload_that_takes_the_check_away_or_brings_one():
    lab = Lab()
    lab.see(REFUSED)
    without = lab.registry.entries_for(config(check={"type": "none"}))
    assert [entry.state for entry in without.values()] == ["ready", "ready"]
    lab.registry.replace(config(check={"type": "none"}), without, lab.now)
    again = lab.registry.entries_for(config())
    assert [entry.state for entry in again.values()] == ["checking", "checking"]


def test_a_backend_that_nobody_looks_at_is_ready_since_it_came():
    unchecked = config("10.0.0.1:1", check={"type": "none"})
    lab = Lab(unchecked)
    lab.registry.replace(unchecked, lab.registry.entries_for(unchecked), 50.0)
    more = config("10.0.0.1:1", "10.0.0.2:1", check={"type": "none"})
    lab.registry.replace(more, lab.registry.entries_for(more), 60.0)
    assert [(entry.state, entry.since) for entry in lab.registry.entries.values()] == [
        ("ready", 50.0),
        ("ready", 60.0),
    ]


# -- composition


def standings(**addresses):
    return {f"p/{name}": standing for name, standing in addresses.items()}


A = Standing(is_ready=True, address=Address("10.0.0.1", 1))
TWO = (
    {"name": "a", "address": "10.0.0.1:1", "weight": 3},
    {"name": "b", "address": "10.0.0.2:1", "weight": 2},
)


def test_only_ready_backends_with_an_address_enter_in_the_order_of_the_configuration():
    made = config(*TWO, {"name": "c", "address": "10.0.0.3:1", "backup": True, "max_sessions": 7})
    snapshot = compose(
        made,
        standings(
            c=Standing(is_ready=True, address=Address("10.0.0.3", 1)),
            b=Standing(is_ready=True, address=None),
            a=A,
        ),
        now=0.0,
        version=9,
    )
    [pool] = snapshot.pools
    assert snapshot.version == 9
    assert [(b.id, b.weight, b.priority, b.max_sessions) for b in pool.backends] == [
        ("p/a", 3, 0, 0),
        ("p/c", 1, 1, 7),
    ]
    sick = Standing(is_ready=False, address=Address("10.0.0.1", 1))
    assert compose(made, standings(a=sick, b=sick, c=sick), 0.0).pools[0].backends == ()


def test_every_setting_of_listeners_and_pools_arrives():
    made = config(
        *TWO,
        strategy="first", connect_timeout="1s", retries=4, queue_timeout="2s", source="127.0.0.9",
        listeners=[{
            "name": "l", "bind": "127.0.0.1:9000", "pool": "p", "max_sessions": 5, "overload": "refuse", "backlog": 6,
            "idle_timeout": "7s", "half_closed_timeout": "8s", "max_lifetime": "9s", "user_timeout": "10s",
            "keepalive": "11s",
        }],
    )  # fmt: skip
    snapshot = compose(made, standings(a=A, b=A), 0.0)
    [pool], [listener] = snapshot.pools, snapshot.listeners
    assert (pool.strategy, pool.connect_timeout_s, pool.retries, pool.queue_timeout_s) == ("first", 1, 4, 2)
    assert pool.source == Address("127.0.0.9")
    assert (listener.max_sessions, listener.overload, listener.backlog) == (5, "refuse", 6)
    assert (listener.idle_timeout_s, listener.half_closed_timeout_s, listener.life_timeout_s) == (7, 8, 9)
    assert (listener.user_timeout_s, listener.keepalive_s, listener.pool) == (10, 11, "p")


def shares(slow_start, since, now):
    back = Standing(is_ready=True, address=Address("10.0.0.2", 1), rising_since=since)
    made = config(*TWO, slow_start=slow_start)
    weights = {b.name: b.weight for b in compose(made, standings(a=A, b=back), now).pools[0].backends}
    return weights["b"] / weights["a"]


def test_slow_start_grows_in_steps_from_a_twentieth_to_the_full_share():
    """Behaviour 23."""
    seen = [shares("20s", 100.0, 100.0 + second) for second in range(22)]
    assert seen == sorted(seen)
    assert seen[0] == pytest.approx(2 / 3 / SLOW_START_SCALE)
    assert seen[10] == pytest.approx(2 / 3 / 2)
    assert seen[20] == seen[21] == 2 / 3
    assert len(set(seen)) == SLOW_START_SCALE
    assert shares(0, 100.0, 100.0) == 2 / 3


@given(st.floats(0, 1e6), st.floats(0.1, 86400), st.floats(0, 1e6))
def test_a_share_is_never_nothing_and_never_more_than_all(since, slow_start, now):
    assert 1 / SLOW_START_SCALE <= rise(Standing(True, None, since), slow_start, now) <= 1


def test_weights_are_plain_numbers_again_when_slow_start_is_over():
    lab = Lab(config(*TWO, slow_start="20s"))
    lab.see(UP, "p/a")
    lab.see(REFUSED, "p/b", times=2)
    lab.see(UP, "p/b", times=2)
    assert lab.registry.is_any_rising(lab.now)
    rising = lab.registry.snapshot(lab.now)
    assert [backend.weight for backend in rising.pools[0].backends] == [60, 2]
    lab.now += 20
    assert lab.registry.is_any_rising(lab.now), "one more look is needed for the last step"
    over = lab.registry.snapshot(lab.now)
    assert [backend.weight for backend in over.pools[0].backends] == [3, 2]
    assert over.version > rising.version
    assert not lab.registry.is_any_rising(lab.now + 2)


def test_a_backend_that_was_never_down_has_no_slow_start():
    lab = Lab(config(*TWO, slow_start="20s"))
    lab.see(UP, "p/a", times=3)
    assert not lab.registry.is_any_rising(lab.now)


# -- what the operator says


def stance(action, backend="p/10.0.0.1:1", at=5.0):
    return {backend: Override("o1", backend, action, Author("ann", "disk"), at)}


def test_what_the_operator_says_stands_before_the_verdict_and_apart_from_it():
    """Behaviour 34."""
    lab = Lab()
    lab.see(UP)
    lab.see(UP, "p/10.0.0.2:1")
    [change] = lab.registry.take_stances(stance(Action.DRAIN), 50.0)
    assert (change.was, change.state, change.reason) == ("ready", "draining", "by ann: disk")
    assert lab.ready() == ["10.0.0.2:1"]
    entry = lab.registry.entries["p/10.0.0.1:1"]
    assert (entry.state, entry.is_healthy, entry.since) == ("draining", True, 5.0)
    [change] = lab.see(REFUSED, times=2)
    assert (change.was, change.state, change.is_healthy) == ("draining", "draining", False)
    assert (entry.state, entry.is_healthy, entry.since) == ("draining", False, 5.0)
    [change] = lab.registry.take_stances({}, 60.0)
    assert (change.was, change.state, entry.since) == ("draining", "down", max(60.0, entry.verdict.since))


def test_after_maintenance_the_first_look_decides_with_slow_start():
    lab = Lab(config(slow_start="20s"))
    lab.see(UP)
    lab.registry.take_stances(stance(Action.MAINTENANCE), 50.0)
    entry = lab.registry.entries["p/10.0.0.1:1"]
    assert (entry.state, entry.is_probed, entry.is_healthy) == ("maintenance", False, None)
    assert lab.see(REFUSED, traffic=True, times=5) == [], "nobody looks at it"
    [change] = lab.registry.take_stances({}, 60.0)
    assert (change.state, lab.ready()) == ("checking", [])
    [change] = lab.see(UP)
    assert (change.state, lab.ready()) == ("ready", ["10.0.0.1:1"])
    assert lab.registry.is_any_rising(lab.now)


def test_without_a_check_maintenance_ends_at_once():
    lab = Lab(config(check={"type": "none"}))
    lab.registry.take_stances(stance(Action.MAINTENANCE), 50.0)
    assert lab.ready() == ["10.0.0.2:1"]
    [change] = lab.registry.take_stances({}, 60.0)
    assert (change.state, lab.registry.entries["p/10.0.0.1:1"].is_healthy) == ("ready", None)


def test_the_same_stance_again_changes_nothing_and_a_reload_keeps_it():
    lab = Lab()
    lab.see(UP)
    lab.registry.take_stances(stance(Action.DRAIN), 50.0)
    assert lab.registry.take_stances(stance(Action.DRAIN), 70.0) == []
    fresh = config("10.0.0.1:1", "10.0.0.3:1")
    lab.registry.replace(fresh, lab.registry.entries_for(fresh), lab.now)
    assert lab.registry.entries["p/10.0.0.1:1"].state == "draining"
    assert lab.registry.entries["p/10.0.0.1:1"].since == 5.0, "when the operator said so"
    [change] = lab.registry.take_stances(stance(Action.MAINTENANCE, at=71.0), 72.0)
    assert (change.was, change.state) == ("draining", "maintenance")
