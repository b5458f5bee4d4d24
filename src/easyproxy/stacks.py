"""What the threads of this process are doing, as text. A leaf: standard library only, for every process of ours."""

from __future__ import annotations

import sys
import threading
import traceback


def stacks_here() -> str:
    """Return the stack of every thread of this process, the newest call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - documented, in spite of its name
    )


def stack_of(thread: threading.Thread) -> str:
    """Return the stack of one thread of this process; empty when it has ended."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - as above
    return f"thread {thread.name}:\n{''.join(traceback.format_stack(frame))}" if frame is not None else ""
