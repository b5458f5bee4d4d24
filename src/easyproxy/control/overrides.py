"""What operators have laid over the file: how it takes effect, and what becomes of it when the file changes. Pure.

An override of WEIGHT, ADD or REMOVE makes another configuration out of the file's (:func:`effective`), so it takes
the very path of a reload. DRAIN and MAINTENANCE are stances of a backend, beside its health.

When the file changes, each override meets it three ways (:func:`meet`): what the file said when the override was made,
what the operator wanted, what the file says now. None is ever lost without a :class:`Note`, and none wins without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from easyproxy.config import cross
from easyproxy.config.document import path_text
from easyproxy.config.load import from_dict
from easyproxy.control.compose import backend_id
from easyproxy.control.events import Kind
from easyproxy.control.operations import Action, Override, RefusedError
from easyproxy.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from easyproxy.config.schema import BackendConfig, Config

Overrides = tuple[Override, ...]
Value = int | dict[str, object] | None

STANCES = {Action.DRAIN: "draining", Action.MAINTENANCE: "maintenance"}
"""The state of a backend that an operator keeps out."""

_SLOT = {
    Action.DRAIN: "stance",
    Action.MAINTENANCE: "stance",
    Action.WEIGHT: "weight",
    Action.ADD: "existence",
    Action.REMOVE: "existence",
}


@dataclass(frozen=True, slots=True)
class Note:
    """What became of an override: ``kind`` says what, ``text`` says it in one sentence with both values."""

    kind: Kind
    override: Override
    text: str


@dataclass(frozen=True, slots=True)
class Met:
    """What is left of the overrides after they met a file, and a note of everything that changed."""

    overrides: Overrides
    notes: tuple[Note, ...] = ()


def backends_of(config: Config) -> dict[str, BackendConfig]:
    """Index the backends of a configuration by id."""
    return {
        backend_id(name, backend): backend for name, pool in config.pools.items() for backend in pool.backends
    }


def mapping_of(backend: BackendConfig) -> dict[str, object]:
    """Write a backend as the file would, without what is by default."""
    return backend.model_dump(mode="json", exclude_defaults=True)


def read_backend(pool: str, value: object) -> BackendConfig:
    """Read a backend as the file has them: an address, or a mapping.

    Raises:
        RefusedError: it is wrong; every error is said.
    """
    # A configuration around it, so that the messages are those of a file.
    around = {
        "listeners": [{"bind": "127.0.0.1:0", "pool": pool}],
        "pools": {pool: {"backends": [dict(value) if isinstance(value, Mapping) else value]}},
        "admin": "off",
    }
    try:
        return from_dict(around).pools[pool].backends[0]
    except ConfigError as error:
        here = path_text(("pools", pool, "backends", 0))
        raise RefusedError(
            "; ".join(
                f"{problem.path.removeprefix(here).lstrip('.') or 'the backend'}: {problem.message}"
                for problem in error.problems
            )
        ) from None


def read_weight(value: object) -> int:
    """Read a weight as the file has them.

    Raises:
        RefusedError: it is none.
    """
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        raise RefusedError("weight 0 is out of range; drain the backend to give it no new sessions")
    return read_backend("pool", {"address": "127.0.0.1:1", "weight": value}).weight


def stances(overrides: Iterable[Override]) -> dict[str, Override]:
    """Return the drains and maintenances, by backend."""
    return {override.backend: override for override in overrides if override.action in STANCES}


def of_backend(overrides: Iterable[Override], backend: str) -> Overrides:
    """Return the overrides of one backend, oldest first."""
    return tuple(override for override in overrides if override.backend == backend)


def lay(overrides: Overrides, fresh: Override) -> Overrides:
    """Put an override in its place: it takes that of the same kind of the same backend."""
    return (*(one for one in overrides if not _is_same_slot(one, fresh)), fresh)


def replaced(overrides: Overrides, fresh: Override) -> Override | None:
    """Return what :func:`lay` would replace."""
    return next((one for one in overrides if _is_same_slot(one, fresh)), None)


def _is_same_slot(one: Override, other: Override) -> bool:
    return one.backend == other.backend and _SLOT[one.action] == _SLOT[other.action]


def without(overrides: Overrides, gone: Iterable[str]) -> Overrides:
    """Leave those out whose ids are given."""
    ids = frozenset(gone)
    return tuple(override for override in overrides if override.id not in ids)


def expired(overrides: Overrides, now: float) -> Overrides:
    """Return those whose time is over; ``now`` in seconds since the epoch."""
    return tuple(override for override in overrides if override.until and override.until <= now)


# -- taking effect


def effective(filed: Config, overrides: Overrides) -> Config:
    """Make the configuration that follows from the file and the overrides.

    Raises:
        ConfigError: the result contradicts itself (two backends with one address, a pool without any).
        RefusedError: the value of an override is wrong.
    """
    changes = [override for override in overrides if override.action not in STANCES]
    if not changes:
        return filed
    pools = {name: list(pool.backends) for name, pool in filed.pools.items()}
    for override in sorted(
        changes, key=lambda one: one.action is Action.WEIGHT
    ):  # what is added has a weight
        pool, _, name = override.backend.partition("/")
        if pool in pools:
            pools[pool] = _changed(pools[pool], name, override)
    made = filed.model_copy(
        update={
            "pools": {
                name: pool.model_copy(update={"backends": tuple(pools[name])})
                for name, pool in filed.pools.items()
            }
        }
    )
    problems = [Problem("", path_text(one.path), one.message) for one in cross.problems(made)]
    problems += [
        Problem("", f"pools.{name}.backends", "overrides leave no backend in it; at least one is needed")
        for name, backends in pools.items()
        if not backends
    ]
    if problems:
        raise ConfigError(problems)
    return made


def _changed(backends: list[BackendConfig], name: str, override: Override) -> list[BackendConfig]:
    """Carry one override out on the backends of its pool."""
    if override.action is Action.REMOVE:
        return [backend for backend in backends if backend.name != name]
    pool = override.backend.partition("/")[0]
    if override.action is Action.WEIGHT:
        weight = read_weight(override.value)
        return [
            backend.model_copy(update={"weight": weight}) if backend.name == name else backend
            for backend in backends
        ]
    added = read_backend(pool, override.value)
    if added.name != name:
        raise RefusedError(f"the backend of override {override.id} is called {added.name}, not {name}")
    if any(backend.name == name for backend in backends):
        return [added if backend.name == name else backend for backend in backends]
    return [*backends, added]


def fitting(filed: Config, overrides: Overrides) -> tuple[Overrides, tuple[tuple[Override, str], ...]]:
    """Part overrides into those that go with a file, and the others, each with what it contradicts.

    What goes together is asked of all of them at once, because one may need another: all backends of a pool may be
    removed where one was added. Only where they do not go together they are laid one by one, as long as one still goes.
    """
    kept: Overrides = ()
    waiting = tuple({(one.backend, _SLOT[one.action]): one for one in overrides}.values())
    if not _contradiction(filed, waiting):
        return waiting, ()
    while True:
        refused = []
        for override in waiting:
            if why := _contradiction(filed, lay(kept, override)):
                refused.append((override, why))
            else:
                kept = lay(kept, override)
        if len(refused) in (0, len(waiting)):
            return kept, tuple(refused)
        waiting = tuple(override for override, _ in refused)


def _contradiction(filed: Config, overrides: Overrides) -> str:
    try:
        effective(filed, meet(filed, overrides).overrides)
    except (ConfigError, RefusedError) as error:
        return str(error)
    return ""


# -- meeting a file


def said(filed: Config, backend: str, action: Action) -> Value:
    """Return what a file says of what an action changes: a weight, a backend's mapping, or None."""
    if action in STANCES:
        return None
    found = backends_of(filed).get(backend)
    if found is None:
        return None
    return found.weight if action is Action.WEIGHT else mapping_of(found)


