"""Letting the kernel find out that a peer has vanished: keep-alive and TCP_USER_TIMEOUT.

A peer that does not read has closed its window, and answers each probe of it: it has not vanished. But TCP_USER_TIMEOUT counts that time, too,
and breaks the connection (tcp(7); Linux, net/ipv4/tcp_timer.c, tcp_probe_timer). So connections are looked at twice within it, and have none
while their window is closed and probes are answered.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _socket import socket as raw_socket
    from collections.abc import Callable

_PROBES = 3
_MOST_MS = 2**31 - 1
HAS_USER_TIMEOUT = hasattr(socket, "TCP_USER_TIMEOUT")
_UNSENT = termios.TIOCOUTQ
"""SIOCOUTQ by another name (linux/sockios.h); the number is each architecture's own."""
_NONE = bytes(4)
_PROBES_AT, _UNACKED_AT = 3, 24
"""Where struct tcp_info (linux/tcp.h) says how many probes in a row were not answered, and how many segments are not acknowledged."""
_SILENCE = 2
"""So many probes without an answer are silence: one may just have been sent."""


def arm_keepalive(
    setsockopt: Callable[[int, int, int], None], keepalive_s: float, user_timeout_s: float
) -> None:
    """Make the kernel probe a silent peer, and give up on one that does not acknowledge (tcp(7), socket(7))."""
    setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(keepalive_s > 0))
    if keepalive_s:
        interval = max(1, round(keepalive_s / _PROBES))
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        if idle is not None:
            setsockopt(socket.IPPROTO_TCP, idle, max(1, round(keepalive_s)))
        setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
    _set_user_timeout(setsockopt, user_timeout_s)


def _set_user_timeout(setsockopt: Callable[[int, int, int], None], user_timeout_s: float) -> None:
    if HAS_USER_TIMEOUT:
        setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(round(user_timeout_s * 1000), _MOST_MS))


def is_acknowledged(fd: int) -> bool:
    """Whether the peer has acknowledged all that was written (SIOCOUTQ, tcp(7)). Raises OSError where the system cannot say."""
    return fcntl.ioctl(fd, _UNSENT, _NONE) == _NONE


def spare_who_does_not_read(sock: raw_socket, user_timeout_s: float) -> None:
    """Take TCP_USER_TIMEOUT from a connection whose peer answers and does not read, and give it back to any other one."""
    with contextlib.suppress(OSError):  # a unix socket; or it is reset, and its own event follows
        if not is_acknowledged(sock.fileno()):
            _set_user_timeout(sock.setsockopt, 0.0 if _does_not_read(sock) else user_timeout_s)


def _does_not_read(sock: raw_socket) -> bool:
    """Whether all that is left has not even been sent, because the peer leaves no room for it, and the peer is there."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_AT + 4)
    return struct.unpack_from("=I", info, _UNACKED_AT) == (0,) and info[_PROBES_AT] < _SILENCE
