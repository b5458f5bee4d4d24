"""A strategy and a check of the user's own, through the real program: workers and control process must find them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from eventually import eventually
from proxy import QUICK, simple
from traffic import ask

ROOT = Path(__file__).parents[2]

STRATEGY = '''
from easyproxy import Strategy


class LastFirst(Strategy):
    """The last backend of the file serves; the others follow when it fails."""

    def build(self, backends):
        self.backends = list(reversed(backends))

    def candidates(self, client):
        yield from self.backends
'''

CHECK = '''
from dataclasses import dataclass
from pathlib import Path

from easyproxy import Check
from easyproxy.errors import ProbeFailed


@dataclass(frozen=True)
class Flag(Check):
    """A backend is well while a file of its name lies in a folder."""

    folder: str = ""

    async def probe(self, target):
        if not (Path(self.folder) / target.name).exists():
            raise ProbeFailed(f"the flag of {target.name} is down")
        return "the flag is up"
'''


@pytest.fixture(params=["PYTHONPATH", "beside the file"])
def place(request, tmp_path, start):
    """Where a user's module lies; returns the folder and what starts a balancer that finds it."""
    if request.param == "PYTHONPATH":
        folder = tmp_path / "modules"
        folder.mkdir()
        path = ":".join([str(folder), *(entry for entry in sys.path if entry.endswith("/src"))])
        return folder, lambda config: start(config, env={"PYTHONPATH": path})
    folder = tmp_path / "balancer-0"
    folder.mkdir()
    return folder, start


def test_a_strategy_of_ones_own_chooses_in_every_worker(place, nginxes):
    folder, start_here = place
    (folder / "own_strategy.py").write_text(STRATEGY)
    balancer = start_here(simple(*nginxes, strategy="own_strategy:LastFirst"))
    assert {ask(balancer.port()) for _ in range(20)} == {"c"}
    nginxes[2].kill()
    assert {ask(balancer.port()) for _ in range(20)} == {"b"}
    assert balancer.status()["pools"][0]["strategy"] == "own_strategy:LastFirst"


def test_a_check_of_ones_own_decides(place, nginxes, tmp_path):
    folder, start_here = place
    (folder / "own_check.py").write_text(CHECK)
    flags = tmp_path / "flags"
    flags.mkdir()
    (flags / "a").touch()
    options = {"type": "own_check:Flag", "options": {"folder": str(flags)}, **QUICK}
    balancer = start_here(simple(*nginxes, check=options))
    assert {ask(balancer.port()) for _ in range(6)} == {"a"}
    assert "the flag of b is down" in balancer.backends()["b"]["reason"]
    (flags / "b").touch()
    balancer.wait_for_state("b", "ready")
    assert {ask(balancer.port()) for _ in range(6)} == {"a", "b"}


def test_the_example_strategy_serves(start, nginxes):
    folder = ROOT / "examples" / "strategies"
    path = ":".join([str(folder), *(entry for entry in sys.path if entry.endswith("/src"))])
    balancer = start(simple(*nginxes, strategy="near_first:NearFirst"), env={"PYTHONPATH": path})
    assert {ask(balancer.port()) for _ in range(6)} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("strategy", "told"),
    [("nowhere:Class", "nowhere"), ("json:JSONDecoder", "JSONDecoder"), ("json:Missing", "Missing")],
)
def test_a_strategy_that_is_none_is_refused_at_the_start(start, nginxes, strategy, told):
    balancer = start(simple(*nginxes, strategy=strategy), patience=False)
    assert balancer.program.ended() in (1, 2)
    assert told in balancer.log()


def test_a_strategy_that_fails_is_told_and_clients_are_served_all_the_same(start, nginxes, tmp_path):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "broken_strategy.py").write_text(
        STRATEGY.replace("LastFirst", "Broken").replace("yield from self.backends", "yield from 1 / 0")
    )
    path = ":".join([str(folder), *(entry for entry in sys.path if entry.endswith("/src"))])
    balancer = start(simple(*nginxes, strategy="broken_strategy:Broken"), env={"PYTHONPATH": path})
    assert {ask(balancer.port()) for _ in range(6)} <= {"a", "b", "c"}
    eventually(lambda: "ZeroDivisionError" in balancer.log(), "the log tells of it")
    assert balancer.status()["worker_restarts"] == 0
