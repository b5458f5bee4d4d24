"""What the page is put before: a real balancer with its admin server on TCP, backends that die and return, clients."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from eventually import eventually
from proxy import QUICK, RunningBalancer, Settings

from easyproxy.cli.client import fetch, post
from easyproxy.model import Address
from ports import free_port
from programs import Program, is_listening

ECHO = Path(__file__).with_name("echo.py")


class Backend:
    """One server, a process of its own, on a port that stays its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._output = folder / f"backend-{self.port}.txt"
        self._program: Program | None = None
        self.start()

    def start(self) -> None:
        """Start it, unless it runs."""
        if self._program is not None and self._program.process.poll() is None:
            return
        self._program = Program([sys.executable, "-I", "-S", str(ECHO), str(self.port)], self._output)
        self._program.wait_until(lambda: is_listening(self.port), f"{self.name} listens")

    def kill(self) -> None:
        assert self._program is not None
        self._program.kill()

    def stop(self) -> None:
        assert self._program is not None
        self._program.stop()


class Client:
    """One session, held open. ``source`` is the client's address."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        self.say()

    def say(self, text: bytes = b"well?") -> None:
        """Send something and have it back."""
        self._socket.sendall(text)
        received = b""
        while len(received) < len(text):
            data = self._socket.recv(65536)
            assert data, "the session has ended"
            received += data

    def sees_the_end(self) -> bool:
        """Wait for the end of the session: its reset, or an orderly end."""
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._socket.close()


class Stage(RunningBalancer):
    """``easyproxy run`` with a pool ``shop``, its backends and its clients."""

    def __init__(self, folder: Path, names: tuple[str, ...], *, token: str = "", pool: str = "shop") -> None:
        folder.mkdir(parents=True)
        self.servers = {name: Backend(name, folder) for name in names}
        self.clients: list[Client] = []
        self.pool = pool
        self.token = token
        admin: Settings = {"bind": f"127.0.0.1:{free_port()}"}
        if token:
            (folder / "token").write_text(token)
            admin["token_file"] = str(folder / "token")
        self.settings: Settings = {
            "admin": admin,
            "workers": 1,
            "listeners": [{"bind": f"127.0.0.1:{free_port()}", "pool": pool, "name": "front"}],
            "pools": {
                pool: {
                    "check": {"type": "tcp", **QUICK},
                    "backends": [
                        {"name": each.name, "address": each.address} for each in self.servers.values()
                    ],
                }
            },
        }
        try:
            super().__init__(folder, self.settings)
        except BaseException:
            self.stop_servers()
            raise
        self._at_first = self.file.read_text()
        self.admin = Address.parse(admin["bind"])
        self.url = f"http://{admin['bind']}/"
        self.listening = Address.parse(self.settings["listeners"][0]["bind"]).port

    def ask(self, path: str) -> Any:
        """Return what the API says."""
        return fetch(self.admin, path, self.token or None)

    def status(self) -> Settings:
        found: Settings = self.ask("/api/status")
        return found

    def connect(self, source: str = "127.0.0.1") -> Client:
        client = Client(self.listening, source)
        self.clients.append(client)
        return client

    def backend(self, name: str) -> dict[str, Any]:
        """Return what the status says of one backend."""
        return self.backends()[name]

    def restart(self) -> None:
        """Start it again after its end, with the same file."""
        self.program.stop()
        eventually(self._is_free, "its worker has left the address")
        self.program = Program(
            self.program.argv, self.folder / "log-again.txt", env={"PYTHONDONTWRITEBYTECODE": "1"}
        )
        self.wait_until_serving()

    def _is_free(self) -> bool:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.listening))
            except OSError:
                return False
        return True

    def reset(self) -> None:
        """Make it as it was at the start: the next test is another one's."""
        for client in self.clients:
            client.close()
        self.clients.clear()
        for override in self.ask("/api/overrides"):
            post(self.admin, "/api/overrides/forget", {"id": override["id"]})
        if self.file.read_text() != self._at_first:
            self.file.write_text(self._at_first)
            post(self.admin, "/api/reload", {})
        for name, server in self.servers.items():
            server.start()
            self.wait_for_state(name, "ready")
        self.wait_for_no_sessions()

    def stop_servers(self) -> None:
        for server in self.servers.values():
            server.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self.stop()
        self.stop_servers()


Begin = Callable[..., Stage]
"""Starts a stage with backends of these names; see the fixture of this name."""
