"""What a service manager is told, read from a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from easyproxy.control.notify import Notifier


class Manager(socket.socket):
    """Stands in for systemd."""

    @property
    def address(self) -> str:
        """What NOTIFY_SOCKET says of it."""
        name = self.getsockname()
        return name if isinstance(name, str) else "@" + name[1:].decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"\0easyproxy-test-{os.getpid()}"
    with Manager(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name)
        sock.settimeout(20)
        yield sock


def heard(manager) -> dict[str, str]:
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def test_ready_reloading_and_stopping_are_told_in_the_words_of_sd_notify(manager):
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.address})
    try:
        assert notifier.is_heard
        assert notifier.ready("all 2 backends ready")
        assert heard(manager) == {"READY": "1", "STATUS": "all 2 backends ready"}
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading()
        told = heard(manager)
        assert told["RELOADING"] == "1"
        assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.stopping("draining", within_s=45)
        assert heard(manager) == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "45000000", "STATUS": "draining"}
        notifier.main_process(4711)
        assert heard(manager) == {"MAINPID": "4711"}
    finally:
        notifier.close()


def test_a_name_cannot_become_a_message_of_its_own(manager):
    notifier = Notifier(manager.address)
    try:
        notifier.status("pool a\nMAINPID=1\r\nSTOPPING=1 is down \ud800")
        assert heard(manager) == {"STATUS": "pool a MAINPID=1 STOPPING=1 is down ?"}
        notifier.status("x" * 100_000)
        assert len(heard(manager)["STATUS"]) < 1000
    finally:
        notifier.close()


@pytest.mark.anyio
async def test_signs_of_life_come_twice_as_often_as_the_watchdog_asks(manager):
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "40000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier.from_environment(environment)
    assert notifier.watchdog_s == 0.04
    answers = iter(["well", "well", "worse"])
    task = asyncio.create_task(notifier.keep_alive(lambda: next(answers, "still there")))
    told = [await asyncio.to_thread(heard, manager) for _ in range(4)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    notifier.close()
    assert [each["STATUS"] for each in told] == ["well", "well", "worse", "still there"]
    assert all(each["WATCHDOG"] == "1" for each in told)


@pytest.mark.anyio
async def test_a_status_that_cannot_be_made_does_not_end_the_signs_of_life(manager):
    notifier = Notifier(manager.address, watchdog_s=0.02)

    def fails() -> str:
        raise KeyError("gone")

    task = asyncio.create_task(notifier.keep_alive(fails))
    assert [await asyncio.to_thread(heard, manager) for _ in range(2)] == [{"WATCHDOG": "1"}] * 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "expected_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),  # meant for another process
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
    ],
)
def test_the_watchdog_is_asked_for_by_the_environment(environment, expected_s):
    assert Notifier.from_environment(environment).watchdog_s == expected_s


@pytest.mark.anyio
@pytest.mark.parametrize(
    "address", ["", "vsock:2:1234", "/nowhere/at/all", "@nobody-listens-here", "relative"]
)
async def test_nobody_listening_is_no_error(address):
    notifier = Notifier(address)
    assert not notifier.ready()
    assert not notifier.alive()
    if not notifier.is_heard:
        await notifier.keep_alive(lambda: "")
    notifier.close()
    assert not notifier.alive()


def test_a_manager_that_does_not_read_holds_nobody_up(manager):
    notifier = Notifier(manager.address)
    try:
        while notifier.alive():  # until its queue is full
            pass
        assert not notifier.ready()
    finally:
        notifier.close()


@pytest.mark.parametrize(
    ("asked", "watchdog_s"),
    [
        ("20000000", 20),
        ("1", 0.02),
        ("0", 0),
        ("-5", 0),
        ("soon", 0),
        ("9" * 400, 999_999_999_999.999999),
        ("", 0),
    ],
)
def test_a_watchdog_that_nobody_can_satisfy_neither_ends_us_nor_keeps_us_busy(asked, watchdog_s):
    assert Notifier.from_environment({"WATCHDOG_USEC": asked}).watchdog_s == pytest.approx(watchdog_s)
