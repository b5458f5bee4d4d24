"""A backend has a client only once it has greeted: who is silent, leaves or turns the client away is passed over."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from relay_steps import Steps, stepping
from relay_words import GREETING, PG_OK, mysql_error, pg_error, pg_startup

from easyproxy.engine.relay import counters as c
from easyproxy.engine.relay.greeting import GSSENC_REQUEST, SSL_REQUEST, request

PORTABLE = pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])
RESET = struct.pack("ii", 1, 0)
BUSY = mysql_error(1040, b"Too many connections")
BLOCKED = mysql_error(1129, b"Host is blocked")
STARTUP = pg_startup(user="u", database="d")
FULL = pg_error("53300", "sorry, too many clients already")
STARTING = pg_error("57P03", "the database system is starting up")


class Scene:
    """A worker before two backends, of which the first is tried first."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.first, self.second = steps.server, steps.listen()
        steps.serve(self.first, self.second)

    def heard(self, sock: socket.socket, count: int) -> bytes:
        """Read so many bytes, or all until the end, while the worker works."""
        data = bytearray()
        sock.setblocking(False)

        def is_there() -> bool:
            with contextlib.suppress(BlockingIOError):
                part = sock.recv(count - len(data))
                data.extend(part)
                return not part or len(data) == count
            self.steps.after(0.1)  # the portable form looks again with each tick
            return False

        self.steps.until(is_there)
        return bytes(data)

    def hears_nothing(self, sock: socket.socket) -> bool:
        """Whether nothing has come, after everything was done."""
        self.steps.settle()
        sock.setblocking(False)
        try:
            sock.recv(1)
        except BlockingIOError:
            return True
        return False

    @property
    def observed(self) -> list[tuple[str, str]]:
        return [(report["backend"], report["outcome"]) for report in self.steps.core.reports]

    def sessions_at(self, slot: int) -> int:
        return self.steps.core.counters.sum(slot, c.B_SESSIONS)

    def count(self, field: int, slot: int = 3) -> int:
        return self.steps.core.counters.sum(slot, field)


@contextlib.contextmanager
def scene(greeting: str, *, portable: bool = False, **settings):
    with stepping(
        portable=portable, greeting=greeting, greeting_timeout_s=2.0, strategy="first", **settings
    ) as steps:
        yield Scene(steps)


@PORTABLE
@pytest.mark.parametrize("greeting", ["any", "mysql"])
def test_a_backend_that_accepts_and_says_nothing_is_left_for_the_next(greeting, portable):
    with scene(greeting, portable=portable) as at:
        client = at.steps.client()
        silent = at.steps.taken(at.first)
        at.steps.after(1.5)
        assert at.steps.queued == 0
        assert at.sessions_at(3) == 1
        at.steps.after(1)
        assert at.heard(silent, 1) == b"", "it is left"
        at.steps.taken(at.second).sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert ("p/a", "timeout") in at.observed
        [session] = at.steps.core.sessions.values()
        assert session.tried == {"p/a": "connected, but no greeting in 2 s"}
        assert (at.sessions_at(3), at.sessions_at(4)) == (0, 1)
        assert (at.count(c.B_CONNECT_ERRORS), at.count(c.B_RETRIES)) == (1, 1)


@PORTABLE
@pytest.mark.parametrize("how", ["fin", "reset"])
def test_a_backend_that_leaves_without_a_word_is_left_for_the_next(how, portable):
    with scene("any", portable=portable) as at:
        client = at.steps.client()
        leaving = at.steps.taken(at.first)
        if how == "reset":
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        leaving.close()
        at.steps.taken(at.second).sendall(b"hello")
        assert at.heard(client, 5) == b"hello"
        assert ("p/a", "reset") in at.observed


@PORTABLE
def test_what_a_client_says_while_it_waits_gets_to_the_one_that_greets(portable):
    with scene("any", portable=portable) as at:
        client = at.steps.client()
        client.sendall(b"impatient")
        at.steps.taken(at.first).close()
        second = at.steps.taken(at.second)
        second.sendall(b"hello")
        assert at.heard(second, 9) == b"impatient"
        client.sendall(b", still")
        assert at.heard(second, 7) == b", still"
        assert at.heard(client, 5) == b"hello"


