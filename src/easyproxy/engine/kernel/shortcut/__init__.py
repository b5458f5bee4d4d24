"""The shortcut: packets of established flows pass the kernel's tracking of flows, its rules and its routing by.

Two programs, of which there is one for each family of addresses. ``arriving`` meets each packet that a device receives, before anything else
in the kernel does; ``leaving`` each that a device sends, after everything else but others' programs there, which then meet what took
the shortcut, too. How a packet gets from one to the other is the kernel's business: its rules, its table of flows, its
routes. Now and then ``arriving`` puts a packet down (``Layout.note``), and when ``leaving`` meets the same packet, what became of it is learned
(``Layout.entry``): addresses, ports, the Ethernet header, both devices. The next packets of that direction of that flow are rewritten
alike and sent at once.

What was learned holds for a second (the lease). Then a packet goes the long way, and what becomes of it is learned anew, so
the kernel sees something of each flow in each second, and whatever it has come to think of a flow holds after
a second at the latest. What is no ordinary packet of an established flow (SYN, FIN, RST, fragments, options of IP, a
segment larger than any before) always goes the long way. FIN and RST end the entry, and that of the other direction.

The way through: ``arriving`` and ``leaving`` say what happens to a packet, in ``steps`` that they share (``assembler`` writes it down, ``layout``
knows where things stand); ``bpf`` puts that into the kernel, ``devices`` says where, ``sums`` adds what was counted there to what the kernel
counts itself; ``shortcut`` holds it all together.
"""

from __future__ import annotations

from easyproxy.engine.kernel.shortcut.leaving import LEASE_S
from easyproxy.engine.kernel.shortcut.shortcut import Shortcut, obstacle

__all__ = ["LEASE_S", "Shortcut", "obstacle"]
