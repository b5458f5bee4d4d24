"""Listening sockets that a service manager opened for us: sd_listen_fds(3) without a dependency.

They come as descriptors 3, 4, ... with ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES``. Which listener takes which is decided by
whoever opens listeners.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

FIRST_DESCRIPTOR = 3
_DIGITS = 6  # more descriptors than a process may have


@dataclass(frozen=True, slots=True)
class Activated:
    """One address that we were given, with its listening sockets; whoever asked for them owns them.

    Attributes:
        name: ``FileDescriptorName=`` of the socket unit; by default the unit's own name.
    """

    name: str
    sockets: tuple[socket.socket, ...]


def activated(
    environment: MutableMapping[str, str] = os.environ, first: int = FIRST_DESCRIPTOR
) -> tuple[list[Activated], list[str]]:
    """Take the sockets over; return them by address, and in words what is no use to us.

    The variables are removed, and the descriptors do not reach programs that we start: they were for this process.
    """
    variables = {name: environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    environment.pop("LISTEN_PIDFDID", None)
    said = variables["LISTEN_FDS"]
    if variables["LISTEN_PID"] != str(os.getpid()) or not (said.isascii() and said.isdecimal()):
        return [], []
    count = int(said[:_DIGITS])
    names = variables["LISTEN_FDNAMES"].split(":") if variables["LISTEN_FDNAMES"] else []
    groups: dict[object, tuple[str, list[socket.socket]]] = {}
    problems = []
    for place in range(count):
        name = names[place] if place < len(names) else ""
        try:
            sock = socket.socket(fileno=first + place)
        except OSError as error:
            problems.append(
                f"descriptor {first + place} ({name or 'no name'}) is no socket: {error.strerror}"
            )
            if error.errno == errno.EBADF:  # they come in a row: whatever is open behind a gap is our own
                break
            continue
        if not _is_listening(sock):
            problems.append(f"descriptor {first + place} ({name or 'no name'}) is no listening stream socket")
            sock.detach()  # where fewer were given than was said, it is one of our own
            continue
        sock.set_inheritable(False)
        # With ReusePort= an address has several sockets: they belong to one listener.
        groups.setdefault((sock.family, sock.getsockname()), (name, []))[1].append(sock)
    return [Activated(name, tuple(sockets)) for name, sockets in groups.values()], problems


def _is_listening(sock: socket.socket) -> bool:
    return (
        sock.family in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
        and sock.type == socket.SOCK_STREAM
        and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )
