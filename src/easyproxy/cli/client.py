"""Asking the admin server of a running balancer, with the standard library only. What is printed is decided elsewhere."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

_TIMEOUT_S = 5.0
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a configuration may say


class NoAnswerError(EasyProxyError):
    """The balancer did not answer, or what answered was not one."""


class TokenError(EasyProxyError):
    """It answered, and asked for another token."""


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
    """
    connection = _connection(address)
    headers = {"Accept": "application/json", "Connection": "close"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NoAnswerError(
            f"no balancer answers at {address} ({reason}); start one with: easyproxy run FILE, "
            "or name its admin address with --admin or --config"
        ) from error
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.UNAUTHORIZED:
        what = "asks for a token" if token is None else "does not accept this token"
        raise TokenError(
            f"the admin server at {address} {what}; name the file that holds it with --token-file"
        )
    return _decode(address, answer.status, body)


def _decode(address: Address, status: int, body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    remedy = "name the right admin address with --admin or --config"
    if status != http.HTTPStatus.OK:
        text = body[:200].decode("utf-8", "replace").strip()
        raise NoAnswerError(f"the server at {address} answered {status} ({text}); {remedy}")
    try:
        return json.loads(body)
    except ValueError as error:
        raise NoAnswerError(f"what answers at {address} is not EasyProxy; {remedy}") from error


def _connection(address: Address) -> http.client.HTTPConnection:
    if address.path:
        return _UnixConnection(address.path)
    host = _EVERY_ADDRESS.get(address.host, address.host)
    return http.client.HTTPConnection(host, address.port, timeout=_TIMEOUT_S)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._path)
