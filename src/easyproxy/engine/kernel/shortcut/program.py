"""The two programs of the shortcut, for one family of addresses. Pure: descriptors of maps in, bytes of a program out.

``arriving`` meets each packet that a device receives, before anything else in the kernel does; ``leaving`` each that a device
sends, after everything else but others' programs there, which then meet what took the shortcut, too. How a packet gets from one to the other is the kernel's business: its rules, its table of flows, its
routes. Now and then ``arriving`` puts a packet down (``Layout.note``), and when ``leaving`` meets the same packet, what became of it is learned
(``Layout.entry``): addresses, ports, the Ethernet header, both devices. The next packets of that direction of that flow are rewritten
alike and sent at once.

What was learned holds for a second (the lease). Then a packet goes the long way, and what becomes of it is learned anew, so
the kernel sees something of each flow in each second, and whatever it has come to think of a flow holds after
a second at the latest. What is no ordinary packet of an established flow (SYN, FIN, RST, fragments, options of IP, a
segment larger than any before) always goes the long way. FIN and RST end the entry, and that of the other direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from easyproxy.engine.kernel.shortcut.assembler import Assembler, Reg, network16, pieces
from easyproxy.engine.kernel.shortcut.layout import (
    BACK,
    ETHERNET,
    EXACT,
    FIN,
    FRONT,
    OTHERWISE,
    RST,
    SYN,
    Layout,
)

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = Reg

LEASE_S = 1
_LEASE_NS = LEASE_S * 1_000_000_000
CHANCE = 64
"""One in so many packets of a flow that is not known yet is put down. Most short sessions are over before."""

_ACK, _NO_BUT_PUSH = 0x10, 0x37  # all flags but PSH, ECE, CWR

# Helpers, bpf-helpers(7).
_LOOKUP, _UPDATE, _RANDOM, _L4_CHECKSUM, _REDIRECT, _CHECKSUM_DIFF, _CHECKSUM_UPDATE, _NOW = (
    1,
    2,
    7,
    11,
    23,
    28,
    40,
    160,
)
_PSEUDO_HEADER = 0x10
_NO_EXIST = 1
_NEXT = -1  # TCX_NEXT: whoever is attached after us, and then the kernel's long way
# struct __sk_buff, linux/bpf.h
_LEN, _PACKET_TYPE, _VLAN_PRESENT, _INGRESS_IFINDEX, _IFINDEX, _TC_INDEX, _DATA, _DATA_END, _GSO_SIZE = (
    0,
    4,
    20,
    36,
    40,
    44,
    76,
    80,
    176,
)
_TCP = 6


@dataclass(frozen=True, slots=True)
class Maps:
    """Descriptors: entries by ends; places by their key; one note for each CPU."""

    flows: int
    places: int
    notes: int


def arriving(layout: Layout, maps: Maps) -> bytes:
    """Assemble the program for packets that a device receives.

    R6 is the packet's context, R7 its bytes, R8 its flags, and later what is counted; R9 the entry, and later the kind of a note.
    """
    asm, lay = Assembler(), layout
    _parse(asm, lay)
    asm.load(4, R2, R6, _PACKET_TYPE)
    asm.jump_if(R2, "!=", 0, "long way")  # a frame for somebody else, which a device overhears
    asm.load(1, R2, R7, lay.at_hops)
    asm.jump_if(R2, "<", 2, "long way")
    asm.copy(R10, lay.on_stack, R7, lay.at_ends, lay.ends)
    _look_up(asm, maps.flows, lay.on_stack)
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
    _long_way(asm)
    return asm.code()


def _known(asm: Assembler, lay: Layout) -> None:
    """Send a packet whose entry holds; what its sender awaits is kept also if it holds no more."""
    asm.load(4, R2, R6, _IFINDEX)
    asm.load(4, R3, R9, lay.came_by)
    asm.jump_if(R2, "!=", R3, "again")  # the kernel may refuse it there
    asm.copy(R9, lay.awaited, R7, lay.at_sequence + 4, 4)
    _measure(asm, lay)
    asm.do("mov", R8, R4)
    asm.load(4, R2, R9, lay.largest)
    asm.jump_if(R5, ">", R2, "again")
    asm.call(_NOW)
    asm.load(8, R2, R9, lay.lease)
    asm.jump_if(R0, ">", R2, "again")
    _send(asm, lay)


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
    _look_up(asm, maps.flows, lay.on_stack)
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
    asm.call(_RANDOM)
    asm.do("and", R0, CHANCE - 1)
    asm.jump_if(R0, "!=", 0, "long way")
    ports = lay.on_stack + 2 * lay.address
    asm.copy(R10, lay.place_on_stack, R10, lay.on_stack + lay.address, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R10, ports + 2, 2)
    _if_front(asm, lay, maps, "front")
    asm.copy(R10, lay.place_on_stack, R10, lay.on_stack, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R10, ports, 2)
    _if_back(asm, lay, maps, "back")
    asm.jump("long way")
    asm.label("back")
    asm.do("mov", R9, BACK)
    asm.jump("put down")
    asm.label("front")
    asm.do("mov", R9, FRONT)
    asm.jump("put down")


def _put_down(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Note the packet, and have it bear a number that nobody outside can give to another one."""
    asm.call(_RANDOM)
    asm.do("and", R0, 0xFFFF)
    asm.jump_if(R0, "==", 0, "long way")
    asm.do("mov", R8, R0)
    _note(asm, lay, maps)
    asm.copy(R0, 0, R10, lay.on_stack, lay.ends)
    asm.copy(R0, lay.sequence, R7, lay.at_sequence, 8)  # and what is acknowledged
    asm.load(2, R2, R7, lay.at_length)
    asm.store(4, R0, lay.length, R2)
    asm.store(4, R0, lay.kind, R9)
    asm.store(4, R0, lay.number, R8)
    asm.store(4, R6, _TC_INDEX, R8)


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
    _if_back(asm, lay, maps, "ours")
    asm.jump("long way")  # somebody else's, whose translation is not from us
    asm.label("from a backend")
    asm.copy(R10, lay.place_on_stack, R7, lay.at_ends, lay.address)
    asm.copy(R10, lay.place_on_stack + lay.address, R7, lay.at_tcp, 2)
    _if_front(asm, lay, maps, "ours")
    asm.jump("long way")
    asm.label("ours")
    made = lay.entry_on_stack
    asm.copy(R10, made, R7, lay.at_ends, lay.ends)
    asm.copy(R10, made + lay.ethernet, R7, 0, ETHERNET)
    asm.store(2, R10, made + lay.ethernet + ETHERNET, 0)
    asm.copy(R10, made + lay.ifindex, R6, _IFINDEX, 4)
    asm.copy(R10, made + lay.came_by, R6, _INGRESS_IFINDEX, 4)
    _measure(asm, lay)
    asm.store(4, R10, made + lay.largest, R5)
    asm.address_of_map(R1, maps.flows)
    asm.do("mov", R2, R9)
    asm.call(_LOOKUP)
    asm.jump_if(R0, "==", 0, "new")
    asm.do("mov", R8, R0)
    _prolong(asm, lay)
    asm.label("new")
    _enter(asm, lay, maps)
    _long_way(asm)
    return asm.code()


