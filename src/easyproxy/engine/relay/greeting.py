"""What the first bytes of a connection say: whether a server takes its client, or turns it away. Pure: bytes in, judgement out.

A listener that accepts is no server that serves: the kernel of a stopped one completes handshakes, and one that is full says so
only afterwards. Where the protocol has a first word by the server, that is the proof.

Layouts: MySQL, ``page_protocol_basic_packets.html`` and ``page_protocol_basic_err_packet.html`` of its documentation of
the client/server protocol; PostgreSQL, "Message Formats" and "Error and Notice Message Fields" of its manual.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_BYTES = 1024
"""So much of what a server says is looked at. Its errors are shorter, and what is longer is no error."""
STARTUP_BYTES = 10_000
"""Longest startup packet (MAX_STARTUP_PACKET_LENGTH of PostgreSQL, src/include/libpq/pqcomm.h)."""
_WORDS = 150


class Refusal(NamedTuple):
    """A server that turns the client away: what it said, and whether that is only for want of a place."""

    words: str
    is_busy: bool


class Heard(Enum):
    """What can be said otherwise."""

    TOO_LITTLE = 0  # it depends on the bytes that follow
    GREETING = 1


Judgement = Heard | Refusal

_MYSQL_BUSY = frozenset(
    {
        1040,  # ER_CON_COUNT_ERROR: max_connections
        1135,  # ER_CANT_CREATE_THREAD
        1203,  # ER_TOO_MANY_USER_CONNECTIONS
    }
)
_MYSQL_ERROR = 0xFF
_STARTING, _FULL = "57P03", "53300"  # cannot_connect_now, too_many_connections (Appendix A of the manual)

SSL_REQUEST, GSSENC_REQUEST = 80877103, 80877104
NO_ENCRYPTION = b"N"
PROTOCOL_3 = 3


def any_words(_data: bytes) -> Judgement:
    """Take whatever was said for a greeting."""
    return Heard.GREETING


def mysql(data: bytes) -> Judgement:
    """Judge what a MySQL server says first: a handshake, or an error packet. Whatever else it is, is the client's to judge.

    >>> mysql(bytes.fromhex("17000000ff1004") + b"Too many connections")
    Refusal(words='Too many connections (error 1040)', is_busy=True)
    """
    if len(data) < 5:
        return Heard.TOO_LITTLE
    if data[4] != _MYSQL_ERROR:
        return Heard.GREETING
    end = min(4 + int.from_bytes(data[:3], "little"), LOOK_BYTES)
    if len(data) < end:
        return Heard.TOO_LITTLE
    code = int.from_bytes(data[5:7], "little") if end >= 7 else 0
    words = data[13:end] if data[7:8] == b"#" else data[7:end]
    return Refusal(f"{_plain(words)} (error {code})", code in _MYSQL_BUSY)


class Packet(NamedTuple):
    """What a client of PostgreSQL has sent first.

    Attributes:
        length: in bytes; 0 when it is nothing that is to be looked at: the server alone knows what to say to it.
        request: the code of a request for encryption, to which one byte is the answer; 0 for a startup packet.
        is_whole: all of it is here.
    """

    length: int
    request: int = 0
    is_whole: bool = True


def startup(data: bytes) -> Packet:
    """Read the beginning of what a client of PostgreSQL says."""
    if len(data) < 4:
        return Packet(8, is_whole=False)
    length = int.from_bytes(data[:4], "big")
    if not 8 <= length <= STARTUP_BYTES:  # TLS without a request, or no PostgreSQL at all
        return Packet(0)
    if len(data) < 8:
        return Packet(8, is_whole=False)
    code = int.from_bytes(data[4:8], "big")
    if code in (SSL_REQUEST, GSSENC_REQUEST) and length == 8:
        return Packet(8, code)
    if code >> 16 != PROTOCOL_3:  # a request to cancel, or a protocol of another age
        return Packet(0)
    return Packet(length, is_whole=len(data) >= length)


def request(code: int) -> bytes:
    """Write a request for encryption."""
    return (8).to_bytes(4, "big") + code.to_bytes(4, "big")


def postgresql(data: bytes) -> Judgement:
    """Judge the answer to a startup packet: only two errors say that another server may do better."""
    if data[:1] != b"E":
        return Heard.GREETING
    if len(data) < 5:
        return Heard.TOO_LITTLE
    end = 1 + int.from_bytes(data[1:5], "big")
    if not 6 <= end <= LOOK_BYTES:  # the error of a server that could not even make a process has no length
        return Heard.GREETING
    if len(data) < end:
        return Heard.TOO_LITTLE
    said = dict(_fields(data[5:end]))
    code = said.get(b"C", b"")
    if code not in (_STARTING.encode(), _FULL.encode()):
        return Heard.GREETING
    return Refusal(f"{_plain(said.get(b'M', b''))} (error {code.decode()})", code == _FULL.encode())


def _fields(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for field in data.split(b"\0"):
        if field:
            yield field[:1], field[1:]


def _plain(words: bytes) -> str:
    text = words[:_WORDS].decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "no words"


JUDGES: dict[str, Callable[[bytes], Judgement]] = {"any": any_words, "mysql": mysql}
"""For servers that speak first, by the pool's ``greeting``."""
POSTGRESQL = "postgresql"
