"""Frames that nobody's TCP has sent: what an attacker, or a strange device, puts on the wire. Needs root."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

ACK, RST, FIN, SYN, PSH, URG = 0x10, 0x04, 0x01, 0x02, 0x08, 0x20
_Place = tuple[str, int]


def frame(
    source: _Place,
    target: _Place,
    *,
    sequence: int = 1,
    acknowledged: int = 1,
    flags: int = ACK,
    window: int = 500,
    data: bytes = b"",
    options: bytes = b"",
    hops: int = 64,
    traffic_class: int = 0,
    urgent: int = 0,
    macs: bytes = bytes(12),
    spoil: int = 0,
) -> bytes:
    """Write an Ethernet frame; ``spoil`` is added to TCP's checksum."""
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    ends = socket.inet_pton(family, source[0]) + socket.inet_pton(family, target[0])
    size = 20 + len(options) + len(data)
    pseudo = ends + (struct.pack(">HH", 6, size) if len(ends) == 8 else struct.pack(">II", size, 6))
    head = struct.pack(">HHIIBBHHH", source[1], target[1], sequence, acknowledged, (5 + len(options) // 4) << 4,
                       flags, window, 0, urgent)  # fmt: skip
    segment = head + options + data
    sum_ = (checksum(pseudo + segment) + spoil) & 0xFFFF
    segment = segment[:16] + struct.pack(">H", sum_) + segment[18:]
    if len(ends) == 32:
        ip = struct.pack(">IHBB", 6 << 28 | traffic_class << 20 | 0x12345, size, 6, hops) + ends
        return macs + b"\x86\xdd" + ip + segment
    ip = struct.pack(">BBHHHBBH", 0x45, traffic_class, 20 + size, 0x1234, 0x4000, hops, 6, 0) + ends
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return macs + b"\x08\x00" + ip + segment


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


class Wire:
    """A device of the namespace in which it is made, to send frames by; ``close`` it."""

    def __init__(self, device: str, to_mac: bytes) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((device, 0))
        self.macs = to_mac + self._socket.getsockname()[4]

    def send(self, frame_: bytes) -> None:
        """Send it, with this device's own Ethernet addresses."""
        self._socket.send(self.macs + frame_[12:])

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def one_cpu():
    """Keep this thread where it is, so that what it sends is handled there, one after the other."""
    former = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(former)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, former)


def mac_of(device: str) -> bytes:
    """The Ethernet address of a device of this namespace."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((device, 0))
        return sock.getsockname()[4]
