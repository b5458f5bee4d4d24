"""The old program's JSON file, as it is: its strategies, its heartbeat, and its page of statistics."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack
from typing import Any

import pytest
from eventually import eventually
from traffic import Visit, ask

from ports import free_port


def old_file(nginxes, **settings: object) -> dict[str, Any]:
    return {
        "service": "web",
        "host": "127.0.0.1",
        "port": free_port(),
        "webport": free_port(),
        "strategy": "poll",
        "heartbeat": 1,
        "maxprocessor": 2,
        "backends": [{"host": "127.0.0.1", "port": server.port} for server in nginxes],
        **settings,
    }


def run_old(start, file: dict[str, Any]):
    balancer = start(json.dumps(file), file="config.json", patience=False)
    balancer.wait_until_serving()
    return balancer


def statistic(webport: int, accept: str) -> tuple[str, str]:
    """Ask the old page; return the media type and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", webport, timeout=30)
    try:
        connection.request("GET", "/statistic", headers={"Accept": accept})
        answer = connection.getresponse()
        assert answer.status == 200
        return answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


def states(webport: int) -> dict[str, bool]:
    _, body = statistic(webport, "application/json")
    return {each["address"]: each["on"] for each in json.loads(body)["backends"]}


def test_poll_takes_the_backends_in_turn(start, nginxes):
    file = old_file(nginxes)
    balancer = run_old(start, file)
    assert len(balancer.workers()) == 2
    answers = [ask(file["port"]) for _ in range(12)]
    assert answers == answers[:3] * 4
    assert sorted(answers[:3]) == ["a", "b", "c"]


def test_random_takes_every_backend_now_and_then(start, nginxes):
    file = old_file(nginxes, strategy="random")
    run_old(start, file)
    answers = [ask(file["port"]) for _ in range(120)]
    # Each is missed by all 120 with a chance of (2/3)^120.
    assert set(answers) == {"a", "b", "c"}
    assert answers != answers[:3] * 40


def test_iphash_keeps_a_client_on_its_backend(start, nginxes):
    file = old_file(nginxes, strategy="iphash")
    run_old(start, file)
    of_client = {}
    for number in range(1, 41):
        source = f"127.0.1.{number}"
        answers = {ask(file["port"], source=source) for _ in range(3)}
        assert len(answers) == 1, source
        of_client[source] = answers.pop()
    assert set(of_client.values()) == {"a", "b", "c"}


@pytest.mark.parametrize("accept", ["application/json", "text/html", "*/*"])
def test_statistic_shows_backends_and_clients(start, nginxes, accept):
    file = old_file(nginxes)
    run_old(start, file)
    with ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
            stack.enter_context(Visit(file["port"], source=source)).ask()
        kind, body = statistic(file["webport"], accept)
    if accept == "application/json":
        assert kind.startswith("application/json")
        found = json.loads(body)
        assert found["backends"] == [{"address": each.address, "sessions": 1, "on": True} for each in nginxes]
        clients = {each["address"]: each["sessions"] for each in found["clients"]}
        assert clients == {"127.0.0.1": 2, "127.0.0.2": 1}
    else:
        assert kind.startswith("text/html")
        for text in ("127.0.0.1", "127.0.0.2", ">on<", *(each.address for each in nginxes)):
            assert text in body


def test_the_heartbeat_drops_and_restores_a_backend(start, nginxes):
    file = old_file(nginxes)
    run_old(start, file)
    assert set(states(file["webport"]).values()) == {True}
    nginxes[1].kill()
    eventually(lambda: states(file["webport"])[nginxes[1].address] is False, "the heartbeat drops it")
    assert {ask(file["port"]) for _ in range(6)} == {"a", "c"}
    nginxes[1].start()
    eventually(lambda: states(file["webport"])[nginxes[1].address], "the heartbeat restores it")
    assert {ask(file["port"]) for _ in range(6)} == {"a", "b", "c"}
