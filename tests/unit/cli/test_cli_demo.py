from __future__ import annotations

import re
import socket
import sys
from types import SimpleNamespace

import pytest
from click import unstyle

from easyproxy.cli.demo import Announcer, configuration, elsewhere, introduction
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
def test_what_to_try_names_this_run(admin, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    stage = SimpleNamespace(
        actors=[SimpleNamespace(name=name, pid=pid) for name, pid in (("a", 11), ("b", 12))]
    )
    text = introduction(Address("", 9527), Address.parse(admin), stage)
    assert "kill 12" in text
    assert "curl http://127.0.0.1:9527/" in text
    assert command in text


def test_where_an_address_is_taken_a_command_with_free_ones_is_offered():
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        port, other = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        offered = elsewhere(Address("127.0.0.1", port), Address("127.0.0.1", other))
        listen = re.search(r"demo --listen 127\.0\.0\.1:(\d+) --admin 127\.0\.0\.1:(\d+)$", offered)
        assert int(listen[1]) > port
        assert int(listen[2]) == other
    assert elsewhere(Address("127.0.0.1", port), Address("127.0.0.1", other)) == ""


def test_a_program_that_the_shell_would_not_find_is_named_by_its_path(tmp_path, monkeypatch):
    program = tmp_path / "venv" / "bin" / "easyproxy"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    stage = SimpleNamespace(actors=[SimpleNamespace(name="a", pid=11)])
    said = unstyle(introduction(Address("", 9527), Address("127.0.0.1", 7259), stage))
    assert f"{program} status" in said
    monkeypatch.chdir(tmp_path)
    said = unstyle(introduction(Address("", 9527), Address("127.0.0.1", 7259), stage))
    assert "  venv/bin/easyproxy status" in said
    monkeypatch.setenv("PATH", str(program.parent))
    said = unstyle(introduction(Address("", 9527), Address("127.0.0.1", 7259), stage))
    assert "  easyproxy status" in said
