"""What ``easyproxy run`` does in an order of events that signals seldom give. With signals: tests/system."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from easyproxy.cli.run import _drain, _has_started
from easyproxy.errors import EngineError

pytestmark = pytest.mark.anyio


class Balancer:
    """Stands in for the real one, and notes whether it was stopped."""

    def __init__(self, start=None, drain=None) -> None:
        self.is_stopped = False
        self._start, self._drain = start, drain

    async def __aenter__(self):
        if self._start is not None:
            await self._start()
        return self

    async def drain(self):
        await self._drain()

    async def stop(self):
        self.is_stopped = True


def signals() -> SimpleNamespace:
    return SimpleNamespace(stop=asyncio.Event(), at_once=asyncio.Event())


async def test_who_is_told_to_stop_in_the_moment_in_which_it_serves_ends_as_one_that_serves():
    asked = signals()

    async def start():
        asked.stop.set()

    for _ in range(20):  # which of two has come first is no matter of chance
        assert await _has_started(Balancer(start), None, asked)


async def test_what_has_started_in_spite_of_its_cancellation_is_stopped():
    asked = signals()

    async def start():
        asked.stop.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return  # nothing was left to wait for

    balancer = Balancer(start)
    assert not await _has_started(balancer, None, asked)
    assert balancer.is_stopped


async def test_a_drain_that_fails_is_logged(caplog):
    async def drain():
        raise EngineError("nft failed")

    told = SimpleNamespace(stopping=lambda: None)
    await _drain(Balancer(drain=drain), told, signals())
    assert [record.message for record in caplog.records] == ["not every session could be let end: nft failed"]
