"""The program for packets that arrive, packet by packet: the kernel runs it on a frame and tells what it made of it (BPF_PROG_TEST_RUN).

Needs root, and a kernel that has it (Linux 6.6). Frames come in by the loopback device, whose Ethernet address is zeros.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from easyproxy.engine.kernel.shortcut.arriving import arriving
from easyproxy.engine.kernel.shortcut.bpf import HASH, PER_CPU_ARRAY, Kernel
from easyproxy.engine.kernel.shortcut.layout import Layout
from easyproxy.engine.kernel.shortcut.steps import Maps
from easyproxy.errors import EngineError
from system.forging import ACK, FIN, PSH, RST, SYN, URG, checksum, frame

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to load programs"),
]

_TEST_RUN, _SUM_OF_ALL = 10, 1 << 2
_LONG_WAY, _REDIRECTED = 0xFFFFFFFF, 7
_LOOPBACK = 1
_TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(range(8))
_SACK = b"\x01\x01\x05\x12" + bytes(range(16))
BEFORE = {4: (("192.0.2.7", 40000), ("192.0.2.1", 80)), 6: (("fd01::7", 40000), ("fd01::1", 80))}
AFTER = {4: (("10.1.2.3", 50001), ("10.255.254.253", 9000)), 6: (("fd02::3", 50001), ("fd02:ffff::fe", 9000))}
MACS = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02"
LARGEST = 1514
both_families = pytest.mark.parametrize("family", [4, 6])


class Bench:
    """The program with one entry for ``BEFORE``, as it is when the kernel has sent such packets as ``AFTER``."""

    def __init__(self, family: int, undo: contextlib.ExitStack) -> None:
        self.family, self.layout, kernel = family, Layout(family), Kernel()
        self._call = kernel._call
        self.flows = kernel.map(HASH, self.layout.ends, self.layout.entry, 16)
        self.places = kernel.map(HASH, self.layout.place, 4, 16)
        self.notes = kernel.map(PER_CPU_ARRAY, 4, self.layout.note, 1)
        for made in (self.flows, self.places, self.notes):
            undo.callback(made.close)
        maps = Maps(self.flows.descriptor, self.places.descriptor, self.notes.descriptor)
        self._program = kernel.load(arriving(self.layout, maps))
        undo.callback(kernel.close, self._program)
        self.enter(BEFORE[family], AFTER[family])
        self.enter(AFTER[family][::-1], BEFORE[family][::-1])

    def ends(self, ends: tuple[tuple[str, int], ...]) -> bytes:
        domain = socket.AF_INET if self.family == 4 else socket.AF_INET6
        return b"".join(socket.inet_pton(domain, host) for host, _ in ends) + struct.pack(
            ">HH", *(port for _, port in ends)
        )

    def enter(self, before: tuple[tuple[str, int], ...], after: tuple[tuple[str, int], ...]) -> None:
        lay, entry = self.layout, bytearray(self.layout.entry)
        key, made = self.ends(before), self.ends(after)
        entry[: lay.ends] = made
        entry[lay.ethernet : lay.ethernet + 14] = MACS + (b"\x08\x00" if self.family == 4 else b"\x86\xdd")
        addresses = 2 * lay.address
        lease = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 60_000_000_000
        for where, form, value in (
            (lay.ifindex, "=I", _LOOPBACK),
            (lay.came_by, "=I", _LOOPBACK),
            (lay.largest, "=I", LARGEST),
            (lay.difference, "=I", difference(key[:addresses], made[:addresses])),
            (lay.ports_difference, "=I", difference(key[addresses:], made[addresses:])),
            (lay.lease, "=Q", lease),
        ):
            struct.pack_into(form, entry, where, value)
        self.flows.put(key, bytes(entry))

    def entry(self, ends: tuple[tuple[str, int], ...]) -> bytes:
        return dict(self.flows.items())[self.ends(ends)]

    def run(self, frame_: bytes, flags: int = 0) -> tuple[int, bytes]:
        """What the program said, and what the frame is then."""
        held = ctypes.create_string_buffer(frame_, len(frame_))
        after = ctypes.create_string_buffer(len(frame_) + 64)
        attributes = ctypes.create_string_buffer(80)
        struct.pack_into(
            "=IIIIQQI", attributes, 0,
            self._program, 0, len(frame_), len(after), ctypes.addressof(held), ctypes.addressof(after), 1,
        )  # fmt: skip
        struct.pack_into("=I", attributes, 64, flags)
        self._call.on(_TEST_RUN, attributes)
        _, verdict, _, size = struct.unpack_from("=IIII", attributes)
        return verdict, after.raw[:size]


def difference(before: bytes, after: bytes) -> int:
    """What the sum of 16-bit words grows by, as a machine reads them."""

    def total(data: bytes) -> int:
        return sum(struct.unpack(f"={len(data) // 2}H", data))

    return (total(after) - total(before)) % 0xFFFF


@pytest.fixture
def bench(family: int) -> Iterator[Bench]:
    with contextlib.ExitStack() as undo:
        yield Bench(family, undo)


def is_whole(frame_: bytes, family: int) -> bool:
    """Whether all checksums hold."""
    if family == 4:
        head, segment = frame_[14:34], frame_[34:]
        pseudo = head[12:20] + struct.pack(">HH", 6, len(segment))
        return checksum(head) == 0 and checksum(pseudo + segment) == 0
    segment = frame_[54:]
    return checksum(frame_[22:54] + struct.pack(">II", len(segment), 6) + segment) == 0


def without_sums(frame_: bytes, family: int) -> bytes:
    at = 34 if family == 4 else 54
    found = bytearray(frame_)
    found[at + 16 : at + 18] = bytes(2)
    if family == 4:
        found[24:26] = bytes(2)
    return bytes(found)


@both_families
@pytest.mark.parametrize("flags", [ACK, ACK | PSH, ACK | PSH | URG, ACK | 0x40, ACK | 0x80])
@pytest.mark.parametrize("options", [b"", _TIMESTAMPS, _SACK])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 999, 1400])
def test_only_addresses_ports_and_hops_change_and_sums_are_right(
    bench: Bench, family: int, size: int, options: bytes, flags: int
) -> None:
    chance = random.Random(size)
    for _ in range(30):
        what = {
            "sequence": chance.getrandbits(32), "acknowledged": chance.getrandbits(32), "flags": flags,
            "window": chance.randrange(1, 1 << 16), "data": chance.randbytes(size), "options": options,
            "traffic_class": chance.getrandbits(8), "urgent": chance.getrandbits(16),
        }  # fmt: skip
        hops = chance.randrange(2, 256)
        verdict, found = bench.run(frame(*BEFORE[family], hops=hops, **what))
        expected = frame(*AFTER[family], hops=hops - 1, macs=MACS, **what)
        assert verdict == _REDIRECTED
        assert without_sums(found, family) == without_sums(expected, family)
        assert is_whole(found, family)


@both_families
def test_the_sum_that_a_device_has_made_of_the_whole_packet_is_still_that(bench: Bench, family: int) -> None:
    """CHECKSUM_COMPLETE: whoever gets the packet next in this kernel relies on it."""
    chance = random.Random(7)
    try:
        bench.run(frame(*BEFORE[family]), _SUM_OF_ALL)
    except EngineError as error:
        if "Invalid argument" in str(error):
            pytest.skip("this kernel cannot tell: it needs Linux 6.10")
        raise
    for _ in range(200):
        sent = frame(
            *BEFORE[family],
            data=chance.randbytes(chance.randrange(99)),
            hops=chance.randrange(2, 256),
            sequence=chance.getrandbits(32),
        )
        verdict, found = bench.run(sent, _SUM_OF_ALL)
        assert verdict == _REDIRECTED
        assert is_whole(found, family)


@both_families
def test_a_wrong_checksum_stays_wrong(bench: Bench, family: int) -> None:
    verdict, found = bench.run(frame(*BEFORE[family], data=b"abc", spoil=1))
    assert verdict == _REDIRECTED
    assert not is_whole(found, family)


@both_families
@pytest.mark.parametrize(
    "what",
    [
        {"flags": SYN}, {"flags": FIN | ACK}, {"flags": RST}, {"hops": 1}, {"hops": 0},
        {"flags": 0}, {"flags": PSH}, {"flags": URG},
        {"data": bytes(LARGEST)}, {"macs": b"\x02" * 12},
    ],
)  # fmt: skip
def test_what_is_not_ordinary_goes_the_long_way_as_it_is(bench: Bench, family: int, what: dict) -> None:
    sent = frame(*BEFORE[family], **what)
    assert bench.run(sent) == (_LONG_WAY, sent)


@both_families
def test_when_the_kernel_has_seen_a_window_of_0_it_sees_that_there_is_room_again(
    bench: Bench, family: int
) -> None:
    """It forgets a flow after five minutes, whatever ``idle_timeout`` says, when the last window that it has seen was 0."""
    usual = frame(*BEFORE[family])
    assert bench.run(frame(*BEFORE[family], window=0))[0] == _REDIRECTED
    assert bench.run(usual)[0] == _REDIRECTED
    assert bench.run(frame(*BEFORE[family], window=0, data=bytes(LARGEST)))[0] == _LONG_WAY
    assert bench.run(usual)[0] == _LONG_WAY
    assert bench.run(frame(*AFTER[family][::-1]))[0] == _REDIRECTED
