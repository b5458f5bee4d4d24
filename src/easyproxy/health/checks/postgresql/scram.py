"""SCRAM-SHA-256, the client's side: proves that it knows the password, and sees that the server does. Pure.

Source: RFC 5802 and 7677, and what PostgreSQL makes of them
(https://www.postgresql.org/docs/current/sasl-authentication.html). Without channel binding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata

NAME = "SCRAM-SHA-256"
MOST_ITERATIONS = 1_000_000
"""A server names how often the password is hashed: 4096 by default, and a hostile one any number."""
FEW_ITERATIONS = 20_000
"""So many take a few milliseconds; more do not belong into an event loop."""

_MOST_KEYS = 1000
_HEADER = "n,,"  # this client does not do channel binding (RFC 5802, section 7)
_PROHIBITED = (
    stringprep.in_table_a1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Keys:
    """What hashing has given for each password and salt; RFC 5802 (section 3) allows to keep that.

    An account has the same salt until its password is changed, so a probe hashes once, and not 4096 times every second. The
    passwords themselves are not kept.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    @staticmethod
    def _place(password: bytes, salt: bytes, iterations: int) -> bytes:
        return _hmac(b"%d:" % iterations + salt, password)

    def knows(self, password: bytes, salt: bytes, iterations: int) -> bool:
        """Whether :meth:`salted` has its answer ready."""
        return self._place(password, salt, iterations) in self._known

    def salted(self, password: bytes, salt: bytes, iterations: int) -> bytes:
        """Return the hashed password; may take as long as ``iterations`` say."""
        place = self._place(password, salt, iterations)
        found = self._known.get(place)
        if found is None:
            found = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
            if len(self._known) >= _MOST_KEYS:  # a server that has another salt every time fills nothing
                self._known.clear()
            self._known[place] = found
        return found


class Scram:
    """One exchange: ``first``, ``challenge``, ``final``, ``verify``, in this order.

    Args:
        password: as it is; prepared here.
        nonce: printable ASCII without commas, never used before.
        keys: what exchanges before have hashed.
    """

    def __init__(self, password: str, nonce: str, keys: Keys | None = None) -> None:
        self._keys = keys or Keys()
        self._password = prepare(password)
        self._nonce = nonce
        self._bare = f"n=,r={nonce}"  # PostgreSQL takes the name from the startup message
        self._server_first = ""
        self._server_nonce = ""
        self._salt = b""
        self._signature = b""
        self.iterations = 0

    def first(self) -> bytes:
        """Return what is sent first."""
        return (_HEADER + self._bare).encode()

    def challenge(self, data: bytes) -> None:
        """Take the server's nonce, salt and number of iterations.

        Raises:
            ValueError: that is not how SCRAM goes on, or it asks for more work than MOST_ITERATIONS.
        """
        said = _attributes(data)
        self._server_first = data.decode("ascii")
        self._server_nonce = said.get("r", "")
        if not self._server_nonce.startswith(self._nonce) or self._server_nonce == self._nonce:
            raise ValueError("its nonce does not continue ours")
        self._salt = _base64(said.get("s", ""))
        count = said.get("i", "")
        if not (count.isdecimal() and len(count) <= 9 and self._salt):
            raise ValueError("it names no salt or no number of iterations")
        self.iterations = int(count)
        if not 1 <= self.iterations <= MOST_ITERATIONS:
            raise ValueError(f"it wants the password hashed {self.iterations} times")

    @property
    def is_long(self) -> bool:
        """Whether :meth:`final` takes so long that it does not belong into an event loop."""
        is_known = self._keys.knows(self._password, self._salt, self.iterations)
        return self.iterations > FEW_ITERATIONS and not is_known

    def final(self) -> bytes:
        """Return the proof. Takes as long as ``iterations`` say, about a second for MOST_ITERATIONS."""
        salted = self._keys.salted(self._password, self._salt, self.iterations)
        without_proof = f"c={base64.b64encode(_HEADER.encode()).decode()},r={self._server_nonce}"
        whole = f"{self._bare},{self._server_first},{without_proof}".encode()
        client_key = _hmac(salted, b"Client Key")
        signed = _hmac(hashlib.sha256(client_key).digest(), whole)
        self._signature = _hmac(_hmac(salted, b"Server Key"), whole)
        proof = bytes(one ^ other for one, other in zip(client_key, signed, strict=True))
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, data: bytes) -> None:
        """See that the server knows the password too.

        Raises:
            ValueError: it does not.
        """
        shown = _base64(_attributes(data).get("v", ""))
        if not self._signature or not hmac.compare_digest(shown, self._signature):
            raise ValueError("it does not know the password itself")


def prepare(password: str) -> bytes:
    r"""Bring a password into the form of SASLprep (RFC 4013); one that it prohibits stays as it is, as in PostgreSQL.

    >>> prepare("I\u00adX"), prepare("\u2168")
    (b'IX', b'IX')
    """
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(letter) else letter
        for letter in password
        if stringprep.in_table_c12(letter) or not stringprep.in_table_b1(letter)  # U+200B is in both
    )
    normal = unicodedata.normalize("NFKC", mapped)
    runs_left = [stringprep.in_table_d1(letter) for letter in normal]
    is_mixed = any(runs_left) and (
        not (runs_left[0] and runs_left[-1]) or any(stringprep.in_table_d2(letter) for letter in normal)
    )
    is_prohibited = any(is_in(letter) for letter in normal for is_in in _PROHIBITED)
    return (password if not normal or is_mixed or is_prohibited else normal).encode()


def _attributes(data: bytes) -> dict[str, str]:
    try:
        parts = data.decode("ascii").split(",")
    except UnicodeDecodeError:
        raise ValueError("it is not in ASCII") from None
    return {part[0]: part[2:] for part in parts if part[1:2] == "="}


def _base64(words: str) -> bytes:
    try:
        return base64.b64decode(words, validate=True)
    except binascii.Error:
        raise ValueError("it holds something that is not base64") from None


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")
