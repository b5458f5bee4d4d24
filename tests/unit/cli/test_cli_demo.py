from __future__ import annotations

from types import SimpleNamespace

import pytest
from click import unstyle

from easyproxy.cli.demo import Announcer, configuration, introduction
from easyproxy.config.load import from_dict
from easyproxy.control.registry import Change
from easyproxy.model import Address


def test_the_demo_runs_a_configuration_that_the_loader_accepts():
    config = from_dict(
        configuration(Address("127.0.0.1", 9527), Address("127.0.0.1", 7259), {"a": 9601, "b": 9602})
    )
    assert [str(one.address) for one in config.pools["demo"].backends] == ["127.0.0.1:9601", "127.0.0.1:9602"]
    assert [one.name for one in config.pools["demo"].backends] == ["a", "b"]


def test_only_leaving_and_returning_is_said():
    said = []
    announce = Announcer(lambda line: said.append(unstyle(line)))
    for state in ("ready", "down", "ready", "ready", "down"):
        announce(Change("demo/b", state, "because"))
    assert said == ["b left: because", "b is back: because", "b left: because"]


@pytest.mark.parametrize(
    ("admin", "command"),
    [("127.0.0.1:7259", "easyproxy status "), ("127.0.0.1:8081", "easyproxy status --admin 127.0.0.1:8081")],
)
def test_what_to_try_names_this_run(admin, command):
    stage = SimpleNamespace(
        actors=[SimpleNamespace(name=name, pid=pid) for name, pid in (("a", 11), ("b", 12))]
    )
    text = introduction(Address("", 9527), Address.parse(admin), stage)
    assert "kill 12" in text
    assert "curl http://127.0.0.1:9527/" in text
    assert command in text
