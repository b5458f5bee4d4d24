"""A network namespace of the test's own: there packets can be dropped and ports used up without harm to the machine.

Needs root. The calling thread moves into the namespace, and so does every thread and process that it starts; the
namespace ends with the last of them.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # sched.h; os.unshare and os.setns came with Python 3.12 only


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Namespace:
    """The network namespace that this thread is in."""

    def drop_port(self, port: int) -> None:
        """Let every packet from and to a port vanish: for both sides the other one is gone without a word."""
        self._nft(
            f"add rule inet vanish in tcp sport {port} drop\nadd rule inet vanish in tcp dport {port} drop\n"
        )

    def limit_ports(self, first: int, last: int) -> None:
        """Set the range of ephemeral ports."""
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(f"{first} {last}\n")

    def prepare(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        self._nft("add table inet vanish\nadd chain inet vanish in { type filter hook input priority 0; }\n")

    def _nft(self, commands: str) -> None:
        subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


@contextmanager
def own_namespace() -> Iterator[Namespace]:
    """Enter a new namespace, and leave it at the end. Raises OSError without the privilege."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.unshare(_CLONE_NEWNET))
        try:
            namespace = Namespace()
            namespace.prepare()
            yield namespace
        finally:
            _check(libc.setns(home, _CLONE_NEWNET))
    finally:
        os.close(home)
