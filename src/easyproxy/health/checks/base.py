"""What a check is, and what it is given. A check of one's own needs nothing but this file.

Scheduling, time limits and the translation of errors into observations are the monitor's; a check only asks one
backend one question.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from easyproxy.engine.seam import Facts
from easyproxy.model import Address

DETAIL_CHARACTERS = 200
"""Longest detail that is kept of what a backend answered."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe returns that has learnt more than that the backend is well: the detail in words, and the facts."""

    detail: str
    facts: Facts


class Check(ABC):
    """Asks one backend one question. Subclass it, and name it ``module:Class`` as the check's ``type``.

    Make it a frozen dataclass: its fields are the options of the configuration, and two equal checks are known to
    be equal, so that a reload does not disturb the schedule.
    """

    expensive: ClassVar[bool] = False
    """Whether a probe starts a process or a thread; only a few of those run at the same time."""

    @abstractmethod
    async def probe(self, target: Target) -> str | Finding:
        """Look at ``target`` once, and return what was seen, in a few words for an operator.

        A check that learns more (a role, a lag, a version) returns a :class:`Finding` instead.

        The monitor cancels it after ``target.timeout_s``. It must close what it opened (use ``try``/``finally``
        or ``async with``) and must never block the event loop: everything else in the process waits meanwhile.

        Raises:
            ProbeFailed: the backend is not as it should be; the message says why.
            OSError: what the system said (refused, reset, unreachable) is put in plain words by the monitor.
        """


@dataclass(frozen=True, slots=True)
class Target:
    """One backend with the check that watches it. Times in seconds.

    Attributes:
        backend: the backend's ``id``.
        pool: name of its pool.
        name: what the configuration calls it.
        address: numeric, or a unix socket.
        interval_s: from the start of one probe to the start of the next.
        fast_interval_s: the same while the verdict is changing.
        timeout_s: for one whole probe.
        jitter: share of an interval by which it may be shorter or longer, 0 to less than 1.
        host: the backend's host as the configuration writes it, for TLS and HTTP, which want the name and not the
            address that it was resolved to; empty is the address.
    """

    backend: str
    pool: str
    name: str
    address: Address
    check: Check
    interval_s: float = 2.0
    fast_interval_s: float = 0.5
    timeout_s: float = 1.0
    jitter: float = 0.1
    host: str = ""

    def __post_init__(self) -> None:
        """Refuse times that would probe without pause or without end."""
        if min(self.interval_s, self.fast_interval_s, self.timeout_s) <= 0:
            raise ValueError(f"{self.backend}: interval, fast interval and timeout must be more than 0 s")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"{self.backend}: jitter is {self.jitter}; it must be 0 or more and less than 1")


def plain(answer: str | bytes, limit: int = DETAIL_CHARACTERS) -> str:
    r"""Make one harmless line of what somebody else wrote: for logs, terminals and pages.

    Control and formatting characters (escape sequences, line ends, text that runs backwards) become spaces, and
    the line is cut at ``limit`` characters.

    >>> plain(b"+OK\x1b[31m red\r\n")
    '+OK [31m red'
    """
    # Cut first: cleaning a megabyte to keep 200 characters would be somebody else's use of our time.
    head = answer[: limit * 4]
    text = head.decode("utf-8", "replace") if isinstance(head, bytes) else head
    clean = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    line = " ".join(clean.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
