"""The monitor with checks of the test's own, in real time: each test waits for events, none for a duration."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Check, Target
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
ADDRESS = Address("127.0.0.1", 1)


async def until(holds: Callable[[], object]) -> None:
    """Return as soon as it holds; the suite's time limit is the only other end."""
    while not holds():  # noqa: ASYNC110 - what is waited for is seen, not signalled
        await asyncio.sleep(0.001)


class Log:
    """Takes observations and lets a test wait for them."""

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self.changing: set[str] = set()

    def take(self, observation: Observation) -> None:
        self.seen.append(observation)

    async def until(self, count: int, backend: str = "p/a") -> list[Observation]:
        await until(lambda: len(self.of(backend)) >= count)
        return self.of(backend)

    def of(self, backend: str) -> list[Observation]:
        return [one for one in self.seen if one.backend == backend]


@contextlib.asynccontextmanager
async def monitoring(log: Log, **options) -> AsyncIterator[Monitor]:
    monitor = Monitor(log.take, log.changing.__contains__, **options)
    try:
        yield monitor
    finally:
        await monitor.stop()


def target(check: Check, backend: str = "p/a", **times) -> Target:
    times = {"interval_s": 0.01, "fast_interval_s": 0.01, "timeout_s": 0.5} | times
    return Target(backend, "p", backend.partition("/")[2], ADDRESS, check, **times)


@dataclass(eq=False)
class Counting(Check):
    """Counts its probes and the most that ran at once; ``hold`` keeps them from ending."""

    hold: asyncio.Event = field(default_factory=asyncio.Event)
    started: int = 0
    running: int = 0
    most: int = 0

    async def probe(self, _: Target) -> str:
        self.started += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.hold.wait()
        finally:
            self.running -= 1
        return "fine"


@dataclass(frozen=True)
class Raising(Check):
    error: BaseException

    async def probe(self, _: Target) -> str:
        raise self.error


