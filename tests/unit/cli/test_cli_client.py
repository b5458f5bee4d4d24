from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from easyproxy.cli import client
from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, fetch, follow, post
from easyproxy.control.events import Kind
from easyproxy.model import Address

TOKEN = "a-long-and-secret-token"  # noqa: S105 - it guards a test


def test_a_change_is_posted_and_answered(serve, scene):
    address = serve()
    assert post(address, "/api/drain", {"backend": "web/a", "who": "ann"})["action"] == "drain"
    assert [author.who for _, author in scene.calls] == ["ann"]


def test_a_refusal_says_why_in_the_words_of_the_balancer(serve):
    address = serve()
    with pytest.raises(RefusedError, match="there is no backend web/x") as raised:
        post(address, "/api/drain", {"backend": "web/x"})
    assert raised.value.status == 404
    with pytest.raises(RefusedError, match="say which sessions"):
        post(address, "/api/close", {})


def test_a_refusal_has_every_problem_on_a_line(serve):
    with pytest.raises(RefusedError) as raised:
        post(serve(), "/api/plan", {"text": "listeners: 3\npools: {p: {retrys: 1}}\n"})
    assert raised.value.status == 422
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + len(raised.value.problems) > 2
    assert any("listeners: " in line for line in lines[1:])


def test_a_missing_and_a_wrong_token_are_told_apart(serve):
    address = serve(token=TOKEN)
    for token, words in ((None, "asks for a token"), ("x" * 20, "does not accept this token")):
        for ask in (
            lambda: fetch(address, "/api/status", token),  # noqa: B023 - called at once
            lambda: post(address, "/api/ready", {"backend": "web/a"}, token),  # noqa: B023
            lambda: next(follow(address, "/api/stream", token)),  # noqa: B023
        ):
            with pytest.raises(TokenError, match=words):
                ask()


def test_a_stream_yields_what_happens_and_can_be_taken_up_again(serve, scene, tmp_path):
    scene.happened.add(Kind.TROUBLE, "web/a", "ä < b")  # before a server's thread listens for it
    for address in (serve(), serve(Address(path=str(tmp_path / "admin.sock")))):
        with contextlib.closing(follow(address, "/api/stream", last_id="0-0")) as rows:
            found = {}
            while len(found) < 2:
                kind, data = next(rows)
                found[kind] = data
        assert found["event"]["text"] == "ä < b"
        assert found["status"]["headline"]["level"] == "ok"


def test_the_end_of_a_stream_is_told(serve, scene):
    rows = follow(serve(), "/api/stream")
    assert next(rows)[0] == "status"
    scene.status = None  # a mistake of the balancer ends it
    with pytest.raises(NoAnswerError, match="has ended the stream"):
        list(rows)


@contextlib.contextmanager
def stranger(*answers: bytes):
    """Some other server, with an answer for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            for body in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(body)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # closing over unread bytes would be a reset
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        yield Address("127.0.0.1", listening.getsockname()[1])
        thread.join()


def test_what_is_not_the_balancer_is_told():
    answers = (
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.0 404 No\r\n\r\n<html>\n <b>No</b>",
        b"SSH-2.0\r\n",
        b"",
    )
    with stranger(*answers) as address:
        for words in (
            "is not EasyProxy",
            r"answered 404 \(<html> <b>No</b>\)",
            "is not EasyProxy",
            "has not answered",
        ):
            with pytest.raises(NoAnswerError, match=words):
                post(address, "/api/drain", {})


def test_who_listens_and_is_silent_is_not_to_be_started_once_more(monkeypatch):
    monkeypatch.setattr(client, "_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        with pytest.raises(NoAnswerError, match=r"in time; the balancer may hang \(its log says more\)"):
            fetch(address, "/api/status")


def test_a_change_that_is_not_answered_may_have_been_made():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = Address("127.0.0.1", listening.getsockname()[1])

        def hang_up():
            connection, _ = listening.accept()
            with connection:
                while b"}" not in connection.recv(65536):
                    pass

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(NoAnswerError, match="whether it has done what was asked is not known"):
            post(address, "/api/drain", {"backend": "web/a"})
        thread.join()
    with pytest.raises(NoAnswerError, match="no balancer answers"):
        post(address, "/api/drain", {"backend": "web/a"})


def test_a_stream_of_something_else_is_told():
    with (
        stranger(b"HTTP/1.0 200 OK\r\n\r\ndata: tick\r\n\r\n") as address,
        pytest.raises(NoAnswerError, match="is not EasyProxy"),
    ):
        next(follow(address, "/api/stream"))
