"""Which devices packets come and go by, asked of the kernel over netlink (rtnetlink(7)) for this thread's network namespace."""

from __future__ import annotations

import os
import socket
import struct

from easyproxy.errors import EngineError

_GET_LINKS, _REQUEST_ALL = 18, 0x301
_NEW_LINK, _ERROR, _DONE = 16, 2, 3
_MASTER = 10
_ETHERNET = 1  # ARPHRD_ETHER
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 18


def ethernet_devices() -> frozenset[int]:
    """List by number the devices that have frames of Ethernet and belong to no other device (a bridge, a bond).

    Raises EngineError.
    """
    found: set[int] = set()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as sock:
            sock.bind((0, 0))
            sock.settimeout(10.0)
            sock.send(_HEADER.pack(16 + _LINK.size, _GET_LINKS, _REQUEST_ALL, 1, 0) + bytes(_LINK.size))
            while True:
                data = sock.recv(_RECEIVE)
                at = 0
                while at < len(data):
                    length, kind, *_ = _HEADER.unpack_from(data, at)
                    if kind == _DONE:
                        return frozenset(found)
                    if kind == _ERROR:
                        (error,) = struct.unpack_from("=i", data, at + 16)
                        raise EngineError(f"the kernel does not list its devices: {os.strerror(-error)}")
                    if kind == _NEW_LINK:
                        _, type_, number, _, _ = _LINK.unpack_from(data, at + 16)
                        if type_ == _ETHERNET and not _has_master(data, at + 16 + _LINK.size, at + length):
                            found.add(number)
                    at += (length + 3) & ~3
    except OSError as error:
        raise EngineError(f"the kernel does not list its devices: {error.strerror or error}") from error


def _has_master(data: bytes, at: int, end: int) -> bool:
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _MASTER:
            return True
        at += (length + 3) & ~3
    return False
