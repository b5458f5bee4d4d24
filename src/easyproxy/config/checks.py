"""The settings of health checks, by type; those of databases are in ``databases``.

Only settings live here; what a check does on the wire is in ``easyproxy.health``, which this module never imports.
"""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from easyproxy.config.bases import CheckSettings, HostText, MaxLag, TlsSettings
from easyproxy.config.databases import MysqlCheckSettings, PostgresqlCheckSettings, RedisCheckSettings
from easyproxy.config.document import shown
from easyproxy.config.fields import Custom, Text, wrong

CUSTOM_PATTERN = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
"""A class of the user's own: ``package.module:Class``."""

CHECK_TYPES = ("tcp", "http", "exec", "mysql", "postgresql", "redis", "none")

NO_NUL = Text(most=65536, pattern=r"[^\x00]*", form="text without NUL characters")


def _status(value: object) -> str:
    """Normalise ``200``, ``"200-399"`` or a list of both to ``200-399,404``."""
    parts = (
        value
        if isinstance(value, list | tuple)
        else str(value).split(",")
        if isinstance(value, str)
        else [value]
    )
    found = []
    for part in parts:
        text = part.strip() if isinstance(part, str) else ""
        if isinstance(part, int) and 100 <= part <= 599:
            text = str(part)
        match = re.fullmatch(r"([1-5][0-9]{2})(?:\s*-\s*([1-5][0-9]{2}))?", text, re.ASCII)
        if not match:
            raise wrong(f"{shown(part)} is not an HTTP status; write 200, 200-399 or a list of these")
        low, high = match[1], match[2]
        if high and high < low:
            raise wrong(f"{shown(part)} ends before it begins; write {high}-{low}")
        found.append(f"{low}-{high}" if high else low)
    if not found:
        raise wrong("an empty list would accept no answer; write 200, 200-399 or a list of these")
    return ",".join(found)


def _command(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            words = shlex.split(value)
        except ValueError:
            words = []
        better = ", ".join(f'"{word}"' for word in words)
        raise wrong(f"a command is a list, because no shell reads it; write [{better}]")
    if not isinstance(value, list | tuple) or not value:
        raise wrong(
            f'{shown(value)} is not a command; write a list of words, for example ["/usr/bin/pg_isready", "-q"]'
        )
    if value[0] == "":
        raise wrong("the first word of the command is empty; it must be the program")
    return tuple(NO_NUL.read(word) for word in value)


_STATUS_PART = r"[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?"
_STATUS_FORM = {
    "anyOf": [
        {"type": "integer", "minimum": 100, "maximum": 599},
        {"type": "string", "pattern": rf"^{_STATUS_PART}(,\s*{_STATUS_PART})*$"},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "integer", "minimum": 100, "maximum": 599},
                    {"type": "string", "pattern": f"^{_STATUS_PART}$"},
                ]
            },
        },
    ]
}
_COMMAND_FORM = {"type": "array", "items": {"type": "string"}, "minItems": 1}

Octets = Annotated[
    str,
    Text(
        most=65536, pattern=r"[\x00-\xff]*", form="bytes; write a character beyond U+00FF as its bytes: \\xNN"
    ),
]
HeaderName = Annotated[
    str,
    Text(
        least=1,
        most=256,
        pattern=r"(?!(?i:host|content-length|transfer-encoding|connection)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+",
        form="a header name that can be set here (the Host header is the setting host)",
    ),
]
HeaderValue = Annotated[
    str,
    Text(
        most=8192,
        pattern=r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?",
        form="a header's value: one line of ASCII",
    ),
]
EnvName = Annotated[str, Text(least=1, pattern=r"[A-Za-z_][0-9A-Za-z_]*", form="a variable name")]
EnvValue = Annotated[str, NO_NUL]


