"""From a name to a class, and what is said when that fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

from easyproxy.errors import EasyProxyError
from easyproxy.strategy import ALIASES, BUILTIN, StrategyError, load

OWN = """
from easyproxy.strategy.base import Strategy

class Mine(Strategy):
    def build(self, backends): self.backends = backends
    def candidates(self, client): return iter(self.backends)
    class Inner(Strategy):
        def build(self, backends): pass
        def candidates(self, client): return iter(())

class Half(Strategy):
    def build(self, backends): pass

class Other: pass
number = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder on the path with a user's module, one that cannot be imported, and two installed packages."""
    (tmp_path / "shop_rules.py").write_text(OWN)
    (tmp_path / "shop_broken.py").write_text("import no_such_thing_at_all")
    for package, points in {
        "shop": "mine = shop_rules:Mine\nhalf = shop_rules:Half\ntwice = shop_rules:Mine\nbroken = shop_broken:X",
        "shop2": "twice = shop_rules:Mine",
    }.items():
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[easyproxy.strategies]\n{points}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in ("shop_rules", "shop_broken"):
        sys.modules.pop(module, None)


def test_the_built_in_names_are_those_of_the_lexicon():
    names = "round_robin random source_hash least_connections power_of_two maglev first"
    assert list(BUILTIN) == names.split()
    assert [load(name) for name in BUILTIN] == list(BUILTIN.values())


def test_the_names_of_the_old_program_still_work():
    assert {old: load(old).__name__ for old in ("poll", "random", "iphash")} == {
        "poll": "RoundRobin",
        "random": "Random",
        "iphash": "SourceHash",
    }
    assert set(ALIASES.values()) < set(BUILTIN)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["shop_rules:Mine", "shop_rules:Mine.Inner", "mine"])
def test_a_class_of_one_s_own_is_found_by_place_or_by_entry_point(name):
    assert load(name).__module__ == "shop_rules"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("round-robin", "there is no strategy 'round-robin'; write one of round_robin, random"),
        ("", "there is no strategy ''"),
        (":Mine", "is incomplete; write module:Class"),
        ("shop_rules:", "is incomplete; write module:Class"),
        ("no_such_module:Mine", "cannot import module 'no_such_module': ModuleNotFoundError"),
        ("shop_broken:Mine", "cannot import module 'shop_broken': .*no_such_thing_at_all"),
        ("broken", "cannot import module 'shop_broken': .*no_such_thing_at_all"),
        ("..:Mine", "cannot import module"),
        ("shop_rules:Absent", "module 'shop_rules' has no 'Absent'"),
        ("shop_rules:number", "is not a class derived from easyproxy.strategy.base.Strategy"),
        ("shop_rules:Other", "is not a class derived from easyproxy.strategy.base.Strategy"),
        ("shop_rules:Half", "is abstract; it must define candidates"),
        ("easyproxy.strategy.base:Strategy", "is abstract; it must define build, candidates"),
        ("half", "strategy 'half' is abstract"),
        ("twice", "registered more than once"),
    ],
)
def test_what_cannot_be_a_strategy_is_refused_with_the_reason(name, message):
    with pytest.raises(StrategyError, match=message) as caught:
        load(name)
    assert isinstance(caught.value, EasyProxyError)


def test_importing_the_strategies_brings_nothing_heavy_into_a_worker():
    script = "import sys, easyproxy.strategy, easyproxy.strategy.tiers; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"asyncio", "pydantic", "yaml", "click", "hashlib", "importlib.metadata", "random", "logging"}
    assert "easyproxy.strategy.maglev" in output.split()
    assert heavy.isdisjoint(output.split())
