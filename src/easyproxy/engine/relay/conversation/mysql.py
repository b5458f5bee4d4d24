"""MySQL's and MariaDB's protocol: which commands are owed an answer, and what the last one's status flags say. Pure.

A server answers each command with packets whose meaning depends on where in the answer they stand, so that is followed: the
column count, the definitions, the rows and what ends them. Between two answers the flags of the last OK or EOF packet tell
whether a transaction is open. An error has no flags: after one of a statement nothing is known until the next answer.

A packet of 2^24-1 bytes goes on in the next one. Commands begin with sequence number 0; whatever else a client sends (its
login, the data of LOAD DATA LOCAL) goes on counting from the server's last packet.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from easyproxy.engine.relay.conversation import mysql_packets as p
from easyproxy.engine.relay.conversation.base import (
    BUSY,
    COMPRESSED,
    ENCRYPTED,
    NONE,
    OPEN,
    REPLICATION,
    UNKNOWN,
    Conversation,
)

_header = struct.Struct("<I").unpack_from
_beginning = struct.Struct("<IB").unpack_from
_LENGTH, _SEQUENCE = 0xFFFFFF, 24
_EOF, _LONGEST, _GLIMPSE = p.EOF, p.LONGEST, p.GLIMPSE

_QUIT, _QUERY, _FIELD_LIST, _STATISTICS, _CHANGE_USER = 1, 3, 4, 9, 17
_PREPARE, _EXECUTE, _LONG_DATA, _CLOSE, _STATEMENT_RESET, _FETCH = 22, 23, 24, 25, 26, 28
_RESET_CONNECTION, _BULK_EXECUTE = 31, 250
# INIT_DB, CREATE_DB, DROP_DB, REFRESH, SHUTDOWN, KILL, DEBUG, PING, REGISTER_SLAVE, STMT_RESET, SET_OPTION, RESET_CONNECTION
_SIMPLE = frozenset({2, 5, 6, 7, 8, 12, 13, 14, 21, _STATEMENT_RESET, 27, _RESET_CONNECTION})
_RESULTS = frozenset({_QUERY, 10, _EXECUTE, _BULK_EXECUTE})  # 10 is PROCESS_INFO
_OTHERS = frozenset({_FIELD_LIST, _STATISTICS, _CHANGE_USER, _PREPARE, _FETCH})
_UNANSWERED = frozenset({_QUIT, _LONG_DATA, _CLOSE})
_REPLICATION = frozenset({18, 19, 20, 30})  # BINLOG_DUMP, TABLE_DUMP, CONNECT_OUT, BINLOG_DUMP_GTID
_OF_STATEMENT = frozenset({_EXECUTE, _BULK_EXECUTE, _FETCH, _CLOSE, _STATEMENT_RESET})
_RUNS = frozenset({*_RESULTS, _FETCH, _CHANGE_USER})
"""What may begin or end a transaction and fail."""

# Where an answer stands, and before the login, where that does.
_GREETING, _HELLO, _LOGIN, _FIRST, _DEFINITIONS, _END_OF_DEFINITIONS, _ROWS, _PREPARED, _INFILE = range(9)
_MOST_WAITING = 10_000
_MOST_CURSORS = 1000
_AN_ERROR = "its last answer was an error, which does not say whether a transaction is open"


class MySql(Conversation):
    """One session of MySQL's protocol.

    Attributes:
        step: where the answer that is under way stands; before the login, where that stands.
        capabilities: what client and server have agreed upon.
        ends_without_eof: among that, CLIENT_DEPRECATE_EOF.
        waiting: commands that are owed an answer, each with its statement's number in the higher bits.
        left: packets of definitions that are still to come.
        flags: the status of the last answer; -1 when it had none.
        cursors: numbers of the statements whose rows are being fetched.
        has_spoken: the client has sent a command.
        has_quit: it has said that it leaves.
        client_left, backend_left: bytes of a packet that are still to come.
        client_long, backend_long: the next packet is the continuation of the last.
        client_head, backend_head: the beginning of one that is too short to be understood.
    """

    __slots__ = (
        "backend_head",
        "backend_left",
        "backend_long",
        "capabilities",
        "client_head",
        "client_left",
        "client_long",
        "cursors",
        "ends_without_eof",
        "flags",
        "has_quit",
        "has_spoken",
        "left",
        "step",
        "waiting",
    )

    protocol: ClassVar[str] = "mysql"
    # Clients take no word between two commands: most would take it for the answer to the next one.
    farewell_to_client: ClassVar[bytes] = b""
    farewell_to_backend: ClassVar[bytes] = b"\1\0\0\0\1"  # COM_QUIT

    def __init__(self) -> None:
        self.why = ""
        self.step = _GREETING
        self.capabilities = 0
        self.ends_without_eof = False
        self.waiting: list[int] = []
        self.left = 0
        self.flags = -1
        self.cursors: list[int] = []
        self.has_spoken = self.has_quit = False
        self.client_left = self.backend_left = 0
        self.client_long = self.backend_long = False
        self.client_head = self.backend_head = b""

    @property
    def transaction(self) -> str:
        """Whether one is open."""
        if self.why:
            return UNKNOWN
        if (
            self.waiting
            or self.step != _FIRST
            or self.cursors
            or self.has_quit
            or self.client_left
            or self.backend_left
            or self.client_long
            or self.backend_long
            or self.client_head
            or self.backend_head
        ):
            return BUSY
        if self.flags < 0:
            return UNKNOWN
        return OPEN if self.flags & p.IN_TRANSACTION else NONE

    @property
    def is_fresh(self) -> bool:
        """Whether the client has asked for nothing yet since it has logged in."""
        return not self.has_spoken

    @property
    def doubt(self) -> str:
        """Why nothing is known, in words."""
        return self.why or (_AN_ERROR if self.flags < 0 else "")

    # -- the client

    def from_client(self, data: memoryview) -> None:
        """Take what the client has sent."""
        if self.why:
            return
        whole: memoryview | bytes = data
        at, size = self.client_left, len(data)
        if self.client_head:
            whole, self.client_head, at = self.client_head + bytes(data), b"", 0
            size = len(whole)
        while at < size and not self.why:
            if size - at < 4:
                self.client_head, at = bytes(whole[at:]), size
                break
            (word,) = _header(whole, at)
            length = word & _LENGTH
            if self.client_long:
                self.client_long = length == _LONGEST
            else:
                end = at + 4 + min(length, _GLIMPSE if self.step == _HELLO else 5)
                if end > size:
                    self.client_head, at = bytes(whole[at:]), size
                    break
                self.client_long = length == _LONGEST
                self._client_says(bytes(whole[at + 4 : end]), length, word >> _SEQUENCE)
            at += 4 + length
        self.client_left = at - size

    def _client_says(self, packet: bytes, length: int, sequence: int) -> None:
        if self.step == _GREETING:
            self.lost()
        elif self.step == _HELLO:
            self._hello(packet)
        elif self.step == _INFILE:
            if not length:
                self.step = _FIRST
        elif not sequence:
            self._command(packet)
        elif self.step != _LOGIN and (not self.waiting or self.waiting[0] & 0xFF != _CHANGE_USER):
            self.lost()

    def _hello(self, packet: bytes) -> None:
        wanted = p.answered_capabilities(packet)
        if wanted is None:
            self.lost("it is too old")
            return
        self.capabilities &= wanted
        self.ends_without_eof = bool(self.capabilities & p.CLIENT_DEPRECATE_EOF)
        if self.capabilities & p.CLIENT_SSL:
            self.lost(ENCRYPTED)
        elif self.capabilities & p.CLIENT_OPTIONAL_RESULTSET_METADATA:
            self.lost()
        self.step = _LOGIN

    def _command(self, packet: bytes) -> None:
        if not packet:
            self.lost()
            return
        command = packet[0]
        self.has_spoken = True
        statement = 0
        if command in _OF_STATEMENT:
            if len(packet) < 5:
                self.lost()
                return
            statement = int.from_bytes(packet[1:5], "little")
        if command in _SIMPLE or command in _RESULTS or command in _OTHERS:
            self.waiting.append(command | statement << 8)
            if len(self.waiting) == 1 and self.step == _FIRST:
                self._begin()
            elif len(self.waiting) > _MOST_WAITING:
                self.lost()
        elif command == _CLOSE:
            self._forget(statement)
        elif command == _QUIT:
            self.has_quit = True
        elif command in _REPLICATION:
            self.lost(REPLICATION)
        elif command not in _UNANSWERED:
            self.lost()

    # -- the backend

    def from_backend(self, data: memoryview) -> None:
        """Take what the backend has sent."""
        if self.why:
            return
        whole: memoryview | bytes = data
        at, size = self.backend_left, len(data)
        if self.backend_head:
            whole, self.backend_head, at = self.backend_head + bytes(data), b"", 0
            size = len(whole)
        while at < size:
            if size - at < 5:
                self.backend_head, at = bytes(whole[at:]), size
                break
            word, first = _beginning(whole, at)
            length = word & _LENGTH
            if self.backend_long:
                self.backend_long = length == _LONGEST
            elif self.step == _ROWS and length and (first < _EOF or length == _LONGEST):
                # Most of what a database says are rows: they are walked over in one go.
                while length < _LONGEST and (at := at + 4 + length) <= size - 5:
                    word, first = _beginning(whole, at)
                    length = word & _LENGTH
                    if not length or first >= _EOF:
                        break
                else:
                    self.backend_long = length == _LONGEST
                    at += 4 + length if self.backend_long else 0
                continue
            elif self.step in (_DEFINITIONS, _PREPARED):
                self.backend_long = length == _LONGEST
                self._defined()
            else:
                glimpse = _GLIMPSE if self.step != _GREETING else p.LONGEST_GREETING
                end = at + 4 + (min(glimpse, length))
                if end > size:
                    self.backend_head, at = bytes(whole[at:]), size
                    break
                self.backend_long = length == _LONGEST
                self._backend_says(bytes(whole[at + 4 : end]), length)
                if self.why:
                    return
            at += 4 + length
        self.backend_left = at - size

    def _backend_says(self, packet: bytes, length: int) -> None:
        if not packet:
            self.lost()
        elif self.step == _FIRST and self.waiting:
            self._answers(packet, length)
        elif self.step == _ROWS:
            self._ends_rows(packet, length)
        elif self.step == _END_OF_DEFINITIONS:
            self._ends_definitions(packet, length)
        elif self.step == _LOGIN:
            self._lets_in(packet)
        elif self.step == _GREETING:
            capabilities = p.greeting_capabilities(packet)
            if capabilities is None:
                self.lost()
                return
            self.capabilities = capabilities
            self.step = _HELLO
        else:
            self.lost()

    def _lets_in(self, packet: bytes) -> None:
        if packet[0] == p.ERROR:
            self.lost("its login was refused")
        elif packet[0] == p.OK:
            flags = p.ok_status(packet)
            if flags is None:
                self.lost()
                return
            self.flags = flags
            self._begin()
            if self.capabilities & (p.CLIENT_COMPRESS | p.CLIENT_ZSTD_COMPRESSION):
                self.lost(COMPRESSED)

    def _begin(self) -> None:
        """Expect the answer to the first command that waits for one."""
        self.step = _FIRST
        if self.waiting and self.waiting[0] & 0xFF in (_FETCH, _FIELD_LIST):
            self.step = _ROWS

    def _answers(self, packet: bytes, length: int) -> None:
        """Take the first packet of an answer, or of a further result of one."""
        command, code = self.waiting[0] & 0xFF, packet[0]
        if code == p.ERROR:
            self._fails(packet)
        elif command == _STATISTICS:
            self._next()
        elif command == _CHANGE_USER and code in (p.EOF, 1, 2):
            return  # another method, more of it, another factor
        elif command == _PREPARE and code == p.OK:
            left = p.definitions_of_prepared(packet, length)
            if left is None:
                self.lost()
                return
            self.left = left + (0 if self.ends_without_eof else p.ends_of_prepared(packet))
            self.step = _PREPARED
            if not self.left:
                self._next()
        elif code == p.OK and command != _PREPARE:
            self._ends(p.ok_status(packet))
        elif code == p.EOF and command in _SIMPLE:
            self._ends(self._status(packet, length))
        elif command in _RESULTS:
            self._begins_result(packet, length, command)
        else:
            self.lost()

    def _begins_result(self, packet: bytes, length: int, command: int) -> None:
        if packet[0] == p.LOCAL_INFILE:
            if command != _QUERY or len(self.waiting) > 1:
                self.lost()
            self.step = _INFILE
            return
        left = p.definitions(packet, length, self.capabilities)
        if left is None:
            self.lost()
            return
        self.left = left
        self.step = _DEFINITIONS if left else self._after_definitions

    @property
    def _after_definitions(self) -> int:
        return _ROWS if self.ends_without_eof else _END_OF_DEFINITIONS

    def _defined(self) -> None:
        self.left -= 1
        if self.left:
            return
        if self.step == _PREPARED:
            self._next()
        else:
            self.step = self._after_definitions

    def _ends_definitions(self, packet: bytes, length: int) -> None:
        flags = p.eof_status(packet, length)
        if flags is None:
            self.lost()
        elif flags & p.CURSOR_EXISTS:  # no rows before they are fetched
            self._ends(flags)
        else:
            self.step = _ROWS

    def _ends_rows(self, packet: bytes, length: int) -> None:
        if packet[0] == p.ERROR:
            self._fails(packet)
        else:
            self._ends(self._status(packet, length))

    def _status(self, packet: bytes, length: int) -> int | None:
        """Read the status flags of what ends rows."""
        flags = p.ok_status(packet) if self.ends_without_eof else None
        return p.eof_status(packet, length) if flags is None else flags

    def _fails(self, packet: bytes) -> None:
        if p.is_progress(packet):
            return
        if self.waiting[0] & 0xFF in _RUNS:
            self.flags = -1
        self._next()

    def _ends(self, flags: int | None) -> None:
        """Take the status with which a result ends."""
        if flags is None:
            self.lost()
            return
        self.flags = flags
        if flags & p.MORE_RESULTS:
            self.step = _FIRST
            return
        if self.waiting[0] != _QUERY:
            self._follow_cursors(self.waiting[0], flags)
        self._next()

    def _follow_cursors(self, waiting: int, flags: int) -> None:
        command, statement = waiting & 0xFF, waiting >> 8
        if command in (_RESET_CONNECTION, _CHANGE_USER):
            self.cursors = []
        elif command == _EXECUTE and flags & p.CURSOR_EXISTS and not flags & p.LAST_ROW_SENT:
            if statement not in self.cursors:
                self.cursors.append(statement)
            if len(self.cursors) > _MOST_CURSORS:
                self.lost()
        elif command in (_EXECUTE, _STATEMENT_RESET) or (command == _FETCH and flags & p.LAST_ROW_SENT):
            self._forget(statement)

    def _forget(self, statement: int) -> None:
        if statement in self.cursors:
            self.cursors.remove(statement)

    def _next(self) -> None:
        """An answer is whole: expect that to the next command."""
        del self.waiting[0]
        self._begin()
