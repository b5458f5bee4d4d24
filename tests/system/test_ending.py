"""How the program ends: drained, at the deadline, at once, or killed; and what its sessions see of it."""

from __future__ import annotations

import http.client
import signal

import pytest
from eventually import eventually
from proxy import name_of, simple
from traffic import Visit, ask

from ports import free_port


def refuses(port: int) -> bool:
    """Whether new clients are refused. One that comes while the sockets close may still be reset (tcp_migrate_req)."""
    try:
        ask(port)
    except ConnectionRefusedError:
        return True
    except (OSError, http.client.HTTPException):
        return False
    return False


def test_sigterm_lets_established_sessions_live_and_takes_no_new_ones(start, nginxes):
    """Behaviours 34 and 35."""
    balancer = start({**simple(*nginxes), "drain_timeout": "10m"})
    port = balancer.port()
    with Visit(port) as one, Visit(port) as two:
        names = [one.ask(), two.ask()]
        balancer.program.send(signal.SIGTERM)
        eventually(lambda: refuses(port), "new clients are refused")
        for _ in range(5):
            assert [one.ask(), two.ask()] == names
        one.close()
        assert two.ask() == names[1]
        assert balancer.program.process.poll() is None
    # The last session has ended, and with it the program.
    assert balancer.program.ended() == 0
    assert "ended" in balancer.log()


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGHUP])
def test_what_comes_too_late_is_told(start, nginxes, number):
    balancer = start({**simple(*nginxes), "drain_timeout": "10m"})
    port = balancer.port()
    with Visit(port) as visit:
        visit.ask()
        balancer.program.send(signal.SIGTERM)
        eventually(lambda: refuses(port), "new clients are refused")
        balancer.program.send(number)
        eventually(lambda: f"{number.name} is ignored" in balancer.log(), "the log tells of it")
    assert balancer.program.ended() == 0


def test_sigterm_without_sessions_ends_at_once_and_frees_the_port(start, nginxes):
    """Behaviour 35."""
    port = free_port()
    balancer = start({**simple(*nginxes, bind=f"127.0.0.1:{port}"), "drain_timeout": "10m"})
    workers = balancer.workers()
    balancer.program.send(signal.SIGTERM)
    assert balancer.program.ended() == 0
    assert not any(name_of(pid) for pid in workers)
    assert ask(start(simple(*nginxes, bind=f"127.0.0.1:{port}")).port()) == "a"


def test_at_the_deadline_sessions_are_closed(start, nginxes):
    """Behaviour 34."""
    balancer = start({**simple(*nginxes), "drain_timeout": "1s"})
    with Visit(balancer.port()) as visit:
        visit.ask()
        balancer.program.send(signal.SIGTERM)
        assert balancer.program.ended() == 0
        assert not visit.is_alive()
    assert "reason=drained" in balancer.log(), "a session that was broken off is in the log with its reason"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "ctrl-c"])
def test_a_second_signal_ends_at_once(start, nginxes, number):
    """Behaviour 35."""
    balancer = start({**simple(*nginxes), "drain_timeout": "10m"})
    workers = balancer.workers()
    with Visit(balancer.port()) as visit:
        visit.ask()
        balancer.program.send(number)
        eventually(lambda: "draining" in balancer.log(), "it drains")
        assert visit.is_alive()
        balancer.program.send(number)
        assert balancer.program.ended() == 0
        assert not visit.is_alive()
    assert not any(name_of(pid) for pid in workers)


def test_without_its_control_process_a_worker_lets_sessions_end_and_goes(start, nginxes):
    port = free_port()
    balancer = start({**simple(*nginxes, bind=f"127.0.0.1:{port}"), "drain_timeout": "10m"})
    workers = eventually(lambda: pids if len(pids := balancer.workers()) == 2 else [], "both have started")
    with Visit(port) as visit:
        name = visit.ask()
        balancer.program.kill()
        eventually(lambda: refuses(port), "the port is free")
        assert visit.ask() == name
        # A successor takes the address over while the old session goes on.
        successor = start(simple(*nginxes, bind=f"127.0.0.1:{port}"))
        assert ask(port) in {"a", "b", "c"}
        assert visit.ask() == name
        successor.stop()
    eventually(lambda: not any(name_of(pid) for pid in workers), "the workers have ended by themselves")


def test_without_their_control_process_workers_close_sessions_at_the_deadline(start, nginxes):
    balancer = start({**simple(*nginxes), "drain_timeout": "1s"})
    workers = balancer.workers()
    with Visit(balancer.port()) as visit:
        visit.ask()
        balancer.program.kill()
        eventually(lambda: not any(name_of(pid) for pid in workers), "the workers have ended by themselves")
        assert not visit.is_alive()
