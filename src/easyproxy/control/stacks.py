"""What the control process is doing at this moment: the stacks of its threads and of its tasks."""

from __future__ import annotations

import asyncio
import io

from easyproxy.stacks import stacks_here

MOST_TASKS = 200
"""Tasks that are shown; every probe and every client of the admin server has one."""


def stacks_of_this_process() -> str:
    """Return the stacks of every thread, and in the running event loop of every task, as text."""
    parts = [stacks_here()]
    try:
        tasks = list(asyncio.all_tasks())
    except RuntimeError:  # no loop runs in this thread
        tasks = []
    for task in tasks[:MOST_TASKS]:
        text = io.StringIO()
        task.print_stack(file=text)
        parts.append(f"task {task.get_name()}\n" + text.getvalue())
    if len(tasks) > MOST_TASKS:
        parts.append(f"{len(tasks) - MOST_TASKS} further tasks are not shown\n")
    return "\n".join(parts)
