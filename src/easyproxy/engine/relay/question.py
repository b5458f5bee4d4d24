"""A question that the control process puts to all workers at once, and what has come back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.engine.relay.channel import Frame


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
