"""Under a service manager: what it hears of the real program, and sockets that the real systemd-socket-activate opens."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from listening import listening
from proxy import RunningBalancer, simple

from ports import free_port
from programs import find, run_client

FETCH = """
import os, socket, sys
with socket.socket(socket.AF_UNIX) as meeting:
    meeting.connect(sys.argv[1])
    descriptor = socket.recv_fds(meeting, 1, 1)[1][0]
os.dup2(descriptor, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""

HELLO = b"hello from the backend\n"

# Not sooner: a datagram socket holds ten messages that nobody has read yet, and what does not fit is lost.
WATCHDOG_USEC = "1000000"


class Manager:
    """A datagram socket that listens as systemd does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def wait_for(self, *keys: str) -> dict[str, str]:
        """Return the next message that holds all these."""
        while True:
            told = dict(line.split("=", 1) for line in self._socket.recv(4096).decode().splitlines())
            if set(keys) <= told.keys():
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    yield one
    one.close()


def greeter() -> AbstractContextManager[int]:
    """Serve a backend that greets and closes; give its port."""
    return listening(lambda client: client.sendall(HELLO))


def greeting(where, family=socket.AF_INET) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(60)
        client.connect(where)
        return b"".join(iter(lambda: client.recv(100), b""))


def test_a_service_manager_hears_of_every_turn(start, manager):
    with greeter() as port:
        balancer = start(
            simple({"address": f"127.0.0.1:{port}"}),
            env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": WATCHDOG_USEC},
        )
        assert manager.wait_for("READY")["STATUS"] == "The backend is ready; 0 sessions"
        # It has bound by the time it says so.
        assert greeting(("127.0.0.1", balancer.port())) == HELLO
        manager.wait_for("WATCHDOG", "STATUS")
        manager.wait_for("WATCHDOG", "STATUS")
        balancer.reload(simple({"address": f"127.0.0.1:{port}"}, retries=1))
        assert int(manager.wait_for("RELOADING", "MONOTONIC_USEC")["MONOTONIC_USEC"]) > 0
        manager.wait_for("READY")
        # A refused reload ends, too: systemd would otherwise wait for ever.
        balancer.reload("pools: 1", answer="refused")
        manager.wait_for("RELOADING")
        manager.wait_for("READY")
        balancer.program.send(signal.SIGTERM)
        told = manager.wait_for("STOPPING")
        assert int(told["EXTEND_TIMEOUT_USEC"]) >= 30_000_000  # drain_timeout and some time to end
        assert balancer.program.ended() == 0


def test_after_an_upgrade_the_service_manager_hears_the_new_program(start, manager):
    with greeter() as port:
        balancer = start(
            simple({"address": f"127.0.0.1:{port}"}),
            env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": WATCHDOG_USEC, "WATCHDOG_PID": ""},
        )
        where = ("127.0.0.1", balancer.port())
        balancer.program.send(signal.SIGUSR2)
        successor = int(manager.wait_for("MAINPID")["MAINPID"])
        try:
            assert successor != balancer.program.pid
            assert balancer.program.ended() == 0
            for _ in range(3):  # more than may still have lain in the queue from the old one
                manager.wait_for("WATCHDOG", "STATUS")
            assert greeting(where) == HELLO
            os.kill(successor, signal.SIGTERM)
            manager.wait_for("STOPPING")
        finally:
            with suppress(ProcessLookupError):
                os.kill(successor, signal.SIGTERM)


def activation(*listen: str, names: str = "") -> tuple[str, ...]:
    """Return the command that opens sockets, waits for the first client, and starts the balancer with them."""
    return (
        find("systemd-socket-activate"),
        *(part for each in listen for part in ("-l", each)),
        *(("--fdname", names) if names else ()),
        *(part for name in ("PYTHONDONTWRITEBYTECODE", "PATH", "HOME") for part in ("-E", name)),
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_sockets_of_the_service_manager_serve_from_the_first_client_on(start, tmp_path, workers):
    """The client comes before the program runs, and is served by it."""
    port, path = free_port(), str(tmp_path / "front.sock")
    with greeter() as backend:
        config = simple({"address": f"127.0.0.1:{backend}"}) | {
            "workers": workers,
            "listeners": [
                {"name": "tcp", "bind": f"127.0.0.1:{port}", "pool": "p"},
                {"name": "unix", "bind": f"unix:{path}", "pool": "p"},
            ],
        }
        balancer: RunningBalancer = start(
            config, prefix=activation(f"127.0.0.1:{port}", path), patience=False
        )
        balancer.program.wait_until(lambda: "Listening on" in balancer.log(), "its sockets are open")
        assert greeting(("127.0.0.1", port)) == HELLO
        balancer.wait_until_serving()
        for _ in range(20):
            assert greeting(("127.0.0.1", port)) == HELLO
            assert greeting(path, socket.AF_UNIX) == HELLO
        assert {each["name"]: each["address"] for each in balancer.status()["listeners"]} == {
            "tcp": f"127.0.0.1:{port}",
            "unix": f"unix:{path}",
        }
        assert "no listener is configured" not in balancer.log()
        # A listener that goes and comes back finds its socket again: another could not be opened there.
        whole = config["listeners"]
        balancer.reload(config | {"listeners": whole[1:]})
        balancer.reload(config | {"listeners": whole})
        assert greeting(("127.0.0.1", port)) == HELLO
        balancer.program.send(signal.SIGTERM)
        assert balancer.program.ended() == 0
        assert Path(path).is_socket()  # systemd goes on listening there


def test_a_name_gives_a_listener_with_port_0_its_socket_and_a_stranger_is_named(start):
    mine, other = free_port(), free_port()
    with greeter() as backend:
        balancer = start(
            simple({"address": f"127.0.0.1:{backend}"}),
            prefix=activation(f"127.0.0.1:{mine}", f"127.0.0.1:{other}", names="l:stranger"),
            patience=False,
        )
        balancer.program.wait_until(lambda: balancer.log().count("Listening on") == 2, "its sockets are open")
        assert greeting(("127.0.0.1", mine)) == HELLO
        balancer.wait_until_serving()
        assert balancer.port("l") == mine
        assert f"no listener is configured for 127.0.0.1:{other}" in balancer.log()


def test_clients_wait_while_the_program_is_away(start, tmp_path):
    """A restart refuses nobody: the service manager keeps the socket."""
    with greeter() as backend, socket.create_server(("127.0.0.1", 0)) as kept:
        port = kept.getsockname()[1]
        config = simple({"address": f"127.0.0.1:{backend}"}, bind=f"127.0.0.1:{port}")
        with lending(kept, tmp_path) as prefix:
            first = start(config, prefix=prefix)
            assert greeting(("127.0.0.1", port)) == HELLO
            first.program.send(signal.SIGTERM)
            assert first.program.ended() == 0
            answers: list[bytes] = []
            waiting = threading.Thread(target=lambda: answers.append(greeting(("127.0.0.1", port))))
            waiting.start()
            start(config, prefix=prefix)
            waiting.join(60)
        assert answers == [HELLO]


@contextmanager
def lending(sock: socket.socket, folder: Path) -> Iterator[tuple[str, ...]]:
    """Give the command that does what systemd does: the socket as descriptor 3, named in the environment.

    The program of the test is started without our descriptors, so it fetches this one.
    """
    meeting = str(folder / "meeting.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(meeting)
        server.listen()

        def lend() -> None:
            while True:
                try:
                    fetcher, _ = server.accept()
                except OSError:
                    return
                with fetcher:
                    socket.send_fds(fetcher, [b"x"], [sock.fileno()])

        thread = threading.Thread(target=lend)
        thread.start()
        try:
            yield sys.executable, "-c", FETCH, meeting
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SETTINGS = re.compile(r"Overall exposure level for easyproxy\.service: ([\d.]+)")


def version() -> int:
    return int(run_client("systemd-analyze", "--version").split()[1])


def installed(folder: Path) -> Path:
    """Copy the units with a program that exists: systemd-analyze looks for it."""
    shutil.copytree(UNITS, folder)
    program = Path(sys.executable).with_name("easyproxy")
    assert program.exists()
    for unit in folder.glob("easyproxy.*"):
        if unit.is_file():
            unit.write_text(unit.read_text().replace("/opt/easyproxy/bin/easyproxy", str(program)))
    if version() >= 253:
        shutil.rmtree(folder / "easyproxy.service.d")
    return folder


def test_systemd_takes_the_units(tmp_path):
    folder = installed(tmp_path / "units")
    done = subprocess.run(
        [
            find("systemd-analyze"),
            "verify",
            str(folder / "easyproxy.service"),
            str(folder / "easyproxy.socket"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "easyproxy" in line]
    if version() < 253:  # and takes the drop-in's word instead
        said = [line for line in said if "ignoring: notify-reload" not in line]
    assert (done.returncode, said) == (0, [])


def test_systemd_finds_the_service_little_exposed(tmp_path):
    folder = installed(tmp_path / "units")
    said = run_client(
        "systemd-analyze", "security", "--offline=true", "--no-pager", str(folder / "easyproxy.service")
    )
    found = SETTINGS.search(said)
    assert found, said
    assert float(found[1]) < 2.5
