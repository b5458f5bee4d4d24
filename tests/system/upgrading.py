"""A balancer and its successors: who is the main process now, and new programs that fail in a chosen way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

from eventually import eventually
from proxy import RunningBalancer, Settings, name_of

from easyproxy.cli.client import post


class Upgradable(RunningBalancer):
    """One ``easyproxy run`` that may be relieved: ``pid`` is that of the program that serves now.

    It is started by a script of its own in ``folder``, as an installed program is, so that a test can put another
    version in its place, or none.
    """

    def __init__(
        self, folder: Path, config: Settings | str, *, lines: tuple[str, ...] = (), **more: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.script = folder / "easyproxy"
        self.install(*lines)
        self._pid = 0
        super().__init__(folder, config, program=(str(self.script),), **more)

    @property
    def pid(self) -> int:
        return self._pid or self.program.pid

    def install(self, *lines: str) -> None:
        """Put the program in its place; ``lines`` of Python run first in it, but in no worker."""
        code = "\n".join(
            [
                f"#!{sys.executable}",
                *lines,
                "from easyproxy.cli import main",
                "main(prog_name='easyproxy')",
                "",
            ]
        )
        fresh = self.script.with_name("easyproxy.new")
        fresh.write_text(code)
        fresh.chmod(0o755)
        fresh.replace(self.script)

    def upgrade(self) -> str:
        """Ask for it as ``easyproxy upgrade`` does, wait until the old program has ended; return what was said."""
        old = self.pid
        self.workers()
        said: str = post(self.admin, "/api/upgrade", {"who": "test"})["successor"]
        self.follow(said)
        eventually(lambda: not name_of(old), "the old program ends")
        return said

    def follow(self, said: str) -> None:
        found = re.search(r"\(pid (\d+)\)", said)
        assert found, said
        self._pid = int(found[1])
        self.workers()

    def workers(self) -> list[int]:
        pids = [pid for pid in children(self.pid) if name_of(pid) == "easyproxy-relay"]
        self._seen_workers.update(pids)
        return pids

    def descriptors(self) -> list[int]:
        """How many descriptors the main process and each worker have, without those of a probe under way."""
        looks = []
        for _ in range(10):
            pids = (self.pid, *sorted(self.workers()))
            looks.append([len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids])
            time.sleep(0.02)
        return min(looks)

    def stop(self) -> int:
        if self._pid:
            with contextlib.suppress(OSError):
                self.workers()
            for _ in range(2):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGTERM)
            eventually(lambda: not name_of(self._pid), "the successor ends")
        return super().stop()


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return sorted(found)


def at(step: str, *what: str) -> tuple[str, ...]:
    """Return lines for :meth:`Upgradable.install`: before the successor says ``step``, do this."""
    return (
        "import os, signal, time",
        "from pathlib import Path",
        "from easyproxy.control.wire import Wire",
        "def workers():",
        "    for task in Path('/proc/self/task').iterdir():",
        "        yield from map(int, (task / 'children').read_text().split())",
        "usual = Wire.send",
        "def send(self, frame, fds=None):",
        f"    if frame['op'] == {step!r}:",
        *(f"        {line}" for line in what),
        "    usual(self, frame, fds)",
        "Wire.send = send",
    )
