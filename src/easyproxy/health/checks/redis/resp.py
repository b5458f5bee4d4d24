"""Redis's protocol (RESP 2), as far as a check needs it: commands out; a line, a text or a number in.

Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
"""

from __future__ import annotations

import re

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import plain
from easyproxy.health.checks.intake import Intake

LINE_BYTES = 1024


class ServerError(Exception):
    """An error in the server's words; ``word`` is the first of them, which programs go by (NOAUTH, LOADING)."""

    def __init__(self, words: str) -> None:
        self.word = words.partition(" ")[0]
        super().__init__(words)


def command(*words: str) -> bytes:
    r"""Write a command.

    >>> command("INFO", "server")
    b'*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n'
    """
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


async def reply(intake: Intake) -> str | ServerError:
    """Read one reply; an error is returned, since it is the answer to one of several commands.

    Raises:
        ProbeFailed: it is none, or more than a probe reads.
        EOFError: the server has ended the connection.
    """
    line = await intake.line(LINE_BYTES)
    kind, rest = line[:1], line[1:]
    if kind in (b"+", b":"):
        return plain(rest)
    if kind == b"-":
        return ServerError(plain(rest, 150))
    if kind != b"$" or not re.fullmatch(rb"-1|[0-9]{1,9}", rest):
        raise ProbeFailed(f"does not speak Redis's protocol: {plain(line, 60)!r}")
    if rest == b"-1":
        return ""
    text = await intake.exactly(int(rest) + 2)
    return text[:-2].decode("utf-8", "replace")


def read_info(text: str) -> dict[str, str]:
    r"""Read the answer to INFO.

    >>> read_info("# Server\r\nredis_version:7.0.15\r\nexecutable:/a:b\r\n")
    {'redis_version': '7.0.15', 'executable': '/a:b'}
    """
    pairs = (line.partition(":") for line in text.splitlines() if not line.startswith("#"))
    return {name: plain(value) for name, colon, value in pairs if colon}
