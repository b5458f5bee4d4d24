"""Four network namespaces: a client, a balancer, and backends ``a`` and ``b``, each wired to the balancer.

Sockets belong to the namespace in which they were made, wherever they are used afterwards. So a test runs in the balancer's
namespace, steps into another one to make a socket there, and stays one program. Needs root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_CLONE_NEWNET = 0x40000000
BACKENDS = ("a", "b")
PORT = 9000
CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
FRONT = {4: "10.77.1.1", 6: "fd77:1::1"}
INNER = {(name, 4): f"10.77.{11 + i}.1" for i, name in enumerate(BACKENDS)}
BACKEND = {
    (name, family): f"10.77.{11 + i}.2" if family == 4 else f"fd77:{11 + i}::2"
    for i, name in enumerate(BACKENDS)
    for family in (4, 6)
}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Net:
    """The namespaces; ``close`` removes them with everything in them."""

    def __init__(self) -> None:
        self._prefix = f"ep{os.getpid()}"
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._servers: list[EchoServer] = []
        for name in ("client", "balancer", *BACKENDS):
            ip("netns", "add", self.name(name))
            ip("-n", self.name(name), "link", "set", "lo", "up")
        self._wire("client", "10.77.1", "fd77:1:")
        for i, name in enumerate(BACKENDS):
            self._wire(name, f"10.77.{11 + i}", f"fd77:{11 + i}:")

    def name(self, namespace: str) -> str:
        return f"{self._prefix}-{namespace}"

    def _wire(self, name: str, net4: str, net6: str) -> None:
        far, near = self.name(name), self.name("balancer")
        ip("link", "add", f"v{name}", "netns", near, "type", "veth", "peer", "name", "eth0", "netns", far)
        for namespace, device, host in ((near, f"v{name}", 1), (far, "eth0", 2)):
            ip("-n", namespace, "addr", "add", f"{net4}.{host}/24", "dev", device)
            ip("-n", namespace, "-6", "addr", "add", f"{net6}:{host}/64", "dev", device, "nodad")
            ip("-n", namespace, "link", "set", device, "up")

    def route_back(self) -> None:
        """Let the backends answer clients through the balancer: what transparent mode depends on."""
        for name in BACKENDS:
            index = 11 + BACKENDS.index(name)
            ip("-n", self.name(name), "route", "add", "default", "via", f"10.77.{index}.1")
            ip("-n", self.name(name), "-6", "route", "add", "default", "via", f"fd77:{index}::1")

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Move this thread into a namespace for a while."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name(name)}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter(there)
            try:
                yield
            finally:
                self._enter(home)
        finally:
            os.close(there)
            os.close(home)

    def _enter(self, fd: int) -> None:
        if self._libc.setns(fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")

    def connect(
        self, host: str, port: int, *, namespace: str = "client", within_s: float = 20.0
    ) -> socket.socket:
        """Connect from a namespace."""
        with self.inside(namespace):
            return socket.create_connection((host, port), timeout=within_s)

    def serve(self, name: str, *, family: int = 4, port: int = PORT) -> EchoServer:
        """Start a backend that says its name and whom it sees, and then echoes."""
        with self.inside(name):
            server = EchoServer(name, BACKEND[name, family], port)
        self._servers.append(server)
        return server

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for name in ("client", "balancer", *BACKENDS):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", self.name(name))


class EchoServer:
    """Greets with ``name peer``, then echoes; one thread for each connection."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=1024)
        self.connections: list[socket.socket] = []
        self.broken: queue.Queue[str] = queue.Queue()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, peer = self._socket.accept()
            except OSError:
                return
            self.connections.append(sock)
            thread = threading.Thread(target=self._echo, args=(sock, peer[0]), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _echo(self, sock: socket.socket, peer: str) -> None:
        with sock:
            try:
                sock.sendall(f"{self.name} {peer}\n".encode())
                while data := sock.recv(65536):
                    sock.sendall(data)
            except ConnectionResetError:
                self.broken.put("reset")
            except OSError as error:
                self.broken.put(str(error))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for sock in self.connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


def read_line(sock: socket.socket) -> str:
    """Read the greeting."""
    data = b""
    while not data.endswith(b"\n"):
        piece = sock.recv(1)
        if not piece:
            raise EOFError(data)
        data += piece
    return data.decode().strip()


def sysctl(name: str) -> str:
    return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
