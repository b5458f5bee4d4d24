"""A conversation with one PostgreSQL server: messages over a connection, a login, one query. It judges nothing.

Whoever leaves a login when it is asked for the password leaves no trace in the server's log: libpq does the same when it
has none ("STATUS_EOF" in PostgreSQL's auth.c).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import struct

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import plain
from easyproxy.health.checks.connection import Connection
from easyproxy.health.checks.database import LoginRefusedError
from easyproxy.health.checks.intake import Intake
from easyproxy.health.checks.postgresql.messages import (
    KINDS,
    SSL_REQUEST,
    Method,
    ServerError,
    message,
    read_error,
    read_row,
    startup,
    text,
)
from easyproxy.health.checks.postgresql.scram import NAME, Keys, Scram

BUDGET_BYTES = 64 * 1024
"""What one probe reads at most; a login and our query take about one."""
_ERROR_BYTES = 30_000
"""A longer error is none of this protocol: an old form without a length, for a server that cannot start a process."""
_APPLICATION = "easyproxy"

Challenge = tuple[Method, bytes]


class Conversation:
    """Messages over ``connection``. ``is_private``: nobody else can read them, even without TLS; ``keys``: of logins before."""

    def __init__(self, connection: Connection, keys: Keys, *, is_private: bool) -> None:
        self._keys = keys
        self._connection = connection
        self._intake = Intake(connection, BUDGET_BYTES)
        self._is_private = is_private
        self.settings: dict[str, str] = {}

    async def ask_for_tls(self) -> bool:
        """Ask for TLS; whether the server is ready for it, and waits for us to begin.

        Raises:
            ProbeFailed: it sent more than its answer, which would pass for something that came encrypted
                (CVE-2021-23222), or it is no PostgreSQL.
            ServerError: it does not talk to us.
        """
        self._connection.writer.write(SSL_REQUEST)
        answer = await self._intake.exactly(1)
        if answer == b"E":
            await self._refused()
        if answer not in b"SN":
            raise self._foreign(answer)
        if not self._intake.is_empty:
            raise ProbeFailed("sent something behind its answer about TLS, where nothing may be")
        self._is_private = self._is_private or answer == b"S"
        return answer == b"S"

    async def begin(self, user: str, database: str) -> Challenge:
        """Say who we are; return what the server wants to see for it. Raises ServerError, ProbeFailed."""
        self._connection.writer.write(
            startup({"user": user, "database": database, "application_name": _APPLICATION})
        )
        return await self._challenge()

    async def log_in(self, user: str, challenge: Challenge, password: str) -> None:
        """Show that we know the password, and be let in.

        Raises:
            LoginRefusedError: the server wants something that this client does not do, or does not without TLS.
            ServerError: it refuses us.
            ProbeFailed: it does not keep to the protocol, or cannot prove that it knows the password.
        """
        method, data = challenge
        match method:
            case Method.NONE:
                pass
            case Method.CLEAR if not self._is_private:
                raise LoginRefusedError("wants to read the password, which needs tls: true")
            case Method.CLEAR:
                self._send(b"p", text(password))
                await self._let_in()
            case Method.MD5:
                self._send(b"p", text(_md5(user, password, data[:4])))
                await self._let_in()
            case Method.SASL:
                await self._prove(data, password)
                await self._let_in()
            case _:
                raise LoginRefusedError(f"wants a login by {method.name}, which this check does not do")
        await self.until_ready()

    async def until_ready(self) -> None:
        """Wait until the server is ready for a query."""
        await self._answer()

    async def row(self, question: str) -> list[str | None]:
        """Ask, and return the last row of the answer.

        Raises:
            ServerError: it refuses to answer.
            ProbeFailed: that is no answer.
        """
        self._send(b"Q", text(question))
        rows = await self._answer()
        if not rows:
            raise ProbeFailed("answered a question with nothing")
        return rows[-1]

    def leave(self) -> None:
        """Say goodbye, as one that was let in does."""
        self._send(b"X", b"")

    # -- the login

    async def _challenge(self) -> Challenge:
        kind, body = await self._receive()
        if kind != b"R" or len(body) < 4:
            raise self._foreign(kind + body)
        (number,) = struct.unpack_from("!i", body)
        try:
            return Method(number), body[4:]
        except ValueError:
            raise LoginRefusedError(
                f"wants a login by method {number}, which this check does not do"
            ) from None

    async def _let_in(self) -> None:
        method, _ = await self._challenge()
        if method is not Method.NONE:
            raise ProbeFailed("goes on asking when the login is done")

    async def _prove(self, offered: bytes, password: str) -> None:
        if NAME.encode() not in offered.split(b"\0"):
            names = ", ".join(plain(name, 30) for name in offered.split(b"\0")[:4] if name)
            raise LoginRefusedError(f"wants a login by {names}, which this check does not do")
        scram = Scram(password, secrets.token_urlsafe(18), self._keys)
        first = scram.first()
        self._send(b"p", text(NAME) + struct.pack("!i", len(first)) + first)
        try:
            scram.challenge(await self._sasl(Method.SASL_CONTINUE))
            self._send(b"p", await asyncio.to_thread(scram.final) if scram.is_long else scram.final())
            scram.verify(await self._sasl(Method.SASL_FINAL))
        except ValueError as error:
            raise ProbeFailed(f"the login by {NAME} fails: {error}") from None

    async def _sasl(self, wanted: Method) -> bytes:
        method, data = await self._challenge()
        if method is not wanted:
            raise ValueError("it does not go on as it should")
        return data

    # -- messages

    def _send(self, kind: bytes, body: bytes) -> None:
        self._connection.writer.write(message(kind, body))

    async def _answer(self) -> list[list[str | None]]:
        """Read until the server is ready for another query; an error is raised when it is."""
        rows = []
        refusal: ServerError | None = None
        while True:
            try:
                kind, body = await self._receive()
            except ServerError as error:
                if error.is_fatal:
                    raise
                refusal = error
                continue
            if kind == b"D":
                try:
                    rows.append(read_row(body))
                except ValueError as error:
                    raise ProbeFailed(f"does not keep to PostgreSQL's protocol: {error}") from None
            elif kind == b"Z":
                if refusal is not None:
                    raise refusal
                return rows

    async def _receive(self) -> tuple[bytes, bytes]:
        """Return the next message that is an answer to something."""
        while True:
            kind = await self._intake.exactly(1)
            if kind not in KINDS:
                raise self._foreign(kind)
            if kind == b"E":
                await self._refused()
            (length,) = struct.unpack("!i", await self._intake.exactly(4))
            if length < 4:
                raise self._foreign(kind)
            body = await self._intake.exactly(length - 4)
            if kind == b"S" and body.count(b"\0") >= 2:
                name, value = body.split(b"\0")[:2]
                self.settings[plain(name, 60)] = plain(value, 60)
            if kind not in b"SNKv":
                return kind, body

    async def _refused(self) -> None:
        """Raise the error that follows."""
        head = await self._intake.exactly(4)
        (length,) = struct.unpack("!i", head)
        if 4 <= length <= _ERROR_BYTES:
            raise read_error(await self._intake.exactly(length - 4))
        raise ServerError("", plain(head + self._intake.held(300), 150))

    def _foreign(self, begun: bytes) -> ProbeFailed:
        return ProbeFailed(
            f"does not speak PostgreSQL's protocol: {plain(begun + self._intake.held(60), 60)!r}"
        )


def _md5(user: str, password: str, salt: bytes) -> str:
    """Answer as the method ``md5`` wants it, which is not ours to choose."""
    inner = hashlib.md5(password.encode() + user.encode(), usedforsecurity=False).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest()
