"""Events: a ring, its readers, and that the log and the events are told from one place."""

from __future__ import annotations

import asyncio
import gc
import logging
from pathlib import Path

import pytest

from easyproxy.control.events import KEPT, UNREAD, Events, Kind
from easyproxy.control.journal import LINES_PER_SECOND, Journal
from easyproxy.control.operations import Author
from easyproxy.control.registry import Change

ANN = Author("ann", "kernel update")
LEXICON = Path(__file__).parents[3] / "docs" / "lexicon.md"


def filled(count: int) -> Events:
    events = Events(clock=lambda: 5.0)
    for number in range(count):
        events.add(Kind.BACKEND_DOWN, f"p/{number % 3}", f"number {number}")
    return events


def test_ids_grow_by_one_and_the_newest_come_oldest_first():
    events = filled(10)
    assert [event.id for event in events.newest()] == list(range(1, 11))
    assert [event.id for event in events.newest(after=7)] == [8, 9, 10]
    assert [event.id for event in events.newest(limit=2)] == [9, 10]
    assert events.newest(limit=0) == []
    assert [event.id for event in events.about("p/0", limit=2)] == [7, 10]
    assert events.about("p/nobody") == ()


def test_only_so_many_are_kept_however_many_there_were():
    events = filled(KEPT + 50)
    assert len(events) == KEPT
    assert events.newest(limit=10 * KEPT)[0].id == 51


@pytest.mark.anyio
async def test_a_reader_gets_what_happens_from_its_making_on():
    events = filled(3)
    reader = events.follow()
    events.add(Kind.STARTED, "", "after")
    assert (await anext(reader)).text == "after"
    waiting = asyncio.create_task(anext(reader))
    await asyncio.sleep(0)
    events.add(Kind.DRAINING, "", "later")
    assert (await waiting).text == "later"


@pytest.mark.anyio
async def test_a_reader_that_is_too_slow_misses_the_oldest_and_holds_nobody_up():
    events = Events()
    slow, quick = events.follow(), events.follow()
    for number in range(UNREAD + 10):
        events.add(Kind.TROUBLE, "", str(number))
        assert (await anext(quick)).text == str(number)
    assert (await anext(slow)).text == "10"


@pytest.mark.anyio
async def test_readers_end_with_the_balancer_and_have_read_everything_by_then():
    events = Events()
    reader = events.follow()
    events.add(Kind.STOPPED, "", "the last")
    events.close()
    assert [event.text async for event in reader] == ["the last"]
    assert [event async for event in events.follow()] == [], "nothing follows after the end"


@pytest.mark.anyio
async def test_a_reader_that_leaves_or_is_dropped_is_fed_no_more():
    events = Events()
    left, dropped = events.follow(), events.follow()
    await left.aclose()
    del dropped
    gc.collect()
    events.add(Kind.TROUBLE, "", "unheard")
    assert len(events._readers) == 0
    assert [event async for event in left] == []


def test_the_log_and_the_events_say_the_same(caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    journal = Journal()
    journal.tell(Kind.OVERRIDE_SET, "p/a", "drain of p/a", level="warning", author=ANN)
    journal.change(Change("p/a", "draining", "by ann: kernel update", was="ready"), ANN)
    journal.change(Change("p/b", "down", "refused", was="ready", is_healthy=False))
    journal.change(Change("p/a", "draining", "refused", was="draining", is_healthy=False))
    events = journal.events.newest()
    assert [(event.kind, event.subject, event.level) for event in events] == [
        ("override_set", "p/a", "warning"),
        ("backend_draining", "p/a", "info"),
        ("backend_down", "p/b", "warning"),
        ("backend_health", "p/a", "info"),
    ]
    assert [event.author for event in events] == [ANN, ANN, None, None]
    assert events[3].text == "is not healthy while draining: refused"
    assert [record.message for record in caplog.records] == [
        "override set", "backend draining", "backend down", "backend is not healthy",
    ]  # fmt: skip
    assert (caplog.records[0].who, caplog.records[0].why, caplog.records[2].reason) == (
        *ANN_FIELDS,
        "refused",
    )


ANN_FIELDS = ("ann", "kernel update")


def test_the_death_of_a_worker_is_told_however_much_else_there_is():
    journal = Journal(clock=lambda: 1.0)
    for number in range(LINES_PER_SECOND + 5):
        journal.trouble(f"trouble {number}")
    journal.worker_died("relay worker 1 (pid 7) was killed; its sessions are lost, a successor starts")
    kinds = [event.kind for event in journal.events.newest()]
    assert kinds == ["trouble"] * LINES_PER_SECOND + ["worker_died"]


def test_every_kind_is_in_the_lexicon():
    text = LEXICON.read_text(encoding="utf-8")
    assert [kind.value for kind in Kind if f"`{kind.value}`" not in text] == []
