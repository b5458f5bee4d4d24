"""Messages of PostgreSQL's protocol, version 3: bytes in and out. Pure.

Source: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntEnum

from easyproxy.health.checks.base import plain

NAME_BYTES = 63
"""Longest name of a role or a database (NAMEDATALEN - 1)."""
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
KINDS = b"RSKZETDCNAIv"
"""First bytes of the messages that a server may send during a login and a simple query."""
STARTING, TOO_MANY = "57P03", "53300"

_VERSION = 3 << 16


class Method(IntEnum):
    """How a server wants the password (or does not): the number in an authentication message."""

    NONE = 0
    KERBEROS = 2
    CLEAR = 3
    MD5 = 5
    GSS = 7
    SSPI = 9
    SASL = 10
    SASL_CONTINUE = 11
    SASL_FINAL = 12


class ServerError(Exception):
    """What a server refuses, in its words: they may be in any language, the five characters of ``state`` are not.

    After one that is not fatal, the conversation goes on.
    """

    def __init__(self, state: str, words: str, routine: str = "", *, is_fatal: bool = True) -> None:
        self.state = state
        self.words = words
        self.is_fatal = is_fatal
        self._routine = routine
        super().__init__(f"{words} ({state})" if state else words)

    @property
    def is_about_login(self) -> bool:
        """Whether it speaks of our account or its database, not of the server."""
        # 28: invalid authorization; no such database; no right to connect to it or to ask. A limit of the account has the
        # state of a full server; where it was found tells them apart (postinit.c, miscinit.c).
        is_limit = self.state == TOO_MANY and self._routine in ("InitializeSessionUserId", "CheckMyDatabase")
        return is_limit or self.state.startswith("28") or self.state in ("3D000", "42501")


def message(kind: bytes, body: bytes) -> bytes:
    r"""Frame one message; ``kind`` is empty for the first one of a connection.

    >>> message(b"X", b"")
    b'X\x00\x00\x00\x04'
    """
    return kind + struct.pack("!i", len(body) + 4) + body


def text(words: str) -> bytes:
    """Write a text of the protocol, which ends with NUL."""
    return words.encode() + b"\0"


def startup(settings: Mapping[str, str]) -> bytes:
    """Write the first message: the version of the protocol, and what the session is to be."""
    pairs = b"".join(text(name) + text(value) for name, value in settings.items())
    return message(b"", struct.pack("!i", _VERSION) + pairs + b"\0")


def read_error(body: bytes) -> ServerError:
    r"""Read an ErrorResponse.

    >>> str(read_error(b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"))
    'the database system is starting up (57P03)'
    """
    fields = {part[:1]: part[1:] for part in body.split(b"\0")[:64] if part}
    state, words, routine = (
        plain(fields.get(key, b""), most) for key, most in ((b"C", 5), (b"M", 150), (b"R", 40))
    )
    is_fatal = fields.get(b"V", fields.get(b"S")) != b"ERROR"  # V is never translated; since 9.6
    return ServerError(state, words or "refuses without a word", routine, is_fatal=is_fatal)


def read_row(body: bytes) -> list[str | None]:
    r"""Read a DataRow.

    >>> read_row(b"\0\2\0\0\0\1t\xff\xff\xff\xff")
    ['t', None]

    Raises:
        ValueError: it is not one.
    """
    try:
        (count,) = struct.unpack_from("!h", body)
        values: list[str | None] = []
        at = 2
        for _ in range(count):
            (length,) = struct.unpack_from("!i", body, at)
            at += 4
            if length > len(body) - at:
                raise ValueError("a value is longer than its row")
            values.append(None if length < 0 else body[at : at + length].decode("utf-8", "replace"))
            at += max(0, length)
    except struct.error as error:
        raise ValueError("a row is cut short") from error
    return values
