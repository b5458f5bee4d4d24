"""How the log of a running balancer looks: for people, or one JSON object on each line. To standard error.

The control plane writes through the standard library's logging; structlog gives it its form.
"""

from __future__ import annotations

import logging
import sys

import structlog

from easyproxy.cli.patient import PatientHandler
from easyproxy.cli.streams import wants_colours


def set_up(level: str, form: str) -> None:
    """Send everything from ``level`` on to standard error, as ``text`` or ``json``."""
    stamp = structlog.processors.TimeStamper(
        fmt="iso" if form == "json" else "%Y-%m-%d %H:%M:%S", utc=form == "json"
    )
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        stamp,
    ]
    last: structlog.typing.Processor
    if form == "json":
        shared += [structlog.processors.format_exc_info]
        last = structlog.processors.JSONRenderer()
    else:
        # Where rich is installed, structlog would show every local variable with an exception: tokens too.
        last = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty() and wants_colours(),
            pad_event_to=20,
            exception_formatter=structlog.dev.plain_traceback,
        )
    handler = PatientHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("easyproxy").setLevel(level.upper())
