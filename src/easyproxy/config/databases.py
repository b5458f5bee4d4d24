"""The settings of the checks that log in to a database: an account, TLS, and how far a replica may lag.

The password itself is a setting, or it is in a file or in the environment; no message, dump or difference shows it.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import SecretStr

from easyproxy.config.bases import MaxLag, TlsSettings
from easyproxy.config.fields import FileName, Secret, Switch, Text

UserName = Annotated[str, Text(least=1, most=80, pattern=r"[\x21-\x7e]+", form="a user name in ASCII")]
PasswordFile = Annotated[
    str,
    FileName(
        pattern=r"(/.*|[^/]*)",
        form="an absolute path, or the name of a systemd credential (without a slash)",
    ),
]


class DatabaseCheckSettings(TlsSettings):
    """What every check of a database has."""

    common: ClassVar[frozenset[str]] = TlsSettings.common | {"max_lag"}

    user: UserName = "easyproxy"
    """Account to log in as."""

    password: Annotated[SecretStr | None, Secret()] = None
    """Its password. Better is one of the next two: this one stands in the file that everybody looks at."""

    password_file: PasswordFile = ""
    """File that holds it (an absolute path), or the name of a systemd credential of this service (`LoadCredential=`). It is
    read anew for each probe."""

    password_env: Annotated[str, Text(pattern=r"([A-Za-z_][0-9A-Za-z_]*)?", form="a variable's name")] = ""
    """Environment variable that holds it."""

    max_lag: MaxLag = 0.0
    """A replica that is further behind does not serve listeners with `role: replica`, until it is back at half of this; 0 or
    `none` is no limit. One that does not follow its primary at all never serves them. Give at least two intervals: nothing is known
    between two probes."""


class MysqlCheckSettings(DatabaseCheckSettings):
    """Log in to MySQL or MariaDB and learn where it stands; without a password, only have a login decided."""

    type: Literal["mysql"]
    """`mysql`"""

    user: UserName = "easyproxy"
    """Account to log in as. Without a password it need not exist."""

    writable_is_primary: Annotated[bool, Switch()] = False
    """A server that takes writes is a primary even if it is set up to follow another (two that follow each other)."""


class PostgresqlCheckSettings(DatabaseCheckSettings):
    """Log in to PostgreSQL and learn where it stands; without a password, only begin a login."""

    type: Literal["postgresql"]
    """`postgresql`"""

    user: Annotated[str, Text(least=1, most=63, pattern=r"[\x21-\x7e]+", form="a user name in ASCII")] = (
        "easyproxy"
    )
    """Account to log in as. Without a password it need not exist."""

    database: Annotated[
        str, Text(least=1, most=63, pattern=r"[\x21-\x7e]+", form="a database's name in ASCII")
    ] = "postgres"
    """Database to log in to; which one does not matter."""


class RedisCheckSettings(DatabaseCheckSettings):
    """Ask Redis or Valkey with PING and INFO; log in before if there is a password."""

    type: Literal["redis"]
    """`redis`"""

    user: UserName = "default"
    """Account of the access control list; `default` is whom `requirepass` stands for."""
