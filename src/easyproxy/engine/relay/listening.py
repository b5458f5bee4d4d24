"""Opening listening sockets: one per listener, owned by the control process and shared by its workers.

Facts (socket(7), ip(7)): with SO_REUSEPORT every worker could have a socket of its own, but then clients wait in the queue of
a busy worker while another one is free (docs/decisions/0005-one-queue.md). Accepted sockets inherit
TCP_NODELAY, SO_OOBINLINE, keep-alive and TCP_USER_TIMEOUT from the listening one, which saves system calls for every session.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from easyproxy.engine.relay.address import socket_address
from easyproxy.engine.relay.keepalive import arm_keepalive
from easyproxy.errors import EngineError
from easyproxy.model import Address, Listener

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence


def open_listener(listener: Listener, ours: Iterable[socket.socket] = ()) -> socket.socket:
    """Open the socket of a listener, and listen.

    Args:
        listener: what to open.
        ours: sockets on which this program listens already, to be told from those of others.

    Raises:
        EngineError: the address is in use, not ours, or not permitted, or its file cannot be given away; nothing is left.
    """
    bind = listener.bind
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(_open_unix(bind.path) if bind.path else _open_tcp(_numeric(bind)))
            if bind.path:
                undo.callback(Path(bind.path).unlink, missing_ok=True)
            tune([sock], listener)
        except OSError as error:
            raise EngineError(
                f"listener {listener.name}: cannot listen on {bind}: {_explain(error, bind, ours)}"
            ) from error
        undo.pop_all()
        return sock


def tune(sockets: list[socket.socket], listener: Listener) -> None:
    """Give listening sockets the settings that accepted ones inherit, and listen; may be called again (listen(2)).

    Raises:
        EngineError: the file of a unix socket cannot have the permissions that it should have.
    """
    for sock in sockets:
        sock.setblocking(False)  # one that was inherited may block
        if listener.bind.path:
            # The file of one that is lent is its lender's; one that somebody has removed comes anew.
            if type(sock) is socket.socket and is_reachable(sock):
                _permit(listener)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # urgent bytes keep their place
            arm_keepalive(sock.setsockopt, listener.keepalive_s, listener.user_timeout_s)
        sock.listen(listener.backlog)


def group_of(listener: Listener) -> int:
    """Return the number of the group that its file is to belong to; -1 for whatever it has. Raises EngineError when there is none."""
    try:
        return grp.getgrnam(listener.group).gr_gid if listener.group else -1
    except KeyError:
        raise EngineError(
            f"listener {listener.name}: there is no group {listener.group} on this machine; make it (groupadd) or choose another"
        ) from None


def _permit(listener: Listener) -> None:
    """Let those connect who are to. Nobody can before the first listen(2)."""
    if listener.mode is None and not listener.group:
        return
    path, group = listener.bind.path, group_of(listener)
    try:
        with _file_of(path) as file:
            if group >= 0:
                os.chown(file, -1, group)
            if listener.mode is not None:
                os.chmod(file, listener.mode)  # noqa: PTH101
    except OSError as error:
        remedy = (
            "; only root and members of a group may give a file to it" if error.errno == errno.EPERM else ""
        )
        raise EngineError(
            f"listener {listener.name}: cannot set permissions of {path}: {error.strerror}{remedy}"
        ) from error


@contextlib.contextmanager
def _file_of(path: str) -> Iterator[str]:
    """Name the file of a socket so that it stays the same one, whoever puts a link in its place meanwhile (open(2), O_PATH)."""
    if not hasattr(os, "O_PATH"):
        yield path
        return
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def is_reachable(sock: socket.socket) -> bool:
    """Whether clients find a listening socket: the file of a unix socket may have been removed by somebody."""
    return sock.family != socket.AF_UNIX or os.path.lexists(sock.getsockname())


def share(sockets: Sequence[socket.socket], ports: Collection[int]) -> None:
    """Let others of this user bind beside those sockets whose port is among ``ports``, and beside no others.

    The option is looked at whenever somebody binds, and a socket that is bound and does not listen gets no client. It is never
    set while nobody is expected: whoever listened there as well would get a part of our clients. Once somebody has come, taking it back
    does not undo it: the kernel remembers for the port, and for this user, until nobody has the port or somebody binds it without
    the option (inet_csk_update_fastreuse, net/ipv4/inet_connection_sock.c). So it is no way for a listener past itself
    (docs/decisions/0005-one-queue.md).
    """
    for sock in sockets:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, sock.getsockname()[1] in ports)


def _numeric(bind: Address) -> Address:
    if bind.host == "localhost":
        return Address("127.0.0.1", bind.port)
    if bind.host:
        return bind
    # ":80" is every address of both families, where there is IPv6.
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return Address("0.0.0.0", bind.port)  # noqa: S104 - that is what ":port" asks for
    return Address("::", bind.port)


def _open_tcp(address: Address) -> socket.socket:
    family, where = socket_address(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.host == "::" else 1)
        sock.setblocking(False)
        sock.bind(where)
    except OSError:
        sock.close()
        raise
    return sock


def _open_unix(path: str) -> socket.socket:
    # A socket file that nobody answers on was left by a program that was killed; a living one is not ours to take.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):  # noqa: PTH116
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)  # noqa: PTH108
                except BlockingIOError:  # alive, with a full backlog
                    pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(error: OSError, bind: Address, ours: Iterable[socket.socket]) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            if bind.path:
                return (
                    f"{bind.path} is in use by another program (ss -lxp shows it), or is a file of another kind; "
                    "stop the program or choose another path"
                )
            for sock in ours:
                if sock.family != socket.AF_UNIX and sock.getsockname()[1] == bind.port:
                    return (
                        f"this program listens on {Address(*sock.getsockname()[:2])} until the change is in force, and the two "
                        "addresses overlap; take that listener out with one reload and bring the new one in with the next, "
                        "or restart the program"
                    )
            return f"port {bind.port} is in use by another program; stop it (ss -ltnp shows it) or choose another address"
        case errno.ENOENT if bind.path:
            return f"the folder {os.path.dirname(bind.path)} does not exist; make it"  # noqa: PTH120
        case errno.EADDRNOTAVAIL:
            return "no interface of this machine has that address"
        case errno.EACCES | errno.EPERM:
            if bind.path:
                return "not permitted; this user may not write there"
            return "not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        case _:
            return os.strerror(error.errno or 0)
