"""Standard streams: whether they take colours, and what becomes of those that are closed.

Those that somebody closed before the start (``2>&-``, some service scripts) lead to nowhere. Otherwise the next
descriptor that is opened, a client's even, would get the number of the log.
"""

from __future__ import annotations

import os
import sys


def open_closed() -> None:
    """Open those that are closed. To be called before anything else is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # open(2): it gets the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the end
            setattr(sys, name, stream)


def wants_colours() -> bool:
    """Whether a terminal is to have colours (https://no-color.org); that there is one is another question."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
