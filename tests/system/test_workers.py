"""A worker that is killed: who is lost, who is not, and who waits for its successor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import ExitStack

from eventually import eventually
from proxy import command, simple
from traffic import Visit, Wrk, ask, is_served


def test_a_killed_worker_costs_its_own_sessions_and_no_others(start, nginxes):
    """Behaviour 32."""
    balancer = start(simple(*nginxes))
    port = balancer.port()
    assert not balancer.sessions(), "every worker has answered, so it accepts"
    with ExitStack() as stack:
        visits = {}
        for _ in range(40):
            visit = stack.enter_context(Visit(port))
            visits[visit.local] = (visit, visit.ask())
        worker_of = {each["client"]: each["worker"] for each in balancer.sessions()}
        assert worker_of.keys() == visits.keys()
        assert set(worker_of.values()) == {0, 1}, "the kernel spreads clients over the workers"
        victim, other = balancer.workers()
        os.kill(victim, signal.SIGKILL)
        told = eventually(
            lambda: re.search(rf"relay worker (\d) \(pid {victim}\) was ended by signal 9", balancer.log()),
            "the log tells of its end",
        )
        lost = int(told[1])
        for local, (visit, name) in visits.items():
            if worker_of[local] == lost:
                assert not visit.is_alive(), local
            else:
                assert visit.ask() == name
        eventually(lambda: len(balancer.workers()) == 2, "there is a successor")
        assert other in balancer.workers()
        # The counters know only of the living: nothing of the dead worker's is left in them.
        living = list(worker_of.values()).count(1 - lost)
        assert sum(balancer.live().values()) == living
        assert balancer.status()["listeners"][0]["counters"]["sessions"] == living
        assert balancer.status()["worker_restarts"] == 1
        assert [ask(port) for _ in range(40)].count("b") in range(13, 15), (
            "the successor chooses in turn, too"
        )


def test_clients_that_wait_for_a_killed_worker_are_served_by_its_successor(start, nginxes):
    """Behaviour 32."""
    balancer = start(simple(*nginxes))
    port = balancer.port()
    victims = balancer.workers()
    for victim in victims:
        os.kill(victim, signal.SIGSTOP)  # whoever comes now waits in a backlog
    with ExitStack() as stack:
        waiting = [stack.enter_context(Visit(port)) for _ in range(30)]
        for visit in waiting:
            visit.send()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        assert {visit.receive() for visit in waiting} == {"a", "b", "c"}
        assert [visit.ask() for visit in waiting]
    eventually(lambda: balancer.status()["worker_restarts"] == 2, "both were replaced")


def test_under_traffic_a_killed_worker_costs_what_was_in_flight_in_it(start, nginxes):
    """Behaviour 32."""
    balancer = start(simple(*nginxes))
    with Wrk(balancer.port(), connections=20, close=True) as wrk:
        for round_ in (1, 2, 3):
            goal = sum(balancer.totals().values()) + 300
            eventually(lambda goal=goal: sum(balancer.totals().values()) > goal, "traffic flows")
            os.kill(balancer.workers()[0], signal.SIGKILL)
            eventually(lambda n=round_: balancer.status()["worker_restarts"] == n, "the loss is known")
            eventually(lambda: len(balancer.workers()) == 2, "there is a successor")
        goal = sum(balancer.totals().values()) + 300
        eventually(lambda: sum(balancer.totals().values()) > goal, "traffic goes on")
    # One request on each of wrk's connections, at most, for each worker that was killed.
    assert wrk.load.failed <= 3 * 20, wrk.load
    assert wrk.load.connect == 0, wrk.load
    balancer.wait_for_no_sessions()


def test_max_sessions_holds_after_a_worker_died_with_places_taken(start, nginxes):
    """Behaviours 18 and 32: places of the dead are free again, and no more than that."""
    config = simple(*nginxes)
    config["listeners"][0] |= {"max_sessions": 10, "overload": "refuse"}
    balancer = start(config)
    port = balancer.port()
    with ExitStack() as stack:
        first = [stack.enter_context(Visit(port)) for _ in range(10)]
        for visit in first:
            visit.ask()
        assert not is_served(port), "the eleventh is refused"
        os.kill(balancer.workers()[0], signal.SIGKILL)
        eventually(lambda: balancer.status()["worker_restarts"] == 1, "the loss is known")
        left = [visit for visit in first if visit.is_alive()]
        counters = balancer.status()["listeners"][0]["counters"]
        assert counters["sessions"] == len(left)
        more = [stack.enter_context(Visit(port)) for _ in range(10 - len(left))]
        assert all(visit.is_alive() for visit in more)
        assert not is_served(port), "and then no more"


def test_a_worker_that_is_stopped_is_told_of_and_keeps_nobody_waiting(start, nginxes):
    """Commands answer with what the others know, once it has been waited for; when it goes on, all is as before."""
    balancer = start(simple(*nginxes))
    stopped = balancer.workers()[0]
    with ExitStack() as stack:
        visits = [stack.enter_context(Visit(balancer.port())) for _ in range(20)]
        names = [visit.ask() for visit in visits]
        os.kill(stopped, signal.SIGSTOP)
        try:
            theirs = len(balancer.sessions())
            assert theirs < 20, "the stopped one has some of them"
            assert f"(pid {stopped}) does not answer" in balancer.log()
            assert balancer.status()["workers"] == 1
            told = subprocess.run(
                command("status", "--admin", str(balancer.admin)),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (told.returncode, told.stderr) == (0, "")
            assert "1 worker" in told.stdout
        finally:
            os.kill(stopped, signal.SIGCONT)
        assert eventually(lambda: len(balancer.sessions()) == 20, "all are listed again")
        assert f"(pid {stopped}) answers again" in balancer.log()
        assert balancer.status()["workers"] == 2
        assert [visit.ask() for visit in visits] == names
