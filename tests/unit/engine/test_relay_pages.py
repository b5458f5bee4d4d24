"""The pages about sessions say what the table says, and the lexicon leaves no word out."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from easyproxy.engine.relay.life import REASONS, TABLE, Event, State
from easyproxy.engine.seam import Outcome
from easyproxy.strategy import BUILTIN

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def maker():
    return runpy.run_path(str(DOCS / "make_sessions.py"))


def test_the_page_about_sessions_is_what_the_table_makes_of_it(maker):
    assert (DOCS / "sessions.md").read_text(encoding="utf-8") == maker["page"](), (
        "run: python docs/make_sessions.py"
    )


def test_the_diagram_has_every_transition_once(maker):
    drawn = [
        (before, event, after)
        for before, after, events in re.findall(
            r"^    (\w+) --> (\w+): (.*)$", maker["diagram"](TABLE), re.MULTILINE
        )
        for event in events.split("<br>")
    ]
    assert sorted(drawn) == sorted((state, event, answer.state) for (state, event), answer in TABLE.items())


def test_the_table_of_the_page_has_every_transition_once(maker):
    lines = maker["rows"](TABLE).splitlines()[2:]
    cells = [tuple(cell.strip() for cell in line.split("|")[1:4]) for line in lines]
    assert sorted(cells) == sorted((state, event, answer.state) for (state, event), answer in TABLE.items())


def words(heading: str) -> list[str]:
    """Return the first column of a section's table in the lexicon."""
    text = (DOCS / "lexicon.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    return re.findall(r"^\| `(\w+)` \|", section[1], re.MULTILINE)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("Why a session ended", (*REASONS, "fin", "reset")),
        ("Strategies", BUILTIN),
        ("States of a session", State),
        ("States of a backend", ("checking", "ready", "down", "draining", "maintenance")),
        ("What an observation found", Outcome),
    ],
)
def test_the_lexicon_explains_every_word_once_and_no_other(heading, expected):
    assert sorted(words(heading)) == sorted(str(word) for word in expected)


def test_every_reason_is_the_name_of_an_event():
    assert {Event(reason) for reason in REASONS} == set(Event) - {Event.CONNECTED}
