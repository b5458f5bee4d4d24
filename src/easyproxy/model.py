"""The plain data that control and engines share: addresses, backends, pools, listeners, snapshots.

Frozen values of the standard library only. Nothing here opens a socket, reads a clock or imports anything of
ours; a snapshot can be compared, printed, sent to another process and kept.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from dataclasses import dataclass, field

UNITS = {1: "s", 60: "min", 3600: "h"}
"""What a rate may be told in, by seconds."""
MAX_WEIGHT = 256
"""Of a backend."""
MAX_COUNTED = 16_383
"""Listeners, pools (each once for every use that listeners make of it) and backends, all together: so many have counters."""

_PORT = re.compile(r"\d{1,5}", re.ASCII)


def path_bytes(path: str) -> bytes:
    """Return a path as the system has it.

    Raises:
        ValueError: it holds what this program's character set, which follows from its locale, does not have.
    """
    encoding = sys.getfilesystemencoding()
    try:
        return path.encode(encoding)
    except UnicodeEncodeError:
        raise ValueError(
            f"{path!r} cannot be written in the character set of this program, {encoding}; "
            "start it with PYTHONUTF8=1, or with a locale such as LC_ALL=C.UTF-8"
        ) from None


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where something listens: ``host`` and ``port``, or ``path`` for a unix socket.

    ``host`` is a name or a numeric address; it is empty for "every address of this machine".

    >>> str(Address.parse("[::1]:3306")), Address.parse(":80").host, Address.parse("unix:/run/x.sock").path
    ('[::1]:3306', '', '/run/x.sock')
    """

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``, ``[IPv6]:port``, ``:port`` or ``unix:/path``.

        Raises:
            ValueError: the text is none of these; the message says what was expected.
        """
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path.startswith("/"):
                raise ValueError(f"{text!r} is not a unix socket address; write unix:/absolute/path")
            if len(path_bytes(path)) > 107:  # sun_path of unix(7) holds 108 bytes with the final NUL
                raise ValueError(f"{text!r} is too long for a unix socket; the system allows 107 bytes")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port):
            raise ValueError(f"{text!r} is not an address; write host:port, [IPv6]:port, :port or unix:/path")
        if int(port) > 65535:
            raise ValueError(f"{text!r} has port {port}; ports end at 65535")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            try:
                ipaddress.IPv6Address(host)
            except ValueError:
                raise ValueError(f"{text!r} does not hold an IPv6 address between the brackets") from None
        elif ":" in host:
            raise ValueError(f"{text!r} is ambiguous; write an IPv6 address in brackets: [{host}]:{port}")
        elif re.search(r"[\s/@\[\]]", host):
            raise ValueError(f"{text!r} does not hold a host name or an address before the port")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        """Render in the form that :meth:`parse` reads."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_numeric(self) -> bool:
        """Whether a socket can be connected to it without asking a name service."""
        if self.path:
            return True
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    @property
    def is_private(self) -> bool:
        """Whether only this machine can reach what listens there: a unix socket, ``localhost`` or a loopback address.

        >>> [Address(host).is_private for host in ("127.0.0.9", "::1", "::ffff:127.0.0.1", "localhost", "", "10.0.0.1")]
        [True, True, True, True, False, False]
        """
        if self.path or self.host == "localhost":
            return True
        try:
            host = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        # Python looks into a mapped address by itself from 3.13 on.
        mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
        return (mapped or host).is_loopback


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may happen: ``count`` times in ``per_s`` seconds, which are a second, a minute or an hour.

    >>> str(Rate(100, 60)), Rate(20, 1).interval_ns
    ('100/min', 50000000)
    """

    count: int
    per_s: int

    @property
    def interval_ns(self) -> int:
        """From one to the next, where they come evenly; nanoseconds."""
        return self.per_s * 1_000_000_000 // self.count

    def __str__(self) -> str:
        """Render as the configuration has it."""
        return f"{self.count}/{UNITS[self.per_s]}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One server of a pool, as an engine sees it.

    Attributes:
        id: unique over all pools and stable over snapshots: ``pool/name``.
        name: what the configuration calls it; by default its address as written.
        address: numeric, or a unix socket; names were resolved before.
        weight: share of new sessions relative to the others, 1 or more.
        max_sessions: sessions at the same time over all workers; 0 is no limit.
        priority: 0 is served first; a higher number only when no lower one takes the session (``backup`` is 1).
    """

    id: str
    name: str
    address: Address
    weight: int = 1
    max_sessions: int = 0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """A named set of ready backends with the strategy that chooses among them. Times in seconds.

    Attributes:
        strategy: a name that the engine lists, or ``module:Class`` for one of the user's own.
        backends: the ready ones only, in the order of the configuration.
        connect_timeout_s: for one attempt.
        retries: further candidates that are tried after the first attempt failed.
        queue_timeout_s: how long a client waits when every candidate is at its ``max_sessions``; 0 is not at all.
        hold_s: how long a client waits while the pool has no backend at all (a primary is being replaced); 0 is not at all.
        admit_per_s: how many of those that were held are let in per second once there is a backend; 0 is all at once.
        greeting: a backend must greet before a client is its own: ``any``, ``mysql``, ``postgresql``; empty is no greeting.
        greeting_timeout_s: within this time after the connect.
        hedge: a backend that greets first (``any``, ``mysql``) and takes longer than usual is raced by the next candidate.
        source: local address for connections to backends, or None for the system's choice.
        conversation: the protocol whose transactions are followed, so that sessions that are to leave end between two of them:
            ``mysql``, ``postgresql``; empty is none.
        keeps: with a ``conversation``, the ids of the backends, ready or not, whose sessions are not to leave.
    """

    name: str
    strategy: str = "round_robin"
    backends: tuple[Backend, ...] = ()
    connect_timeout_s: float = 3.0
    retries: int = 2
    queue_timeout_s: float = 5.0
    hold_s: float = 0.0
    admit_per_s: float = 0.0
    greeting: str = ""
    greeting_timeout_s: float = 5.0
    hedge: bool = False
    source: Address | None = None
    conversation: str = ""
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that accepts clients, and the pool that serves it. Times in seconds, 0 is no limit.

    Attributes:
        name: unique; by default the address as written.
        bind: where it listens. Port 0 lets the system choose one.
        pool: name of the pool.
        mode: permissions of the file of a unix socket; None leaves them to the umask.
        group: name of the group that such a file belongs to; empty leaves it as it is.
        max_sessions: sessions at the same time over all workers; 0 is no limit.
        overload: ``wait`` leaves the next client in the backlog, ``refuse`` resets it.
        backlog: clients that the kernel keeps waiting for ``accept``.
        idle_timeout_s: without a byte in either direction.
        half_closed_timeout_s: without a byte after one side has ended.
        life_timeout_s: from accept to close, whatever happens.
        user_timeout_s: how long sent data may stay unacknowledged (TCP_USER_TIMEOUT).
        keepalive_s: silence after which keep-alive probes start.
        engine: which engine serves it, by name.
        client_rate: how many new sessions one client address may open (of IPv6: one /64); None is no limit.
        client_burst: how many of them may come at once; 1 or more where there is a rate.
    """

    name: str
    bind: Address
    pool: str
    max_sessions: int = 0
    overload: str = "wait"
    backlog: int = 4096
    idle_timeout_s: float = 3600.0
    half_closed_timeout_s: float = 60.0
    life_timeout_s: float = 0.0
    user_timeout_s: float = 120.0
    keepalive_s: float = 60.0
    engine: str = "relay"
    client_rate: Rate | None = None
    client_burst: int = 0
    mode: int | None = None
    group: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an engine must do from now on, whole. ``version`` grows with every change."""

    version: int
    listeners: tuple[Listener, ...] = ()
    pools: tuple[Pool, ...] = ()
    pool_by_name: dict[str, Pool] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the pools by name."""
        object.__setattr__(self, "pool_by_name", {pool.name: pool for pool in self.pools})
