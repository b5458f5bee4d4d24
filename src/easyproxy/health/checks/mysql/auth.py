"""How MySQL and MariaDB want a password proved: for each method the answer to what the server sent. Pure.

The password itself goes out only where nobody can read it (TLS, or a unix socket), whatever the server asks for. The
one thing that a server which is not what it seems could do without TLS is to hand us a key of its own, where a
``caching_sha2_password`` or ``sha256_password`` account wants it encrypted; that is what TLS is for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

INSTALL = "pip install 'easyproxy[mysql]'"
NONCE = 20
KEY_BYTES = 16 * 1024
"""Longest public key that is looked at."""

EMPTY: Mapping[str, bytes] = {
    # What each method's own client sends for an empty password, or for one that must be wrong. An answer of a wrong
    # length would be a broken handshake, which is a connect error.
    "caching_sha2_password": b"\0",
    "sha256_password": b"\0",
    "mysql_clear_password": b"\0",
    "dialog": b"\0",
    "client_ed25519": bytes(64),
}
"""The answer without a password, by method; where a method is not listed it is nothing at all."""

_ASK_FOR_KEY = {"caching_sha2_password": b"\x02", "sha256_password": b"\x01"}
_IS_KNOWN, _WANTS_PASSWORD = b"\x03", b"\x04"
_KIND_OF_QUESTION, _ASKS_PASSWORD = 0x06, 0x04  # MariaDB, include/mysql/auth_dialog_client.h


class UnwillingError(Exception):
    """We cannot, or will not, answer what the server asks; the message says what would help."""


def first_answer(method: str, password: bytes, scramble: bytes, *, is_secure: bool) -> bytes:
    """Answer a server that has named a method and sent a scramble.

    Raises:
        UnwillingError: it would show the password, or this method is not spoken here.
    """
    match method:
        case "mysql_native_password" | "":
            return native(password, scramble)
        case "caching_sha2_password":
            return cached_sha2(password, scramble)
        case "sha256_password":
            return password + b"\0" if is_secure else _ASK_FOR_KEY[method]
        case "client_ed25519":
            return ed25519(password, scramble[:32])
        case "mysql_clear_password" if is_secure:
            return password + b"\0"
        case "dialog" if is_secure:
            return _told(scramble, password)
        case "mysql_clear_password" | "dialog":
            raise UnwillingError(
                "the account wants its password in clear text, which goes out only with tls: true"
            )
        case "mysql_old_password":
            raise UnwillingError(
                "the account has a password of before MySQL 4.1, which whoever listens can work out; set it anew"
            )
    raise UnwillingError(f"the account uses {method}, which this check does not speak")


def next_answer(method: str, said: bytes, password: bytes, scramble: bytes, *, is_secure: bool) -> bytes:
    """Answer a server that wants to know more; nothing where it only says that all is well.

    Raises:
        UnwillingError: as above.
    """
    if method in _ASK_FOR_KEY and said.startswith(b"-----BEGIN"):
        return encrypted(password, scramble, said)
    if method == "dialog" and is_secure:
        return _told(said, password)
    if method == "caching_sha2_password" and said == _IS_KNOWN:
        return b""
    if method == "caching_sha2_password" and said == _WANTS_PASSWORD:
        return password + b"\0" if is_secure else _ASK_FOR_KEY[method]
    raise UnwillingError(f"the server asks something of {method or 'its method'} that is not known here")


def _told(question: bytes, password: bytes) -> bytes:
    """Answer a question of the method ``dialog``: its first byte says of what kind it is, the rest is for people."""
    if question and question[0] & _KIND_OF_QUESTION != _ASKS_PASSWORD and b"assword" not in question:
        raise UnwillingError("the account is asked for more than its password")
    return password + b"\0"


def native(password: bytes, scramble: bytes) -> bytes:
    """SHA1(password) xor SHA1(scramble + SHA1(SHA1(password))).

    Source: MySQL's internals manual, "Native Authentication" (page_protocol_connection_phase_authentication_methods).
    """
    once = hashlib.sha1(password, usedforsecurity=False).digest()
    twice = hashlib.sha1(once, usedforsecurity=False).digest()
    return _xor(once, hashlib.sha1(scramble[:NONCE] + twice, usedforsecurity=False).digest())


def cached_sha2(password: bytes, scramble: bytes) -> bytes:
    """SHA256(password) xor SHA256(SHA256(SHA256(password)) + scramble).

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html
    """
    once = hashlib.sha256(password).digest()
    thrice = hashlib.sha256(hashlib.sha256(once).digest() + scramble[:NONCE]).digest()
    return _xor(once, thrice)


def encrypted(password: bytes, scramble: bytes, pem: bytes) -> bytes:
    """The password, xor the scramble over and over, encrypted for the server's RSA key."""
    try:
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415
    except ImportError:
        raise UnwillingError(f"the account needs RSA, or tls: true; {INSTALL}") from None
    padded = password + b"\0"
    nonce = scramble[:NONCE] or b"\0"
    mixed = _xor(padded, nonce * (len(padded) // len(nonce) + 1))
    try:
        key = serialization.load_pem_public_key(pem[:KEY_BYTES])
        if not isinstance(key, rsa.RSAPublicKey):
            raise UnwillingError("the server's key is no RSA key")
        # SHA-1 is what the protocol has; OAEP does not lean on it being free of collisions.
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
        return key.encrypt(mixed, oaep)
    except ValueError:
        raise UnwillingError("the server's key cannot be used, or is too short for the password") from None


def ed25519(password: bytes, scramble: bytes) -> bytes:
    """Sign the scramble with MariaDB's kind of Ed25519, whose seed is the password (plugin/auth_ed25519/ref10).

    RFC 8032 section 5.1.6 with SHA512(password) in place of SHA512(seed), which is why no ordinary library signs it.
    """
    try:
        from nacl import bindings  # noqa: PLC0415 - an extra
    except ImportError:
        raise UnwillingError(f"the account uses client_ed25519; {INSTALL}") from None
    digest = hashlib.sha512(password).digest()
    secret = bytes([digest[0] & 248]) + digest[1:31] + bytes([digest[31] & 127 | 64])
    nonce = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(digest[32:] + scramble).digest())
    commitment = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
    public = bindings.crypto_scalarmult_ed25519_base_noclamp(secret)
    challenge = bindings.crypto_core_ed25519_scalar_reduce(
        hashlib.sha512(commitment + public + scramble).digest()
    )
    proof = bindings.crypto_core_ed25519_scalar_add(
        bindings.crypto_core_ed25519_scalar_mul(challenge, secret), nonce
    )
    return bytes(commitment + proof)


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=False))
