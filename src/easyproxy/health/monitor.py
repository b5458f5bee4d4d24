"""The monitor: probes every target on its schedule and hands out observations. An asyncio edge; it judges nothing.

Each target has one task that sleeps, probes and sleeps again. Two semaphores bound how many probes run at once,
whatever the number of backends, so that a thousand of them cost neither a thousand connects in one instant nor a
thousand descriptors. A check that misbehaves costs its own target: its errors are observations, it is abandoned at its
time limit even when it ignores cancellation, and no second probe of that target starts while the first still runs.
The one thing that cannot be defended against is a check that blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence

from easyproxy.engine.seam import Facts, Observation, Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Check, Finding, Target, plain
from easyproxy.health.checks.shortage import is_local
from easyproxy.health.diagnosis import diagnose
from easyproxy.health.schedule import pause_s, second_pause_s

__all__ = ["Check", "Monitor", "Target"]

log = logging.getLogger(__name__)

STAGGER_S = 0.0005
"""Between the first probes of two targets that are watched from the same moment."""
GRACE_S = 1.0
"""How long a cancelled check may take to clean up before it is abandoned."""
BEAT_S = 0.05
"""How often the event loop is asked whether it is late."""
TOLERATED_S = 0.01
"""So late is every event loop now and then."""
EXCUSES = 0.5
"""A check has a time limit of its own. What our own loop stood still of it, from this share on, is a reason to ask again."""


class _Pulse:
    """Measures how long the event loop could not attend to anybody, because it was busy itself."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def lost_s(self) -> float:
        """Seconds lost since the start; only differences mean something."""
        late = asyncio.get_running_loop().time() - self._due if self._timer is not None else 0.0
        return self._lost_s + (late if late > TOLERATED_S else 0.0)

    def start(self) -> None:
        """Measure from now on."""
        if self._timer is None:
            self._beat()

    def stop(self) -> None:
        """Measure no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._lost_s = self.lost_s()
        self._due = loop.time() + BEAT_S
        self._timer = loop.call_at(self._due, self._beat)


class _Watch:
    """The running side of one target."""

    def __init__(self, target: Target, delay_s: float) -> None:
        self.target = target
        self.delay_s = delay_s
        self.started = 0.0  # event loop's time at which the last probe started
        self.probed = asyncio.Event()  # the first probe has ended
        self.wake = asyncio.Event()  # somebody is in a hurry
        self.stray: asyncio.Task[str | Finding] | None = None  # an abandoned probe that still runs
        self.is_late = False  # the last probe started a whole interval too late
        self.short_of: str = ""  # what this machine lacks, said once
        self.task: asyncio.Task[None] | None = None


class Monitor:
    """Watches targets and calls ``observe`` with what it finds, always in the event loop that runs it.

    Args:
        observe: takes each observation; the verdict of its backend is expected to be up to date afterwards.
        is_changing: tells of a backend's ``id`` whether its verdict is changing: then the fast interval applies.
        concurrency: probes at the same time at most.
        expensive: the same for checks that start processes or threads.
        chance: gives floats in [0, 1) for jitter.
    """

    def __init__(
        self,
        observe: Callable[[Observation], None],
        is_changing: Callable[[str], bool],
        *,
        concurrency: int = 256,
        expensive: int = 16,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._observe = observe
        self._is_changing = is_changing
        self._chance = chance
        self._pulse = _Pulse()
        self._round_over = asyncio.Event()  # nobody waits for a first round
        self._round_over.set()
        self._is_overdue = False  # the intervals cannot be kept; said once
        self._places = asyncio.Semaphore(concurrency)
        self._expensive_places = asyncio.Semaphore(expensive)
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._strays: set[asyncio.Task[str | Finding]] = set()

    def watch(self, targets: Sequence[Target]) -> None:
        """Watch exactly these targets from now on. One that did not change keeps its schedule.

        A target that is left out is not observed any more from this moment, even if its probe is under way. Must be
        called in the running event loop.

        Raises:
            ValueError: two targets are the same backend.
        """
        wanted = {target.backend: target for target in targets}
        if len(wanted) != len(targets):
            raise ValueError("a backend was given twice; each needs exactly one target")
        for backend, watch in list(self._watches.items()):
            if wanted.get(backend) != watch.target:
                del self._watches[backend]
                watch.probed.set()  # whoever waits for the first round waits for this one no longer
                if watch.task:
                    watch.task.cancel()
        self._is_overdue &= bool(wanted)
        if wanted:
            self._pulse.start()
        else:
            self._pulse.stop()
        started = 0
        for backend, target in wanted.items():
            if backend not in self._watches:
                watch = _Watch(target, started * STAGGER_S)
                started += 1
                self._watches[backend] = watch
                watch.task = asyncio.create_task(self._run(watch), name=f"probe {backend}")
                self._tasks.add(watch.task)
                watch.task.add_done_callback(self._tasks.discard)

    async def first_round(self) -> None:
        """Wait until every target that is watched now was probed at least once.

        Nobody is probed a second time meanwhile. It takes one time limit, or with more targets than ``concurrency`` as many as there are rounds.
        """
        self._round_over.clear()
        try:
            while waiting := [watch for watch in self._watches.values() if not watch.probed.is_set()]:
                for watch in waiting:
                    await watch.probed.wait()
        finally:
            self._round_over.set()

    def hurry(self, backend: str) -> None:
        """Probe this backend soon: traffic saw a failure. Many calls are one probe; unknown ids are ignored.

        A probe never starts earlier than one fast interval after the one before.
        """
        if watch := self._watches.get(backend):
            watch.wake.set()

    async def stop(self) -> None:
        """Cancel every probe and wait until all have ended; a check that ignores it is left behind after 1 s."""
        self.watch(())
        if self._tasks:
            await asyncio.wait(self._tasks)
        for stray in self._strays:
            if not stray.cancelling():  # a second cancellation would cut short what it does about the first
                stray.cancel()
        if self._strays:
            await asyncio.wait(self._strays, timeout=GRACE_S)
        for stray in self._strays:
            log.warning("%s ignores its cancellation and was left behind", stray.get_name())

    async def _run(self, watch: _Watch) -> None:
        """Probe one target until cancelled."""
        target = watch.target
        await asyncio.sleep(watch.delay_s)
        due = math.inf  # nobody is promised when the first comes
        while True:
            is_first = not watch.probed.is_set()
            async with self._place(target.check):
                watch.wake.clear()
                stray = watch.stray
                watch.started = asyncio.get_running_loop().time()
                self._note_delay(watch, due)
                observation = await self._fairly(watch)
                if (
                    observation
                ):  # a cancelled task never comes here: cancellation wins over a result that is ready
                    self._tell(observation)
                watch.probed.set()
                if watch.stray and watch.stray is not stray:
                    # Keep the place while a cancelled check cleans up.
                    await asyncio.wait({watch.stray}, timeout=GRACE_S)
            if is_first and not self._round_over.is_set():
                await self._round_over.wait()
                watch.started = asyncio.get_running_loop().time()  # spread from here on
            changing = observation is None or self._is_changing(target.backend)
            if is_first and not changing:
                pause = second_pause_s(target, chance=self._chance())
            else:
                pause = pause_s(target, changing=changing, chance=self._chance())
            # A probe that takes longer than the pause has its own time limit to blame.
            due = max(watch.started + pause, asyncio.get_running_loop().time())
            await self._rest(watch, pause)

    @contextlib.asynccontextmanager
    async def _place(self, check: Check) -> AsyncIterator[None]:
        """Wait for a place among the probes that run at once; the scarcer one first, so that it blocks nobody."""
        async with contextlib.AsyncExitStack() as places:
            if getattr(check, "expensive", False):
                await places.enter_async_context(self._expensive_places)
            await places.enter_async_context(self._places)
            yield

    async def _fairly(self, watch: _Watch) -> Observation | None:
        """Run a probe, and once more where the check found no answer in time because our own loop stood still meanwhile."""
        lost_s = self._pulse.lost_s()
        observation = await self._probe(watch)
        has_given_up = observation is not None and observation.outcome is Outcome.TIMEOUT and not watch.stray
        if has_given_up and self._pulse.lost_s() - lost_s > EXCUSES * watch.target.timeout_s:
            return await self._probe(watch)
        return observation

    async def _probe(self, watch: _Watch) -> Observation | None:
        """Run one probe within its time limit. None says that this machine, not the backend, was short of something."""
        target = watch.target
        begun = time.perf_counter()

        def observed(outcome: Outcome, detail: str, facts: Facts | None = None) -> Observation:
            took = time.perf_counter() - begun
            return Observation(target.backend, outcome, detail, time.time(), took, facts)

        if watch.stray and not watch.stray.done():
            return observed(Outcome.TIMEOUT, "the last probe still runs: its check ignores the time limit")
        watch.stray = None
        probe = asyncio.create_task(_ask(target), name=f"check of {target.backend}")
        self._strays.add(probe)
        probe.add_done_callback(self._strays.discard)
        probe.add_done_callback(_forget)
        try:
            await self._wait(probe, target.timeout_s)
        except asyncio.CancelledError:
            probe.cancel()
            raise
        if not probe.done():
            probe.cancel()
            watch.stray = probe
            return observed(Outcome.TIMEOUT, f"no answer within {target.timeout_s:g} s")
        if probe.cancelled():
            return observed(Outcome.FAILED, "the check cancelled itself")
        error = probe.exception()
        if error is None:
            watch.short_of = ""
            result = probe.result()
            if isinstance(result, Finding):
                return observed(Outcome.SUCCESS, plain(result.detail), result.facts)
            return observed(Outcome.SUCCESS, plain(str(result or "")))
        if is_local(error):
            if watch.short_of != str(error):
                watch.short_of = str(error)
                log.warning("cannot probe %s, and that is this machine's fault: %s", target.backend, error)
            return None
        return observed(*diagnose(error))

    async def _wait(self, probe: asyncio.Task[str | Finding], timeout_s: float) -> None:
        """Give a probe its time, in which our own loop's being late does not count: that is not the backend's fault."""
        loop = asyncio.get_running_loop()
        begun, lost_s = loop.time(), self._pulse.lost_s()
        while not probe.done():
            left = timeout_s - (loop.time() - begun) + (self._pulse.lost_s() - lost_s)
            if left <= 0:
                return
            await asyncio.wait({probe}, timeout=left)

    def _note_delay(self, watch: _Watch, due: float) -> None:
        """Say once that two probes in a row came a whole interval later than they should; the first round may be slow."""
        target = watch.target
        late = watch.started - due
        was_late, watch.is_late = watch.is_late, late > target.interval_s
        if watch.is_late and was_late and not self._is_overdue:
            self._is_overdue = True
            log.warning(
                "probing %d backends every %g s cannot be kept: a probe of %s came %.1f s late; lengthen interval",
                len(self._watches),
                target.interval_s,
                target.backend,
                late,
            )

    def _tell(self, observation: Observation) -> None:
        try:
            self._observe(observation)
        except Exception:  # a fault of the receiver must not end the probing of this backend
            log.exception("the observation of %s could not be taken", observation.backend)

    async def _rest(self, watch: _Watch, pause: float) -> None:
        """Sleep until the next probe is due, or until somebody is in a hurry and the fast interval has passed."""
        due = watch.started + pause
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await watch.wake.wait()
            due = min(due, watch.started + watch.target.fast_interval_s)
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, due - loop.time()))


async def _ask(target: Target) -> str | Finding:
    try:
        return await target.check.probe(target)
    except (SystemExit, KeyboardInterrupt) as error:  # asyncio would end the whole loop for a check's exit()
        raise ProbeFailed(f"the check raised {type(error).__name__}") from error


def _forget(probe: asyncio.Task[str | Finding]) -> None:
    """Look at the exception of a probe that nobody waits for any more, so that asyncio does not complain."""
    if not probe.cancelled():
        probe.exception()
