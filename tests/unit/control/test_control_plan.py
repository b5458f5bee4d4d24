"""What a plan says of two configurations."""

from __future__ import annotations

import pytest

from easyproxy.config.load import from_dict
from easyproxy.control.operations import Action, Author, Override
from easyproxy.control.overrides import meet
from easyproxy.control.plan import changed_pools, compare, summary
from easyproxy.engine.seam import BackendCounters, ListenerCounters, Statistics

LISTENER = {"bind": "127.0.0.1:9001", "pool": "p", "name": "l"}
A, B = {"address": "10.0.0.1:80", "name": "a"}, {"address": "10.0.0.2:80", "name": "b"}
LIVING = Statistics(
    listeners={"l": ListenerCounters(sessions=5)},
    backends={"p/a": BackendCounters(sessions=3), "p/b": BackendCounters(sessions=2)},
)


def config(*, listeners=(LISTENER,), backends=(A, B), pools=None, pool=None, **rest):
    return from_dict(
        {
            "listeners": list(listeners),
            "pools": {"p": {"backends": list(backends), **(pool or {})}, **(pools or {})},
            "admin": "off",
            **rest,
        }
    )


def told(now, then, **more):
    """Return each difference as what, name, change, text."""
    plan = compare(now, then, LIVING, **more)
    return [(each.what, each.name, each.change, each.text) for each in plan.differences]


def test_nothing_differs_from_itself():
    assert compare(config(), config(), LIVING).differences == ()


def test_a_backend_that_goes_tells_how_many_sessions_would_drain():
    plan = compare(config(), config(backends=[B]), LIVING)
    assert [(each.name, each.change, each.sessions) for each in plan.differences] == [("p/a", "removed", 3)]
    assert plan.sessions == 3


def test_another_address_under_the_same_name_is_another_backend():
    plan = compare(config(), config(backends=[A | {"address": "10.0.0.9:80"}, B]), LIVING)
    assert [(each.change, each.text, each.sessions) for each in plan.differences] == [
        ("removed", "10.0.0.1:80", 3),
        ("added", "10.0.0.9:80", 0),
    ]


def test_a_backend_that_comes_tells_what_is_special_about_it():
    fresh = {"address": "10.0.0.3:80", "name": "c", "weight": 4, "backup": True}
    assert told(config(), config(backends=[A, B, fresh])) == [
        ("backend", "p/c", "added", "10.0.0.3:80, weight 1 -> 4, backup false -> true")
    ]


def test_weight_and_limit_change_in_place():
    changed = A | {"weight": 3, "max_sessions": 10}
    assert told(config(), config(backends=[changed, B])) == [
        ("backend", "p/a", "changed", "weight 1 -> 3, max_sessions 0 -> 10")
    ]


def test_times_are_told_as_the_file_writes_them():
    listener = LISTENER | {"idle_timeout": "30s", "max_lifetime": "none"}
    assert told(config(), config(listeners=[listener])) == [
        ("listener", "l", "changed", "idle_timeout 1h -> 30s")
    ]


def test_a_listener_that_moves_keeps_its_name_and_its_address_goes():
    plan = compare(config(), config(listeners=[LISTENER | {"bind": "127.0.0.1:9002"}]), LIVING)
    (only,) = plan.differences
    assert (only.change, only.text) == ("changed", "moved from 127.0.0.1:9001 to 127.0.0.1:9002")
    assert only.sessions == 5


def test_a_listener_with_another_name_keeps_its_address_open():
    (only,) = compare(config(), config(listeners=[LISTENER | {"name": "new"}]), LIVING).differences
    assert (only.name, only.change, only.sessions) == ("new", "changed", 0)
    assert "renamed from l, 127.0.0.1:9001 stays open" in only.text


def test_listeners_come_and_go():
    other = {"bind": "127.0.0.1:9003", "pool": "p", "name": "other"}
    assert told(config(), config(listeners=[other])) == [
        ("listener", "other", "added", "127.0.0.1:9003 to pool p"),
        ("listener", "l", "removed", "127.0.0.1:9001 is closed"),
    ]


def test_sessions_of_a_listener_and_a_backend_that_both_go_are_not_counted_twice():
    other = {"bind": "127.0.0.1:9003", "pool": "p", "name": "other"}
    plan = compare(config(), config(listeners=[other], backends=[B]), LIVING)
    assert plan.sessions == 5


