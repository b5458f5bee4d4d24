"""What is known of a session's transaction, whatever it says and however that is cut: never none when one is open."""

from __future__ import annotations

import json
import sys

import pytest
from conversation_scripts import BACKEND, CLIENT, ELSE, NONE, PG_LOGINS, hear, my_login, mysql, postgresql
from hypothesis import given
from hypothesis import strategies as st

import speech as s
from easyproxy.engine.relay.conversation import CONVERSATIONS, MySql, PostgreSql

BOTH = pytest.mark.parametrize("kind", [PostgreSql, MySql])
SCRIPTS = st.one_of(st.tuples(st.just(PostgreSql), postgresql()), st.tuples(st.just(MySql), mysql()))
PG_IN = PG_LOGINS[0]
MY_IN = my_login(s.USUAL | s.DEPRECATE_EOF)


def heard(kind, pieces):
    conversation = kind()
    for side, data, *_ in pieces:
        hear(conversation, side, data)
    return conversation


@given(SCRIPTS)
def test_none_is_said_when_none_is_open_and_never_before(script):
    """Byte by byte: in the middle of anything it is not none, and at its end it is what the server means."""
    kind, pieces = script
    conversation = kind()
    for side, data, after in pieces:
        for at in range(len(data)):
            hear(conversation, side, data[at : at + 1])
            if at + 1 < len(data):
                assert conversation.transaction != NONE, (side, data, at)
        assert not conversation.why, (conversation.why, side, data)
        if after == ELSE:
            assert conversation.transaction != NONE, (side, data)
        else:
            assert conversation.transaction == after, (side, data)


@given(SCRIPTS, st.data())
def test_it_knows_the_same_however_the_stream_is_cut(script, data):
    kind, pieces = script
    whole, cut = kind(), kind()
    for side, said, _ in pieces:
        hear(whole, side, said)
        places = sorted(data.draw(st.sets(st.integers(1, len(said) - 1), max_size=4))) if said[1:] else []
        for start, end in zip([0, *places], [*places, len(said)], strict=True):
            hear(cut, side, said[start:end])
        assert cut.to_plain() == whole.to_plain()


@given(SCRIPTS, st.data())
def test_another_process_can_go_on_at_any_byte(script, data):
    kind, pieces = script
    conversation = kind()
    for side, said, _ in pieces:
        at = data.draw(st.integers(1, len(said)))
        hear(conversation, side, said[:at])
        successor = kind()
        successor.take_plain(json.loads(json.dumps(conversation.to_plain())))
        assert successor.to_plain() == conversation.to_plain()
        conversation = successor
        if said[at:]:
            hear(conversation, side, said[at:])
    assert not conversation.why
    assert (conversation.transaction == NONE) == (pieces[-1][2] == NONE)


NOISE = st.lists(
    st.tuples(st.sampled_from([CLIENT, BACKEND]), st.binary(min_size=1, max_size=400)), max_size=12
)


@given(SCRIPTS, NOISE, st.data())
def test_whatever_it_is_fed_it_neither_fails_nor_grows(script, noise, data):
    """A session that goes wrong somewhere, or never was of this protocol."""
    kind, pieces = script
    cut = data.draw(st.integers(0, len(pieces)))
    conversation = kind()
    for side, said, *_ in [*pieces[:cut], *noise, *pieces[cut:]]:
        hear(conversation, side, said)
        assert conversation.transaction in ("none", "open", "busy", "unknown")
        assert bool(conversation.doubt) >= (conversation.transaction == "unknown")
        assert sum(map(sys.getsizeof, conversation.to_plain().values())) < 20_000


@BOTH
@pytest.mark.parametrize("side", [CLIENT, BACKEND])
def test_an_endless_beginning_is_given_up_and_costs_no_memory(kind, side):
    conversation = kind()
    for data in (b"\x0a", b"\0\0\x27\x10\0\3\0\0", b"a" * 20_000):
        for _ in range(2000):
            hear(conversation, side, data)
            assert sum(map(sys.getsizeof, conversation.to_plain().values())) < 50_000
    assert conversation.transaction == "unknown"


