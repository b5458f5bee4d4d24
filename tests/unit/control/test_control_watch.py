"""What counts as a change of the file, whatever changes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from easyproxy.config.load import Source
from easyproxy.control.watch import AUTHOR, Steady, Watch, mark_of
from easyproxy.errors import ConfigError, Problem

pytestmark = pytest.mark.anyio


class Reader:
    """A file in memory, that counts how often it is read."""

    def __init__(self, text=""):
        self.text, self.reads = text, 0

    def __call__(self):
        self.reads += 1
        if self.text is None:
            return ConfigError([Problem("f", "", "there is no such file")])
        return Source("f.yaml", "yaml", self.text)


def looks(*steps):
    """Let a Steady see marks and texts; return the text that it has found after each look."""
    steady, found = Steady(), []
    for mark, text in steps:
        steady.look((mark,), Reader(text))
        found.append(steady.found.text if isinstance(steady.found, Source) else steady.found)
    return found


def test_a_text_counts_when_two_looks_have_found_it():
    assert looks((1, "a"), (1, "a"), (1, "a")) == [None, "a", "a"]


def test_a_text_that_is_still_being_written_does_not_count():
    assert looks((1, "a"), (1, "a"), (2, "b"), (3, "bc"), (4, "bcd"), (4, "bcd")) == [
        None, "a", None, None, None, "bcd",
    ]  # fmt: skip


def test_a_touched_file_is_the_same_file():
    assert looks((1, "a"), (1, "a"), (2, "a"), (3, "a")) == [None, "a", "a", "a"]


def test_a_file_that_is_touched_all_the_time_becomes_steady_too():
    assert looks((1, "a"), (2, "a")) == [None, "a"]


def test_a_file_whose_mark_stays_is_not_read_again():
    steady, read = Steady(), Reader("a")
    for _ in range(10):
        steady.look((1,), read)
    assert read.reads == 2


def test_a_file_that_is_gone_for_two_looks_is_gone():
    found = looks((1, "a"), (1, "a"), (None, None), (None, None))
    assert found[2] is None
    assert isinstance(found[3], ConfigError)


def test_a_file_that_is_away_for_a_moment_is_not_gone():
    assert looks((1, "a"), (1, "a"), (None, None), (2, "a"), (2, "a"))[2:] == [None, None, "a"]


class Following:
    """What the watch tells, instead of a balancer."""

    def __init__(self, file):
        self.file, self.is_waiting, self.is_deciding, self.took = file, False, False, []

    async def follow(self, source, author):
        assert author is AUTHOR
        if self.is_deciding:
            return False
        self.took.append(source.text)
        return True

    def unreadable(self, error, _author):
        self.took.append(error)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "easyproxy.yaml"
    path.write_text("one")
    return path


@pytest.fixture
def following(file):
    return Following(file)


async def looks_of(watch, count=3):
    for _ in range(count):
        await watch.look()


async def test_each_content_is_handed_over_once(following):
    watch = Watch(following, lambda: True)
    await looks_of(watch, 10)
    following.file.write_text("two")
    await looks_of(watch, 10)
    assert following.took == ["one", "two"]


async def test_an_editors_rename_is_a_change(following, tmp_path):
    watch = Watch(following, lambda: True)
    await looks_of(watch)
    (tmp_path / "new").write_text("two")
    (tmp_path / "new").rename(following.file)
    await looks_of(watch)
    assert following.took == ["one", "two"]


async def test_a_file_that_is_replaced_by_an_equal_one_with_the_same_times_is_no_change(following, tmp_path):
    watch = Watch(following, lambda: True)
    await looks_of(watch)
    (tmp_path / "new").write_text("one")
    (tmp_path / "new").rename(following.file)
    os.utime(following.file)
    await looks_of(watch)
    assert following.took == ["one"]


def config_map(folder: Path, version: str, text: str) -> None:
    """Do what the kubelet does: a folder of its own for each version, and one link that is swapped (atomic_writer.go)."""
    made = folder / version
    made.mkdir()
    (made / "easyproxy.yaml").write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(version)
    link.rename(folder / "..data")
    if not (folder / "easyproxy.yaml").is_symlink():
        (folder / "easyproxy.yaml").symlink_to("..data/easyproxy.yaml")


async def test_the_swap_of_a_config_map_is_a_change(tmp_path):
    config_map(tmp_path, "..2026_1", "one")
    following = Following(tmp_path / "easyproxy.yaml")
    watch = Watch(following, lambda: True)
    await looks_of(watch)
    # The new file has the size and the time of the old one: only the content tells.
    config_map(tmp_path, "..2026_2", "two")
    old, new = (tmp_path / name / "easyproxy.yaml" for name in ("..2026_1", "..2026_2"))
    os.utime(new, ns=(old.stat().st_atime_ns, old.stat().st_mtime_ns))
    await looks_of(watch)
    config_map(tmp_path, "..2026_3", "two")
    await looks_of(watch)
    assert following.took == ["one", "two"]


async def test_a_change_waits_while_a_reload_is_unconfirmed(following):
    watch = Watch(following, lambda: True)
    following.is_waiting = True
    await looks_of(watch)
    following.file.write_text("two")
    await looks_of(watch)
    assert following.took == []
    following.is_waiting = False
    await looks_of(watch, 1)
    assert following.took == ["two"]


async def test_a_change_that_met_a_reload_under_way_is_not_lost(following):
    watch = Watch(following, lambda: True)
    following.is_deciding = True  # it became unconfirmed between the look and the taking
    await looks_of(watch)
    following.is_deciding = False
    await looks_of(watch, 1)
    assert following.took == ["one"]


async def test_a_file_that_has_gone_is_told_once(following):
    watch = Watch(following, lambda: True)
    await looks_of(watch)
    following.file.unlink()
    await looks_of(watch, 5)
    assert len(following.took) == 2
    assert "there is no such file" in str(following.took[1])


async def test_a_watch_that_is_off_sees_nothing_until_it_is_on(following):
    is_on = False
    watch = Watch(following, lambda: is_on)
    await looks_of(watch)
    assert following.took == []
    is_on = True
    await looks_of(watch)
    assert following.took == ["one"]


def test_the_mark_of_a_link_is_that_of_the_file(tmp_path, file):
    link = tmp_path / "link"
    link.symlink_to(file)
    assert mark_of(link) == mark_of(file)
    assert mark_of(tmp_path / "nosuch") is None
