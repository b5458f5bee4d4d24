"""Starting the peers: each with its own folder, configuration and block of ports, all up for the whole run."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers import DIRECT, ROUTED, Peer
from bench.peers.render import Route
from bench.programs import ProgramFailed, last_line, output_of, running
from bench.results import Results
from bench.scenarios import SERVICES
from bench.servers import server_port, wire
from bench.topology import Place, Topology

PORTS_EACH = 10
_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Running:
    """Something that can be loaded: a balancer, or the server itself (``process`` is 0)."""

    name: str
    host: str
    first_port: int
    process: int

    def port(self, service: str) -> int:
        """Return the port of one of its listeners."""
        return self.first_port + SERVICES.index(service)


@contextlib.contextmanager
def started(
    topology: Topology, peers: Sequence[Peer], folder: Path, limits: tuple[int, int], results: Results
) -> Iterator[list[Running]]:
    """Start the peers and yield those that serve; the others are named in ``results.missing``.

    ``limits`` are the cores and the descriptors that each may use.
    """
    with contextlib.ExitStack() as stack:
        up = [Running(DIRECT, topology.direct_host, topology.first_port, 0)]
        if topology.routed_host:
            up.append(Running(ROUTED, topology.routed_host, topology.first_port, 0))
            results.titles[ROUTED] = "no balancer, routed"
        for number, peer in enumerate(peers, start=1):
            if peer.place not in topology.hosts:
                results.missing[peer.name] = "it needs network namespaces, and those need root"
                results.titles.pop(peer.name, None)
                continue
            progress(f"starting {peer.title}")
            first_port = topology.first_port + PORTS_EACH * number
            home = folder / peer.name
            home.mkdir()
            argv = topology.command(
                peer.place, peer.prepare(home, _routes(topology, peer.place, first_port), *limits)
            )
            process = stack.enter_context(running(argv, home / "output.log"))
            host = topology.hosts[peer.place][0]
            if not _serves(topology, host, first_port, process):
                said = last_line((home / "output.log").read_text(errors="replace"))
                results.missing[peer.name] = f"does not serve: {said or 'no answer, and no word of it'}"
                results.titles.pop(peer.name, None)
                progress(f"left out: {peer.name}: {results.missing[peer.name]}")
                continue
            up.append(Running(peer.name, host, first_port, process.pid))
        yield up


def _routes(topology: Topology, place: Place, first_port: int) -> list[Route]:
    near, far = topology.hosts[place]
    return [
        Route(service, near, first_port + number, far, server_port(topology, service))
        for number, service in enumerate(SERVICES)
    ]


def _serves(topology: Topology, host: str, first_port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until a Redis answers through the balancer's first listener, or its process has ended."""
    probe = topology.command("client", wire("ping", host, str(first_port), "2"))
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ProgramFailed):
            output_of(probe, _START_S)
            return True
    return False


def progress(line: str) -> None:
    """Say how far the run is."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
