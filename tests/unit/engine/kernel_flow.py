"""A flow as the kernel tells it."""

from __future__ import annotations

import socket

from easyproxy.engine.kernel import flows as ct
from easyproxy.engine.kernel.flows import Flow


def packed(text: str) -> bytes:
    return socket.inet_aton(text)


FLOW = Flow(
    id=7,
    family=4,
    client=(packed("192.0.2.7"), 5000),
    front=(packed("192.0.2.1"), 80),
    back=(packed("10.0.0.1"), 8080),
    seen=(packed("10.0.0.254"), 5000),
    state=ct.ESTABLISHED,
    timeout_s=3590,
    has_reply=True,
    first_fin="",
    packets_from_client=3,
    bytes_from_client=300,
    packets_from_backend=4,
    bytes_from_backend=400,
    started_ns=0,
    handle=b"t7",
)
