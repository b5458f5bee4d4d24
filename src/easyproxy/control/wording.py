"""How times, sizes, shares, states and the ways in which a session ends are written, for the log, the commands and the page. Pure."""

from __future__ import annotations

import time

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

ENDINGS = {
    "client_fin": "both sides ended in peace, the client first",
    "backend_fin": "both sides ended in peace, the backend first",
    "fin": "both sides ended in peace; which one first was not seen",
    "client_reset": "the client reset its connection",
    "backend_reset": "the backend reset its connection",
    "reset": "one side reset it; the kernel does not tell which",
    "client_vanished": "the client stopped answering",
    "backend_vanished": "the backend stopped answering",
    "client_gave_up": "the client left before a backend was reached",
    "no_backend": "the pool had no ready backend, so the client was turned away",
    "connect_failed": "every attempt to connect that retries allow had failed, so the client was turned away",
    "queue_timeout": "it waited too long for a free place, or for its turn to be let in, so the client was turned away",
    "rate_limited": "its address opened more sessions than client_rate allows, so the client was turned away",
    "refused": "the listener was at its max_sessions, so the client was turned away",
    "idle_timeout": "we cut it: no byte in either direction for idle_timeout",
    "half_closed_timeout": "we cut it: one side had ended, and the other sent nothing for half_closed_timeout",
    "life_timeout": "we cut it: it was as old as max_lifetime allows",
    "operator": "an operator closed it",
    "backend_down": "we cut it: its backend went down, and close_sessions_on_down is set",
    "failover": "we cut it: another server is the primary now",
    "lagging": "we cut it: its replica fell too far behind",
    "between_transactions": "we closed it between two transactions: it was to leave",
    "drained": "we cut it: it was still there when the time for draining was over",
    "internal_error": "a mistake in EasyProxy; the log holds where",
}
"""Who closed first, and how, for each reason of a session's end."""


def clock(at: float, now: float) -> str:
    """Write a time of day, with the date when it was not within a day.

    >>> len(clock(1_000_000.0, 1_000_001.0)), len(clock(0.0, 1_000_000.0))
    (8, 19)
    """
    form = "%H:%M:%S" if abs(now - at) < 86400 else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(at))


def span(seconds: float) -> str:
    """Write a length of time.

    >>> span(0.00042), span(0.25), span(5.4), span(200), span(7500), span(273600)
    ('0.42 ms', '250 ms', '5.4 s', '3 min', '2 h 5 min', '3 d 4 h')
    """
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"


def size(count: float) -> str:
    """Write bytes with a unit.

    >>> size(0), size(1536), size(5 * 2**30)
    ('0 B', '1.5 KiB', '5.0 GiB')
    """
    step = 0
    while count >= 1024 and step < len(_SIZES) - 1:
        count /= 1024
        step += 1
    return f"{count:.0f} B" if step == 0 else f"{count:.1f} {_SIZES[step]}"


def counted(number: int, noun: str) -> str:
    """Put a number before a noun.

    >>> counted(1, "session"), counted(0, "session")
    ('1 session', '0 sessions')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def in_words(state: str) -> str:
    """Write a backend's state as it stands behind "is".

    >>> in_words("down"), in_words("maintenance")
    ('down', 'in maintenance')
    """
    return "in maintenance" if state == "maintenance" else state


def percent(share: float) -> str:
    """Write a share.

    >>> percent(1 / 3), percent(0.004)
    ('33 %', '0.4 %')
    """
    return f"{share * 100:.0f} %" if share >= 0.0095 or not share else f"{share * 100:.1g} %"


def why(state: str, reason: str, outcome: str, detail: str) -> str:
    """Say why a backend is in its state; of one that is well the newest probe says more than what made it so.

    Args:
        state: of the backend.
        reason: of that state.
        outcome: of the newest probe; empty where there is none.
        detail: of the newest probe.
    """
    return detail if state == "ready" and outcome == "success" and detail else reason
