"""The kernel's table of flows, read, deleted from and listened to over netlink (ctnetlink) with the standard library alone.

Binary, because the text of ``/proc/net/nf_conntrack`` is deprecated, and takes several times as long for 100,000 flows. The
kernel filters what it lists: only translated flows come up. A socket belongs to the network namespace in which it was opened.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

from easyproxy.engine.kernel.flows import DNAT, ID, STATUS, Flow, read
from easyproxy.errors import EngineError

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_STATUS_MASK = 26
_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_DESTROY = 270, 1, 3
_SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_BATCH = 200
_RECEIVE = 1 << 18
_WITHIN_S = 10.0
_UNHEARD = 32 << 20
"""Bytes of the kernel's memory for what it has told and we have not heard: about 40,000 flows."""


class Conntrack:
    """One netlink socket; ``close`` it. Not to be used by two threads at once.

    All raise EngineError where the kernel does not answer, or refuses.
    """

    def __init__(self) -> None:
        self._socket = _open(within_s=_WITHIN_S)
        self._number = 0
        self._is_owed = False  # the last question has not had its whole answer

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def flows(self) -> Iterator[Flow]:
        """Read all translated TCP flows, parsing as it goes; walk it to the end."""
        want = struct.pack(">I", DNAT)
        attributes = _attribute(STATUS, want) + _attribute(_STATUS_MASK, want)
        self._ask(_GET, _REQUEST | _DUMP, 0, attributes)
        while True:
            data = self._receive()
            offset = 0
            while offset < len(data):
                length, kind, _, number, _ = _HEADER.unpack_from(data, offset)
                if kind == _DONE:
                    self._is_owed = False
                    return
                if kind == _ERROR:
                    _check(data, offset)
                elif number == self._number:
                    flow = read(data, offset + _HEADER.size, offset + length)
                    if flow is not None:
                        yield flow
                offset += (length + 3) & ~3

    def has(self, flow: Flow) -> bool:
        """Ask for one flow. A list may miss one: the kernel goes through its table while that changes (NLM_F_DUMP_INTR)."""
        family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
        self._ask(_GET, _REQUEST, family, flow.handle)
        data = self._answer()
        if _HEADER.unpack_from(data)[1] == _ERROR:
            return False
        found = read(data, _HEADER.size, len(data))
        return found is not None and found.identity == flow.identity

    def delete(self, flows: Iterable[Flow]) -> int:
        """Forget flows, and return how many still were there. The next packet of each belongs to no session."""
        rest = iter(flows)
        deleted = 0
        while batch := list(islice(rest, _BATCH)):
            for flow in batch:
                identity = flow.handle + _attribute(ID, struct.pack(">I", flow.id))
                family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
                self._ask(_DELETE, _REQUEST | _ACK, family, identity)
                deleted += self._acknowledged()
        return deleted

    def _acknowledged(self) -> int:
        data = self._answer()
        (error,) = struct.unpack_from("=i", data, 16)
        if error in (0, -2):  # ENOENT: it has ended by itself meanwhile
            return int(error == 0)
        _check(data, 0)
        return 0

    def _ask(self, kind: int, flags: int, family: int, attributes: bytes) -> None:
        if self._is_owed:
            # Whoever asked before has broken off: what is still to come would be taken for the answer to this.
            fresh = _open(within_s=_WITHIN_S)
            self._socket.close()
            self._socket = fresh
        self._number += 1
        self._is_owed = True
        head = _HEADER.pack(20 + len(attributes), kind, flags, self._number, 0)
        try:
            self._socket.send(head + bytes((family, 0, 0, 0)) + attributes)
        except OSError as error:
            raise EngineError(f"cannot ask the kernel for its flows: {error.strerror}") from error

    def _answer(self) -> bytes:
        """Receive an answer that is one message."""
        data = self._receive()
        self._is_owed = False
        return data

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except OSError as error:
            raise EngineError(f"cannot read the kernel's flows: {error.strerror or error}") from error


class Departures:
    """Flows as the kernel forgets them, with what it last knew of each; ``close`` it. Not to be used by two threads at once.

    A list tells of flows that are there; those that came and went between two lists are only to be had here.
    """

    def __init__(self) -> None:
        self._socket = _open(within_s=0.0)
        with contextlib.ExitStack() as undo:
            undo.callback(self._socket.close)
            # As far as net.core.rmem_max allows, and beyond that.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNHEARD)
            with contextlib.suppress(OSError):  # root of a user namespace may not
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _UNHEARD)
            try:
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_DESTROY)
            except OSError as error:
                raise EngineError(
                    f"this kernel does not tell which flows it forgets: {error.strerror}"
                ) from error
            undo.pop_all()
        self._heard: deque[bytes] = deque()
        self.has_missed = False
        """Whether more went at a time than the kernel could keep for us."""

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def hear(self) -> None:
        """Take from the kernel what it has to tell, to make room for more."""
        receive, keep = self._socket.recv, self._heard.append
        while True:
            try:
                keep(receive(_RECEIVE))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise EngineError(
                        f"cannot read which flows the kernel forgets: {error.strerror}"
                    ) from error
                self.has_missed = True

    def take(self) -> Iterator[Flow]:
        """Hear, and give each translated TCP flow that the kernel has forgotten; what is not walked to is given the next time."""
        self.hear()
        return self._given()

    def _given(self) -> Iterator[Flow]:
        while self._heard:
            data = self._heard.popleft()
            flow = read(data, _HEADER.size, len(data), is_gone=True)
            if flow is not None:
                yield flow


def _open(*, within_s: float) -> socket.socket:
    """Open a netlink socket on which a call waits so long; 0 is not at all."""
    with contextlib.ExitStack() as undo:
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            undo.callback(sock.close)
            sock.bind((0, 0))
        except OSError as error:
            raise EngineError(
                f"this kernel offers no netlink to its packet filter: {error.strerror}"
            ) from error
        sock.settimeout(within_s)
        undo.pop_all()
        return sock


def fill() -> tuple[int, int]:
    """How many flows the kernel knows, and how many it can; (0, 0) where it does not say."""
    folder = Path("/proc/sys/net/netfilter")
    try:
        return int((folder / "nf_conntrack_count").read_text()), int(
            (folder / "nf_conntrack_max").read_text()
        )
    except OSError:
        return 0, 0


def is_permitted() -> bool:
    """Whether the kernel answers us."""
    with closing(Conntrack()) as table:
        try:
            for _ in table.flows():
                pass
        except EngineError:
            return False
    return True


def _check(data: bytes, offset: int) -> None:
    (error,) = struct.unpack_from("=i", data, offset + 16)
    if error:
        raise EngineError(f"the kernel refused a question about its flows: {os.strerror(-error)}")


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)
