"""``easyproxy run`` with the kernel engine, beside the relay engine and alone, as an operator runs it. Needs root and nft."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from proxy import QUICK, RunningBalancer, Settings, command
from upgrading import Upgradable

from easyproxy.cli.client import post
from system.kernel_net import BACKEND, CLIENT, FRONT, PORT, Net, read_line

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]

Start = Callable[..., Upgradable]
RELAY_PORT, KERNEL_PORT = 8081, 8082


@pytest.fixture
def start(net: Net, tmp_path: Path) -> Iterator[Start]:
    """Start balancers in the balancer's namespace."""
    with ExitStack() as stack:

        def start_one(config: Settings, **more: Any) -> Upgradable:
            folder = tmp_path / f"balancer-{len(list(tmp_path.iterdir()))}"
            made = Upgradable(folder, config, prefix=within(net), **more)
            stack.callback(made.stop)
            return made

        yield start_one


def within(net: Net, namespace: str = "balancer") -> tuple[str, ...]:
    return "ip", "netns", "exec", net.name(namespace)


@pytest.fixture
def net(net: Net) -> Net:
    net.serve("a")
    net.serve("b")
    return net


def config(*engines: tuple[int, str], **more: Any) -> Settings:
    """Return a configuration with a listener for each (port, engine) before one pool."""
    return {
        "listeners": [
            {"name": f"on {port}", "bind": f"{FRONT[4]}:{port}", "pool": "p", "engine": engine}
            for port, engine in engines
        ],
        "pools": {
            "p": {
                "check": {"type": "tcp", **QUICK},
                "backends": [{"name": name, "address": f"{BACKEND[name, 4]}:{PORT}"} for name in "ab"],
            }
        },
        "kernel": {"manage_sysctl": True},
        **more,
    }


BOTH = config((RELAY_PORT, "relay"), (KERNEL_PORT, "kernel"))


def greeting(sock: socket.socket) -> str:
    """Return the name of the backend."""
    return read_line(sock).split()[0]


def echoes(sock: socket.socket, text: bytes = b"still here") -> bool:
    """Whether a session carries bytes to its backend and back."""
    sock.sendall(text)
    got = b""
    while len(got) < len(text):
        piece = sock.recv(len(text) - len(got))
        if not piece:
            return False
        got += piece
    return got == text


def tables(net: Net) -> str:
    run = subprocess.run([*within(net), "nft", "list", "tables"], capture_output=True, text=True, check=True)
    return run.stdout


def easyproxy(net: Net, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*within(net), *command(*arguments)], capture_output=True, text=True, check=False, timeout=60
    )


