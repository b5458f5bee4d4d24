"""Writing the access log: nothing waits for a disk, and what is lost is counted and told."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import threading
from contextlib import asynccontextmanager

import pytest

from easyproxy.control import access_log
from easyproxy.control.access_log import AccessLog
from easyproxy.engine.seam import SessionEnd
from easyproxy.errors import ConfigError

pytestmark = pytest.mark.anyio


def ends(*numbers: int) -> list[SessionEnd]:
    return [SessionEnd(f"0.0.{n}", "front", "p/a", "192.0.2.1:1", "client_fin", 1.0, n, n) for n in numbers]


async def until(holds) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - a thread does it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def writing(path, form="json"):
    told: list[str] = []
    log = AccessLog(str(path), form, told.append)
    log.start()
    try:
        yield log, told
    finally:
        await log.stop()


def ids(path) -> list[int]:
    return [int(json.loads(line)["id"].rpartition(".")[2]) for line in path.read_text().splitlines()]


async def test_all_that_was_taken_is_in_the_file_after_the_end(tmp_path):
    path = tmp_path / "access.log"
    async with writing(path) as (log, _):
        for start in range(0, 20_000, 100):
            log.take(ends(*range(start, start + 100)))
    assert ids(path) == list(range(20_000))
    assert (log.lines, log.lost) == (20_000, 0)
    assert path.stat().st_mode & 0o777 == 0o640


async def test_a_file_that_is_there_is_appended_to(tmp_path):
    path = tmp_path / "access.log"
    for number in (1, 2):
        async with writing(path) as (log, _):
            log.take(ends(number))
    assert ids(path) == [1, 2]


async def test_after_a_move_and_a_signal_the_lines_go_to_a_new_file(tmp_path):
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with writing(path) as (log, _):
        log.take(ends(1))
        await until(lambda: log.lines == 1)
        path.rename(old)
        log.reopen()
        await until(path.exists)
        log.take(ends(2))
    assert (ids(old), ids(path)) == ([1], [2])


async def test_what_is_taken_while_the_file_is_opened_again_is_written_before_the_end(tmp_path, monkeypatch):
    reached, go_on = threading.Event(), threading.Event()
    real = AccessLog._reopen

    def reopen(log):
        reached.set()
        go_on.wait(30)
        real(log)

    monkeypatch.setattr(AccessLog, "_reopen", reopen)
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "json", print)
    log.start()
    log.reopen()
    await until(reached.is_set)
    log.take(ends(1))
    stopping = asyncio.create_task(log.stop())
    await until(lambda: log._is_ending)
    go_on.set()
    await stopping
    assert (ids(path), log.lost) == ([1], 0)


async def test_a_moved_file_is_noticed_without_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "LOOK_EVERY_S", 0.0)
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    async with writing(path) as (log, _):
        log.take(ends(1))
        await until(lambda: log.lines == 1)
        path.rename(old)
        log.take(ends(2))
    assert (ids(old), ids(path)) == ([1], [2])


async def test_when_the_new_file_cannot_be_opened_the_old_one_goes_on_and_it_is_told_once(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(access_log, "LOOK_EVERY_S", 0.02)
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    async with writing(path) as (log, told):
        log.take(ends(1))
        await until(lambda: log.lines == 1)
        folder.rename(tmp_path / "moved")
        log.reopen()
        log.take(ends(2))
        await until(lambda: told)
        log.take(ends(3))
        await until(lambda: log.lines == 3)
        folder.mkdir()
        log.reopen()
        await until(path.exists)
        log.take(ends(4))
    assert ids(tmp_path / "moved" / "access.log") == [1, 2, 3]
    assert ids(path) == [4]
    assert log.lost == 0
    [text] = told
    assert text.startswith(
        f"access log: it goes on in the file that was moved: there is no directory {folder}; create it"
    )


async def test_a_pipe_that_nobody_reads_stops_nobody_and_every_line_is_accounted_for(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "MAX_WAITING", 2000)
    monkeypatch.setattr(access_log, "STOP_WITHIN_S", 0.2)
    monkeypatch.setattr(access_log, "LOOK_EVERY_S", 0.05)
    path = tmp_path / "pipe"
    os.mkfifo(path)
    async with writing(path) as (log, told):
        for start in range(0, 10_000, 100):
            log.take(ends(*range(start, start + 100)))
        assert log.lost >= 10_000 - 2000 - 1000  # what waits, and what a pipe holds
        await until(lambda: told)
        assert "lines are lost" in told[0]
        assert str(path) in told[0]
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data, part = b"", b"."
        while part:  # until the thread has closed it
            try:
                part = os.read(reader, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                data += part
    finally:
        os.close(reader)
    assert log.lines + log.lost == 10_000
    assert log.lines == data.count(b"\n") > 0
    assert any("at the end" in text for text in told)


async def test_a_pipe_that_nobody_reads_is_left_for_a_file_and_no_line_is_lost(tmp_path):
    path = tmp_path / "access.log"
    os.mkfifo(path)
    async with writing(path) as (log, _):
        log.take(ends(*range(2000)))  # more than a pipe holds
        log.take(ends(2000))
        await until(lambda: is_full(path))
        with path.open("rb", buffering=0) as pipe:
            path.unlink()
            log.reopen()
            await until(lambda: log.lines == 2001)
            os.set_blocking(pipe.fileno(), False)
            there = pipe.read(1 << 20).count(b"\n")
    assert there + path.read_bytes().count(b"\n") == 2001
    assert log.lost == 0


def is_full(pipe):
    descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        return not select.select([], [descriptor], [], 0)[1]
    finally:
        os.close(descriptor)


async def test_a_pipe_gets_whole_lines_at_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    async with writing(path) as (log, _):
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            log.take(ends(*range(100)))
            await until(lambda: log.lines == 100)
            data = os.read(reader, 1 << 20)
        finally:
            os.close(reader)
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 100


async def test_a_full_disk_costs_lines_that_are_counted_and_told_once_and_then_it_goes_on(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(access_log, "LOOK_EVERY_S", 0.05)
    path = tmp_path / "access.log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with writing(path) as (log, told):
        log.take(ends(1))
        await until(lambda: log.lines == 1)
        room = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (room * 2 + room // 2, hard))  # two lines and a half
        try:
            log.take(ends(2, 3, 4))
            await until(lambda: log.lines + log.lost == 4)
            await until(lambda: told)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (log.lines, log.lost) == (2, 2)
        assert told == [f"access log: lines are lost: {path}: File too large"]
        log.take(ends(5))
        await until(lambda: len(told) == 2)
        assert told[1] == f"access log: {path} is written again; 2 lines were lost"
    lines = path.read_text().splitlines()
    assert [json.loads(lines[index])["id"] for index in (0, 1, 3)] == ["0.0.1", "0.0.2", "0.0.5"]
    assert len(lines) == 4, "half a line stands alone, and breaks no other"


async def test_a_device_that_is_full_from_the_start_loses_lines_and_nothing_else():
    async with writing("/dev/full") as (log, _):
        log.take(ends(1, 2, 3))
        await until(lambda: log.lost == 3)
    assert log.lines == 0


@pytest.mark.parametrize(
    ("path", "remedy"),
    [("missing/access.log", "there is no directory .*/missing; create it"), ("", "is a directory; name a file")],
)  # fmt: skip
async def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path, path, remedy):
    with pytest.raises(ConfigError, match=remedy) as caught:
        AccessLog(str(tmp_path / path), "json", print).start()
    assert caught.value.problems[0].path == "access_log.path"


async def test_stopping_what_was_never_started_does_no_harm(tmp_path):
    await AccessLog(str(tmp_path / "x"), "json", print).stop()


async def test_stopping_twice_does_no_harm(tmp_path):
    async with writing(tmp_path / "access.log") as (log, _):
        await log.stop()
        log.take(ends(1))
        assert log.lost == 1