@BOTH
def test_what_another_version_has_written_down_is_not_guessed_at(kind):
    conversation = kind()
    conversation.take_plain({"why": "", "mood": "good"})
    assert (conversation.transaction, conversation.doubt) == (
        "unknown",
        "another version has followed it before",
    )


@BOTH
def test_its_word_is_the_one_of_the_pool(kind):
    assert CONVERSATIONS[kind.protocol] is kind


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([(CLIENT, s.SSL_REQUEST), (BACKEND, b"S")], "it is encrypted"),
        ([(CLIENT, s.GSS_REQUEST), (BACKEND, b"G")], "it is encrypted"),
        ([(CLIENT, b"\x16\x03\x01\x02\0\1")], "it is encrypted"),
        ([(CLIENT, s.CANCEL)], "it cancels the request of another one"),
        ([(CLIENT, s.untyped(2 << 16, b"old"))], "it is too old"),
        ([(CLIENT, s.SSL_REQUEST), (BACKEND, b"SS")], "what it says is not understood"),
        ([(BACKEND, s.ready())], "what it says is not understood"),
        ([*PG_IN, (BACKEND, s.ready())], "what it says is not understood"),
        ([*PG_IN, (BACKEND, s.failure(b"57P01"))], "what it says is not understood"),
        (
            [*PG_IN, (CLIENT, s.query(b"x")), (BACKEND, s.message(b"Z", b"?"))],
            "what it says is not understood",
        ),
        (
            [*PG_IN, (CLIENT, s.query(b"START_REPLICATION")), (BACKEND, s.COPY_BOTH)],
            "it carries a replication stream",
        ),
        (
            [*PG_IN, (CLIENT, s.PARSE + s.BIND + s.EXECUTE + s.SYNC), (BACKEND, s.COPY_IN + s.failure())],
            "a COPY has failed",
        ),
    ],
)
def test_postgresql_says_why_it_cannot_know(pieces, why):
    conversation = heard(PostgreSql, pieces)
    assert (conversation.transaction, conversation.doubt) == ("unknown", why)


@pytest.mark.parametrize(
    ("pieces", "why"),
    [
        ([(BACKEND, s.greeting()), (CLIENT, s.hello(s.USUAL | s.SSL))], "it is encrypted"),
        (
            [(BACKEND, s.greeting()), (CLIENT, s.hello(s.USUAL | s.COMPRESS)), (BACKEND, s.ok(2))],
            "it is compressed",
        ),
        ([(BACKEND, s.greeting()), (CLIENT, s.packet(1, b"\5" + b"\0" * 60))], "it is too old"),
        (
            [(BACKEND, s.greeting()), (CLIENT, s.hello()), (BACKEND, s.error(2, 1045))],
            "its login was refused",
        ),
        ([(BACKEND, s.error(0, 1040))], "what it says is not understood"),
        ([(CLIENT, s.ask())], "what it says is not understood"),
        ([*MY_IN, (CLIENT, s.command(18, b"\0" * 10))], "it carries a replication stream"),
        ([*MY_IN, (CLIENT, s.command(99))], "what it says is not understood"),
        ([*MY_IN, (CLIENT, s.packet(5, b"x"))], "what it says is not understood"),
        ([*MY_IN, (BACKEND, s.ok())], "what it says is not understood"),
        (
            [*MY_IN, (CLIENT, s.ask()), (BACKEND, s.error())],
            "its last answer was an error, which does not say whether a transaction is open",
        ),
    ],
)
def test_mysql_says_why_it_cannot_know(pieces, why):
    conversation = heard(MySql, pieces)
    assert (conversation.transaction, conversation.doubt) == ("unknown", why)


def test_a_report_of_progress_is_no_error():
    progress = s.packet(1, b"\xff\xff\xff\1\1\2" + b"\0\0\0\3abc")
    conversation = heard(MySql, [*MY_IN, (CLIENT, s.ask()), (BACKEND, progress * 3)])
    assert conversation.transaction == "busy"
    hear(conversation, BACKEND, s.ok(4))
    assert conversation.transaction == "none"


