"""What an interpreter has to do to be taken for the workers: import them, say what it is, and be timed.

Run by itself in the interpreter on trial, see ``interpreter``, and timed in our own for comparison. The work resembles
that of many short sessions: small objects with slots, method calls, an exception now and then, shared cells. It opens
nothing.
"""

from __future__ import annotations

import importlib
import json
import sys
import sysconfig
import time

SESSIONS = 250
ROUNDS = 120
"""The best of so many counts: each takes half a millisecond, so that some are disturbed by nobody."""
_EMPTY = 7
_UNUSUAL = 0x2018


class _Session:
    __slots__ = ("active_at", "cells", "inbound", "number", "outbound", "state", "view")

    def __init__(self, number: int, view: memoryview, cells: memoryview) -> None:
        self.number = number
        self.view = view
        self.cells = cells
        self.active_at = 0.5 * number
        self.state = "relaying"
        self.outbound: _Flow | None = None
        self.inbound: _Flow | None = None


class _Flow:
    __slots__ = ("back", "cell", "mask", "moved", "session")

    def __init__(self, session: _Session, cell: int) -> None:
        self.session = session
        self.cell = cell
        self.back: _Flow | None = None
        self.moved = self.mask = 0

    def ready(self, fd: int, mask: int) -> None:
        if mask & _UNUSUAL:
            self.mask |= mask
        self.pump(fd)

    def pump(self, count: int) -> None:
        session = self.session
        try:
            if count & _EMPTY == _EMPTY:
                _nothing_there()
            self.moved += len(session.view[:count])
        except BlockingIOError:
            return
        session.cells[self.cell] += count


def _nothing_there() -> None:
    raise BlockingIOError


_TABLE = {("connecting", "connected"): "relaying", ("relaying", "fin"): "closed"}


def best_time() -> float:
    """Return in how many seconds of the processor's time the work is done, at best."""
    view, cells = memoryview(bytearray(1024)), memoryview(bytearray(64)).cast("q")
    return min(_seconds(view, cells) for _ in range(ROUNDS))


def _seconds(view: memoryview, cells: memoryview) -> float:
    handlers: list[_Flow | None] = [None] * 512
    sessions: dict[int, _Session] = {}
    start = time.thread_time()
    for number in range(SESSIONS):
        session = sessions[number] = _Session(number, view, cells)
        outbound, inbound = _Flow(session, 1), _Flow(session, 2)
        outbound.back, inbound.back = inbound, outbound
        session.outbound, session.inbound = outbound, inbound
        client, backend = number & 255, 256 + (number & 255)
        handlers[client], handlers[backend] = outbound, inbound
        for fd, mask in ((client, 5), (backend, 0x2005), (client, 0x2015)):
            handler = handlers[fd]
            if handler is not None:
                handler.ready(fd, mask)
        session.state = _TABLE[session.state, "fin"]
        outbound.back = inbound.back = None
        del sessions[number]
    return time.thread_time() - start


def main() -> None:
    """Import what a worker needs, and write version, ABI and time."""
    importlib.import_module("easyproxy.engine.relay.process")
    sys.stdout.write(json.dumps([sys.version_info[:3], sysconfig.get_config_var("SOABI"), best_time()]))
