"""The program that each packet meets that a device receives, before anything else in the kernel does; the package says what for."""

from __future__ import annotations

from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg, network16
from easyproxy.engine.kernel.shortcut.layout import BACK, ETHERNET, EXACT, FIN, FRONT, RST, SYN, Layout
from easyproxy.engine.kernel.shortcut.steps import (
    CHECKSUM_UPDATE,
    IFINDEX,
    L4_CHECKSUM,
    NOW,
    PACKET_TYPE,
    RANDOM,
    REDIRECT,
    TC_INDEX,
    Maps,
    if_back,
    if_front,
    long_way,
    look_up,
    measure,
    note,
    parse,
)

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg

CHANCE = 64
"""One in so many packets of a flow that is not known yet is put down. Most short sessions are over before."""

_ACK, _NO_BUT_PUSH = 0x10, 0x37  # all flags but PSH, ECE, CWR
_PSEUDO_HEADER = 0x10


def arriving(layout: Layout, maps: Maps) -> bytes:
    """Assemble the program for packets that a device receives.

    R6 is the packet's context, R7 its bytes, R8 its flags, and later what is counted; R9 the entry, and later the kind of a note.
    """
    asm, lay = Assembler(), layout
    parse(asm, lay)
    asm.load(4, R2, R6, PACKET_TYPE)
    asm.jump_if(R2, "!=", 0, "long way")  # a frame for somebody else, which a device overhears
    asm.load(1, R2, R7, lay.at_hops)
    asm.jump_if(R2, "<", 2, "long way")
    asm.copy(R10, lay.on_stack, R7, lay.at_ends, lay.ends)
    look_up(asm, maps.flows, lay.on_stack)
    asm.jump_if(R0, "==", 0, "unknown")
    asm.do("mov", R9, R0)
    asm.load(1, R8, R7, lay.at_flags)
    # Whatever an entry says of the session before is not about the next one.
    asm.jump_if(R8, "has", SYN, "ending")
    asm.load(4, R2, R9, lay.ended)
    asm.jump_if(R2, "!=", 0, "long way")
    asm.jump_if(R8, "has", FIN | RST, "ending")
    asm.do("and", R8, _ACK)
    asm.jump_if(R8, "==", 0, "long way")  # no established session has that
    _known(asm, lay)
    asm.label("ending")
    _ending(asm, lay, maps)
    asm.label("unknown")
    _unknown(asm, lay, maps)
    asm.label("again")
    asm.load(2, R2, R7, lay.at_window)
    asm.jump_if(R2, "!=", 0, "room")
    # The kernel gives a flow five minutes when it has seen a window of 0; so it must see, too, when there is room again.
    asm.store(8, R9, lay.lease, 0)
    asm.jump("long way")
    asm.label("room")
    asm.do("mov", R9, 0)
    asm.label("put down")
    _put_down(asm, lay, maps)
    long_way(asm)
    return asm.code()


def _known(asm: Assembler, lay: Layout) -> None:
    """Send a packet whose entry holds; what its sender awaits is kept also if it holds no more."""
    asm.load(4, R2, R6, IFINDEX)
    asm.load(4, R3, R9, lay.came_by)
    asm.jump_if(R2, "!=", R3, "again")  # the kernel may refuse it there
    asm.copy(R9, lay.awaited, R7, lay.at_sequence + 4, 4)
    measure(asm, lay)
    asm.do("mov", R8, R4)
    asm.load(4, R2, R9, lay.largest)
    asm.jump_if(R5, ">", R2, "again")
    asm.call(NOW)
    asm.load(8, R2, R9, lay.lease)
    asm.jump_if(R0, ">", R2, "again")
    _send(asm, lay)


