"""What servers and clients of databases say first, written by hand."""

from __future__ import annotations

import struct

GREETING = b"\x2d\0\0\0\x0a8.4.0\0" + b"\x07\0\0\0abcdefgh\0\xff\xf7\xff\x02\0" + b"\0" * 17
"""The beginning of a handshake of MySQL; long enough to be one."""


def mysql_error(code: int, words: bytes) -> bytes:
    """Write an error packet that comes instead of a greeting."""
    payload = b"\xff" + struct.pack("<H", code) + words
    return struct.pack("<I", len(payload))[:3] + b"\0" + payload


def pg_startup(**settings: str) -> bytes:
    """Write a startup packet."""
    body = struct.pack(">I", 3 << 16)
    for name, value in settings.items():
        body += name.encode() + b"\0" + value.encode() + b"\0"
    return struct.pack(">I", len(body) + 5) + body + b"\0"


def pg_error(code: str, words: str) -> bytes:
    """Write an ErrorResponse."""
    body = b"".join(
        kind + text.encode() + b"\0" for kind, text in ((b"S", "FATAL"), (b"C", code), (b"M", words))
    )
    return b"E" + struct.pack(">I", len(body) + 5) + body + b"\0"


PG_OK = b"R\0\0\0\x08\0\0\0\0"
"""AuthenticationOk."""
