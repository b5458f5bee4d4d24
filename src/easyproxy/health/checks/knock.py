"""Knocking: learn that a port answers without the server's program ever seeing a connection.

With TCP_QUICKACK off before the connect, the kernel holds back the last ACK of the handshake for up to 200 ms
(tcp(7); ``tcp_rcv_synsent_state_process`` in net/ipv4/tcp_input.c). A reset sent meanwhile ends a handshake that the
server's kernel has not completed: nothing is ever handed to ``accept``, so nothing is logged or counted there, and no
side keeps TIME_WAIT. It says as much as a connect does, for that is the kernel's answer too. HAProxy's plain check
does the same.

This works on Linux; elsewhere a connection is opened and closed politely.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from easyproxy.health.checks.connection import FAREWELL_BYTES, FAREWELL_S, RESET_ON_CLOSE
from easyproxy.model import Address

_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_INFO: int | None = getattr(socket, "TCP_INFO", None)
# struct tcp_info of linux/tcp.h: tcpi_total_retrans at 100, tcpi_segs_out at 136, both u32.
_RETRANSMITTED = struct.Struct("=100xI")
_SENT = struct.Struct("=136xI")


async def knock(address: Address, timeout_s: float) -> None:
    """Find out whether ``address`` (numeric TCP) accepts connections, leaving no trace where the system allows.

    Raises:
        OSError: it does not.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        if _QUICKACK is not None:
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)
        await loop.sock_connect(sock, (address.host, address.port))
        if _is_unacknowledged(sock):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            return
        # Too late: the server has the connection. From here a reset would be noise in its log.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout_at(min(deadline, loop.time() + FAREWELL_S)):
                sock.shutdown(socket.SHUT_WR)
                left = FAREWELL_BYTES
                while left > 0 and (data := await loop.sock_recv(sock, 16 * 1024)):
                    left -= len(data)


def _is_unacknowledged(sock: socket.socket) -> bool:
    """Tell whether nothing but the SYN has left yet, so that the server's handshake is still open."""
    if _QUICKACK is None or _INFO is None:
        return False
    info = sock.getsockopt(socket.IPPROTO_TCP, _INFO, _SENT.size)
    if len(info) < _SENT.size:  # a kernel before 4.2
        return False
    (sent,), (again,) = _SENT.unpack(info), _RETRANSMITTED.unpack_from(info)
    return bool(sent - again == 1)
