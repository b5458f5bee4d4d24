"""What ``make run`` starts, tried as it tells a newcomer to: wrk, and the printed command that kills a backend."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from eventually import eventually
from proxy import command
from traffic import Wrk

from easyproxy.cli.client import fetch
from easyproxy.model import Address
from ports import free_port
from programs import Program, run_client


class Demo:
    """A running ``easyproxy demo``."""

    def __init__(self, program: Program, port: int, admin: int) -> None:
        self.program, self.port, self.admin = program, port, Address("127.0.0.1", admin)

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed something."""
        return eventually(lambda: re.search(pattern, self.program.text()), f"the demo says {pattern!r}")

    def backends(self) -> dict[str, dict]:
        return {each["name"]: each for each in fetch(self.admin, "/api/status")["pools"][0]["backends"]}

    def totals(self) -> int:
        return sum(each["counters"]["total"] for each in self.backends().values())

    def live(self) -> int:
        return sum(each["counters"]["sessions"] for each in self.backends().values())

    def curl(self) -> str:
        return run_client("curl", "-sS", "--fail", f"http://127.0.0.1:{self.port}/")


@pytest.fixture
def demo(tmp_path) -> Iterator[Demo]:
    port, admin = free_port(), free_port()
    arguments = ("--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}")
    with Program(command("demo", *arguments), tmp_path / "demo.txt") as program:
        program.wait_until(lambda: "Ctrl-C" in program.text(), "the demo tells what to try")
        yield Demo(program, port, admin)
    assert "Traceback" not in program.text(), program.text()


def test_curl_sees_the_backends_in_turn(demo):
    answers = [demo.curl() for _ in range(6)]
    assert answers == answers[:3] * 2
    assert sorted(answers[:3]) == [f"Hello from backend {name}\n" for name in "abc"]


def test_a_backend_killed_by_the_printed_command_leaves_and_returns_under_wrk(demo):
    """Behaviour 23."""
    victim, name = re.search(r"kill (\d+) +backend (\w)", demo.program.text()).groups()
    with ExitStack() as stack:
        keep = stack.enter_context(Wrk(demo.port, connections=12, path="/"))
        eventually(lambda: demo.live() == 12, "all its connections are there")
        new = stack.enter_context(Wrk(demo.port, connections=6, path="/", close=True))
        eventually(lambda: demo.totals() > 200, "traffic flows")
        at_stake = demo.backends()[name]["counters"]["sessions"]
        run_client("sh", "-c", f"kill {victim}")
        demo.said(f"{name} left")
        demo.said(f"{name} was started again; once more: kill \\d+")
        demo.said(f"{name} is back")
    # As many requests were in flight as wrk has connections there; those that connect anew may have come in between. And who connects
    # again may meet it once more: a process that dies closes its sessions before the socket where its system still accepts others.
    assert keep.load.failed <= 2 * min(at_stake, 12), keep.load
    assert new.load.failed <= 2 * 6, new.load

    def in_turn() -> bool:
        """Clients of wrk that had not been accepted when it ended still take their turns."""
        answers = [demo.curl() for _ in range(6)]
        return answers == answers[:3] * 2 and len(set(answers)) == 3

    eventually(in_turn, "the backends answer in turn")


def test_status_shows_the_running_demo(demo):
    told = run_client(*command("status", "--admin", str(demo.admin)))
    for text in ("demo", "round_robin", "ready", str(demo.port)):
        assert text in told


def test_it_ends_with_all_its_processes(demo):
    places = [each["address"] for each in demo.backends().values()]
    demo.program.stop()
    assert demo.program.process.returncode == 0
    assert "Good-bye" in demo.program.text()
    for place in (*places, f"127.0.0.1:{demo.port}", str(demo.admin)):
        address = Address.parse(place)
        with socket.socket() as probe:
            assert probe.connect_ex((address.host, address.port)) != 0, place
