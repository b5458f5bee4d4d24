"""The kernel engine in the balancer's namespace, without a control plane: what tests of it begin with."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator
from typing import Any

from easyproxy.engine.kernel import KernelEngine, Shortcut
from easyproxy.engine.seam import Report
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot
from system.kernel_net import BACKEND, FRONT, PORT, Net

FRONT_PORT = 8080


class Balancer:
    """A started engine in the balancer's namespace, with snapshots of one listener and one pool."""

    def __init__(self, source: str) -> None:
        self.complaints: list[str] = []
        self.reports: list[Report] = []
        self.shortcut = Shortcut(self.complaints.append)
        self.engine = KernelEngine(
            source=source, manage_sysctl=True, shortcut=self.shortcut, complain=self.complaints.append
        )
        self.version = 0

    def serve(
        self,
        *backends: Backend,
        bind: str = f"{FRONT[4]}:{FRONT_PORT}",
        strategy: str = "round_robin",
        **settings: Any,
    ) -> None:
        self.version += 1
        listener = Listener("front", Address.parse(bind), "pool", **settings)
        self.engine.apply(Snapshot(self.version, (listener,), (Pool("pool", strategy, backends),)))


def backend(name: str, *, family: int = 4, weight: int = 1, max_sessions: int = 0) -> Backend:
    address = Address(BACKEND[name, family], PORT)
    return Backend(f"pool/{name}", name, address, weight, max_sessions)


async def ending(sock: socket.socket) -> str:
    """Say how the other side ended it."""
    try:
        return "fin" if await asyncio.to_thread(sock.recv, 1) == b"" else "data"
    except ConnectionError:
        return "reset"


def nft(*words: str) -> str:
    return subprocess.run(["nft", *words], check=True, capture_output=True, text=True).stdout


@contextlib.asynccontextmanager
async def running(net: Net, source: str) -> AsyncIterator[Balancer]:
    """Start one in the balancer's namespace, in which the caller is meanwhile."""
    with net.inside("balancer"):
        made = Balancer(source)
        await made.engine.start(made.reports.append)
        try:
            yield made
        finally:
            await made.engine.stop()
