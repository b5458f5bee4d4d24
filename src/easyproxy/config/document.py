"""What a reader makes of a file: plain data, and the line and column of every key and value.

The readers build it, the rest of the room asks it for data and places. Nothing here knows what a setting means.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from easyproxy.errors import Problem

Path = tuple[str | int, ...]
"""A place inside a document: ``("pools", "mysql", "backends", 1)``."""

MAX_BYTES = 2 * 1024 * 1024  # a configuration of 10,000 backends is below one
MAX_DEPTH = 32  # the deepest setting stands at 7; readers and validators recurse, so it must be bounded
MAX_NODES = 200_000  # counted after aliases are expanded, which is what a YAML "billion laughs" makes explode
MAX_REPORTED = 100  # a file that is wrong a thousand times is wrong as a whole


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A position in a text; both count from 1."""

    line: int
    column: int

    @classmethod
    def of(cls, text: str, offset: int) -> Mark:
        """Say where an offset into a text stands."""
        start = text.rfind("\n", 0, offset) + 1
        return cls(text.count("\n", 0, offset) + 1, offset - start + 1)


class Lines:
    """Finds line and column of many offsets into one text."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def mark(self, offset: int) -> Mark:
        """Say where an offset stands."""
        line = bisect.bisect_right(self._starts, offset)
        return Mark(line, offset - self._starts[line - 1] + 1)


@dataclass(slots=True)
class Node:
    """A value with its place. Exactly one of ``entries`` (mapping) and ``items`` (list) is set, or neither (scalar)."""

    mark: Mark
    scalar: object = None
    entries: dict[str, tuple[Mark, Node]] | None = None
    items: list[Node] | None = None
    size: int = 1  # nodes in it, aliases expanded

    def plain(self) -> object:
        """Convert to dict, list, str, int, float, bool and None."""
        if self.entries is not None:
            return {key: node.plain() for key, (_, node) in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.scalar


@dataclass(slots=True)
class Document:
    """A file that could be read.

    Attributes:
        name: as the user wrote it, for messages.
        root: the tree of values, or None for data that came without a text.
        problems: what the reader already found wrong without having to stop (duplicate keys).
    """

    name: str
    root: Node | None = None
    problems: list[Problem] = field(default_factory=list)

    def where(self, mark: Mark | None) -> str:
        """Render a place as ``file:line:column``."""
        return f"{self.name}:{mark.line}:{mark.column}" if mark else self.name

    def mark(self, path: Sequence[str | int], *, key: bool = False) -> Mark | None:
        """Find where a path stands; what is missing stands where its nearest parent does.

        Args:
            path: the place inside the document.
            key: the place of the key instead of that of its value.
        """
        node, mark = self.root, None
        for depth, step in enumerate(path):
            if node is None:
                break
            if node.entries is not None and isinstance(step, str) and step in node.entries:
                mark, node = node.entries[step]
                if key and depth == len(path) - 1:
                    return mark
            elif node.items is not None and isinstance(step, int) and step < len(node.items):
                mark, node = None, node.items[step]
            elif node.entries is None and node.items is None:
                return node.mark
            else:
                # The key of the parent says more than the place of its first child.
                return mark or node.mark
        return node.mark if node is not None else mark


def path_text(path: Sequence[str | int]) -> str:
    """Render a path as people write it.

    >>> path_text(("pools", "mysql", "backends", 1, "weight")), path_text(("pools", "a.b"))
    ('pools.mysql.backends[1].weight', "pools['a.b']")
    """
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif 0 < len(step) <= 60 and all(char.isalnum() or char in "_-" for char in step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def shown(value: object) -> str:
    """Render a wrong value for a message: short, on one line, harmless for a terminal.

    >>> shown("a b"), shown(True), shown(None), shown({"a": 1})
    ("'a b'", 'true', 'nothing', 'a mapping')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if (
        isinstance(value, int) and abs(value) >= 10**40
    ):  # repr of a huge int is slow, and refused past 4,300 digits
        return "a very large number"
    # repr escapes control characters and lone surrogates, which a terminal must not see.
    text = repr(value) if len(str(value)) <= 60 else repr(str(value)[:57] + "...")
    return text if isinstance(value, str | int | float) else f"{text} ({type(value).__name__})"
