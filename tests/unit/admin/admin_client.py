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
    address: Address, path: str, *, method: str = "GET", host: str | None = None, **headers: str
) -> Answer:
    reader, writer = await connect(address)
    try:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {address if host is None else host}",
            "Connection: close",
        ]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        text = (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = text.partition("\r\n\r\n")
    first, _, rest = head.partition("\r\n")
    return Answer(int(first.split()[1]), Parser().parsestr(rest), body)
