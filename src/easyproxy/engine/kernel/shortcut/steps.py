"""What both programs of the shortcut are made of. Pure: instructions are added to an assembler."""

from __future__ import annotations

from dataclasses import dataclass

from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg, network16, pieces
from easyproxy.engine.kernel.shortcut.layout import BACK, ETHERNET, FRONT, Layout

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg

# Helpers, bpf-helpers(7).
LOOKUP, UPDATE, RANDOM, L4_CHECKSUM, REDIRECT = 1, 2, 7, 11, 23
CHECKSUM_DIFF, CHECKSUM_UPDATE, NOW = 28, 40, 160
# struct __sk_buff, linux/bpf.h
LEN, PACKET_TYPE, VLAN_PRESENT, INGRESS_IFINDEX, IFINDEX, TC_INDEX = 0, 4, 20, 36, 40, 44
DATA, DATA_END, GSO_SIZE = 76, 80, 176

_NEXT = -1  # TCX_NEXT: whoever is attached after us, and then the kernel's long way
_TCP = 6


@dataclass(frozen=True, slots=True)
class Maps:
    """Descriptors: entries by ends; places by their key; one note for each CPU."""

    flows: int
    places: int
    notes: int


def parse(asm: Assembler, lay: Layout) -> None:
    """Go the long way with what is not TCP over IP without options, whole and untagged. R6 becomes its context, R7 its bytes."""
    asm.do("mov", R6, R1)
    asm.load(4, R2, R6, VLAN_PRESENT)
    asm.jump_if(R2, "!=", 0, "long way")
    asm.load(4, R7, R6, DATA)
    asm.load(4, R8, R6, DATA_END)
    asm.do("mov", R2, R7)
    asm.do("add", R2, lay.at_tcp + 20)
    asm.jump_if(R2, ">", R8, "long way")
    asm.load(2, R2, R7, 12)
    asm.jump_if(R2, "!=", network16(0x0800 if lay.family == 4 else 0x86DD), "long way")
    if lay.family == 4:
        asm.load(1, R2, R7, ETHERNET)
        asm.jump_if(R2, "!=", 0x45, "long way")
        asm.load(2, R2, R7, ETHERNET + 6)
        asm.jump_if(R2, "has", network16(0x3FFF), "long way")  # a fragment
    asm.load(1, R2, R7, ETHERNET + (9 if lay.family == 4 else 6))
    asm.jump_if(R2, "!=", _TCP, "long way")


def measure(asm: Assembler, lay: Layout) -> None:
    """R4 is the size of the packet from IP's header on, R5 that of its largest segment as a frame."""
    asm.load(4, R5, R6, GSO_SIZE)
    asm.jump_if(R5, "==", 0, "one segment")
    asm.do("add", R5, lay.at_tcp)
    asm.load(1, R3, R7, lay.at_tcp + 12)
    asm.do("rsh", R3, 4)
    asm.do("lsh", R3, 2)
    asm.do("add", R5, R3)
    asm.load(4, R4, R6, LEN)
    asm.do("sub", R4, ETHERNET)
    asm.jump("measured")
    asm.label("one segment")
    asm.load(2, R4, R7, lay.at_length)
    asm.to_network(R4, 16)
    if lay.family == 6:
        asm.do("add", R4, lay.header)
    asm.do("mov", R5, R4)
    asm.do("add", R5, ETHERNET)
    asm.label("measured")


def look_up(asm: Assembler, descriptor: int, key: int) -> None:
    """R0 becomes what a map has under the key that is on the stack, or 0."""
    asm.address_of_map(R1, descriptor)
    asm.do("mov", R2, R10)
    asm.do("add", R2, key)
    asm.call(LOOKUP)


def if_front(asm: Assembler, lay: Layout, maps: Maps, label: str) -> None:
    """Jump if address and port, which are on the stack, are where clients come; forget the address."""
    asm.store(2, R10, lay.place_on_stack + lay.address + 2, FRONT)
    look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)
    for offset, size in pieces(lay.address):
        asm.store(size, R10, lay.place_on_stack + offset, 0)
    look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)


def if_back(asm: Assembler, lay: Layout, maps: Maps, label: str) -> None:
    """Jump if address and port, which are on the stack, are a backend's."""
    asm.store(2, R10, lay.place_on_stack + lay.address + 2, BACK)
    look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)


def note(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """R0 becomes this CPU's note."""
    asm.store(8, R10, lay.zero_on_stack, 0)
    look_up(asm, maps.notes, lay.zero_on_stack)
    asm.jump_if(R0, "==", 0, "long way")


def long_way(asm: Assembler) -> None:
    """End the program with what all jump to that have nothing to do with the packet."""
    asm.label("long way")
    asm.do("mov", R0, _NEXT)
    asm.exit()
