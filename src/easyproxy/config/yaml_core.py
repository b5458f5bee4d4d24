"""What plain scalars mean in YAML 1.2: the table of its core schema (YAML 1.2.2, section 10.3.2). Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

# int() takes quadratic time on long digits and refuses more than 4,300; no setting needs even twenty.
LONGEST_NUMBER = 100

_TABLE: tuple[tuple[re.Pattern[str], Callable[[str], object]], ...] = (
    (re.compile(r"|~|null|Null|NULL"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),  # 010 is ten
    (re.compile(r"0o[0-7]+"), lambda text: int(text, 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text, 16)),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(?:inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(?:nan|NaN|NAN)"), lambda _: float("nan")),
)
_COULD_BE = frozenset("~nNtTfF+-.0123456789")


def resolve(text: str) -> object:
    """Say what a plain scalar is; what no row of the table takes is text.

    Raises:
        ValueError: it is a number of absurd length.

    >>> resolve("22:22"), resolve("on"), resolve("010"), resolve("0o10"), resolve("2001-01-01"), resolve("~")
    ('22:22', 'on', 10, 8, '2001-01-01', None)
    """
    if text and text[0] not in _COULD_BE:
        return text
    for pattern, read in _TABLE:
        if pattern.fullmatch(text):
            if len(text) > LONGEST_NUMBER:
                raise ValueError(f"this number has {len(text)} characters")
            return read(text)
    return text
