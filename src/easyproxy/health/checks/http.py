"""The HTTP check: one request over HTTP/1.1, judged by its status and, if asked, by its body."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

import h11

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Target, plain
from easyproxy.health.checks.connection import Connection, TlsCheck, connect

BODY_BYTES = 1024 * 1024
"""How much of a body is read; what is expected must stand in it."""
HEAD_BYTES = 64 * 1024
"""How long the head of a response may be."""

_START = b"HTTP/"
_STATUS = re.compile(r"([1-5]\d\d)(?:-([1-5]\d\d))?", re.ASCII)


@dataclass(frozen=True)
class HttpCheck(TlsCheck):
    """Succeeds when the response has an expected status and its body holds ``expect_body``.

    Redirects are not followed: a 302 says that the backend works.

    Attributes:
        method: of the request.
        path: with the query, as it goes on the wire.
        host: the Host header; empty is the backend's host as configured.
        expect_status: codes and ranges, such as ``200-399`` or ``200,204``.
        expect_body: text that the first MiB of the body must hold; empty does not look.
        headers: further headers of the request.
        server_name: name to ask for and to verify; empty is ``host`` without its port, or the backend's
            host as configured.
    """

    method: str = "GET"
    path: str = "/"
    host: str = ""
    expect_status: str = "200-399"
    expect_body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Refuse what could not be sent or understood, before anything is served."""
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))
        _ranges(self.expect_status)
        try:
            self._request("backend")
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise ValueError(f"this request cannot be sent: {error}") from None

    @property
    def _name(self) -> str:
        return self.server_name or _without_port(self.host)

    async def probe(self, target: Target) -> str:
        """Ask once. Returns the status line in words, for example ``200 OK``."""
        conversation = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        async with connect(target, self._tls) as connection:
            request = self._request(_host_of(target, tls=self.tls))
            sent = conversation.send(request) or b""
            connection.writer.write(sent + (conversation.send(h11.EndOfMessage()) or b""))
            await connection.writer.drain()
            try:
                return await self._judge(conversation, connection)
            except h11.RemoteProtocolError as error:
                raise ProbeFailed(f"no HTTP: {error}") from error

    async def _judge(self, conversation: h11.Connection, connection: Connection) -> str:
        """Read the response to its end, so that the server may part politely, and judge it."""
        words = ""
        status = 0
        body = bytearray()
        start = b""
        while True:
            event = conversation.next_event()
            if event is h11.NEED_DATA:
                data = await connection.read_some()
                start = start or data
                if not start.startswith(_START[: len(start)]):  # h11 would wait for the end of a head
                    raise ProbeFailed(f"no HTTP: {plain(start, 60)!r}")
                conversation.receive_data(data)
            elif isinstance(event, h11.Response):
                status = event.status_code
                words = _in_words(event)
                if not any(low <= status <= high for low, high in _ranges(self.expect_status)):
                    raise ProbeFailed(f"answered {words}, expected {self.expect_status}")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > BODY_BYTES:
                    break
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                break
        if self.expect_body.encode() not in body:
            raise ProbeFailed(f"answered {words} without {plain(self.expect_body)!r} in the body")
        return words

    def _request(self, host: str) -> h11.Request:
        # No "Connection: close": the server would end first and keep TIME_WAIT for every probe.
        given = {name.lower() for name in self.headers}
        headers = [] if "host" in given else [("Host", self.host or host)]
        headers += [] if "user-agent" in given else [("User-Agent", "easyproxy-health")]
        return h11.Request(method=self.method, target=self.path, headers=[*headers, *self.headers.items()])


def _ranges(text: str) -> list[tuple[int, int]]:
    """Read ``200-399`` or ``200,204``."""
    ranges = []
    for part in text.split(","):
        match = _STATUS.fullmatch(part.strip())
        if not match:
            raise ValueError(f"expect_status is {text!r}; write codes and ranges such as 200-399 or 200,204")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ValueError(f"expect_status is {text!r}; the range {part.strip()} is empty")
        ranges.append((low, high))
    return ranges


def _host_of(target: Target, *, tls: bool) -> str:
    """Say the Host header of a backend that was given none (RFC 9110 section 7.2)."""
    address = target.address
    if address.path:
        return target.host or "localhost"
    name = target.host or address.host.partition("%")[0]
    host = f"[{name}]" if ":" in name else name
    return host if address.port == (443 if tls else 80) else f"{host}:{address.port}"


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name.strip("[]") if colon and port.isdigit() else host


def _in_words(response: h11.Response) -> str:
    """Give the status with its reason; the server's own words only where the registry has none."""
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return plain(f"{response.status_code} " + bytes(response.reason).decode("latin-1"), 60)