def meet(filed: Config, overrides: Overrides, *, is_new_file: bool = True, now: float = 0.0) -> Met:
    """Let the overrides meet a file, and say what becomes of each.

    The file says what it said: the override stays. It now says what the operator wanted: the override is fulfilled
    and goes. It says something third: the override stays in force, in conflict, until somebody decides. Drains,
    maintenances and weights of a backend that is gone dissolve, because nothing is left that they could hold; and so does
    an addition whose address a new file has under another name. In the same file that is a contradiction
    (:func:`effective`), and nobody's override goes because of somebody else's. One whose time was over before ``now``
    (seconds since the epoch) and that could not end stays in conflict: it is not the file that it contradicts.
    """
    in_file = backends_of(filed)
    left: list[Override] = []
    notes: list[Note] = []
    existence = [one for one in overrides if _SLOT[one.action] == "existence"]
    hidden = {one.backend for one in existence if one.action is Action.REMOVE}
    for override in existence:
        among = hidden if is_new_file else in_file.keys()
        kept, note = _meet_existence(filed, in_file, override, among, now)
        left += [kept] if kept else []
        notes += [note] if note else []
    there = in_file.keys() - {one.backend for one in left if one.action is Action.REMOVE}
    there |= {one.backend for one in left if one.action is Action.ADD}
    removed = {one.backend for one in left if one.action is Action.REMOVE and one.backend in in_file}
    for override in overrides:
        if _SLOT[override.action] == "existence":
            continue
        if override.backend in removed:
            left.append(override)  # it waits: the removal may be forgotten, and the backend would come back
        elif override.backend not in there:
            text = f"{words(override)} is over: there is no backend {override.backend} any more"
            notes.append(Note(Kind.OVERRIDE_DISSOLVED, override, text))
        elif override.action is Action.WEIGHT:
            kept, note = _three_ways(override, said(filed, override.backend, override.action), now)
            left += [kept] if kept else []
            notes += [note] if note else []
        else:
            left.append(override)
    order = {override.id: place for place, override in enumerate(overrides)}
    return Met(tuple(sorted(left, key=lambda one: order[one.id])), tuple(notes))


