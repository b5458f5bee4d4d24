"""The state file: overrides survive a restart, whatever lies at its place and however full the disk is."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.control.asked import is_shown_whole
from easyproxy.control.journal import Journal
from easyproxy.control.keeping import AGAIN_S, Keeper
from easyproxy.control.operations import Action, Author, Override
from easyproxy.control.state_file import StateFile, StateFileError, default_place, parse, render

DRAIN = Override("o1", "p/a", Action.DRAIN, Author("ann", "kernel update"), at=5.0, until=9.0, deadline=8.0)
WEIGHT = Override(
    "o2", "p/b", Action.WEIGHT, Author("bob"), at=6.0, value=7, base=1, conflict="the file says 3"
)
ADDED = Override("o3", "p/c", Action.ADD, Author("Zoë"), at=7.0, value={"address": "10.0.0.3:1"})
ALL = (DRAIN, WEIGHT, ADDED)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "overrides.json"


def test_what_is_written_is_read(place):
    assert StateFile(place).read() == ()
    assert StateFile(place).write(ALL)
    assert StateFile(place).read() == ALL
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert [one.name for one in place.parent.iterdir()] == [place.name], "no temporary file is left"


# No name and no author holds anything else: what would break a line is refused or replaced when it is made.
words = st.text(st.characters(exclude_categories=["Cs"]).filter(is_shown_whole), max_size=20)
overrides = st.builds(
    Override,
    id=words,
    backend=words,
    action=st.sampled_from([Action.DRAIN, Action.MAINTENANCE, Action.REMOVE]),
    author=st.builds(Author, words, words),
    at=st.floats(0, 2e11),
    base=st.one_of(st.none(), st.integers(0, 300), st.dictionaries(words, st.integers() | words, max_size=3)),
    until=st.floats(0, 2e11),
    deadline=st.floats(0, 2e11),
    conflict=words,
)


@given(st.lists(overrides, unique_by=lambda one: one.id, max_size=4))
def test_every_override_comes_back_as_it_was(made):
    assert parse(render(made)) == tuple(made)


def test_nothing_is_written_unless_something_has_changed(place):
    file = StateFile(place)
    assert not file.write(()), "and no file appears for nothing"
    assert not place.exists()
    assert file.write((DRAIN,))
    before = place.stat().st_ino
    assert not file.write((DRAIN,))
    assert place.stat().st_ino == before
    assert file.write(())
    assert StateFile(place).read() == ()
    assert place.stat().st_ino != before, "another file took its place: no reader ever sees half of one"
    again = StateFile(place)
    assert again.read() == ()
    assert not again.write(())


DOCUMENT = json.loads(render(ALL))


def changed(**fields) -> str:
    first = {**DOCUMENT["overrides"][0], **fields}
    return json.dumps({**DOCUMENT, "overrides": [first]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\0" * 4096,  # what a file system may leave after a crash
        render(ALL)[:-30],
        render(ALL)[:15],
        render(ALL) + "[" * 100_000,
        json.dumps({**DOCUMENT, "version": 2}),
        json.dumps({**DOCUMENT, "overrides": {}}),
        json.dumps({**DOCUMENT, "overrides": [5]}),
        json.dumps({**DOCUMENT, "overrides": DOCUMENT["overrides"][:1] * 2}),
        changed(action="explode"),
        changed(at="yesterday"),
        changed(at=-1),
        changed(until=1e999),
        changed(author="ann"),
        changed(backend=None),
        changed(value=3),
        changed(action="weight"),
        changed(action="add", value=3),
        changed(base=[1]),
        changed(id="x" * 5000),
        changed(at=1e300),  # no calendar has it: nobody could be told since when
        changed(backend="p/\ud800"),  # neither a table nor an answer could hold it
        changed(author={"who": "ann", "why": "\ud800"}),
        changed(author={"who": "ann\n2026-01-01 root", "why": ""}),
        changed(backend="p/\x1b[31m"),
        changed(conflict="\ud800"),
    ],
)
def test_what_is_no_state_file_is_moved_aside_and_told(place, text):
    place.write_text(text)
    file = StateFile(place)
    with pytest.raises(StateFileError) as told:
        file.read()
    assert not place.exists()
    [aside] = place.parent.iterdir()
    assert aside.read_text() == text, "nothing is deleted"
    assert str(aside) in str(told.value)
    assert file.write((DRAIN,)), "and its place is free for the next"
    assert StateFile(place).read() == (DRAIN,)


@pytest.mark.parametrize(
    "data", [b"null", b"[]", b"[" * 100_000, b'{"some": "thing else"}', b"root:x:0:0:\n", b"\xff\xfe"]
)
def test_what_somebody_else_has_put_there_is_left_alone(place, data):
    place.write_bytes(data)
    file = StateFile(place)
    with pytest.raises(StateFileError, match="left as it is"):
        file.read()
    with pytest.raises(StateFileError, match="not ours"):
        file.write((DRAIN,))
    assert [one.read_bytes() for one in place.parent.iterdir()] == [data]


def test_bytes_that_are_no_text_and_files_that_are_too_large_are_moved_aside(place):
    place.write_bytes(render(ALL).encode() + b"\xff\xfe\x00")
    with pytest.raises(StateFileError, match="lies at"):
        StateFile(place).read()
    with place.open("wb") as file:
        file.truncate(17 * 1024**2)
    with pytest.raises(StateFileError, match="larger than 16 MiB"):
        StateFile(place).read()
    assert len(list(place.parent.iterdir())) == 2, "one does not take the place of the other"


def test_a_fifo_holds_up_no_start_and_no_device_is_moved(place):
    """As root: ``state_file: /dev/null`` must not take that away from everybody."""
    os.mkfifo(place)
    file = StateFile(place)
    with pytest.raises(StateFileError, match="no regular file"):
        file.read()
    with pytest.raises(StateFileError, match="not ours"):
        file.write((DRAIN,))
    assert place.is_fifo()


def test_a_link_is_neither_followed_nor_written_over(place, tmp_path):
    target = tmp_path / "precious"
    target.write_text(render(ALL))
    place.symlink_to(target)
    file = StateFile(place)
    with pytest.raises(StateFileError, match="cannot be read"):
        file.read()
    with pytest.raises(StateFileError, match="not ours"):
        file.write((DRAIN,))
    assert target.read_text() == render(ALL)
    assert place.is_symlink()


def full_disk(monkeypatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("easyproxy.control.state_file.os.fsync", fsync)


def test_a_full_disk_leaves_the_former_file_as_it_was(place, monkeypatch):
    file = StateFile(place)
    file.write((DRAIN,))
    full_disk(monkeypatch)
    with pytest.raises(StateFileError, match="No space left on device"):
        file.write(ALL)
    assert [one.name for one in place.parent.iterdir()] == [place.name]
    assert StateFile(place).read() == (DRAIN,)
    monkeypatch.undo()
    assert file.write(ALL)
    assert StateFile(place).read() == ALL


def test_a_place_that_cannot_be_written_is_told_beforehand(tmp_path):
    assert StateFile(tmp_path / "x").shortage == ""
    assert "no directory" in StateFile(tmp_path / "nowhere" / "x").shortage


def test_the_default_place_is_systemds_or_beside_the_file(tmp_path):
    assert default_place("/etc/e.yaml", {"STATE_DIRECTORY": "/a:/b"}) == Path("/a/overrides.json")
    assert default_place(tmp_path / "e.yaml", {"STATE_DIRECTORY": ""}) == tmp_path / "e.overrides.json"
    assert default_place("e.yaml", {}).is_absolute()


# -- keeping


class Clock:
    """Time that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.anyio
