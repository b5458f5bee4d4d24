"""The exec check: a user's own command. No shell; a process group of its own that ends with the probe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Check, Target, plain
from easyproxy.health.checks.shortage import is_local

TAIL_BYTES = 8 * 1024
"""How much of the end of a command's output is kept to find its last line."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")
"""What a command gets of our own environment; the rest may hold secrets that are none of its business."""


@dataclass(frozen=True)
class ExecCheck(Check):
    """Succeeds when the command exits with 0. The last line of its output is the detail.

    The command finds the backend in ``EASYPROXY_BACKEND_ADDRESS``, ``_HOST``, ``_PORT``, ``_NAME`` and ``_POOL`` (each
    with the prefix ``EASYPROXY_BACKEND``). For a unix socket the host is its path and the port is empty. When the
    probe ends, in time or not, its whole process group is killed.

    Attributes:
        command: the program and its arguments; a name without a slash is looked up in PATH.
        env: further environment variables.
    """

    expensive: ClassVar[bool] = True

    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse a command that could not be started at all."""
        if isinstance(self.command, str):
            raise ValueError(  # noqa: TRY004 - all wrong options are told in one way
                f"command is {self.command!r}; write a list, there is no shell: [program, argument]"
            )
        object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))
        if not self.command or not self.command[0]:
            raise ValueError("command is empty; write a list: [program, argument, ...]")
        if any("\0" in word for word in (*self.command, *self.env, *self.env.values())):
            raise ValueError("command and env must not hold NUL characters")

    async def probe(self, target: Target) -> str:
        """Run the command once. Returns its last line."""
        async with _tail() as (tail, output):
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._environment(target),
                    start_new_session=True,
                )
            except OSError as error:
                if is_local(error):
                    raise
                raise ProbeFailed(f"cannot start {self.command[0]}: {error.strerror}") from error
            try:
                code = await process.wait()
            finally:
                # The group outlives its leader when the command left something running in the background.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            tail.read()
            line = tail.last_line()
        if code == 0:
            return line
        how = f"killed by {_signal_name(-code)}" if code < 0 else f"exit status {code}"
        raise ProbeFailed(f"{how}: {line}" if line else how)

    def _environment(self, target: Target) -> dict[str, str]:
        address = target.address
        backend = {
            "ADDRESS": str(address),
            "HOST": address.path or address.host,
            "PORT": "" if address.path else str(address.port),
            "NAME": target.name,
            "POOL": target.pool,
        }
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        return (
            inherited | dict(self.env) | {f"EASYPROXY_BACKEND_{key}": value for key, value in backend.items()}
        )


class _Tail:
    """Reads a pipe as it fills and keeps its end. A command that writes much is never blocked by us."""

    def __init__(self, source: int) -> None:
        self._source = source
        self._kept = b""

    def read(self) -> None:
        """Take what is there, at most 1 MiB in one turn of the event loop."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(16):
                data = os.read(self._source, 64 * 1024)
                if not data:
                    asyncio.get_running_loop().remove_reader(self._source)
                    return
                self._kept = (self._kept + data)[-TAIL_BYTES:]

    def last_line(self) -> str:
        lines = (plain(line) for line in reversed(self._kept.splitlines()))
        return next((line for line in lines if line), "")


@contextlib.asynccontextmanager
async def _tail() -> AsyncIterator[tuple[_Tail, int]]:
    """Lend a pipe's writing end and read the other.

    Not asyncio's own pipe: a grandchild that holds it open would keep ``Process.wait`` from returning in some Python
    versions (cpython issue 119710), and its reader keeps everything.
    """
    loop = asyncio.get_running_loop()
    source, sink = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    try:
        os.set_blocking(source, False)
        tail = _Tail(source)
        loop.add_reader(source, tail.read)
        yield tail, sink
    finally:
        loop.remove_reader(source)
        os.close(source)
        os.close(sink)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
