"""How a request that changes something is read: declared as JSON, bounded, and JSON indeed; then the route sees it.

The media type is no formality: a form or a script of another site cannot send ``application/json`` without the
browser asking first, and nobody here answers such a question.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message

from easyproxy.config.document import MAX_BYTES

MAX_BODY_BYTES = 2 * MAX_BYTES
"""A whole configuration as a JSON string, where a line end or a quote takes two bytes."""


class ChangingRoute(APIRoute):
    """A route whose body was looked at before anything else of the request."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Put the reading in front of what FastAPI does."""
        handle = super().get_route_handler()

        async def read_then_handle(request: Request) -> Response:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise HTTPException(415, "send the body as Content-Type: application/json")
            body = await _read(request)
            _judge(body)

            async def replay() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handle(Request(request.scope, replay))

        return read_then_handle


async def _read(request: Request) -> bytes:
    too_large = HTTPException(413, f"the body is larger than {MAX_BODY_BYTES // 1024**2} MiB")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "the body is not complete") from None
    return bytes(body)


def _judge(body: bytes) -> None:
    try:
        json.loads(body, object_pairs_hook=_without_twins, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        # The message of a JSONDecodeError says where, and repeats nothing of the body.
        reason = error if isinstance(error, json.JSONDecodeError | _TwinError) else "it cannot be read"
        raise HTTPException(400, f"the body is not JSON: {reason}") from None


class _TwinError(ValueError):
    """One key twice: which value is meant, nobody knows."""


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwinError("a key stands twice in it")
    return found


def _refuse(_word: str) -> NoReturn:
    raise ValueError  # NaN and Infinity are Python's, not JSON's (RFC 8259, section 6)
