"""What can be asked of a running balancer and changed in it: plain values, and the protocol that carries them out.

The admin server, the commands and Python callers know the balancer through :class:`Operations` only. Nothing is
decided here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from easyproxy.control.status import View
from easyproxy.engine.seam import SessionEnd, SessionInfo, Where


@dataclass(frozen=True, slots=True)
class Author:
    """Who changes something, and why; both are shown wherever the change is."""

    who: str
    why: str = ""


class Action(StrEnum):
    """What an operator can lay over the configuration of one backend."""

    DRAIN = "drain"  # no new sessions; established ones go on; probes go on
    MAINTENANCE = "maintenance"  # as drain, and no probes
    WEIGHT = "weight"  # ``value`` is the weight, as the configuration allows it
    ADD = "add"  # a backend that the file does not have; ``value`` is a mapping as in the file
    REMOVE = "remove"  # a backend that the file has; its sessions go on


@dataclass(frozen=True, slots=True)
class Override:
    """One change made at run time. A backend has at most one of DRAIN/MAINTENANCE, one WEIGHT, one ADD/REMOVE.

    Attributes:
        id: unique and stable over restarts.
        backend: ``pool/name``.
        value: the weight, or the mapping of an added backend; None otherwise.
        base: what the file said of the same thing when the override was made (None: nothing).
        author: who made it, and why.
        at: seconds since the epoch.
        until: when it ends by itself, in seconds since the epoch; 0 is never.
        deadline: of DRAIN and MAINTENANCE: when the sessions that are left are closed, in seconds since the epoch; 0 is never.
        conflict: in words, when the file has changed the same thing since; empty otherwise.
        warning: what whoever makes it or takes it away ought to know, for example that nobody serves the pool now, or that
            the change will not survive a restart; only in the answer.
    """

    id: str
    backend: str
    action: Action
    author: Author
    at: float
    value: int | Mapping[str, object] | None = None
    base: int | Mapping[str, object] | None = None
    until: float = 0.0
    deadline: float = 0.0
    conflict: str = ""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, with its cause.

    Attributes:
        id: grows by one; starts anew with the program.
        at: seconds since the epoch.
        kind: a word of the lexicon: ``backend_ready``, ``backend_down``, ``override_set``, ``reloaded``, ...
        subject: what it happened to: a backend's id, a listener's name, a file; empty for the balancer itself.
        text: one sentence for people, with the cause.
        level: ``info``, ``warning`` or ``error``.
        author: who caused it, where somebody did.
    """

    id: int
    at: float
    kind: str
    subject: str
    text: str
    level: str = "info"
    author: Author | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a configuration would change.

    Attributes:
        what: ``listener``, ``pool``, ``backend``, ``setting`` or ``override``.
        name: which one.
        change: ``added``, ``removed``, ``changed`` or ``conflict``.
        text: what changes, in words: ``weight 1 -> 3``.
        sessions: living sessions that it concerns: those of a backend or listener that goes.
        needs_restart: it has no effect until the next start or upgrade.
    """

    what: str
    name: str
    change: str
    text: str
    sessions: int = 0
    needs_restart: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What a configuration would change. ``differences`` is empty when it says what is in force."""

    source: str
    differences: tuple[Difference, ...] = ()
    sessions: int = 0  # that would drain
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReloadState:
    """How the last reload stands.

    Attributes:
        at: seconds since the epoch; 0 before the first.
        outcome: ``none``, ``applied``, ``refused``, ``confirmed`` or ``rolled_back``.
        confirm_until: an unconfirmed reload goes back then, in seconds since the epoch; 0 when nothing is waited for.
    """

    at: float = 0.0
    outcome: str = "none"
    detail: str = ""
    confirm_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One backend as a strategy sees it for a client.

    Attributes:
        rank: 1 is dialled first; 0 when it is left out.
        why: why it is left out, or why it stands where it does.
    """

    backend: str
    rank: int
    why: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a client would go now. ``is_certain`` is false where chance or other clients decide (see ``note``)."""

    pool: str
    strategy: str
    client: str
    candidates: tuple[Candidate, ...]
    is_certain: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of a session, a backend or a client: ``lines`` in the order in which to read them."""

    kind: str  # session, backend, client
    subject: str
    headline: str
    lines: tuple[str, ...]
    events: tuple[Event, ...] = ()
    session: SessionInfo | SessionEnd | None = None
    choice: Choice | None = None


@dataclass(frozen=True, slots=True)
class Stacks:
    """What every thread of every process is doing: process name (``control``, ``relay 0``) to text."""

    processes: Mapping[str, str] = field(default_factory=dict)


class UnknownError(LookupError):
    """What was named does not exist (any more); the message names it, and what there is instead."""


class RefusedError(ValueError):
    """The change is refused; the message says why, and nothing has changed."""


class Operations(View, Protocol):
    """The whole of a balancer. Changes are applied whole or raise, and then nothing has changed.

    Raises, wherever a backend, pool, listener, override or session is named: UnknownError. Where a change is not
    possible: RefusedError. Where a configuration is wrong: ConfigError.
    """

    # -- reading

    def events(self, after: int = 0, limit: int = 200) -> list[Event]:
        """The newest events with an id above ``after``, oldest first."""

    def follow_events(self) -> AsyncIterator[Event]:
        """Events as they happen, from now on; a reader that is too slow misses the oldest."""

    def overrides(self) -> list[Override]:
        """What operators have laid over the file, oldest first."""

    def effective_config(self) -> Mapping[str, object]:
        """The configuration in force, overrides included, in the file's shape; secrets are masked."""

    def reload_state(self) -> ReloadState:
        """How the last reload stands."""

    async def explain(self, kind: str, subject: str) -> Explanation:
        """Tell the story of a ``session`` (id), a ``backend`` (id or name) or a ``client`` (address)."""

    def simulate(self, client: str, *, pool: str = "", without: frozenset[str] = frozenset()) -> list[Choice]:
        """Say where a client would go now, in one pool or in each, as if ``without`` were not ready."""

    async def stacks(self) -> Stacks:
        """What every thread of the control process and of every worker is doing."""

    # -- changing

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
        """Lay a change over one backend; it replaces a former one of the same kind."""

    async def restore(self, backend: str, author: Author) -> list[Override]:
        """End drain and maintenance of a backend (``ready``); return what was taken away."""

    async def forget(self, override: str, author: Author) -> Override:
        """Take one override away, by its id."""

    async def close_sessions(self, where: Where, author: Author) -> int:
        """Close the sessions that match, both sides; an empty ``where`` is refused."""

    async def plan(self, text: str | None = None, form: str = "yaml") -> Plan:
        """Say what the file (or ``text`` in ``yaml``, ``toml`` or ``json``) would change. Raises ConfigError."""

    async def reload_file(self, author: Author, *, rollback_after_s: float = 0.0) -> Plan:
        """Load the file again and put it in force; go back after so long unless :meth:`confirm` is called."""

    async def confirm(self, author: Author) -> ReloadState:
        """Keep what an unconfirmed reload has put in force."""

    async def rollback(self, author: Author) -> ReloadState:
        """Go back to the configuration before the last reload."""

    async def upgrade(self, author: Author) -> str:
        """Start the new program and hand everything over; returns what the successor says of itself."""
