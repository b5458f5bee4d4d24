"""Installing the newer peers from PyPI into bench/.peers: by hash, without dependencies, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from bench.peers import INSTALLED

REQUIREMENTS = Path(__file__).parent.parent / "requirements.txt"


def requirements(text: str) -> list[str]:
    """Split a requirements file into its requirements: a line, with those that a backslash continues it.

    >>> requirements("# why\\na==1 \\\\\\n  --hash=x\\nb==2\\n")
    ['a==1   --hash=x', 'b==2']
    """
    lines = text.replace("\\\n", "").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def install() -> list[str]:
    """Install what is pinned, one by one, so that one that is not to be had keeps no other away.

    Returns the reasons of those that failed.
    """
    failed = []
    for requirement in requirements(REQUIREMENTS.read_text(encoding="utf-8")):
        name = requirement.split()[0]
        print(f"installing {name} into {INSTALLED}", file=sys.stderr)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
            pinned.write(requirement + "\n")
            pinned.flush()
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            only = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--upgrade"]
            done = subprocess.run(
                [*pip, *only, "--target", str(INSTALLED), "-r", pinned.name],
                check=False,
                capture_output=True,
                text=True,
            )
        if done.returncode:
            failed.append(f"{name}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")
    return failed
