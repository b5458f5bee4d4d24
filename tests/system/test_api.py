"""The API of the running program, with real servers behind it and clients of every kind in front."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
from pathlib import Path

import pytest
from eventually import eventually
from proxy import simple
from traffic import Visit, Wrk, ask

from easyproxy.cli.client import NoAnswerError, RefusedError, TokenError, fetch, follow, post
from easyproxy.model import Address
from ports import free_port

TOKEN = "the-token-of-this-test-only"  # noqa: S105 - it guards a test
HEAD = f"GET /api/stream HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"


def test_what_happens_is_told_as_it_happens_with_its_author_and_cause(start, nginxes):
    balancer = start(simple(*nginxes))
    with contextlib.closing(follow(balancer.admin, "/api/stream")) as rows:
        assert next(rows)[0] == "status"
        post(balancer.admin, "/api/drain", {"backend": "p/a", "who": "ann", "why": "kernel"})
        nginxes[1].kill()
        told, states = {}, {}
        while not {"override_set", "backend_down"} <= told.keys() or states != {"a": "draining", "b": "down"}:
            kind, data = next(rows)
            if kind == "event":
                told[data["kind"]] = data
            else:
                backends = data["pools"][0]["backends"]
                states = {one["name"]: one["state"] for one in backends if one["state"] != "ready"}
    assert told["override_set"]["author"] == {"who": "ann", "why": "kernel"}
    assert (told["backend_down"]["subject"], told["backend_down"]["author"]) == ("p/b", None)
    # Who was away for all of it asks with the id of the event before, and gets the same.
    before = f"{told['override_set']['id'] - 1}"
    with contextlib.closing(follow(balancer.admin, "/api/stream", last_id=before)) as rows:
        missed = [data for kind, data in (next(rows) for _ in range(3)) if kind == "event"]
    assert told["override_set"] in missed
    assert {ask(balancer.port()) for _ in range(3)} == {"c"}


@pytest.fixture
def guarded(start, nginxes):
    """A balancer whose admin server has a token and a further name, and its address."""
    address = Address("127.0.0.1", free_port())
    admin = {"bind": str(address), "token": TOKEN, "hosts": ["lb.example.org"]}
    balancer = start({**simple(*nginxes), "admin": admin}, patience=False)
    balancer.program.wait_until(lambda: "serving" in balancer.log(), "it serves")
    return balancer, address


def test_the_token_opens_everything_and_stands_nowhere(guarded):
    """Behaviour 37."""
    balancer, address = guarded
    for token in (None, "x" * 20):
        with pytest.raises(TokenError):
            post(address, "/api/drain", {"backend": "p/a"}, token)
    assert fetch(address, "/api/overrides", TOKEN) == []
    assert post(address, "/api/drain", {"backend": "p/a"}, TOKEN)["backend"] == "p/a"
    with pytest.raises(RefusedError):
        post(address, "/api/plan", {"text": f"admin: {{token: {TOKEN}, x: 1}}"}, TOKEN)
    answers = [
        get(address, path) for path in ("/api/config", "/api/events", "/debug", "/metrics", "/api/status")
    ]
    assert [status for status, _ in answers] == [200] * 5
    assert all(TOKEN not in text for _, text in answers)
    assert TOKEN not in balancer.log()


def get(address, path, host="localhost"):
    connection = http.client.HTTPConnection(address.host, address.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": host, "Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def answered(address: Address) -> int:
    """How many bytes the backends have sent so far."""
    [pool] = fetch(address, "/api/pools", TOKEN)
    return sum(each["counters"]["bytes_from_backend"] for each in pool["backends"])


def test_a_name_of_the_file_is_a_host_and_another_is_not(guarded):
    """Behaviour 37."""
    _, address = guarded
    assert get(address, "/api/status", "lb.example.org:443")[0] == 200
    assert get(address, "/api/status", "lb.example.com")[0] == 403


def test_a_thousand_idle_slow_and_greedy_admin_clients_are_bounded_and_traffic_does_not_notice(guarded):
    """Behaviour 39."""
    balancer, address = guarded
    port = Address.parse(fetch(address, "/api/listeners", TOKEN)[0]["address"]).port
    visit = Visit(port)
    assert visit.ask()
    sent = [b"", b"GET /api/sta", HEAD.encode(), HEAD.replace("stream", "status").encode() * 50]
    clients = []
    with Wrk(port) as wrk:
        eventually(lambda: answered(address) > 10_000, "wrk is at work")
        for number in range(1000):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.settimeout(30)
            with contextlib.suppress(OSError):  # those above the limit are reset, some while they send
                one.connect((address.host, address.port))
                one.sendall(sent[number % len(sent)])
            clients.append(one)
        held = len(list(Path(f"/proc/{balancer.program.pid}/fd").iterdir()))
        assert ask(port)
    assert (wrk.load.failed, wrk.load.requests > 0) == (0, True)
    assert held < 128 + 200, "connections above the limit are closed"
    assert visit.ask(), "an established session has not noticed either"
    for one in clients:
        one.close()

    def is_served() -> bool:
        with contextlib.suppress(NoAnswerError):
            return bool(fetch(address, "/api/status", TOKEN))
        return False

    eventually(is_served, "an operator is served again")
    visit.close()


def test_while_it_drains_it_is_not_ready_and_a_stream_ends_with_the_program(start, nginxes):
    balancer = start(simple(*nginxes))
    visit = Visit(balancer.port())
    assert visit.ask()
    rows = follow(balancer.admin, "/api/stream")
    assert next(rows)[0] == "status"
    balancer.program.send(signal.SIGTERM)
    while True:
        kind, data = next(rows)
        if kind == "status" and data["is_draining"]:
            break
    with pytest.raises(NoAnswerError, match="answered 503"):
        fetch(balancer.admin, "/readyz")
    visit.close()
    with pytest.raises(NoAnswerError, match="has ended the stream"):
        list(rows)
    assert balancer.program.ended() == 0
