"""The one place that changes the kernel's rules: it runs ``nft``, and tells its errors in our words.

Nothing here knows what the rules mean. Only our own table is named, so what is not ours is never touched.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any, Protocol

from easyproxy.engine.kernel.ruleset import KINDS, TABLE
from easyproxy.errors import EngineError

_PLACE = re.compile(r"^[^:\n]*:(\d+):\d+(?:-\d+)?: Error: (.*)$", re.MULTILINE)
_COMMENT = re.compile(r'comment "([^"]*)"')
_WITHIN_S = 30.0

NO_NFT = "nft is not installed; install the package nftables"
NO_PRIVILEGE = (
    "the kernel engine needs the privilege to change packet rules (CAP_NET_ADMIN); run as root, or give it with "
    "AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW CAP_BPF in the systemd unit"
)


class Rules(Protocol):
    """What the engine asks of the kernel's rules."""

    def replace(self, text: str) -> None:
        """Check a transaction, then put it in force as a whole. Raises EngineError, and then nothing has changed."""

    def add(self, text: str) -> None:
        """Put additions to what stands in force. Raises EngineError."""

    def counters(self) -> dict[str, int]:
        """Read packets by the name of every counter of our table; empty where there is no table."""

    def comments(self, chain: str) -> list[str]:
        """Read the comments of the rules of a chain of ours; empty where there is none."""

    def objects(self) -> frozenset[tuple[str, str]]:
        """Read what our table has beside rules: (kind, name) pairs; empty where there is none."""

    def exists(self) -> bool:
        """Whether there is a table of ours."""

    def remove(self) -> bool:
        """Remove our table; False where there was none."""


class Nft:
    """The real one. Each call runs ``nft`` in the network namespace of the calling thread."""

    def replace(self, text: str) -> None:
        """Run ``nft -c -f -`` and then ``nft -f -``."""
        for options in (("-c", "-f", "-"), ("-f", "-")):
            done = _run(*options, text=text)
            if done.returncode:
                raise EngineError(explain(done.stderr, text))

    def add(self, text: str) -> None:
        """Run ``nft -f -``."""
        done = _run("-f", "-", text=text)
        if done.returncode:
            raise EngineError(explain(done.stderr, text))

    def counters(self) -> dict[str, int]:
        """List the counters of our table."""
        done = _run("-j", "list", "counters", "table", "inet", TABLE)
        if done.returncode:
            return {}
        return {item["name"]: item["packets"] for item in _items(done.stdout, "counter")}

    def comments(self, chain: str) -> list[str]:
        """List the rules of one chain."""
        done = _run("-j", "list", "chain", "inet", TABLE, chain)
        if done.returncode:
            return []
        return [item["comment"] for item in _items(done.stdout, "rule") if "comment" in item]

    def objects(self) -> frozenset[tuple[str, str]]:
        """List the table without the elements of its sets, which may be very many."""
        done = _run("-j", "-t", "list", "table", "inet", TABLE)
        if done.returncode:
            return frozenset()
        return frozenset((kind, item["name"]) for kind in KINDS for item in _items(done.stdout, kind))

    def exists(self) -> bool:
        """Ask for the table. Raises EngineError without nft or the privilege."""
        done = _run("-j", "list", "tables", "inet")
        if done.returncode:
            raise EngineError(explain(done.stderr, ""))
        return any(item["name"] == TABLE for item in _items(done.stdout, "table"))

    def remove(self) -> bool:
        """Delete the table with everything in it."""
        if not self.exists():
            return False
        done = _run("delete", "table", "inet", TABLE)
        if done.returncode:
            raise EngineError(explain(done.stderr, ""))
        return True


def _items(listing: str, kind: str) -> list[dict[str, Any]]:
    return [item[kind] for item in json.loads(listing)["nftables"] if kind in item]


def explain(stderr: str, text: str) -> str:
    """Put what nft says in our words, with the object that it is about where its line tells.

    >>> explain("/dev/stdin:1:2-3: Error: Could not process rule: No such file", 'add rule inet easyproxy b1 x comment "p/a"')
    'nft refused the rule of p/a: Could not process rule: No such file'
    """
    if "Operation not permitted" in stderr:
        return NO_PRIVILEGE
    found = _PLACE.search(stderr)
    if found is None:
        return f"nft failed: {' '.join(stderr.split()) or 'without a word'}"
    lines = text.splitlines()
    number = int(found[1])
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    comment = _COMMENT.search(line)
    if comment:
        return f"nft refused the rule of {comment[1]}: {found[2]}"
    return f"nft refused {line[:120]!r}: {found[2]}" if line else f"nft failed: {found[2]}"


def _run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin:/usr/local/sbin")
    if program is None:
        raise EngineError(NO_NFT)
    try:
        return subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_WITHIN_S,
            check=False,
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"nft {arguments[0]} did not end within {_WITHIN_S:g} s") from error
    except OSError as error:
        raise EngineError(f"nft cannot be run: {error.strerror}") from error