def _meet_existence(
    filed: Config,
    in_file: Mapping[str, BackendConfig],
    override: Override,
    hidden: Collection[str],
    now: float,
) -> tuple[Override | None, Note | None]:
    pool = override.backend.partition("/")[0]
    if pool not in filed.pools:
        text = f"{words(override)} is over: there is no pool {pool} any more"
        return None, Note(Kind.OVERRIDE_DISSOLVED, override, text)
    if override.action is Action.ADD and override.backend not in in_file:
        twin = _twin(filed, override, hidden)
        if twin:
            text = f"{words(override)} is over: the file has that address now, as {twin}"
            return None, Note(Kind.OVERRIDE_DISSOLVED, override, text)
    return _three_ways(override, said(filed, override.backend, override.action), now)


def _twin(filed: Config, override: Override, hidden: Collection[str]) -> str:
    """Find the backend under another name, not among the hidden ones, that has the address of an added one."""
    pool = override.backend.partition("/")[0]
    address = read_backend(pool, override.value).address
    for backend in filed.pools[pool].backends:
        found = backend_id(pool, backend)
        if backend.address == address and found not in hidden:
            return found
    return ""


def _three_ways(override: Override, says: Value, now: float) -> tuple[Override | None, Note | None]:
    """Compare what the file said, what the operator wanted, and what the file says now."""
    pool = override.backend.partition("/")[0]
    base, wanted, present = (_normal(pool, value) for value in (override.base, override.value, says))
    if present == base:
        if not override.conflict or expired((override,), now):
            return override, None
        text = f"{words(override)} is in conflict no longer: the file says again {_shown(base)}"
        return replace(override, conflict=""), Note(Kind.OVERRIDE_SETTLED, override, text)
    if present == wanted:
        text = f"{words(override)} is fulfilled: the file says the same now"
        return None, Note(Kind.OVERRIDE_FULFILLED, override, text)
    conflict = (
        f"the file said {_shown(base)}, now it says {_shown(present)}; the operator wants {_shown(wanted)}"
    )
    if conflict == override.conflict:
        return override, None
    marked = replace(override, conflict=conflict)
    text = f"{words(override)} stays in force, but {conflict}; forget it, or set it again"
    return marked, Note(Kind.OVERRIDE_CONFLICT, marked, text)


def _normal(pool: str, value: object) -> Value:
    """Bring a value to the form in which equal ones are equal, also when a later version has further settings."""
    if value is None or isinstance(value, int):
        return value
    try:
        return mapping_of(read_backend(pool, value))
    except RefusedError:  # of another version's file
        return dict(value) if isinstance(value, Mapping) else None


# -- in words


def words(override: Override) -> str:
    """Name an override: ``weight 5 of p/a (ann: kernel update)``."""
    what = {
        Action.DRAIN: "drain of {}",
        Action.MAINTENANCE: "maintenance of {}",
        Action.WEIGHT: f"weight {override.value} of {{}}",
        Action.ADD: "addition of {}",
        Action.REMOVE: "removal of {}",
    }[override.action].format(override.backend)
    author = override.author
    return f"{what} ({author.who}{': ' if author.why else ''}{author.why})"


def _shown(value: Value) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, int):
        return str(value)
    first = str(value.get("address", ""))
    rest = {key: item for key, item in value.items() if key != "address" and item != first}
    return ", ".join([first, *(f"{key} {item}" for key, item in rest.items())])
