"""The MySQL check, for MySQL, MariaDB and what speaks their protocol: a handshake, or a login and where it stands.

Without a password it reads the greeting and has a login without a password decided: a refusal is no connect error, and
it proves as much as a login, that the server answers. With one it logs in, asks two questions (three with Galera), and
says goodbye. Figures and alternatives: docs/decisions/0003-mysql-probe-without-credentials.md and
0007-our-own-side-of-the-mysql-protocol.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, Target, plain
from easyproxy.health.checks.connection import Connection, Tls, connect, prepare, tls_words
from easyproxy.health.checks.database import DatabaseCheck, LoginRefusedError, alive
from easyproxy.health.checks.mysql.conversation import Conversation
from easyproxy.health.checks.mysql.distrust import Distrust
from easyproxy.health.checks.mysql.packets import NAME_BYTES, Greeting, ServerError, read_greeting
from easyproxy.health.checks.mysql.standing import (
    GALERA,
    VARIABLES,
    Row,
    by_name,
    grant,
    is_galera,
    judge,
    questions,
    refuse_unsynced,
)

_SYNTAX = 1064
_NO_RIGHT = frozenset(
    {
        1044,  # access denied to the database
        1142,  # the command is denied
        1227,  # a privilege is missing
        1820,  # the password has expired
    }
)
"""Errors after the login that speak of the account's rights."""


@dataclass(frozen=True)
class MysqlCheck(DatabaseCheck):
    """Succeeds when the server greets and decides about a login; with a password it says where the server stands.

    Attributes:
        user: who to log in as. Without a password the account need not exist; where it does, without rights and
            without a password, the server counts and logs nothing at all.
        writable_is_primary: one that takes writes is a primary even if it is set up to follow another.
    """

    writable_is_primary: bool = False
    _distrust: Distrust = field(default_factory=Distrust, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse names that the protocol cannot carry."""
        super().__post_init__()
        if not self.user or "\0" in self.user or len(self.user.encode()) > NAME_BYTES:
            raise ValueError(f"user is {self.user!r}; it must have 1 to {NAME_BYTES} bytes and no NUL")

    async def probe(self, target: Target) -> str | Finding:
        """Shake hands once, or log in and ask. Returns the server's version, or a finding."""
        password, trouble = self._read_password()
        async with connect(target) as connection:
            try:
                async with asyncio.timeout_at(connection.deadline):
                    found = await self._converse(connection, target, password)
            except TimeoutError:
                raise TimeoutError("connected, but the handshake was not done in time") from None
        return alive(found, trouble) if trouble and isinstance(found, str) else found

    async def _converse(self, connection: Connection, target: Target, password: str | None) -> str | Finding:
        conversation = Conversation(connection, is_secure=bool(target.address.path))
        greeting = await _greeted(connection, conversation)
        try:
            if self._tls is not None:
                await self._protect(self._tls, connection, conversation, greeting, target)
            return await self._log_in(conversation, greeting, password)
        except ServerError as error:
            raise ProbeFailed(f"{error.words} (error {error.code}, {greeting.version})") from None
        finally:
            conversation.quit()

    async def _protect(
        self, tls: Tls, connection: Connection, conversation: Conversation, greeting: Greeting, target: Target
    ) -> None:
        """Begin TLS, unless it is known to fail: then have a login without a password decided, and fail.

        To leave before a login is decided would be a connect error.
        """
        server, now = str(target.address), asyncio.get_running_loop().time()
        failure = self._distrust.of(server, now)
        why = failure.words if failure else _in_the_way(tls, greeting)
        if not why:
            conversation.ask_for_tls()
            try:
                await connection.upgrade(tls, target)
            except ssl.SSLError as error:
                is_about_certificate = isinstance(error, ssl.SSLCertVerificationError)
                words = plain(tls_words(error))
                self._distrust.failed(server, words, now, is_about_certificate=is_about_certificate)
                raise
            self._distrust.worked(server)
            return
        if failure is not None and failure.is_about_certificate and greeting.can_tls:
            conversation.ask_for_tls()
            await connection.upgrade(Tls(verify=False, server_name=tls.server_name), target)
            if not self._distrust.presents(server, connection.certificate()):
                why = "has another certificate now; the next probe verifies it"
        with contextlib.suppress(LoginRefusedError):
            await conversation.log_in(self.user, greeting, None)
        raise ProbeFailed(why)

    async def _log_in(
        self, conversation: Conversation, greeting: Greeting, password: str | None
    ) -> str | Finding:
        try:
            await conversation.log_in(self.user, greeting, None if password is None else password.encode())
        except LoginRefusedError as refusal:
            return greeting.version if password is None else alive(greeting.version, str(refusal))
        return greeting.version if password is None else await self._look(conversation, greeting.version)

    async def _look(self, conversation: Conversation, version: str) -> Finding:
        """Ask where the server stands."""
        try:
            variables = by_name(await conversation.query(VARIABLES))
        except ServerError as error:
            if error.code in _NO_RIGHT:
                return alive(version, str(error))
            raise
        cluster = ""
        if is_galera(variables):
            cluster = refuse_unsynced(by_name(await conversation.query(GALERA)))
        rows, missing = await self._replication(conversation, version)
        return judge(
            version,
            variables,
            rows,
            cluster=cluster,
            writable_is_primary=self.writable_is_primary,
            missing=missing,
        )

    async def _replication(self, conversation: Conversation, version: str) -> tuple[list[Row] | None, str]:
        """Ask what the server follows; None with the reason where the account may not see that."""
        for statement in questions(version):
            try:
                return [*await conversation.query(statement)], ""
            except ServerError as error:
                if error.code in _NO_RIGHT:
                    return (
                        None,
                        f"may not see replication (error {error.code}); {grant(version)} TO {self.user}",
                    )
                if error.code != _SYNTAX:
                    raise
        return None, "it understands none of the known questions about replication"


def _in_the_way(tls: Tls, greeting: Greeting) -> str:
    """Say what keeps us from beginning TLS, if anything does."""
    if not greeting.can_tls:
        return f"does not offer TLS ({greeting.version})"
    try:
        prepare(tls)
    except ProbeFailed as error:
        return str(error)
    return ""


async def _greeted(connection: Connection, conversation: Conversation) -> Greeting:
    """Wait for the greeting.

    A server that hangs has our connection in its backlog. If it finds the end of it there when it wakes up, that is a
    connect error, and after a minute or two of them it would block us; a reset it cannot lay to anybody's charge,
    since the peer's address is gone (``Connection_errors_peer_address``). Figures: decision 3.
    """
    try:
        packet = await conversation.receive()
    except BaseException:
        connection.end_by_reset()
        raise
    try:
        return read_greeting(packet)
    except ServerError as error:
        raise ProbeFailed(str(error)) from None
