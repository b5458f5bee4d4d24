"""Reads JSON (RFC 8259) strictly, remembering where everything stands; duplicate keys are told, not swallowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]  # in CPython since 2.6, missing in typeshed

from easyproxy.config.document import MAX_DEPTH, MAX_NODES, Document, Lines, Mark, Node, shown
from easyproxy.errors import ConfigError, Problem

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_LONGEST_NUMBER = 100


class _Refused(Exception):  # noqa: N818 - private signal, never leaves this module
    def __init__(self, offset: int, message: str) -> None:
        self.offset, self.message = offset, message


def read(text: str, name: str) -> Document:
    """Read a JSON text.

    Raises:
        ConfigError: it is not JSON; the problem says where and why.
    """
    scanner = _Scanner(text, Document(name), Lines(text))
    try:
        scanner.document.root = scanner.whole()
    except _Refused as refused:
        where = scanner.document.where(scanner.lines.mark(refused.offset))
        raise ConfigError([*scanner.document.problems, Problem(where, "", refused.message)]) from None
    return scanner.document


@dataclass(slots=True)
class _Scanner:
    text: str
    document: Document
    lines: Lines
    at: int = 0
    values: int = 0

    def space(self) -> str:
        """Skip white space, and return the next character or an empty string."""
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        here = self.text[self.at : self.at + 1]
        if here == "#" or self.text.startswith(("//", "/*"), self.at):
            raise _Refused(self.at, "JSON has no comments; use YAML or TOML to write some")
        return here

    def whole(self) -> Node:
        """Read the one value that the text is."""
        node = self.value(0)
        if here := self.space():
            raise _Refused(self.at, f"{shown(here)} stands after the end of the document")
        return node

    def value(self, depth: int) -> Node:
        """Read the next value."""
        here = self.space()
        if depth > MAX_DEPTH:
            raise _Refused(self.at, f"this is nested more than {MAX_DEPTH} levels deep; no setting is")
        self.values += 1
        if self.values > MAX_NODES:
            raise _Refused(self.at, f"this holds more than {MAX_NODES:,} values")
        if here == "{":
            return self._mapping(depth)
        if here == "[":
            return self._list(depth)
        mark = self.lines.mark(self.at)
        return Node(mark, self._string() if here == '"' else self._bare(here))

    def _bare(self, here: str) -> object:
        start = self.at
        if number := _NUMBER.match(self.text, start):
            if number[0] in ("0", "-0") and self.text[number.end() : number.end() + 1].isdigit():
                raise _Refused(
                    start, "a number cannot begin with 0 in JSON; leave the 0 away, or quote it as text"
                )
            if number.end() - start > _LONGEST_NUMBER:
                raise _Refused(start, f"this number has {number.end() - start} characters")
            self.at = number.end()
            return float(number[0]) if number[1] or number[2] else int(number[0])
        if word := _BARE.match(self.text, start):
            if word[0] in _WORDS:
                self.at = word.end()
                return _WORDS[word[0]]
            raise _Refused(start, f"{shown(word[0])} is not JSON; text stands in double quotes")
        if here == "'":
            raise _Refused(start, "text stands in double quotes in JSON, not in single ones")
        raise _Refused(
            start, f"{shown(here)} stands where a value belongs" if here else "the file ends too early"
        )

    def _string(self) -> str:
        start = self.at
        try:
            value, self.at = scanstring(self.text, start + 1, True)
        except JSONDecodeError as error:
            if "Unterminated" in error.msg:
                raise _Refused(start, "this text has no closing double quote") from None
            if "control character" in error.msg:
                raise _Refused(
                    error.pos, "a line end or a tab cannot stand in text; write \\n or \\t"
                ) from None
            raise _Refused(error.pos, f"this is not JSON: {error.msg}") from None
        return str(value)

    def _mapping(self, depth: int) -> Node:
        entries: dict[str, tuple[Mark, Node]] = {}
        node = Node(self.lines.mark(self.at), entries=entries)
        self.at += 1
        if self.space() == "}":
            self.at += 1
            return node
        while True:
            if self.space() != '"':
                raise _Refused(self.at, self._no_key())
            mark = self.lines.mark(self.at)
            key = self._string()
            if self.space() != ":":
                raise _Refused(self.at, f"a colon is missing after the key {shown(key)}")
            self.at += 1
            value = self.value(depth + 1)
            if key in entries:
                message = f"the key {shown(key)} stands here for the second time; the first is in line {entries[key][0].line}"
                self.document.problems.append(Problem(self.document.where(mark), "", message))
            else:
                entries[key] = (mark, value)
            if self._ends("}"):
                return node

    def _no_key(self) -> str:
        here = self.text[self.at : self.at + 1]
        if here == "}":
            return "a comma cannot stand before } in JSON"
        return "a key in double quotes is missing here" if here else "the file ends too early: } is missing"

    def _list(self, depth: int) -> Node:
        items: list[Node] = []
        node = Node(self.lines.mark(self.at), items=items)
        self.at += 1
        if self.space() == "]":
            self.at += 1
            return node
        while True:
            if self.space() == "]":
                raise _Refused(self.at, "a comma cannot stand before ] in JSON")
            items.append(self.value(depth + 1))
            if self._ends("]"):
                return node

    def _ends(self, closing: str) -> bool:
        here = self.space()
        if here not in (",", closing) or not here:
            what = (
                f"a comma or {closing} is missing here"
                if here
                else f"the file ends too early: {closing} is missing"
            )
            raise _Refused(self.at, what)
        self.at += 1
        return here == closing