@PORTABLE
@pytest.mark.parametrize(("packet", "observed"), [(BUSY, []), (BLOCKED, [("p/a", "failed")])])
def test_a_mysql_server_that_turns_its_client_away_is_left_for_the_next(packet, observed, portable):
    """Too many connections is no failure: the server is well."""
    with scene("mysql", portable=portable) as at:
        client = at.steps.client()
        full = at.steps.taken(at.first)
        full.sendall(packet)
        full.close()
        at.steps.taken(at.second).sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.observed == observed
        assert at.sessions_at(3) == 0
        assert at.count(c.B_CONNECT_ERRORS) == 1


@PORTABLE
def test_when_all_turn_the_client_away_it_hears_what_the_last_one_said(portable):
    with scene("mysql", portable=portable) as at:
        client = at.steps.client()
        for server, packet in ((at.first, BLOCKED), (at.second, BUSY)):
            remote = at.steps.taken(server)
            remote.sendall(packet)
            remote.close()
        assert at.heard(client, 1000) == BUSY
        client.close()
        at.steps.settle()
        assert at.steps.ends == ["backend_fin"]
        assert at.sessions_at(3) == at.sessions_at(4) == 0
        assert at.count(c.B_FROM_BACKEND, 4) == len(BUSY)
        assert at.steps.core.recent_ends[-1][-1] == {
            "p/a": "Host is blocked (error 1129)",
            "p/b": "Too many connections (error 1040)",
        }


def test_what_the_last_one_said_is_kept_when_those_after_it_cannot_even_be_reached():
    with scene("mysql", retries=5) as at:
        with socket.create_server(("127.0.0.1", 0)) as refusing:
            at.steps.serve(at.first, refusing)
        client = at.steps.client()
        full = at.steps.taken(at.first)
        full.sendall(BUSY)
        assert at.heard(client, len(BUSY)) == BUSY


def test_retries_limit_how_many_are_tried():
    with scene("mysql", retries=0) as at:
        client = at.steps.client()
        at.steps.taken(at.first).sendall(BUSY)
        assert at.heard(client, len(BUSY)) == BUSY
        assert at.count(c.B_CONNECT_ERRORS, 4) == 0


@PORTABLE
@pytest.mark.parametrize("packet", [GREETING, BUSY], ids=["greeting", "error"])
def test_a_greeting_that_drips_is_waited_for_as_long_as_the_time_out(packet, portable):
    with scene("mysql", portable=portable) as at:
        client = at.steps.client()
        dripping = at.steps.taken(at.first)
        for byte in packet[:6]:
            dripping.sendall(bytes([byte]))
            at.steps.settle()
            at.steps.after(0.1)
        if packet is GREETING:
            assert at.heard(client, 6) == GREETING[:6]
        else:
            assert at.hears_nothing(client)
            at.steps.after(2)
            at.steps.taken(at.second).sendall(GREETING)
            assert at.heard(client, len(GREETING)) == GREETING


def test_half_a_greeting_and_the_end_is_no_greeting():
    with scene("mysql") as at:
        client = at.steps.client()
        remote = at.steps.taken(at.first)
        remote.sendall(GREETING[:3])
        remote.close()
        at.steps.taken(at.second).sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.observed == [("p/a", "reset")]


def test_a_greeting_that_claims_16_mib_is_passed_on_as_it_comes_and_kept_nowhere():
    with scene("mysql") as at:
        client = at.steps.client()
        remote = at.steps.taken(at.first)
        remote.sendall(b"\xff\xff\xff\0\x0a")
        assert at.heard(client, 5) == b"\xff\xff\xff\0\x0a"
        for _ in range(20):
            remote.sendall(b"x" * 50_000)
            assert len(at.heard(client, 50_000)) == 50_000


def test_an_error_that_claims_16_mib_is_judged_by_its_beginning():
    with scene("mysql") as at:
        client = at.steps.client()
        at.steps.taken(at.first).sendall(b"\xff\xff\xff\0\xff\x69\x04" + b"x" * 5000)
        at.steps.taken(at.second).sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING


@PORTABLE
@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("greeting", ["any", "mysql", "postgresql"])
def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(how, greeting, portable):
    with scene(greeting, portable=portable) as at:
        client = at.steps.client()
        first = at.steps.taken(at.first)
        if greeting == "mysql":
            first.sendall(BUSY)
            at.steps.taken(at.second)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
        at.steps.settle()
        at.steps.after(1.9 if greeting == "mysql" else 1.5)
        at.steps.settle()
        assert at.steps.ends == ["client_gave_up"]
        assert at.sessions_at(3) == at.sessions_at(4) == 0


def test_a_pool_whose_greeting_is_taken_out_waits_for_none_any_more():
    with scene("mysql") as at:
        client = at.steps.client()
        first = at.steps.taken(at.first)
        at.steps.settle()
        at.steps.serve(at.first, at.second, greeting="")
        client.sendall(b"hello")
        assert at.heard(first, 5) == b"hello"


