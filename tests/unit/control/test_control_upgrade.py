"""The talk of two control processes: what one leaves to the other, and how a wait ends."""

from __future__ import annotations

import json
import math
import os
import socket
import sys

import pytest

from easyproxy.config.load import from_dict
from easyproxy.control.events import Events, Kind
from easyproxy.control.failover import Post
from easyproxy.control.heir import Heir, predecessor
from easyproxy.control.operations import Author
from easyproxy.control.registry import Registry
from easyproxy.control.upgrade import ENVIRONMENT, PROTOCOL, command_line
from easyproxy.control.will import (
    events_from,
    inherit_verdicts,
    plain_events,
    plain_posts,
    posts_from,
    verdicts_of,
)
from easyproxy.control.wire import Wire, WireError
from easyproxy.engine.seam import Facts, Observation, Outcome


def over_the_wire(plain):
    return json.loads(json.dumps(plain))


def registry(**backend) -> Registry:
    backends = [{"address": "127.0.0.1:1", "name": "a", **backend}, "127.0.0.1:2"]
    return Registry(
        from_dict({"listeners": [{"bind": ":9", "pool": "p"}], "pools": {"p": {"backends": backends}}})
    )


def test_what_is_known_of_a_backend_survives_its_control_process():
    old = registry()
    for number, outcome in enumerate((Outcome.SUCCESS, Outcome.REFUSED, Outcome.REFUSED, Outcome.REFUSED)):
        old.observe(Observation("p/a", outcome, f"look {number}", at=100.0 + number), now=5.0)
    new = registry()
    inherit_verdicts(new, over_the_wire(verdicts_of(old)))
    before, after = old.entries["p/a"], new.entries["p/a"]
    assert after.verdict == before.verdict
    assert list(after.seen) == list(before.seen)
    assert after.state == before.state == "down"
    assert new.entries["p/127.0.0.1:2"].state == "checking"


def test_what_a_server_said_that_it_is_survives_too():
    old, new = registry(), registry()
    facts = Facts("replica", math.inf, "15.3", 4, (("position", "0/3000060"),))
    old.observe(Observation("p/a", Outcome.SUCCESS, "well", at=100.0, facts=facts), now=5.0)
    inherit_verdicts(new, over_the_wire(verdicts_of(old)))
    before, after = old.entries["p/a"], new.entries["p/a"]
    assert (after.facts, after.role_since, after.is_lagging) == (facts, 100.0, True)
    assert (after.verdict, list(after.seen)) == (before.verdict, list(before.seen))


def test_who_takes_writes_survives_too():
    post = Post(("p/b",), {"p/a", "p/b"}, 100.0, "p/b says that it is the primary", closing={"p/a"})
    [(name, after)] = posts_from(over_the_wire(plain_posts({"p": post}))).items()
    assert (name, after) == (
        "p",
        Post(("p/b",), {"p/a", "p/b"}, 100.0, "p/b says that it is the primary"),
    )


def test_a_backend_that_is_elsewhere_now_is_judged_anew():
    old, new = registry(), registry(address="127.0.0.1:3")
    old.observe(Observation("p/a", Outcome.SUCCESS, "well", at=100.0), now=5.0)
    inherit_verdicts(new, over_the_wire(verdicts_of(old)))
    assert new.entries["p/a"].state == "checking"


def test_what_another_version_says_beside_is_left_out():
    old, new = registry(), registry()
    old.observe(Observation("p/a", Outcome.SUCCESS, "well", at=100.0), now=5.0)
    plain = over_the_wire(verdicts_of(old))
    plain["p/a"]["verdict"]["mood"] = "good"
    plain["p/a"]["seen"][0]["weather"] = "fine"
    inherit_verdicts(new, plain)
    assert new.entries["p/a"].verdict == old.entries["p/a"].verdict