@pytest.mark.parametrize("first", [b"\xfe" + (1 << 24).to_bytes(8, "little"), b"\x01"])
def test_a_row_that_needs_several_packets_does_not_end_the_rows(first):
    longest = s.packet(3, first + b"\0" * (0xFFFFFF - len(first)))
    head = s.packet(1, b"\1") + s.packet(2, b"\3def")
    conversation = heard(MySql, [*MY_IN, (CLIENT, s.ask()), (BACKEND, head + longest)])
    hear(conversation, BACKEND, s.ok(4, head=0xFE))  # the rest of the row, whatever it looks like
    assert conversation.transaction == "busy"
    hear(conversation, BACKEND, s.ok(5, head=0xFE))
    assert conversation.transaction == "none"


def test_a_command_that_needs_several_packets_is_one():
    conversation = heard(MySql, [*MY_IN, (CLIENT, s.packet(0, b"\3" + b"x" * 0xFFFFFE) + s.packet(1, b"\1"))])
    assert conversation.transaction == "busy"
    hear(conversation, BACKEND, s.ok())
    assert conversation.transaction == "none"


def test_autocommit_off_is_no_transaction_until_the_server_says_so():
    conversation = heard(MySql, [*MY_IN, (CLIENT, s.ask(b"SET autocommit=0")), (BACKEND, s.ok(status=0))])
    assert conversation.transaction == "none"
    hear(conversation, CLIENT, s.ask())
    hear(conversation, BACKEND, s.result(b"1", status=s.IN_TRANSACTION))
    assert conversation.transaction == "open"


@BOTH
def test_who_says_goodbye_is_left_to_it(kind):
    logged_in, bye = (PG_IN, s.TERMINATE) if kind is PostgreSql else (MY_IN, s.QUIT)
    conversation = heard(kind, logged_in)
    assert conversation.is_fresh
    hear(conversation, CLIENT, bye)
    assert not conversation.is_fresh
    assert conversation.transaction == "busy"


def test_a_query_during_a_copy_is_not_guessed_at():
    copying = [*PG_IN, (CLIENT, s.query(b"COPY")), (BACKEND, s.COPY_IN), (CLIENT, s.query(b"SELECT 1"))]
    assert heard(PostgreSql, copying).transaction == "unknown"


def test_a_request_that_the_server_skips_keeps_it_busy():
    """After an error in the extended protocol a Query without a Sync before it is thrown away."""
    pieces = [*PG_IN, (CLIENT, s.PARSE + s.query(b"SELECT 1") + s.SYNC), (BACKEND, s.failure() + s.ready())]
    assert heard(PostgreSql, pieces).transaction == "busy"


def test_definitions_that_a_mariadb_client_has_already_are_not_waited_for():
    """MARIADB_CLIENT_CACHE_METADATA: a byte behind the number of columns says whether their definitions follow."""
    ours = s.USUAL & ~1 | s.DEPRECATE_EOF
    greeting = bytearray(s.greeting(ours))
    extended = greeting.index(b"\x15") + 7
    greeting[extended : extended + 4] = hello = (1 << 4).to_bytes(4, "little")
    answer = s.packet(1, (ours).to_bytes(4, "little") + b"\0" * 24 + hello + b"app\0\0")
    login = [(BACKEND, bytes(greeting)), (CLIENT, answer), (BACKEND, s.ok(2))]
    with_them = s.packet(1, b"\1\1") + s.packet(2, b"\3def") + s.ok(3, head=0xFE)
    without = s.packet(1, b"\1\0") + s.packet(2, b"\1x") + s.ok(3, head=0xFE)
    for result in (with_them, without):
        conversation = heard(MySql, [*login, (CLIENT, s.ask()), (BACKEND, result)])
        assert (conversation.transaction, conversation.why) == ("none", "")
