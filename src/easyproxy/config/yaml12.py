"""Reads YAML by the core schema of YAML 1.2, strictly, remembering where everything stands.

PyYAML's scanner and parser do the grammar; its resolver speaks YAML 1.1, where ``22:22`` is 1342, ``on`` is true and
``010`` is 8, so scalars are resolved here (YAML 1.2.2, section 10.3.2). Its composer recurses and keeps the last of
duplicate keys, so the tree is built here too, from events, with bounds on depth and on what aliases expand to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from easyproxy.config.document import MAX_DEPTH, MAX_NODES, Document, Mark, Node, shown
from easyproxy.errors import ConfigError, Problem

_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_DECIMAL = re.compile(r"[-+]?[0-9]+", re.ASCII)
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)")
_LONGEST_NUMBER = 100  # int() takes quadratic time on long digits, and refuses more than 4,300

_CORE = "tag:yaml.org,2002:"


class _Refused(Exception):  # noqa: N818 - private signal, never leaves this module
    def __init__(self, mark: Mark, message: str) -> None:
        self.mark, self.message = mark, message


def read(text: str, name: str) -> Document:
    """Read a YAML text.

    Raises:
        ConfigError: it is not YAML, or not one plain document of bounded size. Duplicate keys and the like do not
            stop the reading; they are in the document's ``problems``.
    """
    builder = _Builder(Document(name))
    try:
        # The pure Python parser: it is iterative, so depth cannot exhaust the stack, and its marks are exact.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except _Refused as refused:
        raise _error(builder.document, refused.mark, refused.message) from None
    except yaml.reader.ReaderError as error:
        mark = Mark.of(text, error.position)
        raise _error(
            builder.document, mark, f"the character {chr(error.character)!r} is not allowed in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = _mark(place) if place else Mark(1, 1)
        raise _error(builder.document, mark, _syntax(error, text)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "%YAML 1.99999..." and its kin
        raise _error(builder.document, Mark(1, 1), f"this is not YAML: {error}") from None
    if builder.document.root is None:
        raise _error(builder.document, Mark(1, 1), "there is nothing in this file")
    return builder.document


def _error(document: Document, mark: Mark, message: str) -> ConfigError:
    return ConfigError([*document.problems, Problem(document.where(mark), "", message)])


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or ""
    place = error.problem_mark
    line = text.split("\n")[place.line] if place and place.line < text.count("\n") + 1 else ""
    if "\\t" in problem or "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab cannot indent in YAML; use spaces"
    if problem == "mapping values are not allowed here":
        return "a colon stands where it cannot; check the indentation, or quote the text if it holds ': '"
    since = (
        f" ({error.context}, line {error.context_mark.line + 1})"
        if error.context and error.context_mark
        else ""
    )
    return f"this is not YAML: {problem}{since}"


@dataclass(slots=True)
class _Open:
    """A collection that has begun and not yet ended."""

    node: Node
    anchor: str | None
    key: tuple[Mark, str | None] | None = (
        None  # the key whose value comes next; None inside for one to be dropped
    )


@dataclass(slots=True)
class _Builder:
    document: Document
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, Node | None] = field(default_factory=dict)  # None while it is being defined

    def take(self, event: yaml.Event) -> None:
        mark = _mark(event.start_mark) if event.start_mark else Mark(1, 1)
        if isinstance(event, yaml.DocumentStartEvent):
            if self.document.root is not None:
                raise _Refused(mark, "a second document begins here; a configuration is one document")
            if event.version and tuple(event.version) != (1, 2):
                raise _Refused(mark, "this asks for another version of YAML; configurations are YAML 1.2")
        elif isinstance(event, yaml.ScalarEvent):
            node = Node(mark, self._scalar(event, mark))
            if event.anchor:
                self.anchors[event.anchor] = node
            self._place(node)
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            self._begin(event, mark)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            done = self.stack.pop()
            if done.anchor:
                self.anchors[done.anchor] = done.node
            self._place(done.node)
        elif isinstance(event, yaml.AliasEvent):
            node = self.anchors.get(event.anchor, _MISSING)
            if node is _MISSING:
                raise _Refused(mark, f"there is no anchor &{event.anchor} before this alias")
            if node is None:
                raise _Refused(mark, f"the alias *{event.anchor} stands inside what it stands for")
            self._place(node, mark)

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, mark: Mark) -> None:
        sequence = isinstance(event, yaml.SequenceStartEvent)
        if event.tag and event.tag not in ("!", _CORE + ("seq" if sequence else "map")):
            self._tell(mark, f"the tag {_tag(event.tag)} is not known here; leave it out")
        if len(self.stack) >= MAX_DEPTH:
            raise _Refused(mark, f"this is nested more than {MAX_DEPTH} levels deep; no setting is")
        if self.stack and self.stack[-1].node.entries is not None and self.stack[-1].key is None:
            raise _Refused(
                mark, "a list or a mapping cannot be a key; if this is a template, fill it in first"
            )
        if event.anchor:
            self.anchors[event.anchor] = None
        node = Node(mark, items=[]) if sequence else Node(mark, entries={})
        self.stack.append(_Open(node, event.anchor))

    def _place(self, node: Node, mark: Mark | None = None) -> None:
        """Put a finished node where it belongs; ``mark`` is that of an alias."""
        if not self.stack:
            self.document.root = node
            return
        top = self.stack[-1]
        parent = top.node
        if parent.items is not None:
            parent.items.append(node)
        elif top.key is None:
            top.key = (mark or node.mark, self._key(node, mark or node.mark, parent))
            return
        else:
            key_mark, key = top.key
            top.key = None
            if key is None or parent.entries is None:
                return
            parent.entries[key] = (key_mark, node)
        parent.size += node.size
        if parent.size > MAX_NODES:
            raise _Refused(mark or node.mark, f"this holds more than {MAX_NODES:,} values, aliases counted")

    def _key(self, node: Node, mark: Mark, parent: Node) -> str | None:
        key = node.scalar
        if node.entries is not None or node.items is not None:
            raise _Refused(mark, "a list or a mapping cannot be a key")
        if not isinstance(key, str):
            self._tell(mark, f"the key {shown(key)} is not text; put it in quotes if it is meant as a name")
            return None
        if parent.entries and key in parent.entries:
            first = parent.entries[key][0]
            self._tell(
                mark,
                f"the key {shown(key)} stands here for the second time; the first is in line {first.line}",
            )
            return None
        return key

    def _tell(self, mark: Mark, message: str) -> None:
        self.document.problems.append(Problem(self.document.where(mark), "", message))

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> object:
        if event.style in ("'", '"', "|", ">"):
            plain = False
        else:
            plain = event.tag is None
        if plain:
            return self._resolve(event.value, mark)
        if event.tag in (None, "!", _CORE + "str"):
            return event.value
        kinds = {"int": int, "float": float, "bool": bool, "null": type(None)}
        kind = kinds.get(event.tag.removeprefix(_CORE))
        if kind is None:
            self._tell(mark, f"the tag {_tag(event.tag)} is not known here; leave it out")
            return event.value
        value = self._resolve(event.value, mark)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value) is not kind:
            self._tell(mark, f"{shown(event.value)} is not {_tag(event.tag)}")
        return value

    def _resolve(self, text: str, mark: Mark) -> object:
        """Resolve a plain scalar by the core schema."""
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text[0] in "tT"
        if not text[:1] in "+-.0123456789" or len(text) > _LONGEST_NUMBER:
            if len(text) > _LONGEST_NUMBER and _DECIMAL.fullmatch(text):
                self._tell(mark, f"this number has {len(text)} digits")
            return text
        if _DECIMAL.fullmatch(text):
            return int(text)
        if _OCTAL.fullmatch(text):
            return int(text[2:], 8)
        if _HEX.fullmatch(text):
            return int(text[2:], 16)
        if _FLOAT.fullmatch(text):
            return float(text)
        if infinite := _INFINITE.fullmatch(text):
            return float(f"{infinite[1]}inf")
        return float("nan") if _NAN.fullmatch(text) else text


def _tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag


_MISSING = Node(Mark(0, 0))
