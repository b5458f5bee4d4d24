"""The story of a session, a backend or a client, in the order in which to read it. Pure: what is known goes in.

What stood at a past moment is read from the events; where they do not reach back so far, nothing is claimed.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from easyproxy.control.operations import Explanation
from easyproxy.control.overrides import words
from easyproxy.control.simulate import why_not_ready
from easyproxy.control.wording import ENDINGS, clock, counted, in_words, size, span, why
from easyproxy.engine.seam import SessionEnd, SessionInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from easyproxy.control.operations import Choice, Event, Override
    from easyproxy.control.registry import Entry
    from easyproxy.control.status import BackendStatus, PoolStatus, Status
    from easyproxy.engine.seam import Observation

_SHOWN_SESSIONS = 10
_STATES = {
    "backend_ready": "",
    "backend_down": "down",
    "backend_checking": "checking",
    "backend_draining": "draining",
    "backend_maintenance": "in maintenance",
    "backend_removed": "removed",
}
"""Kinds of events after which a backend gets no sessions, and the word for it."""

_BY_STRATEGY = {
    "round_robin": "it was its turn",
    "random": "chance chose it",
    "source_hash": "the hash ring gives it this client's address",
    "maglev": "the hash table gives it this client's address",
    "least_connections": "it had the fewest sessions for its weight",
    "power_of_two": "it was the less loaded of two that chance drew",
    "first": "it was the first ready one of the configuration",
}


# -- a backend


def explain_backend(
    entry: Entry, status: Status, overrides: Sequence[Override], events: tuple[Event, ...], *, check: str
) -> Explanation:
    """Tell why a backend is in its state: what the operator says, the probes that led to it, its traffic.

    Args:
        entry: what the registry keeps of it.
        status: of the same moment.
        overrides: those of this backend.
        events: those of this backend, oldest first.
        check: the check in words, with rise and fall.
    """
    now = status.now
    backend = next(one for pool in status.pools for one in pool.backends if one.id == entry.id)
    since = f" since {clock(backend.since, now)}" if backend.since else ""
    headline = f"{entry.id} is {in_words(backend.state)}{since}: {_why(backend)}"
    lines = []
    for override in overrides:
        until = f", until {clock(override.until, now)}" if override.until else ""
        lines.append(f"an operator says since {clock(override.at, now)}{until}: {words(override)}")
        if override.deadline:
            verb = "is" if override.deadline > now else "was"
            lines.append(f"what is left of its sessions {verb} closed at {clock(override.deadline, now)}")
        if override.conflict:
            lines.append(f"in conflict with the file: {override.conflict}")
    if entry.stance is not None and backend.is_healthy is not None:
        lines.append(f"apart from that it is {'healthy' if backend.is_healthy else 'not healthy'}")
    lines.append(f"its address is {backend.address}; {check}")
    lines += _role(backend, status, now)
    if entry.seen:
        lines.append("the last observations, newest first:")
        alike = groupby(reversed(entry.seen), key=lambda one: (one.outcome, one.detail))
        lines += [f"  {_looks(list(group), now)}" for _, group in alike]
    if entry.verdict.is_changing:
        needed = entry.rule.fall if entry.verdict.healthy else entry.rule.rise
        lines.append(f"its verdict is changing: {entry.verdict.streak} of {needed} needed in a row")
    lines += _traffic(backend, now)
    return Explanation("backend", entry.id, headline, tuple(lines), events=events)


def _looks(alike: Sequence[Observation], now: float) -> str:
    """Say what one look found, or several in a row that found the same; the newest comes first."""
    newest, oldest = alike[0], alike[-1]
    found = newest.detail or newest.outcome.value
    if newest.outcome.value not in found.casefold():
        found = f"{newest.outcome.value}: {found}"
    took = sorted(
        {span(one.duration_s): one.duration_s for one in alike if one.duration_s}.items(), key=itemgetter(1)
    )
    times = " to ".join(text for text, _ in (took[:1] + took[-1:] if len(took) > 1 else took))
    found += f" ({times})" if times else ""
    at = clock(newest.at, now)
    return (
        f"{at}  {found}"
        if len(alike) == 1
        else f"{clock(oldest.at, now)} to {at}, {len(alike)} times: {found}"
    )


def _why(backend: BackendStatus) -> str:
    """Say why it is in its state; of one that has a role, what it is now."""
    probe = backend.last_probe
    if probe is None or not backend.role:
        return backend.reason
    return why(backend.state, backend.reason, probe.outcome, probe.detail)


def _role(backend: BackendStatus, status: Status, now: float) -> list[str]:
    """Say what it says that it is, and what follows."""
    if not backend.role:
        return [f"it runs {backend.server_version}"] if backend.server_version else []
    runs = f", {backend.server_version}" if backend.server_version else ""
    told = f", timeline {backend.timeline}" if backend.timeline else ""
    lag = f", {backend.lag}" if backend.lag else ""
    lines = [f"it says that it is a {backend.role} since {clock(backend.role_since, now)}{lag}{told}{runs}"]
    lines += [f"{word}: {what}" for word, what in backend.notes]
    pool = next(one for one in status.pools if backend in one.backends)
    if pool.writes is not None:
        since = f" since {clock(pool.writes.since, now)}" if pool.writes.since else ""
        if backend.takes_writes:
            lines.append(f"it takes the writes of pool {pool.name}{since}: {pool.writes.why}")
        else:
            who = " and ".join(pool.writes.writers) or "nobody"
            lines.append(f"it takes no writes; {who} does{since}: {pool.writes.why}")
    if backend.is_lagging:
        lines.append("it serves no clients of listeners for replicas: it lags too far")
    return lines


def _traffic(backend: BackendStatus, now: float) -> list[str]:
    counters = backend.counters
    limit = f" of {backend.max_sessions}" if backend.max_sessions else ""
    moved = f"{size(counters.bytes_from_client)} from clients, {size(counters.bytes_from_backend)} from it"
    lines = [f"traffic: {counters.sessions}{limit} sessions now, {counters.total} in all, {moved}"]
    if backend.connect_p50_s:
        lines.append(
            f"connecting took {span(backend.connect_p50_s)} at most for half of them, "
            f"{span(backend.connect_p95_s)} for 95 %, {span(backend.connect_p99_s)} for 99 %"
        )
    troubles = [
        (counters.connect_errors, "failed connects"),
        (counters.retries, "sessions that then reached another backend"),
        (counters.backend_resets, "resets by it"),
        (counters.client_resets, "resets by clients"),
        (counters.timeouts, "time-outs"),
        (counters.local_errors, "connects for which this machine lacked something"),
    ]
    if any(count for count, _ in troubles):
        lines.append("trouble: " + ", ".join(f"{count} {what}" for count, what in troubles if count))
    if backend.last_error:
        lines.append(f"its last failure, at {clock(backend.last_error_at, now)}: {backend.last_error}")
    return lines


# -- a session


def explain_session(
    session: SessionInfo | SessionEnd, status: Status, events: Iterable[Event], choice: Choice | None = None
) -> Explanation:
    """Tell why a session went where it went, and how it ended.

    Args:
        session: live, or ended.
        status: of this moment.
        events: all that are kept.
        choice: where its client would go now.
    """
    now = status.now
    ended = isinstance(session, SessionEnd)
    started = _started(session, now)
    listener = next((one for one in status.listeners if one.name == session.listener), None)
    pool_name = listener.pool if listener else session.backend.partition("/")[0]
    pool = next((one for one in status.pools if one.name == pool_name), None)
    lines = [f"accepted at {clock(started, now)} on listener {session.listener} from {session.client}"]
    if pool is not None:
        role = f" ({listener.role} of it)" if listener and listener.role else ""
        lines[0] += f"; pool {pool.name}{role}, strategy {pool.strategy}"
        lines += _left_out_then(pool, session, list(events), started, now)
    lines += [f"candidate {place}, {one.backend}: {one.why}" for place, one in enumerate(session.tried, 1)]
    lines += _reached(session, pool, listener.engine if listener else "relay")
    moved = f"{size(session.bytes_from_client)} from the client, {size(session.bytes_from_backend)} from the backend"
    if isinstance(session, SessionEnd):
        lines.append(f"moved {moved}, in {span(session.age_s)}")
        how = ENDINGS.get(session.reason, session.reason)
        detail = f" ({session.detail})" if session.detail else ""
        lines.append(f"ended at {clock(started + session.age_s, now)} as {session.reason}: {how}{detail}")
        headline = f"session {session.id} ended: {how}"
    else:
        lines.append(
            f"so far {moved}; {session.state}, {span(session.age_s)} old, idle for {span(session.idle_s)}"
        )
        if session.transaction:
            lines.append(f"transaction: {session.transaction}")
        headline = f"session {session.id} is {session.state}"
    if session.backend:
        headline += f", backend {session.backend}"
    about = tuple(
        event
        for event in events
        if event.subject in {session.backend, session.id, pool_name} - {""} and event.at >= started - 60
    )
    end = started + session.age_s + 60 if ended else now
    return Explanation(
        "session",
        session.id,
        headline,
        tuple(lines),
        events=tuple(event for event in about if event.at <= end)[-20:],
        session=session,
        choice=choice,
    )


def _started(session: SessionInfo | SessionEnd, now: float) -> float:
    if isinstance(session, SessionEnd):
        return session.started_at or now - session.age_s
    return now - session.age_s


def _reached(session: SessionInfo | SessionEnd, pool: PoolStatus | None, engine: str) -> list[str]:
    if not session.backend:
        return (
            ["no backend was reached"] if isinstance(session, SessionEnd) else ["no backend is reached yet"]
        )
    if engine == "kernel" and session.connect_s < 0:
        return [f"the kernel gave it to {session.backend}; the client's own connect went through to it"]
    if session.connect_s < 0:
        return [f"went to {session.backend}, which is being dialled"]
    took = f"{session.backend} was reached {span(session.connect_s)} after the client had come"
    if session.tried:
        return [f"candidate {len(session.tried) + 1}, {took}"]
    why = _BY_STRATEGY.get(pool.strategy if pool else "", "its strategy chose it")
    return [f"candidate 1, {took}: {why}"]


def _left_out_then(
    pool: PoolStatus, session: SessionInfo | SessionEnd, events: list[Event], at: float, now: float
) -> list[str]:
    """Say who got no sessions when this one began, as far as that is known."""
    last: dict[str, Event] = {}
    for event in events:
        if event.kind in _STATES and event.at <= at:
            last[event.subject] = event
    known = {backend.id: backend for backend in pool.backends}
    removed = sorted(name for name in last if name.startswith(f"{pool.name}/") and name not in known)
    lines = []
    for name in [*known, *removed]:
        if name == session.backend:
            continue
        backend, event_then = known.get(name), last.get(name)
        if event_then is not None and _STATES[event_then.kind]:
            word, cause = _STATES[event_then.kind], event_then.text.partition(": ")[2]
            text = f"left out, {name}: {word} since {clock(event_then.at, now)}"
            lines.append(text + (f", {cause}" if cause else ""))
        elif backend is None:
            continue
        elif event_then is None and backend.state != "ready" and 0 < backend.since <= at:
            lines.append(f"left out, {name}: {why_not_ready(backend, now)}")
        elif backend.backup and (event_then is not None or backend.state == "ready"):
            lines.append(f"behind the others, {name}: a backup")
    return lines


# -- a client


def explain_client(
    client: str,
    sessions: Sequence[SessionInfo],
    ends: Sequence[SessionEnd],
    choices: Sequence[Choice],
    now: float,
) -> Explanation:
    """Tell what a client has, had, and where it would go now.

    Args:
        client: its address without port.
        sessions: its live ones.
        ends: its last ones that ended, oldest first.
        choices: where it would go, in each pool.
        now: seconds since the epoch.
    """
    moved = sum(one.bytes_from_client + one.bytes_from_backend for one in sessions)
    headline = f"{client} has {counted(len(sessions), 'session')}" + (
        f", {size(moved)} moved" if moved else ""
    )
    lines = [
        f"{one.id} on {one.listener} to {one.backend or 'no backend yet'}: {one.state}, {span(one.age_s)} old, "
        f"{size(one.bytes_from_client)} from it, {size(one.bytes_from_backend)} to it"
        for one in sorted(sessions, key=lambda one: one.age_s)[:_SHOWN_SESSIONS]
    ]
    if len(sessions) > _SHOWN_SESSIONS:
        lines.append(f"and {len(sessions) - _SHOWN_SESSIONS} older ones")
    for end in reversed(ends[-_SHOWN_SESSIONS:]):
        at = clock(_started(end, now) + end.age_s, now)
        how = ENDINGS.get(end.reason, end.reason)
        lines.append(f"{end.id} to {end.backend or 'no backend'} ended at {at}: {how}")
    if len(choices) > 1:  # a single one is told with all its candidates
        lines += [f"now it would go, {said(choice)}" for choice in choices]
    return Explanation(
        "client", client, headline, tuple(lines), choice=choices[0] if len(choices) == 1 else None
    )


def said(choice: Choice) -> str:
    """Put a choice into one sentence: ``in pool web (first): to web/a``."""
    ranked = [one for one in choice.candidates if one.rank]
    where = f"in pool {choice.pool} ({choice.strategy})"
    if not ranked:
        return f"{where}: nowhere; {choice.note}"
    first = ranked[0]
    if choice.is_certain:
        return f"{where}: to {first.backend}, {first.why}" + (f"; {choice.note}" if choice.note else "")
    several = ", ".join(f"{one.backend} ({one.why})" for one in ranked[:5])
    return f"{where}: to one of {several}" + (f"; {choice.note}" if choice.note else "")
