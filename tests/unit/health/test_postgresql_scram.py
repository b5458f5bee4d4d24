"""SCRAM-SHA-256: the exchange of RFC 7677, how passwords are prepared, and what is not believed."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.health.checks.postgresql.scram import MOST_ITERATIONS, Keys, Scram, prepare

NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"


@pytest.fixture
def exchange() -> Scram:
    """RFC 7677, section 3; PostgreSQL's clients leave the name empty, the example does not."""
    scram = Scram("pencil", NONCE)
    scram._bare = f"n=user,r={NONCE}"
    return scram


def test_the_example_of_the_rfc_is_followed(exchange):
    assert exchange.first() == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    exchange.challenge(SERVER_FIRST)
    assert exchange.final() == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    exchange.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")


def test_a_salt_that_was_seen_before_is_not_hashed_again():
    keys = Keys()
    long = SERVER_FIRST.replace(b"i=4096", b"i=30000")
    proofs = []
    for _ in range(2):
        scram = Scram("pencil", NONCE, keys)
        scram.challenge(long)
        proofs.append((scram.is_long, scram.final()))
    assert [is_long for is_long, _ in proofs] == [True, False]
    assert proofs[0][1] == proofs[1][1]
    other = Scram("pen", NONCE, keys)
    other.challenge(long)
    assert other.is_long
    assert b"pencil" not in repr(vars(keys)).encode()


def test_a_server_that_has_another_salt_every_time_fills_nothing():
    keys = Keys()
    for number in range(2500):
        keys.salted(b"pencil", b"%d" % number, 1)
    assert len(keys._known) <= 1000


@pytest.mark.parametrize("shown", [b"v=AAAA", b"v=", b"e=other-error", b"", b"v=\xff", b"v=***"])
def test_a_server_that_cannot_prove_itself_is_not_believed(exchange, shown):
    exchange.challenge(SERVER_FIRST)
    exchange.final()
    with pytest.raises(ValueError, match=r"it "):
        exchange.verify(shown)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"r=another,s=c2FsdA==,i=4096", "its nonce does not continue ours"),
        (f"r={NONCE},s=c2FsdA==,i=4096".encode(), "its nonce does not continue ours"),
        (f"r={NONCE}x,s=,i=4096".encode(), "no salt"),
        (f"r={NONCE}x,s=c2FsdA==,i=-1".encode(), "no number of iterations"),
        (f"r={NONCE}x,s=c2FsdA==,i=0".encode(), "hashed 0 times"),
        (f"r={NONCE}x,s=c2FsdA==,i={MOST_ITERATIONS + 1}".encode(), "hashed 1000001 times"),
        (f"r={NONCE}x,s=c2FsdA==,i={'9' * 5000}".encode(), "no number of iterations"),
        (f"r={NONCE}x,s=!,i=4096".encode(), "not base64"),
        (b"\xff\xfe", "not in ASCII"),
    ],
)
def test_a_challenge_that_is_none_is_refused(said, words):
    with pytest.raises(ValueError, match=words):
        Scram("pencil", NONCE).challenge(said)


@given(st.binary(max_size=200))
def test_whatever_a_server_says_is_taken_or_refused(data):
    with contextlib.suppress(ValueError):
        Scram("pencil", NONCE).challenge(data)


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        # RFC 4013, section 3; PostgreSQL takes what is prohibited as it is.
        ("I\u00adX", b"IX"),
        ("user", b"user"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        ("\u0007", b"\x07"),
        ("\u06271", "\u06271".encode()),
        ("caf\u00e9", "café".encode()),
        ("cafe\u0301", "café".encode()),
        ("a\u00a0b", b"a b"),
        ("\u00ad", "\u00ad".encode()),
        ("pass\u200ba", b"pass a"),
    ],
)
def test_passwords_are_prepared_as_postgresql_does_it(password, prepared):
    assert prepare(password) == prepared
