"""How a password is proved: with what PyMySQL answers as the reference, and never in clear text where it can be read."""

from __future__ import annotations

import contextlib
import sys

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import given
from hypothesis import strategies as st
from pymysql import _auth as reference

from easyproxy.health.checks.mysql import auth

METHODS = (
    "mysql_native_password",
    "caching_sha2_password",
    "sha256_password",
    "client_ed25519",
    "mysql_clear_password",
    "dialog",
    "mysql_old_password",
    "auth_gssapi_client",
)
WORD = b"correct horse battery staple"
words, scrambles = st.binary(min_size=1, max_size=100), st.binary(min_size=20, max_size=20)


@given(words, scrambles)
def test_the_answers_are_those_of_pymysql(password, scramble):
    assert auth.native(password, scramble) == reference.scramble_native_password(password, scramble)
    assert auth.cached_sha2(password, scramble) == reference.scramble_caching_sha2(password, scramble)


@given(words, st.binary(min_size=32, max_size=32))
def test_the_signature_is_that_of_pymysql(password, scramble):
    assert auth.ed25519(password, scramble) == reference.ed25519_password(password, scramble)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public(key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("method", ["caching_sha2_password", "sha256_password"])
def test_without_tls_the_password_goes_out_encrypted_for_the_server_s_key(key, method):
    scramble = bytes(range(20))
    answer = auth.next_answer(method, public(key), WORD, scramble, is_secure=False)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - the protocol's
    mixed = key.decrypt(answer, oaep)
    repeated = scramble * (len(mixed) // 20 + 1)
    assert bytes(a ^ b for a, b in zip(mixed, repeated, strict=False)) == WORD + b"\0"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "said", [None, b"\x03", b"\x04", b"\x05Password: ", b"\x02Password: ", b"", b"-----BEGIN x"]
)
def test_where_others_can_read_no_answer_shows_the_password(method, said):
    """Whatever a server asks for."""
    try:
        if said is None:
            answer = auth.first_answer(method, WORD, bytes(32), is_secure=False)
        else:
            answer = auth.next_answer(method, said, WORD, bytes(20), is_secure=False)
    except auth.UnwillingError as error:
        answer = str(error).encode()
    assert WORD not in answer


@pytest.mark.parametrize("method", ["mysql_clear_password", "sha256_password"])
def test_with_tls_it_is_told_to_the_methods_that_want_it(method):
    assert auth.first_answer(method, WORD, b"", is_secure=True) == WORD + b"\0"


def test_with_tls_it_is_told_to_a_server_that_has_forgotten_its_hash():
    told = auth.next_answer("caching_sha2_password", b"\x04", WORD, bytes(20), is_secure=True)
    assert told == WORD + b"\0"


def test_without_tls_such_a_server_is_asked_for_its_key():
    assert auth.next_answer("caching_sha2_password", b"\x04", WORD, bytes(20), is_secure=False) == b"\x02"
    assert auth.first_answer("sha256_password", WORD, bytes(20), is_secure=False) == b"\x01"


def test_a_server_that_knows_the_hash_is_not_answered():
    assert auth.next_answer("caching_sha2_password", b"\x03", WORD, bytes(20), is_secure=False) == b""


@pytest.mark.parametrize("question", [b"", b"\x04Password: ", b"\x05PIN", b"\x02Password: "])
def test_a_dialog_about_the_password_is_answered_with_it(question):
    assert auth.first_answer("dialog", WORD, question, is_secure=True) == WORD + b"\0"
    assert auth.next_answer("dialog", question, WORD, b"", is_secure=True) == WORD + b"\0"


@pytest.mark.parametrize(
    ("method", "scramble", "is_secure", "reason"),
    [
        ("dialog", b"\x02Your first pet: ", True, "asked for more than its password"),
        ("dialog", b"\x04Password: ", False, "only with tls: true"),
        ("mysql_clear_password", b"", False, "only with tls: true"),
        ("mysql_old_password", b"12345678", True, "set it anew"),
        ("auth_gssapi_client", b"", True, "uses auth_gssapi_client, which this check does not speak"),
    ],
)
def test_what_is_not_answered_says_what_would_help(method, scramble, is_secure, reason):
    with pytest.raises(auth.UnwillingError) as caught:
        auth.first_answer(method, WORD, scramble, is_secure=is_secure)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("package", "ask"),
    [
        ("nacl", lambda: auth.first_answer("client_ed25519", WORD, bytes(32), is_secure=False)),
        (
            "cryptography.hazmat.primitives",
            lambda: auth.next_answer("sha256_password", b"-----BEGIN", WORD, bytes(20), is_secure=False),
        ),
    ],
)
def test_what_a_missing_package_would_do_is_told_with_the_command_that_installs_it(monkeypatch, package, ask):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(auth.UnwillingError, match=r"pip install 'easyproxy\[mysql\]'"):
        ask()


def test_a_key_that_is_none_is_refused(key):
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
    curve = ec.generate_private_key(ec.SECP256R1())
    for pem, password in (
        (b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----", WORD),
        (public(short), WORD * 10),
        (public(curve), WORD),
        (public(key)[:100], WORD),
    ):
        with pytest.raises(auth.UnwillingError, match="key"):
            auth.encrypted(password, bytes(20), pem)


@given(st.sampled_from(METHODS), st.binary(max_size=80), st.binary(max_size=80), st.booleans())
def test_nothing_that_a_server_says_breaks_it(method, said, scramble, is_secure):
    for answer in (
        lambda: auth.first_answer(method, WORD, scramble, is_secure=is_secure),
        lambda: auth.next_answer(method, said, WORD, scramble, is_secure=is_secure),
    ):
        with contextlib.suppress(auth.UnwillingError):
            assert isinstance(answer(), bytes)
