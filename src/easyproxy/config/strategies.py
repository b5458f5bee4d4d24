"""The setting ``strategy``: known names, old names, entry points, and classes of the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import entry_points

from pydantic import GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

from easyproxy.config.checks import CUSTOM_PATTERN
from easyproxy.config.document import shown
from easyproxy.config.fields import JsonSchema, Kind, wrong
from easyproxy.config.words import listing, nearest
from easyproxy.strategy import ALIASES, BUILTIN, ENTRY_POINTS

STRATEGIES = tuple(BUILTIN)
# What other balancers call them; too far for a comparison of letters.
_ELSEWHERE = {
    "rr": "round_robin",
    "roundrobin": "round_robin",
    "wrr": "round_robin",
    "static_rr": "round_robin",
    "source": "source_hash",
    "ip_hash": "source_hash",
    "hash": "source_hash",
    "leastconn": "least_connections",
    "least_conn": "least_connections",
    "least_request": "least_connections",
    "p2c": "power_of_two",
    "random_two": "power_of_two",
    "ring_hash": "maglev",
    "pick_first": "first",
    "failover": "first",
}


@dataclass(frozen=True, slots=True)
class Strategy(Kind):
    """The name of a strategy, or ``module:Class``. The validation context may hold ``strategies``, the engine's list."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Hook into pydantic: this kind needs the context."""
        return core_schema.with_info_plain_validator_function(self.read_for)

    def read_for(self, value: object, info: ValidationInfo) -> str:
        """Read the name of a strategy that the engine can express."""
        able: frozenset[str] | None = (info.context or {}).get("strategies")
        names = (
            STRATEGIES
            if able is None
            else tuple(name for name in STRATEGIES if name in able)
            + tuple(sorted(able.difference(STRATEGIES)))
        )
        if not isinstance(value, str):
            raise wrong(f"{shown(value)} is not a strategy; write {listing(names)}")
        name = ALIASES.get(value, value)
        if name in names or re.fullmatch(CUSTOM_PATTERN, name):
            return name
        if name in STRATEGIES:
            raise wrong(f"this engine cannot choose by {name}; it can by {listing(names, 'and')}")
        installed = {point.name for point in entry_points(group=ENTRY_POINTS)}
        if name in installed:
            return name
        near = _ELSEWHERE.get(value.lower().replace("-", "_")) or nearest(
            value, [*names, *ALIASES, *installed]
        )
        hint = (
            f"did you mean {near}?"
            if near
            else f"write {listing(names)}, or module:Class for one of your own"
        )
        raise wrong(f"{shown(value)} is not a known strategy; {hint}")

    def schema(self) -> JsonSchema:
        """Offer the names; allow classes and installed ones."""
        return {
            "anyOf": [
                {"enum": [*STRATEGIES, *ALIASES]},
                {"type": "string", "description": "module:Class, or the name of an installed entry point."},
            ]
        }
