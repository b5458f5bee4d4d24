"""The shortcut: packets of established flows pass the kernel's tracking of flows, its rules and its routing by.

The way through: ``program`` says what happens to a packet (``assembler`` writes it down, ``layout`` knows where things stand), ``bpf`` puts that into the kernel,
``devices`` says where, ``sums`` adds what was counted there to what the kernel counts itself; ``shortcut`` holds it all together.
"""

from __future__ import annotations

from easyproxy.engine.kernel.shortcut.program import LEASE_S
from easyproxy.engine.kernel.shortcut.shortcut import Shortcut, obstacle

__all__ = ["LEASE_S", "Shortcut", "obstacle"]
