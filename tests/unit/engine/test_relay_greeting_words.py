"""What first bytes say: greetings, refusals, startup packets, and everything that is none of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay_words import GREETING, mysql_error, pg_error, pg_startup

from easyproxy.engine.relay.greeting import (
    GSSENC_REQUEST,
    LOOK_BYTES,
    SSL_REQUEST,
    STARTUP_BYTES,
    Heard,
    Refusal,
    mysql,
    postgresql,
    request,
    startup,
)


@pytest.mark.parametrize("size", range(5))
def test_less_than_a_packets_first_byte_says_nothing_yet(size):
    assert mysql(GREETING[:size]) is Heard.TOO_LITTLE
    assert mysql(mysql_error(1040, b"Too many connections")[:size]) is Heard.TOO_LITTLE


def test_a_handshake_is_a_greeting_from_its_first_byte_on_however_long_it_claims_to_be():
    assert mysql(GREETING[:5]) is Heard.GREETING
    assert mysql(b"\xff\xff\xff\0\x0a") is Heard.GREETING


@pytest.mark.parametrize(
    ("packet", "refusal"),
    [
        (
            mysql_error(1040, b"Too many connections"),
            Refusal("Too many connections (error 1040)", is_busy=True),
        ),
        (mysql_error(1040, b"#08004Too many"), Refusal("Too many (error 1040)", is_busy=True)),
        (
            mysql_error(1129, b"Host 'a' is blocked"),
            Refusal("Host 'a' is blocked (error 1129)", is_busy=False),
        ),
        (mysql_error(1130, b"a\x1b[31m\nb"), Refusal("a?[31m?b (error 1130)", is_busy=False)),
        (b"\x01\0\0\0\xff", Refusal("no words (error 0)", is_busy=False)),
    ],
)
def test_an_error_packet_is_a_refusal_once_it_is_whole(packet, refusal):
    assert mysql(packet) == refusal
    for size in range(len(packet)):
        assert mysql(packet[:size]) is Heard.TOO_LITTLE


def test_an_error_packet_of_16_mib_is_judged_by_its_beginning():
    packet = b"\xff\xff\xff\0\xff" + struct.pack("<H", 1129) + b"x" * 2000
    assert mysql(packet[: LOOK_BYTES - 1]) is Heard.TOO_LITTLE
    assert isinstance(mysql(packet[:LOOK_BYTES]), Refusal)


@pytest.mark.parametrize(
    ("code", "is_busy"), [("53300", True), ("57P03", False)], ids=["too many connections", "starting up"]
)
def test_two_errors_of_postgresql_are_refusals_once_they_are_whole(code, is_busy):
    packet = pg_error(code, "no, sorry")
    assert postgresql(packet) == Refusal(f"no, sorry (error {code})", is_busy)
    for size in range(1, len(packet)):
        assert postgresql(packet[:size]) is Heard.TOO_LITTLE


@pytest.mark.parametrize(
    "answer",
    [
        pg_error("28P01", "password authentication failed"),
        b"R\0\0\0\x08\0\0\0\0",
        b"EFATAL:  could not fork new process\n\0",
        b"E\0\0\0\x00",
        b"E\xff\xff\xff\xff" + b"C53300\0\0",
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
def test_whatever_else_postgresql_answers_is_the_clients_to_judge(answer):
    assert postgresql(answer) is Heard.GREETING


def test_a_startup_packet_is_known_by_its_length_and_protocol():
    packet = pg_startup(user="u", database="d")
    assert startup(packet + b"more") == (len(packet), 0, True)
    for size in range(len(packet)):
        assert not startup(packet[:size]).is_whole
    assert startup(struct.pack(">II", STARTUP_BYTES, 3 << 16)).length == STARTUP_BYTES


@pytest.mark.parametrize("code", [SSL_REQUEST, GSSENC_REQUEST])
def test_a_request_for_encryption_is_known(code):
    assert startup(request(code) + b"and more") == (8, code, True)


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">III", 16, 80877102, 4711) + b"key!",
        struct.pack(">II", STARTUP_BYTES + 1, 3 << 16),
        struct.pack(">I", 7),
        struct.pack(">II", 296, 2 << 16),
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n",
    ],
    ids=["cancel", "too long", "too short", "protocol 2", "TLS", "HTTP"],
)
def test_what_is_no_startup_packet_is_passed_on_as_it_is(said):
    assert startup(said).length == 0


@given(st.binary(max_size=64))
def test_no_bytes_are_too_strange(data):
    for judge in (mysql, postgresql):
        assert isinstance(judge(data), Heard | Refusal)
    assert 0 <= startup(data).length <= STARTUP_BYTES
