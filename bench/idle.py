"""Memory per idle session: how much a balancer grows with thousands of sessions that were used once and then rest."""

from __future__ import annotations

import subprocess
import time

from bench import accounting
from bench.programs import ProgramFailed, end, last_line
from bench.servers import wire
from bench.topology import Topology

_REST_S = 1.0  # buffers that are given back after use, are given back by then


def memory_kib(topology: Topology, host: str, process: int, port: int, count: int) -> tuple[int, int]:
    """Open ``count`` sessions through a balancer and return its memory in KiB before and with them.

    It is the PSS of all its processes.

    Raises:
        ProgramFailed: the sessions could not all be opened and used.
    """
    before = accounting.memory_kib(process)
    argv = topology.command("client", wire("idle", host, str(port), str(count)))
    client = subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        if client.stdout is None or client.stdin is None:
            raise ProgramFailed("no pipes to the client of the idle sessions")
        line = client.stdout.readline()
        if line.strip() != f"open {count}":
            raise ProgramFailed(f"idle sessions: {last_line(line + client.stdout.read())}")
        time.sleep(_REST_S)
        return before, accounting.memory_kib(process)
    finally:
        for pipe in (client.stdin, client.stdout):
            if pipe is not None:
                pipe.close()
        end(client)
