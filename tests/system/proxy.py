"""The real program: ``easyproxy run FILE`` as a process of its own, its log, its status, its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eventually import eventually

from easyproxy.cli.client import NoAnswerError, fetch
from easyproxy.model import Address
from programs import Program

Settings = dict[str, Any]

QUICK = {"interval": "200ms", "fast_interval": "100ms", "timeout": "200ms", "rise": 2, "fall": 2}
"""How often to probe where a test waits for a verdict."""

PATIENT = {**QUICK, "interval": "2s", "timeout": "2s"}
"""The same where servers have to answer, and may have to wait for a processor before they do."""


def command(*arguments: str) -> list[str]:
    """Return the command line of our own program, with the interpreter that runs the tests."""
    return [sys.executable, "-m", "easyproxy", *arguments]


class RunningBalancer:
    """One ``easyproxy run``. The admin server is on a unix socket in ``folder`` unless the file says otherwise.

    Args:
        folder: holds the configuration and the log.
        config: a mapping, or the text of the file as a user writes it.
        file: the name of the file; the mapping is written as JSON, which YAML can read.
        prefix: a command that starts another, for example under a lower limit.
        program: how easyproxy itself is called; by default as a module of the interpreter that runs the tests.
        arguments: further ones for ``easyproxy run``.
        patience: whether to wait until it serves.
    """

    def __init__(
        self,
        folder: Path,
        config: Settings | str,
        *,
        file: str = "easyproxy.yaml",
        env: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
        program: tuple[str, ...] = (),
        arguments: tuple[str, ...] = (),
        patience: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / file
        self.admin = Address(path=str(folder / "admin.sock"))
        self.write(config)
        elsewhere = (
            folder / "elsewhere"
        )  # not where the file lies: nothing may depend on the working directory
        elsewhere.mkdir(exist_ok=True)
        self.program = Program(
            [*prefix, *(program or command()), "run", *arguments, str(self.file)],
            folder / "log.txt",
            env={"PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
            cwd=elsewhere,
        )
        self._seen_workers: set[int] = set()
        if patience:
            try:
                self.wait_until_serving()
            except BaseException:
                self.stop()
                raise

    # -- its file

    def complete(self, config: Settings) -> Settings:
        """Add what every test's balancer has."""
        return {"admin": {"bind": str(self.admin)}, "workers": 2, **config}

    def write(self, config: Settings | str) -> None:
        text = config if isinstance(config, str) else json.dumps(self.complete(config), indent=2)
        self.file.write_text(text)

    def reload(self, config: Settings | str, answer: str = "reloaded") -> str:
        """Put another file in its place, send SIGHUP, and return what the log says, once it says ``answer``."""
        before = len(self.log())
        self.write(config)
        self.program.send(signal.SIGHUP)
        return eventually(
            lambda: text if answer in (text := self.log()[before:]) else "", f"the log says {answer!r}"
        )

    # -- what it says

    def wait_until_serving(self) -> None:
        self.program.wait_until(lambda: "serving" in self.log(), "it serves")
        self.workers()

    def log(self) -> str:
        return self.program.text()

    def status(self) -> Settings:
        """Return the document of ``GET /api/status``: the shape of easyproxy.control.status.Status."""
        found: Settings = fetch(self.admin, "/api/status")
        return found

    def sessions(self) -> list[Settings]:
        found: list[Settings] = fetch(self.admin, "/api/sessions?limit=100000")
        return found

    def port(self, listener: int | str = 0) -> int:
        """Return the port of a listener, by its place or its name."""
        listeners = self.status()["listeners"]
        if isinstance(listener, int):
            return Address.parse(listeners[listener]["address"]).port
        return next(Address.parse(each["address"]).port for each in listeners if each["name"] == listener)

    def writers(self) -> list[str]:
        """Return who takes writes in the only pool, by id."""
        [pool] = self.status()["pools"]
        return pool["writes"]["writers"]

    def role(self, name: str) -> str:
        """Return the role of a backend that is ready, else its state."""
        backend = self.backends()[name]
        return backend["role"] if backend["state"] == "ready" else backend["state"]

    def backends(self) -> dict[str, Settings]:
        """Return all backends by name; the names are unique in these tests."""
        return {each["name"]: each for pool in self.status()["pools"] for each in pool["backends"]}

    def totals(self) -> dict[str, int]:
        """Return the sessions that each backend got so far."""
        return {name: each["counters"]["total"] for name, each in self.backends().items()}

    def live(self) -> dict[str, int]:
        """Return the sessions that each backend has now."""
        return {name: each["counters"]["sessions"] for name, each in self.backends().items()}

    def wait_for_state(self, backend: str, state: str) -> None:
        """Wait until it is told, and every worker acts by it."""
        eventually(lambda: self.backends()[backend]["state"] == state, f"{backend} is {state}")
        self.wait_until_obeyed()

    def wait_for_no_sessions(self) -> None:
        """Wait until every session has ended."""
        eventually(
            lambda: not any(each["counters"]["sessions"] for each in self.status()["listeners"]),
            "no session is left",
        )

    def wait_until_told(self, words: str) -> None:
        """Wait until the log says so, and every worker acts by it."""
        eventually(lambda: words in self.log(), f"the log says {words!r}")
        self.wait_until_obeyed()

    def wait_until_obeyed(self) -> None:
        """Wait until every worker acts by what was put in force: who lists its sessions has obeyed what came before."""
        self.sessions()

    # -- its processes

    def workers(self) -> list[int]:
        """Return the process ids of the relay workers."""
        tasks = Path(f"/proc/{self.program.pid}/task")
        children = " ".join((task / "children").read_text() for task in tasks.iterdir())
        pids = [int(pid) for pid in children.split() if name_of(int(pid)) == "easyproxy-relay"]
        self._seen_workers.update(pids)
        return pids

    def stop(self) -> int:
        """End it at once, with every process it has left; return its exit status."""
        if self.program.process.poll() is None:
            with contextlib.suppress(OSError):
                self.workers()
            self.program.send(signal.SIGTERM)
            self.program.send(signal.SIGTERM)
        code = self.program.ended()
        for pid in self._seen_workers:
            if name_of(pid) == "easyproxy-relay":
                os.kill(pid, signal.SIGKILL)
        return code

    def is_answering(self) -> bool:
        try:
            self.status()
        except NoAnswerError:
            return False
        return True


def name_of(pid: int) -> str:
    """Return the name of a process; empty when it has ended (a zombie has)."""
    try:
        name, _, rest = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return ""
    return "" if rest.split()[0] in "ZX" else name


def pool(*backends: object, **settings: object) -> Settings:
    """Return one pool; a backend is a mapping, or has a name and an address."""
    return {"backends": [backend_of(each) for each in backends], **settings}


def backend_of(thing: Any) -> Settings:
    return thing if isinstance(thing, dict) else {"name": thing.name, "address": thing.address}


def simple(*backends: object, bind: str = "127.0.0.1:0", **settings: object) -> Settings:
    """Return a configuration with one listener and one pool, probed often."""
    return {
        "listeners": [{"bind": bind, "pool": "p", "name": "l"}],
        "pools": {"p": {"check": {"type": "tcp", **QUICK}, **pool(*backends, **settings)}},
    }
