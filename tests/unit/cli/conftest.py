"""A real admin server in a thread of its own, for commands that block as they do in a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from pathlib import Path

import pytest

from easyproxy.admin.server import AdminServer
from easyproxy.model import Address

LOOPBACK = Address("127.0.0.1", 0)
sys.path.append(str(Path(__file__).parents[1] / "admin"))  # the scene is the admin server's


@pytest.fixture
def scene():
    from admin_scene import Scene  # noqa: PLC0415 - found through the line above

    return Scene()


@pytest.fixture
def serve(scene):
    """Start admin servers: serve(address, **options) returns the real address."""
    with contextlib.ExitStack() as stack:
        yield lambda bind=LOOPBACK, **options: stack.enter_context(_serving(scene, bind, options))


@contextlib.contextmanager
def _serving(scene, bind, options):
    started, server = threading.Event(), AdminServer(scene, bind, **options)
    stop: list = []

    async def live():
        ended = asyncio.Event()
        stop.extend([asyncio.get_running_loop(), ended])
        async with server:
            started.set()
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(live(),))
    thread.start()
    assert started.wait(30)
    yield server.address
    stop[0].call_soon_threadsafe(stop[1].set)
    thread.join()