def test_both_engines_serve_side_by_side_and_are_seen_as_one(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with net.connect(FRONT[4], RELAY_PORT) as one, net.connect(FRONT[4], KERNEL_PORT) as other:
        assert {greeting(one), greeting(other)} <= {"a", "b"}
        assert echoes(one)
        assert echoes(other)
        sessions = {each["listener"]: each for each in balancer.sessions()}
        assert sessions["on 8081"]["engine"] == "relay"
        assert sessions["on 8082"]["engine"] == "kernel"
        assert sessions["on 8082"]["client"].startswith(CLIENT[4])
        eventually(lambda: sum(balancer.live().values()) == 2, "both sessions are counted")
        status = balancer.status()
        assert status["engine"] == "relay+kernel"
        assert [each["engine"] for each in status["listeners"]] == ["relay", "kernel"]
        text = easyproxy(net, "status", "--admin", str(balancer.admin)).stdout
        assert "ENGINE" in text
        assert post(balancer.admin, "/api/close", {"listener": "on 8082", "who": "test"})
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        assert echoes(one)
    assert "table inet easyproxy" in tables(net)
    balancer.stop()
    assert "easyproxy" not in tables(net)


def test_a_drained_backend_gets_no_new_sessions_of_either_engine(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        name = greeting(sock)
        post(balancer.admin, "/api/drain", {"backend": f"p/{name}", "who": "test"})
        for port in (RELAY_PORT, KERNEL_PORT) * 4:
            with net.connect(FRONT[4], port) as fresh:
                assert greeting(fresh) != name
        assert echoes(sock)


def test_a_reload_moves_a_listener_to_the_other_engine_and_back(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with ExitStack() as stack:
        socks = []
        for engine in ("kernel", "relay", "kernel", "relay"):
            changed = config((RELAY_PORT, engine), (KERNEL_PORT, "kernel" if engine == "relay" else "relay"))
            balancer.reload(changed)
            for port in (RELAY_PORT, KERNEL_PORT):
                socks.append(stack.enter_context(net.connect(FRONT[4], port)))
                greeting(socks[-1])
        assert all(echoes(sock) for sock in socks)
        by_engine = [each["engine"] for each in balancer.sessions()]
        assert sorted(by_engine) == ["kernel"] * 4 + ["relay"] * 4


def test_a_reload_that_one_engine_refuses_changes_neither(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with net.inside("balancer"), socket.create_server((FRONT[4], 8090)):
        more = config((RELAY_PORT, "kernel"), (KERNEL_PORT, "relay"), (8090, "relay"))
        balancer.reload(more, answer="reload refused")
        assert [each["engine"] for each in balancer.status()["listeners"]] == ["relay", "kernel"]
        for port in (RELAY_PORT, KERNEL_PORT):
            with net.connect(FRONT[4], port) as sock:
                greeting(sock)


def is_served(net: Net, port: int) -> bool:
    try:
        with net.connect(FRONT[4], port) as sock:
            return greeting(sock) in "ab"
    except ConnectionError:
        return False


def test_a_rate_holds_with_both_engines_through_reloads_and_upgrades(net: Net, start: Start) -> None:
    """What it counts begins anew with another rate and another engine."""

    def limited(*engines: tuple[int, str], rate: str = "2/h", burst: int = 2) -> Settings:
        made = config(*engines)
        for listener in made["listeners"]:
            listener.update(client_rate=rate, client_burst=burst)
        return made

    def served(times: int) -> list[list[bool]]:
        return [[is_served(net, port) for _ in range(times)] for port in (RELAY_PORT, KERNEL_PORT)]

    usual, swapped = (
        [(RELAY_PORT, "relay"), (KERNEL_PORT, "kernel")],
        [(RELAY_PORT, "kernel"), (KERNEL_PORT, "relay")],
    )
    balancer = start(limited(*usual))
    assert served(3) == [[True, True, False]] * 2
    balancer.reload(limited(*usual) | {"drain_timeout": "7s"})
    assert served(1) == [[False]] * 2
    balancer.write(limited(*usual, rate="1/min", burst=3))
    plan = easyproxy(net, "plan", str(balancer.file), "--admin", str(balancer.admin)).stdout
    assert "client_rate 2/h -> 1/min, client_burst 2 -> 3" in plan
    balancer.reload(limited(*usual, burst=3))
    assert served(4) == [[True, True, True, False]] * 2
    balancer.reload(limited(*swapped, burst=3))
    assert served(4) == [[True, True, True, False]] * 2
    balancer.upgrade()
    assert served(2) == [[False] * 2] * 2
    listeners = balancer.status()["listeners"]
    assert {(each["client_rate"], each["client_burst"]) for each in listeners} == {("2/h", 3)}
    text = easyproxy(net, "status", "--admin", str(balancer.admin)).stdout
    assert "EACH CLIENT" in text
    assert "2/h" in text


def test_an_upgrade_keeps_the_sessions_of_both_engines(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with net.connect(FRONT[4], RELAY_PORT) as one, net.connect(FRONT[4], KERNEL_PORT) as other:
        greeting(one)
        greeting(other)
        for _ in range(2):
            balancer.upgrade()
            assert echoes(one)
            assert echoes(other)
            with net.connect(FRONT[4], KERNEL_PORT) as fresh:
                greeting(fresh)
            assert "table inet easyproxy" in tables(net)
            listeners = {each["listener"] for each in balancer.sessions()}
            assert listeners == {"on 8081", "on 8082"}


def test_an_upgrade_begins_and_ends_with_the_kernel_engine(net: Net, start: Start) -> None:
    balancer = start(config((RELAY_PORT, "relay"), (KERNEL_PORT, "relay")))
    said = balancer.reload(BOTH, answer="reload refused")
    assert "easyproxy upgrade does that" in said
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        greeting(sock)
        balancer.upgrade()  # the file on the disk has the kernel engine
        assert [each["engine"] for each in balancer.status()["listeners"]] == ["relay", "kernel"]
        with net.connect(FRONT[4], KERNEL_PORT) as other:
            greeting(other)
            assert echoes(sock)
            balancer.write(config((RELAY_PORT, "relay"), (KERNEL_PORT, "relay")))
            balancer.upgrade()
            assert echoes(sock)
            assert echoes(other)
        with net.connect(FRONT[4], KERNEL_PORT) as fresh:
            greeting(fresh)
            assert [each["engine"] for each in balancer.sessions() if each["listener"] == "on 8082"][
                -1
            ] == "relay"


def test_an_upgrade_that_fails_leaves_the_rules_alone(net: Net, start: Start) -> None:
    balancer = start(BOTH)
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        greeting(sock)
        balancer.write("listeners: [")
        refused = easyproxy(net, "upgrade", "--admin", str(balancer.admin))
        assert refused.returncode == 1
        assert echoes(sock)
        with net.connect(FRONT[4], KERNEL_PORT) as fresh:
            greeting(fresh)


def test_backends_see_the_client_in_transparent_mode(net: Net, start: Start) -> None:
    net.route_back()
    start(config((KERNEL_PORT, "kernel"), kernel={"manage_sysctl": True, "source": "transparent"}))
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        assert read_line(sock).split()[1] == CLIENT[4]
        assert echoes(sock)


def test_sessions_of_a_backend_that_went_down_are_closed_where_that_is_wished(net: Net, start: Start) -> None:
    """Behaviour 28."""
    settings = config((KERNEL_PORT, "kernel"))
    settings["pools"]["p"]["close_sessions_on_down"] = True
    balancer = start(settings)
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        name = greeting(sock)
        subprocess.run([*within(net, name), "ip", "link", "set", "eth0", "down"], check=True)
        balancer.wait_for_state(name, "down")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        with net.connect(FRONT[4], KERNEL_PORT) as fresh:
            assert greeting(fresh) != name


@pytest.mark.parametrize("form", ["json", "haproxy"])
def test_every_session_is_a_line_of_the_access_log(net: Net, start: Start, tmp_path: Path, form: str) -> None:
    path = tmp_path / "access.log"
    start(config((KERNEL_PORT, "kernel"), access_log={"path": str(path), "format": form}))
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        greeting(sock)
        assert echoes(sock)
    line = eventually(lambda: path.read_text() if path.exists() else "", "the session is in the access log")
    assert CLIENT[4] in line
    assert "client_fin" in line if form == "json" else "--" in line


def test_two_capabilities_are_enough(net: Net, tmp_path: Path) -> None:
    for name in ("net.ipv4.ip_forward", "net.netfilter.nf_conntrack_acct"):
        subprocess.run([*within(net), "sysctl", "-qw", f"{name}=1"], check=True)
    rights = "-all,+net_admin,+net_raw"
    with_two = ("setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "--no-new-privs")
    log = tmp_path / "log.txt"
    options = (
        "--listen",
        f"{FRONT[4]}:{KERNEL_PORT}",
        "--backend",
        f"{BACKEND['a', 4]}:{PORT}",
        "--admin",
        "off",
    )
    with log.open("w") as output:
        run = subprocess.Popen(
            [*within(net), *with_two, *command("run", "--engine", "kernel", *options)],
            stderr=output,
            cwd="/",
        )
    try:
        eventually(lambda: "serving" in log.read_text() or run.poll() is not None, "it serves")
        assert run.poll() is None, log.read_text()
        with net.connect(FRONT[4], KERNEL_PORT) as sock:
            assert greeting(sock) == "a"
            assert echoes(sock)
    finally:
        run.terminate()
        run.wait(60)
    assert "easyproxy" not in tables(net), log.read_text()
    assert "CAP_NET" not in log.read_text()


def test_what_a_killed_balancer_leaves_serves_on_and_is_cleaned_up_on_demand(net: Net, start: Start) -> None:
    balancer = start(config((KERNEL_PORT, "kernel")))
    with net.connect(FRONT[4], KERNEL_PORT) as sock:
        greeting(sock)
        balancer.program.send(signal.SIGKILL)
        balancer.program.ended()
        assert echoes(sock)
        with net.connect(FRONT[4], KERNEL_PORT) as fresh:
            greeting(fresh)
        done = easyproxy(net, "kernel", "clean")
        assert (done.returncode, done.stdout.split(":")[0]) == (0, "removed")
        assert "easyproxy" not in tables(net)
        done = easyproxy(net, "kernel", "clean")
        assert (done.returncode, done.stdout) == (0, "there is nothing of EasyProxy in the kernel\n")


def test_what_is_missing_is_named_with_the_command_that_sets_it(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "easyproxy.json"
    with_own_settings = (
        '{"listeners": [{"bind": "10.77.1.1:1", "pool": "p", "engine": "kernel"}], '
        '"pools": {"p": {"backends": ["10.77.11.2:1"]}}, "kernel": {"manage_sysctl": %s}}'
    )
    file.write_text(with_own_settings % "false")
    for arguments in ((), (str(file),)):
        done = easyproxy(net, "kernel", "check", *arguments)
        assert done.returncode == 1
        assert "sysctl -w net.ipv4.ip_forward=1" in done.stdout
    checked = easyproxy(net, "check", str(file))
    assert checked.returncode == 0
    assert "warning: kernel: missing here: net.ipv4.ip_forward is 0" in checked.stderr
    run = easyproxy(net, "run", str(file))  # although no backend is ready yet that needs it
    assert run.returncode == 1
    assert "sysctl -w net.ipv4.ip_forward=1" in run.stderr
    file.write_text(with_own_settings % "true")
    assert easyproxy(net, "kernel", "check", str(file)).returncode == 0


def test_one_option_is_enough(net: Net, tmp_path: Path) -> None:
    for name in ("net.ipv4.ip_forward", "net.netfilter.nf_conntrack_acct"):
        subprocess.run([*within(net), "sysctl", "-qw", f"{name}=1"], check=True)
    listen, backend = f"{FRONT[4]}:{KERNEL_PORT}", f"{BACKEND['a', 4]}:{PORT}"
    options = ("--engine", "kernel", "--listen", listen, "--backend", backend, "--admin", "off")
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        run = subprocess.Popen([*within(net), *command("run", *options)], stderr=output)
    try:
        eventually(lambda: "serving" in log.read_text(), "it serves")
        with net.connect(FRONT[4], KERNEL_PORT) as sock:
            assert greeting(sock) == "a"
        assert "engine=kernel" in log.read_text()
    finally:
        run.terminate()
        assert run.wait(60) == 0


def test_the_balancer_with_relay_listeners_only_does_not_load_the_kernel_engine(
    net: Net, tmp_path: Path
) -> None:
    balancer = RunningBalancer(tmp_path / "relay", config((RELAY_PORT, "relay")), prefix=within(net))
    try:
        assert balancer.status()["engine"] == "relay"
        assert "easyproxy" not in tables(net)
    finally:
        balancer.stop()
