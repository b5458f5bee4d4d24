"""Listening sockets that were opened by somebody else: a service manager (socket activation) or a predecessor.

A listener whose address matches takes one of them instead of opening its own. Reading the environment, and handing
sockets from process to process, happen elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from easyproxy.engine.relay.address import socket_address
from easyproxy.model import Address, Listener


class LentSocket(socket.socket):
    """A listening socket that its lender keeps open, too: the file of a unix socket is not ours to remove."""


class BorrowedSocket(LentSocket):
    """One of a predecessor that still serves: its file becomes ours when the predecessor leaves (:func:`own`)."""


def own(sockets: list[socket.socket]) -> None:
    """Make borrowed sockets our own, in place."""
    sockets[:] = [
        socket.socket(fileno=sock.detach()) if isinstance(sock, BorrowedSocket) else sock for sock in sockets
    ]


def lend(sockets: list[socket.socket]) -> None:
    """Leave the files of our sockets to somebody else, in place."""
    sockets[:] = [LentSocket(fileno=sock.detach()) for sock in sockets]


@dataclass(frozen=True, slots=True)
class Group:
    """The listening sockets of one address.

    Attributes:
        name: a listener's name where the giver knows one; it alone can match a listener with port 0.
        sockets: one, or one for each worker of the giver. They listen; whoever makes the group owns them until
            it is given to :class:`Inherited`.
        is_lent: the giver keeps them (systemd does): a listener that goes and comes back gets them again.
    """

    name: str
    sockets: tuple[socket.socket, ...]
    is_lent: bool = False


class Inherited:
    """The groups that no listener has taken yet. Owns their sockets; :meth:`close` closes them."""

    def __init__(self, groups: Iterable[Group] = ()) -> None:
        self._groups = list(groups)

    def take(self, listener: Listener) -> list[socket.socket] | None:
        """Return the sockets of a listener's address, now the caller's, or None when there are none."""
        for group in self._groups:
            if group.sockets and _is_match(listener, group):
                if group.is_lent:
                    return [LentSocket(fileno=os.dup(sock.fileno())) for sock in group.sockets]
                self._groups.remove(group)
                return list(group.sockets)
        return None

    def unused(self, listeners: Iterable[Listener]) -> list[str]:
        """Addresses that none of these listeners has, for a warning."""
        wanted = tuple(listeners)
        return [
            str(address_of(group.sockets[0]))
            for group in self._groups
            if group.sockets and not any(_is_match(listener, group) for listener in wanted)
        ]

    def sockets(self) -> list[tuple[socket.socket, ...]]:
        """The sockets of each group; they stay ours."""
        return [group.sockets for group in self._groups]

    def untaken(self) -> list[str]:
        """Names of the groups that were given and not taken."""
        return [group.name for group in self._groups if not group.is_lent]

    def close_untaken(self) -> None:
        """Close what was given and not taken; what is lent stays."""
        for group in self._groups:
            for sock in () if group.is_lent else group.sockets:
                sock.close()
        self._groups = [group for group in self._groups if group.is_lent]

    def close(self) -> None:
        """Close what nobody has taken, and what is lent."""
        for group in self._groups:
            for sock in group.sockets:
                sock.close()
        self._groups.clear()


def address_of(sock: socket.socket) -> Address:
    """Where a socket listens."""
    where = sock.getsockname()
    return Address(path=where) if isinstance(where, str) else Address(where[0], where[1])


def _is_match(listener: Listener, group: Group) -> bool:
    there, bind = address_of(group.sockets[0]), listener.bind
    if bind.path or there.path:
        return bind.path == there.path
    if bind.port != there.port and (bind.port or listener.name != group.name):
        return False
    if not bind.host:  # ":80" is every address of both families, or of IPv4 where there is no IPv6
        return there.host in {"::", "0.0.0.0"}  # noqa: S104 - compared, not bound
    host = "127.0.0.1" if bind.host == "localhost" else bind.host
    try:
        family, where = socket_address(Address(host, there.port))
    except OSError:  # a scope that is no interface of this machine; opening it says so
        return False
    assert not isinstance(where, str)  # noqa: S101 - unix sockets were compared above
    # The kernel writes an IPv6 address in its shortest form; the listener may not.
    return family == group.sockets[0].family and _packed(family, where) == _packed(
        family, group.sockets[0].getsockname()
    )


def _packed(family: int, where: tuple[object, ...]) -> tuple[object, ...]:
    scope = where[3] if len(where) > 3 else 0
    return socket.inet_pton(family, str(where[0]).partition("%")[0]), scope


def close_group(group: list[socket.socket]) -> None:
    """Close the sockets of a listener; the file of a unix socket goes with them, unless it is only lent."""
    for sock in group:
        path = sock.getsockname() if sock.family == socket.AF_UNIX else ""
        if path and not isinstance(sock, LentSocket):
            # Before it is closed: a successor that finds nobody listening on the file makes a new one there.
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        sock.close()
