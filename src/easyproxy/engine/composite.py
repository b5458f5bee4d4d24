"""One engine made of two: the relay engine, and one that serves the listeners that name it (the kernel's).

Control sees a single engine: a snapshot is split by its listeners, and what the parts tell is put together. Nothing
here knows how a part works. With relay listeners only the balancer uses the relay engine itself.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from easyproxy.engine.merging import merged
from easyproxy.engine.seam import (
    EndsTaker,
    Engine,
    HandsOver,
    SessionEnd,
    SessionInfo,
    Sink,
    Statistics,
    Where,
)
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence

T = TypeVar("T")


class Relay(Engine, HandsOver, Protocol):
    """The engine for everything, whose sessions can go on in another process."""

    def share_ports(self, ports: Collection[int]) -> None:
        """Let another socket of this user be bound to these ports beside its own, and to no others."""


class Stays(Engine, Protocol):
    """An engine whose sessions need no process: what it has put in force goes on when the program ends."""

    async def leave_to_successor(self) -> None:
        """End without taking anything back: a successor has it now. Nothing may follow."""


class CompositeEngine:
    """Several engines as one; implements :class:`easyproxy.engine.seam.Engine` and ``HandsOver``.

    Args:
        relay: gets the listeners that name no other engine, and every pool.
        other: gets the listeners that name it, and the pools that these need.
        dormant: made with what a predecessor has left: ``other`` begins only with :meth:`wake`, because until then
            what the predecessor has put in force must stay.
        complain: takes a line of text about what cannot be raised, because a successor or this program serves already.
    """

    def __init__(
        self,
        relay: Relay,
        other: Stays,
        *,
        dormant: bool = False,
        complain: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.name = f"{relay.name}+{other.name}"
        self.strategies = relay.strategies | other.strategies
        self._relay = relay
        self._other = other
        self._parts: tuple[Engine, ...] = (relay,)  # those that have been started, and have not left
        self._is_dormant = dormant
        self._complain = complain
        self._sink: Sink = lambda _report: None
        self._snapshot: Snapshot | None = None

    # -- life

    async def start(self, sink: Sink) -> None:
        """Start both. Raises EngineError where the platform lacks something; then :meth:`stop` is to be called."""
        self._sink = sink
        await self._relay.start(sink)
        if not self._is_dormant:
            await self._start_other()

    async def _start_other(self) -> None:
        self._parts = (self._relay, self._other)
        await self._other.start(self._sink)

    async def stop(self) -> None:
        """End both at once, the second also when the first has trouble."""
        await _all(part.stop() for part in self._parts)

    async def drain(self, deadline_s: float) -> None:
        """Take no new sessions in either, and wait until the last has ended, or was closed at the deadline."""
        await _all(part.drain(deadline_s) for part in self._parts)

    # -- downwards

    def apply(self, snapshot: Snapshot) -> None:
        """Take over the snapshot as a whole; when this raises EngineError, the former one stays in force in both."""
        if snapshot == self._snapshot:
            return
        shares = self._split(snapshot)
        if self._other in self._parts:
            self._apply_both(shares)
        else:
            self._relay.apply(shares[self._relay.name])
        self._snapshot = snapshot

    async def settled(self) -> None:
        """Return when both act by the last snapshot."""
        await _all(part.settled() for part in self._parts)

    def _apply_both(self, shares: Mapping[str, Snapshot]) -> None:
        """Whoever takes an address over from the other goes first, so that its clients always find somebody.

        Otherwise the relay engine goes last: what it has refused has changed nothing, and going back would mean to open
        addresses again that others may have taken by then.
        """
        former = self._split(self._snapshot or Snapshot(0))
        relay, other = self._relay.name, self._other.name
        theirs = {listener.bind for listener in former[other].listeners}
        first, second = self._other, self._relay
        order: tuple[Engine, Engine] = (first, second)
        if any(listener.bind in theirs for listener in shares[relay].listeners):
            order = (second, first)
        done = order[0]
        # Its sockets are still open when the other comes to take their addresses over: in the workers for a moment.
        self._relay.share_ports(_ports(shares[other]))
        try:
            done.apply(shares[done.name])
            try:
                order[1].apply(shares[order[1].name])
            except EngineError as error:
                try:
                    done.apply(former[done.name])
                except EngineError as second_error:
                    raise EngineError(
                        f"{error}; and the {done.name} engine could not go back: {second_error}"
                    ) from error
                raise
        finally:
            self._relay.share_ports(())

    def _split(self, snapshot: Snapshot) -> dict[str, Snapshot]:
        """Give each engine its listeners. Raises EngineError for a listener that names neither."""
        names = (self._relay.name, self._other.name)
        for listener in snapshot.listeners:
            if listener.engine not in names:
                raise EngineError(
                    f"listener {listener.name}: there is no engine {listener.engine}; there is {' and '.join(names)}"
                )
        # Every pool, as ever: sessions of a listener that has gone to the other engine are still counted there.
        mine = replace(share(snapshot, self._relay.name), pools=snapshot.pools)
        return {self._relay.name: mine, self._other.name: share(snapshot, self._other.name)}

    def addresses(self) -> Mapping[str, str]:
        """Where each listener really listens."""
        return {name: text for part in self._parts for name, text in part.addresses().items()}

    # -- upwards

    def statistics(self) -> Statistics:
        """Add up the counters; what both count of a backend is one sum."""
        return reduce(merged, (part.statistics() for part in self._parts))

    def process_ids(self) -> Mapping[str, int]:
        """Process ids of both, by name."""
        return {name: pid for part in self._parts for name, pid in part.process_ids().items()}

    async def sessions(self) -> list[SessionInfo]:
        """List the live sessions of both."""
        return [info for infos in await _all(part.sessions() for part in self._parts) for info in infos]

    async def recent_ends(self, where: Where) -> list[SessionEnd]:
        """List the sessions of both that ended last, oldest first."""
        found = [end for ends in await _all(part.recent_ends(where) for part in self._parts) for end in ends]
        return sorted(found, key=lambda end: end.started_at + end.age_s)

    def tell_every_session(self, taker: EndsTaker | None) -> None:
        """Hand every session that ends in either to ``taker``; None ends that."""
        for part in (self._relay, self._other):  # also before it is started
            part.tell_every_session(taker)

    async def stacks(self) -> Mapping[str, str]:
        """What every worker of both is doing."""
        found = await _all(part.stacks() for part in self._parts)
        return {name: text for stacks in found for name, text in stacks.items()}

    async def close_sessions(self, where: Where, reason: str = "operator") -> int:
        """Close the sessions that match in both; return how many."""
        return sum(await _all(part.close_sessions(where, reason) for part in self._parts))

    # -- an upgrade: the relay engine hands its sessions over, those of the other are not in this process at all

    @property
    def can_hand_over(self) -> bool:
        """Whether the relay engine can."""
        return self._relay.can_hand_over

    @property
    def worker_count(self) -> int:
        """How many workers there are to be."""
        return self._relay.worker_count

    def totals(self) -> Any:  # noqa: ANN401 - the relay engine's own
        """All that the relay engine has counted."""
        return self._relay.totals()

    def session_count(self) -> int:
        """How many sessions are to be handed over."""
        return self._relay.session_count()

    def legacy(self) -> list[tuple[dict[str, Any], list[int]]]:
        """What a successor's relay engine begins with."""
        return self._relay.legacy()

    def keys(self) -> list[str]:
        """Names of everything that a session may refer to."""
        return self._relay.keys()

    async def give(self, links: Sequence[int], within_s: float) -> int:
        """Stand still and give every session of the relay engine; return how many. Raises EngineError."""
        return await self._relay.give(links, within_s)

    async def thaw(self) -> int:
        """Go on with what the successor has not taken; return how many sessions those are."""
        return await self._relay.thaw()

    async def leave(self, dropped: Collection[str]) -> int:
        """Leave everything to the successor; return how many sessions have stayed."""
        if self._other in self._parts:
            self._parts = (self._relay,)
            if self._claim not in dropped:
                # The successor has no such engine. New clients are its relay engine's; who is here goes on in peace.
                try:
                    self._other.apply(Snapshot(0))
                except EngineError as error:  # the successor serves already: there is no way back
                    self._complain(
                        f"after the upgrade, the {self._other.name} engine still takes clients: {error}"
                    )
            await self._other.leave_to_successor()
        return await self._relay.leave([name for name in dropped if name != self._claim])

    def dropped(self) -> list[str]:
        """Names of the predecessor's listeners that the relay engine does not have, and that ``other`` is here."""
        return [*self._relay.dropped(), self._claim]

    @property
    def _claim(self) -> str:
        """What no listener can be called, because of the space."""
        return f" {self._other.name}"

    async def adopt(self, links: Sequence[int], keys: Sequence[str], within_s: float) -> int:
        """Take sessions in, without touching them; return how many. Raises EngineError."""
        return await self._relay.adopt(links, keys, within_s)

    async def wake(self, totals: Any) -> int:  # noqa: ANN401 - the relay engine's own
        """Begin; return how many sessions have come along. They are ours now, whatever the other engine says."""
        snapshot, self._snapshot, self._is_dormant = self._snapshot, None, False
        # The predecessor may have them open for a moment longer than we do.
        self._relay.share_ports(_ports(self._split(snapshot or Snapshot(0))[self._other.name]))
        count = await self._relay.wake(totals)
        try:
            await self._start_other()
        except EngineError as error:
            self._parts = (self._relay,)
            self._complain(self._unserved(error))
            await self._other.stop()
            return count
        try:
            self._other.apply(self._split(snapshot or Snapshot(0))[self._other.name])
            self._snapshot = snapshot
        except EngineError as error:  # the next snapshot is the next attempt
            self._complain(self._unserved(error))
        return count

    def _unserved(self, error: EngineError) -> str:
        return f"after the upgrade, listeners with engine: {self._other.name} are not served: {error}"


def share(snapshot: Snapshot, engine: str) -> Snapshot:
    """Leave the listeners that name an engine, and the pools that these need."""
    listeners = tuple(one for one in snapshot.listeners if one.engine == engine)
    needed = {one.pool for one in listeners}
    return Snapshot(
        snapshot.version, listeners, tuple(pool for pool in snapshot.pools if pool.name in needed)
    )


def _ports(snapshot: Snapshot) -> set[int]:
    return {listener.bind.port for listener in snapshot.listeners} - {0}


async def _all(works: Iterable[Coroutine[object, None, T]]) -> list[T]:
    """Wait for all of them, then raise what the first has raised that did."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
