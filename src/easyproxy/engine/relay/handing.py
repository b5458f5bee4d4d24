"""What a relay engine does in an upgrade: the old program's leaves, the new one's takes over.

The base of :class:`easyproxy.engine.relay.RelayEngine`; implements :class:`easyproxy.engine.seam.HandsOver`. What is
asked of the workers is :mod:`.succession`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.engine.relay import tally
from easyproxy.engine.relay.counters import L_SESSIONS
from easyproxy.engine.relay.succession import legacy
from easyproxy.engine.relay.wire import keys_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.counters import Counters
    from easyproxy.engine.relay.crew import Crew
    from easyproxy.engine.relay.rates import Rates
    from easyproxy.engine.relay.slots import Slots
    from easyproxy.engine.relay.sockets import Sockets
    from easyproxy.engine.relay.succession import Succession
    from easyproxy.engine.relay.tickets import Tickets
    from easyproxy.model import Snapshot


class HandingOver:
    """The part of an engine that hands its sessions over, or takes those of another."""

    _workers: int
    _in_processes: bool
    _is_dormant: bool
    _is_draining: bool
    _hello: Frame
    _crew: Crew
    _succession: Succession
    _counters: Counters
    _slots: Slots
    _sockets: Sockets
    _tickets: Tickets
    _rates: Rates
    _snapshot: Snapshot | None

    def totals(self) -> tally.Totals:
        """Return all that was counted, for a successor that goes on counting."""
        counted = tally.totals(self._counters, self._slots.by_key)
        return {**counted, "generation": self._crew.next_generation}

    def inherit(self, former: tally.Totals) -> None:
        """Go on from what a former process had counted; once, after the first snapshot."""
        tally.inherit(self._counters, self._slots.by_key, former)

    def _is_slot_idle(self, slot: int) -> bool:
        return self._counters.sum(slot, 0) == 0

    @property
    def can_hand_over(self) -> bool:
        """Whether sessions can be given to another process: a thread's cannot."""
        return self._in_processes

    @property
    def worker_count(self) -> int:
        """How many workers there are to be."""
        return self._workers

    def session_count(self) -> int:
        """How many sessions there are."""
        slots = [slot for key, slot in self._slots.by_key.items() if key.startswith("listener:")]
        return sum(self._counters.sum(slot, L_SESSIONS) for slot in slots)

    def share_ports(self, ports: Collection[int]) -> None:
        """Let another engine of this user take a place at these ports, and at no others, while our sockets are open."""
        self._sockets.share(ports)

    def legacy(self) -> list[tuple[Frame, list[int]]]:
        """Say what a successor begins with."""
        return legacy(
            self._sockets.groups,
            self._tickets.fds,
            self._rates.tables,
            generation=self._crew.promise_generation(),
        )

    def keys(self) -> list[str]:
        """Name everything whose sessions may be handed over."""
        return list(self._slots.by_key)

    async def give(self, links: Sequence[int], within_s: float) -> int:
        """Stand still, and give every session over these links; raises EngineError, and then call :meth:`thaw`."""
        return await self._succession.give(links, self._workers, within_s)

    async def thaw(self) -> int:
        """Go on with what was not taken; return how many sessions that is."""
        return await self._succession.thaw()

    async def leave(self, dropped: Collection[str]) -> int:
        """Leave everything to the successor but the listeners that it has dropped; return how many sessions stay."""
        self._is_draining = True
        self._sockets.lend(dropped)
        return await self._succession.leave()

    def dropped(self) -> list[str]:
        """Name the listeners of the predecessor that are none here."""
        return self._sockets.untaken()

    async def adopt(self, links: Sequence[int], keys: Sequence[str], within_s: float) -> int:
        """Take in the predecessor's sessions; return how many. Raises EngineError where that fails."""
        assert self._snapshot is not None  # noqa: S101 - the successor has composed one
        wanted = dict.fromkeys([*keys, *keys_of(self._snapshot)])
        self._slots.assign(wanted, self._is_slot_idle, self._counters.clear)
        slots = {key: self._slots.by_key[key] for key in keys}
        return await self._succession.adopt(links, slots, within_s)

    async def wake(self, totals: tally.Totals) -> int:
        """Go on where the predecessor has stopped; return how many sessions came along."""
        assert self._snapshot is not None  # noqa: S101 - as above
        self._hello["dormant"] = self._is_dormant = False
        self.inherit(totals)
        self._crew.begin_at(totals.get("generation", 0))
        self._sockets.own()
        sessions = await self._succession.wake()
        self._sockets.begin()
        return sessions
