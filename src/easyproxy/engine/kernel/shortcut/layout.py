"""Where things stand in frames and in the maps of the shortcut. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

ETHERNET = 14
"""Size of Ethernet's header."""
FIN, SYN, RST = 0x01, 0x02, 0x04
EXACT = 0x100
"""In ``Layout.ended``: the reset had the very number that its receiver awaited, and so has been taken for one."""
OTHERWISE = 0x200
"""In ``Layout.ended``: the kernel has come to send packets of this flow elsewhere."""
FRONT, BACK = 1, 2
"""Kinds of places: where clients come, and where backends are."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand in a frame and in the maps, for IPv4 or IPv6; in bytes.

    A frame has Ethernet's header, one of IP without options, and TCP's. Both addresses and both ports follow upon each
    other there, and so they do here (``ends``).
    """

    family: int

    @property
    def address(self) -> int:
        """Size of an address."""
        return 4 if self.family == 4 else 16

    @property
    def ends(self) -> int:
        """Size of both addresses and both ports: the key of the flows."""
        return 2 * self.address + 4

    @property
    def header(self) -> int:
        """Size of IP's header."""
        return 20 if self.family == 4 else 40

    @property
    def at_length(self) -> int:
        """Where IP says how long it is; what a short frame is padded with does not count."""
        return ETHERNET + (2 if self.family == 4 else 4)

    @property
    def at_ends(self) -> int:
        """Where the addresses begin in a frame."""
        return ETHERNET + self.header - 2 * self.address

    @property
    def at_tcp(self) -> int:
        """Where TCP's header begins in a frame."""
        return ETHERNET + self.header

    @property
    def at_sequence(self) -> int:
        """Where TCP's sequence number is; what is acknowledged follows."""
        return self.at_tcp + 4

    @property
    def at_flags(self) -> int:
        """Where TCP's flags are."""
        return self.at_tcp + 13

    @property
    def at_window(self) -> int:
        """Where it is how much the sender has room for."""
        return self.at_tcp + 14

    @property
    def at_hops(self) -> int:
        """Where the number of hops is that a packet may still go."""
        return ETHERNET + (8 if self.family == 4 else 7)

    # An entry: the ends afterwards, the Ethernet header and two bytes of nothing, and:
    @property
    def ethernet(self) -> int:  # noqa: D102
        return self.ends

    @property
    def ifindex(self) -> int:  # noqa: D102
        return self.ends + 16

    @property
    def came_by(self) -> int:
        """The device by which such packets arrive."""
        return self.ends + 20

    @property
    def largest(self) -> int:
        """The largest segment, as a frame, that has gone the long way in this lease."""
        return self.ends + 24

    @property
    def difference(self) -> int:
        """What the addresses add to a checksum."""
        return self.ends + 28

    @property
    def ports_difference(self) -> int:
        """What the ports add to a checksum."""
        return self.ends + 32

    @property
    def awaited(self) -> int:
        """What its sender has acknowledged last, as it stands in a packet: the sequence number that he awaits next."""
        return self.ends + 36

    @property
    def lease(self) -> int:
        """Until when it holds, in nanoseconds of CLOCK_MONOTONIC; after four bytes of nothing, aligned to eight in either family."""
        return self.ends + 44

    @property
    def packets(self) -> int:  # noqa: D102
        return self.ends + 52

    @property
    def octets(self) -> int:
        """IP's header and all after it, as the kernel counts a flow."""
        return self.ends + 60

    @property
    def ended(self) -> int:
        """Not 0: it holds no more; flags of TCP and the bits above."""
        return self.ends + 68

    @property
    def entry(self) -> int:
        """Size of an entry."""
        return self.ends + 76

    # A note: the ends before, and:
    @property
    def sequence(self) -> int:  # noqa: D102
        return self.ends

    @property
    def acknowledged(self) -> int:  # noqa: D102
        return self.ends + 4

    @property
    def length(self) -> int:
        """As IP has it."""
        return self.ends + 8

    @property
    def kind(self) -> int:
        """The kind of place by which it was chosen; 0 when its flow was known."""
        return self.ends + 12

    @property
    def number(self) -> int:
        """What the packet bears inside the kernel; 0 when there is no note."""
        return self.ends + 16

    @property
    def note(self) -> int:
        """Size of a note."""
        return (self.ends + 20 + 7) // 8 * 8

    @property
    def place(self) -> int:
        """Size of the key of a place: address, port, kind."""
        return self.address + 4

    def key_of_place(self, address: bytes, port: int, kind: int) -> bytes:
        """Write the key of a place; an address of zeros is every one."""
        return address + struct.pack(">H", port) + struct.pack("=H", kind)

    # What the programs have on their stack.
    @property
    def on_stack(self) -> int:
        """Where the packet's ends are."""
        return -40

    @property
    def place_on_stack(self) -> int:
        """Where the key of a place is."""
        return -64

    @property
    def zero_on_stack(self) -> int:
        """Where the key of the only note is."""
        return -72

    @property
    def entry_on_stack(self) -> int:
        """Where an entry is made."""
        return -72 - self.entry
