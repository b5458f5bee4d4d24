"""The kernel's table of flows, read and deleted from over netlink (ctnetlink) with the standard library alone.

Binary, because the text of ``/proc/net/nf_conntrack`` is deprecated, and takes several times as long for 100,000 flows. The
kernel filters: only translated flows come up. A socket belongs to the network namespace in which it was opened.
Layouts: linux/netfilter/nfnetlink_conntrack.h. What a flow means to us is not known here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from easyproxy.errors import EngineError

SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(1, 9)
ENDED = frozenset({TIME_WAIT, CLOSE})

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_STATUS, _PROTOINFO, _TIMEOUT, _COUNTERS_ORIG, _COUNTERS_REPLY, _ID, _TIMESTAMP, _STATUS_MASK = (
    3, 4, 7, 9, 10, 12, 20, 26,
)  # fmt: skip
_DNAT = 0x20  # IPS_DST_NAT
_SEEN_REPLY = 0x2
_CLOSE_INIT = 0x4  # IP_CT_TCP_FLAG_CLOSE_INIT: this side sent FIN first
_PROTOINFO_SIZE = 48
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
# One direction of a TCP flow: nested tuple, nested addresses (two of them), nested protocol (number and two ports).
_ENDS = {4: struct.Struct(">8x4x4s4x4s4x4xB3x4xH2x4xH2x"), 6: struct.Struct(">8x4x16s4x16s4x4xB3x4xH2x4xH2x")}
_COUNTERS = struct.Struct(">8xQ4xQ")
_U32 = struct.Struct(">4xI")
_U64 = struct.Struct(">8xQ")
_BATCH = 200
_RECEIVE = 1 << 18


class Flow(NamedTuple):
    """One translated TCP flow. Addresses are packed; bytes count whole packets, headers too.

    ``client`` spoke to ``front``, and ``back`` answers it; to the backend it came from ``seen`` (the client's own address, or ours).
    """

    id: int
    family: int
    client: tuple[bytes, int]
    front: tuple[bytes, int]
    back: tuple[bytes, int]
    seen: tuple[bytes, int]
    state: int
    timeout_s: int
    has_reply: bool
    first_fin: str
    """``client`` or ``backend``, once one of them has finished."""
    packets_from_client: int
    bytes_from_client: int
    packets_from_backend: int
    bytes_from_backend: int
    started_ns: int
    tuple: bytes
    """The attribute by which the kernel finds it."""
    has_reset: bool = False
    """One end has reset it, though the kernel could not see that this was meant."""

    @property
    def is_live(self) -> bool:
        """Whether it has not ended; ended ones stay in the table for some seconds."""
        return self.state not in ENDED


class Conntrack:
    """One netlink socket; ``close`` it. Not to be used by two threads at once."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
            self._socket.bind((0, 0))
        except OSError as error:
            raise EngineError(
                f"this kernel offers no netlink to its packet filter: {error.strerror}"
            ) from error
        self._socket.settimeout(10.0)
        self._number = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def flows(self) -> Iterator[Flow]:
        """Read all translated TCP flows, parsing as it goes; walk it to the end."""
        want = struct.pack(">I", _DNAT)
        attributes = _attribute(_STATUS, want) + _attribute(_STATUS_MASK, want)
        self._send(self._message(_GET, _REQUEST | _DUMP, 0, attributes))
        while True:
            data = self._receive()
            offset = 0
            while offset < len(data):
                length, kind, _, number, _ = _HEADER.unpack_from(data, offset)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    _check(data, offset)
                elif number == self._number:
                    flow = _parse(data, offset + 16, offset + length)
                    if flow is not None:
                        yield flow
                offset += (length + 3) & ~3

    def has(self, flow: Flow) -> bool:
        """Ask for one flow. A list may miss one: the kernel goes through its table while that changes (NLM_F_DUMP_INTR)."""
        family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
        self._send(self._message(_GET, _REQUEST, family, flow.tuple))
        data = self._receive()
        if _HEADER.unpack_from(data)[1] == _ERROR:
            return False
        found = _parse(data, 16, len(data))
        return found is not None and found.id == flow.id

    def delete(self, flows: Iterable[Flow]) -> int:
        """Forget flows, and return how many still were there. The next packet of each belongs to no session."""
        rest = iter(flows)
        deleted = 0
        while batch := list(islice(rest, _BATCH)):
            for flow in batch:
                identity = flow.tuple + _attribute(_ID, struct.pack(">I", flow.id))
                family = socket.AF_INET if flow.family == 4 else socket.AF_INET6
                self._send(self._message(_DELETE, _REQUEST | _ACK, family, identity))
                deleted += self._acknowledged()
        return deleted

    def _acknowledged(self) -> int:
        data = self._receive()
        (error,) = struct.unpack_from("=i", data, 16)
        if error in (0, -2):  # ENOENT: it has ended by itself meanwhile
            return int(error == 0)
        _check(data, 0)
        return 0

    def _message(self, kind: int, flags: int, family: int, attributes: bytes) -> bytes:
        self._number += 1
        head = _HEADER.pack(20 + len(attributes), kind, flags, self._number, 0)
        return head + bytes((family, 0, 0, 0)) + attributes

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            raise EngineError(f"cannot ask the kernel for its flows: {error.strerror}") from error

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except OSError as error:
            raise EngineError(f"cannot read the kernel's flows: {error.strerror or error}") from error


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


def _parse(data: bytes, offset: int, end: int) -> Flow | None:
    """Read one entry. The kernel writes both directions first, each in the layout of ``_ENDS``."""
    family = 4 if data[offset] == socket.AF_INET else 6
    ends = _ENDS[family]
    start = offset + 4
    client, front, protocol, client_port, front_port = ends.unpack_from(data, start)
    if protocol != socket.IPPROTO_TCP:
        return None
    size = ends.size
    back, seen, _, back_port, seen_port = ends.unpack_from(data, start + size)
    state = timeout = number = started = status = 0
    sent = got = (0, 0)
    first_fin = ""
    at = start + 2 * size
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE_MASK
        if kind == _STATUS:
            (status,) = _U32.unpack_from(data, at)
        elif kind == _PROTOINFO:
            state = data[at + 12]
            # After the state stand two window scales, then the flags of either direction, in this order since 2.6.
            if length >= _PROTOINFO_SIZE:
                first_fin = "client" if data[at + 36] & _CLOSE_INIT else ""
                first_fin = "backend" if data[at + 44] & _CLOSE_INIT else first_fin
        elif kind == _TIMEOUT:
            (timeout,) = _U32.unpack_from(data, at)
        elif kind == _COUNTERS_ORIG:
            sent = _COUNTERS.unpack_from(data, at)
        elif kind == _COUNTERS_REPLY:
            got = _COUNTERS.unpack_from(data, at)
        elif kind == _ID:
            (number,) = _U32.unpack_from(data, at)
        elif kind == _TIMESTAMP:
            (started,) = _U64.unpack_from(data, at)
        at += (length + 3) & ~3
    if not status & _DNAT:  # an older kernel does not filter
        return None
    return Flow(
        number, family, (client, client_port), (front, front_port), (back, back_port), (seen, seen_port), state,
        timeout, bool(status & _SEEN_REPLY), first_fin, *sent, *got, started, data[start : start + size],
    )  # fmt: skip
