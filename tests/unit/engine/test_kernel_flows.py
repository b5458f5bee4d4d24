"""Flows as the kernel writes them: messages of Linux 6.18, with other addresses."""

from __future__ import annotations

import socket
import struct

import pytest

from easyproxy.engine.kernel import flows
from unit.engine.kernel_flow import FLOW


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def ends(kind: int, source: str, target: str, source_port: int, target_port: int, protocol: int = 6) -> bytes:
    domain, first = (socket.AF_INET6, 3) if ":" in source else (socket.AF_INET, 1)
    hosts = b"".join(
        attribute(first + n, socket.inet_pton(domain, host)) for n, host in enumerate((source, target))
    )
    ports = attribute(1, bytes([protocol]))
    ports += attribute(2, struct.pack(">H", source_port)) + attribute(3, struct.pack(">H", target_port))
    return attribute(kind | 0x8000, attribute(0x8001, hosts) + attribute(0x8002, ports))


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def counters(kind: int, packets: int, bytes_: int) -> bytes:
    return attribute(
        kind | 0x8000, attribute(1, struct.pack(">Q", packets)) + attribute(2, struct.pack(">Q", bytes_))
    )


def protocol(state: int, *flags: int) -> bytes:
    inner = attribute(1, bytes([state]))
    if flags:
        inner += attribute(2, b"\x0a") + attribute(3, b"\x0a")
        inner += attribute(4, bytes([flags[0], 0])) + attribute(5, bytes([flags[1], 0]))
    return attribute(0x8004, attribute(0x8001, inner))


def started(*moments: int) -> bytes:
    return attribute(
        0x8014, b"".join(attribute(1 + n, struct.pack(">Q", at)) for n, at in enumerate(moments))
    )


DNAT, SEEN_REPLY, CLOSE_INIT = 0x20, 0x2, 0x4
FIRST = ends(1, "192.0.2.7", "192.0.2.1", 5000, 80)
BOTH = FIRST + ends(2, "10.0.0.1", "10.0.0.254", 8080, 61000)
LISTED = (
    b"\x02\0\0\0"
    + BOTH
    + number(3, 0x38E | DNAT)
    + number(8, 0)
    + number(12, 77)
    + number(11, 1)
    + number(7, 28)
    + protocol(flows.FIN_WAIT, 0x23, 0x23 | CLOSE_INIT)
    + counters(9, 5, 328)
    + counters(10, 4, 416)
    + started(1_700_000_000_000_000_000)
)
FORGOTTEN = (
    b"\x02\0\0\0"
    + BOTH
    + number(12, 77)
    + number(3, 0x38E | DNAT)
    + counters(9, 5, 328)
    + counters(10, 4, 416)
    + started(1_700_000_000_000_000_000, 1_700_000_009_000_000_000)
    + protocol(flows.TIME_WAIT)
)
READ = FLOW._replace(
    id=77,
    seen=(socket.inet_aton("10.0.0.254"), 61000),
    state=flows.FIN_WAIT,
    timeout_s=28,
    first_fin="backend",
    packets_from_client=5,
    bytes_from_client=328,
    bytes_from_backend=416,
    started_ns=1_700_000_000_000_000_000,
    handle=FIRST,
)


def test_a_listed_flow_is_read_with_all_that_is_known_of_it() -> None:
    assert flows.read(b"\0" * 16 + LISTED, 16, 16 + len(LISTED)) == READ


def test_a_forgotten_flow_is_read_with_what_the_kernel_still_says() -> None:
    gone = flows.read(FORGOTTEN, 0, len(FORGOTTEN), is_gone=True)
    assert gone == READ._replace(state=flows.TIME_WAIT, timeout_s=0, first_fin="", is_gone=True)


def test_a_flow_of_ipv6_is_read() -> None:
    both = ends(1, "2001:db8::7", "2001:db8::1", 5000, 80) + ends(2, "fd00::1", "fd00::fe", 8080, 5000)
    message = b"\x0a\0\0\0" + both + number(3, DNAT) + number(12, 9)
    flow = flows.read(message, 0, len(message))
    assert flow is not None
    assert (flow.family, flow.back, flow.seen[1], flow.started_ns, flow.bytes_from_client) == (
        6,
        (socket.inet_pton(socket.AF_INET6, "fd00::1"), 8080),
        5000,
        0,
        0,
    )


@pytest.mark.parametrize(
    "message",
    [
        b"\x02\0\0\0" + BOTH + number(3, 0x38E) + number(12, 77),
        b"\x02\0\0\0" + ends(1, "192.0.2.7", "192.0.2.1", 1, 53, 17) * 2 + number(3, DNAT),
    ],
    ids=["not translated", "not TCP"],
)
def test_flows_of_others_are_passed_over(message: bytes) -> None:
    assert flows.read(message, 0, len(message)) is None
