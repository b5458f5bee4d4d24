"""A thousand backends, all of them one listening socket at many addresses of this machine."""

from __future__ import annotations

import socket
import sys

import pytest
from eventually import comes_true

from easyproxy import Balancer
from easyproxy.control.registry import Change

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the whole of 127.0.0.0/8 is this machine's on Linux"),
]
MANY = 1000


async def test_a_thousand_backends_become_ready_and_leave_together_and_status_answers():
    with socket.create_server(("0.0.0.0", 0), backlog=4096) as server:
        port = server.getsockname()[1]
        backends = [
            {"name": f"b{i}", "address": f"127.1.{i // 200}.{1 + i % 200}:{port}"} for i in range(MANY)
        ]
        check = {"type": "tcp", "interval": "5s", "timeout": "5s"}
        config = {
            "listeners": [{"name": "l", "bind": "127.0.0.1:0", "pool": "p"}],
            "pools": {"p": {"check": check, "backends": backends}},
        }
        down: set[str] = set()

        def note(change: Change) -> None:
            if change.state == "down":
                down.add(change.backend)

        async with Balancer(config, on_change=note) as balancer:

            def states() -> set[str]:
                return {backend.state for backend in balancer.status().pools[0].backends}

            assert states() == {"ready"}, "the first probe has decided before the first client"
            server.close()
            await comes_true(lambda: len(down) == MANY, "all of them are down")
            assert states() == {"down"}
