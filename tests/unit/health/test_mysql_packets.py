"""The packets of the MySQL check, without a server."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.mysql.packets import (
    Greeting,
    ServerError,
    login,
    read_column,
    read_error,
    read_greeting,
    read_number,
    read_texts,
    tls_request,
)

PLUGIN_AUTH = 1 << 19


def greeting(version: bytes, plugin: bytes = b"", scramble: int = 21) -> bytes:
    """Write HandshakeV10 as the protocol's documentation has it."""
    capabilities = PLUGIN_AUTH if plugin else 0
    head = b"\x0a" + version + b"\0" + struct.pack("<I8sx", 7, b"x" * 8)
    middle = struct.pack("<HBHHB10x", capabilities & 0xFFFF, 45, 2, capabilities >> 16, scramble)
    return head + middle + b"y" * max(13, scramble - 8) + plugin + (b"\0" if plugin else b"")


@pytest.mark.parametrize(
    ("packet", "version", "plugin"),
    [
        (greeting(b"8.4.3", b"caching_sha2_password"), "8.4.3", "caching_sha2_password"),
        (
            greeting(b"5.5.5-10.11.19-MariaDB-0+deb12u1", b"mysql_native_password"),
            "10.11.19-MariaDB-0+deb12u1",
            "mysql_native_password",
        ),
        (greeting(b"5.5.5-m3"), "5.5.5-m3", ""),
        (greeting(b"9.0", b"long_scramble_plugin", scramble=33), "9.0", "long_scramble_plugin"),
        (b"\x0a4.0\0", "4.0", ""),
    ],
)
def test_greetings_say_their_version_and_method(packet, version, plugin):
    found = read_greeting(packet)
    assert (found.version, found.method) == (version, plugin)


def test_the_scramble_is_put_together_from_its_two_parts():
    found = read_greeting(greeting(b"8.4.3", b"caching_sha2_password"))
    assert found.scramble == b"x" * 8 + b"y" * 12


@pytest.mark.parametrize(("bit", "offers"), [(1 << 11, True), (0, False)])
def test_a_server_says_whether_it_speaks_tls(bit, offers):
    packet = bytearray(greeting(b"8.4.3", b"caching_sha2_password"))
    at = packet.index(0) + 1 + 13
    packet[at + 1] |= bit >> 8
    assert read_greeting(bytes(packet)).can_tls is offers


@given(st.binary(min_size=1, max_size=300))
def test_no_greeting_is_too_odd_to_be_judged(packet):
    with contextlib.suppress(ProbeFailed, ServerError):
        found = read_greeting(packet)
        assert found.version.isprintable()
        login("easyproxy", found.method, b"")


@given(st.binary(min_size=1, max_size=300))
def test_no_error_packet_is_too_odd_to_be_read(packet):
    error = read_error(packet)
    assert 0 <= error.code <= 0xFFFF
    assert error.words.isprintable()


@given(st.binary(max_size=300), st.integers(1, 20))
def test_no_row_is_too_odd_to_be_judged(packet, count):
    for read in (
        lambda: read_texts(packet, count),
        lambda: read_column(packet),
        lambda: read_number(packet, 0),
    ):
        with contextlib.suppress(ProbeFailed):
            read()


def test_error_packets_come_with_and_without_a_state():
    for packet in (b"\xff\x10\x04#08004Too many connections", b"\xff\x10\x04Too many connections"):
        error = read_error(packet)
        assert (error.code, error.words) == (1040, "Too many connections")
        assert str(error) == "Too many connections (error 1040)"


def test_a_server_that_turns_us_away_says_so_instead_of_greeting():
    with pytest.raises(ServerError, match="Too many connections"):
        read_greeting(b"\xff\x10\x04#08004Too many connections")


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        (b"\x05", (5, 1)),
        (b"\xfa", (250, 1)),
        (b"\xfb", (None, 1)),
        (b"\xfc\x01\x02", (0x201, 3)),
        (b"\xfd\x01\x02\x03", (0x30201, 4)),
        (b"\xfe" + b"\x01" + b"\0" * 7, (1, 9)),
    ],
)
def test_numbers_have_the_length_that_their_first_byte_says(packet, found):
    assert read_number(packet, 0) == found


@pytest.mark.parametrize("packet", [b"", b"\xff", b"\xfc\x01", b"\xfe\x01"])
def test_a_number_that_is_cut_off_is_refused(packet):
    with pytest.raises(ProbeFailed, match="ends too early"):
        read_number(packet, 0)


def test_texts_may_be_null_and_not_longer_than_their_packet():
    assert read_texts(b"\x02hi\xfb\x00", 3) == ["hi", None, ""]
    for packet in (b"\x03hi", b"\xfe" + b"\xff" * 8 + b"hi"):
        with pytest.raises(ProbeFailed, match="ends too early"):
            read_texts(packet, 1)


def test_the_login_carries_the_answer_as_its_method_writes_it():
    packet = login("probe", "caching_sha2_password", b"\0")
    assert packet[32:] == b"probe\0" + b"\x01\0" + b"caching_sha2_password\0"
    assert struct.unpack_from("<I", packet)[0] & PLUGIN_AUTH
    assert login("probe", "", b"")[32:] == b"probe\0\0"


def test_an_answer_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="too long"):
        login("probe", "mysql_clear_password", b"x" * 256)


def test_the_request_for_tls_is_the_beginning_of_a_login():
    request = tls_request()
    assert len(request) == 32
    assert request == login("probe", "mysql_native_password", b"", tls=True)[:32]


def test_a_greeting_that_says_little_has_no_scramble():
    assert read_greeting(b"\x0a4.0\0") == Greeting("4.0")
