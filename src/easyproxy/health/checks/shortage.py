"""Telling this machine's own shortages from what a backend did. Pure."""

from __future__ import annotations

import errno
import ssl

LOCAL_ERRORS = frozenset(
    {errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN}
)
"""This machine ran out of something. That says nothing about a backend and must never take one down."""


def is_local(error: BaseException) -> bool:
    """Tell whether the error is this machine's own shortage, so that it is no observation of a backend."""
    # An SSLError's errno is a number of OpenSSL's.
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno in LOCAL_ERRORS
