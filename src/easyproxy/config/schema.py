"""The model of the configuration: every setting with its default and what it does. The one place where both stand.

Durations are seconds in the model, addresses are :class:`easyproxy.model.Address`. What concerns several settings at
once (names, addresses, references) is judged by ``cross``; how errors read is decided by ``explain``.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Self

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    SecretStr,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails

from easyproxy.config import cross
from easyproxy.config.addresses import BackendAddress, ListenAddress
from easyproxy.config.bases import Settings
from easyproxy.config.checks import Check, TcpCheckSettings
from easyproxy.config.document import shown
from easyproxy.config.drain import PROTOCOLS, SESSIONS_END, WHEN
from easyproxy.config.fields import (
    Custom,
    Duration,
    FileMode,
    FileName,
    JsonSchema,
    Switch,
    Text,
    Token,
    Whole,
    Word,
    wrong,
)
from easyproxy.config.greeting import GREETINGS, NO_GREETING
from easyproxy.config.kernel import ENGINES, KERNEL_SOURCES
from easyproxy.config.rates import MOST as MAX_RATE
from easyproxy.config.rates import RateLimit
from easyproxy.config.roles import FALLBACKS, ROLES, SPLIT_BRAIN
from easyproxy.config.strategies import Strategy
from easyproxy.model import MAX_WEIGHT, Address, Rate

MAX_SESSIONS = 10_000_000

Name = Annotated[
    str, Text(least=1, most=128, line=True, pattern=r"\S(.*\S)?", form="a name without outer spaces")
]
# A backend's id is pool/name; a slash in the pool's name would make two backends one.
PoolName = Annotated[
    str,
    Text(
        least=1,
        most=128,
        line=True,
        pattern=r"[^\s/]([^/]*[^\s/])?",
        form="a pool's name: no slash, no outer spaces",
    ),
]

HostName = Annotated[
    str,
    Text(
        least=1,
        most=253,
        line=True,
        pattern=r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
        form="the name of a host, without port: lb.example.org",
    ),
]


class ListenerConfig(Settings):
    """An address that accepts clients, and the pool that serves it."""

    bind: Annotated[Address, ListenAddress()]
    """Where clients connect: `127.0.0.1:3306`, `[::1]:3306`, `:3306` (every address of this machine), `localhost:3306`
    or `unix:/path`. Port 0 lets the system choose."""

    pool: PoolName
    """Name of the pool that serves its clients."""

    role: Annotated[str | None, Word(ROLES)] = None
    """Which servers of the pool serve its clients: the `primary` (it takes writes) or the `replica`s; by default all of them,
    whatever they are. The pool's check must know roles: `mysql`, `postgresql`, `redis`, or one of your own."""

    fallback: Annotated[str | None, Word(FALLBACKS)] = None
    """With `role: replica`: `primary` serves while no replica can."""

    name: Name = ""
    """Name in logs, metrics and commands; by default the text of `bind`."""

    mode: Annotated[str, FileMode()] = ""
    """Permissions of a `unix:/path`, as chmod takes them: `"0660"` (who may write may connect); by default what the umask leaves."""

    group: Annotated[str, Text(line=True)] = ""
    """The group that a `unix:/path` belongs to, by name; by default this program's own."""

    max_sessions: Annotated[int, Whole(0, MAX_SESSIONS)] = 0
    """Sessions at the same time, over all workers; 0 is no limit."""

    overload: Annotated[str, Word(("wait", "refuse"))] = "wait"
    """What happens to the next client at `max_sessions`: `wait` leaves it in the backlog, `refuse` resets it."""

    backlog: Annotated[int, Whole(1, 65535)] = 4096
    """Clients that the kernel keeps waiting to be accepted (the kernel's own limit is `net.core.somaxconn`)."""

    idle_timeout: Annotated[float, Duration(least=0.1, zero="no limit", none=True)] = 3600.0
    """A session ends after this time without a byte in either direction; 0 or `none` is no limit."""

    half_closed_timeout: Annotated[float, Duration(least=0.1, zero="no limit", none=True)] = 60.0
    """The same once one side has ended its direction, or is lost and the other one does not take what it had said; 0 or `none` is
    no limit."""

    max_lifetime: Annotated[float, Duration(least=0.1, zero="no limit", none=True)] = 0.0
    """A session ends after this time whatever happens; 0 or `none` is no limit."""

    keepalive: Annotated[float, Duration(least=1, most=32767, zero="no keep-alive", none=True)] = 60.0
    """Silence after which TCP keep-alive probes start, towards client and backend; 0 or `none` is without."""

    user_timeout: Annotated[
        float, Duration(least=0.1, most=24 * 86400, zero="the system's own", none=True)
    ] = 120.0
    """How long sent data may stay unacknowledged before the peer counts as gone (TCP_USER_TIMEOUT); 0 or `none` leaves it
    to the system. A peer that is there and does not read is not gone."""

    client_rate: Annotated[Rate | None, RateLimit()] = None
    """How many new sessions one client address (of IPv6: one /64) may open: `20/s`, `100/min` or `500/h`; who opens more is
    reset. 0 or `none`, the default, is no limit."""

    client_burst: Annotated[int, Whole(0, MAX_RATE)] = 0
    """How many of them may come at once before `client_rate` holds; 0 is as many as the number in it."""

    engine: Annotated[str, Word(ENGINES)] = "relay"
    """What carries its sessions: `relay` in user space, or `kernel`: the packets pass inside the Linux kernel (nftables),
    faster and with fewer of the settings; see [kernel](kernel.md)."""

    @model_validator(mode="after")
    def _name_from_bind(self) -> Self:
        if not self.name:
            object.__setattr__(
                self, "name", str(self.bind)
            )  # still under construction: frozen holds afterwards
        return self


