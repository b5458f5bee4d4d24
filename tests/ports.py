"""Ports for servers that go away and come back: each is given to one run of tests on this machine."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path

# Below the ephemeral ports: a free one of those could be taken by an outgoing connection while its server is away.
_PORTS = range(10_000, 30_000)
_BAD_PORTS = {10_080}  # those of them that no browser goes to (fetch.spec.whatwg.org, "bad port")
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on, and that nobody else is given until the tests of this process end."""
    for _ in range(1000):
        port = random.choice(_PORTS)
        if not _takes(port):
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise AssertionError("there is no free port")


@functools.cache
def _register() -> int:
    """Open the file that all runs on this machine share: who has locked a byte of it has the port of that number."""
    place = Path(tempfile.gettempdir(), f"easyproxy-tests-{os.getuid()}.ports")
    return os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _takes(port: int) -> bool:
    if port in _given or port in _BAD_PORTS:
        return False
    try:
        fcntl.lockf(_register(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # fcntl(2): it ends with the process
    except OSError:
        return False
    _given.add(port)
    return True
