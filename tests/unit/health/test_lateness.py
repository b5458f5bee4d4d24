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