class BackendConfig(Settings):
    """One server of a pool; a bare address is the same as a mapping with `address` alone."""

    address: Annotated[Address, BackendAddress()]
    """Where it serves: `host:port`, `[IPv6]:port` or `unix:/path`. A name is resolved."""

    name: Name = ""
    """Name in logs, metrics and commands, unique in the pool; by default the text of `address`."""

    weight: Annotated[int, Whole(1, MAX_WEIGHT)] = 1
    """Share of new sessions relative to the other backends."""

    max_sessions: Annotated[int, Whole(0, MAX_SESSIONS)] = 0
    """Sessions at the same time, over all workers; 0 is no limit."""

    backup: Annotated[bool, Switch()] = False
    """Serve only while no other backend of the pool can."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"address": value} if isinstance(value, str | Address) else value

    @model_validator(mode="after")
    def _name_from_address(self) -> Self:
        if not self.name:
            object.__setattr__(
                self, "name", str(self.address)
            )  # still under construction: frozen holds afterwards
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Allow the bare address."""
        text = {
            **BackendAddress().schema(),
            "description": "The address alone: host:port, [IPv6]:port or unix:/path.",
        }
        return {"anyOf": [text, handler(core)]}


def _source(value: object) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else "-"))
    except ValueError:
        raise wrong(
            f"{shown(value)} is not an IP address; write one of this machine's own, without a port, for example 10.0.0.5"
        ) from None


class FailoverConfig(Settings):
    """What happens when another server of the pool becomes the primary, for listeners with `role: primary`."""

    fence: Annotated[bool, Switch()] = True
    """At most one server at a time takes writes, whatever the servers say: between two primaries the later PostgreSQL timeline
    decides, else `split_brain`. Without a fence every server that says it is the primary gets writes."""

    split_brain: Annotated[str, Word(SPLIT_BRAIN)] = "refuse"
    """Between two primaries whose timelines do not decide: `refuse` lets no writes through until one of them gives way, `keep` stays
    with the one that has served so far, `first` takes the first of the configuration."""

    hold: Annotated[float, Duration(least=0.1, most=3600, zero="not at all")] = 10.0
    """How long a new client waits while there is no primary, and again for its turn when there is one; then it is turned away. 0 is
    not at all."""

    admit_per_second: Annotated[int, Whole(0, 1_000_000)] = 500
    """How many clients are let in per second once there is a primary, over all workers, until nobody is held any more; 0 is all at
    once."""

    close_sessions: Annotated[bool, Switch()] = True
    """Close the sessions on the old primary, on both sides, before the new one gets any. Without it they go on, and what they write is
    what the old primary makes of it."""


