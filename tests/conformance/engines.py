"""Which engines there are, what the suite claims, and which claims an engine cannot keep, with the reason.

To add an engine: one entry in ``ENGINES``. A test carries the numbers of its claims with ``@behaviour(...)``, and is
skipped for an engine that declares one of them as an exception.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from easyproxy.engine.kernel import KernelEngine
from easyproxy.engine.relay import RelayEngine
from easyproxy.engine.relay.talkative import EARLY
from easyproxy.engine.seam import Engine

CLAIMS: Mapping[int | str, str] = {
    1: "a backend may speak first",
    2: "data and FIN in one segment",
    3: "half-close, then 50 MiB the other way",
    4: "data and FIN before the backend connection stands",
    5: "a slow reader loses nothing and costs no memory",
    6: "what a closed client has sent is delivered when the backend resumes",
    7: "1 GiB both ways at once",
    8: "a reset is passed on as a reset, with its reason",
    9: "a reset after FIN cuts nothing that is owed",
    10: "a client that gives up cancels the connect",
    11: "10,000 connect-and-close leave nothing over",
    12: "no ready backend: reset at once",
    13: "a failed connect is tried elsewhere, and only before a byte was forwarded",
    14: "connect, idle, half-closed and life timeouts",
    15: "vanished peers are reaped",
    16: "running out of descriptors pauses accepting and nothing else",
    17: "used-up ports are not the backend's fault",
    18: "a listener's max_sessions",
    19: "a backend's max_sessions, and the queue",
    20: "thousands of slow clients do not slow a good one",
    21: "thousands of idle sessions and their memory",
    24: "refused connects of live traffic are observed",
    27: "the distribution of every strategy",
    28: "sessions of a backend that went down can be ended, or left",
    29: "reloads under a stream of new connections",
    30: "a reload keeps every session on its backend",
    32: "a killed worker costs only its own sessions",
    34: "draining",
    "greeting": "a backend has a client only once it has greeted",
    "hold": "clients are held while a pool has no backend, and let in at a bounded rate",
    "rate": "one address opens no more new sessions than client_rate allows",
    "refusals": "a client that is turned away is told of as a session that broke",
    "unix": "listeners and backends at unix sockets",
    "ipv6": "IPv6 on either side",
    "urgent": "urgent data stays in the stream",
    "counters": "every session and byte is accounted for",
    "operator": "sessions are listed, and closed on demand",
    "ends": "ended sessions are remembered, and each is told to whoever wants every one",
    "distributions": "sessions are counted in ranges of time and bytes",
    "conversations": "sessions that are to leave end between two transactions",
    "load": "strategies that go by the load of the backends",
    "own strategy": "a user's class as a strategy",
    "snapshots": "snapshots are whole, idempotent, all or nothing",
}
"""By number of the list of behaviours; a word for what the list takes for granted."""

behaviour = pytest.mark.behaviour
"""``@behaviour(13)``: the claims that a test proves, keys of ``CLAIMS``."""

NO_WORKERS = "has no worker processes: it lives in the thread of the program"
NO_USER_SPACE = "nothing of a session is in this process"


@dataclass(frozen=True)
class Entry:
    """One engine of the suite.

    Attributes:
        make: an engine that is not started.
        processes: the processes whose descriptors, memory and CPU time are the engine's, once it is started.
        is_apart: none of them is the test's own process, so that they can be measured alone.
        bulk: mebibytes for the largest transfer; the full GiB once is enough.
        crowd: the share of the largest crowds that it has to serve; all of it once is enough.
        needs_namespace: it changes the machine's packet rules, so every test has a network namespace of its own.
        exceptions: claims that it cannot keep, with the reason.
    """

    name: str
    make: Callable[[], Engine]
    processes: Callable[[Engine], list[int]]
    is_apart: bool
    bulk: int = 64
    crowd: float = 0.3
    needs_namespace: bool = False
    exceptions: Mapping[int | str, str] = field(default_factory=dict)


def _own_process(_: Engine) -> list[int]:
    return [os.getpid()]


def _in_a_thread(name: str, **options: Any) -> Entry:
    """One worker in the test's own process."""
    return Entry(
        name=name,
        make=lambda: RelayEngine(workers=1, processes=False, **options),
        processes=_own_process,
        is_apart=False,
        exceptions={32: NO_WORKERS},
    )


ENGINES = (
    _in_a_thread("relay-thread"),
    Entry(
        name="relay-process",
        make=lambda: RelayEngine(workers=2),
        processes=lambda engine: cast("RelayEngine", engine).worker_pids(),
        is_apart=True,
        bulk=1024,
        crowd=1,
    ),
    _in_a_thread("relay-ring", io_uring=EARLY),
    _in_a_thread("relay-portable", portable=True),
    Entry(
        name="kernel",
        make=lambda: KernelEngine(manage_sysctl=True, refresh_s=0.05),
        processes=_own_process,
        is_apart=False,
        needs_namespace=True,
        exceptions={
            4: "a client connects to the backend itself, and sends nothing before that stands",
            8: "the kernel passes resets on by itself, and does not tell which side sent one",
            9: "client and backend have one connection, and its reset is final",
            10: "a client's connect is the backend's: there is none to cancel",
            12: "the client is refused before it is connected: counted, but there is no session to tell of",
            13: "no proxy sees a connect that fails: the client is told by the backend itself, and the checks find out",
            15: "keep-alive is a matter of the two ends; a silent flow is forgotten after the idle timeout",
            16: "it accepts nothing and has no descriptors",
            17: "it connects to nobody",
            18: "there is no backlog to wait in: a client beyond the limit is reset",
            19: "there is no queue, and who is full is passed over only from the next look on: until then clients beyond the limit are reset",
            20: NO_USER_SPACE,
            21: NO_USER_SPACE,
            24: "no proxy sees a refused connect: the checks find out",
            32: NO_WORKERS,
            "greeting": "nobody hears what backends say",
            "hold": "nobody accepts clients there, so none can wait: each is refused at once",
            "refusals": "the client is refused before it is connected: counted, but there is no session to tell of",
            "unix": "the kernel forwards IP packets",
            "counters": "it counts whole packets, headers too, and looks once a second",
            "distributions": "nobody is there when a session begins",
            "conversations": "it does not see what sessions say",
            "load": "its rules know no load",
            "own strategy": "the kernel runs no Python",
        },
    ),
)
