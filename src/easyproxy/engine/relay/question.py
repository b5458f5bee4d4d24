"""Questions that the control process puts to all workers at once, and what comes back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.engine.relay.channel import Frame
    from easyproxy.engine.relay.crew import Crew

ANSWER_WITHIN_S = 5.0
"""A worker that does not answer a question for so long is left out of the answer."""


class Question:
    """A question to all workers, and the answers so far."""

    def __init__(self, asked: set[int]) -> None:
        self.frames: list[Frame] = []
        self.done = asyncio.Event()
        self._missing = asked
        if not asked:
            self.done.set()

    def take(self, worker: int, frame: Frame) -> None:
        """Keep one frame of a worker's answer."""
        self.frames.append(frame)
        if not frame.get("more"):
            self.give_up(worker)

    def give_up(self, worker: int) -> None:
        """Wait for this worker no longer: it has answered, or died."""
        self._missing.discard(worker)
        if not self._missing:
            self.done.set()


class Inquiry:
    """The questions to one crew that are still open."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._open: dict[int, Question] = {}
        self._number = 0

    async def ask(self, question: Frame, within_s: float = ANSWER_WITHIN_S) -> list[Frame]:
        """Ask every worker, and return the frames of those that answered in time."""
        self._number = number = self._number + 1
        members = self._crew.members()
        request = self._open[number] = Question({member.index for member in members})
        try:
            for member in members:
                member.send({**question, "request": number})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(request.done.wait(), within_s)
        finally:
            del self._open[number]
        return request.frames

    def take(self, worker: int, frame: Frame) -> None:
        """Keep a frame of an answer; one that comes too late is dropped."""
        request = self._open.get(frame["request"])
        if request is not None:
            request.take(worker, frame)

    def died(self, worker: int) -> None:
        """Wait for this worker no longer."""
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
            await asyncio.wait_for(self._complete.wait(), within_s)
        return self._complete.is_set()
