"""Questions that the control process puts to all workers at once, and what comes back.

A worker that has not answered one in time is *silent*: it is asked like the others, but nobody waits for it until it
has said something again, and then it is told of.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.crew import Crew, Member

ANSWER_WITHIN_S = 5.0
"""A worker that does not answer a question for so long is left out of the answer."""
PING = "ping"
"""The question that asks for nothing but an answer."""


class Question:
    """A question to all workers, and the answers so far."""

    def __init__(self, asked: set[int]) -> None:
        self.frames: list[Frame] = []
        self.done = asyncio.Event()
        self.missing = asked
        if not asked:
            self.done.set()

    def take(self, worker: int, frame: Frame) -> None:
        """Keep one frame of a worker's answer."""
        self.frames.append(frame)
        if not frame.get("more"):
            self.give_up(worker)

    def give_up(self, worker: int) -> None:
        """Wait for this worker no longer: it has answered, or died."""
        self.missing.discard(worker)
        if not self.missing:
            self.done.set()


class Inquiry:
    """The questions to one crew that are still open.

    Args:
        crew: who is asked.
        on_turn: told that a worker has fallen silent (True), or has been heard again (False).

    Attributes:
        silent: indexes of the workers that have not answered in time, and have not been heard since.
    """

    def __init__(self, crew: Crew, on_turn: Callable[[Member, bool], None]) -> None:
        self._crew = crew
        self._on_turn = on_turn
        self.silent: set[int] = set()
        self._open: dict[int, Question] = {}
        self._number = 0

    async def ask(self, question: Frame, within_s: float = ANSWER_WITHIN_S) -> list[Frame]:
        """Ask every worker, and return the frames of those that answered in time."""
        self._number = number = self._number + 1
        members = self._crew.members()
        request = self._open[number] = Question({member.index for member in members} - self.silent)
        try:
            for member in members:
                if member.index not in self.silent or not member.channel.outbox:  # it must not pile up
                    member.send({**question, "request": number})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await request.done.wait()
        finally:
            del self._open[number]
        for member in members:
            # One that has ended in an upgrade is nobody to tell of.
            if member.index in request.missing - self.silent and not (
                member.is_starting or member.channel.is_closed
            ):
                self.silent.add(member.index)
                self._on_turn(member, True)
        return request.frames

    def take(self, member: Member, frame: Frame) -> None:
        """Keep a frame of an answer; one that comes too late is dropped."""
        if member.index in self.silent:
            self.silent.remove(member.index)
            self._on_turn(member, False)
        request = self._open.get(frame["request"])
        if request is not None:
            request.take(member.index, frame)

    def died(self, worker: int) -> None:
        """Wait for this worker no longer."""
        self.silent.discard(worker)
        for request in self._open.values():
            request.give_up(worker)


class Roll:
    """Something that every worker has to say once: which of them have not yet."""

    def __init__(self, workers: set[int]) -> None:
        self._missing = set(workers)
        self._complete = asyncio.Event()
        self.mark(-1)

    def mark(self, worker: int) -> None:
        """Note that a worker has said it, or died."""
        self._missing.discard(worker)
        if not self._missing:
            self._complete.set()

    async def is_complete(self, within_s: float) -> bool:
        """Wait for the last; return whether it came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._complete.wait()
        return self._complete.is_set()
