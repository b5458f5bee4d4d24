"""Telling both ends of a session that was closed at once, also where neither is about to send anything.

The kernel has forgotten the flow, so the next packet of either end is answered with a reset that fits it. A poke makes an end
send that packet: a segment outside of its window, to which TCP answers with an acknowledgement (RFC 9293, 3.10.7.4).
We never need to know a sequence number. Needs CAP_NET_RAW; without it a session ends with its next packet instead. Where the kernel
has not forgotten the flow, that packet tells it that the session lives.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterable

from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.ruleset import POKE_MARK

_ACK = 0x10
_SO_MARK = 36
_Place = tuple[bytes, int]


class Poker:
    """Raw sockets, one for each family; ``close`` it. They belong to the network namespace they were opened in."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        for family, domain in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            with contextlib.suppress(OSError):  # no privilege, or no IPv6
                sock = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
                self._sockets[family] = sock
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, POKE_MARK)

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets.values():
            sock.close()

    @property
    def is_able(self) -> bool:
        """Whether it has the privilege."""
        return bool(self._sockets)

    def poke(self, flows: Iterable[Flow]) -> None:
        """Make both ends of every flow send something. Nobody waits for them."""
        for flow in flows:
            sock = self._sockets.get(flow.family)
            if sock is None:
                continue
            for source, target in ((flow.front, flow.client), (flow.seen, flow.back)):
                host = socket.inet_ntop(socket.AF_INET if flow.family == 4 else socket.AF_INET6, target[0])
                with contextlib.suppress(OSError):  # no way there any more, or the queue is full
                    sock.sendto(packet(source, target), (host, 0))


def packet(source: _Place, target: _Place) -> bytes:
    """Make the whole IP packet: an empty acknowledgement with numbers that fit no window but by a rare chance."""
    numbers = random.getrandbits(64)
    segment = struct.pack(">HHQBBHHH", source[1], target[1], numbers, 5 << 4, _ACK, 0, 0, 0)
    pseudo = source[0] + target[0]
    pseudo += struct.pack(">BBH", 0, 6, 20) if len(source[0]) == 4 else struct.pack(">IHBB", 20, 0, 0, 6)
    segment = segment[:16] + struct.pack(">H", _checksum(pseudo + segment)) + segment[18:]
    if len(source[0]) == 16:
        return struct.pack(">IHBB", 6 << 28, 20, 6, 64) + source[0] + target[0] + segment
    # The kernel fills in length, identification and checksum, raw(7).
    return struct.pack(">BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + source[0] + target[0] + segment


def _checksum(data: bytes) -> int:
    # A sum in ones' complement (RFC 1071) is one modulo 65,535.
    return 0xFFFF - int.from_bytes(data, "big") % 0xFFFF
