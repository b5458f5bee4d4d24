"""Starting programs that we did not write, and our own: found by name, with their output kept, and always ended."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest
from eventually import eventually

CLIENT_PATIENCE_S = 120.0


def find(command: str) -> str:
    """Return the path of a program. A missing one is a failure: without it nothing would be proved."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(command, path=places)
    if found is None:
        pytest.fail(f"{command} is not installed; tests/packages.sh installs what the tests need")
    return found


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts there. It is a connection: ask before anything is counted."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def run_client(*argv: str, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a client to its end; return its output. Fails with all it said when it fails."""
    done = subprocess.run(
        [find(argv[0]), *argv[1:]],
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=CLIENT_PATIENCE_S,
        check=False,
        env=None if env is None else {**os.environ, **env},
    )
    assert done.returncode == 0, f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


class Program:
    """One running program. Its output goes to ``output``; ``stop`` ends it, whatever has become of it."""

    def __init__(
        self,
        argv: Sequence[str],
        output: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> None:
        self.argv = [find(argv[0]), *argv[1:]]
        self.output = output
        with output.open("ab") as sink:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                # A session of its own: nothing that a test does to its own group may reach it.
                start_new_session=True,
                **({} if user is None else {"user": user, "group": user, "extra_groups": []}),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        """Return what it has said so far."""
        return self.output.read_text(errors="replace")

    def wait_until(self, claim: Callable[[], object], what: str) -> None:
        """Wait for it to get ready. Fails with its output when it ends instead."""

        def look() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.argv[0]} ended with {self.process.returncode}:\n{self.text()}")
            return bool(claim())

        eventually(look, f"{what}: {self.argv[0]} said {self.output}")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self, patience_s: float = 60.0) -> int:
        """Wait for its end; return its exit status."""
        return self.process.wait(patience_s)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in order, or by force when it does not end."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
