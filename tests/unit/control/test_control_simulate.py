"""Where a client would go: the engine's own choice, and in words why the others are left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from control_scene import THREE, Scene

from easyproxy.control.operations import Action, Author, Override, RefusedError, UnknownError
from easyproxy.control.simulate import client_host, simulate
from easyproxy.engine.seam import Outcome
from easyproxy.strategy import Context, load
from easyproxy.strategy.tiers import Tiers

CLIENTS = [f"10.1.{a}.{b}" for a in range(4) for b in range(1, 50)]


@pytest.mark.parametrize("strategy", ["source_hash", "maglev", "first", "iphash"])
def test_where_nothing_but_the_address_decides_the_answer_is_the_engines_and_certain(strategy):
    scene = Scene(strategy, *THREE)
    for client in CLIENTS:
        choice = scene.ask(client)
        assert choice.is_certain
        assert [one.backend for one in choice.candidates] == scene.engine_order(client)
        assert [one.rank for one in choice.candidates] == [1, 2, 3]
    if strategy != "first":
        assert len({scene.ranked(client)[0] for client in CLIENTS}) == 3


@pytest.mark.parametrize("strategy", ["round_robin", "random"])
def test_where_chance_or_turns_decide_shares_are_told_and_nothing_is_certain(strategy):
    choice = Scene(strategy, *THREE).ask()
    assert not choice.is_certain
    assert choice.note
    assert [(one.backend, one.why) for one in choice.candidates] == [
        ("p/b", "50 % of new sessions"),
        ("p/a", "25 % of new sessions"),
        ("p/c", "25 % of new sessions"),
    ]


def test_the_shares_of_power_of_two_are_those_that_it_gives():
    scene = Scene("power_of_two", *THREE)
    scene.sessions = {"p/a": 5, "p/b": 1, "p/c": 0}
    [pool] = scene.registry.snapshot(200.0).pools
    draws = [(number + 0.5) / 400 for number in range(400)]
    seen: Counter[str] = Counter()
    for one in draws[::4]:
        for other in draws[::4]:
            chance = iter((one, other))
            context = Context(
                lambda: 0, lambda backend: scene.sessions[backend.id], lambda chance=chance: next(chance)
            )
            seen[next(Tiers(load("power_of_two"), context, pool.backends).candidates("")).id] += 1
    told = {each.backend: int(each.why.partition(" ")[0]) for each in scene.ask().candidates}
    assert sum(told.values()) == pytest.approx(100, abs=1)
    for backend, share in told.items():
        assert share == pytest.approx(100 * seen[backend] / seen.total(), abs=2)


def test_the_least_loaded_is_certain_only_when_it_is_alone():
    scene = Scene("least_connections", *THREE)
    scene.sessions = {"p/a": 3, "p/b": 3, "p/c": 1}
    assert (scene.ranked()[:1], scene.ask().is_certain) == (["p/b"], False), "(3+1)/2 is (1+1)/1"
    scene.sessions["p/c"] = 0
    assert (scene.ranked()[:1], scene.ask().is_certain) == (["p/c"], True)


def test_everybody_who_is_left_out_is_named_with_the_reason():
    scene = Scene(
        "first", *({"name": name} for name in "abcd"), {"name": "e", "max_sessions": 2}, {"name": "f"}
    )
    ann = Author("ann", "kernel update")
    stances = {
        "p/b": Override("o1", "p/b", Action.DRAIN, ann, 150.0),
        "p/c": Override("o2", "p/c", Action.MAINTENANCE, ann, 150.0),
    }
    scene.registry.take_stances(stances, 150.0)
    scene.see("p/a", Outcome.REFUSED, "connection refused")
    scene.sessions = {"p/e": 2}
    choice = scene.ask(without=["p/f"])
    assert (choice.candidates[0].backend, choice.is_certain) == ("p/d", True)
    out = {one.backend: one.why for one in choice.candidates if not one.rank}
    assert out["p/a"].startswith("down since ")
    assert "connection refused" in out["p/a"]
    assert out["p/b"].startswith("draining since ")
    assert out["p/b"].endswith("by ann: kernel update")
    assert out["p/c"].startswith("in maintenance since ")
    assert out["p/e"] == "full: 2 of 2 sessions"
    assert out["p/f"] == "left out, as asked"


def test_backups_stand_behind_the_others_and_serve_when_there_is_no_other():
    scene = Scene("round_robin", {"name": "spare", "backup": True, "weight": 9}, {"name": "a"})
    choice = scene.ask()
    assert [one.backend for one in choice.candidates] == ["p/a", "p/spare"]
    assert "backup" in choice.candidates[1].why
    alone = scene.ask(without=["p/a"])
    assert (alone.candidates[0].backend, alone.is_certain) == ("p/spare", True)


def test_a_client_that_nobody_takes_is_told_what_happens_to_it():
    scene = Scene("round_robin", {"name": "a", "max_sessions": 1}, queue_timeout="2s")
    scene.sessions = {"p/a": 1}
    assert "waits for a place, 2 s at most" in scene.ask().note
    scene.see("p/a", Outcome.REFUSED, "connection refused")
    choice = scene.ask()
    assert "turned away" in choice.note
    assert choice.is_certain


def test_those_who_wait_already_come_first():
    scene = Scene("round_robin", *THREE)
    scene.queued = 4
    assert "4 clients of this pool already wait" in scene.ask().note


def test_a_strategy_of_a_users_own_is_asked_but_not_vouched_for():
    scene = Scene("easyproxy.strategy.first:First", *THREE)
    choice = scene.ask()
    assert not choice.is_certain
    assert [one.backend for one in choice.candidates] == ["p/a", "p/b", "p/c"]


@pytest.mark.parametrize("client", ["", "somebody", "10.0.0", "10.0.0.1/8", "[::z]:1", "::g"])
def test_what_is_no_address_is_refused(client):
    with pytest.raises(RefusedError, match="not an address"):
        client_host(client)


def test_a_pool_that_does_not_exist_is_unknown():
    with pytest.raises(UnknownError, match="there is p"):
        Scene("first", *THREE).ask(pool="q")


@pytest.mark.parametrize("strategy", ["source_hash", "maglev"])
def test_the_kernels_own_hash_is_not_foretold(strategy):
    scene = Scene(strategy, *THREE)
    snapshot = scene.registry.snapshot(200.0)
    assert simulate(snapshot, scene.status(), "10.0.0.9")[0].is_certain
    in_kernel = replace(snapshot, listeners=(replace(snapshot.listeners[0], engine="kernel"),))
    [choice] = simulate(in_kernel, scene.status(), "10.0.0.9")
    assert not choice.is_certain
    assert choice.strategy == strategy
    assert "the kernel's own hash of the client's address decides" in choice.note
