"""The MySQL check: a handshake that needs no password, for MySQL, MariaDB and what speaks their protocol.

A client that leaves before it has logged in is a connect error: after ``max_connect_errors`` of them the server blocks
its address, and with it all traffic of the balancer (error 1129). So the probe reads the greeting and then tries to
log in, without a password. A refusal is no connect error, and it proves as much as a login: that the server answers.
Figures and alternatives: docs/decisions/0003-mysql-probe-without-credentials.md.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Check, Target, plain
from easyproxy.health.checks.connection import Connection, connect

PACKET_BYTES = 64 * 1024
"""Longest packet that is read; a greeting has about 100 bytes."""
ROUNDS = 6
"""Most packets that a server may send between its greeting and its decision."""

# https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html
_LONG_PASSWORD, _PROTOCOL_41, _SECURE_CONNECTION, _PLUGIN_AUTH = 1, 1 << 9, 1 << 15, 1 << 19
_UTF8MB4 = 45  # utf8mb4_general_ci
_COM_QUIT = b"\x01"


class _Kind(IntEnum):
    """First byte of a server's packet during the login."""

    OK = 0x00
    SWITCH = 0xFE
    ERROR = 0xFF


_ALIVE = frozenset(
    {
        1045,  # access denied
        1251,  # the account needs an authentication that this client does not have
        1698,  # access denied, no password
        1862,  # the password has expired
        3118,  # the account is locked (MySQL)
        3159,  # only encrypted connections are allowed
        4151,  # the account is locked (MariaDB)
    }
)
"""Errors after the greeting that speak of the account, not of the server."""

_EMPTY_PASSWORD = {
    # What each method's own client sends for an empty password, or for one that must be wrong. An answer of a wrong
    # length would be a broken handshake, which is a connect error.
    "caching_sha2_password": b"\0",
    "sha256_password": b"\0",
    "mysql_clear_password": b"\0",
    "dialog": b"\0",
    "client_ed25519": bytes(64),
}


@dataclass(frozen=True)
class MysqlCheck(Check):
    """Succeeds when the server greets and decides about a login. Returns the server's version.

    Attributes:
        user: who to log in as, without a password. The account need not exist. Where it does, without rights and
            without a password, the server counts and logs nothing at all.
    """

    user: str = "easyproxy"

    def __post_init__(self) -> None:
        """Refuse names that the protocol cannot carry."""
        if not self.user or "\0" in self.user or len(self.user.encode()) > 80:
            raise ValueError(f"user is {self.user!r}; it must have 1 to 80 bytes and no NUL")

    async def probe(self, target: Target) -> str:
        """Shake hands once."""
        async with connect(target) as connection:
            try:
                async with asyncio.timeout_at(connection.deadline):
                    return await self._shake_hands(connection)
            except TimeoutError:
                raise TimeoutError("connected, but the handshake was not done in time") from None

    async def _shake_hands(self, connection: Connection) -> str:
        _, greeting = await _receive(connection)
        version, plugin = _read_greeting(greeting)
        _send(connection, 1, self._login(plugin))
        for _ in range(ROUNDS):
            sequence, packet = await _receive(connection)
            match packet[0]:
                case _Kind.OK:
                    _send(connection, 0, _COM_QUIT)
                    return version
                case _Kind.ERROR:
                    code, words = _read_error(packet)
                    if code in _ALIVE:
                        return version
                    raise ProbeFailed(f"{words} (error {code}, {version})")
                case _Kind.SWITCH:
                    plugin = packet[1:].partition(b"\0")[0].decode("latin-1")
            _send(connection, sequence + 1, _EMPTY_PASSWORD.get(plugin, b""))
        raise ProbeFailed(f"{version}, does not decide about a login")

    def _login(self, plugin: str) -> bytes:
        """Write HandshakeResponse41 with an empty password."""
        capabilities = _LONG_PASSWORD | _PROTOCOL_41 | _SECURE_CONNECTION | (_PLUGIN_AUTH if plugin else 0)
        secret = _EMPTY_PASSWORD.get(plugin, b"")
        return (
            struct.pack("<IIB23x", capabilities, 1 << 24, _UTF8MB4)
            + self.user.encode()
            + b"\0"
            + bytes([len(secret)])
            + secret
            + (plugin.encode("latin-1") + b"\0" if plugin else b"")
        )


def _send(connection: Connection, sequence: int, payload: bytes) -> None:
    connection.writer.write(struct.pack("<I", len(payload))[:3] + bytes([sequence % 256]) + payload)


async def _receive(connection: Connection) -> tuple[int, bytes]:
    """Read one packet: its sequence number and what it holds."""
    head = await connection.reader.readexactly(4)
    length = int.from_bytes(head[:3], "little")
    if not 0 < length <= PACKET_BYTES:
        rest = await connection.reader.read(64)
        raise ProbeFailed(f"does not speak MySQL: {plain(head + rest, 40)!r}")
    return head[3], await connection.reader.readexactly(length)


def _read_greeting(packet: bytes) -> tuple[str, str]:
    """Return the server's version and its authentication method ("" if it names none).

    Layout: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html
    """
    if packet[0] == _Kind.ERROR:
        code, words = _read_error(packet)
        raise ProbeFailed(f"{words} (error {code})")
    text, nul, rest = packet[1:].partition(b"\0")
    if packet[0] != 10 or not nul or not text:
        raise ProbeFailed(f"does not speak MySQL (protocol {packet[0]}): {plain(packet[1:], 40)!r}")
    version = plain(text, 80)
    # MariaDB says 5.5.5- first, for replicas that took a leading 10 for a 1.
    version = version.removeprefix("5.5.5-") if "MariaDB" in version else version
    if len(rest) < 31:
        return version, ""
    low, high, scramble = struct.unpack_from("<13xH3xHB10x", rest)
    if not (low | high << 16) & _PLUGIN_AUTH:
        return version, ""
    plugin = rest[31 + max(13, scramble - 8) :].partition(b"\0")[0]
    return version, plain(plugin, 64)


def _read_error(packet: bytes) -> tuple[int, str]:
    """Return the code and the words of an error packet, without the SQL state."""
    if len(packet) < 3:
        return 0, "an error without a code"
    words = packet[9:] if packet[3:4] == b"#" else packet[3:]
    return int.from_bytes(packet[1:3], "little"), plain(words, 150)
