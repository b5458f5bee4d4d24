"""One coarse timer wheel per worker: a session stands in it once, wherever its nearest deadline is.

A byte that moves does not move the session in the wheel: when its place comes up, the true deadline is looked at,
and a session that is not due is put further on. So time-outs cost nothing per byte and little per session.
(G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 6, with a dictionary as the
hash.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TICK_S = 0.1
HORIZON = 4096
"""A session is looked at again after this many ticks at the latest."""


class Timed(Protocol):
    """What stands in a wheel: a session."""

    tick: int
    """Where it stands; 0 and below is nowhere. The wheel's to write."""


S = TypeVar("S", bound=Timed)


class Wheel(Generic[S]):
    """Sessions by the tick at which they must be looked at."""

    __slots__ = ("_slots", "tick")

    def __init__(self, now: float) -> None:
        self.tick = int(now / TICK_S)
        self._slots: dict[int, set[S]] = {}

    def place(self, session: S, deadline: float) -> None:
        """Put a session where ``deadline`` (seconds of the worker's clock) is, and out of where it stood."""
        if session.tick > 0:
            self.remove(session)
        tick = int(deadline / TICK_S) + 1
        if tick <= self.tick:
            tick = self.tick + 1
        elif tick > self.tick + HORIZON:
            tick = self.tick + HORIZON
        session.tick = tick
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = {session}
        else:
            slot.add(session)

    def bring_forward(self, session: S, deadline: float) -> None:
        """Put a session where ``deadline`` is, unless it stands there or before that already."""
        if session.tick <= 0 or self.is_later(session, deadline):
            self.place(session, deadline)

    def is_later(self, session: S, deadline: float) -> bool:
        """Whether the session stands further on than a deadline needs."""
        return session.tick > int(deadline / TICK_S) + 1

    def remove(self, session: S) -> None:
        """Take a session out."""
        slot = self._slots.get(session.tick)
        if slot is not None:
            slot.discard(session)
            if not slot:
                del self._slots[session.tick]
        session.tick = 0

    def due(self, now: float) -> Iterator[S]:
        """Yield every session whose tick has come, already taken out."""
        until = int(now / TICK_S)
        # A clock that jumped (a machine that slept) must not make us walk through millions of empty ticks.
        ticks: Iterable[int] = range(self.tick + 1, until + 1)
        if until - self.tick > HORIZON:
            ticks = sorted(tick for tick in self._slots if tick <= until)
        self.tick = max(self.tick, until)  # at once, so that nobody is put where the walk has been already
        for tick in ticks:
            for session in self._slots.pop(tick, ()):
                if session.tick == tick:  # else taken out or put elsewhere since the walk began
                    session.tick = 0
                    yield session
