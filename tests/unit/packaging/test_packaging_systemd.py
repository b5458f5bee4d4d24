"""The unit files say what the program does. What systemd itself thinks of them is asked in tests/system."""

from __future__ import annotations

import re
from pathlib import Path

from easyproxy.cli.run import EXIT_CONFIG
from easyproxy.cli.service import ENDING_S
from easyproxy.config.schema import Config

FOLDER = Path(__file__).parents[3] / "packaging" / "systemd"


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


SERVICE = settings("easyproxy.service")


def test_the_commands_exist():
    for key, word in (("ExecStartPre", "check"), ("ExecStart", "run")):
        [command] = SERVICE[key]
        assert command.split()[1] == word
        assert command.split()[2] == "/etc/easyproxy/easyproxy.yaml"


def test_it_is_told_what_the_program_tells():
    assert SERVICE["Type"] == ["notify-reload"]
    older = settings("easyproxy.service.d/older-systemd.conf")
    assert older == {"Type": ["notify"], "ExecReload": ["/bin/kill -HUP $MAINPID"]}


def test_a_wrong_configuration_is_not_started_again():
    assert SERVICE["RestartPreventExitStatus"] == [str(EXIT_CONFIG)]


def test_it_may_end_in_its_own_time():
    drain_s = Config.model_fields["drain_timeout"].default
    [timeout] = SERVICE["TimeoutStopSec"]
    assert float(timeout.removesuffix("s")) >= drain_s + ENDING_S
    assert SERVICE["KillMode"] == ["mixed"]


def test_it_may_do_nothing_but_bind_low_ports():
    assert SERVICE["AmbientCapabilities"] == SERVICE["CapabilityBoundingSet"] == ["CAP_NET_BIND_SERVICE"]
    assert SERVICE["NoNewPrivileges"] == ["yes"]
    assert SERVICE["DynamicUser"] == ["yes"]


def test_the_file_of_a_unix_socket_can_be_given_to_a_group():
    """chown(2) is among what ``@privileged`` takes away."""
    filters = SERVICE["SystemCallFilter"]
    assert filters.index("@chown") > filters.index("~@privileged @resources")


def test_no_line_of_a_unit_has_a_comment_behind_its_value():
    """systemd takes it for a part of the value."""
    for file in FOLDER.rglob("*"):
        if file.is_file():
            for line in file.read_text().splitlines():
                assert line.startswith("#") or " #" not in line, (file.name, line)


def test_sockets_of_the_example_are_written_as_listeners_would_be():
    text = (FOLDER / "easyproxy.socket").read_text()
    pairs = re.findall(r'^# bind: "([^"]+)".*\nListenStream=(\S+)', text, re.MULTILINE)
    assert len(pairs) == len(settings("easyproxy.socket")["ListenStream"])
    for bind, stream in pairs:
        assert bind.removeprefix("unix:").removeprefix(":") == stream
