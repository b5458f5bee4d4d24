"""PostgreSQL's protocol 3: who has asked for what, and what ReadyForQuery says of the transaction. Pure.

Every Query, Sync and FunctionCall of the client is answered by one ReadyForQuery, which brings the state: ``I`` (no transaction),
``T``, ``E`` (in a failed one). So none is open and nothing is under way when every request has had its answer, the last of
them said ``I``, and nothing waits for a Sync (PostgreSQL documentation, "Message Flow" and "Message Formats"). A Query ends that as well; after
an error before it, it is skipped, and the answer that never comes leaves the session busy.

The exception is a Sync that the server meets while it takes in the data of a COPY: it is thrown away (CopyGetData in
src/backend/commands/copyfromparse.c). libpq sends one behind the Execute of a COPY, before it knows what that is, and another
one when all data have gone; only with that is the COPY committed.
"""

from __future__ import annotations

import struct
from typing import ClassVar

from easyproxy.engine.relay.conversation.base import (
    BUSY,
    ENCRYPTED,
    NONE,
    OPEN,
    REPLICATION,
    UNKNOWN,
    Conversation,
)
from easyproxy.engine.relay.greeting import GSSENC_REQUEST, PROTOCOL_3, SSL_REQUEST, STARTUP_BYTES

_length = struct.Struct(">I").unpack_from
_head = struct.Struct(">BI").unpack_from
_two_numbers = struct.Struct(">II").unpack_from

_CANCEL_REQUEST = 80877102
_TLS_HANDSHAKE = 0x16  # a client that begins with TLS (sslnegotiation=direct)

_REQUESTS = frozenset(b"QSF")  # Query, Sync, FunctionCall
_SYNC, _COPY_DATA = b"Sd"
_ENDS_OF_COPY = frozenset(b"cf")
_WAITS_FOR_SYNC = frozenset(b"PBDCE")  # Parse, Bind, Describe, Close, Execute
_OF_CLIENT = frozenset(b"Hp")  # Flush; passwords, which the login's answer follows
_TERMINATE = ord("X")

_READY, _ERROR, _COMPLETE, _COPY_IN, _COPY_BOTH = b"ZECGW"
# Rows and their description, what follows Parse, Bind, Close and so on, COPY to the client, login.
_ANSWERS = frozenset(b"TDI123nstHdcVRKvE")
_ROWS = frozenset(b"Dd")
_ANY_TIME = frozenset(b"NSA")  # notices, parameters, notifications
_NO_TRANSACTION = ord("I")
_STATES = frozenset(b"ITE")


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


