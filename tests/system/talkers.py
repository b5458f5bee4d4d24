"""Clients of databases that keep their connection: the servers' own programs, one statement after the other."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from pathlib import Path
from typing import Self

from eventually import eventually
from servers.postgresql import binary

from programs import find

LEAVES_WITHIN_S = 20.0


class Talker:
    """A client program that is given statements on its standard input; everything that it says is kept."""

    def __init__(self, *argv: str) -> None:
        self.said = ""
        self._asked = 0
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # it takes its leave in good order, if it can
        try:
            self._process.wait(LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line
        self._process.stdout.close()

    def tell(self, statement: str) -> None:
        """Give it a statement."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{statement};\n")
        self._process.stdin.flush()

    def ask(self, *statements: str) -> str:
        """Give it statements and wait until they are done; return what it says meanwhile."""
        before, self._asked = len(self.said), self._asked + 1
        for statement in (*statements, f"SELECT 'done {self._asked}'"):
            self.tell(statement)
        eventually(
            lambda: f"done {self._asked}\n" in self.said[before:], f"{statements} are done: {self.said}"
        )
        return self.said[before:]

    def is_cut_off(self, words: str) -> None:
        """Give it a statement of which it can only say that its connection is gone."""
        self.tell("SELECT 'still there'")
        eventually(lambda: words in self.said, f"it says {words!r}: {self.said}")
        assert "still there\n" not in self.said


def psql(port: int, *, tls: str = "disable") -> Talker:
    """PostgreSQL's client; it ends when its connection is gone."""
    where = f"host=127.0.0.1 port={port} user=tester dbname=postgres sslmode={tls}"
    return Talker(binary("psql"), "-X", "-q", "-A", "-t", "-w", where)


def mariadb(port: int, *more: str) -> Talker:
    """MariaDB's client, which stays at the first error."""
    options = ("--no-defaults", "--host=127.0.0.1", "--protocol=tcp", "--user=app", "-N", "-B", "-n", "shop")
    return Talker(find("mariadb"), *options[:1], f"--port={port}", *more, *options[1:])


def lines(path: Path) -> list[str]:
    """Read the lines of a log; none while it is not there."""
    return path.read_text().splitlines() if path.exists() else []
