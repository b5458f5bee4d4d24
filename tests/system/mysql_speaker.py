"""A small server of MySQL's protocol, for the methods of authentication that no Debian package serves.

It is held to be right because PyMySQL, which knows MySQL itself, logs in to it (test_checks_mysql_methods.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from easyproxy.model import Address

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)
SCRAMBLE = bytes(range(65, 85))
OK = b"\x00\x00\x00\x02\x00\x00\x00"
REFUSED = b"\xff\x15\x04#28000Access denied"
VERSION = b"8.4.3"
_SSL, _PLUGIN = 1 << 11, 1 << 19
_ABILITIES = 1 | 1 << 9 | 1 << 13 | 1 << 15 | _PLUGIN


@dataclass
class Speaker:
    """Lets one account in.

    Args:
        method: of the account.
        password: of the account.
        greets_with: the method that it names first; another than the account's is switched from.
        is_cached: it knows the hash of the password (``caching_sha2_password``).
        tls: offer TLS.
        questions: of the method ``dialog``.
    """

    method: str
    password: bytes
    greets_with: str = ""
    is_cached: bool = False
    tls: ssl.SSLContext | None = None
    questions: Sequence[bytes] = (b"\x04Password: ",)
    answers: list[bytes] = field(default_factory=list)
    seen_in_clear: bytearray = field(default_factory=bytearray)

    def talk(self, sock: socket.socket) -> None:
        self._socket, self._number, self._is_tls = sock, -1, False
        with contextlib.suppress(EOFError, OSError):  # it left
            self._serve()

    def close(self) -> None:
        self._socket.close()

    def _serve(self) -> None:
        method = self.greets_with or self.method
        abilities = _ABILITIES | (_SSL if self.tls else 0)
        self._send(
            b"\x0a"
            + VERSION
            + b"\0"
            + struct.pack("<I8sx", 7, SCRAMBLE[:8])
            + struct.pack("<HBHHB10x", abilities & 0xFFFF, 45, 2, abilities >> 16, 21)
            + SCRAMBLE[8:]
            + b"\0"
            + method.encode()
            + b"\0"
        )
        login = self._receive()
        if struct.unpack_from("<I", login)[0] & _SSL:
            self._socket = self.tls.wrap_socket(self._socket, server_side=True)
            self._is_tls = True
            login = self._receive()
        rest = login[32:].partition(b"\0")[2]
        answer = rest[1 : 1 + rest[0]]
        if method != self.method:
            first = self.questions[0] if self.method == "dialog" else SCRAMBLE + b"\0"
            self._send(b"\xfe" + self.method.encode() + b"\0" + first)
            answer = self._receive()
        self._send(OK if self._is_right(answer) else REFUSED)
        while (command := self._receive())[:1] != b"\x01":
            self._answer(command[1:].decode())

    def _is_right(self, answer: bytes) -> bool:
        told = self.password + b"\0"
        match self.method:
            case "mysql_clear_password":
                return answer == told
            case "dialog":
                self.answers.append(answer)
                for question in self.questions[1:]:
                    self._send(question)
                    self.answers.append(self._receive())
                return self.answers == [told] * len(self.questions)
            case "sha256_password" if self._is_tls:
                return answer == told
            case "sha256_password":
                return answer == b"\x01" and self._decrypted() == told
        if self.is_cached:
            self._send(b"\x01\x03")
            return answer == self._hashed()
        self._send(b"\x01\x04")
        answer = self._receive()
        if self._is_tls:
            return answer == told
        return answer == b"\x02" and self._decrypted() == told

    def _hashed(self) -> bytes:
        once = hashlib.sha256(self.password).digest()
        mask = hashlib.sha256(hashlib.sha256(once).digest() + SCRAMBLE).digest()
        return bytes(a ^ b for a, b in zip(once, mask, strict=True))

    def _decrypted(self) -> bytes:
        self._send(b"\x01" + PEM)
        try:
            oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - the protocol's
            mixed = KEY.decrypt(self._receive(), oaep)
        except ValueError:
            return b""
        return bytes(a ^ b for a, b in zip(mixed, SCRAMBLE * 20, strict=False))

    def _answer(self, statement: str) -> None:
        if "VARIABLES" in statement:
            self._table(("Variable_name", "Value"), [("read_only", "OFF"), ("gtid_executed", "3E11:1-5")])
        elif statement.startswith("SHOW"):
            self._table(("Replica_IO_State",), [])
        else:
            self._number = 0
            self._send(OK)

    def _table(self, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._number = 0
        self._send(bytes([len(names)]))
        for name in names:
            about = struct.pack("<BHIBHB2x", 12, 45, 1024, 253, 0, 0)
            self._send(_texts("def", "", "", "", name, name)[: -len(name) - 1] + _texts(name) + about)
        self._send(b"\xfe\0\0\x02\0")
        for row in rows:
            self._send(_texts(*row))
        self._send(b"\xfe\0\0\x02\0")

    def _send(self, payload: bytes) -> None:
        self._number += 1
        self._socket.sendall(len(payload).to_bytes(3, "little") + bytes([self._number % 256]) + payload)

    def _receive(self) -> bytes:
        head = self._exactly(4)
        self._number = head[3]
        payload = self._exactly(int.from_bytes(head[:3], "little"))
        if not self._is_tls:
            self.seen_in_clear += payload
        return payload

    def _exactly(self, count: int) -> bytes:
        """Read no byte more: the next one may belong to TLS."""
        data = b""
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data


@contextlib.contextmanager
def speaking(make: Callable[[], Speaker]) -> Iterator[Address]:
    """Serve each connection with a speaker of its own, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    sock, _ = listening.accept()
                except OSError:
                    return
                speaker = make()
                speaker.talk(sock)
                speaker.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield Address("127.0.0.1", listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def _texts(*texts: str) -> bytes:
    return b"".join(bytes([len(text)]) + text.encode() for text in texts)
