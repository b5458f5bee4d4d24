"""How plans are printed, and what the commands refuse before they ask anybody."""

from __future__ import annotations

import json
import socket

import click
import pytest
from click.testing import CliRunner

from easyproxy.cli import main
from easyproxy.cli.plan import described, told


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def nobody():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def difference(**fields):
    plain = {"what": "backend", "name": "p/a", "change": "removed", "text": "10.0.0.1:80"}
    return {**plain, "sessions": 0, "needs_restart": False, **fields}


def plan(*differences, sessions=0, warnings=()):
    return {"source": "f", "differences": list(differences), "sessions": sessions, "warnings": list(warnings)}


def lines(document):
    return [click.unstyle(line) for line in described(document)]


def test_each_difference_is_a_line_and_the_sum_stands_at_the_end():
    late = difference(what="setting", name="workers", change="changed", text="1 -> 2", needs_restart=True)
    printed = lines(plan(difference(sessions=1), late, sessions=1, warnings=["doubtful"]))
    assert "10.0.0.1:80 (1 session would drain)" in printed[1]
    assert printed[2].endswith("1 -> 2 (at the next start or upgrade)")
    assert printed[-2:] == [
        "warning: doubtful",
        "1 backend removed, 1 setting changed; 1 session drains; without effect until the next start or upgrade: workers",
    ]


def test_when_nothing_changes_that_is_all_that_is_said():
    assert lines(plan()) == ["Nothing changes"]


def test_names_cannot_command_the_terminal():
    printed = "\n".join(described(plan(difference(name="\x1b]0;owned\x07"), warnings=["\x1b[2J"])))
    assert "\x1b]" not in printed
    assert "\x1b[2J" not in printed
    assert "\x07" not in "\n".join(told([{"where": "f:1:1", "path": "", "message": "\x07"}]))


@pytest.mark.parametrize(
    "options",
    [("--confirm", "--rollback"), ("--confirm", "--rollback-after", "3s"), ("--rollback", "--confirm")],
)
def test_options_that_contradict_each_other_are_a_usage_error(options):
    result = run("reload", *options)
    assert result.exit_code == 2
    assert "do not go together" in result.stderr


def test_without_a_balancer_reload_ends_with_3_and_plan_with_1(nobody, tmp_path):
    assert run("reload", "--admin", nobody).exit_code == 3
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"listeners": [], "pools": {}}))
    result = run("plan", file, "--admin", nobody)
    assert result.exit_code == 1
    assert f"no balancer answers at {nobody}" in result.stderr


def test_a_file_that_cannot_be_read_is_told_before_anybody_is_asked(nobody, tmp_path):
    result = run("plan", tmp_path / "nosuch.yaml", "--admin", nobody, "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["errors"][0]["message"] == "there is no such file"


def test_watching_needs_a_file():
    result = run("run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--watch")
    assert result.exit_code == 2
    assert "no file to watch" in result.stderr
