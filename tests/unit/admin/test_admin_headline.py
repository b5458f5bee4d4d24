from __future__ import annotations

from dataclasses import replace

import pytest
from admin_scene import backend, pool, status

from easyproxy.admin.headline import summarise
from easyproxy.control.status import WritesStatus

UP = backend("a")
DOWN = backend("b", "down", "connection refused")
NEW = backend("c", "checking", "no probe yet")
RIVAL = backend("b", role="primary", is_rival=True)
LATE = backend("c", role="replica", lag_s=9.0, lag="9.0 s behind", is_lagging=True)
HELD = backend("d", "draining", "drained by anna")
SHUT = backend("e", "maintenance", "in maintenance")
NONE = pool(name="x")
WRITTEN = WritesStatus(("web/a",), 0.0, "web/a says so", is_split=False, held=0)
UNWRITTEN = WritesStatus((), 0.0, "nobody says so", is_split=False, held=3)
SPLIT = WritesStatus((), 0.0, "two say so", is_split=True, held=0)


@pytest.mark.parametrize(
    ("pools", "level", "title"),
    [
        ((pool(UP),), "ok", "The backend is ready"),
        ((pool(UP, UP), pool(UP, name="x")), "ok", "All 3 backends ready"),
        ((pool(UP, DOWN),), "warning", "1 of 2 backends down"),
        ((pool(UP, DOWN, NEW),), "warning", "1 of 3 backends down"),
        ((pool(UP, NEW),), "checking", "Checking 1 backend"),
        ((pool(UP, HELD),), "ok", "1 of 2 backends ready, d is draining"),
        ((pool(UP, HELD, SHUT),), "ok", "1 of 3 backends ready, 2 held by operators"),
        ((pool(UP, HELD, DOWN),), "warning", "1 of 3 backends down"),
        ((pool(HELD, SHUT),), "critical", "No backend is ready"),
        ((pool(HELD, DOWN),), "critical", "No backend is ready"),
        ((pool(HELD, NEW),), "checking", "Checking 1 backend"),
        ((pool(NEW, NEW),), "checking", "Checking 2 backends"),
        ((pool(NEW, DOWN),), "checking", "Checking 1 backend"),
        ((pool(DOWN),), "critical", "No backend is ready"),
        ((pool(UP), pool(DOWN, name="x")), "critical", "Pool x has no ready backend"),
        ((pool(DOWN), pool(DOWN, name="x")), "critical", "No pool has a ready backend"),
        (
            (pool(UP), pool(DOWN, name="x"), pool(DOWN, name="y")),
            "critical",
            "2 of 3 pools have no ready backend",
        ),
        ((NONE,), "warning", "No backends"),
        ((pool(UP), NONE), "critical", "Pool x has no ready backend"),
        ((replace(pool(UP), writes=WRITTEN),), "ok", "The backend is ready"),
        ((replace(pool(UP), writes=UNWRITTEN),), "critical", "Pool web has no primary"),
        ((replace(pool(UP), writes=SPLIT),), "critical", "Pool web has two primaries"),
        ((replace(pool(UP, LATE), writes=WRITTEN),), "warning", "c lags too far"),
        ((replace(pool(UP, LATE, LATE), writes=WRITTEN),), "warning", "2 replicas lag too far"),
        ((replace(pool(UP, LATE, DOWN), writes=WRITTEN),), "warning", "1 of 3 backends down"),
        ((replace(pool(UP, RIVAL), writes=WRITTEN),), "warning", "Pool web has two primaries"),
        ((replace(pool(UP, RIVAL, DOWN), writes=WRITTEN),), "warning", "Pool web has two primaries"),
        ((replace(pool(DOWN), writes=UNWRITTEN),), "critical", "No backend is ready"),
    ],
)
def test_one_sentence_says_how_it_stands(pools, level, title):
    headline = summarise(status(*pools))
    assert (headline.level, headline.title) == (level, title)


def test_what_is_wrong_is_said_in_the_words_of_the_probe():
    assert "b: connection refused" in summarise(status(pool(UP, DOWN))).detail
    assert "b is down: connection refused" in summarise(status(pool(DOWN))).detail
    assert "All 2 backends of web are down: connection refused" in summarise(status(pool(DOWN, DOWN))).detail
    assert summarise(status(pool(UP, DOWN, DOWN, DOWN))).detail.endswith("; and 1 more.")
    assert "d: draining; b: down" in summarise(status(pool(HELD, DOWN))).detail


def test_without_a_primary_it_is_said_why_and_how_many_wait():
    detail = summarise(status(replace(pool(UP), writes=UNWRITTEN))).detail
    assert detail == "Nobody takes writes: nobody says so. 3 clients held."


def test_backends_of_one_name_in_several_pools_are_told_apart():
    other = replace(DOWN, id="x/b")
    detail = summarise(status(pool(UP, DOWN), pool(UP, other, name="x"))).detail
    assert f"{DOWN.id}: connection refused; x/b: connection refused" in detail
