"""A worker's side of the talk with its control process: commands come in, and what there is to tell goes out.

Nothing here waits but the last words of a worker. What the control process does not take yet lies in the channel's outbox; beyond
that, reports and ends stay in the core, which counts those that it drops.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from typing import TYPE_CHECKING

from easyproxy.engine.relay.survey import ends_head

if TYPE_CHECKING:
    from easyproxy.engine.relay.channel import Channel, Frame
    from easyproxy.engine.relay.core import Core, Handler

REPORTS_PER_FRAME = 500
ENDS_PER_FRAME = 128
MAX_UNSENT_FRAMES = 32
LAST_WORDS_S = 2.0
RESERVED_DESCRIPTORS = 16


class Messenger:
    """Sends and receives for one worker. Owns the channel, and some descriptors that are kept free for what comes with commands."""

    def __init__(self, core: Core, channel: Channel) -> None:
        self._core = core
        self.channel = channel
        self._is_blocked = False
        self._reserve: list[int] = []
        self._fill_reserve()

    def attend(self, handler: Handler) -> None:
        """Have ``handler`` called when there is something to receive, or room to send."""
        self._core.handle(self.channel.fileno(), handler)
        self._core.poller.add(self.channel.fileno())

    def ignore(self) -> None:
        """Nobody is called for it any more."""
        self._core.poller.remove(self.channel.fileno())
        self._core.handlers[self.channel.fileno()] = None

    def send(self, frame: Frame) -> None:
        """Send a frame, or keep it until the control process takes it."""
        channel = self.channel
        channel.send(frame)
        if channel.outbox and not channel.is_closed and not self._is_blocked:
            self._is_blocked = True
            self._core.poller.add(channel.fileno(), writable=True)

    def receive(self) -> list[tuple[Frame, list[int]]]:
        """Send what had to wait, and return the commands that have come, with their descriptors."""
        channel = self.channel
        if channel.flush() and self._is_blocked:
            self._is_blocked = False
            self._core.poller.add(channel.fileno())
        # Descriptors that come with a command find room even when sessions have used up all others: the kernel
        # would drop them without a word (unix(7), MSG_CTRUNC).
        self._free_reserve()
        commands = channel.receive()
        self._fill_reserve()
        return commands

    def hand_over_reports(self) -> None:
        """Tell what has been reported, as far as there is room."""
        core = self._core
        if core.reports and len(self.channel.outbox) < MAX_UNSENT_FRAMES:
            batch, core.reports = core.reports[:REPORTS_PER_FRAME], core.reports[REPORTS_PER_FRAME:]
            self.send({"op": "reports", "items": batch})

    def hand_over_ends(self) -> None:
        """Tell which sessions have ended, as far as there is room."""
        core = self._core
        while core.ends and len(self.channel.outbox) < MAX_UNSENT_FRAMES:
            batch, core.ends = core.ends[:ENDS_PER_FRAME], core.ends[ENDS_PER_FRAME:]
            self.send({"op": "ends", **ends_head(core), "rows": batch})

    def hand_over_last(self) -> None:
        """Wait until the control process has taken what is left to tell, but not for long."""
        core, channel = self._core, self.channel
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLOUT)
        deadline = time.monotonic() + LAST_WORDS_S
        while not channel.is_closed and (core.reports or core.ends or channel.outbox):
            self.hand_over_reports()
            self.hand_over_ends()
            if not channel.flush() and not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                return

    def _fill_reserve(self) -> None:
        with contextlib.suppress(OSError):
            while len(self._reserve) < RESERVED_DESCRIPTORS:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _free_reserve(self) -> None:
        for fd in self._reserve:
            os.close(fd)
        self._reserve.clear()

    def close(self) -> None:
        """Close everything."""
        self._free_reserve()
        self.channel.close()
