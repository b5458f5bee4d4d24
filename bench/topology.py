"""Where client, balancer and server stand: each in its own network namespace, or all on loopback.

Traffic never leaves the namespaces or 127.0.0.1. Namespaces carry a random suffix and are deleted when the
context ends, however it ends; their virtual cables vanish with them.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Place = Literal["client", "balancer", "kernel", "server"]
PLACES: tuple[Place, ...] = ("client", "balancer", "kernel", "server")

# RFC 2544 sets 198.18.0.0/15 aside for benchmarks. One cable per pair, so that "direct" touches no third namespace.
_CABLES: tuple[tuple[Place, str, Place, str], ...] = (
    ("client", "198.18.0.1", "balancer", "198.18.0.2"),
    ("balancer", "198.18.1.1", "server", "198.18.1.2"),
    ("client", "198.18.2.1", "server", "198.18.2.2"),
    ("client", "198.18.3.1", "kernel", "198.18.3.2"),
    ("kernel", "198.18.4.1", "server", "198.18.4.2"),
)
# From the client to the server and back, through the balancer's namespace.
_ROUTES: tuple[tuple[Place, str, str], ...] = (
    ("client", "198.18.1.0/30", "198.18.0.2"),
    ("server", "198.18.0.0/30", "198.18.1.1"),
)
# Sessions that are opened by the thousand per second need many ports, and ports back from TIME_WAIT after a second
# (ip-sysctl: tcp_tw_reuse; on loopback that is the default).
_SETTINGS = {"ip_local_port_range": "10000 65535", "tcp_tw_reuse": "1"}


@dataclass(frozen=True, slots=True)
class Topology:
    """Addresses as each place sees them, and how a program is started in a place."""

    name: str
    hosts: dict[
        Place, tuple[str, str]
    ]  # of a balancer: where clients reach it, and where it reaches the server
    routed_host: (
        str  # where clients reach the server through the balancer's namespace; empty where that is not
    )
    direct_host: str  # where clients reach the server without a balancer
    server_bind: str  # where the server listens
    first_port: int
    prefixes: dict[Place, tuple[str, ...]]

    def command(self, place: Place, argv: Sequence[str]) -> list[str]:
        """Return the command that runs ``argv`` in a place. It is the program's own process: nothing is wrapped."""
        return [*self.prefixes[place], *argv]


@contextlib.contextmanager
def loopback(ports: int) -> Iterator[Topology]:
    """Put everything on 127.0.0.1, on ``ports`` neighbouring ports that are free now."""
    host = "127.0.0.1"
    yield Topology(
        "loopback",
        {"balancer": (host, host)},
        "",
        host,
        host,
        _free_ports(host, ports),
        dict.fromkeys(PLACES, ()),
    )


@contextlib.contextmanager
def namespaces() -> Iterator[Topology]:
    """Make three namespaces, joined by virtual cables. Needs root and iproute2.

    Raises:
        subprocess.CalledProcessError: the kernel or a container forbids it.
    """
    suffix = secrets.token_hex(3)
    names: dict[Place, str] = {place: f"bench-{place}-{suffix}" for place in PLACES}
    try:
        for name in names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            for setting, value in _SETTINGS.items():
                _in(name, f"echo {value} > /proc/sys/net/ipv4/{setting}")
        for near, near_host, far, far_host in _CABLES:
            near_end, far_end = f"to-{far}", f"to-{near}"
            _ip(
                "-n",
                names[near],
                "link",
                "add",
                near_end,
                "type",
                "veth",
                "peer",
                "name",
                far_end,
                "netns",
                names[far],
            )
            for place, end, host in ((near, near_end, near_host), (far, far_end, far_host)):
                _ip("-n", names[place], "address", "add", f"{host}/30", "dev", end)
                _ip("-n", names[place], "link", "set", end, "up")
        _in(names["balancer"], "echo 1 > /proc/sys/net/ipv4/ip_forward")
        for place, network, gateway in _ROUTES:
            _ip("-n", names[place], "route", "add", network, "via", gateway)
        yield Topology(
            name="network namespaces",
            hosts={
                "balancer": (_CABLES[0][3], _CABLES[1][3]),
                "kernel": (_CABLES[3][3], _CABLES[4][3]),
            },
            routed_host=_CABLES[1][3],
            direct_host=_CABLES[2][3],
            server_bind="0.0.0.0",
            first_port=7000,
            prefixes={place: ("ip", "netns", "exec", name) for place, name in names.items()},
        )
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _in(namespace: str, line: str) -> None:
    _ip("netns", "exec", namespace, "sh", "-c", line)


def _free_ports(host: str, count: int) -> int:
    """Return the first of ``count`` neighbouring free ports below the range that the kernel hands out."""
    for _ in range(100):
        first = random.randrange(10000, 32000 - count)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    probe = stack.enter_context(socket.socket())
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} neighbouring free ports on {host}")
