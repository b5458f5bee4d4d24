"""A check's password is in the file, and nowhere else: not in what the program says, shows or hands on."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

import pytest
from eventually import eventually
from proxy import QUICK, RunningBalancer, Settings, command, simple

from programs import Program, run_client

OLD, NEW = "hunter2-and-then-some", "hunter3-and-then-some"
PAGES = (
    "status",
    "config",
    "events",
    "version",
    "reload",
    "explain?kind=backend&subject=one",
    "pools",
    "backends",
)


def get(path: str, file: str) -> str:
    """Ask the admin server over its unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(path)
    try:
        connection.request("GET", file)
        response = connection.getresponse()
        assert response.status in (200, 404), (file, response.status)
        return response.read().decode(errors="replace")
    finally:
        connection.close()


def detail(balancer: RunningBalancer, name: str) -> str:
    probe = balancer.backends()[name]["last_probe"]
    return probe["detail"] if probe else ""


def configuration(mariadb, **where: str) -> Settings:
    check = {"type": "mysql", "user": "nobody", **QUICK, **where}
    return simple(mariadb, check=check) | {"log": {"level": "debug"}}


@pytest.mark.parametrize("place", ["password", "password_file", "password_env"])
def test_nothing_that_the_program_says_or_shows_holds_the_password(start, mariadbs, tmp_path, place):
    server = mariadbs[0]
    (tmp_path / "old").write_text(OLD)
    (tmp_path / "new").write_text(NEW)
    old, new = {
        "password": (OLD, NEW),
        "password_file": (str(tmp_path / "old"), str(tmp_path / "new")),
        "password_env": ("WORD_OLD", "WORD_NEW"),
    }[place]
    words = {"WORD_OLD": OLD, "WORD_NEW": NEW} if place == "password_env" else {}
    balancer = start(configuration(server, **{place: old}), env=words)
    eventually(lambda: "Access denied for user 'nobody'" in detail(balancer, server.name), "it was refused")
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(balancer.complete(configuration(server, **{place: new}))))
    said = [
        *(get(str(balancer.admin.path), f"/api/{page}") for page in PAGES),
        *(get(str(balancer.admin.path), page) for page in ("/metrics", "/debug", "/statistic")),
        run_client(*command("plan", "--admin", str(balancer.admin), str(changed)), env=words),
        run_client(*command("check", str(changed)), env=words),
        run_client(*command("status", "--admin", str(balancer.admin))),
        balancer.reload(configuration(server, **{place: new})),
        balancer.log(),
    ]
    shown = "\n".join(said)
    assert f"check.{place}" in shown  # the plan has named the setting
    assert OLD not in shown
    assert NEW not in shown
    for process in (balancer.program.pid, *balancer.workers()):
        assert OLD not in Path(f"/proc/{process}/cmdline").read_text()


def test_a_file_that_is_wrong_elsewhere_is_told_without_the_password(tmp_path):
    for name, text in (
        (
            "a.json",
            json.dumps({"listeners": [], "pools": {"p": {"check": {"type": "mysql", "password": OLD}}}}),
        ),
        ("b.yaml", f"pools:\n  p:\n    check: {{type: mysql, password: {OLD}, passwort: {OLD}}}\n"),
        ("c.yaml", f"pools:\n  p:\n    check: {{type: mysql, password: '{OLD}}}\n"),
        ("d.toml", f"[pools.p.check]\ntype = 'mysql'\npassword = '{OLD}\n"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with Program(command("check", str(path)), tmp_path / f"{name}.txt") as program:
            assert program.ended() == 2, program.text()
            assert OLD not in program.text()
            assert name in program.text()
