"""Asking the admin server of a running balancer, with the standard library only. What is printed is decided elsewhere."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

_TIMEOUT_S = 15.0  # three times as long as the balancer waits for a worker that may not answer
_CHANGE_TIMEOUT_S = 60.0  # a reload probes new backends first, and an upgrade waits for the successor
_AGAIN_S = 0.5
_STREAM_TIMEOUT_S = 45.0  # three times the interval of the server's keep-alive comments
_REMEDY = "name the right admin address with --admin or --config"
_LINE_BYTES = 64 * 2**20  # a status of 10,000 backends is one line of about 6 MB
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a configuration may say


class NoAnswerError(EasyProxyError):
    """The balancer did not answer, or what answered was not one."""


class TokenError(EasyProxyError):
    """It answered, and asked for another token."""


class RefusedError(EasyProxyError):
    """It answered, and refused; the message is its own, with every problem on a line; a single one says it all.

    Attributes:
        status: of HTTP: 404 for something that does not exist, 409 for a change that is not possible, 422 for a
            wrong configuration or a wrong request.
        problems: what is wrong, as mappings with ``where``, ``path`` and ``message``; often empty.
    """

    def __init__(self, status: int, error: str, problems: list[dict[str, str]]) -> None:
        self.status = status
        self.problems = problems
        lines = [_line(problem) for problem in problems]
        super().__init__(
            lines[0] if len(lines) == 1 else "\n".join([error, *(f"  {line}" for line in lines)])
        )


def _line(problem: Mapping[str, str]) -> str:
    return ": ".join(part for key in ("where", "path", "message") if (part := problem.get(key, "")))


def parse_admin(text: str) -> Address:
    """Read ``http://host:port``, ``host:port`` or ``unix:/path``.

    Raises:
        ValueError: it is none of these.

    >>> str(parse_admin("http://127.0.0.1:7259/")), str(parse_admin("unix:/run/easyproxy.sock"))
    ('127.0.0.1:7259', 'unix:/run/easyproxy.sock')
    """
    if "://" not in text:
        return Address.parse(text)
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{text!r} is not an admin address; write http://host:port, host:port or unix:/path")
    return Address(host=parts.hostname, port=parts.port or 80)


def fetch(address: Address, path: str, token: str | None = None) -> Any:  # noqa: ANN401 - any JSON value
    """GET a JSON document.

    Raises:
        NoAnswerError: nobody answered, or not in our words. The message names the address and what to do.
        TokenError: the token is missing or wrong.
        RefusedError: what was asked for does not exist, or the request was wrong.
    """
    return _ask(address, "GET", path, None, token)


def post(address: Address, path: str, body: Mapping[str, object], token: str | None = None) -> Any:  # noqa: ANN401 - any JSON value
    """POST a JSON document, and return the one that answers it.

    Raises:
        NoAnswerError: nobody answered, or not in our words; whether the change was made is not known then.
        TokenError: the token is missing or wrong.
        RefusedError: nothing was changed; the message says why.
    """
    return _ask(address, "POST", path, json.dumps(body).encode(), token)


def follow(
    address: Address, path: str, token: str | None = None, *, last_id: str = "", patience_s: float = 0.0
) -> Iterator[tuple[str, Any]]:
    """Follow server-sent events: yield the kind and the data of each, until the caller stops.

    Args:
        address: where the admin server listens.
        path: of the stream.
        token: of the admin server.
        last_id: id of the last event that is known; those after it come first.
        patience_s: how long a lost balancer (an upgrade, a restart) is asked again before that is told.

    Raises:
        NoAnswerError: as :func:`fetch`, and when the balancer ends the stream.
        TokenError, RefusedError: as :func:`fetch`.
    """
    known, lost_at = last_id, 0.0
    while True:
        try:
            for event_id, kind, data in _stream(address, path, token, known):
                known, lost_at = event_id, 0.0
                yield kind, data
        except NoAnswerError:
            now = time.monotonic()
            lost_at = lost_at or now
            if now - lost_at >= patience_s:
                raise
            time.sleep(_AGAIN_S)


def _stream(address: Address, path: str, token: str | None, last_id: str) -> Iterator[tuple[str, str, Any]]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    with closing(_connection(address, _STREAM_TIMEOUT_S)) as connection:
        try:
            with _request(connection, "GET", path, None, token, headers) as answer:
                if answer.status != http.HTTPStatus.OK:
                    _decode(address, answer.status, answer.read(), token)
                yield from _events(answer, last_id)
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # of a name that none can be
            raise _no_answer(address, error) from error
        except (ValueError, RecursionError) as error:  # of an event that is no JSON
            raise _not_ours(address) from error
    raise NoAnswerError(f"the balancer at {address} has ended the stream; it may be stopping")


def _events(answer: http.client.HTTPResponse, last_id: str) -> Iterator[tuple[str, str, Any]]:
    # https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    kind, data = "message", ""
    while line := answer.readline(_LINE_BYTES):
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "id":
            last_id = value
        elif field == "data":
            data += value
        elif not field and not value and data:
            yield last_id, kind, json.loads(data)
            kind, data = "message", ""


def _ask(address: Address, method: str, path: str, body: bytes | None, token: str | None) -> Any:  # noqa: ANN401 - any JSON value
    timeout_s = _TIMEOUT_S if body is None else _CHANGE_TIMEOUT_S
    is_asked = False
    with closing(_connection(address, timeout_s)) as connection:
        try:
            connection.connect()
            is_asked = body is not None
            # The answer is what holds the socket: of a connection that ends with it, http.client lets go at once.
            with _request(connection, method, path, body, token, {"Accept": "application/json"}) as answer:
                text = answer.read()
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # of a name that none can be
            if is_asked and isinstance(error, OSError):  # else what answers is not ours
                raise NoAnswerError(
                    f"the balancer at {address} has not answered ({_reason(error)}); whether it has done what was asked "
                    "is not known: look with easyproxy events before you try again"
                ) from error
            raise _no_answer(address, error) from error
    return _decode(address, answer.status, text, token)


def _request(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    token: str | None,
    headers: dict[str, str],
) -> http.client.HTTPResponse:
    headers = headers | {"Connection": "close"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection.request(method, path, body, headers)
    return connection.getresponse()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _no_answer(address: Address, error: Exception) -> NoAnswerError:
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, OSError):  # no HTTP, but words
        return _not_ours(address)
    if isinstance(error, TimeoutError):
        return NoAnswerError(
            f"nobody has answered at {address} in time; the balancer may hang (its log says more), or packets are lost on the way"
        )
    return NoAnswerError(
        f"no balancer answers at {address} ({_reason(error)}); start one with: easyproxy run FILE, "
        "or name its admin address with --admin or --config"
    )


def _not_ours(address: Address) -> NoAnswerError:
    return NoAnswerError(f"what answers at {address} is not EasyProxy; {_REMEDY}")


def _decode(address: Address, status: int, body: bytes, token: str | None) -> Any:  # noqa: ANN401 - any JSON value
    if status == http.HTTPStatus.UNAUTHORIZED:
        what = "asks for a token" if token is None else "does not accept this token"
        raise TokenError(
            f"the admin server at {address} {what}; name the file that holds it with --token-file"
        )
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        if status == http.HTTPStatus.OK:
            raise _not_ours(address) from error
        found = None
    if status == http.HTTPStatus.OK:
        return found
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        raise RefusedError(status, found["error"], found.get("problems") or [])
    text = " ".join(body[:200].decode("utf-8", "replace").split())
    raise NoAnswerError(f"the server at {address} answered {status} ({text}); {_REMEDY}")


def _connection(address: Address, timeout_s: float) -> http.client.HTTPConnection:
    if address.path:
        return _UnixConnection(address.path, timeout_s)
    host = _EVERY_ADDRESS.get(address.host, address.host)
    return http.client.HTTPConnection(host, address.port, timeout=timeout_s)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
