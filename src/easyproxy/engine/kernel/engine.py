"""The kernel engine as control sees it: snapshots become rules, flows become sessions and counts.

It lives in the control process's event loop. Looking at the flows takes time where there are many, so one thread of its own
does that; it is started by the thread that starts the engine, and so sees the same network namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from easyproxy.engine.kernel import conntrack, slots
from easyproxy.engine.kernel.counts import full_backends, statistics
from easyproxy.engine.kernel.flows import Flow
from easyproxy.engine.kernel.ledger import CLEAN, Books, Ended, Ledger, Session, ends_of, where_of
from easyproxy.engine.kernel.nft import Nft, Rules
from easyproxy.engine.kernel.places import Places, placed
from easyproxy.engine.kernel.reach import refusals
from easyproxy.engine.kernel.ruleset import (
    EDITION,
    MAX_CLOSING,
    NOTES,
    Layout,
    Options,
    closing,
    noting,
    render,
)
from easyproxy.engine.kernel.settings import Setting, Settings, needed
from easyproxy.engine.kernel.shortcut import LEASE_S, Shortcut
from easyproxy.engine.kernel.sight import Sight
from easyproxy.engine.seam import (
    CUTS,
    EndsTaker,
    SessionEnd,
    SessionInfo,
    Sink,
    Statistics,
    Where,
)
from easyproxy.errors import EngineError
from easyproxy.model import Snapshot

T = TypeVar("T")

REFRESH_S = 1.0
_SHARE, _LARGE_SHARE = 40, 20
"""A look at the flows may take one part in so many of the time, so with many flows there are fewer looks."""
_SELDOM_S = 8.0
"""The larger share is for so many flows that there would be no look for longer than this."""
_FULL, _RELAXED = 0.8, 0.7
_POLL_S = 0.1


class KernelEngine:
    """The engine that lets the kernel forward packets; implements :class:`easyproxy.engine.seam.Engine`.

    Args:
        source: what address the backends see: ``masquerade`` (ours, whatever their routes) or ``transparent`` (the
            client's; they must route back through this machine).
        manage_sysctl: set kernel settings that are missing, and put them back at the end.
        complain: takes a line of text about the engine itself.
        shortcut: what packets of established sessions may take; it is the engine's from then on. None: all go the
            long way.
        rules: what programs the kernel; nft, unless a test has something else.
        refresh_s: time between two looks at the flows, at least; with very many flows it is longer.
    """

    name = "kernel"
    strategies = slots.STRATEGIES

    def __init__(
        self,
        *,
        source: str = "masquerade",
        manage_sysctl: bool = False,
        complain: Callable[[str], None] = lambda _text: None,
        shortcut: Shortcut | None = None,
        rules: Rules | None = None,
        refresh_s: float = REFRESH_S,
    ) -> None:
        if source not in ("masquerade", "transparent"):
            raise EngineError(f"kernel: source {source!r} is unknown; write masquerade or transparent")
        self._options = Options(source=source, unseen_s=0 if shortcut is None else LEASE_S)
        self._complain = complain
        self._rules = rules if rules is not None else Nft()
        self._shortcut = shortcut
        self._settings = Settings(manages=manage_sysctl)
        self._places = Places()
        self._ledger = Ledger()
        self._layout: Layout | None = None
        self._has_found_rules = False
        self._found: Layout | None = None
        self._asked: Snapshot | None = None
        self._snapshot = Snapshot(0)
        self._sink: Sink = lambda _report: None
        self._ends_taker: EndsTaker | None = None
        self._books = Books()
        self._packets: dict[str, int] = {}
        self._untold: deque[Ended] = deque()  # the ledger says only once that a session has ended
        self._told: set[str] = set()
        self._is_full = False
        self._sight: Sight | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._refresh_s = refresh_s
        self._looking: asyncio.Task[None] | None = None

    # -- life

    async def start(self, sink: Sink) -> None:
        """Find out whether the kernel lets us. Raises EngineError with the remedy.

        Rules that a killed program has left go on serving until the first snapshot replaces them.
        """
        self._sink = sink
        self._has_found_rules = self._rules.exists()
        if self._has_found_rules:
            self._complain(
                "kernel engine: rules of a former run are in force until the first snapshot replaces them"
            )
        self._sight = Sight(self._ledger, self._shortcut, self._prepare_resets)
        if not self._sight.can_poke:
            self._complain(
                "kernel engine: without CAP_NET_RAW, sessions that are closed end only with their next packet"
            )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="easyproxy-flows")
        self._looking = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Close every session, remove the rules, put settings back."""
        await self._stop_looking()
        try:
            if self._layout is not None and self._sight is not None:
                await self.close_sessions(Where(), "drained")
        except EngineError as error:
            self._complain(f"kernel engine: not every session is closed: {error}")
        finally:
            self._take_back()
            self._let_go()

    def _take_back(self) -> None:
        """Remove the rules, and put settings back."""
        if self._layout is not None or (self._settings.notes and not self._has_found_rules):
            self._layout = None
            for undo in (self._settings.restore, self._rules.remove):  # what was noted goes last
                try:
                    undo()
                except EngineError as error:
                    self._complain(f"kernel engine: {error}")

    async def leave_to_successor(self) -> None:
        """End, and leave rules, sessions and settings as they are: another program has them now."""
        await self._stop_looking()
        self._layout = None
        self._let_go()

    async def _stop_looking(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
            self._looking = None

    def _let_go(self) -> None:
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        self._tell()
        for owned in (self._sight, self._shortcut):
            if owned is not None:
                owned.close()
        self._sight = None
        self._places.settle({})

    def process_ids(self) -> dict[str, int]:
        """There are none: the kernel does the work."""
        return {}

    async def stacks(self) -> dict[str, str]:
        """There are no workers to ask."""
        return {}

    # -- downwards

    def apply(self, snapshot: Snapshot) -> None:
        """Put the snapshot in force in one transaction; the former one stays when this raises EngineError."""
        if self._asked == snapshot:
            return
        problems = refusals(snapshot)
        if problems:
            raise EngineError(". ".join(problems))
        with contextlib.ExitStack() as undo:
            places = self._places.prepare(snapshot.listeners, undo)
            numeric = replace(
                snapshot, listeners=tuple(placed(item, places[item.name]) for item in snapshot.listeners)
            )
            problems = refusals(numeric)  # a name may have turned out to be of the other family
            if problems:
                raise EngineError(". ".join(problems))
            if self._layout is None:
                self._find()
            missing = self._settings.ensure(self._needed(numeric), self._write_down)
            self._options = replace(self._options, notes=self._settings.notes)
            self._program(numeric)
            undo.pop_all()
        self._places.settle(places)
        self._asked, self._snapshot = snapshot, numeric
        self._ledger.know(numeric)
        if self._shortcut is not None:
            self._shortcut.know(numeric)
        for text in missing:
            self._complain_once(f"kernel engine: {text}")

    def _find(self) -> None:
        """Take over what a former run has left in the kernel: what settings were, and counts that are to go on."""
        notes = self._rules.comments(NOTES)
        self._settings.adopt(notes)
        self._found = Layout("", self._rules.objects()) if EDITION in notes else None

    def _needed(self, snapshot: Snapshot) -> list[Setting]:
        return needed(snapshot, shortcut=self._shortcut is not None)

    def _write_down(self) -> None:
        """Before a setting changes, what it was is in the kernel: the next start knows it even if we are killed now."""
        self._rules.add(noting(self._settings.notes))

    def _pass_over_the_full(self) -> None:
        """Draw others until there is room again. Rules cannot do it: their count would take in the clients that they pass on."""
        if self._layout is not None and full_backends(self._snapshot, self._books) != self._options.full:
            self._program(self._snapshot)

    def _put_back_what_is_gone(self) -> None:
        """Make our table anew where somebody has removed it, as every start of nftables.service does."""
        layout = self._layout
        if layout is None or self._packets or not any(kind == "counter" for kind, _ in layout.objects):
            return
        if not self._rules.exists():
            self._program(self._snapshot, anew=True)
            self._complain("kernel engine: somebody had removed the table inet easyproxy; it is there again")
            # ``kernel clean`` undoes them, too.
            self._settings.ensure(self._needed(self._snapshot), self._write_down)

    def _program(self, snapshot: Snapshot, *, anew: bool = False) -> None:
        former = None if anew else self._layout or self._found
        options = replace(self._options, full=full_backends(snapshot, self._books))
        layout = render(snapshot, options, former)
        try:
            if not layout.leaves_as_it_is(former):
                self._rules.replace(layout.text)
        except EngineError:
            if former is None:
                raise
            # Somebody may have touched our table; made anew it needs nothing of what was there.
            layout = render(snapshot, options)
            self._rules.replace(layout.text)
        self._layout, self._found, self._options = layout, None, options

    async def settled(self) -> None:
        """Return at once: the kernel acts by a snapshot as soon as it has it."""

    def addresses(self) -> dict[str, str]:
        """Where each listener stands."""
        return self._places.addresses()

    async def drain(self, deadline_s: float) -> None:
        """Refuse newcomers, wait for the last session to end, close the rest at the deadline."""
        self._options = replace(self._options, is_draining=True)
        if self._layout is not None:
            self._program(self._snapshot)
        end = time.monotonic() + deadline_s
        while await self._live():
            left = end - time.monotonic()
            if left <= 0:
                await self.close_sessions(Where(), "drained")
                return
            await asyncio.sleep(min(left, max(_POLL_S, self._rest_s)))

    async def _live(self) -> int:
        await self._look()
        return self._books.sessions_by_listener.total()

    # -- upwards

    def statistics(self) -> Statistics:
        """Counts of the last look, at most a second ago unless there are very many flows."""
        return statistics(self._snapshot, self._books, self._packets)

    async def sessions(self) -> list[SessionInfo]:
        """List the live sessions, after a look."""
        await self._look()
        return await self._in_thread(lambda: self._ledger.infos(time.time()))

    async def recent_ends(self, where: Where) -> list[SessionEnd]:
        """List the sessions that ended last, oldest first."""
        ends = [end.told() for end in list(self._ledger.recent)]
        return [end for end in ends if where_of(end, where)]

    def tell_every_session(self, taker: EndsTaker | None) -> None:
        """Hand every session that ends to ``taker``; None ends that."""
        self._ends_taker = taker

    async def close_sessions(self, where: Where, reason: str = "operator") -> int:
        """Forget the flows that match, and have both ends reset; half-open ones too.

        Raises ValueError for a reason that is not in ``CUTS``.
        """
        if reason not in CUTS:
            raise ValueError(f"{reason!r} is no reason to close sessions; write {', '.join(CUTS)}")
        await self._look()
        sessions = await self._in_thread(lambda: self._ledger.matching(where))
        return await self._cut(sessions, reason)

    async def _cut(self, sessions: list[Session], reason: str) -> int:
        sight = self._sight
        if sight is None or not sessions:
            return 0

        def cut() -> int:
            ends = sight.cut(sessions, reason)
            self._untold.extend(ends)
            return len(ends)

        count = await self._in_thread(cut)
        await self._look()  # which tells of them, so that whoever is told finds it counted
        return count

    def _prepare_resets(self, flows: list[Flow]) -> None:
        """Where the next packet of a backend would go to the client, let it be answered with a reset for a while."""
        if self._options.source == "transparent":
            try:
                self._rules.add(closing(map(ends_of, flows[:MAX_CLOSING])))
            except EngineError as error:  # they end all the same, only later
                self._complain_once(
                    f"kernel engine: backends are not told at once of closed sessions: {error}"
                )

    # -- looking

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look()
                self._put_back_what_is_gone()
                self._pass_over_the_full()
                await self._cut(self._ledger.too_old(time.time()), "life_timeout")
                self._watch_fill()
            except EngineError as error:
                self._complain_once(f"kernel engine: {error}")
            except Exception as error:  # noqa: BLE001 - without looks nobody would be told of anything any more
                self._complain_once(f"kernel engine: {''.join(traceback.format_exception(error)).rstrip()}")
            await self._pause(max(self._refresh_s, self._rest_s))

    @property
    def _rest_s(self) -> float:
        """Until the next look, after one like the last."""
        look_s = self._sight.look_s if self._sight is not None else 0.0
        return max(_LARGE_SHARE * look_s, min(_SELDOM_S, _SHARE * look_s))

    async def _pause(self, left_s: float) -> None:
        """Wait for the next look, and listen meanwhile."""
        while left_s > REFRESH_S:
            await asyncio.sleep(REFRESH_S)
            left_s -= REFRESH_S
            if self._sight is not None:
                await self._in_thread(self._sight.hear)
        await asyncio.sleep(left_s)

    async def _look(self) -> None:
        """Look at the flows and the counters, and tell of the sessions that have ended."""
        sight = self._sight
        if sight is None or self._layout is None:
            return

        def look() -> None:
            self._books, ends = sight.look()
            # Kept before anything else: whoever waits for this may be cancelled, and nft may fail.
            self._untold.extend(ends)
            self._packets = self._rules.counters()

        try:
            await self._in_thread(look)
        finally:
            self._tell()
        if sight.has_missed:
            self._complain_once(
                "kernel engine: sessions end faster than they can be accounted for; ends and bytes of some are missing"
            )

    def _tell(self) -> None:
        """Tell of every end that nobody has been told of."""
        ends: list[Ended] = []
        while self._untold:  # the thread may add to it at the same time
            ends.append(self._untold.popleft())
        for end in ends:
            if end.reason not in CLEAN:
                self._sink(end.told())
        if ends and self._ends_taker is not None:
            self._ends_taker([end.told() for end in ends])

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise EngineError("the kernel engine is not running")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _watch_fill(self) -> None:
        count, limit = conntrack.fill()
        share = count / limit if limit else 0.0
        if share >= _FULL and not self._is_full:
            self._is_full = True
            self._complain(
                f"kernel engine: the kernel follows {count} of {limit} flows; beyond that it drops packets. "
                f"sysctl -w net.netfilter.nf_conntrack_max={2 * limit}"
            )
        elif share < _RELAXED:
            self._is_full = False

    def _complain_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._complain(text)