def test_pools_come_and_go_with_their_backends():
    fresh = {"q": {"backends": [A]}}
    added = told(config(), config(pools=fresh))
    assert [each[:3] for each in added] == [("pool", "q", "added"), ("backend", "q/a", "added")]
    removed = told(config(pools=fresh), config())
    assert [each[:3] for each in removed] == [("pool", "q", "removed"), ("backend", "q/a", "removed")]


def test_strategy_and_check_are_changes_of_the_pool():
    pool = {"strategy": "first", "check": {"type": "tcp", "interval": "5s"}}
    assert told(config(), config(pool=pool)) == [
        ("pool", "p", "changed", "strategy round_robin -> first, check.interval 2s -> 5s")
    ]
    assert told(config(), config(pool={"check": "mysql"})) == [("pool", "p", "changed", "check tcp -> mysql")]


def test_the_order_of_backends_is_a_change():
    assert told(config(), config(backends=[B, A])) == [("pool", "p", "changed", "the order of the backends")]


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ({"headers": {"Authorization": "old-secret"}}, {"headers": {"Authorization": "new-secret"}}),
        ({}, {"headers": {"X": "new-secret"}}),
    ],
)
def test_what_may_hold_a_secret_is_not_repeated(now, then):
    before, after = ({"check": {"type": "http", **each}} for each in (now, then))
    ((_, _, _, text),) = told(config(pool=before), config(pool=after))
    assert text == "check.headers changed"


def test_the_options_of_a_check_of_ones_own_are_not_repeated():
    check = {"type": "tests.unit.control.test_control_plan:Mine"}
    now, then = (config(pool={"check": check | {"options": {"password": word}}}) for word in ("old", "new"))
    assert told(now, then) == [("pool", "p", "changed", "check.options changed")]


def test_a_token_is_not_repeated():
    admin = {"bind": "127.0.0.1:7000", "token": "old-secret-old-secret"}
    now, then = config(admin=admin), config(admin=admin | {"token": "new-secret-new-secret"})
    assert told(now, then) == [("setting", "admin", "changed", "token changed")]


def test_settings_that_are_read_at_the_start_need_a_restart():
    plan = compare(config(workers=1), config(workers=2, drain_timeout="1m"), LIVING)
    assert [(each.name, each.text, each.needs_restart) for each in plan.differences] == [
        ("workers", "1 -> 2", True),
        ("drain_timeout", "30s -> 1m", False),
    ]


def test_such_a_setting_is_compared_with_what_the_program_started_with():
    """A reload that said ``workers: 2`` has changed the file's configuration, and no worker."""
    started, filed = config(workers=1), config(workers=2)
    assert [each[1] for each in told(filed, filed, started=started)] == ["workers"]
    assert told(filed, started, started=started) == []


def test_overrides_that_come_into_conflict_or_are_fulfilled_are_told():
    made = {"author": Author("ann"), "at": 1.0}
    overrides = (
        Override("1", "p/a", Action.WEIGHT, value=5, base=1, **made),
        Override("2", "p/b", Action.WEIGHT, value=7, base=1, **made),
    )
    filed = config(backends=[A | {"weight": 9}, B | {"weight": 7}])
    found = {each[1]: each for each in told(config(), filed, overrides=meet(filed, overrides))}
    assert {each[2] for each in told(filed, filed, overrides=meet(config(), overrides))} == set()
    both = [each for each in told(config(), filed, overrides=meet(filed, overrides)) if each[0] == "override"]
    assert [(each[1], each[2]) for each in both] == [("p/a", "conflict"), ("p/b", "removed")]
    assert "now it says 9" in found["p/a"][3]


def test_only_pools_that_serve_otherwise_are_judged_afterwards():
    pools = {"q": {"backends": [A]}, "r": {"backends": [A]}}
    two = {"bind": "127.0.0.1:9003", "pool": "q", "name": "two"}
    now = config(listeners=[LISTENER, two], pools=pools)
    then = config(listeners=[LISTENER, two | {"pool": "r"}], pools=pools, drain_timeout="1m")
    assert changed_pools(now, then) == {"r"}
    assert changed_pools(now, config(backends=[A], pools=pools)) == {"p"}


def test_the_summary_counts_and_names_what_needs_a_restart():
    plan = compare(config(workers=1), config(backends=[B, A | {"name": "c"}], workers=2), LIVING)
    assert (
        summary(plan)
        == "1 backend added, 1 backend removed, 1 setting changed; 3 sessions drain; without effect until the"
        " next start or upgrade: workers"
    )
