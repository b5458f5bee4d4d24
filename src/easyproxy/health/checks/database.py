"""What the checks of databases have in common: an account, how its connection is encrypted, and how a finding reads."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from easyproxy.engine.seam import Facts
from easyproxy.health.checks.base import Finding, plain
from easyproxy.health.checks.connection import TlsCheck
from easyproxy.health.checks.password import NoPasswordError, Password

PRIMARY, REPLICA = "primary", "replica"


class LoginRefusedError(Exception):
    """The server decides about logins, and about this one against us: it is alive, and we learn nothing else of it."""


@dataclass(frozen=True)
class DatabaseCheck(TlsCheck):
    """An account and TLS. The three settings of the password are alternatives.

    Attributes:
        user: who to log in as.
        password: of that account, as it is.
        password_file: a file that holds it, or the name of a systemd credential; read anew for each probe.
        password_env: an environment variable that holds it.
        tls: speak TLS, and never show the password without it.
    """

    user: str = "easyproxy"
    password: SecretStr | None = None
    password_file: str = ""
    password_env: str = ""

    def __post_init__(self) -> None:
        """Refuse two passwords."""
        if (self.password is not None) + bool(self.password_file) + bool(self.password_env) > 1:
            raise ValueError("give one of password, password_file and password_env")

    @property
    def _password(self) -> Password:
        return Password(self.password, self.password_file, self.password_env)

    def _read_password(self) -> tuple[str | None, str]:
        """Return the password, if there is one, and what stands in its way, if anything does.

        A file that cannot be read is this machine's trouble: the server is looked at without logging in.
        """
        if not self._password.is_given:
            return None, ""
        try:
            return self._password.read(), ""
        except NoPasswordError as error:
            return None, str(error)


def alive(version: str, why: str) -> Finding:
    """Report a server that answers but does not let us see what it is.

    An account of ours that does not work must not take a server away from its clients, so this is a success.
    """
    words = plain(why, 150)
    return Finding(
        f"alive, role unknown: {words}{_and(version)}", Facts(version=version, notes=(("login", words),))
    )


def known(facts: Facts, why: str = "") -> Finding:
    """Report what was learnt; ``why`` says in words what makes the lag what it is.

    >>> known(Facts("replica", 0.25, "15.3"), "").detail
    'replica, 0.2 s behind, 15.3'
    """
    parts = [facts.role or "role unknown"]
    if facts.role == REPLICA:
        parts[0] += f", {facts.lag_words}"
    if why:
        parts[0] += f": {plain(why, 130)}"
    return Finding(f"{parts[0]}{_and(facts.version)}", facts)


def _and(version: str) -> str:
    return f", {plain(version, 50)}" if version else ""
