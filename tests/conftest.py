"""What every test shares."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings


def pytest_configure() -> None:
    # Whoever starts us in the background may have us ignore Ctrl-C, and so would every program that a test starts and
    # ends with it.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # No test goes by time, also not by how long one example takes on a busy machine.
    settings.register_profile("ours", deadline=None)
    settings.load_profile("ours")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
