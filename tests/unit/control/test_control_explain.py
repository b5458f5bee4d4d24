"""The stories of backends, sessions and clients, told from what is known."""

from __future__ import annotations

import re
from dataclasses import replace

from control_scene import THREE, Scene

from easyproxy.control.explain import explain_backend, explain_client, explain_session, said
from easyproxy.control.operations import Action, Author, Candidate, Choice, Event, Override
from easyproxy.control.registry import REMEMBERED
from easyproxy.control.wording import ENDINGS
from easyproxy.engine.relay.life import REASONS
from easyproxy.engine.seam import Attempt, Observation, Outcome, SessionEnd, SessionInfo

ANN = Author("ann", "kernel update")
END = SessionEnd(
    "0.0.7", "l", "p/b", "10.0.0.9:555", "backend_reset", 3.5, 1024, 2048, "read: reset",
    started_at=150.0, connect_s=0.002, tried=(Attempt("p/a", "connection refused"),),
)  # fmt: skip


def event(number: int, at: float, kind: str, subject: str, text: str) -> Event:
    return Event(number, at, kind, subject, text)


def backend_story(scene: Scene, name: str, *overrides: Override):
    entry = scene.registry.entries[name]
    return explain_backend(entry, scene.status(), overrides, (), check="check tcp every 2 s, rise 2, fall 3")


def test_every_reason_of_an_end_has_its_words():
    assert {*REASONS, "fin", "reset"} == set(ENDINGS)  # the last two are the kernel engine's


def test_a_backend_that_is_down_is_explained_by_the_probes_that_led_to_it():
    scene = Scene("first", *THREE)
    for number in range(3):
        seen = Observation("p/a", Outcome.REFUSED, "connection refused", 160.0 + number, 0.001)
        scene.registry.observe(seen, now=160.0)
    story = backend_story(scene, "p/a")
    assert story.headline.startswith("p/a is down since ")
    assert "connection refused (3 failures in a row)" in story.headline
    assert any(
        re.search(r"^  \S+ to \S+, 3 times: connection refused \(1 ms\)$", line) for line in story.lines
    )
    assert any("check tcp every 2 s" in line for line in story.lines)


def test_looks_that_found_the_same_are_told_once_with_the_shortest_and_the_longest_time():
    scene = Scene("first", *THREE)
    for number, (outcome, detail, took) in enumerate(
        [
            (Outcome.SUCCESS, "200 OK", 0.002),
            (Outcome.SUCCESS, "200 OK", 0.001),
            (Outcome.FAILED, "503 Service Unavailable", 0.004),
            (Outcome.TIMEOUT, "", 0.0),
            (Outcome.SUCCESS, "200 OK", 0.003),
        ]
    ):
        scene.registry.observe(Observation("p/a", outcome, detail, 160.0 + number, took), now=160.0)
    lines = backend_story(scene, "p/a").lines
    first = lines.index("the last observations, newest first:") + 1
    assert [line.partition("  ")[2].split("  ")[-1].split(", ")[-1] for line in lines[first : first + 4]] == [
        "success: 200 OK (3 ms)",
        "timeout",
        "failed: 503 Service Unavailable (4 ms)",
        "2 times: success: 200 OK (1 ms to 2 ms)",
    ]


def test_what_is_remembered_of_a_backend_is_bounded():
    scene = Scene("first", *THREE)
    for number in range(5 * REMEMBERED):
        scene.registry.observe(Observation("p/a", Outcome.SUCCESS, f"look {number}", 160.0 + number), now=1.0)
    seen = scene.registry.entries["p/a"].seen
    assert (len(seen), seen[-1].detail) == (REMEMBERED, f"look {5 * REMEMBERED - 1}")


def test_a_backend_that_an_operator_keeps_out_says_who_why_and_how_it_is_otherwise():
    scene = Scene("first", *THREE)
    drain = Override("o1", "p/a", Action.DRAIN, ANN, 150.0, until=500.0)
    weight = Override("o2", "p/a", Action.WEIGHT, ANN, 150.0, value=3, base=1, conflict="the file says 2")
    scene.registry.take_stances({"p/a": drain}, 150.0)
    story = backend_story(scene, "p/a", drain, weight)
    assert "draining" in story.headline
    assert "by ann: kernel update" in story.headline
    text = "\n".join(story.lines)
    assert "drain of p/a (ann: kernel update)" in text
    assert "in conflict with the file: the file says 2" in text
    assert "apart from that it is healthy" in text


