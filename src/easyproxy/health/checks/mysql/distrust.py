"""Servers whose TLS has failed: how often it is tried again, since each failure is a connect error to them.

After ``max_connect_errors`` of those a server blocks our address, and with it all traffic of the balancer. A wrong
certificate must not do that. So one that was refused is known by its hash, and only another one is verified again; what
failed otherwise is tried again ever more seldom. Pure: the time comes in as an argument.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

FIRST_PAUSE_S, LONGEST_PAUSE_S = 15.0, 3600.0
_MOST = 1000


@dataclass(slots=True)
class Failure:
    """What went wrong with one server.

    Attributes:
        words: for an operator.
        is_about_certificate: TLS itself works, but the certificate was refused.
        until: when TLS is to be tried again, whatever it presents.
        pause_s: from the last failure until then.
        certificate: hash of the one that was refused; empty until it was looked at.
    """

    words: str
    is_about_certificate: bool
    until: float
    pause_s: float
    certificate: bytes = b""


class Distrust:
    """The failures of all servers of one check, by address."""

    def __init__(self) -> None:
        self._failures: dict[str, Failure] = {}

    def failed(self, server: str, words: str, now: float, *, is_about_certificate: bool) -> None:
        """Note that TLS has failed."""
        before = self._failures.pop(server, None)
        pause_s = min(LONGEST_PAUSE_S, before.pause_s * 2 if before else FIRST_PAUSE_S)
        if is_about_certificate:
            pause_s = LONGEST_PAUSE_S  # it may become valid with time; another one is noticed at once
        if len(self._failures) >= _MOST:
            self._failures.clear()
        self._failures[server] = Failure(words, is_about_certificate, now + pause_s, pause_s)

    def of(self, server: str, now: float) -> Failure | None:
        """Return what keeps us from TLS with this server now."""
        failure = self._failures.get(server)
        return failure if failure is not None and now < failure.until else None

    def worked(self, server: str) -> None:
        """Note that TLS has worked."""
        self._failures.pop(server, None)

    def presents(self, server: str, certificate: bytes) -> bool:
        """Note what a server with a refused certificate presents now; whether it is still the same one."""
        failure = self._failures[server]
        known, failure.certificate = failure.certificate, hashlib.sha256(certificate).digest()
        if known and known != failure.certificate:
            failure.until = 0.0
            return False
        return True