def test_events_go_on_with_the_next_id():
    old, new = Events(), Events()
    old.add(Kind.STARTED, "", "first")
    old.add(Kind.OVERRIDE_SET, "p/a", "second", author=Author("me", "because"))
    early = new.add(Kind.BACKEND_READY, "p/a", "seen while the old one served")
    new.restore(events_from(over_the_wire(plain_events(old.newest()))))
    late = new.add(Kind.UPGRADED, "", "fourth")
    assert [event.id for event in new.newest()] == [1, 2, 3, 4]
    assert new.newest()[1] == old.newest()[1]
    assert new.newest()[2].text == early.text
    assert late.id == 4


@pytest.mark.anyio
async def test_a_wait_ends_with_what_was_expected_or_says_why_not():
    ours, theirs = socket.socketpair()
    wire, other = Wire(ours, "the new program"), Wire(theirs, "the old program")
    try:
        other.send({"op": "hello", "n": 1})
        assert (await wire.expect("hello", 5))["n"] == 1
        other.send({"op": "ready"})
        with pytest.raises(WireError, match="says 'ready' where 'adopted' was expected"):
            await wire.expect("adopted", 5)
        other.send({"op": "failed", "why": "the disk is full"})
        with pytest.raises(WireError, match="the disk is full"):
            await wire.expect("adopted", 5)
        with pytest.raises(WireError, match=r"has not answered within 0\.01 s"):
            await wire.expect("adopted", 0.01)
        other.send({"op": "last"})
        other.close()
        assert await wire.expect("last", 5)
        with pytest.raises(WireError, match="the new program has ended"):
            await wire.expect("adopted", 5)
    finally:
        wire.close()
        other.close()


@pytest.mark.anyio
async def test_descriptors_that_nobody_takes_are_closed_with_the_wire():
    ours, theirs = socket.socketpair()
    wire, other = Wire(ours, "one"), Wire(theirs, "other")
    reading, writing = os.pipe()
    other.send({"op": "unexpected"}, [writing])
    other.send({"op": "left over"}, [writing])
    os.close(writing)
    with pytest.raises(WireError, match="unexpected"):
        await wire.expect("ready", 5)
    wire.close()
    other.close()
    assert os.read(reading, 1) == b"", "no copy of the writing end is open"
    os.close(reading)


@pytest.mark.anyio
async def test_programs_that_speak_in_another_way_part_before_anything_is_handed_over():
    ours, theirs = socket.socketpair()
    old = Wire(ours, "the new program")
    try:
        old.send({"op": "hello", "protocol": PROTOCOL + 1, "version": "9.9", "pid": 1})
        with pytest.raises(WireError, match=r"version 9\.9 hands over in another way"):
            await Heir.met(theirs)
        assert (await old.expect("hello", 5))["protocol"] == PROTOCOL
        with pytest.raises(WireError, match="in another way"):
            await old.expect("ready", 5)
    finally:
        old.close()


@pytest.mark.parametrize("text", ["", "x", "-1", "999999", "0 "])
def test_a_variable_that_leads_nowhere_means_a_usual_start(monkeypatch, text):
    monkeypatch.setenv(ENVIRONMENT, text)
    assert predecessor() is None
    assert ENVIRONMENT not in os.environ


def test_a_descriptor_that_is_no_socket_means_a_usual_start(monkeypatch, tmp_path):
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setenv(ENVIRONMENT, str(file.fileno()))
        assert predecessor() is None


def test_the_way_to_the_predecessor_is_no_child_s_business(monkeypatch):
    ours, theirs = socket.socketpair()
    with ours:
        monkeypatch.setenv(ENVIRONMENT, str(theirs.detach()))
        found = predecessor()
        assert found is not None
        with found:
            assert not found.get_inheritable()
            assert ENVIRONMENT not in os.environ


def test_a_script_is_started_itself_and_a_module_with_its_interpreter(monkeypatch, tmp_path):
    script = tmp_path / "easyproxy"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "orig_argv", ["/old/python", str(script), "run", "x.yaml"])
    assert command_line() == [str(script), "run", "x.yaml"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "easyproxy", "run", "x.yaml"])
    assert command_line() == [sys.executable, "-m", "easyproxy", "run", "x.yaml"]
    script.chmod(0o644)
    monkeypatch.setattr(sys, "orig_argv", ["python", str(script), "run", "x.yaml"])
    assert command_line() == [sys.executable, str(script), "run", "x.yaml"]