def test_a_session_that_ended_tells_its_way_and_who_closed_first():
    scene = Scene("round_robin", *THREE)
    events = [
        event(1, 140.0, "backend_down", "p/c", "is down: no answer within 1 s"),
        event(2, 152.0, "backend_draining", "p/b", "is draining: by ann"),
        event(3, 190.0, "backend_ready", "p/c", "is ready: connected"),
    ]
    story = explain_session(END, scene.status(), events)
    text = "\n".join(story.lines)
    assert story.headline == "session 0.0.7 ended: the backend reset its connection, backend p/b"
    assert "on listener l from 10.0.0.9:555; pool p, strategy round_robin" in text
    assert "left out, p/c: down since " in text
    assert "no answer within 1 s" in text
    assert "candidate 1, p/a: connection refused" in text
    assert "candidate 2, p/b was reached 2 ms after" in text
    assert "1.0 KiB from the client, 2.0 KiB from the backend" in text
    assert "as backend_reset: the backend reset its connection (read: reset)" in text
    assert [one.id for one in story.events] == [2], "what happened to its backend meanwhile"
    assert story.session is END


def test_what_was_later_or_is_not_known_is_not_claimed_of_the_past():
    scene = Scene("round_robin", *THREE)
    later = [event(1, 160.0, "backend_down", "p/c", "is down: refused")]
    for number in range(3):
        scene.registry.observe(Observation("p/c", Outcome.REFUSED, "refused", 160.0 + number), now=1.0)
    assert not any("p/c" in line for line in explain_session(END, scene.status(), later).lines)
    assert not any("p/c" in line for line in explain_session(END, scene.status(), []).lines)
    back = [
        event(1, 100.0, "backend_down", "p/c", "is down: x"),
        event(2, 120.0, "backend_ready", "p/c", "is ready"),
    ]
    assert not any("p/c" in line for line in explain_session(END, scene.status(), back).lines)


def test_a_session_without_a_backend_says_so():
    lost = replace(END, backend="", reason="connect_failed", connect_s=-1.0, detail="")
    story = explain_session(lost, Scene("first", *THREE).status(), [])
    assert "no backend was reached" in story.lines
    assert "every attempt to connect" in story.headline


LIVE = SessionInfo("0.0.8", "l", "p/a", "10.0.0.9:556", "relaying", 30.0, 2.0, 10, 20, 0, connect_s=0.001)


def test_a_live_session_says_how_it_stands_and_why_it_went_there():
    story = explain_session(LIVE, Scene("first", *THREE).status(), [])
    text = "\n".join(story.lines)
    assert story.headline == "session 0.0.8 is relaying, backend p/a"
    assert "it was the first ready one of the configuration" in text
    assert "30 s old, idle for 2 s" in text


def test_a_client_has_its_sessions_its_past_and_where_it_would_go():
    choice = Choice("p", "first", "10.0.0.9", (Candidate("p/a", 1, "the order of the configuration"),), True)
    story = explain_client("10.0.0.9", [LIVE], [END], [choice], now=200.0)
    assert story.headline == "10.0.0.9 has 1 session, 30 B moved"
    assert any("0.0.8 on l to p/a: relaying" in line for line in story.lines)
    assert any("0.0.7 to p/b ended at" in line for line in story.lines)
    assert story.choice is choice
    assert not any("now it would go" in line for line in story.lines), (
        "the choice tells it with every candidate"
    )
    several = explain_client("10.0.0.9", [LIVE], [END], [choice, replace(choice, pool="q")], now=200.0)
    assert several.lines[-2] == "now it would go, in pool p (first): to p/a, the order of the configuration"
    crowd = explain_client("10.0.0.9", [LIVE] * 50, [END] * 50, [], now=200.0)
    assert len(crowd.lines) < 25, "a client with many sessions is still readable"
    nowhere = Choice("p", "first", "", (Candidate("p/a", 0, "down"),), True, "turned away")
    assert said(nowhere) == "in pool p (first): nowhere; turned away"
