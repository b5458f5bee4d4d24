"""What a control process knows and its successor shall know too: verdicts, who takes writes, overrides, events. As plain data, and back.

Another version may know more or less: what is missing stays as it is at a start, what is unknown is left out.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from easyproxy.control.failover import Post
from easyproxy.control.operations import Author, Event
from easyproxy.control.state_file import from_plain, to_plain
from easyproxy.engine.seam import Facts, Observation, Outcome
from easyproxy.health.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from easyproxy.control.operations import Override
    from easyproxy.control.registry import Entry, Registry

Plain = dict[str, Any]


def verdicts_of(registry: Registry) -> dict[str, Plain]:
    """Write down what is known of every backend."""
    return {
        entry.id: {
            "address": str(entry.config.address),
            "is_checked": entry.is_checked,
            "is_returning": entry.is_returning,
            "rising_since": entry.rising_since,
            "stance_since": entry.stance_since,
            "verdict": {**asdict(entry.verdict), "last": _plain(entry.verdict.last)},
            "seen": [_plain(observation) for observation in entry.seen],
            "facts": None if entry.facts is None else asdict(entry.facts),
            "role_since": entry.role_since,
            "is_lagging": entry.is_lagging,
            "was_lagging": entry.was_lagging,
            "current_at": entry.current_at,
        }
        for entry in registry.entries.values()
    }


def inherit_verdicts(registry: Registry, verdicts: Mapping[str, Plain]) -> None:
    """Let a registry know what a former one knew of the backends that are where they were."""
    for entry in registry.entries.values():
        known = verdicts.get(entry.id)
        if known is None or known["address"] != str(entry.config.address):
            continue
        entry.stance_since = known["stance_since"] if entry.stance is not None else 0.0
        if entry.is_checked == known["is_checked"]:
            _inherit(entry, known)


def _inherit(entry: Entry, known: Plain) -> None:
    entry.rising_since = known["rising_since"]
    entry.is_returning = known["is_returning"]
    entry.seen.extend(_observation(plain) for plain in known["seen"])
    verdict = _known(Verdict, known["verdict"])
    last = verdict["last"]
    entry.verdict = Verdict(**{**verdict, "last": None if last is None else _observation(last)})
    entry.facts = _facts(known.get("facts"))
    entry.role_since = known.get("role_since", 0.0)
    entry.is_lagging = known.get("is_lagging", False)
    entry.was_lagging = known.get("was_lagging", entry.is_lagging)
    entry.current_at = known.get("current_at", 0.0)


def _plain(observation: Observation | None) -> Plain | None:
    return None if observation is None else {**asdict(observation), "outcome": observation.outcome.value}


def _observation(plain: Plain) -> Observation:
    known = {**_known(Observation, plain), "facts": _facts(plain.get("facts"))}
    return Observation(**{**known, "outcome": Outcome(plain["outcome"])})


def _facts(plain: Plain | None) -> Facts | None:
    if plain is None:
        return None
    known = _known(Facts, plain)
    return Facts(**{**known, "notes": tuple((word, what) for word, what in known.get("notes", ()))})


def plain_posts(posts: Mapping[str, Post]) -> dict[str, Plain]:
    """Write down who takes writes in each pool, and whose sessions are owed an end."""
    return {
        name: {**asdict(post), "former": sorted(post.former), "closing": []} for name, post in posts.items()
    }


def posts_from(plain: Mapping[str, Plain]) -> dict[str, Post]:
    """Read it."""
    return {
        name: Post(
            **{
                **_known(Post, item),
                "writers": tuple(item["writers"]),
                "former": set(item["former"]),
                "rivals": tuple(item.get("rivals", ())),
                "closing": set(),
            }
        )
        for name, item in plain.items()
    }


def plain_overrides(overrides: Iterable[Override]) -> list[Plain]:
    """Write down what operators have laid over the file."""
    return [to_plain(override) for override in overrides]


def overrides_from(plain: Iterable[Plain]) -> list[Override]:
    """Read them. Raises ValueError."""
    return [from_plain(item) for item in plain]


def plain_events(events: Iterable[Event]) -> list[Plain]:
    """Write down what has happened."""
    return [asdict(event) for event in events]


def events_from(plain: Iterable[Plain]) -> list[Event]:
    """Read it."""
    return [
        Event(**{**_known(Event, item), "author": Author(**item["author"]) if item["author"] else None})
        for item in plain
    ]


def _known(kind: type, plain: Plain) -> Plain:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}
