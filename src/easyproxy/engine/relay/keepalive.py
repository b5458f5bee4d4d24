"""Letting the kernel find out that a peer has vanished: keep-alive and TCP_USER_TIMEOUT."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PROBES = 3
_MOST_MS = 2**31 - 1


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
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(round(user_timeout_s * 1000), _MOST_MS))
