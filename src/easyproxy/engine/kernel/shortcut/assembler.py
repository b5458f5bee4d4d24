"""A small assembler for eBPF, the instruction set of programs in the kernel (RFC 9669). Pure: instructions in, bytes out.

Only what our programs use. Numbers in the machine's byte order; for those of a packet see :func:`network16`.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from enum import IntEnum

_INSTRUCTION = struct.Struct("=BBhI")
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_LOAD, _STORE, _STORE_IMMEDIATE, _ATOMIC = 0x61, 0x63, 0x62, 0xC3
_ARITHMETIC = {
    "add": 0x07,
    "sub": 0x17,
    "or": 0x47,
    "and": 0x57,
    "lsh": 0x67,
    "rsh": 0x77,
    "xor": 0xA7,
    "mov": 0xB7,
}
_JUMPS = {"==": 0x15, ">": 0x25, "has": 0x45, "!=": 0x55, "<": 0xA5}
_REGISTER = 0x08  # the operand is a register
_ALWAYS, _CALL, _EXIT, _TO_NETWORK, _WIDE_MOVE, _OF_MAP = 0x05, 0x85, 0x95, 0xDC, 0x18, 1


class Reg(IntEnum):
    """The registers: R0 is what a call returns, R1 to R5 are what it is given and loses, R6 to R9 stay, R10 is the stack's end."""

    R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)


Operand = Reg | int


class Assembler:
    """Collects instructions; :meth:`code` is the program. Labels may be used before they stand."""

    def __init__(self) -> None:
        self._instructions: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: list[tuple[int, str]] = []

    def code(self) -> bytes:
        """Resolve the labels. Raises KeyError for one that stands nowhere."""
        offsets = {at: self._labels[label] - at - 1 for at, label in self._jumps}
        return b"".join(
            _INSTRUCTION.pack(code, source << 4 | target, offsets.get(at, offset), immediate & 0xFFFFFFFF)
            for at, (code, target, source, offset, immediate) in enumerate(self._instructions)
        )

    def _add(self, code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self._instructions.append((code, target, source, offset, immediate))

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._instructions)

    def do(self, what: str, target: Reg, operand: Operand) -> None:
        """Compute in 64 bits: ``add``, ``sub``, ``or``, ``and``, ``lsh``, ``rsh``, ``xor``, ``mov``. Numbers have 32 bits and a sign."""
        code = _ARITHMETIC[what]
        if isinstance(operand, Reg):
            self._add(code | _REGISTER, target, operand)
        else:
            self._add(code, target, immediate=operand)

    def load(self, size: int, target: Reg, base: Reg, offset: int = 0) -> None:
        """Read ``size`` bytes, without a sign."""
        self._add(_LOAD | _SIZES[size], target, base, offset)

    def store(self, size: int, base: Reg, offset: int, value: Operand) -> None:
        """Write ``size`` bytes."""
        if isinstance(value, Reg):
            self._add(_STORE | _SIZES[size], base, value, offset)
        else:
            self._add(_STORE_IMMEDIATE | _SIZES[size], base, 0, offset, value)

    def copy(self, target: Reg, to: int, source: Reg, start: int, size: int, through: Reg = Reg.R2) -> None:
        """Copy ``size`` bytes, an even number, by way of a register."""
        for offset, step in pieces(size):
            self.load(step, through, source, start + offset)
            self.store(step, target, to + offset, through)

    def add_atomically(self, base: Reg, offset: int, value: Reg) -> None:
        """Add 64 bits to memory that others change, too."""
        self._add(_ATOMIC | _SIZES[8], base, value, offset)

    def to_network(self, target: Reg, bits: int) -> None:
        """Change a number of 16 or 32 bits from the network's byte order to the machine's, or back."""
        self._add(_TO_NETWORK, target, immediate=bits)

    def jump(self, label: str) -> None:
        """Go on at a label."""
        self._jumps.append((len(self._instructions), label))
        self._add(_ALWAYS)

    def jump_if(self, left: Reg, relation: str, right: Operand, label: str) -> None:
        """Go on at a label if ``==``, ``!=``, ``>``, ``<`` (without signs), or ``has`` (common bits) holds."""
        self._jumps.append((len(self._instructions), label))
        code = _JUMPS[relation]
        if isinstance(right, Reg):
            self._add(code | _REGISTER, left, right)
        else:
            self._add(code, left, immediate=right)

    def address_of_map(self, target: Reg, descriptor: int) -> None:
        """Put a map, given by its descriptor, into a register."""
        self._add(_WIDE_MOVE, target, _OF_MAP, immediate=descriptor)
        self._add(0)

    def call(self, helper: int) -> None:
        """Call one of the kernel's helpers, bpf-helpers(7)."""
        self._add(_CALL, immediate=helper)

    def exit(self) -> None:
        """End, with what R0 has."""
        self._add(_EXIT)


def pieces(size: int) -> Iterable[tuple[int, int]]:
    """Divide an even number of bytes into (offset, size), of four and at last of two.

    >>> list(pieces(10))
    [(0, 4), (4, 4), (8, 2)]
    """
    yield from ((offset, 4) for offset in range(0, size - 3, 4))
    if size % 4:
        yield size - 2, 2


def network16(number: int) -> int:
    """What a machine reads where 16 bits of a packet have this number."""
    return socket.htons(number)
