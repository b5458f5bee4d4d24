"""What the parts of one worker share: the poller, who handles which descriptor, the clock, the wheel, the buffers.

It decides nothing. Everything in it belongs to one thread.
"""

from __future__ import annotations

import resource
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from easyproxy.engine.relay.counters import E_LOST, ENDS_SLOT
from easyproxy.engine.relay.names import name_of, prefix_of
from easyproxy.engine.relay.pipes import PipePool
from easyproxy.engine.relay.poller import EdgePoller, LevelPoller, Poller, has_epoll
from easyproxy.engine.relay.timers import Wheel

if TYPE_CHECKING:
    from easyproxy.engine.relay.counters import Counters
    from easyproxy.engine.relay.ends import Row
    from easyproxy.engine.relay.runtime import Accepting, BackendRuntime
    from easyproxy.engine.relay.session import Flowing, Session

BUFFER_BYTES = 128 * 1024
SMALL = 2048
"""Up to this size a slice of the buffer is at hand: to make one takes 70 of the 900 ns that a short message costs the interpreter."""
MAX_REPORTS = 4096
"""Observations and complaints that wait to be handed over; further ones are counted and dropped."""
MAX_ENDS = 16384
"""The same for ended sessions: at 10,000 a second, more than a second during which the control process does not read."""
REMEMBERED_ENDS = 1000
"""The last sessions that ended are remembered, for whoever asks what became of one."""

OTHER_DESCRIPTORS = 64
"""So many of a worker's descriptors belong to no session."""

Lingering = tuple[float, int, "BackendRuntime | None"]
"""A reset that waits for an acknowledgement: its deadline, the descriptor, and the backend whose place it holds."""


class Handler(Protocol):
    """Whoever is called when a descriptor is ready."""

    def ready(self, fd: int, mask: int) -> None:
        """Take the event as a hint; it may be stale."""


class Carrying(Protocol):
    """Who moves the bytes of talkative sessions; see :mod:`.ring`."""

    left: set[int]
    """The numbers of sessions that were given back; whoever reads it empties it."""

    @property
    def count(self) -> int:
        """How many it carries."""

    def takes(self, session: Session) -> bool:
        """Whether it can carry a session."""

    def carry(self, session: Session) -> None:
        """Carry it from now on."""

    def flush(self) -> None:
        """Send what was read for any of them."""

    def release(self, session: Session) -> None:
        """Give it back at once, if it is carried."""

    def release_all(self) -> None:
        """Give back all."""

    def close(self) -> None:
        """Close it. Nothing is carried any more."""


class Core:
    """The shared state of one worker."""

    def __init__(self, index: int, generation: int, counters: Counters, *, portable: bool) -> None:
        self.index = index
        self.generation = generation
        self.prefix = prefix_of(index, generation)
        self.counters = counters
        self.cells = counters.cells
        self.ends_cell = counters.base(ENDS_SLOT)  # where this worker counts session ends by reason
        self.is_edge_triggered = has_epoll() and not portable
        self.poller: Poller = EdgePoller() if self.is_edge_triggered else LevelPoller()
        self.watch = self.poller.watch
        self.poll = self.poller.poll  # or the ring's, while that carries sessions
        self.ring: Carrying | None = None
        self.faults: list[tuple[object, Exception]] = []  # whose handling went wrong in the ring
        self.can_splice = self.is_edge_triggered
        self.handlers: list[Handler | None] = [None] * 1024
        self.now = time.monotonic()
        self.wheel: Wheel[Session] = Wheel(self.now)
        self.pipes = PipePool()
        self.buffer = bytearray(BUFFER_BYTES)
        self.view = memoryview(self.buffer)
        self.views = [self.view[:size] for size in range(SMALL + 1)]
        self.sessions: dict[int, Session] = {}
        self.accepted = 0
        self.again: list[Flowing] = []  # flows that gave way to others with work left
        self.moving: list[Flowing] = []  # flows that have moved bytes which are not counted yet
        # Whose backend stands since the last turn, and whether its acknowledgement is held; see ``dial.settle_acks``.
        self.greeted: list[tuple[Session, bool]] = []
        self.closing: list[int] = []  # closed after the batch, so that no number is given out twice within it
        self.lingering: list[Lingering] = []
        # Of these another process has a copy, or may have: to close ours does not end its registration (epoll(7)).
        self.shared: set[int] = set()
        self.leaving: list[BackendRuntime] = []  # whose places become free when ``closing`` is closed
        self.paused: list[Accepting] = []
        self.declined: list[tuple[float, Accepting]] = []  # and when it accepts again
        self.follows = False  # the conversation of a session was ever followed
        self.is_leaving = False  # every session is to end that can: nobody is taken in any more
        # Who is held at a gate needs a second descriptor to be let in with.
        self.most_held = max(1, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - OTHER_DESCRIPTORS) // 2)
        self.is_starved = False  # clients wait for a descriptor to reach a backend with: no more are taken in
        self.reports: list[dict[str, Any]] = []
        self.recent_ends: deque[Row] = deque(maxlen=REMEMBERED_ENDS)
        self.ends: list[Row] = []  # that wait to be handed over
        self.tells_clean_ends = False
        self.epoch = 0.0  # what the calendar has more than the monotonic clock

    def handle(self, fd: int, handler: Handler | None) -> None:
        """Name who is called for a descriptor."""
        handlers = self.handlers
        if fd >= len(handlers):
            handlers.extend([None] * (fd + 1024 - len(handlers)))
        handlers[fd] = handler

    def report(self, report: dict[str, Any]) -> None:
        """Keep a report for the control process; never blocks."""
        if len(self.reports) < MAX_REPORTS:
            self.reports.append(report)
        else:
            self.cells[self.ends_cell + E_LOST] += 1

    def session_id(self, number: int) -> str:
        """Name a session: unique over workers and their successors."""
        return name_of(self.prefix, number)
