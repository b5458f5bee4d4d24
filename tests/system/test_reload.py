"""SIGHUP: a wrong file changes nothing, a right one changes everything but the sessions that are under way."""

from __future__ import annotations

import re

import pytest
from eventually import eventually
from proxy import QUICK, pool, simple
from traffic import Visit, Wrk, ask

from ports import free_port

CHECK = {"type": "tcp", **QUICK}

WRONG = """\
listeners:
  - bind: 127.0.0.1:{port}
    pool: nosuch
    idle_timeout: 30
pools:
  p:
    strategy: rond_robin
    retrys: 2
    backends:
      - 127.0.0.1:99999
workers: 2
"""


def test_an_invalid_file_changes_nothing_and_every_error_is_told_with_its_place(start, nginxes):
    """Behaviour 31."""
    balancer = start(simple(*nginxes))
    port = balancer.port()
    before = {name: each["address"] for name, each in balancer.backends().items()}
    with Visit(port) as visit:
        name = visit.ask()
        with Wrk(port, connections=10, close=True) as wrk:
            told = balancer.reload(WRONG.format(port=port), answer="127.0.0.1:99999")
            assert "reload refused, nothing has changed" in told
            for line, thing in (
                (3, "nosuch"),
                (4, "idle_timeout"),
                (7, "rond_robin"),
                (8, "retrys"),
                (10, "99999"),
            ):
                assert re.search(rf"easyproxy\.yaml:{line}:\d+: .*{thing}", told), (line, thing, told)
            flows = sum(balancer.totals().values())
            eventually(lambda: sum(balancer.totals().values()) > flows + 200, "traffic goes on")
        assert wrk.load.failed == 0, wrk.load
        assert visit.ask() == name
    assert {name: each["address"] for name, each in balancer.backends().items()} == before
    assert balancer.status()["pools"][0]["strategy"] == "round_robin"
    # And the way back is open.
    balancer.reload(simple(*nginxes, strategy="random"))
    assert balancer.status()["pools"][0]["strategy"] == "random"


@pytest.mark.parametrize(
    "text", ["", "listeners: [", "\x00", "- a\n- b\n"], ids=["empty", "cut", "nul", "list"]
)
def test_a_file_that_is_not_even_one_is_refused(start, nginxes, text):
    """Behaviour 31."""
    balancer = start(simple(*nginxes))
    balancer.reload(text, answer="reload refused, nothing has changed")
    assert {ask(balancer.port()) for _ in range(3)} == {"a", "b", "c"}


def test_a_file_that_has_gone_is_refused(start, nginxes):
    """Behaviour 31."""
    balancer = start(simple(*nginxes))
    balancer.file.unlink()
    balancer.program.send(1)
    eventually(lambda: "reload refused" in balancer.log(), "the log says so")
    assert {ask(balancer.port()) for _ in range(3)} == {"a", "b", "c"}


def test_a_listener_that_cannot_be_opened_refuses_the_whole_file(start, nginxes):
    """Behaviour 31: what only the system can tell is as all-or-nothing as the rest."""
    balancer = start(simple(*nginxes))
    other = start(simple(*nginxes))
    config = simple(nginxes[0], strategy="random")
    taken = other.port()
    config["listeners"].append({"bind": f"127.0.0.1:{taken}", "pool": "p", "name": "taken"})
    told = balancer.reload(config, answer="reload refused, nothing has changed")
    assert str(taken) in told
    assert {ask(balancer.port()) for _ in range(3)} == {"a", "b", "c"}
    assert [each["name"] for each in balancer.status()["listeners"]] == ["l"]
    assert {ask(taken) for _ in range(3)} == {"a", "b", "c"}


def test_a_valid_file_changes_backends_strategy_and_listeners_under_traffic(start, nginxes):
    """Behaviours 29, 30 and 31."""
    a, b, c = nginxes
    ports = {name: free_port() for name in ("stays", "goes", "comes")}

    def listening(*names: str) -> list[dict[str, object]]:
        return [{"bind": f"127.0.0.1:{ports[name]}", "name": name, "pool": "p"} for name in names]

    first = {"listeners": listening("stays", "goes"), "pools": {"p": pool(a, b, check=CHECK)}}
    second = {
        "listeners": listening("stays", "comes"),
        "pools": {"p": pool(b, c, check=CHECK, strategy="least_connections")},
    }
    balancer = start(first)
    with Visit(ports["stays"]) as one, Visit(ports["stays"]) as two, Visit(ports["goes"]) as three:
        names = [visit.ask() for visit in (one, two, three)]
        assert set(names) == {"a", "b"}
        with Wrk(ports["stays"], connections=10, close=True) as wrk:
            for config, backends in ((second, {"b", "c"}), (first, {"a", "b"}), (second, {"b", "c"})):
                balancer.reload(config)
                assert set(balancer.backends()) == backends
                eventually(lambda: all(balancer.totals().values()), "every backend gets its share")
        assert wrk.load.failed == 0, wrk.load
        assert balancer.status()["pools"][0]["strategy"] == "least_connections"
        assert ask(ports["comes"]) in {"b", "c"}
        with pytest.raises(ConnectionRefusedError):
            ask(ports["goes"])
        # The session of the listener that has gone, and those of a backend that has gone, are still where they were.
        assert [visit.ask() for visit in (one, two, three)] == names


def test_many_reloads_in_a_row_lose_no_client(start, nginxes):
    """Behaviour 29, on the real program: 60 of the 1,000 that the conformance suite does."""
    a, b, c = nginxes
    balancer = start(simple(a, b, c))
    with Visit(balancer.port()) as visit, Wrk(balancer.port(), connections=8, close=True) as wrk:
        name = visit.ask()
        for number in range(60):
            balancer.reload(simple(*((a, b, c) if number % 2 else (c, a)), retries=number % 3))
        assert visit.ask() == name
    assert wrk.load.failed == 0, wrk.load
    assert balancer.status()["worker_restarts"] == 0
