"""The servers behind every balancer: Redis, nginx, iperf3, and one that only holds sessions."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.peers import which
from bench.peers.render import Route, render
from bench.programs import running
from bench.scenarios import SERVICES
from bench.topology import Topology

_CHECKOUT = Path(__file__).parent.parent
_ORIGIN = Path(__file__).parent / "origin.conf"


def server_port(topology: Topology, service: str) -> int:
    """Return the port of a service on the server: the first ones of the run."""
    return topology.first_port + SERVICES.index(service)


def wire(*arguments: str) -> list[str]:
    """Return the command of one of the tiny programs in wire.py; it works in any folder."""
    return [sys.executable, str(_CHECKOUT / "bench" / "wire.py"), *arguments]


@contextlib.contextmanager
def serving(topology: Topology, folder: Path, cores: int, descriptors: int) -> Iterator[list[str]]:
    """Run the servers for as long as the context lasts; yields the programs that this machine lacks."""
    host = topology.server_bind
    port = {service: str(server_port(topology, service)) for service in SERVICES}
    commands: dict[str, list[str]] = {
        "redis-server": [
            "redis-server",
            "--bind",
            host,
            "--port",
            port["redis"],
            "--save",
            "",
            "--protected-mode",
            "no",
        ],
        "nginx": ["nginx", "-p", str(folder), "-e", f"{folder}/origin.log", "-c", f"{folder}/origin.conf"],
        "iperf3": ["iperf3", "-s", "-B", host, "-p", port["bulk"]],
    }
    _write_origin(Route("http", host, int(port["http"]), host, 0), folder, cores, descriptors)
    missing = []
    with contextlib.ExitStack() as stack:
        for name, argv in commands.items():
            program = which(name)
            if program is None:
                missing.append(name)
                continue
            command = topology.command("server", [str(program), *argv[1:]])
            stack.enter_context(running(command, folder / f"server-{name}.log"))
        stack.enter_context(
            running(topology.command("server", wire("hold", host, port["hold"])), folder / "server-hold.log")
        )
        yield missing


def _write_origin(route: Route, folder: Path, cores: int, descriptors: int) -> None:
    words = {
        "folder": str(folder),
        "cores": str(cores),
        "descriptors": str(descriptors),
        "user": "root" if os.geteuid() == 0 else "nobody",
    }
    (folder / "origin.conf").write_text(
        render(_ORIGIN.read_text(encoding="utf-8"), [route], words), encoding="utf-8"
    )
    pages = folder / "www"
    pages.mkdir()
    for name, size in (("1k", 1 << 10), ("100k", 100 << 10)):
        (pages / name).write_bytes(b"x" * size)
