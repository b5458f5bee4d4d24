"""The TCP check: it connects, and if asked sends something and expects something. Works for any protocol.

Without anything to send or expect it only knocks: the server's program never sees a connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from easyproxy.errors import ProbeFailed
from easyproxy.health.checks.base import Target, plain
from easyproxy.health.checks.connection import SHARE, Connection, TlsCheck, connect
from easyproxy.health.checks.knock import knock

ANSWER_BYTES = 64 * 1024
"""How much of an answer is searched for what is expected."""


@dataclass(frozen=True)
class TcpCheck(TlsCheck):
    r"""Succeeds when the connection stands and the answer, if one is expected, holds ``expect``.

    Attributes:
        send: what to send once connected. Each character up to U+00FF goes out as one byte, so that a binary
            protocol can be written as ``"\x00\x01"``.
        expect: what the answer must hold somewhere in its first 64 KiB, in the same notation.
    """

    send: str = ""
    expect: str = ""

    def __post_init__(self) -> None:
        """Refuse characters that are no byte."""
        for option in ("send", "expect"):
            try:
                getattr(self, option).encode("latin-1")
            except UnicodeEncodeError as error:
                letter = error.object[error.start]
                raise ValueError(
                    f"{option} holds {letter!r}, which is no single byte; write its bytes as \\xNN"
                ) from None

    async def probe(self, target: Target) -> str:
        """Knock, or connect, converse and part. Returns ``connected`` or the answer's beginning."""
        if not (self.send or self.expect or self.tls or target.address.path):
            await knock(target.address, target.timeout_s * SHARE)
            return "connected"
        async with connect(target, self._tls) as connection:
            if self.send:
                connection.writer.write(self.send.encode("latin-1"))
                await connection.writer.drain()
            if self.expect:
                return plain(await self._answer(connection))
        return "connected"

    async def _answer(self, connection: Connection) -> bytes:
        """Read until what is expected was seen."""
        wanted = self.expect.encode("latin-1")
        answer = bytearray()
        while wanted not in answer:
            if len(answer) >= ANSWER_BYTES:
                raise ProbeFailed(
                    f"expected {plain(wanted)!r}, not found in the first {ANSWER_BYTES // 1024} KiB"
                )
            try:
                data = await connection.read_some()
            except TimeoutError:
                if not answer:
                    raise
                data = b""
            if not data:
                got = repr(plain(bytes(answer[:1024]))) if answer else "the end of the connection"
                raise ProbeFailed(f"expected {plain(wanted)!r}, got {got}")
            answer += data
        return bytes(answer[:1024])
