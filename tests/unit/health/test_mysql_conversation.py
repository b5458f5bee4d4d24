"""A conversation with a server that says anything at all: it ends, with an answer or with words."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.database import LoginRefusedError
from easyproxy.health.checks.mysql.conversation import COLUMNS, ROUNDS, ROWS, VALUES, Conversation
from easyproxy.health.checks.mysql.packets import Greeting, ServerError

GREETING = Greeting("8.4.3", "caching_sha2_password", bytes(20))
OK, END = b"\x00\x00\x00\x02\x00\x00\x00", b"\xfe\x00\x00\x02\x00"


class Written:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


class Scripted:
    """Stands for a connection: says what it was told to, and ends."""

    def __init__(self, *packets: bytes) -> None:
        self._data = b"".join(packet(each, number) for number, each in enumerate(packets))
        self.writer = Written()

    async def read_some(self, limit: int) -> bytes:
        piece, self._data = self._data[:limit], self._data[limit:]
        return piece


def packet(payload: bytes, number: int = 0) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number % 256]) + payload


def text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def column(name: str) -> bytes:
    return text("def") + text("") * 3 + text(name) + text(name) + bytes(13)


def asked(*packets: bytes):
    """Return what a question yields."""
    return asyncio.run(Conversation(Scripted(*packets), is_secure=False).query("SHOW x"))


def test_an_answer_is_read_by_the_names_of_its_columns():
    rows = asked(b"\x02", column("a"), column("b"), END, text("1") + b"\xfb", text("2") + text("3"), END)
    assert rows == [{"a": "1", "b": None}, {"a": "2", "b": "3"}]


@pytest.mark.parametrize(
    ("packets", "words"),
    [
        ([OK], "no result"),
        ([b"\xfb/etc/passwd"], "no result"),  # LOAD DATA LOCAL: the server asks for a file of ours
        ([b"\xfc\xff\xff"], "no result"),
        ([b"\x01", column("a"), column("a")], "no result"),
        ([b"\x01", b"\x09"], "ends too early"),
        ([b"\x01", column("a"), END, *[b"\x00"] * (ROWS + 1)], f"more than {ROWS} rows"),
        (
            [b"\xfc" + COLUMNS.to_bytes(2, "little"), *[column("a")] * COLUMNS, END]
            + [b"\x00" * COLUMNS] * (VALUES // COLUMNS + 1),
            f"more than {VALUES // COLUMNS} rows",
        ),
    ],
)
def test_what_is_no_answer_is_refused(packets, words):
    with pytest.raises(ProbeFailed, match=words):
        asked(*packets)


def test_an_error_amid_the_rows_is_the_server_s_word():
    with pytest.raises(ServerError, match="Lost patience"):
        asked(b"\x01", column("a"), END, text("1"), b"\xff\x10\x04#HY000Lost patience")


def test_a_server_that_never_decides_is_given_up():
    connection = Scripted(*[b"\x01\x03"] * (ROUNDS + 1))
    with pytest.raises(ProbeFailed, match="does not decide about a login"):
        asyncio.run(Conversation(connection, is_secure=False).log_in("monitor", GREETING, b"secret"))


@pytest.mark.parametrize(
    "method", ["nobody_knows_it", "mysql_clear_password", "mysql_old_password", "dialog"]
)
def test_whatever_the_server_asks_for_it_gets_an_answer(method):
    """To leave would be a connect error."""
    switch = b"\xfe" + method.encode() + b"\0" + bytes(21)
    connection = Scripted(switch, b"\xff\x15\x04#28000Access denied")
    with pytest.raises(LoginRefusedError):
        asyncio.run(Conversation(connection, is_secure=False).log_in("monitor", GREETING, b"secret-word"))
    head = int.from_bytes(connection.writer.data[:3], "little") + 4
    assert connection.writer.data[head:][3] == 1  # a second packet, numbered after the server's
    assert b"secret-word" not in connection.writer.data


PACKETS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=60),
        st.sampled_from([OK, END, b"\x01\x03", b"\x01\x04", b"\x01", b"\x02", column("a"), text("1")]),
        st.binary(max_size=30).map(lambda data: b"\xfe" + data),
        st.binary(max_size=30).map(lambda data: b"\xff" + data),
    ),
    max_size=20,
)


@given(PACKETS, st.one_of(st.none(), st.just(b"secret-word")))
def test_nothing_that_a_server_says_leads_to_anything_but_an_answer_or_words(packets, password):
    connection = Scripted(*packets)
    conversation = Conversation(connection, is_secure=False)

    async def converse() -> None:
        await conversation.log_in("monitor", GREETING, password)
        rows = await conversation.query("SHOW x")
        assert all(isinstance(row, dict) for row in rows)

    with contextlib.suppress(ProbeFailed, ServerError, LoginRefusedError, EOFError):
        asyncio.run(converse())
    conversation.quit()
    assert b"secret-word" not in connection.writer.data
