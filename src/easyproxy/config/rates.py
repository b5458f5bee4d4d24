"""How a rate is written in the file: ``20/s``, ``100/min``, ``500/h``; and what to write instead of what is none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from easyproxy.config.document import shown
from easyproxy.config.fields import JsonSchema, Kind, wrong
from easyproxy.config.words import listing
from easyproxy.model import UNITS, Rate

MOST = 1_000_000
LONGEST_REFILL_S = 86400
"""Who has used up a burst is remembered until all of it may come again."""
_PER_S = {unit: seconds for seconds, unit in UNITS.items()}
_FORMS = listing(f"20/{unit}" for unit in _PER_S)
_RATE = re.compile(rf"([0-9]{{1,12}})/({'|'.join(_PER_S)})", re.ASCII)
_LOOSE = re.compile(
    r"([0-9]{1,12})\s*(?:/|per|a|an|each)\s*([0-9]{0,4})\s*([a-z]+)", re.ASCII | re.IGNORECASE
)
_SPELLINGS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hour", "hours"),
}
_UNIT_OF = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings}


def parse_rate(text: str) -> Rate:
    """Read ``20/s``, ``100/min`` or ``500/h``.

    Raises:
        ValueError: it is none of these; the message says what to write instead.

    >>> parse_rate("100/min")
    Rate(count=100, per_s=60)
    """
    found = _RATE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a rate; {_advice(text)}")
    count = int(found[1])
    if count == 0:
        raise ValueError(f"{text!r} lets nobody in; write 0 for no limit")
    if count > MOST:
        raise ValueError(f"{text!r} is out of range; 1 to {MOST} in a second, a minute or an hour is allowed")
    return Rate(count, _PER_S[found[2]])


def rate_of(value: object) -> Rate | None:
    """Read a rate of a file that has not been judged; None where it is none."""
    if isinstance(value, Rate):
        return value
    try:
        return parse_rate(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _advice(text: str) -> str:
    asked = text.strip()
    if asked.isascii() and asked.isdigit() and rate_of(f"{asked}/s"):
        return f"it does not say in how much time: write {listing(f'{asked}/{unit}' for unit in _PER_S)}"
    found = _LOOSE.fullmatch(asked)
    unit = _UNIT_OF.get(found[3].lower()) if found else None
    if found and unit:
        better = _in_whole_units(int(found[1]), int(found[2] or 1), unit)
        if rate_of(better):
            return f"write {better}"
    return f"write a whole number and in how much time, for example {_FORMS}"


def _in_whole_units(count: int, times: int, unit: str) -> str:
    """Say the same without the number before the unit: 20 in ten seconds are 120 in a minute."""
    seconds = times * _PER_S[unit]
    for longer, name in UNITS.items():
        if seconds and longer >= seconds and count * longer % seconds == 0:
            return f"{count * longer // seconds}/{name}"
    return ""


@dataclass(frozen=True, slots=True)
class RateLimit(Kind):
    """A rate, or none: the model holds a :class:`easyproxy.model.Rate` or None."""

    def read(self, value: object) -> Rate | None:
        """Read text; a number alone does not say in how much time."""
        if value is None or value == "none" or (value == 0 and not isinstance(value, bool)) or value == "0":
            return None
        if isinstance(value, Rate):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise wrong(f"{shown(value)} is not a rate; write one, for example {_FORMS}")
        try:
            return parse_rate(str(value))
        except ValueError as error:
            raise wrong(str(error)) from None

    def write(self, value: Rate | None) -> str | None:
        """Write as the file has it."""
        return None if value is None else str(value)

    def schema(self) -> JsonSchema:
        """Give the pattern; 0 and none where there is no limit."""
        return {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": f"^([1-9][0-9]{{0,5}}|{MOST})/({'|'.join(_PER_S)})$",
                    "description": "So many in so much time: 20/s, 100/min, 500/h.",
                    "examples": ["20/s", "100/min"],
                },
                {"const": 0, "description": "0 is no limit."},
                {"const": "none", "description": "none is no limit."},
            ]
        }
