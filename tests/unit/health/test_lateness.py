"""A control process that is busy itself takes no backend's time: the loop is held up on purpose."""

from __future__ import annotations

import asyncio
import time

import pytest

from easyproxy.engine.seam import Observation, Outcome
from easyproxy.health.checks.base import Check, Target
from easyproxy.health.monitor import Monitor
from easyproxy.model import Address

pytestmark = pytest.mark.anyio
TIMEOUT_S = 0.2


class Held(Check):
    """Holds the loop up for longer than the time limit, and then needs a few more turns of it for the answer."""

    async def probe(self, target: Target) -> str:  # noqa: ARG002 - the signature of a check
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 - that is the fault it has
        for _ in range(5):
            await asyncio.sleep(0)
        return "answered"


class Silent(Check):
    """Holds the loop up, and never answers."""

    async def probe(self, target: Target) -> str:  # noqa: ARG002 - the signature of a check
        await asyncio.sleep(0)
        time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 - that is the fault it has
        await asyncio.Event().wait()
        return ""


class GivesUp(Check):
    """Looks at the time by itself, as those do that talk with a server, and is held up as often as it is told."""

    def __init__(self, held_up: int, *, answers: bool = True) -> None:
        self.held_up = held_up
        self.answers = answers
        self.probes = 0

    async def probe(self, target: Target) -> str:  # noqa: ARG002 - the signature of a check
        self.probes += 1
        await asyncio.sleep(0)
        if self.probes <= self.held_up:
            time.sleep(2 * TIMEOUT_S)  # noqa: ASYNC251 - that is the fault it has
        elif self.answers:
            return "answered"
        raise TimeoutError("connected, but no answer came in time")


async def first_of(check: Check) -> Observation:
    seen: list[Observation] = []
    monitor = Monitor(seen.append, lambda _backend: False)
    monitor.watch([Target("p/a", "p", "a", Address("127.0.0.1", 1), check, 60.0, 60.0, TIMEOUT_S)])
    try:
        await monitor.first_round()
    finally:
        await monitor.stop()
    return seen[0]


async def test_a_loop_that_was_late_is_no_timeout_of_the_backend():
    assert (await first_of(Held())).outcome is Outcome.SUCCESS


async def test_a_backend_that_never_answers_is_found_all_the_same():
    assert (await first_of(Silent())).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize(
    ("check", "outcome", "probes"),
    [
        (GivesUp(1), Outcome.SUCCESS, 2),
        (GivesUp(1, answers=False), Outcome.TIMEOUT, 2),
        (GivesUp(9), Outcome.TIMEOUT, 2),
        (GivesUp(0, answers=False), Outcome.TIMEOUT, 1),
    ],
)
async def test_a_check_that_gave_up_while_the_loop_stood_still_is_asked_again_once(check, outcome, probes):
    assert (await first_of(check)).outcome is outcome
    assert check.probes == probes
