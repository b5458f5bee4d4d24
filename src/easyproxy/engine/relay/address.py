"""An address as the system calls take it: to listen there, or to connect. Pure, but for the names of interfaces."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.model import Address

SocketAddress = str | tuple[str, int] | tuple[str, int, int, int]


def socket_address(address: Address) -> tuple[int, SocketAddress]:
    """Return the address family and what connect(2) and bind(2) take, for a numeric address."""
    if address.path:
        return socket.AF_UNIX, address.path
    host, _, scope = address.host.partition("%")
    if ":" in host:
        # A scope is an interface's name or number (RFC 4007, section 11).
        number = int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
        return socket.AF_INET6, (str(ipaddress.IPv6Address(host)), address.port, 0, number)
    return socket.AF_INET, (host, address.port)
