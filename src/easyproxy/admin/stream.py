"""The stream: the status each second and every event as it happens, written once for all who follow.

A reader holds at most one status (the newest) and a bounded row of events, all of them shared bytes; one that takes
nothing is closed by the server below. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Header
from pydantic import TypeAdapter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from easyproxy.admin.replies import StatusReply, refusal, refusals, status_reply
from easyproxy.admin.security import STREAM
from easyproxy.control.operations import Event, Operations
from easyproxy.control.status import Status

log = logging.getLogger("easyproxy.admin")

MAX_STREAMS = 32
UNREAD = 1000
"""Events that wait for one reader; a slower one misses the oldest."""
_REPLAYED = 10_000  # more than is kept
_RETRY_MS = 2000
_LARGEST_SHARE = 0.05  # of one core's time, for writing the status

_EVENT = TypeAdapter(Event)
_STATUS = TypeAdapter(StatusReply)


class Reader:
    """One who follows. Bytes come out of :meth:`next` until the stream is over."""

    def __init__(self, keep_alive_s: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._events: deque[bytes] = deque(maxlen=UNREAD)
        self._status = b""
        self._news = asyncio.Event()
        self._is_closed = False
        self.newest = 0
        """Id of the newest event that was put in."""

    def put_event(self, number: int, frame: bytes) -> None:
        """Keep an event until it is taken, unless it is known already."""
        if number > self.newest:
            self.newest = number
            self._events.append(frame)
            self._news.set()

    def put_status(self, frame: bytes) -> None:
        """Keep a status until it is taken, or until a newer one comes."""
        self._status = frame
        self._news.set()

    def close(self) -> None:
        """End the stream once everything is taken."""
        self._is_closed = True
        self._news.set()

    async def next(self) -> bytes:
        """Wait for what is to be sent next; a comment where nothing happens for long. Empty at the end."""
        if not self._events and not self._status and not self._is_closed:
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    await self._news.wait()
            except TimeoutError:
                return b":\n\n"
        found = b"".join(self._events) + self._status
        self._events.clear()
        self._status = b""
        self._news.clear()
        return found


class Stream:
    """All who follow one balancer. Works only while somebody does.

    Args:
        operations: the balancer.
        interval_s: how often the status is looked at; more rarely where writing it takes long.
        keep_alive_s: how long nothing may be sent.
    """

    def __init__(self, operations: Operations, *, interval_s: float = 1.0, keep_alive_s: float = 5.0) -> None:
        self._operations = operations
        self._interval_s = interval_s
        self._keep_alive_s = keep_alive_s
        self._readers: set[Reader] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._last: Status | None = None
        self._frame = b""
        self._written_at = 0.0
        self._is_closed = False

    def join(self, last_id: str = "") -> Reader | None:
        """Let one more follow: the status at once, and the events after ``last_id``. None when there are too many."""
        if len(self._readers) >= MAX_STREAMS or self._is_closed:
            return None
        reader = Reader(self._keep_alive_s)
        if not self._tasks:
            self._start()
        elif time.monotonic() - self._written_at > self._interval_s:
            self._look(anew=True)  # what is unchanged for an hour says the time of an hour ago
        for event in self._operations.events(self._after(last_id), _REPLAYED if last_id else 1):
            if last_id:
                reader.put_event(event.id, self._event_frame(event))
            else:
                reader.newest = event.id
        reader.put_status(self._frame)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Follow no longer."""
        reader.close()
        self._readers.discard(reader)
        if not self._readers:
            self._stop()

    def close(self) -> None:
        """End every stream, for good."""
        self._is_closed = True
        self._end_all()

    def _end_all(self) -> None:
        for reader in self._readers:
            reader.close()

    def _after(self, last_id: str) -> int:
        """Read an id that :meth:`_event_frame` wrote; 0, for everything that is kept, where the event is not known."""
        number, _, stamp = last_id.partition("-")
        if not number.isdecimal() or len(number) > 16:
            return 0
        known = self._operations.events(int(number) - 1, _REPLAYED)[:1]
        is_ours = known and known[0].id == int(number) and stamp in ("", _stamp(known[0]))
        return int(number) if is_ours else 0

    def _start(self) -> None:
        self._look()
        events = self._operations.follow_events()
        self._tasks = [
            asyncio.create_task(self._watch(lambda: self._follow(events)), name="admin stream events"),
            asyncio.create_task(self._watch(self._tick), name="admin stream status"),
        ]

    def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._last, self._frame = None, b""

    async def _watch(self, work: Callable[[], Coroutine[object, None, None]]) -> None:
        """When one part ends, by itself or by a mistake, the streams are over: who follows comes again."""
        try:
            await work()
        except Exception:
            log.exception("the stream of the admin server failed; who follows it has to ask again")
        self._end_all()

    def _look(self, *, anew: bool = False) -> bool:
        """Write the status if it has changed, or ``anew`` all the same; return whether it has."""
        status = self._operations.status()
        before, self._last = self._last, replace(status, now=0.0)
        has_changed = self._last != before
        if has_changed or anew:
            self._written_at = time.monotonic()
            self._frame = _frame("status", _STATUS.dump_json(status_reply(status)))
        return has_changed

    async def _tick(self) -> None:
        while True:
            began = time.perf_counter()
            if self._look():
                for reader in self._readers:
                    reader.put_status(self._frame)
            took = time.perf_counter() - began
            await asyncio.sleep(max(self._interval_s, took / _LARGEST_SHARE))

    async def _follow(self, events: AsyncIterator[Event]) -> None:
        try:
            async for event in events:
                frame = self._event_frame(event)
                for reader in self._readers:
                    reader.put_event(event.id, frame)
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()

    def _event_frame(self, event: Event) -> bytes:
        return _frame("event", _EVENT.dump_json(event), f"{event.id}-{_stamp(event)}")


