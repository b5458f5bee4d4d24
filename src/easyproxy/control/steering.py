"""Changing what is in force: the file's configuration, the overrides on it, and both put in force as a whole.

The one lock of all changes is here. What follows from a change is decided by :mod:`.overrides` (pure); what is known of
backends is the registry's; this room carries out, and tells.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from easyproxy.control import overrides as o
from easyproxy.control.asked import clean, lifetime
from easyproxy.control.events import Kind
from easyproxy.control.journal import stamp
from easyproxy.control.lookout import targets
from easyproxy.control.naming import find_backend
from easyproxy.control.operations import Action, Override, RefusedError, UnknownError
from easyproxy.control.registry import Registry
from easyproxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from easyproxy.config.schema import Config
    from easyproxy.control.journal import Journal
    from easyproxy.control.keeping import Keeper
    from easyproxy.control.lookout import Lookout
    from easyproxy.control.operations import Author
    from easyproxy.control.registry import Change

MOST_OVERRIDES = 10_000


class Steering:
    """Owns the filed configuration and the overrides; the only one who replaces what the registry has.

    Args:
        filed: the configuration as the file (or the program) gives it.
        apply: hands the registry's snapshot to the engine; raises EngineError when that refuses it.
        settled: returns when what was handed over is acted by; whoever has asked for a change is answered then.
        changed: takes every change of state that follows, with who caused it.
        keeper: what makes overrides survive a restart.
    """

    def __init__(
        self,
        filed: Config,
        registry: Registry,
        lookout: Lookout,
        journal: Journal,
        *,
        apply: Callable[[], None],
        settled: Callable[[], Awaitable[None]],
        changed: Callable[[Change, Author | None], None],
        keeper: Keeper,
    ) -> None:
        self.filed = filed
        self.overrides: o.Overrides = ()
        self.lock = asyncio.Lock()
        self._registry = registry
        self._lookout = lookout
        self._journal = journal
        self._apply = apply
        self._settled = settled
        self._changed = changed
        self._keeper = keeper
        self._set_aside: tuple[Config, o.Overrides] | None = None  # what was in force before the last file
        self._taken_away: set[str] = set()  # by operators, since then
        # With these in force, what is late cannot end.
        self._overdue: tuple[Config, o.Overrides] | None = None

    @property
    def effective(self) -> Config:
        """The configuration in force, overrides included."""
        return self._registry.config

    # -- the start

    def start(self, given: Iterable[Override] | None = None) -> None:
        """Lay the overrides of the last run, or those ``given``, over the file, before anything is served.

        One that does not go with the file any more is told and left out: a start never fails because of it.
        """
        found = self._keeper.read() if given is None else tuple(given)
        late = o.expired(found, time.time())
        for override in late:
            self._journal.expired(override)
        kept, refused = o.fitting(self.filed, o.without(found, (one.id for one in late)))
        for override, why in refused:
            text = f"{o.words(override)} does not go with the file any more and is dropped: {why}"
            self._journal.tell(Kind.OVERRIDE_DISSOLVED, override.backend, text, level="error")
        met = o.meet(self.filed, kept)
        self._journal.notes(met.notes)
        self.overrides = met.overrides
        if given is not None or met.overrides != found:
            self._keeper.owe()
        config = o.effective(self.filed, self.overrides)
        now = time.time()
        self._registry.replace(config, self._registry.entries_for(config), now)
        for change in self._registry.take_stances(o.stances(self.overrides), now):
            stance = self._registry.entries[change.backend].stance
            self._changed(change, stance.author if stance else None)
        if self.overrides:
            laid = "; ".join(o.words(override) for override in self.overrides)
            self._journal.tell(Kind.STATE_FILE, "", f"overrides of the last run are in force again: {laid}")

    # -- the whole configuration

    async def put_in_force(self, filed: Config) -> o.Met:
        """Put another file's configuration in force as a whole, with the overrides as they meet it.

        Returns:
            What became of the overrides; those that went are in ``notes``.

        Raises:
            ConfigError: it does not go with the overrides, or a check cannot be made; nothing has changed.
            EngineError: an address cannot be had; nothing has changed.
        """
        async with self.lock:
            before, former = self.filed, self.overrides
            wanted, returned = self._with_those_set_aside(filed)
            met = o.meet(filed, wanted, now=time.time())
            try:
                o.effective(filed, met.overrides)
            except ConfigError as error:
                raise ConfigError([*error.problems, _hint(met.overrides)]) from None
            changes = await self._enforce(filed, met.overrides)
            self._set_aside, self._taken_away = (before, former), set()
            for override in returned:
                text = f"{o.words(override)} is back, with the configuration before the last one"
                self._journal.tell(Kind.OVERRIDE_SET, override.backend, text, author=override.author)
            self._journal.notes(met.notes)
            self._tell_changes(changes, None)
            await self._keeper.save(self.overrides)
            return met

    def _with_those_set_aside(self, filed: Config) -> tuple[o.Overrides, o.Overrides]:
        """Add what the last configuration had fulfilled or dissolved, if the one before it comes back."""
        if self._set_aside is None or self._set_aside[0] != filed:
            return self.overrides, ()
        wanted, now = self.overrides, time.time()
        returned: o.Overrides = ()
        known = {override.id for override in wanted} | self._taken_away
        for override in self._set_aside[1]:
            is_over = override.until and override.until <= now
            if override.id not in known and not is_over and o.replaced(wanted, override) is None:
                wanted, returned = o.lay(wanted, override), (*returned, override)
        return wanted, returned

    async def _enforce(self, filed: Config, overrides: o.Overrides) -> list[Change]:
        """Put both in force, or raise and change nothing. New backends are probed first; the lock is held."""
        config = o.effective(filed, overrides)
        now, stances = time.time(), o.stances(overrides)
        # What is new is resolved and probed apart; the old configuration serves meanwhile, and follows its health.
        trial = Registry(config)
        trial.take_stances(stances, now)
        targets(config, trial.entries)  # raises before anything is touched when a check cannot be made
        new = {key: entry for key, entry in trial.entries.items() if not self._registry.knows(entry)}
        await self._lookout.look_at(trial, new)
        old = self._registry.config, self._registry.entries
        entries = {**self._registry.entries_for(config), **new}
        self._registry.replace(config, {key: entries[key] for key in trial.entries}, now)
        changes = self._registry.take_stances(stances, now)
        try:
            self._apply()
        except BaseException:
            self._registry.replace(*old, now)
            raise
        self.filed, self.overrides = filed, overrides
        self._lookout.watch()
        await self._settled()
        self._journal.membership(old[1], self._registry.entries)
        return changes

    # -- single overrides

    async def override(
        self,
        backend: str,
        action: Action,
        author: Author,
        *,
        value: object = None,
        ttl_s: float = 0.0,
        deadline_s: float = 0.0,
    ) -> Override:
        """Lay a change over one backend; it replaces a former one of the same kind.

        Raises:
            UnknownError: there is no such backend or pool.
            RefusedError: the value is wrong, or the result would contradict itself; nothing has changed.
            EngineError: the engine refuses it; nothing has changed.
        """
        action, author, ttl_s = Action(action), clean(author), lifetime(ttl_s)
        deadline_s = lifetime(deadline_s, "deadline")
        async with self.lock:
            fresh = self._limited(self._made(backend, action, value, author), ttl_s, deadline_s)
            former = o.replaced(self.overrides, fresh)
            if self._set_aside is not None:  # what it replaces does not come back either
                replaced = o.replaced(self._set_aside[1], fresh)
                self._taken_away.update([replaced.id] if replaced else [])
            wanted = o.lay(self.overrides, fresh)
            if action in (Action.ADD, Action.REMOVE) and _is_as_filed(fresh):
                wanted = o.without(
                    wanted, [fresh.id]
                )  # the file says it anyway: only what stood against it goes
            if len(wanted) > MOST_OVERRIDES:
                raise RefusedError(
                    f"there are {MOST_OVERRIDES} overrides already; write changes into the file"
                )
            notes, changes = await self._change(wanted)
            takes = action not in (Action.WEIGHT, Action.ADD)
            warning = self._unserved(fresh.backend) if takes else ""
            text = o.words(fresh) + (f", until {stamp(fresh.until)}" if fresh.until else "")
            text += f", closing what is left at {stamp(fresh.deadline)}" if fresh.deadline else ""
            text += f"; it replaces {o.words(former)}" if former else ""
            text += f"; {warning}" if warning else ""
            level = "warning" if warning else "info"
            self._journal.tell(Kind.OVERRIDE_SET, fresh.backend, text, level=level, author=author)
            self._journal.notes(notes)
            self._tell_changes(changes, author)
            unkept = await self._keeper.save(self.overrides)
            return replace(fresh, warning="; ".join(filter(None, (warning, unkept))))

    def _made(self, backend: str, action: Action, value: object, author: Author) -> Override:
        """Make an override from what was asked for."""
        if action is Action.ADD:
            backend, value = self._newcomer(backend, value)
        else:
            backend = find_backend(backend, self._registry.entries)
            if action is Action.WEIGHT:
                value = o.read_weight(value)
            elif value is not None:
                raise RefusedError(f"{action.value} takes no value")
        taken = {override.id for override in self.overrides}
        while (name := secrets.token_hex(4)) in taken:
            pass
        assert value is None or isinstance(value, int | Mapping)  # noqa: S101 - for the type checker
        return Override(
            id=name,
            backend=backend,
            action=action,
            author=author,
            at=time.time(),
            value=value,
            base=o.said(self.filed, backend, action),
        )

    def _limited(self, fresh: Override, ttl_s: float, deadline_s: float) -> Override:
        """Say when an override ends, and when sessions are closed that it has left over: as asked, else as its pool says."""
        if deadline_s and fresh.action not in o.STANCES:
            raise RefusedError(f"{fresh.action.value} takes no deadline")
        if ttl_s and deadline_s >= ttl_s:
            raise RefusedError(
                f"a deadline of {deadline_s:g} s never comes when it ends after {ttl_s:g} s; give a shorter one"
            )
        if fresh.action in o.STANCES and not deadline_s:
            usual_s = self.effective.pools[fresh.backend.partition("/")[0]].drain.deadline
            deadline_s = usual_s if not ttl_s or usual_s < ttl_s else 0.0
        until, deadline = (fresh.at + seconds if seconds else 0.0 for seconds in (ttl_s, deadline_s))
        return replace(fresh, until=until, deadline=deadline)

    def _newcomer(self, backend: str, value: object) -> tuple[str, Mapping[str, object]]:
        """Read what is to be added: to a ``pool``, or as ``pool/name``; return its id and its mapping."""
        pool, _, name = backend.partition("/")
        if pool not in self.filed.pools:
            raise UnknownError(f"there is no pool {pool}; there is {', '.join(self.filed.pools)}")
        if value is None:
            raise RefusedError(
                'what is to be added is missing; give "host:port", or a mapping as in the file'
            )
        if name and not (isinstance(value, Mapping) and "name" in value):
            value = (
                {**value, "name": name} if isinstance(value, Mapping) else {"address": value, "name": name}
            )
        added = o.read_backend(pool, value)
        if name and added.name != name:
            raise RefusedError(f"the backend is called {name} and {added.name} at once")
        key = f"{pool}/{added.name}"
        if key in self._registry.entries:
            raise RefusedError(f"there is a backend {key} already; change its weight, or remove it first")
        return key, o.mapping_of(added)

    async def restore(self, backend: str, author: Author) -> list[Override]:
        """End drain and maintenance of a backend; return what was taken away, which may be nothing.

        Raises:
            UnknownError: there is no such backend.
        """
        author = clean(author)
        async with self.lock:
            backend = find_backend(backend, self._registry.entries)
            gone = [one for one in o.of_backend(self.overrides, backend) if one.action in o.STANCES]
            unkept = await self._take_away(gone, Kind.OVERRIDE_FORGOTTEN, author) if gone else ""
            return [replace(one, warning=unkept) for one in gone]

    async def forget(self, override: str, author: Author) -> Override:
        """Take one override away, by its id.

        Raises:
            UnknownError: there is none of that id.
            RefusedError: the file contradicts itself without it; nothing has changed.
        """
        author = clean(author)
        async with self.lock:
            found = next((one for one in self.overrides if one.id == override), None)
            if found is None:
                known = ", ".join(one.id for one in self.overrides[:20]) or "none"
                raise UnknownError(f"there is no override {override} (any more); there is {known}")
            unkept = await self._take_away([found], Kind.OVERRIDE_FORGOTTEN, author)
            return replace(found, warning=unkept)

    async def expire(self) -> None:
        """End those whose time is over, and write again what could not be written.

        One without which the configuration would contradict itself waits, in conflict, until something else changes.
        """
        now = time.time()
        if o.expired(self.overrides, now) and not self._is_overdue():
            async with self.lock:
                for override in o.expired(self.overrides, now):
                    try:
                        await self._take_away([override], Kind.OVERRIDE_EXPIRED, None)
                    except RefusedError as error:
                        await self._cannot_expire(override, str(error))
                self._overdue = self.filed, self.overrides
        elif self._keeper.is_owing:
            async with self.lock:
                await self._keeper.save(self.overrides)

    def _is_overdue(self) -> bool:
        """Whether it was tried in vain already with what is in force."""
        tried = self._overdue
        return tried is not None and tried[0] is self.filed and tried[1] is self.overrides

    async def _cannot_expire(self, override: Override, why: str) -> None:
        """Keep what cannot end, in conflict, so that somebody decides."""
        conflict = f"it should have ended at {stamp(override.until)}, but without it: {why}"
        if conflict == override.conflict:
            return
        marked = replace(override, conflict=conflict)
        self.overrides = tuple(marked if one.id == override.id else one for one in self.overrides)
        text = f"{o.words(override)} stays in force: {conflict}"
        self._journal.notes((o.Note(Kind.OVERRIDE_CONFLICT, marked, text),))
        await self._keeper.save(self.overrides)

    async def _take_away(self, gone: list[Override], kind: Kind, author: Author | None) -> str:
        """Take overrides away; return what is to be said where that cannot be kept."""
        notes, changes = await self._change(o.without(self.overrides, (one.id for one in gone)))
        self._taken_away.update(one.id for one in gone)
        for override in gone:
            if kind is Kind.OVERRIDE_EXPIRED:
                self._journal.expired(override)
            else:
                self._journal.tell(
                    kind, override.backend, f"{o.words(override)} is taken away", author=author
                )
        self._journal.notes(notes)
        self._tell_changes(changes, author)
        return await self._keeper.save(self.overrides)

    async def _change(self, wanted: o.Overrides) -> tuple[tuple[o.Note, ...], list[Change]]:
        """Put other overrides in force with the same file."""
        met = o.meet(self.filed, wanted, is_new_file=False, now=time.time())
        try:
            changes = await self._enforce(self.filed, met.overrides)
        except ConfigError as error:
            raise RefusedError("; ".join(str(problem) for problem in error.problems)) from None
        return met.notes, changes

    def _unserved(self, backend: str) -> str:
        """Say so when no backend of the pool is ready now."""
        pool = backend.partition("/")[0]
        if any(entry.state == "ready" for entry in self._registry.entries.values() if entry.pool == pool):
            return ""
        return f"no backend of pool {pool} is ready now: its clients are turned away"

    # -- telling

    def _tell_changes(self, changes: list[Change], author: Author | None) -> None:
        for change in changes:
            self._changed(change, author)


def _is_as_filed(override: Override) -> bool:
    """Whether the file already says what an ADD or REMOVE wants."""
    return override.value == override.base


def _hint(overrides: o.Overrides) -> Problem:
    laid = ", ".join(f"{one.id} ({o.words(one)})" for one in overrides if one.action not in o.STANCES)
    return Problem("", "", f"with the overrides in force: {laid}; forget what does not go with the file")