async def test_a_change_that_cannot_be_written_is_told_once_and_tried_again(place, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "easyproxy")
    journal, clock = Journal(), Clock()
    keeper = Keeper(StateFile(place), journal, clock)
    full_disk(monkeypatch)
    answers = [await keeper.save((DRAIN,)), await keeper.save(ALL)]
    [event] = journal.events.newest()
    assert (event.kind, event.level, event.subject) == ("state_file", "warning", str(place))
    assert "will not survive a restart" in event.text
    assert answers == [event.text] * 2, "whoever makes a change hears of it each time"
    assert not keeper.is_owing
    clock.now += AGAIN_S
    assert keeper.is_owing
    monkeypatch.undo()
    assert await keeper.save(ALL) == ""
    assert journal.events.newest()[-1].text == "overrides survive a restart again"
    assert not keeper.is_owing
    assert StateFile(place).read() == ALL


@pytest.mark.anyio
async def test_a_file_that_is_not_ours_keeps_nobody_from_starting(place, caplog):
    place.write_text("hostile")
    journal = Journal()
    assert Keeper(StateFile(place), journal).read() == ()
    [event] = journal.events.newest()
    assert (event.kind, event.level) == ("state_file", "error")
    nowhere = Keeper(StateFile(place.parent / "nowhere" / "x"), journal)
    assert nowhere.read() == ()
    assert journal.events.newest()[-1].level == "warning"
    assert all("state file" in record.message for record in caplog.records)


@pytest.mark.anyio
async def test_without_a_file_nothing_is_kept_and_nothing_said():
    journal = Journal()
    keeper = Keeper(None, journal)
    assert keeper.read() == ()
    assert await keeper.save(ALL) == ""
    assert journal.events.newest() == []
    assert not keeper.is_owing


@pytest.mark.anyio
async def test_what_the_file_should_not_hold_any_more_is_owed(place):
    keeper = Keeper(StateFile(place), Journal())
    assert not keeper.is_owing
    keeper.owe()
    assert keeper.is_owing
    await keeper.save(ALL)
    assert not keeper.is_owing
    assert keeper._journal.events.newest() == [], "nothing went wrong, so nothing is told"
