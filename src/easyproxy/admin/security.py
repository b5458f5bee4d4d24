"""Who may ask, and what a browser may do with the answer: one ASGI layer in front of every route.

A page on the internet cannot read or change anything here: a DNS name that was rebound to our address has the wrong
Host, a cross-site form has the wrong origin, and nothing that we serve runs a script or a style that did not come
as a file from us. No route lives here.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyproxy.admin.replies import refusal
from easyproxy.errors import EasyProxyError
from easyproxy.model import Address

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - what a bind address may say

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STREAM = "/api/stream"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})  # none: typed, or from a bookmark


def allowed_hosts(bind: Address, names: Iterable[str] = ()) -> frozenset[str] | None:
    """Names and addresses that a ``Host`` header may carry, or None where the header means nothing.

    Args:
        bind: where the admin server listens. A unix socket has no name that a browser could be led to.
        names: further names, for example of this machine in the local DNS.
    """
    if bind.path:
        return None
    return LOOPBACK_NAMES | {bind.host.lower()} | {name.lower() for name in names}


class Guard:
    """ASGI middleware: Host, cross-site requests and token are checked, and security headers are added.

    Args:
        app: what it protects.
        hosts: as :func:`allowed_hosts` gives them. When the server listens on every address, any numeric address
            is accepted as Host too: only a name can be rebound.
        token: what ``Authorization: Bearer`` must carry, or None where none is asked for.
        public: paths that need no token. They must tell nothing about backends or clients.
        public_prefix: the same for everything below a path.

    Raises:
        EasyProxyError: the token is empty, which would let everybody in who sends an empty one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] | None,
        token: str | None,
        public: Collection[str],
        public_prefix: str,
    ) -> None:
        if token is not None and not token.strip():
            raise EasyProxyError("the admin token is empty; write one into the token file, or configure none")
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._any_numeric = self._hosts is not None and bool(self._hosts & EVERY_ADDRESS)
        self._token = None if token is None else token.strip().encode()
        self._public = frozenset(public)
        self._public_prefix = public_prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a refusal, or let the request through."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refuse(scope["method"], scope["path"], Headers(scope=scope))
        if scope["method"] == "HEAD" and scope["path"] != STREAM:
            # RFC 9110, section 9.3.2: as GET, without the body, which uvicorn leaves away. A stream would have no end.
            scope = {**scope, "method": "GET"}
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refuse(self, method: str, path: str, headers: Headers) -> Response | None:
        if not self._is_host_allowed(headers.getlist("host")):
            return refusal(
                403,
                "this Host is not served here; use the address that the admin server is bound to, "
                "or add the name to admin.hosts",
            )
        if method not in _SAFE_METHODS:
            if _is_cross_site(headers):
                return refusal(403, "a page of another site may not change anything here")
        elif not self._is_public(path) and _is_cross_site_read(headers):
            return refusal(403, "a page of another site may not read anything here")
        if self._token is not None and not self._is_public(path) and not self._has_token(headers):
            return refusal(
                401,
                "this needs the token of the admin server: send it as Authorization: Bearer TOKEN",
                headers={"WWW-Authenticate": 'Bearer realm="easyproxy"'},
            )
        return None

    def _is_host_allowed(self, values: list[str]) -> bool:
        if self._hosts is None:
            return True
        if len(values) != 1:
            return False
        host = host_without_port(values[0])
        if host in self._hosts and host not in EVERY_ADDRESS:
            return True
        return _is_numeric(host) and (self._any_numeric or ipaddress.ip_address(host).is_loopback)

    def _is_public(self, path: str) -> bool:
        return path in self._public or path.startswith(self._public_prefix)

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, credential = headers.get("authorization", "").partition(" ")
        # compare_digest takes the same time wherever the first difference is.
        sent = credential.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, self._token or b"")


def _is_cross_site(headers: Headers) -> bool:
    # Browsers since 2020 say it themselves (https://www.w3.org/TR/fetch-metadata/), but only to a trustworthy
    # origin, which plain HTTP to another machine is not; every browser sends Origin with a cross-site POST.
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        return True
    origins = headers.getlist("origin")
    return any(origin.partition("://")[2].lower() != headers.get("host", "").lower() for origin in origins)


def _is_cross_site_read(headers: Headers) -> bool:
    # It could not see the answer, but it could make us work, or hold a stream open. Following a link is no such thing.
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site", "none") not in _OWN_SITE and not is_link


def host_without_port(value: str) -> str:
    """The host of a Host header, in lower case and without brackets.

    >>> host_without_port("[::1]:7259"), host_without_port("LOCALHOST:7259"), host_without_port("127.0.0.1")
    ('::1', 'localhost', '127.0.0.1')
    """
    if value.startswith("["):
        return value[1:].partition("]")[0].lower()
    return value.partition(":")[0].lower()


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
