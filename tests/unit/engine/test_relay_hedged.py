"""A backend that takes longer than usual to greet is raced by the next one; the first to greet has the client."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from relay_steps import stepping
from relay_words import GREETING, PG_OK, mysql_error, pg_startup
from test_relay_greeted import Scene

from easyproxy.engine.relay import counters as c

PORTABLE = pytest.mark.parametrize("portable", [False, True], ids=["epoll", "portable"])
BUSY = mysql_error(1040, b"Too many connections")
USUAL_S = 1.0
"""What a worker takes for usual that has seen nothing yet."""
STARTUP = pg_startup(user="u", database="d")


@contextlib.contextmanager
def scene(*, portable: bool = False, greeting: str = "mysql", **settings):
    with stepping(
        portable=portable,
        greeting=greeting,
        greeting_timeout_s=10.0,
        strategy="first",
        hedge=True,
        **settings,
    ) as steps:
        yield Scene(steps)


def raced(at: Scene) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A client for whom two backends race: its own socket, the slow one's and the second one's."""
    client = at.steps.client()
    slow = at.steps.taken(at.first)
    at.steps.settle()
    at.steps.after(USUAL_S)
    return client, slow, at.steps.taken(at.second)


@PORTABLE
def test_the_second_one_has_the_client_when_it_greets_first(portable):
    with scene(portable=portable) as at:
        client, slow, second = raced(at)
        second.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.heard(slow, 1) == b""
        assert (at.sessions_at(3), at.sessions_at(4)) == (0, 1)
        assert not at.observed, "slow is not ill"
        [session] = at.steps.core.sessions.values()
        assert session.tried == {"p/a": "another one has greeted first"}


@PORTABLE
def test_the_slow_one_has_the_client_when_it_greets_first_after_all(portable):
    with scene(portable=portable) as at:
        client, slow, second = raced(at)
        slow.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.heard(second, 1) == b""
        assert (at.sessions_at(3), at.sessions_at(4)) == (1, 0)
        client.sendall(b"hello")
        assert at.heard(slow, 5) == b"hello"


def test_who_greets_in_the_usual_time_is_not_raced():
    with scene() as at:
        client = at.steps.client()
        first = at.steps.taken(at.first)
        at.steps.settle()
        at.steps.after(0.5)
        first.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.sessions_at(4) == 0


@PORTABLE
@pytest.mark.parametrize("fails", ["first", "second"])
def test_when_one_of_them_fails_the_other_goes_on(fails, portable):
    with scene(portable=portable) as at:
        client, slow, second = raced(at)
        failing, other, name = (slow, second, "p/a") if fails == "first" else (second, slow, "p/b")
        failing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        failing.close()
        at.steps.settle()
        at.steps.after(0.2)
        assert at.observed == [(name, "reset")]
        other.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.sessions_at(3) + at.sessions_at(4) == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_when_both_turn_the_client_away_it_hears_the_last_one(order):
    with scene() as at:
        client, *both = raced(at)
        said = [BUSY, mysql_error(1040, b"Really too many")]
        for place, words in zip(order, said, strict=True):
            both[place].sendall(words)
            at.steps.settle()
        assert at.heard(client, len(said[1])) == said[1]
        client.close()
        for remote in both:
            remote.close()
        at.steps.settle()
        assert at.sessions_at(3) == at.sessions_at(4) == 0


def test_the_slow_ones_own_time_out_holds_and_so_does_the_second_ones():
    with scene() as at:
        _client, _slow, _second = raced(at)
        at.steps.after(9.2)
        assert at.observed == [("p/a", "timeout")]
        at.steps.after(2)
        assert at.observed == [("p/a", "timeout"), ("p/b", "timeout")]
        assert at.steps.ends == ["connect_failed"]
        assert at.sessions_at(3) == at.sessions_at(4) == 0


def test_a_race_counts_against_retries():
    with scene(retries=0) as at:
        client = at.steps.client()
        slow = at.steps.taken(at.first)
        at.steps.settle()
        at.steps.after(USUAL_S + 1)
        assert at.sessions_at(4) == 0
        slow.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING


