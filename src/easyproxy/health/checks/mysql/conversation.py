"""A conversation with one MySQL or MariaDB server: packets over a connection, a login, queries.

It decides nothing about what is found.

The one rule above all: once a server has greeted, it gets an answer to whatever it asks, be it a wrong one. A client
that leaves a login in the middle is a connect error, and after ``max_connect_errors`` of them the server blocks its
address, and with it all traffic of the balancer (error 1129). A refusal is no connect error.
"""

from __future__ import annotations

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import plain
from easyproxy.health.checks.connection import Connection
from easyproxy.health.checks.database import LoginRefusedError
from easyproxy.health.checks.intake import Intake
from easyproxy.health.checks.mysql.auth import EMPTY, UnwillingError, first_answer, next_answer
from easyproxy.health.checks.mysql.packets import (
    COM_QUERY,
    COM_QUIT,
    Greeting,
    Kind,
    is_end,
    login,
    read_column,
    read_error,
    read_number,
    read_texts,
    tls_request,
)

BUDGET_BYTES = 2 * 1024 * 1024
"""What one probe reads at most: a replica with many sources and long GTID sets has more to say than one would think."""
PACKET_BYTES = 1024 * 1024
ROUNDS = 6
"""Most packets that a server may send between its greeting and its decision."""
COLUMNS, ROWS, VALUES = 500, 1000, 20_000
"""Most of each that an answer may have: they are read in one go, and everybody else waits meanwhile."""

ABOUT_THE_ACCOUNT = frozenset(
    {
        1045,  # access denied
        1203,  # this user has too many connections already
        1226,  # this user has used up its resources
        1251,  # the account needs an authentication that this client does not have
        1524,  # the account's plugin is not loaded
        1698,  # access denied, no password
        1862,  # the password has expired
        3118,  # the account is locked (MySQL)
        3159,  # only encrypted connections are allowed
        4151,  # the account is locked (MariaDB)
    }
)
"""Errors after the greeting that speak of the account, not of the server."""


class Conversation:
    """Packets over ``connection``. ``is_secure``: whether nobody else can read them, even without TLS."""

    def __init__(self, connection: Connection, *, is_secure: bool) -> None:
        self._connection = connection
        self._intake = Intake(connection, BUDGET_BYTES)
        self._is_secure = is_secure
        self._is_tls = False
        self._sequence = 0
        self._is_open = False  # logged in

    def send(self, payload: bytes, sequence: int | None = None) -> None:
        """Send one packet; its number is the one after the server's last, if none is given."""
        number = self._sequence + 1 if sequence is None else sequence
        self._connection.writer.write(len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload)
        self._sequence = number

    async def receive(self) -> bytes:
        """Return what the next packet holds; it holds at least one byte."""
        head = await self._intake.exactly(4)
        length = int.from_bytes(head[:3], "little")
        if not 0 < length <= PACKET_BYTES:
            raise ProbeFailed(f"does not speak MySQL: {plain(head + self._intake.held(40), 40)!r}")
        self._sequence = head[3]
        return await self._intake.exactly(length)

    def ask_for_tls(self) -> None:
        """Say that TLS comes next; the caller begins it at once.

        Raises:
            ProbeFailed: the server, or somebody on the way, has said more than there is to say in plain text.
        """
        if not self._intake.is_empty:
            raise ProbeFailed("says something in plain text before TLS that does not belong there")
        self.send(tls_request())
        self._is_tls = self._is_secure = True

    async def log_in(self, user: str, greeting: Greeting, password: bytes | None) -> None:
        """Log in, without a password if there is none, and take the server's decision.

        Raises:
            LoginRefusedError: the decision is about the account.
            ServerError: the decision is about the server.
            ProbeFailed: it does not come to a decision.
        """
        method, scramble, unwilling = greeting.method, greeting.scramble, ""

        def answered(said: bytes | None) -> bytes:
            """Answer as well as we may; a server that asks in vain gets what an empty password would be."""
            nonlocal unwilling
            if not password or unwilling:
                return EMPTY.get(method, b"")
            try:
                if said is None:
                    return first_answer(method, password, scramble, is_secure=self._is_secure)
                return next_answer(method, said, password, scramble, is_secure=self._is_secure)
            except UnwillingError as error:
                unwilling = str(error)
                return EMPTY.get(method, b"")

        answer = answered(None)
        try:
            self.send(login(user, method, answer, tls=self._is_tls))
        except ValueError as error:
            unwilling = str(error)
            self.send(login(user, method, b"", tls=self._is_tls))
        for _ in range(ROUNDS):
            packet = await self.receive()
            match packet[0]:
                case Kind.OK:
                    self._is_open = True
                    return
                case Kind.ERROR:
                    refusal = read_error(packet)
                    if refusal.code in ABOUT_THE_ACCOUNT:
                        raise LoginRefusedError(unwilling or str(refusal))
                    raise refusal
                case Kind.SWITCH:
                    name, _, scramble = packet[1:].partition(b"\0")
                    method = plain(name, 64) or "mysql_old_password"
                    self.send(answered(None))
                case _:
                    # MySQL puts a 1 before whatever a method says, MariaDB only where it is needed.
                    said = packet[1:] if packet[0] == Kind.MORE else packet
                    if (answer := answered(said)) or not password or unwilling:
                        self.send(answer)
        raise ProbeFailed(f"{greeting.version}, does not decide about a login")

    async def query(self, statement: str) -> list[dict[str, str | None]]:
        """Ask, and return the rows, by the names of their columns.

        Raises:
            ServerError: the server refuses.
            ProbeFailed: what it answers is no result.
        """
        self.send(COM_QUERY + statement.encode(), 0)
        first = await self.receive()
        if first[0] == Kind.ERROR:
            raise read_error(first)
        count, _ = read_number(first, 0)
        if count is None or not 0 < count <= COLUMNS:
            raise ProbeFailed("answers a question with something that is no result")
        names = [read_column(await self.receive()) for _ in range(count)]
        if not is_end(await self.receive()):
            raise ProbeFailed("answers a question with something that is no result")
        rows: list[dict[str, str | None]] = []
        while not is_end(packet := await self.receive()):
            if packet[0] == Kind.ERROR:
                raise read_error(packet)
            if len(rows) >= min(ROWS, VALUES // count):
                raise ProbeFailed(f"answers with more than {len(rows)} rows of {count} columns")
            rows.append(dict(zip(names, read_texts(packet, count), strict=True)))
        return rows

    def quit(self) -> None:
        """Take leave, if we were let in: without it, the end of the connection is an aborted client."""
        if self._is_open:
            self._is_open = False
            self.send(COM_QUIT, 0)
