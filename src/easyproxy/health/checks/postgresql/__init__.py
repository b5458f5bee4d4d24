"""The PostgreSQL check: a login that is left when it begins, or a login and where the server stands.

Without a password it says who it is, and leaves when the server asks for the password: that proves that the server takes
clients, and leaves nothing in its log. With one it logs in, asks one question, and says goodbye. Why not by a library:
docs/decisions/0008-our-own-side-of-the-postgresql-and-redis-protocols.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, Target
from easyproxy.health.checks.connection import Connection, Tls, connect
from easyproxy.health.checks.database import DatabaseCheck, LoginRefusedError, alive
from easyproxy.health.checks.postgresql.conversation import Challenge, Conversation
from easyproxy.health.checks.postgresql.discretion import Discretion
from easyproxy.health.checks.postgresql.messages import NAME_BYTES, Method, ServerError
from easyproxy.health.checks.postgresql.scram import Keys
from easyproxy.health.checks.postgresql.standing import QUESTION, Progress, judge

_NOT_NOW = "55000"
"""A function that is only for a primary, or only for a replica: the server was promoted while it answered."""
_NO_RIGHT = "42501"
_TOO_OLD = ("42883", "42P01", "42703")
_MOST_SERVERS = 1000


@dataclass(frozen=True)
class PostgresqlCheck(DatabaseCheck):
    """Succeeds when the server begins a login; with a password it says where the server stands.

    Attributes:
        user: who to log in as. Without a password the account need not exist.
        database: which one to log in to.
    """

    database: str = "postgres"
    _discretion: Discretion = field(default_factory=Discretion, init=False, repr=False, compare=False)
    _keys: Keys = field(default_factory=Keys, init=False, repr=False, compare=False)
    _progress: dict[str, Progress] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse names that the protocol cannot carry."""
        super().__post_init__()
        for option in ("user", "database"):
            name = getattr(self, option)
            if not name or "\0" in name or len(name.encode()) > NAME_BYTES:
                raise ValueError(f"{option} is {name!r}; it must have 1 to {NAME_BYTES} bytes and no NUL")

    async def probe(self, target: Target) -> str | Finding:
        """Begin a login, or log in and ask. Returns how the server wants the password, or a finding."""
        password, trouble = self._read_password()
        server = str(target.address)
        try:
            async with connect(target) as connection:
                try:
                    async with asyncio.timeout_at(connection.deadline):
                        found = await self._converse(connection, target, password)
                except TimeoutError:
                    raise TimeoutError("connected, but the login was not done in time") from None
                except ServerError as error:
                    raise ProbeFailed(str(error)) from None
        except BaseException:
            self._discretion.forget(server)  # it may be another one when it comes back
            raise
        return alive("", trouble) if trouble and isinstance(found, str) else found

    async def _converse(self, connection: Connection, target: Target, password: str | None) -> str | Finding:
        conversation = Conversation(connection, self._keys, is_private=bool(target.address.path))
        server, now = str(target.address), asyncio.get_running_loop().time()
        if self._tls is not None:
            if not await conversation.ask_for_tls():
                raise ProbeFailed("does not offer TLS")
            await connection.upgrade(self._tls, target)
        elif password is None and (why := self._discretion.of(server, now)):
            if await conversation.ask_for_tls():  # to leave here would be in its log
                await connection.upgrade(Tls(verify=False), target)
            return f"answers; it refused a login, so none is tried now: {why}"
        try:
            challenge = await conversation.begin(self.user, self.database)
            if password is None:
                return await _leave(conversation, challenge)
            await conversation.log_in(self.user, challenge, password)
        except LoginRefusedError as refusal:
            return str(refusal) if password is None else alive("", str(refusal))
        except ServerError as error:
            if not error.is_about_login:
                raise
            if password is not None:
                return alive("", str(error))
            self._discretion.refused(server, str(error), now)
            return f"answers: {error}"
        try:
            return await self._look(conversation, server, now)
        finally:
            conversation.leave()

    async def _look(self, conversation: Conversation, server: str, now: float) -> Finding:
        """Ask where the server stands."""
        try:
            try:
                row = await conversation.row(QUESTION)
            except ServerError as error:
                if error.state != _NOT_NOW:
                    raise
                row = await conversation.row(QUESTION)
        except ServerError as error:
            version = conversation.settings.get("server_version", "").partition(" ")[0]
            if error.state == _NO_RIGHT or error.state in _TOO_OLD:
                return alive(version, f"does not answer where it stands: {error}")
            raise
        if len(self._progress) >= _MOST_SERVERS:
            self._progress.clear()
        return judge(row, self._progress.setdefault(server, Progress()), now, self.user)


async def _leave(conversation: Conversation, challenge: Challenge) -> str:
    """Part from a server that has begun a login."""
    method, _ = challenge
    if method is not Method.NONE:
        return f"begins a login ({method.name})"
    await conversation.until_ready()
    conversation.leave()
    return f"lets us in, {conversation.settings.get('server_version', 'without a version').partition(' ')[0]}"