def _recognise(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """Take the note if it is of this very packet, by its number; the rest only tells a later packet that some rule has numbered."""
    asm.do("mov", R6, R1)
    asm.load(4, R8, R6, _TC_INDEX)
    asm.jump_if(R8, "==", 0, "long way")
    _note(asm, lay, maps)
    asm.do("mov", R9, R0)
    asm.load(4, R2, R9, lay.number)
    asm.jump_if(R2, "!=", R8, "long way")
    asm.do("mov", R1, R6)
    _parse(asm, lay)
    asm.load(4, R2, R9, lay.length)
    asm.load(2, R3, R7, lay.at_length)
    asm.jump_if(R2, "!=", R3, "long way")
    for offset in (0, 4):
        asm.load(4, R2, R9, lay.sequence + offset)
        asm.load(4, R3, R7, lay.at_sequence + offset)
        asm.jump_if(R2, "!=", R3, "long way")
    asm.load(4, R8, R9, lay.kind)
    # It leaves once. Its copies (``dup``) bear the same number and leave before it: what it does itself is the last word.
    asm.store(4, R6, _TC_INDEX, 0)


def _prolong(asm: Assembler, lay: Layout) -> None:
    """Let an entry (R8) hold for another while if the kernel still does what it says; else end it."""
    made = lay.entry_on_stack
    for offset, _ in pieces(lay.largest):
        asm.load(4, R2, R8, offset)
        asm.load(4, R3, R10, made + offset)
        asm.jump_if(R2, "!=", R3, "otherwise")
    asm.call(_NOW)
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
        asm.call(_CHECKSUM_DIFF)
        asm.store(4, R10, made + where, R0)
    asm.copy(R10, made + lay.awaited, R7, lay.at_sequence + 4, 4)
    asm.store(4, R10, made + lay.awaited + 4, 0)
    asm.call(_NOW)
    asm.do("add", R0, _LEASE_NS)
    asm.store(8, R10, made + lay.lease, R0)
    for where in (lay.packets, lay.octets, lay.ended):
        asm.store(8, R10, made + where, 0)
    asm.address_of_map(R1, maps.flows)
    asm.do("mov", R2, R9)
    asm.do("mov", R3, R10)
    asm.do("add", R3, made)
    asm.do("mov", R4, _NO_EXIST)
    asm.call(_UPDATE)


def _parse(asm: Assembler, lay: Layout) -> None:
    """Go the long way with what is not TCP over IP without options, whole and untagged; R6 and R7 as above."""
    asm.do("mov", R6, R1)
    asm.load(4, R2, R6, _VLAN_PRESENT)
    asm.jump_if(R2, "!=", 0, "long way")
    asm.load(4, R7, R6, _DATA)
    asm.load(4, R8, R6, _DATA_END)
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


def _measure(asm: Assembler, lay: Layout) -> None:
    """R4 is the size of the packet from IP's header on, R5 that of its largest segment as a frame."""
    asm.load(4, R5, R6, _GSO_SIZE)
    asm.jump_if(R5, "==", 0, "one segment")
    asm.do("add", R5, lay.at_tcp)
    asm.load(1, R3, R7, lay.at_tcp + 12)
    asm.do("rsh", R3, 4)
    asm.do("lsh", R3, 2)
    asm.do("add", R5, R3)
    asm.load(4, R4, R6, _LEN)
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
        asm.call(_L4_CHECKSUM)
    if lay.family == 6:
        # The helper takes IPv4 for granted, whose own checksum makes up for addresses and hops in a sum over the whole packet.
        asm.load(4, R2, R9, lay.difference)
        asm.do("add", R2, 0xFFFF - network16(0x0001))
        asm.do("mov", R3, R2)
        asm.do("rsh", R3, 32)
        asm.do("add", R2, R3)
        asm.do("mov", R1, R6)
        asm.call(_CHECKSUM_UPDATE)
    asm.load(4, R1, R9, lay.ifindex)
    asm.do("mov", R2, 0)
    asm.call(_REDIRECT)
    asm.exit()


def _look_up(asm: Assembler, descriptor: int, key: int) -> None:
    asm.address_of_map(R1, descriptor)
    asm.do("mov", R2, R10)
    asm.do("add", R2, key)
    asm.call(_LOOKUP)


def _if_front(asm: Assembler, lay: Layout, maps: Maps, label: str) -> None:
    """Jump if address and port, which are on the stack, are where clients come; forget the address."""
    asm.store(2, R10, lay.place_on_stack + lay.address + 2, FRONT)
    _look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)
    for offset, size in pieces(lay.address):
        asm.store(size, R10, lay.place_on_stack + offset, 0)
    _look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)


def _if_back(asm: Assembler, lay: Layout, maps: Maps, label: str) -> None:
    """Jump if address and port, which are on the stack, are a backend's."""
    asm.store(2, R10, lay.place_on_stack + lay.address + 2, BACK)
    _look_up(asm, maps.places, lay.place_on_stack)
    asm.jump_if(R0, "!=", 0, label)


def _note(asm: Assembler, lay: Layout, maps: Maps) -> None:
    """R0 becomes this CPU's note."""
    asm.store(8, R10, lay.zero_on_stack, 0)
    _look_up(asm, maps.notes, lay.zero_on_stack)
    asm.jump_if(R0, "==", 0, "long way")


def _long_way(asm: Assembler) -> None:
    asm.label("long way")
    asm.do("mov", R0, _NEXT)
    asm.exit()