class TcpCheckSettings(TlsSettings):
    """Connect; then, if so configured, send something and wait for an answer."""

    type: Literal["tcp"] = "tcp"
    """`tcp`"""

    send: Octets = ""
    """Text to send after connecting (in double quotes YAML and JSON read `\\r\\n` as line ends)."""

    expect: Octets = ""
    """Text that the answer must contain; with nothing to `send`, the greeting."""


class HttpCheckSettings(TlsSettings):
    """Send an HTTP request, and judge status and body."""

    type: Literal["http"] = "http"
    """`http`"""

    method: Annotated[
        str, Text(least=1, most=32, pattern=r"[A-Z]+", form="an HTTP method such as GET or HEAD")
    ] = "GET"
    """Request method."""

    path: Annotated[
        str, Text(least=1, pattern=r"[/*][\x21-\x7e]*", form="a path; it starts with / and holds no spaces")
    ] = "/"
    """Request path, with the query if there is one."""

    host: HostText = ""
    """Host header; by default the backend's address."""

    expect_status: Annotated[str, Custom(_status, tuple(_STATUS_FORM.items()))] = "200-399"
    """Statuses that count as success: a number, a range such as `200-399`, or a list of both."""

    expect_body: Annotated[str, Text(most=65536)] = ""
    """Text that the body must contain."""

    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    """Further request headers."""


class ExecCheckSettings(CheckSettings):
    """Run a command; exit status 0 is success, and its last line is the detail."""

    type: Literal["exec"]
    """`exec`"""

    command: Annotated[tuple[str, ...], Custom(_command, tuple(_COMMAND_FORM.items()))]
    """Program and arguments as a list; no shell reads them. The backend is in the environment, as
    `EASYPROXY_BACKEND_ADDRESS` and the same with `_HOST`, `_PORT`, `_NAME` and `_POOL`."""

    env: dict[EnvName, EnvValue] = Field(default_factory=dict)
    """Further environment variables."""


class NoCheckSettings(CheckSettings):
    """No probes: a backend is always healthy."""

    type: Literal["none"]
    """`none`"""


class CustomCheckSettings(CheckSettings):
    """A check of your own: a class with one async method."""

    type: Annotated[str, Text(pattern=CUSTOM_PATTERN, form="module:Class")]
    """`module:Class`"""

    max_lag: MaxLag = 0.0
    """A replica that is further behind does not serve listeners with `role: replica`, until it is back at half of this."""

    settings: dict[str, Any] = Field(default_factory=dict, alias="options")
    """Keyword arguments for the class."""

    def options(self) -> dict[str, object]:
        """Return the keyword arguments for the class."""
        return dict(self.settings)


def _tag(value: object) -> str | None:
    asked = value
    if isinstance(value, dict):
        asked = value.get("type", "tcp")
    elif isinstance(value, CheckSettings):
        asked = getattr(value, "type", None)
    if isinstance(asked, str) and ":" in asked:
        return "custom"
    return asked if isinstance(asked, str) and asked in CHECK_TYPES else None


Check = Annotated[
    Annotated[TcpCheckSettings, Tag("tcp")]
    | Annotated[HttpCheckSettings, Tag("http")]
    | Annotated[ExecCheckSettings, Tag("exec")]
    | Annotated[MysqlCheckSettings, Tag("mysql")]
    | Annotated[PostgresqlCheckSettings, Tag("postgresql")]
    | Annotated[RedisCheckSettings, Tag("redis")]
    | Annotated[NoCheckSettings, Tag("none")]
    | Annotated[CustomCheckSettings, Tag("custom")],
    Discriminator(_tag),
]
"""Any health check, told apart by ``type``."""

CHECK_MODELS: dict[str, type[CheckSettings]] = {
    "tcp": TcpCheckSettings,
    "http": HttpCheckSettings,
    "exec": ExecCheckSettings,
    "mysql": MysqlCheckSettings,
    "postgresql": PostgresqlCheckSettings,
    "redis": RedisCheckSettings,
    "none": NoCheckSettings,
    "custom": CustomCheckSettings,
}
