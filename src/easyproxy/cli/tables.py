"""What the tables of ``easyproxy top`` show: their columns, and rows made of what the admin API says. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from easyproxy.cli.report import why_of
from easyproxy.cli.text import latency, printable, shortened, size, span

Json = dict[str, Any]
Row = tuple[str, list[Text]]
"""A key, and a cell for each column."""

COLOURS = {
    "ready": "green",
    "ok": "green",
    "down": "red",
    "critical": "red",
    "error": "red",
    "warning": "yellow",
    "draining": "yellow",
    "maintenance": "yellow",
    "checking": "blue",
}
COLUMNS = {
    "backends": (
        "Pool",
        "Backend",
        "State",
        "For",
        "Sessions",
        "",
        "New/s",
        "In/s",
        "Out/s",
        "Errors",
        "Connect",
        "Why",
    ),
    "sessions": ("Session", "Client", "Backend", "Listener", "State", "Age", "Idle", "Sent", "Received"),
    "clients": ("Client", "Sessions", "Sent", "Received"),
    "events": ("When", "What", "Text", "By"),
}
SPARE: Mapping[str, tuple[str, ...]] = {
    "backends": ("", "New/s", "In/s", "Out/s", "Connect"),
    "sessions": ("Listener", "Idle"),
}
"""Columns that a narrow terminal has no room for."""
LONGEST = {"Pool": 1 / 8, "Backend": 1 / 5, "What": 1 / 5}
"""Share of the terminal's width above which names are shortened, so that what is said of them stays in sight."""
_BAR = 10


def bar(share: float) -> str:
    """Draw a share of 1 as a bar of ten cells.

    >>> bar(0.5), bar(2.0)
    ('█████     ', '██████████')
    """
    eighths = round(max(0.0, min(1.0, share)) * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")).ljust(_BAR)


def rows_of(name: str, status: Json, before: Json | None, found: list[Json]) -> list[Row]:
    """Make the rows of a table.

    Args:
        name: of the table, a key of :data:`COLUMNS`.
        status: the document of ``GET /api/status``.
        before: the one before, for rates.
        found: what ``GET /api/{name}`` has answered; the backends are in the status.
    """
    match name:
        case "sessions":
            return [_session(row) for row in found]
        case "clients":
            return [_client(row) for row in found]
        case "events":
            return [_event(row) for row in reversed(found)]
        case _:
            return _backends(status, before)


def _coloured(word: str) -> Text:
    return Text(printable(word), COLOURS.get(word, ""))


def fitting(cell: Text, most: int) -> Text:
    """Shorten a cell to so many columns of the terminal."""
    return cell if cell.cell_len <= most else Text(shortened(cell.plain, most), cell.style)


def _right(text: object) -> Text:
    return Text(str(text), justify="right")


def _plain(*words: object) -> list[Text]:
    return [Text(printable(word)) for word in words]


def _backends(status: Json, before: Json | None) -> list[Row]:
    former = {b["id"]: b["counters"] for pool in before["pools"] for b in pool["backends"]} if before else {}
    seconds = status["now"] - before["now"] if before else 0.0
    rows = []
    for pool in status["pools"]:
        busiest = max((b["counters"]["sessions"] for b in pool["backends"]), default=0)
        for backend in pool["backends"]:
            now = backend["counters"]
            then = former.get(backend["id"])

            def rate(field: str, now: Json = now, then: Json | None = then) -> float:
                return max(0.0, (now[field] - then[field]) / seconds) if then and seconds > 0 else 0.0

            most = backend["max_sessions"] or busiest
            errors = now["connect_errors"] + now["backend_resets"] + now["timeouts"]
            limit = f"/{backend['max_sessions']}" if backend["max_sessions"] else ""
            cells = [
                *_plain(pool["name"], backend["name"]),
                _coloured(backend["state"]),
                _right(span(status["now"] - backend["since"])),
                _right(f"{now['sessions']}{limit}"),
                Text(bar(now["sessions"] / most if most else 0.0), "cyan"),
                _right(f"{rate('total'):.0f}"),
                _right(size(rate("bytes_from_client"))),
                _right(size(rate("bytes_from_backend"))),
                Text(str(errors), "red" if errors else "", justify="right"),
                _right(latency(backend["connect_p95_s"]) if backend["connect_p95_s"] else "-"),
                Text(printable(why_of(backend)), "dim"),
            ]
            rows.append((backend["id"], cells))
    return rows


def _session(row: Json) -> Row:
    return row["id"], [
        *_plain(row["id"], row["client"], row["backend"] or "-", row["listener"], row["state"]),
        _right(span(row["age_s"])),
        _right(span(row["idle_s"])),
        _right(size(row["bytes_from_client"])),
        _right(size(row["bytes_from_backend"])),
    ]


def _client(row: Json) -> Row:
    return row["address"], [
        *_plain(row["address"]),
        _right(row["sessions"]),
        _right(size(row["bytes_from_client"])),
        _right(size(row["bytes_from_backend"])),
    ]


def _event(row: Json) -> Row:
    author = row.get("author") or {"who": ""}
    return str(row["id"]), [
        Text(time.strftime("%H:%M:%S", time.localtime(row["at"]))),
        Text(printable(row["subject"]), COLOURS.get(row["level"], "")),
        *_plain(row["text"], author["who"]),
    ]
