"""Clients that write numbered rows and do not give up: what was acknowledged, when, and by which server.

Each row says which server wrote it, when, by that server's clock (all servers of a test have the same one).
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pymysql
from eventually import eventually

_PAUSE_S = 0.02
_SESSION_ROWS = 7
"""One in so many rows is the last of its session: whoever is sent elsewhere then is noticed."""
_DUPLICATE = 1062


@dataclass(frozen=True, slots=True)
class Ack:
    """A row that the client was told is written."""

    number: int
    at: float
    server: int


class Writers:
    """Threads that write through ``port``, each with a connection of its own that it makes anew when it breaks."""

    def __init__(self, port: int, user: str, threads: int = 4) -> None:
        self._port, self._user = port, user
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self.acks: list[Ack] = []
        self.failures = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection: pymysql.Connection | None = None
        number, server = next(self._numbers), 0
        while not self._stop.is_set():
            try:
                if connection is None:
                    connection = self._connect()
                    server = int(_one(connection, "SELECT @@server_id"))
                self._write(connection, number)
            except (pymysql.err.Error, OSError):
                # Of a row whose answer is missing nobody knows whether it was written: the same number again.
                self.failures += 1
                if connection is not None:
                    with contextlib.suppress(pymysql.err.Error, OSError):
                        connection.close()
                connection = None
                self._stop.wait(_PAUSE_S)
                continue
            self.acks.append(Ack(number, time.monotonic(), server))
            number = next(self._numbers)
            if number % _SESSION_ROWS == 0:
                connection.close()
                connection = None
            self._stop.wait(_PAUSE_S / 10)
        if connection is not None:
            connection.close()

    def _connect(self) -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1",
            port=self._port,
            user=self._user,
            database="shop",
            autocommit=True,
            connect_timeout=20,
            read_timeout=60,
        )

    @staticmethod
    def _write(connection: pymysql.Connection, number: int) -> None:
        statement = "INSERT INTO numbered VALUES (%s, @@server_id, NOW(6), CONNECTION_ID())"
        with connection.cursor() as cursor:
            try:
                cursor.execute(statement, (number,))
            except pymysql.err.IntegrityError as error:
                if error.args[0] != _DUPLICATE:
                    raise  # written by the attempt before, whose answer was lost: it is there

    def wait_for(self, count: int, server: int, what: str) -> None:
        """Wait until so many more rows were acknowledged by one server."""
        before = len(self.acks)
        eventually(lambda: sum(ack.server == server for ack in self.acks[before:]) >= count, what)

    def wait_for_failures(self, count: int) -> None:
        """Wait until so many more attempts have failed."""
        before = self.failures
        eventually(lambda: self.failures >= before + count, "writers are turned away")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def longest_pause_s(self) -> float:
        """The longest time in which nothing was acknowledged to anybody."""
        times = sorted(ack.at for ack in self.acks)
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


def _one(connection: pymysql.Connection, statement: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return str(cursor.fetchone()[0])


def rows(server: object) -> Mapping[int, tuple[int, str]]:
    """Return what a server holds: by number, who wrote it and when."""
    found = server.sql("SELECT id, server, at FROM shop.numbered")  # type: ignore[attr-defined]
    return {int(number): (int(writer), at) for number, writer, at in found}


def prove(acks: list[Ack], survivor: object, order: tuple[int, ...]) -> None:
    """Prove that nothing was lost and that no two servers took writes at the same time.

    Args:
        acks: what clients were told.
        survivor: the server that is the primary in the end.
        order: numbers of the servers that were the primary, one after the other.
    """
    held = rows(survivor)
    lost = [ack for ack in acks if ack.number not in held]
    assert lost == [], f"{len(lost)} of {len(acks)} acknowledged rows are lost, the first: {lost[:3]}"
    assert len({ack.number for ack in acks}) == len(acks), "a row was acknowledged twice"
    assert {writer for writer, _ in held.values()} <= set(order)
    for earlier, later in itertools.pairwise(order):
        last = max((at for writer, at in held.values() if writer == earlier), default="")
        first = min((at for writer, at in held.values() if writer == later), default="9")
        assert last < first, f"{earlier} has written at {last}, after {later} had begun at {first}"
