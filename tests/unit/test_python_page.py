"""The program on the page about Python runs as it is printed."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_program_on_the_page_runs_and_tells_what_happens():
    program = re.search(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert program is not None
    with socket.create_server(("127.0.0.1", 0)) as backend:
        code = program[1].replace("127.0.0.1:5432", f"127.0.0.1:{backend.getsockname()[1]}")
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    for said in (
        "clients connect to 127.0.0.1:",
        "['ready']",
        "db/a is draining since ",
        "db/a drain of db/a (nightly job: backup)",
        "no new sessions; those that stand have 5 s",
    ):
        assert said in done.stdout
