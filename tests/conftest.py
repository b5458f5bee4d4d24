"""What every test shares."""

from __future__ import annotations

import os
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Say how many files of tests run side by side with ``-n auto``: one more than there are cores, because tests wait.

    With more than four the longest file is not shorter, and each of them starts servers of its own.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 3) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: whatever begins last is waited for."""
    files = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in files)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
