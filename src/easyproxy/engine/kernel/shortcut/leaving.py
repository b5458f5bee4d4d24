"""The program that each packet meets that a device sends, before others' programs there; the package says what for."""

from __future__ import annotations

from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg, pieces
from easyproxy.engine.kernel.shortcut.layout import BACK, ETHERNET, OTHERWISE, Layout
from easyproxy.engine.kernel.shortcut.steps import (
    CHECKSUM_DIFF,
    IFINDEX,
    INGRESS_IFINDEX,
    LOOKUP,
    NOW,
    TC_INDEX,
    UPDATE,
    Maps,
    if_back,
    if_front,
    long_way,
    measure,
    note,
    parse,
)

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg

LEASE_S = 1
"""For how long it holds what was learned."""
_LEASE_NS = LEASE_S * 1_000_000_000
_NO_EXIST = 1


def leaving(layout: Layout, maps: Maps) -> bytes:
    """Assemble the program for packets that a device sends.

    R6 is the packet's context, R7 its bytes, R8 the kind of the note, R9 the note.
    """
    asm, lay = Assembler(), layout
    _recognise(asm, lay, maps)
    for offset, size in pieces(lay.ends):
        asm.load(size, R2, R9, offset)
        asm.load(size, R3, R7, lay.at_ends + offset)
        asm.jump_if(R2, "!=", R3, "translated")
    asm.jump("long way")  # some flow that is only routed
    asm.label("translated")
    asm.jump_if(R8, "==", 0, "ours")
    asm.jump_if(R8, "==", BACK, "from a backend")
    asm.copy(R10, lay.place_on_stack, R7, lay.at_ends + lay.address, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R7, lay.at_tcp + 2, 2)
    if_back(asm, lay, maps, "ours")
    asm.jump("long way")  # somebody else's, whose translation is not from us
    asm.label("from a backend")
    asm.copy(R10, lay.place_on_stack, R7, lay.at_ends, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R7, lay.at_tcp, 2)
    if_front(asm, lay, maps, "ours")
    asm.jump("long way")
    asm.label("ours")
    made = lay.entry_on_stack
    asm.copy(R10, made, R7, lay.at_ends, lay.ends)
    asm.copy(R10, made + lay.ethernet, R7, 0, ETHERNET)
    asm.store(2, R10, made + lay.ethernet + ETHERNET, 0)
    asm.copy(R10, made + lay.ifindex, R6, IFINDEX, 4)
    asm.copy(R10, made + lay.came_by, R6, INGRESS_IFINDEX, 4)
    measure(asm, lay)
    asm.store(4, R10, made + lay.largest, R5)
    asm.address_of_map(R1, maps.flows)
    asm.do("mov", R2, R9)
    asm.call(LOOKUP)
    asm.jump_if(R0, "==", 0, "new")
    asm.do("mov", R8, R0)
    _prolong(asm, lay)
    asm.label("new")
    _enter(asm, lay, maps)
    long_way(asm)
    return asm.code()


def _recognise(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Take the note if it is of this very packet, by its number; the rest only tells a later packet that some rule has numbered."""
    asm.do("mov", R6, R1)
    asm.load(4, R8, R6, TC_INDEX)
    asm.jump_if(R8, "==", 0, "long way")
    note(asm, lay, maps)
    asm.do("mov", R9, R0)
    asm.load(4, R2, R9, lay.number)
    asm.jump_if(R2, "!=", R8, "long way")
    asm.do("mov", R1, R6)
    parse(asm, lay)
    asm.load(4, R2, R9, lay.length)
    asm.load(2, R3, R7, lay.at_length)
    asm.jump_if(R2, "!=", R3, "long way")
    for offset in (0, 4):
        asm.load(4, R2, R9, lay.sequence + offset)
        asm.load(4, R3, R7, lay.at_sequence + offset)
        asm.jump_if(R2, "!=", R3, "long way")
    asm.load(4, R8, R9, lay.kind)
    # It leaves once. Its copies (``dup``) bear the same number and leave before it: what it does itself is the last word.
    asm.store(4, R6, TC_INDEX, 0)


def _prolong(asm: Assembler, lay: Layout) -> None:
    """Let an entry (R8) hold for another while if the kernel still does what it says; else end it."""
    made = lay.entry_on_stack
    for offset, _ in pieces(lay.largest):
        asm.load(4, R2, R8, offset)
        asm.load(4, R3, R10, made + offset)
        asm.jump_if(R2, "!=", R3, "otherwise")
    asm.call(NOW)
    asm.load(4, R3, R10, made + lay.largest)
    asm.load(8, R2, R8, lay.lease)
    asm.jump_if(R0, ">", R2, "size")  # a new lease: what was large enough before may be too large now
    asm.load(4, R2, R8, lay.largest)
    asm.jump_if(R2, ">", R3, "prolong")
    asm.label("size")
    asm.store(4, R8, lay.largest, R3)
    asm.label("prolong")
    asm.do("add", R0, _LEASE_NS)
    asm.store(8, R8, lay.lease, R0)
    asm.jump("long way")
    asm.label("otherwise")
    asm.store(4, R8, lay.ended, OTHERWISE)
    asm.jump("long way")


def _enter(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Complete the entry that is on the stack, and put it into the map under the ends of the note (R9)."""
    made = lay.entry_on_stack
    for start, size, where in (
        (0, 2 * lay.address, lay.difference),
        (2 * lay.address, 4, lay.ports_difference),
    ):
        asm.do("mov", R1, R9)
        asm.do("add", R1, start)
        asm.do("mov", R2, size)
        asm.do("mov", R3, R10)
        asm.do("add", R3, made + start)
        asm.do("mov", R4, size)
        asm.do("mov", R5, 0)
        asm.call(CHECKSUM_DIFF)
        asm.store(4, R10, made + where, R0)
    asm.copy(R10, made + lay.awaited, R7, lay.at_sequence + 4, 4)
    asm.store(4, R10, made + lay.awaited + 4, 0)
    asm.call(NOW)
    asm.do("add", R0, _LEASE_NS)
    asm.store(8, R10, made + lay.lease, R0)
    for where in (lay.packets, lay.octets, lay.ended):
        asm.store(8, R10, made + where, 0)
    asm.address_of_map(R1, maps.flows)
    asm.do("mov", R2, R9)
    asm.do("mov", R3, R10)
    asm.do("add", R3, made)
    asm.do("mov", R4, _NO_EXIST)
    asm.call(UPDATE)
