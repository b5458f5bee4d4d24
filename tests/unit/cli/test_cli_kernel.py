"""``easyproxy kernel`` and what ``easyproxy check`` says of the kernel engine; what the machine has is the test's to say."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

import easyproxy.engine.kernel as engine
from easyproxy.cli import main
from easyproxy.config.load import from_dict
from easyproxy.errors import EngineError
from easyproxy.needs import lacking, refuse_if_lacking

FILE = {
    "listeners": [{"bind": "127.0.0.1:9527", "pool": "p", "engine": "kernel"}],
    "pools": {"p": {"backends": ["10.0.0.1:3306", "db.example:3306"]}},
}
FORWARD = "net.ipv4.ip_forward is 0: ...; sysctl -w net.ipv4.ip_forward=1"


@pytest.fixture
def machine(monkeypatch):
    """Say what is missing; the questions are kept."""

    class Machine:
        missing = (FORWARD,)
        asked: list = []  # noqa: RUF012 - one for each test

        def requirements(self, snapshot=None, *, manages=False, only_vital=False, shortcut=True):
            assert shortcut
            self.asked.append((snapshot, manages, only_vital))
            return list(self.missing)

    made = Machine()
    made.asked = []
    monkeypatch.setattr(engine, "requirements", made.requirements)
    return made


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "easyproxy.json"
    path.write_text(json.dumps(FILE))
    return str(path)


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_what_is_missing_is_told_and_is_the_exit_status(machine):
    result = run("kernel", "check")
    assert (result.exit_code, result.output) == (1, f"{FORWARD}\n")
    machine.missing = ()
    result = run("kernel", "check")
    assert (result.exit_code, result.output) == (0, "nothing is missing for the kernel engine\n")
    assert machine.asked == [(None, False, False)] * 2


def test_a_file_is_asked_for_as_if_all_its_backends_were_ready(machine, file):
    assert run("kernel", "check", file).exit_code == 1
    [(snapshot, manages, _)] = machine.asked
    assert [str(each.address) for each in snapshot.pools[0].backends] == ["10.0.0.1:3306"]
    assert not manages


def test_a_wrong_file_is_told_with_status_2(machine, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text("{}")
    assert run("kernel", "check", str(path)).exit_code == 2
    assert machine.asked == []


def test_check_warns_of_what_is_missing_here(machine, file):
    result = run("check", file)
    assert result.exit_code == 0
    assert f"warning: kernel: missing here: {FORWARD}" in result.output
    assert machine.asked
    assert run("check", "--strict", file).exit_code == 2


def test_check_asks_nothing_of_a_machine_without_kernel_listeners(machine, tmp_path):
    path = tmp_path / "easyproxy.json"
    path.write_text(json.dumps({**FILE, "listeners": [{"bind": "127.0.0.1:9527", "pool": "p"}]}))
    assert "warning" not in run("check", str(path)).output
    assert machine.asked == []


def test_a_balancer_does_not_begin_without_what_is_vital(machine):
    config = from_dict({**FILE, "kernel": {"manage_sysctl": True}})
    with pytest.raises(EngineError, match="ip_forward=1"):
        refuse_if_lacking(config)
    assert [(manages, only_vital) for _, manages, only_vital in machine.asked] == [(True, True)]
    assert lacking(from_dict({**FILE, "listeners": [{"bind": "127.0.0.1:1", "pool": "p"}]})) == []


@pytest.mark.parametrize(
    ("restored", "words"),
    [
        ([], ["removed"]),
        (["net.ipv4.ip_forward=0"], ["removed", "put back: net.ipv4.ip_forward=0"]),
        (None, ["there is nothing of EasyProxy"]),
    ],
)
def test_clean_says_what_it_did(monkeypatch, restored, words):
    monkeypatch.setattr(engine, "clean", lambda: restored)
    result = run("kernel", "clean")
    assert result.exit_code == 0
    for line, start in zip(result.output.splitlines(), words, strict=True):
        assert line.startswith(start)


def test_clean_says_why_it_could_not(monkeypatch):
    def fail():
        raise EngineError("nft is not installed; install the package nftables")

    monkeypatch.setattr(engine, "clean", fail)
    result = run("kernel", "clean")
    assert (result.exit_code, result.output) == (
        1,
        "easyproxy: nft is not installed; install the package nftables\n",
    )
