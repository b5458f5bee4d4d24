"""Flows as the kernel's table has them, read from what it writes over netlink (ctnetlink). Pure: bytes in, flows out.

Layouts: linux/netfilter/nfnetlink_conntrack.h. What a flow means to us is not known here.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

SYN_SENT, SYN_RECV, ESTABLISHED, FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT, CLOSE = range(1, 9)
ENDED = frozenset({TIME_WAIT, CLOSE})

STATUS, ID = 3, 12
DNAT = 0x20  # IPS_DST_NAT
_PROTOINFO, _TIMEOUT, _COUNTERS_ORIG, _COUNTERS_REPLY, _TIMESTAMP = 4, 7, 9, 10, 20
_SEEN_REPLY = 0x2
_CLOSE_INIT = 0x4  # IP_CT_TCP_FLAG_CLOSE_INIT: this side sent FIN first
_PROTOINFO_SIZE = 48
_TYPE_MASK = 0x3FFF
_ATTRIBUTE = struct.Struct("=HH")
# One direction of a TCP flow: nested tuple, nested addresses (two of them), nested protocol (number and two ports).
_ENDS = {4: struct.Struct(">8x4x4s4x4s4x4xB3x4xH2x4xH2x"), 6: struct.Struct(">8x4x16s4x16s4x4xB3x4xH2x4xH2x")}
_COUNTERS = struct.Struct(">8xQ4xQ")
_U32 = struct.Struct(">4xI")
_U64 = struct.Struct(">8xQ")


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
    """``client`` or ``backend``, once one of them has finished and the kernel says which."""
    packets_from_client: int
    bytes_from_client: int
    packets_from_backend: int
    bytes_from_backend: int
    started_ns: int
    """Since the epoch; 0 where ``nf_conntrack_timestamp`` is off."""
    handle: bytes
    """The attribute by which the kernel finds it."""
    is_gone: bool = False
    """The kernel has just forgotten it, and tells what it last knew."""
    has_reset: bool = False
    """One end has reset it, though the kernel could not see that this was meant."""

    @property
    def identity(self) -> tuple[int, int, bytes]:
        """Tells it from all others: the kernel's number is used again, for the same ends too."""
        return self.id, self.started_ns, self.handle

    @property
    def is_live(self) -> bool:
        """Whether it has not ended; ended ones stay in the table for some seconds."""
        return self.state not in ENDED and not self.is_gone


def read(data: bytes, start: int, end: int, *, is_gone: bool = False) -> Flow | None:
    """Read a message without its netlink header; None when it is no translated flow of TCP.

    The kernel writes both directions first, each in the layout of ``_ENDS``.
    """
    family = 4 if data[start] == socket.AF_INET else 6
    ends = _ENDS[family]
    at = start + 4
    client, front, protocol, client_port, front_port = ends.unpack_from(data, at)
    if protocol != socket.IPPROTO_TCP:
        return None
    first = data[at : at + ends.size]
    at += ends.size
    back, seen, _, back_port, seen_port = ends.unpack_from(data, at)
    at += ends.size
    state = timeout = number = started = status = 0
    sent = got = (0, 0)
    first_fin = ""
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE_MASK
        if kind == STATUS:
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
        elif kind == ID:
            (number,) = _U32.unpack_from(data, at)
        elif kind == _TIMESTAMP:
            (started,) = _U64.unpack_from(data, at)
        at += (length + 3) & ~3
    if not status & DNAT:  # an older kernel does not filter
        return None
    # What a NamedTuple does for itself is a call of Python more.
    return tuple.__new__(Flow, (
        number, family, (client, client_port), (front, front_port), (back, back_port), (seen, seen_port), state,
        timeout, status & _SEEN_REPLY != 0, first_fin, *sent, *got, started, first, is_gone, False,
    ))  # fmt: skip
