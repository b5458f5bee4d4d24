"""How a duration, a list of words or a near miss is written and read. Pure text; no pydantic, no settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from decimal import Decimal

# 366 days: more is a slip of the pen, and none is the word for "never".
LONGEST_S = 366 * 86400.0
_UNITS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_PART = r"\d{1,9}(?:\.\d{1,9})?"
DURATION_PATTERN = rf"^(?=[0-9])(?:{_PART}d)?(?:{_PART}h)?(?:{_PART}m)?(?:{_PART}s)?(?:{_PART}ms)?$|^0$"
_DURATION = re.compile(DURATION_PATTERN, re.ASCII)
_STEP = re.compile(rf"({_PART})(ms|[dhms])", re.ASCII)
_NUMBER = re.compile(_PART, re.ASCII)
_LOOSE = re.compile(rf"({_PART})\s*([A-Za-z]+)", re.ASCII)
_SPELLINGS = {
    "ms": ("msec", "msecs", "millis", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}
_UNIT_OF = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in (unit, *spellings)}


def parse_duration(text: str) -> float:
    """Read ``250ms``, ``3s``, ``1m30s``, ``1h``, ``2d`` or ``0`` as seconds.

    Raises:
        ValueError: it is none of these; the message says what to write instead.

    >>> parse_duration("1m30s"), parse_duration("250ms")
    (90.0, 0.25)
    """
    if text == "0":
        return 0.0
    if _DURATION.fullmatch(text):
        return float(sum(Decimal(number) * _UNITS[unit] for number, unit in _STEP.findall(text)))
    raise ValueError(f"{text!r} is not a duration; {_advice(text)}")


def _advice(text: str) -> str:
    if _NUMBER.fullmatch(text.strip()):
        return f"it has no unit: write {text.strip()}s for seconds or {text.strip()}ms for milliseconds"
    if text.strip().startswith("-"):
        return "it cannot be negative"
    parts = _LOOSE.findall(text)
    if parts and not _LOOSE.sub("", text).strip():
        better = "".join(number + _UNIT_OF.get(word.lower(), "?") for number, word in parts)
        if better != text and _DURATION.fullmatch(better):
            return f"write {better}"
        if "?" not in better:
            return "write the larger unit first and each unit once, for example 1h30m"
    return "write a number with a unit (ms, s, m, h, d), for example 250ms, 3s or 1h30m"


def format_duration(seconds: float) -> str:
    """Write seconds in the form that :func:`parse_duration` reads back exactly.

    >>> format_duration(90), format_duration(0.25), format_duration(0)
    ('1m30s', '250ms', '0')
    """
    rest = Decimal(repr(float(seconds)))
    if rest == 0:
        return "0"
    text = ""
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            text += f"{count:f}{unit}"
    if rest >= 1:
        text += f"{_trim(rest)}s"
    elif rest:
        text += f"{_trim(rest * 1000)}ms"
    return text


def _trim(number: Decimal) -> str:
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def listing(words: Iterable[str], last: str = "or") -> str:
    """Join words as a sentence does.

    >>> listing(["a", "b", "c"])
    'a, b or c'
    """
    *head, tail = list(words) or [""]
    return f"{', '.join(head)} {last} {tail}" if head else tail


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Find the known word that was probably meant, or None."""
    choices = {choice.lower(): choice for choice in known}
    asked = word[:100].lower().replace("-", "_").replace(" ", "_")
    if asked in choices:
        return choices[asked]
    # Abbreviations ("leastconn", "max_conn") share a beginning rather than most letters.
    found = difflib.get_close_matches(asked, choices, n=1, cutoff=0.6)
    return choices[found[0]] if found else None