@dataclass(eq=False)
class Deaf(Check):
    """Ignores every cancellation until the test lets it go."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    started: int = 0

    async def probe(self, _: Target) -> str:
        self.started += 1
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        return "late"


@dataclass(frozen=True)
class Fine(Check):
    async def probe(self, _: Target) -> str:
        return "fine"


async def test_the_first_round_ends_when_every_target_was_probed_once():
    """Behaviour 25."""
    log = Log()
    async with monitoring(log) as monitor:
        monitor.watch([target(Fine(), f"p/{n}", interval_s=60) for n in range(20)])
        await monitor.first_round()
        assert {one.backend for one in log.seen} == {f"p/{n}" for n in range(20)}
        assert all((one.outcome, one.detail) == (Outcome.SUCCESS, "fine") for one in log.seen)


async def test_the_first_round_ends_though_a_backend_never_answers():
    log = Log()
    async with monitoring(log) as monitor:
        monitor.watch([target(Counting(), timeout_s=0.02)])
        await monitor.first_round()
        assert log.seen[0].outcome is Outcome.TIMEOUT
        assert log.seen[0].detail == "no answer within 0.02 s"


async def test_the_first_round_does_not_wait_for_a_target_that_was_dropped():
    log = Log()
    async with monitoring(log) as monitor:
        monitor.watch([target(Counting(), timeout_s=60)])
        waiter = asyncio.create_task(monitor.first_round())
        await asyncio.sleep(0)
        monitor.watch([])
        async with asyncio.timeout(10):
            await waiter


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (ProbeFailed("no quorum"), Outcome.FAILED, "no quorum"),
        (ConnectionRefusedError(), Outcome.REFUSED, "connection refused"),
        (OSError(errno.EHOSTUNREACH, "x"), Outcome.REFUSED, "no route to the host"),
        (ConnectionResetError(), Outcome.RESET, "reset"),
        (TimeoutError(), Outcome.TIMEOUT, "timed out"),
        (KeyError("lost"), Outcome.FAILED, "KeyError: 'lost'"),
        (SystemExit(3), Outcome.FAILED, "SystemExit"),
        (asyncio.CancelledError(), Outcome.FAILED, "cancelled itself"),
        (ProbeFailed("a\x1b[2Jb\n" + "c" * 5000), Outcome.FAILED, "a [2Jb ccc"),
    ],
)
async def test_whatever_a_check_raises_is_an_observation_and_probing_goes_on(error, outcome, words):
    log = Log()
    async with monitoring(log) as monitor:
        monitor.watch([target(Raising(error))])
        first, second = (await log.until(2))[:2]
    assert first.outcome is second.outcome is outcome
    assert words in first.detail
    assert len(first.detail) <= 200


@pytest.mark.parametrize("code", [errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENOBUFS])
async def test_a_shortage_of_this_machine_is_no_observation_and_is_said_once(code, caplog):
    """Behaviour 17."""
    log = Log()
    check = Flaky([OSError(code, "short"), OSError(code, "short")])
    async with monitoring(log) as monitor:
        monitor.watch([target(check)])
        await monitor.first_round()
        assert (await log.until(1))[0].outcome is Outcome.SUCCESS
    assert len([record for record in caplog.records if "this machine" in record.message]) == 1


@dataclass(eq=False)
class Flaky(Check):
    errors: list[BaseException]

    async def probe(self, _: Target) -> str:
        if self.errors:
            raise self.errors.pop()
        return "fine"


async def test_a_check_that_ignores_cancellation_costs_only_its_own_backend():
    log = Log()
    deaf = Deaf()
    async with monitoring(log, concurrency=1) as monitor:
        monitor.watch([target(deaf, "p/deaf", timeout_s=0.01), target(Fine(), "p/a")])
        await log.until(3, "p/a")
        stuck = await log.until(2, "p/deaf")
        assert deaf.started == 1
        assert "ignores the time limit" in stuck[1].detail
        deaf.release.set()
        await until(lambda: log.seen[-1].detail == "late")


async def test_stop_leaves_a_deaf_check_behind_and_says_so(caplog):
    log = Log()
    deaf = Deaf()
    monitor = Monitor(log.take, log.changing.__contains__)
    monitor.watch([target(deaf, timeout_s=60)])
    await until(lambda: deaf.started)
    await monitor.stop()
    assert "left behind" in caplog.text
    deaf.release.set()


async def test_stop_cancels_and_awaits_everything():
    log = Log()
    check = Counting()
    monitor = Monitor(log.take, log.changing.__contains__)
    before = asyncio.all_tasks()
    monitor.watch([target(check, f"p/{n}", timeout_s=60) for n in range(10)])
    await until(lambda: check.running == 10)
    await monitor.stop()
    assert check.running == 0
    assert asyncio.all_tasks() == before
    assert log.seen == []


async def test_never_more_probes_at_once_than_allowed():
    log = Log()
    check = Counting()
    async with monitoring(log, concurrency=7) as monitor:
        monitor.watch([target(check, f"p/{n}", timeout_s=60) for n in range(50)])
        await until(lambda: check.running == 7)
        check.hold.set()
        await monitor.first_round()
        assert check.most == 7


async def test_expensive_checks_have_a_lower_bound_and_do_not_hold_up_the_others():
    log = Log()
    check = Counting()
    check.expensive = True
    async with monitoring(log, expensive=2) as monitor:
        monitor.watch([*(target(check, f"p/{n}", timeout_s=60) for n in range(9)), target(Fine(), "p/a")])
        await log.until(3, "p/a")
        assert check.most == check.running == 2


async def test_watching_the_same_again_does_not_disturb_a_probe_under_way():
    log = Log()
    check = Counting()
    async with monitoring(log) as monitor:
        monitor.watch([target(check, timeout_s=60, interval_s=60)])
        await until(lambda: check.started)
        monitor.watch([target(check, timeout_s=60, interval_s=60), target(Fine(), "p/b")])
        await log.until(2, "p/b")
        check.hold.set()
        await log.until(1)
        assert check.started == 1


async def test_a_changed_target_is_probed_anew_and_the_old_probe_is_not_observed():
    log = Log()
    old = Counting()
    async with monitoring(log) as monitor:
        monitor.watch([target(old, timeout_s=60)])
        await until(lambda: old.started)
        old.hold.set()
        monitor.watch([target(Raising(ProbeFailed("new")))])
        await log.until(3)
        assert {one.detail for one in log.seen} == {"new"}
        assert old.running == 0


async def test_a_target_that_is_left_out_is_not_observed_any_more():
    log = Log()
    async with monitoring(log) as monitor:
        monitor.watch([target(Fine()), target(Fine(), "p/b")])
        await log.until(2)
        monitor.watch([target(Fine(), "p/b")])
        count = len(log.of("p/a"))
        await log.until(len(log.of("p/b")) + 5, "p/b")
        assert len(log.of("p/a")) == count


async def test_a_backend_has_one_target():
    async with monitoring(Log()) as monitor:
        with pytest.raises(ValueError, match="twice"):
            monitor.watch([target(Fine()), target(Fine())])


async def test_the_fast_interval_applies_while_the_verdict_is_changing():
    """Behaviour 22."""
    log = Log()
    log.changing.add("p/a")
    async with monitoring(log) as monitor:
        monitor.watch(
            [target(Fine(), interval_s=3600), target(Fine(), "p/b", interval_s=3600, fast_interval_s=3600)]
        )
        await log.until(5, "p/a")
        assert len(await log.until(1, "p/b")) == 1


async def test_hurry_probes_before_the_interval_is_over_and_many_calls_are_one_probe():
    """Behaviour 24."""
    log = Log()
    async with monitoring(log) as monitor:
        clock = target(Fine(), "p/clock", interval_s=0.05, fast_interval_s=0.05)
        monitor.watch([target(Fine(), interval_s=3600, fast_interval_s=0.05), clock])
        monitor.hurry("p/unknown")
        await monitor.first_round()
        for _ in range(1000):
            monitor.hurry("p/a")
        first, second = await log.until(2)
        assert (
            second.at - first.at >= 0.04
        )  # never more often than the fast interval; a lower bound cannot flake
        await log.until(len(log.of("p/clock")) + 4, "p/clock")
        assert len(log.of("p/a")) == 2


async def test_a_receiver_that_fails_does_not_end_the_probing(caplog):
    log = Log()
    check = Counting()
    check.hold.set()

    def refuse(_: Observation) -> None:
        raise RuntimeError("full")

    monitor = Monitor(refuse, log.changing.__contains__)
    monitor.watch([target(check)])
    await until(lambda: check.started >= 3)
    await monitor.stop()
    assert "could not be taken" in caplog.text


async def test_many_monitors_live_and_end_without_a_trace():
    log = Log()
    before = asyncio.all_tasks()
    for _ in range(50):
        async with monitoring(log) as monitor:
            monitor.watch([target(Fine())])
            await monitor.first_round()
    assert asyncio.all_tasks() == before
