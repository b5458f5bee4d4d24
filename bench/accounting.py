"""What the processes of a peer use: CPU time and memory, read from /proc. Linux only, reads and never writes.

A peer is the tree of processes under the one that was started: master and workers alike are counted.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds. The kernel's part holds system calls and what of the network runs on the caller's time."""

    user_s: float
    system_s: float

    def __sub__(self, earlier: Cpu) -> Cpu:
        """Return what was used since."""
        return Cpu(self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def parse_stat(text: str) -> tuple[int, Cpu]:
    """Return the parent's id and the CPU time from the text of /proc/PID/stat (proc_pid_stat(5)).

    The second field is the command in parentheses and may itself hold blanks and parentheses.

    >>> parse_stat("7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 200 50 0 0")[0]
    3
    """
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), Cpu(int(fields[11]) / _TICKS_PER_SECOND, int(fields[12]) / _TICKS_PER_SECOND)


def tree(root: int) -> list[int]:
    """Return the ids of a process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent, _ = parse_stat((entry / "stat").read_text())
            except OSError:  # it ended meanwhile
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def cpu(root: int) -> Cpu:
    """Return the CPU time of a process tree so far, over all its threads."""
    user_s = system_s = 0.0
    for pid in tree(root):
        try:
            _, used = parse_stat((_PROC / str(pid) / "stat").read_text())
        except OSError:
            continue
        user_s += used.user_s
        system_s += used.system_s
    return Cpu(user_s, system_s)


def parse_pss_kib(smaps_rollup: str) -> int:
    """Return the proportional set size in KiB from the text of /proc/PID/smaps_rollup.

    >>> parse_pss_kib("Rss:  20 kB\\nPss:  12 kB\\nPss_Dirty:  3 kB\\n")
    12
    """
    match = re.search(r"^Pss:\s+(\d+) kB$", smaps_rollup, re.MULTILINE)
    if match is None:
        raise ValueError("smaps_rollup without a Pss line")
    return int(match[1])


def memory_kib(root: int) -> int:
    """Return the memory of a process tree: shared pages are divided among those that share them (PSS)."""
    total = 0
    for pid in tree(root):
        try:
            total += parse_pss_kib((_PROC / str(pid) / "smaps_rollup").read_text())
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return total