class DrainConfig(Settings):
    """How sessions end that are to leave: because their backend is drained or gone, their listener is gone, or the balancer stops.

    `between_transactions` alone is the same as a mapping with `when` alone.
    """

    when: Annotated[str, Word(WHEN)] = SESSIONS_END
    """`sessions_end`: by themselves. `between_transactions`: each is closed as soon as its stream shows that no transaction is open and
    no request is under way, which costs the relay some work for every session; encrypted and compressed ones cannot be followed, and
    stay until the deadline. What a session keeps besides (temporary tables, locks, settings) is lost with it, as with any end."""

    protocol: Annotated[str | None, Word(PROTOCOLS)] = None
    """What clients and backends speak; by default what the check or the `greeting` tells."""

    deadline: Annotated[float, Duration(least=0.1, most=30 * 86400, zero="no deadline", none=True)] = 0.0
    """When a backend or a listener has been left by new sessions for so long, those that are still there are closed; 0 or `none` waits
    for ever. When the balancer stops, `drain_timeout` holds instead."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"when": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Allow the bare word."""
        text = {"enum": list(WHEN), "description": "When they end, alone."}
        return {"anyOf": [text, handler(core)]}


class PoolConfig(Settings):
    """A named set of backends with one strategy and one health check."""

    backends: Annotated[tuple[BackendConfig, ...], Field(min_length=1, max_length=65536)]
    """The servers: addresses, or mappings with the settings of a backend."""

    strategy: Annotated[str, Strategy()] = "round_robin"
    """How a backend is chosen for a new session."""

    connect_timeout: Annotated[float, Duration(least=0.001, most=3600)] = 3.0
    """Time for one attempt to connect to a backend."""

    retries: Annotated[int, Whole(0, 100)] = 2
    """Further backends that are tried after the first attempt failed; the client notices nothing."""

    queue_timeout: Annotated[float, Duration(least=0.001, most=86400, zero="not at all")] = 5.0
    """How long a client waits while every backend is at its `max_sessions`; 0 is not at all."""

    greeting: Annotated[str, Word(GREETINGS)] = NO_GREETING
    """What a backend must say before a client is its own; who is silent, leaves or turns the client away is left for the next
    one, as often as `retries` allows. `any`: something, for servers that speak first. `mysql`: no error packet. `postgresql`: an
    answer to the client's startup packet other than "starting up" or "too many connections". `none`: the handshake is enough."""

    greeting_timeout: Annotated[float, Duration(least=0.001, most=3600)] = 5.0
    """Time for the greeting, after the connect."""

    hedge: Annotated[bool, Switch()] = False
    """With `greeting: any` or `mysql`: when a backend takes longer than usual to greet, try the next one beside it, and give the client
    to the first that does. What is usual is learned."""

    source: Annotated[
        str | None,
        Custom(
            _source,
            (
                ("type", "string"),
                ("examples", ["10.0.0.5", "fd00::5"]),
            ),
        ),
    ] = None
    """Local address for connections to backends; by default the system chooses."""

    slow_start: Annotated[float, Duration(least=0.1, most=86400, zero="none at all")] = 0.0
    """Time over which a backend that came back rises to its full share; 0 gives it at once."""

    close_sessions_on_down: Annotated[bool, Switch()] = False
    """End the sessions of a backend that goes down; otherwise they live as long as they can."""

    close_sessions_on_lag: Annotated[bool, Switch()] = False
    """End the sessions of a replica that lags further behind than the check's `max_lag`; otherwise they go on, and only new clients go
    elsewhere."""

    failover: FailoverConfig = Field(default_factory=FailoverConfig)
    """What happens when another server becomes the primary, for listeners with `role: primary`."""

    drain: DrainConfig = Field(default_factory=DrainConfig)
    """How sessions end that are to leave: by themselves (`sessions_end`) or `between_transactions`, and until when."""

    check: Check = Field(default_factory=TcpCheckSettings)
    """The health check of every backend; by default a `tcp` check. A type alone (`check: mysql`) takes its defaults."""


