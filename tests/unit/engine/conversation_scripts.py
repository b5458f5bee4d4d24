"""Sessions as scripts: who says what, and what is certain once it is said. Drawn at random, by the rules of each protocol."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

import speech as s

CLIENT, BACKEND = "client", "backend"
NONE, OPEN, ELSE = "none", "open", "else"
"""What must be known when a piece is whole; ``ELSE`` is anything but none."""

Piece = tuple[str, bytes, str]


def hear(conversation, side: str, data: bytes) -> None:
    (conversation.from_client if side == CLIENT else conversation.from_backend)(memoryview(data))


@dataclass
class Turn:
    """The state of the server while a script is drawn."""

    is_open: bool = False
    has_failed: bool = False

    @property
    def after(self) -> str:
        return OPEN if self.is_open else NONE

    @property
    def status(self) -> bytes:
        return (b"E" if self.has_failed else b"T") if self.is_open else b"I"

    @property
    def flags(self) -> int:
        return s.AUTOCOMMIT | (s.IN_TRANSACTION if self.is_open else 0)


PG_LOGINS: tuple[list[Piece], ...] = (
    [(CLIENT, s.STARTUP, ELSE), (BACKEND, s.LET_IN, NONE)],
    [
        (CLIENT, s.GSS_REQUEST, ELSE),
        (BACKEND, b"N", ELSE),
        (CLIENT, s.SSL_REQUEST, ELSE),
        (BACKEND, b"N", ELSE),
        (CLIENT, s.STARTUP, ELSE),
        (BACKEND, s.message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0"), ELSE),
        (CLIENT, s.message(b"p", b"SCRAM-SHA-256\0\0\0\0\1n"), ELSE),
        (BACKEND, s.message(b"R", struct.pack(">I", 11) + b"r=x"), ELSE),
        (CLIENT, s.message(b"p", b"c=x"), ELSE),
        (BACKEND, s.LET_IN, NONE),
    ],
)


def _pg_rows(draw: Callable) -> bytes:
    values = draw(st.lists(st.one_of(st.just(s.ready()), st.binary(max_size=12)), max_size=4))
    return s.message(b"T", b"\0\0") + b"".join(map(s.row, values)) + s.complete()


def _pg_simple(draw: Callable, turn: Turn) -> list[Piece]:
    kind = draw(st.sampled_from(["select", "begin", "commit", "error", "two", "out", "function"]))
    request = s.query(kind.encode())
    said = b""
    if turn.has_failed and kind != "commit":
        said = s.failure(b"25P02")
    elif kind == "begin":
        turn.is_open, said = True, s.complete(b"BEGIN")
    elif kind == "commit":
        turn.is_open = turn.has_failed = False
        said = s.complete(b"COMMIT")
    elif kind == "error":
        turn.has_failed, said = turn.is_open, s.failure()
    elif kind == "out":
        rows = s.message(b"d", s.ready()) * 2
        said = s.message(b"H", b"\0\0\0") + rows + s.message(b"c") + s.complete(b"COPY 2")
    elif kind == "function":
        request, said = s.message(b"F", b"\0" * 10), s.message(b"V", b"\xff" * 4)
    else:
        said = _pg_rows(draw) + (_pg_rows(draw) if kind == "two" else b"")
    notice = s.message(b"N", b"SNOTICE\0\0") if draw(st.booleans()) else b""
    return [
        (CLIENT, request, ELSE),
        (BACKEND, notice + said, ELSE),
        (BACKEND, s.ready(turn.status), turn.after),
    ]


def _pg_extended(draw: Callable, turn: Turn) -> list[Piece]:
    request = s.PARSE + s.BIND + s.message(b"D", b"P\0") + s.EXECUTE
    fails = turn.has_failed or draw(st.booleans())
    said = s.failure() if fails else s.message(b"1") + s.message(b"2") + _pg_rows(draw)
    turn.has_failed = turn.is_open and fails
    answer: list[Piece] = [(BACKEND, said, ELSE), (BACKEND, s.ready(turn.status), ELSE)]
    match draw(st.sampled_from(["sync", "flush", "pipeline"])):
        case "sync":
            pieces: list[Piece] = [(CLIENT, request + s.SYNC, ELSE), *answer]
        case "flush":
            pieces = [
                (CLIENT, request + s.message(b"H"), ELSE),
                answer[0],
                (CLIENT, s.message(b"C", b"S\0"), ELSE),
                (CLIENT, s.SYNC if fails or draw(st.booleans()) else s.query(b""), ELSE),
                (
                    answer[1]
                    if fails
                    else (BACKEND, s.message(b"I") * draw(st.integers(0, 1)) + answer[1][1], ELSE)
                ),
            ]
        case _:
            pieces = [(CLIENT, (request + s.SYNC) * 2, ELSE), *answer, *answer]
    side, data, _ = pieces[-1]
    return [*pieces[:-1], (side, data, turn.after)]


def _pg_copy_in(draw: Callable, turn: Turn) -> list[Piece]:
    data = s.message(b"d", s.ready() + b"row\n") * draw(st.integers(0, 3))
    if turn.has_failed:
        return []
    is_extended = draw(st.booleans())
    request = s.PARSE + s.BIND + s.EXECUTE + s.SYNC if is_extended else s.query(b"COPY t FROM STDIN")
    before = s.message(b"1") + s.message(b"2") if is_extended else b""
    return [
        (CLIENT, request, ELSE),
        (BACKEND, before + s.COPY_IN, ELSE),
        (CLIENT, data, ELSE),
        (CLIENT, s.COPY_DONE + (s.SYNC if is_extended else b""), ELSE),
        (BACKEND, s.complete(b"COPY 1"), ELSE),
        (BACKEND, s.ready(turn.status), turn.after),
    ]


def _pg_unasked(draw: Callable, turn: Turn) -> list[Piece]:
    said = draw(st.sampled_from([s.message(b"A", b"\0\0\0\1ch\0\0"), s.message(b"S", b"a\0b\0")]))
    return [(BACKEND, said, turn.after)]


@st.composite
def postgresql(draw: Callable) -> list[Piece]:
    """A session of PostgreSQL from its beginning."""
    turn, pieces = Turn(), list(draw(st.sampled_from(PG_LOGINS)))
    for _ in range(draw(st.integers(0, 6))):
        pieces += draw(st.sampled_from([_pg_simple, _pg_extended, _pg_copy_in, _pg_unasked]))(draw, turn)
    return [piece for piece in pieces if piece[1]]


def my_login(capabilities: int) -> list[Piece]:
    return [
        (BACKEND, s.greeting(), ELSE),
        (CLIENT, s.hello(capabilities), ELSE),
        (BACKEND, s.packet(2, b"\xfecaching_sha2_password\0" + b"x" * 20), ELSE),
        (CLIENT, s.packet(3, b"y" * 32), ELSE),
        (BACKEND, s.packet(4, b"\1\3"), ELSE),
        (BACKEND, s.ok(5), NONE),
    ]


def _my_values(draw: Callable) -> list[bytes]:
    return draw(st.lists(st.one_of(st.just(s.ok()), st.binary(max_size=20)), max_size=4))


def _my_query(draw: Callable, turn: Turn, *, new: bool) -> list[Piece]:
    kind = draw(st.sampled_from(["ok", "rows", "begin", "commit", "error", "two", "local", "file error"]))
    if kind in ("begin", "commit"):
        turn.is_open = kind == "begin"
    ask, flags = s.ask(kind.encode()), turn.flags
    if kind == "error":
        return [(CLIENT, ask, ELSE), (BACKEND, s.error(), ELSE), *_my_ping(turn)]
    if kind == "rows":
        return [
            (CLIENT, ask, ELSE),
            (BACKEND, s.result(*_my_values(draw), status=flags, deprecates_eof=new), turn.after),
        ]
    if kind == "two":
        first = s.result(*_my_values(draw), status=flags | s.MORE_RESULTS, deprecates_eof=new)
        return [(CLIENT, ask, ELSE), (BACKEND, first, ELSE), (BACKEND, s.ok(9, flags), turn.after)]
    if kind in ("local", "file error"):
        data = s.packet(2, s.ok() + b"1,2\n") if kind == "local" else b""
        return [
            (CLIENT, ask, ELSE),
            (BACKEND, s.packet(1, b"\xfb/tmp/file"), ELSE),
            (CLIENT, data, ELSE),
            (CLIENT, s.packet(3, b""), ELSE),
            (BACKEND, s.ok(4, flags), turn.after),
        ]
    return [(CLIENT, ask, ELSE), (BACKEND, s.ok(1, flags), turn.after)]


def _my_ping(turn: Turn) -> list[Piece]:
    return [(CLIENT, s.command(14), ELSE), (BACKEND, s.ok(1, turn.flags), turn.after)]


def _my_other(draw: Callable, turn: Turn, *, new: bool) -> list[Piece]:
    end = s.ok(3, turn.flags, 0xFE) if new else s.eof(3, turn.flags)
    match draw(st.sampled_from(["ping", "pings", "statistics", "fields", "option", "user", "reset"])):
        case "pings":
            ok = (BACKEND, s.ok(1, turn.flags), ELSE)
            return [(CLIENT, s.command(14) * 2, ELSE), ok, (*ok[:2], turn.after)]
        case "statistics":
            return [(CLIENT, s.command(9), ELSE), (BACKEND, s.packet(1, b"Uptime: 5"), turn.after)]
        case "fields":
            return [(CLIENT, s.command(4, b"t\0"), ELSE), (BACKEND, s.packet(1, b"\3def") + end, turn.after)]
        case "option":
            return [(CLIENT, s.command(27, b"\0\0"), ELSE), (BACKEND, s.eof(1, turn.flags), turn.after)]
        case "user":
            turn.is_open = False
            return [
                (CLIENT, s.command(17, b"app\0\0"), ELSE),
                (BACKEND, s.packet(1, b"\xfemysql_native_password\0" + b"z" * 20), ELSE),
                (CLIENT, s.packet(2, b"h" * 20), ELSE),
                (BACKEND, s.ok(3), NONE),
            ]
        case "reset":
            turn.is_open = False
            return [(CLIENT, s.command(31), ELSE), (BACKEND, s.ok(1), NONE)]
    return _my_ping(turn)


def _my_statement(draw: Callable, turn: Turn, *, new: bool) -> list[Piece]:
    params, columns = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    number = struct.pack("<I", 7)
    defined = s.packet(1, b"\0" + number + struct.pack("<HHBH", columns, params, 0, 0))
    for count in (params, columns):
        defined += s.packet(2, b"\3def") * count + (s.eof(3, turn.flags) if count and not new else b"")
    has_cursor = draw(st.booleans())
    pieces: list[Piece] = [
        (CLIENT, s.command(22, b"SELECT ?"), ELSE),
        (BACKEND, defined, turn.after),
        (CLIENT, s.command(24, number + b"\0\0long"), turn.after),
    ]
    execute = s.command(23, number + bytes([has_cursor]) + b"\1\0\0\0")
    if not has_cursor:
        rows = s.result(*_my_values(draw), status=turn.flags, deprecates_eof=new)
        pieces += [(CLIENT, execute, ELSE), (BACKEND, rows, turn.after)]
    else:
        head = s.packet(1, b"\1") + s.packet(2, b"\3def")
        flags = turn.flags | s.CURSOR
        head += s.ok(3, flags, 0xFE) if new else s.eof(3, flags)
        last = turn.flags | s.LAST_ROW
        fetched = s.packet(1, b"\0\0x") + (s.ok(2, last, 0xFE) if new else s.eof(2, last))
        pieces += [(CLIENT, execute, ELSE), (BACKEND, head, ELSE)]
        if draw(st.booleans()):
            pieces += [(CLIENT, s.command(28, number + b"\1\0\0\0"), ELSE), (BACKEND, fetched, turn.after)]
    pieces += [(CLIENT, s.command(25, number), turn.after)]
    return pieces


@st.composite
def mysql(draw: Callable) -> list[Piece]:
    """A session of MySQL from its beginning."""
    new = draw(st.booleans())
    turn, pieces = Turn(), my_login(s.USUAL | (s.DEPRECATE_EOF if new else 0))
    for _ in range(draw(st.integers(0, 6))):
        pieces += draw(st.sampled_from([_my_query, _my_other, _my_statement]))(draw, turn, new=new)
    return [piece for piece in pieces if piece[1]]
