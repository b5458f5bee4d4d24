"""Backends that die, return, or were never there: what clients notice, and what the status says."""

from __future__ import annotations

import http.client
import subprocess
from contextlib import ExitStack

import pytest
from eventually import eventually
from proxy import PATIENT, QUICK, simple
from traffic import Visit, Wrk, ask

from ports import free_port
from programs import find

HTTP = {"type": "http", "path": "/health", **PATIENT}


def shares(balancer, clients: int) -> dict[str, int]:
    """Let so many clients come, one after the other; return how many each backend answered."""
    answers = [ask(balancer.port()) for _ in range(clients)]
    return {name: answers.count(name) for name in balancer.backends()}


@pytest.mark.parametrize("check", [{"type": "tcp", **QUICK}, HTTP], ids=["tcp", "http"])
def test_a_backend_killed_under_keep_alive_costs_only_what_was_in_flight_on_it(start, nginxes, check):
    """Behaviours 23 and 24."""
    balancer = start(simple(*nginxes, check=check))
    with Wrk(balancer.port(), connections=30) as wrk:
        eventually(lambda: sum(balancer.live().values()) == 30, "wrk has all its connections")
        at_stake, before = balancer.live()["b"], balancer.totals()
        nginxes[1].kill()
        balancer.wait_for_state("b", "down")
        after = balancer.totals()["b"]
        eventually(
            lambda: sum(balancer.totals().values()) >= sum(before.values()) + at_stake,
            "wrk has connected again",
        )
        assert balancer.totals()["b"] == after
        nginxes[1].start()
        balancer.wait_for_state("b", "ready")
    assert at_stake == 10
    # A process that dies closes its sessions before the socket where its system still accepts others.
    assert wrk.load.failed <= at_stake + after - before["b"], wrk.load
    assert wrk.load.requests > 0
    assert shares(balancer, 30) == {"a": 10, "b": 10, "c": 10}


def test_a_backend_killed_under_new_connections_costs_only_what_was_in_flight_on_it(start, nginxes):
    """Behaviours 23 and 24: refused connects go to the next backend and count as observations."""
    # Probed once a minute: only the clients' own connects can tell in time.
    slow = {"type": "tcp", "interval": "1m", "fast_interval": "100ms", "timeout": "1s", "fall": 3, "rise": 2}
    balancer = start(simple(*nginxes, check=slow))
    with Wrk(balancer.port(), connections=12, close=True) as wrk:
        eventually(lambda: sum(balancer.totals().values()) > 100, "traffic flows")
        nginxes[1].kill()
        balancer.wait_for_state("b", "down")
        reached = balancer.totals()["b"]
        goal = sum(balancer.totals().values()) + 300
        eventually(lambda: sum(balancer.totals().values()) > goal, "traffic goes on")
        assert balancer.totals()["b"] == reached, "no new session after the verdict, in any worker"
    # Each of wrk's connections has one request in flight, at most, when the backend dies, and may meet it once more: a
    # process that dies closes its sessions before the socket where its system still accepts others.
    assert wrk.load.failed <= 2 * 12, wrk.load
    assert "refused" in balancer.backends()["b"]["last_error"].lower()


def test_a_backend_that_returns_gets_its_share_again_under_traffic(start, nginxes):
    """Behaviour 23, the way back."""
    balancer = start(simple(*nginxes))
    nginxes[2].kill()
    balancer.wait_for_state("c", "down")
    with Wrk(balancer.port(), connections=8, close=True) as wrk:
        eventually(lambda: sum(balancer.totals().values()) > 100, "traffic flows")
        nginxes[2].start()
        balancer.wait_for_state("c", "ready")
        before = balancer.totals()
        eventually(lambda: sum(balancer.totals().values()) > sum(before.values()) + 600, "traffic goes on")
        grown = {name: total - before[name] for name, total in balancer.totals().items()}
    assert wrk.load.failed == 0, wrk.load
    # The counters are read one after the other while traffic flows.
    assert all(abs(3 * growth / sum(grown.values()) - 1) < 0.2 for growth in grown.values()), grown


def test_the_first_probe_decides_before_the_first_client(start, nginxes):
    """Behaviour 25: with no second attempt allowed, one session on the dead backend would be a failed request."""
    port = free_port()
    dead = {"name": "dead", "address": f"127.0.0.1:{free_port()}"}
    balancer = start(
        simple(dead, *nginxes, bind=f"127.0.0.1:{port}", retries=0, check={"type": "tcp"}), patience=False
    )

    def first() -> str:
        try:
            return ask(port)
        except ConnectionRefusedError:
            assert balancer.program.process.poll() is None, balancer.log()
            return ""

    answers = [eventually(first, "clients are accepted"), *(ask(port) for _ in range(20))]
    assert set(answers) == {"a", "b", "c"}
    balancer.wait_until_serving()
    found = balancer.backends()["dead"]
    assert found["state"] == "down"
    assert found["counters"] | {"sessions": 0} == dict.fromkeys(found["counters"], 0)


@pytest.mark.parametrize("closes", [True, False])
def test_close_sessions_on_down(start, nginxes, closes):
    """Behaviour 28, both ways: nginx lives on, but says that it is not well."""
    sick = nginxes[1]
    balancer = start(simple(*nginxes, check=HTTP, close_sessions_on_down=closes))
    with ExitStack() as stack:
        visits: dict[str, list[Visit]] = {"a": [], "b": [], "c": []}
        for _ in range(12):
            visit = stack.enter_context(Visit(balancer.port()))
            visits[visit.ask()].append(visit)
        assert [len(group) for group in visits.values()] == [4, 4, 4]
        (sick.files / "health").unlink()
        balancer.wait_for_state("b", "down")
        if closes:
            eventually(
                lambda: balancer.backends()["b"]["counters"]["sessions"] == 0, "b's sessions are closed"
            )
            for visit in visits["b"]:
                with pytest.raises((OSError, http.client.HTTPException)):
                    visit.ask()
            eventually(lambda: not established(sick.port), "nginx sees their end too")
            assert balancer.status()["ends"]["backend_down"] == 4
        for name in ("a", "c") if closes else ("a", "b", "c"):
            assert [visit.ask() for visit in visits[name]] == [name] * 4
        assert shares(balancer, 4) == {"a": 2, "b": 0, "c": 2}


def established(port: int) -> str:
    """List the connections that a server holds; probes come and go among them."""
    return subprocess.run(
        [find("ss"), "-tnH", "state", "established", f"( sport = :{port} )"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
