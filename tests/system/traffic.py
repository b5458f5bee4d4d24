"""Clients: ``wrk`` with its errors counted, and single HTTP connections that are watched request by request."""

from __future__ import annotations

import http.client
import re
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from programs import Program

PATIENCE_S = 60


def ask(port: int, host: str = "127.0.0.1", source: str = "") -> str:
    """One request on a connection of its own; return the name of the nginx that answered."""
    with Visit(port, host, source) as visit:
        return visit.ask()


def is_served(port: int) -> bool:
    """Whether one more client would be served. Refused ones are reset, some of them while they still connect."""
    try:
        ask(port)
    except (OSError, http.client.HTTPException):
        return False
    return True


class Visit:
    """One HTTP connection that stays open and never connects a second time by itself."""

    def __init__(self, port: int, host: str = "127.0.0.1", source: str = "") -> None:
        self._connection = http.client.HTTPConnection(
            host, port, timeout=PATIENCE_S, source_address=(source, 0) if source else None
        )
        self._connection.connect()
        self._connection.auto_open = 0  # it would connect again, silently
        self.local = "{}:{}".format(*self._connection.sock.getsockname()[:2])

    def ask(self, path: str = "/name") -> str:
        """Return the body; raises OSError or HTTPException when the session has ended."""
        self.send(path)
        return self.receive()

    def send(self, path: str = "/name") -> None:
        self._connection.request("GET", path)

    def receive(self) -> str:
        answer = self._connection.getresponse()
        body = answer.read().decode().strip()
        assert answer.status == 200, (answer.status, body)
        return body

    def is_alive(self) -> bool:
        """Whether the session answers one more time."""
        try:
            self.ask()
        except (OSError, http.client.HTTPException):
            return False
        return True

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk has counted."""

    requests: int
    connect: int
    read: int
    write: int
    timeout: int
    bad_status: int

    @property
    def failed(self) -> int:
        return self.connect + self.read + self.write + self.timeout + self.bad_status

    @classmethod
    def parse(cls, text: str) -> Load:
        requests = re.search(r"(\d+) requests in ", text)
        assert requests, text
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        counts = [int(number) for number in errors.groups()] if errors else [0, 0, 0, 0]
        return cls(int(requests[1]), *counts, int(bad[1]) if bad else 0)


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal (proc(5))."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


class Wrk:
    """wrk beside the test: it works from the beginning of the ``with`` block to its end; then ``load`` has its counts."""

    def __init__(self, port: int, *, connections: int = 20, path: str = "/name", close: bool = False) -> None:
        header = ["-H", "Connection: close"] if close else []
        self._arguments = [
            *("-t", "2", "-c", str(connections), "-d", "600s", "--timeout", f"{PATIENCE_S}s"),
            *(*header, f"http://127.0.0.1:{port}{path}"),
        ]
        self._load: Load | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        self._program = Program(["wrk", *self._arguments], Path(self._folder.name) / "output.txt")
        try:
            # By then its threads are at work; before, its interruption would be its end.
            self._program.wait_until(lambda: catches(self._program.pid, signal.SIGINT), "wrk is at work")
        except BaseException:
            self._program.stop()
            self._folder.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                # Interrupted, it tells what it has counted so far.
                self._program.send(signal.SIGINT)
                self._program.ended()
                self._load = Load.parse(self._program.text())
        finally:
            self._program.stop()
            self._folder.cleanup()

    @property
    def load(self) -> Load:
        assert self._load is not None, "wrk is still at work"
        return self._load
