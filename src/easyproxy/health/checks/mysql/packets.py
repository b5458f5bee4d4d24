"""MySQL's packets as far as a probe speaks them. Pure: bytes in, values out, and the other way round.

What comes from a server is hostile until it was read: nothing here trusts a length, and what does not fit is a
ProbeFailed. Layouts: https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basics.html
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import plain

COM_QUIT, COM_QUERY = b"\x01", b"\x03"
_UTF8MB4 = 45  # utf8mb4_general_ci
_LONGEST_ANSWER = 255
NAME_BYTES = 80
"""Longest name of an account: MariaDB's 80 characters."""


class Kind(IntEnum):
    """First byte of a server's packet."""

    OK = 0x00
    MORE = 0x01  # during the login: the method has more to say
    SWITCH = 0xFE  # during the login: another method; after rows: that was all
    ERROR = 0xFF


class Can(IntFlag):
    """Capabilities.

    https://dev.mysql.com/doc/dev/mysql-server/latest/group__group__cs__capabilities__flags.html
    """

    LONG_PASSWORD = 1
    PROTOCOL_41 = 1 << 9
    SSL = 1 << 11
    SECURE_CONNECTION = 1 << 15
    PLUGIN_AUTH = 1 << 19


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a server says first.

    Attributes:
        version: as it calls itself.
        method: of authentication, of those that it likes best; empty if it names none.
        scramble: what a password is to be mixed with.
        can_tls: whether it offers TLS.
    """

    version: str
    method: str = ""
    scramble: bytes = b""
    can_tls: bool = False


class ServerError(Exception):
    """The server answered with an error packet."""

    def __init__(self, code: int, words: str) -> None:
        self.code, self.words = code, words
        super().__init__(f"{words} (error {code})")


def read_greeting(packet: bytes) -> Greeting:
    """Read HandshakeV10.

    Raises:
        ServerError: it turns us away without a greeting: too many connections, a blocked host.
        ProbeFailed: this is no greeting.
    """
    if packet[0] == Kind.ERROR:
        raise read_error(packet)
    text, nul, rest = packet[1:].partition(b"\0")
    if packet[0] != 10 or not nul or not text:
        raise ProbeFailed(f"does not speak MySQL (protocol {packet[0]}): {plain(packet[1:], 40)!r}")
    version = plain(text, 80)
    # MariaDB says 5.5.5- first, for replicas that took a leading 10 for a 1.
    version = version.removeprefix("5.5.5-") if "MariaDB" in version else version
    if len(rest) < 31:
        return Greeting(version)
    low, high, length = struct.unpack_from("<13xH3xHB10x", rest)
    abilities = low | high << 16
    second = rest[31 : 31 + max(13, length - 8)]
    method = rest[31 + len(second) :].partition(b"\0")[0] if abilities & Can.PLUGIN_AUTH else b""
    return Greeting(version, plain(method, 64), rest[4:12] + second[:12], bool(abilities & Can.SSL))


def read_error(packet: bytes) -> ServerError:
    """Read an error packet, without its SQL state."""
    if len(packet) < 3:
        return ServerError(0, "an error without a code")
    words = packet[9:] if packet[3:4] == b"#" else packet[3:]
    return ServerError(int.from_bytes(packet[1:3], "little"), plain(words, 150))


def tls_request() -> bytes:
    """Write SSLRequest, behind which the TLS handshake begins."""
    return struct.pack("<IIB23x", _abilities(Can.SSL | Can.PLUGIN_AUTH), 1 << 24, _UTF8MB4)


def login(user: str, method: str, answer: bytes, *, tls: bool = False) -> bytes:
    """Write HandshakeResponse41.

    Raises:
        ValueError: the answer does not fit.
    """
    if len(answer) > _LONGEST_ANSWER:
        raise ValueError("the password is too long for this method of authentication")
    abilities = _abilities((Can.PLUGIN_AUTH if method else Can(0)) | (Can.SSL if tls else Can(0)))
    return (
        struct.pack("<IIB23x", abilities, 1 << 24, _UTF8MB4)
        + user.encode()
        + b"\0"
        + bytes([len(answer)])
        + answer
        + (method.encode("latin-1") + b"\0" if method else b"")
    )


def _abilities(more: Can) -> int:
    return int(Can.LONG_PASSWORD | Can.PROTOCOL_41 | Can.SECURE_CONNECTION | more)


def read_number(packet: bytes, at: int) -> tuple[int | None, int]:
    """Read a length-encoded integer; return it (None is NULL) and the place behind it."""
    if at >= len(packet):
        raise ProbeFailed("sent a packet that ends too early")
    first = packet[at]
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    if first == 0xFB:
        return None, at + 1
    if first == 0xFF or at + 1 + size > len(packet):
        raise ProbeFailed("sent a packet that ends too early")
    return (int.from_bytes(packet[at + 1 : at + 1 + size], "little") if size else first), at + 1 + size


def read_texts(packet: bytes, count: int) -> list[str | None]:
    """Read ``count`` length-encoded texts (None is NULL) from the beginning of a packet."""
    found: list[str | None] = []
    at = 0
    for _ in range(count):
        length, at = read_number(packet, at)
        if length is None:
            found.append(None)
            continue
        if at + length > len(packet):
            raise ProbeFailed("sent a packet that ends too early")
        found.append(packet[at : at + length].decode("utf-8", "replace"))
        at += length
    return found


def read_column(packet: bytes) -> str:
    """Read the name in a column's definition: the fifth of its texts."""
    return read_texts(packet, 5)[4] or ""


def is_end(packet: bytes) -> bool:
    """Whether a packet ends a list of columns or rows; a row may begin with the same byte, but is longer then."""
    return packet[0] == Kind.SWITCH and len(packet) < 9
