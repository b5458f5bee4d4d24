"""Servers that refuse the login of a check without a password: each refusal is a line in their log.

Such a server is alive, so it is asked less: for an hour only whether it would do TLS, which it does not log. Pure.
"""

from __future__ import annotations

PAUSE_S = 3600.0
_MOST = 1000


class Discretion:
    """The refusals of all servers of one check, by address."""

    def __init__(self) -> None:
        self._refusals: dict[str, tuple[str, float]] = {}

    def refused(self, server: str, why: str, now: float) -> None:
        """Note that a server has refused, and so written it down."""
        if len(self._refusals) >= _MOST:
            self._refusals.clear()
        self._refusals[server] = (why, now + PAUSE_S)

    def of(self, server: str, now: float) -> str:
        """Say why no login is to be tried now; empty where one is.

        >>> discretion = Discretion()
        >>> discretion.refused("a", "no such role", 0.0)
        >>> discretion.of("a", 10.0), discretion.of("a", 3600.0), discretion.of("b", 10.0)
        ('no such role', '', '')
        """
        why, until = self._refusals.get(server, ("", 0.0))
        return why if now < until else ""

    def forget(self, server: str) -> None:
        """Note that a server has been away."""
        self._refusals.pop(server, None)
