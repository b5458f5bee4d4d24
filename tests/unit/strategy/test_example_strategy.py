"""The example of docs/strategies.md, run as a user would run it: named as ``module:Class`` from its folder."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path

import pytest
from strategy_pools import context

from easyproxy.model import Address, Backend
from easyproxy.strategy import load
from easyproxy.strategy.tiers import Tiers

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "examples" / "strategies"


@pytest.fixture
def near_first(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield load("near_first:NearFirst")
    sys.modules.pop("near_first")


def backend(text: str) -> Backend:
    return Backend(id=f"pool/{text}", name=text, address=Address.parse(text))


def test_the_example_prefers_the_client_s_network_and_still_offers_everyone(near_first):
    backends = [
        backend(text) for text in ("10.0.1.1:80", "10.0.2.1:80", "10.0.1.2:80", "unix:/run/x", "[fd00::1]:80")
    ]
    tiers = Tiers(near_first, context(), backends)
    sessions = [[found.name for found in tiers.candidates("10.0.1.77")] for _ in range(4)]
    assert [names[0] for names in sessions] == ["10.0.1.1:80", "10.0.1.2:80"] * 2
    assert all(sorted(names) == sorted(b.name for b in backends) for names in sessions)
    assert next(tiers.candidates("fd00::9")).name == "[fd00::1]:80"
    for client in ("192.0.2.1", "fe80::1%eth0", ""):
        assert set(tiers.candidates(client)) == set(backends)


def test_the_example_s_doctest_is_true(near_first):
    results = doctest.testmod(sys.modules[near_first.__module__])
    assert (results.attempted, results.failed) == (1, 0)


def test_the_page_shows_the_example_as_it_is():
    code = (FOLDER / "near_first.py").read_text().split('"""\n\n', 1)[1]
    assert code.strip() in (ROOT / "docs" / "strategies.md").read_text()
