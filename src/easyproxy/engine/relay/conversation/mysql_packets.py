"""The packets of MySQL's and MariaDB's protocol that tell where a session stands. Pure; every length comes from somebody else.

Sources: MySQL's "Client/Server Protocol" of the server's own documentation, MariaDB's "Client/Server Protocol" and
include/mysql_com.h of both.
"""

from __future__ import annotations

import struct

# Capabilities. Those above 2**31 are MariaDB's own; the server says by the absence of CLIENT_MYSQL that it has them.
CLIENT_MYSQL = 1 << 0
CLIENT_COMPRESS = 1 << 5
CLIENT_PROTOCOL_41 = 1 << 9
CLIENT_SSL = 1 << 11
CLIENT_DEPRECATE_EOF = 1 << 24
CLIENT_OPTIONAL_RESULTSET_METADATA = 1 << 25
CLIENT_ZSTD_COMPRESSION = 1 << 26
MARIADB_CACHE_METADATA = 1 << 36

# Status flags of OK and EOF packets.
IN_TRANSACTION = 0x0001 | 0x2000  # and a read-only one
MORE_RESULTS = 0x0008
CURSOR_EXISTS = 0x0040
LAST_ROW_SENT = 0x0080

OK, LOCAL_INFILE, EOF, ERROR = 0x00, 0xFB, 0xFE, 0xFF
PROGRESS = 0xFFFF
"""The number of an error that is none: MariaDB tells how far a statement is."""

LONGEST = 0xFFFFFF
"""A packet of this length goes on in the next one."""
GLIMPSE = 32
"""So many bytes of a packet say all that is looked for in one, greetings apart."""
LONGEST_GREETING = 4096

_flags = struct.Struct("<I").unpack_from
_short = struct.Struct("<H").unpack_from
_counts = struct.Struct("<HH").unpack_from


def greeting_capabilities(packet: bytes) -> int | None:
    """Read what a server can do from its greeting (protocol 10); None when it is no such greeting."""
    end = packet.find(0, 1, LONGEST_GREETING)
    if not packet or packet[0] != 10 or end < 0:
        return None
    # Behind the version: thread id, 8 bytes of the scramble, 0, capabilities, charset, status, capabilities, length of the
    # scramble, 6 bytes of 0, MariaDB's capabilities.
    rest = packet[end + 1 :]
    if len(rest) < 31:
        return None
    capabilities = int.from_bytes(rest[13:15] + rest[18:20], "little")
    if not capabilities & CLIENT_MYSQL:
        capabilities |= int.from_bytes(rest[27:31], "little") << 32
    return capabilities


def answered_capabilities(packet: bytes) -> int | None:
    """Read what a client wants from its answer to the greeting; None when it is of before MySQL 4.1."""
    if len(packet) < GLIMPSE:
        return None
    (capabilities,) = _flags(packet)
    if not capabilities & CLIENT_PROTOCOL_41:
        return None
    if not capabilities & CLIENT_MYSQL:
        capabilities |= int.from_bytes(packet[28:32], "little") << 32
    return int(capabilities)


def number(packet: bytes, at: int) -> tuple[int, int] | None:
    """Read a length-encoded number; return it and where it ends, or None when it is none or not whole."""
    if at >= len(packet):
        return None
    first = packet[at]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first, 0)
    end = at + 1 + size
    if not size or end > len(packet):
        return None
    return int.from_bytes(packet[at + 1 : end], "little"), end


def ok_status(packet: bytes) -> int | None:
    """Read the status flags of an OK packet, which begins with 0 or 0xFE; None when it is none."""
    if len(packet) >= 7 and packet[1] < 0xFB and packet[2] < 0xFB:  # the usual one
        return packet[3] | packet[4] << 8
    rows = number(packet, 1)
    insert_id = number(packet, rows[1]) if rows else None
    if insert_id is None or insert_id[1] + 4 > len(packet):
        return None
    return int(_short(packet, insert_id[1])[0])


def eof_status(packet: bytes, length: int) -> int | None:
    """Read the status flags of an EOF packet; None when it is none."""
    if length != 5 or packet[0] != EOF:
        return None
    return int(_short(packet, 3)[0])


def is_progress(packet: bytes) -> bool:
    """Whether what begins like an error is a report of progress."""
    return len(packet) >= 3 and _short(packet, 1)[0] == PROGRESS


def definitions(packet: bytes, length: int, capabilities: int) -> int | None:
    """Read how many definitions of columns follow the beginning of a result; None when no result begins so."""
    found = number(packet, 0)
    if found is None or not found[0]:
        return None
    columns, end = found
    if capabilities & MARIADB_CACHE_METADATA:
        if end >= length or packet[end] > 1:
            return None
        columns *= packet[end]  # 0: the client has them already
        end += 1
    return columns if end == length else None


def definitions_of_prepared(packet: bytes, length: int) -> int | None:
    """Read how many definitions follow the answer to COM_STMT_PREPARE; None when it is no such answer."""
    return sum(_counts(packet, 5)) if length >= 12 else None


def ends_of_prepared(packet: bytes) -> int:
    """Return how many EOF packets are among these definitions, where there are any: parameters and columns have one each."""
    return sum(count > 0 for count in _counts(packet, 5))
