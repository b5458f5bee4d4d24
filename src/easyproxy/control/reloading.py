"""Reloading the configuration's file: whole or not at all, with a way back.

At most one reload is unconfirmed at a time: while one is, every other is refused, whoever asks, so that "back" always
means one thing. What would change is :mod:`.plan`'s to say, whether it has become worse :mod:`.probation`'s; here it is
carried out and told. What is in force is the balancer's; this file holds the former one and the deadline.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from easyproxy.config.load import FORMATS, Source, examine_source, read_source
from easyproxy.config.words import format_duration
from easyproxy.control.events import Kind
from easyproxy.control.limits import descriptor_limit, shortage
from easyproxy.control.operations import Author, Plan, RefusedError, ReloadState
from easyproxy.control.overrides import effective, meet
from easyproxy.control.plan import compare, summary
from easyproxy.control.probation import Applied, Probation
from easyproxy.errors import ConfigError, EasyProxyError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from easyproxy.config.load import Loaded
    from easyproxy.control.journal import Journal
    from easyproxy.control.probation import InForce

log = logging.getLogger("easyproxy")

REFUSED = "reload refused, nothing has changed"
AGAIN_S = 5.0
"""When going back has failed (somebody has taken an address), it is tried again after so long."""


class Reloading:
    """Loads the file again, and goes back when nobody confirms it or when it has made things worse.

    Args:
        balancer: what is in force.
        journal: told of every reload, refusal, confirmation and way back.
        file: the configuration's file; None when there is none.
        strategies: names that the engine can express.
        clock: monotonic, in seconds.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        balancer: InForce,
        journal: Journal,
        *,
        file: Path | None,
        strategies: frozenset[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.file = file
        self._balancer = balancer
        self._journal = journal
        self._strategies = strategies
        self._clock = clock
        self._now = now
        self._started = balancer.filed_config
        self._lock = asyncio.Lock()
        self._state = ReloadState()
        self._probation = Probation(balancer)
        self._applied: Applied | None = None
        self._deadline: float | None = None  # of the unconfirmed reload
        self._again_at = 0.0
        self._trouble = ""
        self._digest = ""
        self._rejected: set[str] = set()

    @property
    def state(self) -> ReloadState:
        """How the last reload stands."""
        return self._state

    @property
    def is_waiting(self) -> bool:
        """Whether a reload is in force that nobody has confirmed."""
        return self._deadline is not None

    # -- what operators ask for

    async def plan(self, text: str | None = None, form: str = "yaml") -> Plan:
        """Say what the file, or a text, would change.

        Raises:
            ConfigError: it is wrong, or contradicts what operators have laid over it.
            RefusedError: there is no file.
        """
        if text is None:
            source = await self._read()
        elif form in FORMATS:
            source = Source(f"<{form}>", form, text)
        else:
            raise ConfigError([Problem("", "form", f"{form!r} is not known; write {', '.join(FORMATS)}")])
        return self._compare(source, await self._examine(source))

    async def reload_file(self, author: Author, *, rollback_after_s: float = 0.0) -> Plan:
        """Load the file again and put it in force as a whole.

        Args:
            author: who asks.
            rollback_after_s: go back after so many seconds unless :meth:`confirm` is called; 0 is never.

        Raises:
            ConfigError: the file is wrong; nothing has changed.
            EngineError: an address cannot be had; nothing has changed.
            RefusedError: there is no file, or an unconfirmed reload is in force, or this one had to go back at once.
        """
        if rollback_after_s < 0:
            raise RefusedError("the time after which to go back cannot be negative")
        async with self._lock:
            self._refuse_while_waiting(author)
            try:
                source = await self._read()
                loaded = await self._examine(source)
                return await self._put_in_force(source, loaded, author, rollback_after_s)
            except RefusedError as error:
                if self.file is None:
                    log.warning("nothing to reload: %s", error)
                raise
            except EasyProxyError as error:
                self._refused(error, author)
                raise
            except Exception as error:
                log.exception("reload failed")
                self._refused(error, author)
                raise

    async def confirm(self, author: Author) -> ReloadState:
        """Keep what an unconfirmed reload has put in force.

        Raises:
            RefusedError: there is none.
        """
        async with self._lock:
            if self._deadline is None:
                last = self._state.outcome
                about = "there was none" if last == "none" else f"the last one: {last.replace('_', ' ')}"
                raise RefusedError(f"there is no unconfirmed reload; {about}")
            self._deadline = None
            self._settle("confirmed", f"by {author.who}")
            self._journal.tell(
                Kind.RELOAD_CONFIRMED,
                str(self.file),
                "it stays in force",
                author=author,
                message="reload confirmed",
            )
            return self._state

    async def rollback(self, author: Author) -> ReloadState:
        """Go back to the configuration before the last reload, confirmed or not.

        Raises:
            RefusedError: there is none to go back to.
            EngineError: an address of the former configuration cannot be had any more; nothing has changed.
        """
        async with self._lock:
            if self._applied is None:
                raise RefusedError(
                    "there is nothing to go back to: no reload has changed anything since the start or the last rollback"
                )
            if self._balancer.filed_config != self._applied.config:
                raise RefusedError("another configuration has been put in force since the last reload")
            try:
                await self._go_back(f"{author.who} asked for it", author)
            except EasyProxyError as error:
                self._journal.tell(
                    Kind.TROUBLE, str(self.file), f"going back failed: {error}", level="error", author=author
                )
                raise
            return self._state

    # -- what happens by itself

    async def follow(self, source: Source, author: Author) -> bool:
        """Put in force what the file has become; told, never raised. Content that was taken back is not taken up.

        Returns:
            Whether that is settled; False while an unconfirmed reload is in force: ask again.
        """
        async with self._lock:
            if self._deadline is not None:
                return False
            if source.digest in self._rejected:
                text = "the file holds again what was taken back; it is not loaded by itself"
                self._journal.tell(Kind.RELOAD_REFUSED, source.name, text, level="warning", author=author)
                return True
            if source.digest == self._digest:
                return True
            try:
                loaded = await self._examine(source)
                if loaded.config != self._balancer.filed_config:
                    await self._put_in_force(source, loaded, author, 0.0)
                self._digest = source.digest  # also when only comments have changed
            except EasyProxyError as error:
                self._refused(error, author)
            except Exception as error:
                log.exception("reload failed")
                self._refused(error, author)
            return True

    def unreadable(self, error: ConfigError, author: Author) -> None:
        """Tell that the file cannot be read any more."""
        self._refused(error, author)

    async def look(self) -> None:
        """Judge an unconfirmed reload, and go back when it is time. To be called each second."""
        now = self._clock()
        if self._deadline is None:
            self._probation.look_seldom(now)
            return
        if self._lock.locked() or now < self._again_at:
            return
        async with self._lock:
            await self._judge()

    async def _judge(self) -> str:
        """Go back if the unconfirmed reload has run out of time or made things worse; return why it did."""
        applied = self._applied
        if applied is None or self._deadline is None:
            return ""
        if self._balancer.filed_config != applied.config:
            self._deadline = None
            self._settle("applied", "another configuration has been put in force since")
            return ""
        why = self._probation.why_back(applied, self._clock())
        if not why:
            return ""
        try:
            await self._go_back(why)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next turn may go well
            self._again_at = self._clock() + AGAIN_S
            text = f"going back failed: {error}; it is tried again"
            if text != self._trouble:
                self._trouble = text
                self._journal.tell(Kind.TROUBLE, str(self.file), text, level="error")
            return ""
        return why

    # -- how

    async def _put_in_force(
        self, source: Source, loaded: Loaded, author: Author, rollback_after_s: float
    ) -> Plan:
        plan = self._compare(source, loaded)
        former = self._balancer.filed_config
        is_change = loaded.config != former
        before = self._probation.before(self._clock())
        await self._balancer.put_in_force(loaded.config, source=source.name)
        self._digest = source.digest
        self._rejected.discard(source.digest)
        at = self._clock()
        self._probation.begin(at)
        if is_change:
            self._applied = Applied(former, self._balancer.filed_config, source, before, at, rollback_after_s)
        else:
            rollback_after_s = 0.0  # there is nothing to go back from
        self._tell_applied(plan, author, rollback_after_s)
        if rollback_after_s:
            self._deadline = at + rollback_after_s
            self._again_at, self._trouble = 0.0, ""
            self._settle("applied", summary(plan), self._now() + rollback_after_s)
            if why := await self._judge():
                raise RefusedError(f"it went back at once: {why}")
        else:
            self._settle("applied", summary(plan))
        return plan

    async def _go_back(self, why: str, author: Author | None = None) -> None:
        applied = self._applied
        assert applied is not None  # noqa: S101 - the callers looked
        await self._balancer.put_in_force(
            applied.former, source=f"{applied.source.name} (before the last reload)"
        )
        self._rejected.add(applied.source.digest)
        self._applied = self._deadline = None
        self._digest = ""
        text = why
        if await self._still_holds(applied.source):
            text += "; the file still holds what was taken back, and the next reload or start would load it"
        self._settle("rolled_back", text)
        self._journal.tell(
            Kind.RELOAD_ROLLED_BACK, applied.source.name, text, level="warning", author=author,
            message="reload rolled back",
        )  # fmt: skip

    def _compare(self, source: Source, loaded: Loaded) -> Plan:
        met = meet(loaded.config, tuple(self._balancer.overrides()), now=time.time())
        try:
            then = effective(loaded.config, met.overrides)
        except ConfigError as error:
            hint = "so it is with what operators have laid over the file: easyproxy overrides lists it"
            raise ConfigError([*error.problems, Problem("", "", hint)]) from None
        statistics = self._balancer.statistics()
        lacking = shortage(then, max(1, statistics.workers), descriptor_limit())
        return compare(
            self._balancer.config,
            then,
            statistics,
            source=source.name,
            started=self._started,
            overrides=met,
            warnings=[*map(str, loaded.warnings), *filter(None, [lacking])],
        )

    async def _read(self) -> Source:
        path = self._path()
        return await asyncio.to_thread(read_source, path)

    async def _examine(self, source: Source) -> Loaded:
        # A large file takes a second to judge; probes and the admin server go on meanwhile.
        return await asyncio.to_thread(examine_source, source, strategies=self._strategies)

    def _path(self) -> Path:
        if self.file is None:
            raise RefusedError("there is no file to load: it was started without one")
        return self.file

    async def _still_holds(self, source: Source) -> bool:
        try:
            return (await self._read()).digest == source.digest
        except (ConfigError, RefusedError):
            return False

    def _settle(self, outcome: str, detail: str, confirm_until: float = 0.0) -> None:
        self._state = ReloadState(self._now(), outcome, detail, confirm_until)

    # -- telling it

    def _refuse_while_waiting(self, author: Author) -> None:
        if self._deadline is None:
            return
        left = format_duration(max(1, round(self._deadline - self._clock())))
        text = f"the last reload is not confirmed (it goes back in {left}): confirm it or roll it back first"
        self._journal.tell(
            Kind.RELOAD_REFUSED, str(self.file), text, level="warning", author=author, message=REFUSED
        )
        raise RefusedError(text)

    def _refused(self, error: Exception, author: Author) -> None:
        problems = error.problems if isinstance(error, ConfigError) else []
        text = str(error) if len(problems) < 2 else f"{len(problems)} errors, the first: {problems[0]}"
        self._settle("refused", text)
        self._journal.tell(
            Kind.RELOAD_REFUSED, str(self.file), text, level="error", author=author, message=REFUSED
        )
        for problem in problems:
            log.error("%s", problem)

    def _tell_applied(self, plan: Plan, author: Author, rollback_after_s: float) -> None:
        text = summary(plan)
        if rollback_after_s:
            text += f"; it goes back in {format_duration(rollback_after_s)} unless it is confirmed"
        self._journal.tell(Kind.RELOADED, str(self.file), text, author=author, message="reloaded")
        for warning in plan.warnings:
            log.warning("%s", warning)
        for each in plan.differences:
            if each.needs_restart:
                log.warning("%s has no effect until the next start or upgrade: %s", each.name, each.text)
