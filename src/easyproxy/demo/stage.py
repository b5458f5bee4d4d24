"""The demo's backends as child processes: started on free ports, and started again when somebody kills one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from easyproxy.errors import EasyProxyError

FIRST_PORT = 9601
"""Below the ephemeral ports: a free one of those could be taken by an outgoing connection while its backend is away."""
RESTART_AFTER_S = 10.0
_PATIENCE_S = 10.0
_TRIES = 10


@dataclass(slots=True)
class Actor:
    """One backend: its name, its port for all its lives, and its process now."""

    name: str
    port: int
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def pid(self) -> int:
        """The process id to kill; 0 while it is away."""
        return self.process.pid if self.process is not None else 0


class Stage:
    """Keeps the backends of the demo alive. Use it as an async context manager.

    Args:
        names: one backend for each.
        on_return: called with a backend that was started again.
        restart_after_s: how long one that ended stays away.
    """

    def __init__(
        self,
        names: list[str],
        on_return: Callable[[Actor], None],
        *,
        restart_after_s: float = RESTART_AFTER_S,
    ) -> None:
        self.actors = [Actor(name, port) for name, port in zip(names, free_ports(len(names)), strict=True)]
        self._on_return = on_return
        self._restart_after_s = restart_after_s
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start every backend. Raises EasyProxyError when one does not come up."""
        try:
            for actor in self.actors:
                await _start_somewhere(actor)
        except BaseException:
            await self._end()
            raise
        self._tasks = [asyncio.create_task(self._keep(actor)) for actor in self.actors]
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every backend."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end()

    async def _keep(self, actor: Actor) -> None:
        while True:
            if actor.process is not None:
                await actor.process.wait()
                _close_input(actor.process)
                actor.process = None
            await asyncio.sleep(self._restart_after_s)
            with contextlib.suppress(EasyProxyError):  # somebody took its port: it said so; try again later
                await _start(actor)
                self._on_return(actor)

    async def _end(self) -> None:
        processes = [actor.process for actor in self.actors if actor.process is not None]
        for process in processes:
            _close_input(process)
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        for process in processes:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _start_somewhere(actor: Actor) -> None:
    """Start it for the first time; somebody may have taken its port since it was free, another demo for example."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(EasyProxyError):
            await _start(actor)
            return
        [actor.port] = free_ports(1, actor.port + 1)
    await _start(actor)


async def _start(actor: Actor) -> None:
    # A session of its own: Ctrl-C in the terminal is for the demo, which then ends its backends in order.
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "easyproxy.demo.backend",
        actor.name,
        str(actor.port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    actor.process = process
    assert process.stdout is not None  # noqa: S101 - asked for above
    line = await process.stdout.readline()
    if not line:
        await process.wait()
        actor.process = None
        raise EasyProxyError(
            f"the demo backend {actor.name} did not start on 127.0.0.1:{actor.port}; see above"
        )


def _close_input(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()


def free_ports(count: int, first: int = FIRST_PORT) -> list[int]:
    """The first so many ports of 127.0.0.1, from ``first`` on, on which nobody listens now.

    Raises EasyProxyError when a thousand ports do not hold them.
    """
    found: list[int] = []
    for port in range(first, min(first + 1000, 1 << 16)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
    if len(found) < count:
        raise EasyProxyError(f"no {count} free ports from 127.0.0.1:{first} on")
    return found
