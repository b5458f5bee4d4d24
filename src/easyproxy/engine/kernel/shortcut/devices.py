"""Which devices packets come and go by, asked of the kernel over netlink (rtnetlink(7)) for this thread's network namespace."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

from easyproxy.errors import EngineError

_GET_LINKS, _REQUEST_ALL = 18, 0x301
_NEW_LINK, _ERROR, _DONE = 16, 2, 3
_MASTER, _INFO = 10, 18
_INFO_KIND, _INFO_DATA = 1, 2
_CALLS = {36: "iptables", 37: "ip6tables"}
"""Whether packets inside of a bridge meet rules and conntrack: an option of each bridge, and a setting for all of a namespace."""
_TYPE_MASK = 0x3FFF
_ETHERNET = 1  # ARPHRD_ETHER
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE = 1 << 18


def ethernet_devices() -> dict[int, bool]:
    """List by number the devices that have frames of Ethernet and belong to no other device (a bridge, a bond).

    With each stands whether conntrack has yet to meet what arrives there. With ``bridge-nf-call-iptables`` it has met, counted and
    translated it inside of a bridge. Raises EngineError.
    """
    found: dict[int, bool] = {}
    by_all = any(_is_on(name) for name in _CALLS.values())
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
                        return found
                    if kind == _ERROR:
                        (error,) = struct.unpack_from("=i", data, at + 16)
                        raise EngineError(f"the kernel does not list its devices: {os.strerror(-error)}")
                    if kind == _NEW_LINK:
                        _, type_, number, _, _ = _LINK.unpack_from(data, at + 16)
                        link = _attributes(data, at + 16 + _LINK.size, at + length)
                        if type_ == _ETHERNET and _MASTER not in link:
                            found[number] = not (
                                _INFO in link and _has_been_seen(data, *link[_INFO], by_all=by_all)
                            )
                    at += (length + 3) & ~3
    except OSError as error:
        raise EngineError(f"the kernel does not list its devices: {error.strerror or error}") from error


def _is_on(name: str) -> bool:
    try:
        return Path(f"/proc/sys/net/bridge/bridge-nf-call-{name}").read_text().strip() != "0"
    except OSError:  # bridges have nothing to do with conntrack here
        return False


def _attributes(data: bytes, at: int, end: int) -> dict[int, tuple[int, int]]:
    """Find where each kind of attribute begins and ends."""
    found = {}
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        found[kind & _TYPE_MASK] = at + _ATTRIBUTE.size, at + length
        at += (length + 3) & ~3
    return found


def _has_been_seen(data: bytes, at: int, end: int, *, by_all: bool) -> bool:
    """Whether this link is a bridge out of which packets come that conntrack has met."""
    info = _attributes(data, at, end)
    start, stop = info.get(_INFO_KIND, (0, 0))
    if data[start:stop].rstrip(b"\0") != b"bridge":
        return False
    options = _attributes(data, *info[_INFO_DATA]) if _INFO_DATA in info else {}
    return by_all or any(data[options[call][0]] != 0 for call in _CALLS if call in options)
