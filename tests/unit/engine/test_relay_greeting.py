"""Who speaks first is learned, so that the end of a handshake can go with a client's first bytes, and never waits in vain."""

from __future__ import annotations

import contextlib
import socket

from relay_steps import Steps, stepping

from easyproxy.engine.relay.dial import EARLY_IS_WORTH, LOOK_EVERY, MOST_EARLY
from easyproxy.engine.relay.session import Session


@contextlib.contextmanager
def session_of(steps: Steps, words: bytes):
    """A session whose client has said something, or nothing, before the worker looks at it."""
    with socket.create_connection(steps.front.getsockname(), 20) as client:
        client.sendall(words)
        known = set(steps.core.sessions)
        steps.until(lambda: set(steps.core.sessions) - known)
        session = steps.core.sessions[max(steps.core.sessions)]
        steps.until(lambda: session.dial is None)
        yield client, session


def early_of(session: Session) -> int:
    return session.listener.pool.early


def served(steps: Steps, words: bytes) -> int:
    """Serve one session; return what is known after it."""
    with session_of(steps, words) as (client, session):
        steps.settle()
        backend, _ = steps.server.accept()
        with backend:
            backend.settimeout(20)
            assert not words or backend.recv(100) == words
        client.close()
        steps.settle()
        return early_of(session)


def test_a_pool_whose_clients_speak_first_is_known_after_one_of_them_and_known_better_after_more():
    with stepping() as steps:
        assert served(steps, b"hello") == EARLY_IS_WORTH
        for _ in range(MOST_EARLY):
            known = served(steps, b"hello")
        assert known == MOST_EARLY


def test_a_client_that_says_nothing_waits_for_no_acknowledgement():
    """Behaviour 1: a server that greets must hear of its client at once, whatever the clients before it did."""
    with stepping() as steps:
        assert served(steps, b"hello") > 0
        with session_of(steps, b"") as (client, session):
            assert steps.core.greeted == [(session, True)], "the acknowledgement is held"
            steps.step()
            steps.server.setblocking(False)
            backend, _ = steps.server.accept()  # only an acknowledged connection can be accepted
            with backend:
                backend.sendall(b"220 at your service")
                steps.settle()
                client.settimeout(20)
                assert client.recv(100) == b"220 at your service"
        assert early_of(session) == EARLY_IS_WORTH - 1


def test_where_servers_speak_first_nothing_is_held_and_only_a_few_sessions_are_looked_at():
    with stepping() as steps:
        looked_at = 0
        for _ in range(2 * LOOK_EVERY):
            with session_of(steps, b"") as (_, session):
                assert (session, True) not in steps.core.greeted
                looked_at += (session, False) in steps.core.greeted
                steps.settle()
                steps.server.accept()[0].close()
            steps.settle()
        assert early_of(session) <= 0
        assert looked_at == 2


def test_a_session_that_ended_meanwhile_teaches_nothing():
    with stepping() as steps:
        assert served(steps, b"hello") == EARLY_IS_WORTH
        with session_of(steps, b"") as (_, session):
            steps.obey(
                {
                    "op": "close",
                    "request": 1,
                    "where": {"backend": "", "client": "", "listener": "", "id": ""},
                    "reason": "operator",
                }
            )
            while steps.worker._jobs:
                steps.worker._work()
            steps.settle()
        assert early_of(session) == EARLY_IS_WORTH