class AdminConfig(Settings):
    """The admin server: status page, metrics, run-time commands."""

    bind: Annotated[Address, ListenAddress()] = Address("127.0.0.1", 7259)
    """Where it listens: a loopback address or a unix socket; another address only together with a token."""

    token: Annotated[SecretStr | None, Token()] = None
    """Secret that every request must bring (`Authorization: Bearer ...`); 16 characters or more."""

    token_file: Annotated[str | None, FileName(least=1)] = None
    """File that holds the token, instead of `token`."""

    hosts: Annotated[tuple[HostName, ...], Field(max_length=100)] = ()
    """Further names by which browsers and programs may ask for it, without port: every request with another `Host`
    is refused, so that no name on the internet can be led here."""

    haproxy_compatible: Annotated[bool, Switch()] = False
    """Also give HAProxy's statistics: `/stats;csv`, and `haproxy_*` among the metrics."""


class LogConfig(Settings):
    """What is logged, and in which form."""

    level: Annotated[str, Word(("debug", "info", "warning", "error"))] = "info"
    """The least level that is logged."""

    format: Annotated[str, Word(("text", "json"))] = "text"
    """`text` for people, `json` for machines: one object on each line."""


class AccessLogConfig(Settings):
    """One line for every session; `stdout` or a path alone is the same as a mapping with `path` alone."""

    path: Annotated[
        str,
        FileName(least=1, pattern=r"stdout|/.+", form="stdout or a path that begins with /"),
    ]
    """Where the lines go: a file, which is opened again after SIGUSR1 or when it was moved, or `stdout`."""

    format: Annotated[str, Word(("json", "haproxy"))] = "json"
    """`json`: one object on each line; `haproxy`: as HAProxy's `option tcplog`."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Allow the bare path."""
        text = {
            "type": "string",
            "pattern": "^(stdout|/.+)$",
            "description": "The path alone: /var/log/easyproxy/access.log or stdout.",
        }
        return {"anyOf": [text, handler(core)]}


class KernelConfig(Settings):
    """What concerns every listener with `engine: kernel`."""

    source: Annotated[str, Word(KERNEL_SOURCES)] = "masquerade"
    """Which address backends see: `masquerade` is the balancer's own, and works whatever their routes are; `transparent`
    is the client's, and the backends must route their answers back through this machine."""

    manage_sysctl: Annotated[bool, Switch()] = False
    """Set the kernel settings that it needs when it starts, and put them back when it ends; otherwise they are only
    checked, and what is missing is named with the command that sets it."""

    shortcut: Annotated[bool, Switch()] = True
    """Let packets of established sessions pass the kernel's tracking of flows by, which is faster. Where the kernel cannot do that, they
    go its usual way, and the log says why."""


ADMIN_OFF = ("off", "none")
_CAN_BE_OFF = ("admin", "access_log")
STATE_OFF = "off"


def _or_off(schema: JsonSchema) -> None:
    schema["anyOf"] = [form for form in schema["anyOf"] if form.get("type") != "null"] + [
        {"enum": list(ADMIN_OFF)}
    ]


_PYTHON_FORM = "auto, same, or the absolute path of a Python interpreter"


