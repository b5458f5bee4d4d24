"""The packets of the MySQL check, without a server."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.mysql import MysqlCheck, _read_error, _read_greeting

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
    assert _read_greeting(packet) == (version, plugin)


@given(st.binary(min_size=1, max_size=300))
def test_no_greeting_is_too_odd_to_be_judged(packet):
    with contextlib.suppress(ProbeFailed):
        version, plugin = _read_greeting(packet)
        assert version.isprintable()
        MysqlCheck()._login(plugin)


@given(st.binary(min_size=1, max_size=300))
def test_no_error_packet_is_too_odd_to_be_read(packet):
    code, words = _read_error(packet)
    assert 0 <= code <= 0xFFFF
    assert words.isprintable()


def test_error_packets_come_with_and_without_a_state():
    assert _read_error(b"\xff\x10\x04#08004Too many connections") == (1040, "Too many connections")
    assert _read_error(b"\xff\x10\x04Too many connections") == (1040, "Too many connections")


@pytest.mark.parametrize(
    ("plugin", "secret"), [("caching_sha2_password", b"\x01\0"), ("mysql_native_password", b"\0")]
)
def test_the_login_carries_an_empty_password_as_its_method_writes_it(plugin, secret):
    login = MysqlCheck(user="probe")._login(plugin)
    assert login[32:] == b"probe\0" + secret + plugin.encode() + b"\0"
    assert struct.unpack_from("<I", login)[0] & PLUGIN_AUTH
