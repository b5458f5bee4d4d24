"""What clients and servers of PostgreSQL and MySQL say, byte by byte, for tests that play either side."""

from __future__ import annotations

import struct

# -- PostgreSQL, protocol 3


def message(kind: bytes, body: bytes = b"") -> bytes:
    """One message with a type."""
    return kind + struct.pack(">I", len(body) + 4) + body


def untyped(code: int, body: bytes = b"") -> bytes:
    """One message without a type: the first ones of a client."""
    return struct.pack(">II", len(body) + 8, code) + body


STARTUP = untyped(3 << 16, b"user\0tester\0database\0shop\0\0")
SSL_REQUEST, GSS_REQUEST, CANCEL = untyped(80877103), untyped(80877104), untyped(80877102, b"\0" * 8)
AUTHENTICATED = message(b"R", struct.pack(">I", 0))
SYNC, PARSE, BIND, EXECUTE = (
    message(b"S"),
    message(b"P", b"\0SELECT 1\0\0\0"),
    message(b"B", b"\0\0" + b"\0" * 6),
    message(b"E", b"\0\0\0\0\0"),
)
COPY_IN, COPY_BOTH, COPY_DONE = message(b"G", b"\0\0\0"), message(b"W", b"\0\0\0"), message(b"c")
TERMINATE = message(b"X")


def query(text: bytes) -> bytes:
    """A simple query."""
    return message(b"Q", text + b"\0")


def ready(status: bytes = b"I") -> bytes:
    """The server waits for the next request, with or without a transaction."""
    return message(b"Z", status)


def complete(tag: bytes = b"SELECT 1") -> bytes:
    """A command is done."""
    return message(b"C", tag + b"\0")


def row(value: bytes) -> bytes:
    """One row of one column."""
    return message(b"D", struct.pack(">HI", 1, len(value)) + value)


def failure(code: bytes = b"42601") -> bytes:
    """An error of the server."""
    return message(b"E", b"SERROR\0C" + code + b"\0Mno\0\0")


LET_IN = AUTHENTICATED + message(b"S", b"a\0b\0") + message(b"K", b"\0" * 8) + ready()

# -- MySQL and MariaDB

SSL, COMPRESS, PROTOCOL_41, LOCAL_FILES, DEPRECATE_EOF = 1 << 11, 1 << 5, 1 << 9, 1 << 7, 1 << 24
USUAL = 1 | PROTOCOL_41 | LOCAL_FILES | 1 << 13 | 1 << 15 | 1 << 19
IN_TRANSACTION, AUTOCOMMIT, MORE_RESULTS, CURSOR, LAST_ROW = 1, 2, 8, 64, 128
QUIT = b"\1\0\0\0\1"


def packet(sequence: int, body: bytes) -> bytes:
    """One packet; the sequence number is what the position in an exchange asks for."""
    return struct.pack("<I", len(body) | (sequence & 0xFF) << 24) + body


def greeting(capabilities: int = USUAL | DEPRECATE_EOF | SSL | COMPRESS) -> bytes:
    """What a server says first."""
    low, high = struct.pack("<H", capabilities & 0xFFFF), struct.pack("<H", capabilities >> 16 & 0xFFFF)
    body = b"\x0a8.0.36\0" + b"\7\0\0\0" + b"a" * 8 + b"\0" + low + b"\x21\2\0" + high
    return packet(0, body + b"\x15" + b"\0" * 10 + b"b" * 12 + b"\0mysql_native_password\0")


def hello(capabilities: int = USUAL | DEPRECATE_EOF) -> bytes:
    """What a client answers to that; with SSL, what it says before it encrypts."""
    head = struct.pack("<I", capabilities) + b"\0\0\0\1\x21" + b"\0" * 23
    return packet(1, head if capabilities & SSL else head + b"app\0\0mysql_native_password\0")


def ok(sequence: int = 1, status: int = AUTOCOMMIT, head: int = 0) -> bytes:
    """It is done; ``head`` is 0xFE at the end of rows."""
    return packet(sequence, bytes([head, 0, 0]) + struct.pack("<HH", status, 0))


def eof(sequence: int, status: int = AUTOCOMMIT) -> bytes:
    """The end of definitions or rows, as it was before DEPRECATE_EOF."""
    return packet(sequence, b"\xfe" + struct.pack("<HH", 0, status))


def error(sequence: int = 1, number: int = 1064) -> bytes:
    """An error of the server."""
    return packet(sequence, b"\xff" + struct.pack("<H", number) + b"#42000no")


def command(number: int, rest: bytes = b"") -> bytes:
    """A command of the client."""
    return packet(0, bytes([number]) + rest)


def ask(text: bytes = b"SELECT 1") -> bytes:
    """COM_QUERY."""
    return command(3, text)


def result(*values: bytes, status: int = AUTOCOMMIT, deprecates_eof: bool = True, sequence: int = 1) -> bytes:
    """A result of one column and so many rows."""
    parts = [b"\1", b"\3def" + b"\0" * 20]
    if not deprecates_eof:
        parts.append(b"\xfe" + struct.pack("<HH", 0, status))
    parts += [bytes([len(value)]) + value for value in values]
    said = b"".join(packet(sequence + index, part) for index, part in enumerate(parts))
    last = sequence + len(parts)
    return said + (ok(last, status, 0xFE) if deprecates_eof else eof(last, status))
