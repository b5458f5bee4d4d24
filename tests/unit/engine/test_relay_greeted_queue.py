"""Whom one backend turns away waits for a place at another one, and hears a no only when that was in vain."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from relay_steps import stepping
from relay_words import GREETING, PG_OK, mysql_error, pg_error, pg_startup
from test_relay_greeted import PORTABLE, Scene

BUSY = mysql_error(1040, b"Too many connections")
BLOCKED = mysql_error(1129, b"Host is blocked")
WAIT_S = 5.0


class Crowded(Scene):
    """The first backend has no place left by its own count; the only one at the second has a client."""

    def __init__(self, steps) -> None:
        super().__init__(steps)
        self.holder = steps.client()
        self.turn_away()
        self.held = steps.taken(self.second)
        self.greet(self.held, self.holder)

    def turn_away(self, words: bytes = BUSY) -> None:
        """As the first backend."""
        with self.steps.taken(self.first) as session:
            session.sendall(words)
        self.steps.settle()

    def waiting(self, words: bytes = BUSY) -> socket.socket:
        """A client that was turned away by the first, and waits for the second."""
        before = self.steps.queued
        client = self.steps.client()
        self.turn_away(words)
        assert self.steps.queued == before + 1
        return client

    def greet(self, session: socket.socket, client: socket.socket) -> None:
        session.sendall(GREETING)
        assert self.heard(client, len(GREETING)) == GREETING

    def is_asked(self, server: socket.socket) -> bool:
        """Whether somebody connects there, after everything was done."""
        self.steps.settle()
        server.setblocking(False)
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def crowded(*, portable: bool = False, places: int = 0, **settings) -> Iterator[Crowded]:
    pool = {"greeting": "mysql", "greeting_timeout_s": 2.0, "strategy": "first", "queue_timeout_s": WAIT_S}
    with stepping(portable=portable, places={"a": places, "b": 1}, **(pool | settings)) as steps:
        yield Crowded(steps)


@PORTABLE
@pytest.mark.parametrize("words", [BUSY, BLOCKED], ids=["busy", "blocked"])
def test_whom_one_turns_away_waits_for_a_place_at_the_other(words, portable):
    with crowded(portable=portable) as at:
        client = at.waiting(words)
        at.steps.after(1)
        assert at.hears_nothing(client)
        assert not at.is_asked(at.first), "once is enough"
        at.holder.close()
        at.held.close()
        at.greet(at.steps.taken(at.second), client)
        assert at.steps.queued == 0
        assert (at.sessions_at(3), at.sessions_at(4)) == (0, 1)


def test_who_waits_keeps_no_place_where_it_was_turned_away():
    with crowded(places=2) as at:
        [at.waiting() for _ in range(3)]
        assert at.steps.queued == 3
        assert at.sessions_at(3) == 0


@PORTABLE
def test_when_the_time_is_over_it_asks_once_more_and_hears_the_no(portable):
    with crowded(portable=portable) as at:
        client = at.waiting()
        at.steps.after(WAIT_S)
        assert at.steps.queued == 0
        at.turn_away()
        assert at.heard(client, 1000) == BUSY
        client.close()
        at.steps.settle()
        assert at.steps.ends == ["backend_fin"]


def test_when_the_time_is_over_it_is_served_where_there_is_a_place_by_then():
    with crowded() as at:
        client = at.waiting()
        at.steps.after(WAIT_S)
        at.greet(at.steps.taken(at.first), client)


def test_when_nobody_even_answers_at_the_end_it_waited_for_a_place_in_vain():
    with crowded() as at:
        client = at.waiting()
        at.steps.after(WAIT_S)
        at.steps.taken(at.first)
        at.steps.after(2.2)
        assert at.steps.ends == ["queue_timeout"]
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@PORTABLE
def test_who_comes_later_asks_for_itself_and_may_have_more_luck(portable):
    """Who waits has asked; without this, a place at the first would stay empty as long as somebody waits."""
    with crowded(portable=portable) as at:
        waiting = at.waiting()
        later = at.steps.client()
        at.greet(at.steps.taken(at.first), later)
        assert at.steps.queued == 1
        assert at.hears_nothing(waiting)


def test_they_get_places_in_the_order_of_their_coming():
    with crowded() as at:
        early, late = at.waiting(), at.waiting()
        at.holder.close()
        at.held.close()
        session = at.steps.taken(at.second)
        at.greet(session, early)
        assert at.hears_nothing(late)
        early.close()
        session.close()
        at.greet(at.steps.taken(at.second), late)


def test_when_the_other_one_turns_it_away_as_well_it_hears_that():
    with crowded() as at:
        client = at.waiting()
        at.holder.close()
        at.held.close()
        with at.steps.taken(at.second) as session:
            session.sendall(BLOCKED)
        assert at.heard(client, 1000) == BLOCKED


def test_when_the_other_one_fails_it_asks_the_first_again():
    with crowded() as at:
        client = at.waiting()
        at.holder.close()
        at.held.close()
        at.steps.taken(at.second).close()
        at.turn_away()
        assert at.heard(client, 1000) == BUSY


def test_a_backend_that_comes_meanwhile_is_asked():
    with crowded() as at:
        client = at.waiting()
        third = at.steps.listen()
        at.steps.serve(at.first, at.second, third)
        at.steps.after(0.2)
        at.greet(at.steps.taken(third), client)


def test_who_has_not_asked_is_not_kept_waiting_by_those_who_have():
    with crowded(places=1) as at:
        waiting = at.waiting()
        lucky = at.steps.client()
        session = at.steps.taken(at.first)
        at.greet(session, lucky)
        late = at.steps.client()
        at.steps.settle()
        assert at.steps.queued == 2, "both backends are full now"
        lucky.close()
        session.close()
        at.greet(at.steps.taken(at.first), late)
        assert at.hears_nothing(waiting)


def test_a_crowd_that_waits_for_one_place_tries_once_for_all_of_them():
    """An end of a session must not cost as much as there are clients who wait."""
    with crowded() as at:
        for _ in range(5):
            at.waiting()
        tried = []
        pool = at.steps.worker.in_force.pools["p"]
        choose, pool.choose = pool.choose, lambda client: (tried.append(client), choose(client))[1]
        pool.wake()
        assert len(tried) == 1


@pytest.mark.parametrize("settings", [{"queue_timeout_s": 0.0}, {"retries": 0}], ids=["no queue", "no retry"])
def test_it_hears_the_no_at_once_where_it_is_not_to_wait_or_not_to_go_on(settings):
    with crowded() as at:
        at.steps.serve(at.first, at.second, **settings)
        client = at.steps.client()
        at.turn_away()
        assert at.heard(client, 1000) == BUSY


def test_it_makes_no_difference_that_the_full_one_was_passed_over_first():
    with crowded() as at:
        at.steps.serve(at.first, at.second, strategy="least_connections")
        other = at.steps.client()
        at.greet(at.steps.taken(at.first), other)
        clients = [at.waiting() for _ in range(4)]
        dials = [session.dial for session in at.steps.core.sessions.values() if session.dial is not None]
        assert {dial.waits_for for dial in dials} == {"every candidate is at its max_sessions"}
        assert not any(dial.is_starved for dial in dials)
        assert len(dials) == len(clients)


@PORTABLE
def test_a_client_of_postgresql_waits_too(portable):
    with crowded(portable=portable) as at:
        startup = pg_startup(user="u", database="d")
        at.steps.serve(at.first, at.second, greeting="postgresql")
        client = at.steps.client()
        client.sendall(startup)
        first = at.steps.taken(at.first)
        assert at.heard(first, len(startup)) == startup
        first.sendall(pg_error("53300", "too many"))
        assert at.hears_nothing(client)
        at.holder.close()
        at.held.close()
        session = at.steps.taken(at.second)
        assert at.heard(session, len(startup)) == startup
        session.sendall(PG_OK)
        assert at.heard(client, len(PG_OK)) == PG_OK
