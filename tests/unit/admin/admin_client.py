"""A client that sends exactly the headers a test names."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser

from easyproxy.model import Address


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: str

    def json(self):
        return json.loads(self.body)


async def connect(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if address.path:
        return await asyncio.open_unix_connection(address.path)
    return await asyncio.open_connection(address.host or "127.0.0.1", address.port)


async def ask(
    address: Address,
    path: str,
    *,
    method: str = "GET",
    host: str | None = None,
    body: bytes = b"",
    raw: bytes = b"",
    **headers: str,
) -> Answer:
    reader, writer = await connect(address)
    try:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {address if host is None else host}",
            "Connection: close",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body + raw)
        text = (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = text.partition("\r\n\r\n")
    first, _, rest = head.partition("\r\n")
    return Answer(int(first.split()[1]), Parser().parsestr(rest), body)


async def change(address: Address, path: str, fields: object, **headers: str) -> Answer:
    """POST as a program does it."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return await ask(
        address, path, method="POST", body=body, **{"Content_Type": "application/json", **headers}
    )


class Follower:
    """Reads server-sent events one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._text = ""

    async def next(self, kind: str = "") -> dict[str, str]:
        """The next event, or the next one of a kind; comments come as {"": text}. Empty at the end."""
        while True:
            while "\n\n" not in self._text:
                # The answer is chunked: its size on one line, then that many bytes and a line end.
                size = int(await self._reader.readline() or b"0", 16)
                data = await self._reader.readexactly(size + 2)
                if not size:
                    return {}
                self._text += data[:-2].decode()
            block, _, self._text = self._text.partition("\n\n")
            found = dict(line.split(":", 1) for line in block.split("\n"))
            found = {name: value.strip() for name, value in found.items()}
            if not kind or found.get("event") == kind:
                return found

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def follow(address: Address, **headers: str) -> Follower:
    """Open /api/stream and read its head."""
    reader, writer = await connect(address)
    lines = ["GET /api/stream HTTP/1.1", f"Host: {address}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        writer.close()
    assert head.startswith(b"HTTP/1.1 200 "), head
    assert b"content-type: text/event-stream" in head
    return Follower(reader, writer)