def _stamp(event: Event) -> str:
    """Numbers start anew with the program, unless its predecessor has handed the events on; the time tells."""
    return f"{int(event.at * 1000):x}"


def _frame(kind: str, data: bytes, number: str = "") -> bytes:
    # JSON on one line: its own line ends are escaped.
    head = f"event: {kind}\n" + (f"id: {number}\n" if number else "")
    return b"%sdata: %s\n\n" % (head.encode(), data)


class _StreamResponse(Response):
    """Sends what one reader gets, until either side has enough."""

    media_type = "text/event-stream"

    def __init__(self, stream: Stream, reader: Reader) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["x-accel-buffering"] = "no"  # nginx in front of us must pass it on as it comes
        self._stream = stream
        self._reader = reader

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send."""
        gone = asyncio.create_task(self._wait_until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            frame = b"retry: %d\n\n" % _RETRY_MS
            while frame:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                frame = await self._reader.next()
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self._stream.leave(self._reader)

    async def _wait_until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._reader.close()


def add_stream(router: APIRouter, stream: Stream) -> None:
    """Add the route."""

    @router.get(
        STREAM,
        summary="Server-sent events: `status` when it has changed, `event` as it happens",
        description="`data` of a `status` is what `GET /api/status` answers, `data` of an `event` is one row of "
        "`GET /api/events`. With `Last-Event-ID` the events after it come first. A comment is sent where nothing "
        "happens for long.",
        response_class=Response,
        responses={
            200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
            **refusals(422, 503),
        },
    )
    async def follow(
        last_event_id: Annotated[
            str, Header(max_length=100, description="The `id` of the last event that is known.")
        ] = "",
    ) -> Response:
        reader = stream.join(last_event_id)
        if reader is None:
            return refusal(503, f"{MAX_STREAMS} streams are open already, or the balancer is stopping")
        return _StreamResponse(stream, reader)
