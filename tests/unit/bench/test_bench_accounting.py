"""CPU and memory of a process tree, against processes whose use is known."""

import os
import subprocess
import sys

from bench import accounting

_BUSY_CHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import time
while time.process_time() < 0.3: pass
held = bytearray(b"x") * (32 << 20)
print("ready", flush=True)
import sys; sys.stdin.read()
'''])
child.wait()
"""


def test_the_work_and_the_memory_of_a_child_are_counted_for_its_parent():
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        used = accounting.cpu(parent.pid)
        assert len(accounting.tree(parent.pid)) == 2
        assert used.user_s + used.system_s >= 0.25
        assert accounting.memory_kib(parent.pid) >= 32 << 10


def test_a_command_name_with_blanks_and_parentheses_is_read():
    """proc_pid_stat(5): the name stands in parentheses and may hold anything."""
    text = "7 (evil) 9 9 (x) S 3 7 7 0 -1 0 0 0 0 0 200 50 0 0"
    ticks = os.sysconf("SC_CLK_TCK")
    assert accounting.parse_stat(text) == (3, accounting.Cpu(200 / ticks, 50 / ticks))