def test_without_another_candidate_the_slow_one_is_waited_for():
    with scene() as at:
        at.steps.serve(at.first)
        client = at.steps.client()
        slow = at.steps.taken(at.first)
        at.steps.settle()
        at.steps.after(USUAL_S + 1)
        slow.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert at.count(c.B_CONNECT_ERRORS) == 0


@PORTABLE
def test_a_client_that_leaves_during_the_race_leaves_nothing_behind(portable):
    with scene(portable=portable) as at:
        client, slow, second = raced(at)
        client.close()
        at.steps.settle()
        at.steps.after(1.5)
        assert at.steps.ends == ["client_gave_up"]
        assert at.sessions_at(3) == at.sessions_at(4) == 0
        assert at.heard(slow, 1) == b""
        with contextlib.suppress(ConnectionResetError):
            assert at.heard(second, 1) == b""


def test_what_is_usual_is_learned_and_bounded():
    with scene() as at:
        pool = at.steps.worker.in_force.pools["p"]
        for _ in range(30):
            before = pool.usual_s
            client = at.steps.client()
            at.steps.taken(at.first).sendall(GREETING)
            assert at.heard(client, len(GREETING)) == GREETING
            client.close()
            at.steps.settle()
            assert pool.usual_s == pytest.approx(before * 0.99)
        for _ in range(30):
            pool.usual_s *= 0.5
            client = at.steps.client()
            at.steps.taken(at.first).sendall(GREETING)
            assert at.heard(client, len(GREETING)) == GREETING
            client.close()
            at.steps.settle()
        assert pool.usual_s == 0.1


def test_when_all_are_slow_so_is_what_is_usual():
    with scene() as at:
        pool = at.steps.worker.in_force.pools["p"]
        client, _slow, second = raced(at)
        second.sendall(GREETING)
        assert at.heard(client, len(GREETING)) == GREETING
        assert pool.usual_s > USUAL_S


def test_postgresql_is_not_raced():
    with scene(greeting="postgresql") as at:
        at.steps.client().sendall(struct.pack(">II", 16, 3 << 16) + b"user\0u\0\0")
        at.steps.taken(at.first)
        at.steps.settle()
        at.steps.after(5)
        assert at.sessions_at(4) == 0


# -- a reload says meanwhile that the client speaks first


@PORTABLE
def test_what_the_client_says_first_reaches_the_backend_once(portable):
    with scene(portable=portable, greeting="any") as at:
        at.steps.deafen(at.second)
        client = at.steps.client()
        first = at.steps.taken(at.first)
        at.steps.settle()
        at.steps.serve(at.first, at.second, greeting="postgresql")
        client.sendall(STARTUP)
        assert at.heard(first, len(STARTUP)) == STARTUP
        at.steps.after(USUAL_S + 0.5)
        first.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        client.sendall(b"password")
        assert at.heard(first, 8) == b"password"
        assert at.count(c.B_FROM_CLIENT) == len(STARTUP) + 8


@PORTABLE
def test_what_the_client_says_first_is_said_to_one_of_two_that_race(portable):
    with scene(portable=portable, greeting="any") as at:
        client, slow, second = raced(at)
        at.steps.serve(at.first, at.second, greeting="postgresql")
        client.sendall(STARTUP)
        assert at.heard(second, len(STARTUP)) == STARTUP
        assert at.heard(slow, 1) == b"", "it is let go"
        assert not at.observed
        assert (at.sessions_at(3), at.sessions_at(4)) == (0, 1)
        second.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
        client.sendall(b"password")
        assert at.heard(second, 8) == b"password"


def test_who_was_raced_when_the_client_was_to_speak_first_is_not_taken_for_ill():
    with scene(greeting="any") as at:
        client, slow, second = raced(at)
        at.steps.serve(at.first, at.second, greeting="postgresql")
        at.steps.after(12)
        assert not at.observed
        client.sendall(STARTUP)
        assert at.heard(second, len(STARTUP)) == STARTUP
        assert at.heard(slow, 1) == b""
