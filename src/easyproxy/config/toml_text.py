"""Reads TOML: ``tomllib`` decides what it says, and a walk over the same text finds where everything stands.

The walk relies on ``tomllib`` having accepted the text, so it only has to tell keys, values and brackets apart.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field

from easyproxy.config.document import MAX_DEPTH, Document, Lines, Mark, Node, Path
from easyproxy.errors import ConfigError, Problem

_AT = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*"{3,5}|\'\'\'(?:[^\']|\'(?!\'\'))*\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'',
    re.DOTALL,
)
# tomllib takes quadratic time on a key of very many parts. Possessive, so that this does not.
_DOTTED = re.compile(rf"(?<![\w.\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){{{MAX_DEPTH + 1}}}")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")


def read(text: str, name: str) -> Document:
    """Read a TOML text.

    Raises:
        ConfigError: it is not TOML; the problem says where and why.
    """
    document = Document(name)
    text = text.replace("\r\n", "\n")
    if dotted := _DOTTED.search(text):
        message = f"this key has more than {MAX_DEPTH} parts; no setting is nested so deep"
        raise ConfigError([Problem(document.where(Mark.of(text, dotted.start())), "", message)])
    try:
        data = tomllib.loads(text)
    except RecursionError:
        message = f"this is nested more than {MAX_DEPTH} levels deep; no setting is"
        raise ConfigError([Problem(name, "", message)]) from None
    except ValueError as error:  # TOMLDecodeError, and int()'s refusal of thousands of digits
        message = str(error)
        place = _AT.search(message)
        mark = Mark(int(place[1]), int(place[2])) if place and place[1] else Mark.of(text, len(text))
        words = _AT.sub("", message)
        words = words[:1].lower() + words[1:]
        raise ConfigError([Problem(document.where(mark), "", f"this is not TOML: {words}")]) from None
    places = _Walk(text, Lines(text)).places()
    document.root = _node(data, (), places, Mark(1, 1), name)
    return document


def _node(data: object, path: Path, places: dict[Path, tuple[Mark, Mark]], near: Mark, name: str) -> Node:
    _, mark = places.get(path, (near, near))
    if len(path) > MAX_DEPTH:
        message = f"this is nested more than {MAX_DEPTH} levels deep; no setting is"
        raise ConfigError([Problem(f"{name}:{mark.line}:{mark.column}", "", message)])
    if isinstance(data, dict):
        entries = {}
        for key, value in data.items():
            child = _node(value, (*path, key), places, mark, name)
            entries[key] = (places.get((*path, key), (mark, mark))[0], child)
        return Node(mark, entries=entries)
    if isinstance(data, list):
        return Node(
            mark, items=[_node(value, (*path, i), places, mark, name) for i, value in enumerate(data)]
        )
    return Node(mark, data)


@dataclass(slots=True)
class _Walk:
    text: str
    lines: Lines
    at: int = 0
    found: dict[Path, tuple[Mark, Mark]] = field(default_factory=dict)
    lengths: dict[Path, int] = field(default_factory=dict)  # arrays of tables so far

    def places(self) -> dict[Path, tuple[Mark, Mark]]:
        """Map paths to the marks of key and value. Where the walk loses its way it stops; the rest is unknown."""
        table: Path = ()
        try:
            while self._blank():
                if self.text.startswith("[", self.at):
                    table = self._header()
                else:
                    self._pair(table)
        except (IndexError, RecursionError):  # better a place too few than an error in telling errors
            pass
        return self.found

    def _blank(self) -> str:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.text[self.at : self.at + 1]

    def _keys(self) -> list[tuple[int, str]]:
        keys = []
        while True:
            self._blank()
            start = self.at
            if match := _STRING.match(self.text, start):
                name = str(next(iter(tomllib.loads(f"{match[0]} = 1"))))
            elif match := _BARE_KEY.match(self.text, start):
                name = match[0]
            else:
                raise IndexError
            self.at = match.end()
            keys.append((start, name))
            if self._blank() != ".":
                return keys
            self.at += 1

    def _path(self, base: Path, name: str) -> Path:
        """Step into a table; into an array of tables means into its newest."""
        path = (*base, name)
        return (*path, self.lengths[path] - 1) if path in self.lengths else path

    def _header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        start = self.at
        self.at += 2 if array else 1
        keys = self._keys()
        self.at = self.text.index("]", self.at) + (2 if array else 1)
        path: Path = ()
        for index, (offset, name) in enumerate(keys):
            if array and index == len(keys) - 1:
                plain = (*path, name)
                self.lengths[plain] = self.lengths.get(plain, 0) + 1
                self.found.setdefault(plain, (self.lines.mark(offset), self.lines.mark(start)))
                path = (*plain, self.lengths[plain] - 1)
            else:
                path = self._path(path, name)
            self.found.setdefault(path, (self.lines.mark(offset), self.lines.mark(start)))
        return path

    def _pair(self, table: Path) -> None:
        keys = self._keys()
        if not self.text.startswith("=", self.at):
            raise IndexError
        self.at += 1
        self._blank()
        path = table
        for offset, name in keys:
            path = (*path, name)
            self.found.setdefault(path, (self.lines.mark(offset), self.lines.mark(self.at)))
        self._value(path)

    def _value(self, path: Path) -> None:
        here = self._blank()
        if here == "[":
            self.at += 1
            index = 0
            while self._blank() != "]":
                mark = self.lines.mark(self.at)
                self.found[(*path, index)] = (mark, mark)
                self._value((*path, index))
                index += 1
                if self._blank() == ",":
                    self.at += 1
            self.at += 1
        elif here == "{":
            self.at += 1
            while self._blank() != "}":
                self._pair(path)
                if self._blank() == ",":
                    self.at += 1
            self.at += 1
        elif match := _STRING.match(self.text, self.at) or _BARE_VALUE.match(self.text, self.at):
            self.at = match.end()
        else:
            raise IndexError
