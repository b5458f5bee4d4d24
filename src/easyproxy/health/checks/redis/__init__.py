"""The Redis check, for Redis, Valkey and what speaks their protocol: PING and INFO, with a login before where one is given.

A server that asks for a login which we do not have is alive. One that answers without is asked where it stands. Why not by a
library: docs/decisions/0008-our-own-side-of-the-postgresql-and-redis-protocols.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Finding, Target
from easyproxy.health.checks.connection import Connection, connect
from easyproxy.health.checks.database import DatabaseCheck, alive
from easyproxy.health.checks.intake import Intake
from easyproxy.health.checks.redis.resp import ServerError, command, read_info, reply
from easyproxy.health.checks.redis.standing import judge, version_of

BUDGET_BYTES = 256 * 1024
"""What one probe reads at most; a primary names every replica, and its answer is about five KiB without any."""
SECTIONS = ("server", "replication", "persistence")
DEFAULT_USER = "default"

_NO_LOGIN = ("NOAUTH", "NOPERM", "WRONGPASS")


@dataclass(frozen=True)
class RedisCheck(DatabaseCheck):
    """Succeeds when the server answers PING and is not loading; says where it stands if it lets us see it.

    Attributes:
        user: of an access control list; ``default`` is whom a mere password (``requirepass``) stands for.
    """

    user: str = DEFAULT_USER

    def __post_init__(self) -> None:
        """Refuse a name that is none."""
        super().__post_init__()
        if not self.user:
            raise ValueError("user is empty; leave it out, or name an account")

    async def probe(self, target: Target) -> str | Finding:
        """Ask, all at once, and read the answers. Returns a finding."""
        password, trouble = self._read_password()
        async with connect(target, self._tls) as connection:
            try:
                async with asyncio.timeout_at(connection.deadline):
                    return await self._converse(connection, password, trouble)
            except TimeoutError:
                raise TimeoutError("connected, but no answer came in time") from None

    async def _converse(self, connection: Connection, password: str | None, trouble: str) -> Finding:
        intake = Intake(connection, BUDGET_BYTES)
        questions = [command("PING"), *(command("INFO", section) for section in SECTIONS)]
        if password is not None:
            # Before version 6 there are no names, and AUTH takes only a password.
            account = () if self.user == DEFAULT_USER else (self.user,)
            questions.insert(0, command("AUTH", *account, password))
        connection.writer.write(b"".join(questions))
        answers: list[str | ServerError] = []
        try:
            while len(answers) < len(questions):
                answers.append(await reply(intake))
        except (EOFError, ConnectionError):
            if answers and isinstance(
                answers[0], ServerError
            ):  # it turned us away: too many clients, protected mode
                raise ProbeFailed(str(answers[0])) from None
            raise
        if password is not None and isinstance(refusal := answers.pop(0), ServerError):
            trouble = str(refusal)
        pong, *sections = answers
        info = read_info("\r\n".join(one for one in sections if isinstance(one, str)))
        refusals = [one for one in sections if isinstance(one, ServerError)]
        if info.get("loading", "0") != "0":
            return judge(info)  # says how far it is
        if isinstance(pong, ServerError) and pong.word not in _NO_LOGIN:
            raise ProbeFailed(str(pong))
        if "role" not in info and refusals:
            if all(one.word in _NO_LOGIN for one in refusals):
                return alive(version_of(info), trouble or str(refusals[0]))
            if "redis_mode" not in info:
                raise ProbeFailed(str(refusals[0]))
        return judge(info, trouble)
