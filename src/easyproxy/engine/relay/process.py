"""The entry point of a worker process: ``python -P -m easyproxy.engine.relay.process FD STACKS``.

A fresh interpreter that imports the standard library and this engine only. Its control process talks to it through
the descriptor FD; the first frame says who it is and brings the shared counters. STACKS is where it writes what it
is doing when it can no longer answer.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

from easyproxy.engine.relay import stuck
from easyproxy.engine.relay.channel import Channel
from easyproxy.engine.relay.counters import Counters
from easyproxy.engine.relay.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence


OF_THE_GROUP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C and a supervisor's SIGTERM reach the whole group; the control process decides what they mean for workers."""


def _extend_path(path: Sequence[str]) -> None:
    """Let users' strategies be imported as in the control process."""
    for entry in path:
        if entry in sys.path:
            continue
        if sys.flags.no_site and os.path.basename(entry) in ("site-packages", "dist-packages"):  # noqa: PTH119
            # An interpreter of its own, see interpreter.py: what is installed there may hook itself in (*.pth).
            import site  # noqa: PLC0415

            site.addsitedir(entry)
        else:
            sys.path.append(entry)


def serve(channel: Channel) -> None:
    """Take the first frame, and work until told to stop. Closes the channel."""
    frames = channel.receive()
    poll = select.poll()  # select(2) ends at descriptor 1023
    poll.register(channel.fileno(), select.POLLIN)
    while not frames and not channel.is_closed:
        poll.poll()
        frames = channel.receive()
    if not frames:
        channel.close()
        return
    (hello, fds), *early = frames
    counters = Counters(fds[0], hello["workers"], hello["index"])
    _extend_path(hello["path"])
    worker = Worker(channel, hello, counters)
    try:
        worker.run(early)
    finally:
        counters.close()
        os.close(fds[0])


def main() -> None:
    """Run one worker process."""
    for number in OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_GROUP)  # see Crew; what has come meanwhile is forgotten
    stuck.prepare(int(sys.argv[2]))
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123 - what ps shows
        comm.write("easyproxy-relay")
    # Sessions break their own reference cycles, so a full collection over thousands of them would only cost time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    serve(channel)


if __name__ == "__main__":
    main()
