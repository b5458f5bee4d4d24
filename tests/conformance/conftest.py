"""The fixture that gives a test each engine in turn, started and with its instruments."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from conformance.engines import ENGINES, Entry
from conformance.namespace import own_namespace
from conformance.rig import Rig


def pytest_configure() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(params=ENGINES, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Return the engine's entry, unless it declares the test's claim as an exception."""
    chosen: Entry = request.param
    for marker in request.node.iter_markers("behaviour"):
        for claim in marker.args:
            if claim in chosen.exceptions:
                pytest.skip(f"{chosen.name} does not keep {claim}: {chosen.exceptions[claim]}")
    return chosen


@pytest.fixture
async def rig(request: pytest.FixtureRequest, entry: Entry, anyio_backend: str) -> AsyncIterator[Rig]:
    """Start the engine, in a network namespace of its own where test or engine need one, and stop it after the test."""
    del anyio_backend  # named so that the fixture runs in the test's own event loop
    async with AsyncExitStack() as stack:
        namespace = None
        if entry.needs_namespace or request.node.get_closest_marker("root"):
            if os.geteuid() != 0:
                pytest.skip("needs root for a network namespace")
            namespace = stack.enter_context(own_namespace())
        engine = entry.make()
        made = Rig(entry, engine, stack, namespace)
        stack.push_async_callback(engine.stop)
        await engine.start(made.reports.append)
        yield made