class Config(Settings):
    """A whole configuration."""

    listeners: Annotated[tuple[ListenerConfig, ...], Field(min_length=1, max_length=4096)]
    """Addresses that accept clients."""

    pools: Annotated[dict[PoolName, PoolConfig], Field(min_length=1, max_length=4096)]
    """Sets of backends, by name."""

    admin: AdminConfig | None = Field(default_factory=AdminConfig, json_schema_extra=_or_off)
    """The admin server; `off` runs without one."""

    workers: Annotated[int | str, Whole(1, 256, ("auto",))] = "auto"
    """Worker processes; `auto` is one for each CPU that the process may use."""

    worker_python: Annotated[str, FileName(pattern=r"(auto|same|/.+)", form=_PYTHON_FORM)] = "auto"
    """Which Python runs the worker processes: `same` as the control process, the absolute path of one of the same version,
    or `auto`: a faster build of that version where the system has one (in `/usr/bin`, `/usr/local/bin` or
    `/opt/python/bin`, with only root allowed to write there), otherwise `same`."""

    io_uring: Annotated[bool, Switch()] = True
    """Let io_uring carry sessions that exchange many short messages, where the system has it (Linux 6.1 and later, not
    forbidden by `kernel.io_uring_disabled` or by a container's seccomp profile); without it they are served all the same."""

    drain_timeout: Annotated[float, Duration(least=0.001, most=86400, zero="no waiting")] = 30.0
    """How long sessions may go on after a stop was asked for; then they are closed. 0 is no waiting."""

    upgrade_timeout: Annotated[float, Duration(least=0.1, most=3600)] = 30.0
    """How long a new program may take to get ready before an upgrade is given up and the old one goes on."""

    watch: Annotated[bool, Switch()] = False
    """Reload by itself when the content of the file changes; `easyproxy run --watch` and `--no-watch` overrule it."""

    state_file: Annotated[str | None, FileName(least=1)] = None
    """File in which changes made at run time survive a restart; `off` keeps none. When left out, `easyproxy run FILE` takes
    `overrides.json` in `$STATE_DIRECTORY` (systemd), else `FILE` with `.overrides.json` for its suffix."""

    log: LogConfig = Field(default_factory=LogConfig)
    """Logging of the control process and of sessions that broke."""

    access_log: AccessLogConfig | None = Field(default=None, json_schema_extra=_or_off)
    """A log with a line for every session; `off` is without one."""

    kernel: KernelConfig = Field(default_factory=KernelConfig)
    """The kernel engine, for listeners with `engine: kernel`."""

    @field_serializer(*_CAN_BE_OFF, mode="wrap")
    def _off(self, part: Settings | None, handler: SerializerFunctionWrapHandler) -> object:
        return "off" if part is None else handler(part)

    @model_validator(mode="wrap")
    @classmethod
    def _judge_whole(cls, value: Any, handler: ModelWrapValidatorHandler[Config]) -> Config:  # noqa: ANN401 - raw input
        """Report what concerns several settings together with what is wrong in single ones, not after it."""
        details = [
            InitErrorDetails(type=wrong(finding.message), loc=finding.path, input=None)
            for finding in cross.problems(value)
        ]
        raw = value
        for key in _CAN_BE_OFF:
            if isinstance(raw, dict) and isinstance(raw.get(key), str) and raw[key] in ADMIN_OFF:
                raw = {**raw, key: None}
        try:
            config = handler(raw)
        except ValidationError as error:
            details += [_again(item) for item in error.errors(include_url=False)]
        if details:
            raise ValidationError.from_exception_data("Config", details)
        return config


def _again(item: ErrorDetails) -> InitErrorDetails:
    """Bring an error that pydantic reported into the form in which it takes one."""
    kind = wrong(item["ctx"]["message"]) if item["type"] == "easyproxy" else item["type"]
    return InitErrorDetails(type=kind, loc=item["loc"], input=item["input"], ctx=item.get("ctx", {}))
