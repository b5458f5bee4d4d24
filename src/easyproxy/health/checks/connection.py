"""One connection of a probe: TCP or unix socket, with TLS if asked; bounded, and closed politely.

A close with unread data in the socket makes the kernel send RST instead of FIN (RFC 2525 section 2.17), and so does
data that arrives after the close; servers log that. So a probe that is content sends its FIN first, reads what the
server still says until its FIN comes, and closes then. TIME_WAIT stays on this side, about one minute per probe.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Check, Target

FAREWELL_S = 0.25
"""How long a content probe waits for the server to close its side as well."""
FAREWELL_BYTES = 256 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""For SO_LINGER: of zero seconds, so that close sends RST (socket(7))."""
SHARE = 0.95
"""Share of the probe's time limit after which a check gives up by itself, to say more than "no answer"."""


@dataclass(frozen=True, slots=True)
class Tls:
    """How to do TLS: ``verify`` the certificate, against ``ca`` (a file) or the system's, for ``server_name``."""

    verify: bool = True
    ca: str = ""
    server_name: str = ""


@dataclass(frozen=True, kw_only=True)
class TlsCheck(Check):
    """A check that can speak TLS.

    Attributes:
        tls: speak TLS.
        tls_verify: refuse a certificate that is not valid for ``server_name``.
        tls_ca: file with the certificates to trust (PEM); empty is the system's.
        server_name: name to ask for and to verify; empty is the backend's host as configured.
    """

    tls: bool = False
    tls_verify: bool = True
    tls_ca: str = ""
    server_name: str = ""

    @property
    def _name(self) -> str:
        return self.server_name

    @property
    def _tls(self) -> Tls | None:
        return Tls(self.tls_verify, self.tls_ca, self._name) if self.tls else None


@dataclass(slots=True)
class Connection:
    """An open connection and the time (of the event loop's clock) by which the check should have its answer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    deadline: float
    is_tls: bool
    is_torn: bool = False
    """A TLS handshake is under way or was given up. asyncio tells nobody when such a connection has closed."""

    async def read_some(self, limit: int = 16 * 1024) -> bytes:
        """Read what is there, at most ``limit`` bytes, ``b""`` at the end.

        Raises:
            TimeoutError: nothing came before the deadline.
        """
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self.reader.read(limit)
        except TimeoutError:
            raise TimeoutError("connected, but no answer came in time") from None

    async def upgrade(self, tls: Tls, target: Target) -> None:
        """Speak TLS from here on, for protocols that begin in plain text.

        The caller sees to it that nothing plain is left unread: it would pass for something that came encrypted.

        Raises:
            OSError: what the system or TLS said.
            ProbeFailed: the file of certificates cannot be used.
            TimeoutError: the handshake was not done before the deadline.
        """
        context = _context_of(tls)
        self.is_torn = True
        try:
            async with asyncio.timeout_at(self.deadline):
                await self.writer.start_tls(context, server_hostname=_name_for(tls, target))
        except TimeoutError:
            raise TimeoutError("connected, but the TLS handshake was not done in time") from None
        self.is_torn = False
        self.is_tls = True

    def certificate(self) -> bytes:
        """Return the server's certificate (DER), verified or not; empty without TLS."""
        tls = self.writer.get_extra_info("ssl_object")
        return (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""

    def end_by_reset(self) -> None:
        """Have the connection end with RST, however the block is left: for a server that has not said anything yet.

        It learns that nobody is there any more before it begins to talk to us.
        """
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):  # closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

    async def _farewell(self) -> None:
        """Say that we are done, and read until the server is done too, for a short time."""
        loop = asyncio.get_running_loop()
        until = min(loop.time() + FAREWELL_S, self.deadline)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout_at(until):
                if self.is_tls:
                    self.writer.close()  # sends close_notify and takes the server's
                    await self.writer.wait_closed()
                    return
                if self.writer.can_write_eof():
                    self.writer.write_eof()
                left = FAREWELL_BYTES
                while left > 0 and (data := await self.reader.read(16 * 1024)):
                    left -= len(data)


@contextlib.asynccontextmanager
async def connect(target: Target, tls: Tls | None = None) -> AsyncIterator[Connection]:
    """Connect to ``target``; at the end of the block, or after ProbeFailed, part politely; after anything else just close.

    Raises:
        OSError: what the system or TLS said.
        ProbeFailed: the file of certificates cannot be used.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + target.timeout_s * SHARE
    context = None if tls is None else _context_of(tls)
    name = None if tls is None else _name_for(tls, target)
    shutdown = None if tls is None else FAREWELL_S
    address = target.address
    if address.path:
        try:
            reader, writer = await asyncio.open_unix_connection(
                address.path, ssl=context, server_hostname=name, ssl_shutdown_timeout=shutdown
            )
        except FileNotFoundError as error:  # nobody listens there, as with a closed port
            raise ConnectionRefusedError(errno.ENOENT, "no such unix socket") from error
    else:
        reader, writer = await asyncio.open_connection(
            address.host, address.port, ssl=context, server_hostname=name, ssl_shutdown_timeout=shutdown
        )
    connection = Connection(reader, writer, deadline, is_tls=tls is not None)
    try:
        try:
            yield connection
        except ProbeFailed:  # the server has answered, so it is owed the same
            await connection._farewell()  # noqa: SLF001 - the one who opened it closes it
            raise
        await connection._farewell()  # noqa: SLF001
    finally:
        # Nothing is owed any more. An ordinary close of a TLS transport would go on waiting in the background.
        writer.transport.abort()
        if not connection.is_torn:
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def prepare(tls: Tls) -> None:
    """See whether TLS can be begun at all, for protocols that have to announce it first.

    Raises:
        ProbeFailed: the file of certificates cannot be used.
    """
    _context_of(tls)


def tls_words(error: ssl.SSLError) -> str:
    """Say in words what TLS stumbled over."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS certificate refused: {error.verify_message}"
    return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"


def _name_for(tls: Tls, target: Target) -> str:
    return tls.server_name or target.host or target.address.host or "localhost"


def _context_of(tls: Tls) -> ssl.SSLContext:
    try:
        changed = os.stat(tls.ca).st_mtime_ns if tls.ca else 0  # noqa: PTH116 - a local file, once per probe
        return _context(tls.verify, tls.ca, changed)
    except (OSError, ssl.SSLError) as error:
        raise ProbeFailed(
            f"cannot use the certificates in {tls.ca or 'the system store'}: {error}"
        ) from error


@functools.lru_cache(maxsize=64)
def _context(verify: bool, ca: str, changed: int) -> ssl.SSLContext:
    """Make a context once per file and change of the file: reading the system's store takes tens of ms."""
    del changed
    context = ssl.create_default_context(cafile=ca or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
