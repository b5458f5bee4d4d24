"""What another configuration would change, as a list of differences. Pure: two configurations and the counters go in.

Decides nothing and applies nothing; how it is shown is the command's and the page's. Values that may hold a secret
are never repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.control.events import Kind
from easyproxy.control.masking import SECRET
from easyproxy.control.operations import Difference, Plan
from easyproxy.control.wording import counted
from easyproxy.engine.seam import BackendCounters, ListenerCounters

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

    from easyproxy.config.schema import BackendConfig, Config, ListenerConfig, PoolConfig
    from easyproxy.control.overrides import Met, Note
    from easyproxy.engine.seam import Statistics

NEEDS_RESTART = ("workers", "worker_python", "io_uring", "admin", "log", "access_log", "state_file", "kernel")
"""Settings that are read once, when the program starts."""

_PARTS = frozenset({"listeners", "pools"})  # compared piece by piece
_LONGEST = 60


def compare(
    now: Config,
    then: Config,
    statistics: Statistics,
    *,
    source: str = "",
    started: Config | None = None,
    overrides: Met | None = None,
    warnings: Iterable[str] = (),
) -> Plan:
    """Say what ``then`` would change of ``now``.

    Args:
        now: what is in force, overrides included.
        then: what would be, overrides included.
        statistics: living sessions are counted in it.
        source: where ``then`` comes from, for people.
        started: what the program started with: those of its settings that need a restart are still in force.
            None is ``now``.
        overrides: what would become of them when they meet ``then``.
        warnings: what is doubtful about ``then``.
    """
    differences = (
        *_listeners(now, then, statistics),
        *_pools(now, then, statistics),
        *_settings(now, then, started or now),
        *(_override(note) for note in (overrides.notes if overrides else ())),
    )
    # A session of a listener that goes may be one of a backend that goes: never more than there are.
    living = sum(counters.sessions for counters in statistics.listeners.values())
    concerned = {what: sum(each.sessions for each in differences if each.what == what) for what in _COUNTED}
    total = sum(concerned.values())
    return Plan(
        source=source,
        differences=differences,
        sessions=min(total, max(living, *concerned.values())),
        warnings=tuple(warnings),
    )


_COUNTED = ("listener", "backend")


def summary(plan: Plan) -> str:
    """Say in one line what a plan comes to.

    >>> summary(Plan("", (Difference("backend", "p/a", "removed", "", 3),), 3))
    '1 backend removed; 3 sessions drain'
    >>> summary(Plan(""))
    'nothing changes'
    """
    counts: dict[tuple[str, str], int] = {}
    for each in plan.differences:
        counts[each.what, each.change] = counts.get((each.what, each.change), 0) + 1
    parts = [f"{counted(count, what)} {change}" for (what, change), count in counts.items()]
    text = ", ".join(parts) or "nothing changes"
    if plan.sessions:
        text += f"; {counted(plan.sessions, 'session')} drain{'s' if plan.sessions == 1 else ''}"
    if late := [each.name for each in plan.differences if each.needs_restart]:
        text += f"; without effect until the next start or upgrade: {', '.join(late)}"
    return text


def changed_pools(now: Config, then: Config) -> frozenset[str]:
    """Name the pools of ``then`` that serve otherwise than before: changed, new, or with a listener that is.

    Raises nothing; a pool that is gone serves nobody and is left out.
    """
    pools = {name for name, pool in then.pools.items() if pool != now.pools.get(name)}
    before = {listener.name: listener for listener in now.listeners}
    return frozenset(
        pools | {listener.pool for listener in then.listeners if listener != before.get(listener.name)}
    )


# -- listeners


def _listeners(now: Config, then: Config, statistics: Statistics) -> Iterator[Difference]:
    before = {listener.name: listener for listener in now.listeners}
    after = {listener.name: listener for listener in then.listeners}
    gone = {listener.bind: listener for name, listener in before.items() if name not in after}
    renamed = set()
    for name, listener in after.items():
        was = before.get(name)
        if was is not None:
            yield from _changed_listener(was, listener, statistics)
        elif listener.bind in gone and (listener.bind.port or listener.bind.path):
            was = gone[listener.bind]
            renamed.add(was.name)
            rest = _texts(was, listener, leave_out=("name", "bind"))
            text = ", ".join([f"renamed from {was.name}, {listener.bind} stays open", *rest])
            yield Difference("listener", name, "changed", text)
        else:
            yield Difference("listener", name, "added", f"{listener.bind} to pool {listener.pool}")
    for name, listener in before.items():
        if name not in after and name not in renamed:
            yield Difference(
                "listener", name, "removed", f"{listener.bind} is closed", _of_listener(statistics, name)
            )


def _changed_listener(
    was: ListenerConfig, listener: ListenerConfig, statistics: Statistics
) -> Iterator[Difference]:
    texts = _texts(was, listener, leave_out=("bind",))
    if listener.bind != was.bind:
        sessions = _of_listener(statistics, listener.name)
        texts = [f"moved from {was.bind} to {listener.bind}", *texts]
        yield Difference("listener", listener.name, "changed", ", ".join(texts), sessions)
    elif texts:
        yield Difference("listener", listener.name, "changed", ", ".join(texts))


def _of_listener(statistics: Statistics, name: str) -> int:
    return statistics.listeners.get(name, ListenerCounters()).sessions


# -- pools and backends


def _pools(now: Config, then: Config, statistics: Statistics) -> Iterator[Difference]:
    for name, pool in then.pools.items():
        was = now.pools.get(name)
        if was == pool:
            continue
        if was is None:
            yield Difference("pool", name, "added", f"{pool.strategy}, check {pool.check.type}")
            yield from (_added(name, backend) for backend in pool.backends)
            continue
        texts = [*_texts(was, pool, leave_out=("backends", "check")), *_check_texts(was, pool)]
        if _is_reordered(was, pool):
            texts.append("the order of the backends")
        if texts:
            yield Difference("pool", name, "changed", ", ".join(texts))
        yield from _backends(name, was, pool, statistics)
    for name, was in now.pools.items():
        if name not in then.pools:
            yield Difference("pool", name, "removed", f"with its backends: {len(was.backends)}")
            yield from (_removed(name, backend, statistics) for backend in was.backends)


def _backends(name: str, was: PoolConfig, pool: PoolConfig, statistics: Statistics) -> Iterator[Difference]:
    before = {backend.name: backend for backend in was.backends}
    after = {backend.name: backend for backend in pool.backends}
    for key, backend in after.items():
        old = before.get(key)
        if old is None:
            yield _added(name, backend)
        elif old.address != backend.address:
            # Another server under the same name: its verdict and its sessions are not the old one's.
            yield _removed(name, old, statistics)
            yield _added(name, backend)
        elif texts := _texts(old, backend):
            yield Difference("backend", f"{name}/{key}", "changed", ", ".join(texts))
    for key, old in before.items():
        if key not in after:
            yield _removed(name, old, statistics)


def _added(pool: str, backend: BackendConfig) -> Difference:
    text = ", ".join(
        [str(backend.address), *_texts(type(backend)(address=backend.address, name=backend.name), backend)]
    )
    return Difference("backend", f"{pool}/{backend.name}", "added", text)


def _removed(pool: str, backend: BackendConfig, statistics: Statistics) -> Difference:
    key = f"{pool}/{backend.name}"
    sessions = statistics.backends.get(key, BackendCounters()).sessions
    return Difference("backend", key, "removed", str(backend.address), sessions)


def _check_texts(was: PoolConfig, pool: PoolConfig) -> list[str]:
    if was.check.type != pool.check.type:
        return [f"check {was.check.type} -> {pool.check.type}"]
    return [f"check.{text}" for text in _texts(was.check, pool.check)]


def _is_reordered(was: PoolConfig, pool: PoolConfig) -> bool:
    """Whether the backends that stay stand in another order; it matters to ``first`` and to ties."""
    names = {backend.name for backend in was.backends} & {backend.name for backend in pool.backends}
    before, after = (
        [backend.name for backend in each.backends if backend.name in names] for each in (was, pool)
    )
    return before != after


# -- everything else


_OVERRIDES = {
    Kind.OVERRIDE_CONFLICT: "conflict",
    Kind.OVERRIDE_FULFILLED: "removed",
    Kind.OVERRIDE_DISSOLVED: "removed",
    Kind.OVERRIDE_SETTLED: "changed",
}


def _override(note: Note) -> Difference:
    return Difference("override", note.override.backend, _OVERRIDES[note.kind], note.text)


def _settings(now: Config, then: Config, started: Config) -> Iterator[Difference]:
    for name in type(then).model_fields:
        if name in _PARTS:
            continue
        is_late = name in NEEDS_RESTART
        base = started if is_late else now
        old, new = getattr(base, name), getattr(then, name)
        if old == new:
            continue
        if hasattr(old, "model_dump") and type(old) is type(new):
            text = ", ".join(_texts(old, new))
        else:
            text = _texts(base, then, only=name)[0].removeprefix(f"{name} ")
        yield Difference("setting", name, "changed", text, needs_restart=is_late)


def _texts(was: BaseModel, now: BaseModel, *, leave_out: tuple[str, ...] = (), only: str = "") -> list[str]:
    """Say of each setting that differs what it was and what it is, as the file writes them."""
    names = [
        name
        for name in type(now).model_fields
        if name not in leave_out
        and (not only or name == only)
        and getattr(was, name, None) != getattr(now, name)
    ]
    before, after = was.model_dump(include=set(names)), now.model_dump(include=set(names))
    return [
        f"{_filed(now, name)} changed"
        if name in SECRET
        else f"{_filed(now, name)} {_word(before.get(name))} -> {_word(after.get(name))}"
        for name in names
    ]


def _filed(model: BaseModel, name: str) -> str:
    """Name a setting as the file does."""
    return type(model).model_fields[name].alias or name


def _word(value: object) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        text = ", ".join(f"{key}: {_word(each)}" for key, each in value.items() if key not in SECRET)
        return _short(f"{{{text}}}")
    if isinstance(value, list | tuple):
        return _short(f"[{', '.join(_word(each) for each in value)}]")
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