@PORTABLE
def test_a_backend_that_comes_meanwhile_is_tried_when_the_others_have_failed(portable):
    """Behaviour 29: the client would have been served by the former configuration, and is by the new one."""
    with scene("mysql", portable=portable) as at:
        at.steps.serve(at.first)
        client = at.steps.client()
        at.steps.taken(at.first)
        at.steps.settle()
        at.steps.serve(at.second)
        at.steps.after(2.0)
        at.steps.taken(at.second).sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING


@pytest.mark.parametrize(
    ("retries", "comes"), [(0, True), (2, False)], ids=["retries are used up", "the same"]
)
def test_a_change_meanwhile_allows_no_further_attempts(retries, comes):
    with scene("mysql", retries=retries) as at:
        at.steps.serve(at.first)
        client = at.steps.client()
        at.steps.taken(at.first)
        at.steps.settle()
        at.steps.serve(at.first, *([at.second] if comes else []), connect_timeout_s=7.0)
        at.steps.after(2.0)
        assert at.steps.ends == ["connect_failed"]
        with pytest.raises(ConnectionResetError):
            client.recv(1)


# -- PostgreSQL


@PORTABLE
def test_a_startup_packet_is_sent_to_the_backend_and_its_answer_to_the_client(portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        client.sendall(STARTUP + b"more")
        first = at.steps.taken(at.first)
        assert at.heard(first, len(STARTUP)) == STARTUP
        first.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        assert at.heard(first, 4) == b"more"
        client.close()
        first.close()
        at.steps.settle()
        assert at.count(c.B_FROM_CLIENT) == len(STARTUP) + 4
        assert at.count(c.B_FROM_BACKEND) == len(PG_OK)


@PORTABLE
@pytest.mark.parametrize(("error", "observed"), [(FULL, []), (STARTING, [("p/a", "failed")])])
def test_a_server_without_a_place_or_still_starting_is_left_for_the_next(error, observed, portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        client.sendall(STARTUP)
        first = at.steps.taken(at.first)
        assert at.heard(first, len(STARTUP)) == STARTUP
        first.sendall(error)
        first.close()
        second = at.steps.taken(at.second)
        assert at.heard(second, len(STARTUP)) == STARTUP
        second.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        assert at.observed == observed
        assert at.count(c.B_FROM_CLIENT, 3) == 0


def test_when_none_has_a_place_the_client_hears_the_last_ones_error():
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(STARTUP)
        for server, error in ((at.first, STARTING), (at.second, FULL)):
            remote = at.steps.taken(server)
            assert at.heard(remote, len(STARTUP)) == STARTUP
            remote.sendall(error)
            remote.close()
        assert at.heard(client, 1000) == FULL
        client.close()
        at.steps.settle()
        assert at.steps.ends == ["backend_fin"]


def test_any_other_error_is_the_clients():
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(STARTUP)
        first = at.steps.taken(at.first)
        wrong = pg_error("28P01", "password authentication failed")
        first.sendall(wrong)
        assert at.heard(client, len(wrong)) == wrong
        assert not at.observed


@PORTABLE
def test_a_startup_packet_in_single_bytes_is_one_packet(portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        first = at.steps.taken(at.first)
        for byte in STARTUP[:-1]:
            client.sendall(bytes([byte]))
            at.steps.step()
        assert at.hears_nothing(first)
        client.sendall(STARTUP[-1:])
        assert at.heard(first, len(STARTUP)) == STARTUP


@PORTABLE
def test_a_client_that_says_nothing_costs_no_backend_its_reputation(portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        first = at.steps.taken(at.first)
        client.sendall(STARTUP[:7])
        at.steps.settle()
        at.steps.after(3)
        assert at.heard(first, 7) == STARTUP[:7], "nobody looks any more"
        assert not at.observed
        client.sendall(STARTUP[7:])
        assert at.heard(first, len(STARTUP) - 7) == STARTUP[7:]


def test_a_client_that_ends_in_the_midst_of_its_startup_packet_has_left():
    with scene("postgresql") as at:
        client = at.steps.client()
        at.steps.taken(at.first)
        client.sendall(STARTUP[:9])
        client.shutdown(socket.SHUT_WR)
        at.steps.settle()
        assert at.steps.ends == ["client_gave_up"]
        assert at.sessions_at(3) == 0


@PORTABLE
def test_a_client_that_ends_its_direction_after_the_startup_packet_still_gets_its_answer(portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        client.sendall(STARTUP)
        client.shutdown(socket.SHUT_WR)
        first = at.steps.taken(at.first)
        assert at.heard(first, len(STARTUP)) == STARTUP
        first.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        assert at.heard(first, 1) == b"", "its end comes after it"
        first.close()
        at.steps.settle()
        assert at.steps.ends == ["client_fin"]


@pytest.mark.parametrize("code", [SSL_REQUEST, GSSENC_REQUEST])
def test_after_a_yes_to_encryption_nobody_looks_any_more(code):
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(request(code))
        first = at.steps.taken(at.first)
        assert at.heard(first, 8) == request(code)
        first.sendall(b"S")
        assert at.heard(client, 1) == b"S"
        client.sendall(b"\x16\x03\x01 and whatever else")
        assert at.heard(first, 21) == b"\x16\x03\x01 and whatever else"
        first.sendall(FULL)
        assert at.heard(client, len(FULL)) == FULL


@PORTABLE
def test_after_a_no_to_encryption_the_startup_packet_is_looked_at_and_both_are_said_anew(portable):
    with scene("postgresql", portable=portable) as at:
        client = at.steps.client()
        client.sendall(request(GSSENC_REQUEST))
        first = at.steps.taken(at.first)
        for code in (GSSENC_REQUEST, SSL_REQUEST):
            assert at.heard(first, 8) == request(code)
            first.sendall(b"N")
            assert at.heard(client, 1) == b"N"
            client.sendall(request(SSL_REQUEST) if code == GSSENC_REQUEST else STARTUP)
        assert at.heard(first, len(STARTUP)) == STARTUP
        first.sendall(FULL)
        first.close()
        second = at.steps.taken(at.second)
        for code in (GSSENC_REQUEST, SSL_REQUEST):
            assert at.heard(second, 8) == request(code)
            second.sendall(b"N")
        assert at.heard(second, len(STARTUP)) == STARTUP
        second.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK, "and no second no"
        client.close()
        second.close()
        at.steps.settle()
        assert at.count(c.B_FROM_CLIENT, 4) == 16 + len(STARTUP)
        assert at.count(c.B_FROM_BACKEND, 4) == 2 + len(PG_OK)


def test_a_backend_that_encrypts_cannot_follow_one_that_does_not():
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(request(SSL_REQUEST))
        first = at.steps.taken(at.first)
        assert at.heard(first, 8) == request(SSL_REQUEST)
        first.sendall(b"N")
        assert at.heard(client, 1) == b"N"
        client.sendall(STARTUP)
        assert at.heard(first, len(STARTUP)) == STARTUP
        first.sendall(FULL)
        second = at.steps.taken(at.second)
        assert at.heard(second, 8) == request(SSL_REQUEST)
        second.sendall(b"S")
        assert at.heard(client, len(FULL)) == FULL
        with pytest.raises(ConnectionResetError):
            at.heard(second, 1)


@pytest.mark.parametrize(
    "said",
    [
        struct.pack(">III", 16, 80877102, 4711) + b"key!",
        struct.pack(">II", 10_001, 3 << 16) + b"x" * 20_000,
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["cancel", "too long", "HTTP"],
)
def test_what_is_no_startup_packet_is_passed_on_at_once(said):
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(said)
        first = at.steps.taken(at.first)
        assert at.heard(first, len(said)) == said
        first.sendall(FULL)
        assert at.heard(client, len(FULL)) == FULL


def test_a_server_that_never_answers_the_startup_packet_is_left_for_the_next():
    with scene("postgresql") as at:
        client = at.steps.client()
        client.sendall(STARTUP)
        first = at.steps.taken(at.first)
        assert at.heard(first, len(STARTUP)) == STARTUP
        at.steps.after(2.5)
        second = at.steps.taken(at.second)
        assert at.heard(second, len(STARTUP)) == STARTUP
        second.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        assert at.observed == [("p/a", "timeout")]


def test_the_longest_startup_packet_is_looked_at_and_comes_whole():
    with scene("postgresql") as at:
        packet = struct.pack(">II", 10_000, 3 << 16) + b"x" * 9_992
        client = at.steps.client()
        client.sendall(packet + b"and more")
        first = at.steps.taken(at.first)
        assert at.heard(first, 10_000) == packet
        first.sendall(STARTING)
        second = at.steps.taken(at.second)
        assert at.heard(second, 10_000) == packet
        second.sendall(PG_OK)
        assert at.heard(second, 8) == b"and more"
