"""From what a probe raised to what an operator reads: an outcome and plain words. Pure."""

from __future__ import annotations

import errno
import os
import ssl

from easyproxy.engine.seam import Outcome
from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import plain
from easyproxy.health.checks.connection import tls_words

_UNREACHABLE = {
    errno.EHOSTUNREACH: "no route to the host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EHOSTDOWN: "the host is down",
    errno.ENETDOWN: "the network is down",
}

_RESET = "the backend reset the connection"
_KINDS: tuple[tuple[type[BaseException], Outcome, str], ...] = (
    (TimeoutError, Outcome.TIMEOUT, "the connection timed out"),
    (ConnectionRefusedError, Outcome.REFUSED, "connection refused"),
    (ConnectionResetError, Outcome.RESET, _RESET),
    (ConnectionAbortedError, Outcome.RESET, _RESET),
    (BrokenPipeError, Outcome.RESET, _RESET),
    (EOFError, Outcome.RESET, "the backend closed the connection before it answered"),
)


def diagnose(error: BaseException) -> tuple[Outcome, str]:
    """Translate what a probe raised.

    >>> diagnose(ConnectionRefusedError())
    (<Outcome.REFUSED: 'refused'>, 'connection refused')
    """
    if isinstance(error, ProbeFailed):
        return Outcome.FAILED, plain(str(error)) or "the check failed without saying why"
    if isinstance(error, ConnectionRefusedError) and error.errno == errno.ENOENT:
        return Outcome.REFUSED, "there is no such unix socket"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno in _UNREACHABLE:
        return Outcome.REFUSED, _UNREACHABLE[error.errno]
    for kind, outcome, words in _KINDS:
        if isinstance(error, kind):
            is_ours = (
                isinstance(error, TimeoutError) and not error.errno
            )  # raised by a check, with its own words
            return outcome, (plain(str(error)) if is_ours else "") or words
    return Outcome.FAILED, plain(_other_words(error))


def _other_words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return tls_words(error)
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno).lower()
    return f"the check raised {type(error).__name__}: {error}"
