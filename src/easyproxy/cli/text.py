"""Words, numbers and tables for a terminal. Nothing here prints or knows the balancer."""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence

import click

from easyproxy.control.wording import counted, size

__all__ = [
    "counted",
    "fitted",
    "latency",
    "printable",
    "remaining",
    "shortened",
    "size",
    "span",
    "table",
    "terminal_width",
]


def printable(text: object) -> str:
    """Replace what a terminal would obey (escape sequences, newlines): names come from elsewhere."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char)[0] == "C" else char for char in str(text)
    )


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a name that has more than so many characters: both ends tell names apart.

    >>> shortened("node-17.database.example.com", 15), shortened("node-17", 15)
    ('node-17…ple.com', 'node-17')
    """
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def span(seconds: float) -> str:
    """Render a length of time.

    >>> span(5.4), span(200), span(7500), span(273600)
    ('5 s', '3 min', '2 h 05 min', '3 d 4 h')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60:02d} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def remaining(seconds: float) -> str:
    """Render the time that is left, to the nearest second or minute: of half an hour that has just begun, 30 minutes.

    >>> remaining(29.7), remaining(1799.8), remaining(3599.9), remaining(0.2)
    ('30 s', '30 min', '1 h 00 min', '0 s')
    """
    return span(seconds + (0.5 if seconds < 59.5 else 30))


def latency(seconds: float) -> str:
    """Render a short time.

    >>> latency(0.00042), latency(0.0123), latency(1.5)
    ('0.42 ms', '12 ms', '1.5 s')
    """
    milliseconds = seconds * 1000
    if milliseconds >= 999.5:
        return f"{seconds:.1f} s"
    digits = 2 if milliseconds < 0.995 else 1 if milliseconds < 9.95 else 0
    return f"{milliseconds:.{digits}f} ms"


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()
) -> list[str]:
    """Align columns, two spaces apart; the columns in ``right`` to the right. The last one is not padded.

    Cells may carry colours; their width is counted without.
    """
    lines = [[click.style(heading, dim=True) for heading in headings], *rows]
    widths = [max(_width(line[column]) for line in lines) for column in range(len(headings))]

    def pad(cell: str, column: int) -> str:
        space = " " * (widths[column] - _width(cell))
        if column in right:
            return space + cell
        return cell if column == len(headings) - 1 else cell + space

    return ["  ".join(pad(cell, column) for column, cell in enumerate(line)).rstrip() for line in lines]


def fitted(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: frozenset[int] = frozenset(),
    spare: Sequence[str],
    width: int | None,
) -> list[str]:
    r"""Align columns as :func:`table` does, and leave spare ones out, the first named first, until the lines fit.

    Args:
        headings: one for each column.
        rows: cells.
        right: columns that are aligned to the right.
        spare: headings of the columns that can be done without; with all of them gone lines may still be too long.
        width: of the terminal; None is without end.

    >>> fitted(("A", "B", "C"), [("one", "two", "three")], spare=("B", "A"), width=10)
    ['\x1b[2mA\x1b[0m    \x1b[2mC\x1b[0m', 'one  three']
    """
    kept = list(range(len(headings)))
    for name in (*spare, ""):
        lines = table(
            [headings[column] for column in kept],
            [[row[column] for column in kept] for row in rows],
            right=frozenset(place for place, column in enumerate(kept) if column in right),
        )
        if width is None or max(map(_width, lines)) <= width:
            break
        kept = [column for column in kept if headings[column] != name]
    return lines


def terminal_width() -> int | None:
    """How wide a line may be: of the terminal, or what ``COLUMNS`` says, as watch(1) sets it; None elsewhere."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


def _width(cell: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in click.unstyle(cell))