def _send(asm: Assembler, lay: Layout) -> None:
    """Count the packet (R8 bytes), rewrite it as the entry (R9) says, and send it."""
    asm.do("mov", R2, 1)
    asm.add_atomically(R9, lay.packets, R2)
    asm.add_atomically(R9, lay.octets, R8)
    asm.copy(R7, 0, R9, lay.ethernet, ETHERNET)
    asm.copy(R7, lay.at_ends, R9, 0, lay.ends)
    asm.load(1, R2, R7, lay.at_hops)
    asm.do("sub", R2, 1)
    asm.store(1, R7, lay.at_hops, R2)
    if lay.family == 4:
        # RFC 1624. One hop less is one less in the sum, whatever the byte order of who adds it up.
        asm.load(2, R2, R7, ETHERNET + 10)
        asm.do("xor", R2, 0xFFFF)
        asm.load(4, R3, R9, lay.difference)
        asm.do("add", R2, R3)
        asm.do("add", R2, 0xFFFF - network16(0x0100))
        for _ in range(3):
            asm.do("mov", R3, R2)
            asm.do("rsh", R3, 16)
            asm.do("and", R2, 0xFFFF)
            asm.do("add", R2, R3)
        asm.do("xor", R2, 0xFFFF)
        asm.store(2, R7, ETHERNET + 10, R2)
    for where, flags in ((lay.difference, _PSEUDO_HEADER), (lay.ports_difference, 0)):
        asm.do("mov", R1, R6)
        asm.do("mov", R2, lay.at_tcp + 16)
        asm.do("mov", R3, 0)
        asm.load(4, R4, R9, where)
        asm.do("mov", R5, flags)
        asm.call(L4_CHECKSUM)
    if lay.family == 6:
        # The helper takes IPv4 for granted, whose own checksum makes up for addresses and hops in a sum over the whole packet.
        asm.load(4, R2, R9, lay.difference)
        asm.do("add", R2, 0xFFFF - network16(0x0001))
        asm.do("mov", R3, R2)
        asm.do("rsh", R3, 32)
        asm.do("add", R2, R3)
        asm.do("mov", R1, R6)
        asm.call(CHECKSUM_UPDATE)
    asm.load(4, R1, R9, lay.ifindex)
    asm.do("mov", R2, 0)
    asm.call(REDIRECT)
    asm.exit()


def _ending(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """End the entry, and that of the other direction; R8 has the flags.

    Whether a reset is one for its receiver, that one says: what its sender has sent before may be forged as well.
    """
    asm.store(4, R9, lay.ended, R8)
    ports = 2 * lay.address
    for to, start, size in (
        (0, lay.address, lay.address),
        (lay.address, 0, lay.address),
        (ports, ports + 2, 2),
        (ports + 2, ports, 2),
    ):
        asm.copy(R10, lay.on_stack + to, R9, start, size)
    look_up(asm, maps.flows, lay.on_stack)
    asm.jump_if(R0, "==", 0, "long way")
    asm.store(4, R0, lay.ended, R8)
    asm.jump_if(R8, "has", FIN | SYN, "long way")
    asm.load(4, R2, R7, lay.at_sequence)
    asm.load(4, R3, R0, lay.awaited)
    asm.jump_if(R2, "!=", R3, "long way")
    asm.store(4, R9, lay.ended, RST | EXACT)
    asm.jump("long way")


def _unknown(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Put an ordinary packet of ours down, by chance; R9 becomes the kind of its place."""
    asm.load(1, R2, R7, lay.at_flags)
    asm.do("and", R2, _NO_BUT_PUSH)
    asm.jump_if(R2, "!=", _ACK, "long way")
    asm.load(2, R2, R7, lay.at_window)
    asm.jump_if(R2, "==", 0, "long way")
    asm.call(RANDOM)
    asm.do("and", R0, CHANCE - 1)
    asm.jump_if(R0, "!=", 0, "long way")
    ports = lay.on_stack + 2 * lay.address
    asm.copy(R10, lay.place_on_stack, R10, lay.on_stack + lay.address, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R10, ports + 2, 2)
    if_front(asm, lay, maps, "front")
    asm.copy(R10, lay.place_on_stack, R10, lay.on_stack, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R10, ports, 2)
    if_back(asm, lay, maps, "back")
    asm.jump("long way")
    asm.label("back")
    asm.do("mov", R9, BACK)
    asm.jump("put down")
    asm.label("front")
    asm.do("mov", R9, FRONT)
    asm.jump("put down")


def _put_down(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Note the packet, and have it bear a number that nobody outside can give to another one."""
    asm.call(RANDOM)
    asm.do("and", R0, 0xFFFF)
    asm.jump_if(R0, "==", 0, "long way")
    asm.do("mov", R8, R0)
    note(asm, lay, maps)
    asm.copy(R0, 0, R10, lay.on_stack, lay.ends)
    asm.copy(R0, lay.sequence, R7, lay.at_sequence, 8)  # and what is acknowledged
    asm.load(2, R2, R7, lay.at_length)
    asm.store(4, R0, lay.length, R2)
    asm.store(4, R0, lay.kind, R9)
    asm.store(4, R0, lay.number, R8)
    asm.store(4, R6, TC_INDEX, R8)