class PostgreSql(Conversation):
    """One session of PostgreSQL's protocol.

    Attributes:
        opening: the client has not yet said how it begins; its messages have no type so far.
        has_asked_encryption: the next byte of the server answers that.
        is_in: it is logged in.
        asked: requests that are owed a ReadyForQuery; the login counts as one.
        last_asked: the type of the last of them.
        waits_for_sync: the client has begun what only a Sync, or another request, ends.
        is_copying: the client is sending the data of a COPY.
        copy_of: the type of the request that the server takes in a COPY for; 0 when it does not.
        is_copied: the client has sent the end of those data.
        status: what the last ReadyForQuery said.
        has_spoken: the client has sent something since it is logged in.
        has_quit: it has said that it leaves.
        client_left, backend_left: bytes of a message that are still to come.
        client_head, backend_head: the beginning of one that is too short to be understood.
    """

    __slots__ = (
        "asked",
        "backend_head",
        "backend_left",
        "client_head",
        "client_left",
        "copy_of",
        "has_asked_encryption",
        "has_quit",
        "has_spoken",
        "is_copied",
        "is_copying",
        "is_in",
        "last_asked",
        "opening",
        "status",
        "waits_for_sync",
    )

    protocol: ClassVar[str] = "postgresql"
    farewell_to_client: ClassVar[bytes] = _message(
        b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    )
    farewell_to_backend: ClassVar[bytes] = _message(b"X", b"")

    def __init__(self) -> None:
        self.why = ""
        self.opening = True
        self.has_asked_encryption = False
        self.is_in = False
        self.asked = 0
        self.last_asked = 0
        self.waits_for_sync = False
        self.is_copying = False
        self.copy_of = 0
        self.is_copied = False
        self.status = 0
        self.has_spoken = self.has_quit = False
        self.client_left = self.backend_left = 0
        self.client_head = self.backend_head = b""

    @property
    def transaction(self) -> str:
        """Whether one is open."""
        if self.why:
            return UNKNOWN
        if (
            self.asked
            or not self.is_in
            or self.waits_for_sync
            or self.is_copying
            or self.has_quit
            or self.client_left
            or self.backend_left
            or self.client_head
            or self.backend_head
        ):
            return BUSY
        return NONE if self.status == _NO_TRANSACTION else OPEN

    @property
    def is_fresh(self) -> bool:
        """Whether the client has asked for nothing yet since it has logged in."""
        return not self.has_spoken

    # -- the client

    def from_client(self, data: memoryview) -> None:
        """Take what the client has sent."""
        if self.why:
            return
        whole: memoryview | bytes = data
        at = self.client_left
        if self.client_head:
            whole, self.client_head, at = self.client_head + bytes(data), b"", 0
        if self.opening:
            at = self._open(whole)
        self.has_spoken = self.is_in
        size = len(whole)
        while at < size and not self.why:
            if size - at < 5:
                self.client_head, at = bytes(whole[at:]), size
                break
            (length,) = _length(whole, at + 1)
            if length < 4:
                self.lost()
                return
            self._client_says(whole[at])
            at += 1 + length
        self.client_left = at - size

    def _open(self, data: memoryview | bytes) -> int:
        """Take messages without a type, until one is the startup message; return where the others begin."""
        at, size = 0, len(data)
        while self.opening and at < size and not self.why:
            if data[at] == _TLS_HANDSHAKE:
                self.lost(ENCRYPTED)
                break
            if size - at < 8:
                break
            length, code = _two_numbers(data, at)
            if not 8 <= length <= STARTUP_BYTES or self.has_asked_encryption:
                self.lost()
                break
            if size - at < length:
                break
            at += length
            if code in (SSL_REQUEST, GSSENC_REQUEST):
                self.has_asked_encryption = True
            elif code >> 16 == PROTOCOL_3:
                self.opening, self.asked = False, 1
            else:
                self.lost(
                    "it cancels the request of another one" if code == _CANCEL_REQUEST else "it is too old"
                )
        if self.opening:
            self.client_head = bytes(data[at:])
            return size
        return at

    def _client_says(self, kind: int) -> None:
        if kind == _COPY_DATA:
            self.is_copying = True
            return
        self.is_copying = False
        if kind in _REQUESTS:
            if self.copy_of and not self.is_copied:
                self.lost()  # thrown away, or not when the COPY fails first
            self.asked += 1
            self.last_asked = kind
            self.waits_for_sync = False
        elif kind in _WAITS_FOR_SYNC:
            self.waits_for_sync = True
        elif kind in _ENDS_OF_COPY:
            self.is_copied = True
        elif kind == _TERMINATE:
            self.has_quit = True
        elif kind not in _OF_CLIENT:
            self.lost()

    # -- the backend

    def from_backend(self, data: memoryview) -> None:
        """Take what the backend has sent."""
        if self.why:
            return
        whole: memoryview | bytes = data
        at = self.backend_left
        if self.backend_head:
            whole, self.backend_head, at = self.backend_head + bytes(data), b"", 0
        if self.opening:
            self._answer_encryption(whole)
            return
        size = len(whole)
        while at < size:
            rest = size - at
            if rest < 6 and (rest < 5 or whole[at] == _READY):
                self.backend_head, at = bytes(whole[at:]), size
                break
            kind, length = _head(whole, at)
            if length < 4:
                self.lost()
                return
            if kind in _ANSWERS and (self.asked or self.waits_for_sync):
                if kind in _ROWS:  # most of what a database says: they are walked over in one go
                    while (at := at + 1 + length) <= size - 6:
                        kind, length = _head(whole, at)
                        if length < 4 or kind not in _ROWS:
                            break
                    continue
                if kind == _ERROR and self.copy_of == _SYNC:
                    # Whether it has met the Sync before it failed cannot be told.
                    self.lost("a COPY has failed")
                    return
            elif kind == _READY:
                if length != 5 or not self._is_ready(whole[at + 5]):
                    self.lost()
                    return
            elif kind not in _ANY_TIME:
                self._answers_rarely(kind)
                if self.why:
                    return
            at += 1 + length
        self.backend_left = at - size

    def _answer_encryption(self, data: memoryview | bytes) -> None:
        if not self.has_asked_encryption or len(data) != 1 or data[0] not in b"SGN":
            self.lost()
        elif data[0] in b"SG":
            self.lost(ENCRYPTED)
        else:
            self.has_asked_encryption = False

    def _is_ready(self, status: int) -> bool:
        if not self.asked or status not in _STATES:
            return False
        self.asked -= 1
        self.status = status
        self.copy_of = 0
        self.is_in = True
        return True

    def _answers_rarely(self, kind: int) -> None:
        if kind == _COMPLETE and (self.asked or self.waits_for_sync):
            if (
                self.copy_of == _SYNC
            ):  # it has taken in all data, and thrown away the Sync that came before them
                self.asked -= 1
                self.waits_for_sync |= not self.asked
            self.copy_of = 0
        elif kind == _COPY_IN and self.asked == 1:
            self.copy_of, self.is_copied = self.last_asked, False
        elif kind == _COPY_BOTH and self.asked:
            self.lost(REPLICATION)
        else:
            self.lost()
