"""Reads YAML by the core schema of YAML 1.2, strictly, remembering where everything stands.

PyYAML's scanner and parser do the grammar; its resolver speaks YAML 1.1, where ``22:22`` is 1342, ``on`` is true and
``010`` is 8, so scalars are resolved here (YAML 1.2.2, section 10.3.2). Its composer recurses and keeps the last of
duplicate keys, so the tree is built here too, from events, with bounds on depth and on what aliases expand to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import yaml

from easyproxy.config.document import MAX_DEPTH, MAX_NODES, Document, Mark, Node, shown
from easyproxy.config.yaml_core import resolve
from easyproxy.config.yaml_errors import in_words, mark_of, place_of
from easyproxy.errors import ConfigError, Problem

_CORE = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner, with YAML 1.2's colon: inside ``{}`` and ``[]`` it ends a key only before a space.

    In 1.1 ``{bind: :80}`` and ``[::1]`` were errors.
    """

    def check_value(self) -> bool:
        """Say whether a colon ends a key here."""
        if self.flow_level and self.peek(1) not in _ENDS_KEY:
            # After a quoted key or a bracket the colon may stand without a space, as in JSON.
            last = self.tokens[-1] if self.tokens else None
            quoted = isinstance(last, yaml.ScalarToken) and not last.plain
            return quoted or isinstance(last, yaml.FlowMappingEndToken | yaml.FlowSequenceEndToken)
        return bool(super().check_value())

    def check_plain(self) -> bool:
        """Say whether a plain scalar begins here."""
        return bool(super().check_plain()) or (self.peek() == ":" and self.peek(1) not in _ENDS_KEY)


_ENDS_KEY = "\0 \t\r\n\x85\u2028\u2029,[]{}"


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
        for event in yaml.parse(text, Loader=_Loader):
            builder.take(event)
    except _Refused as refused:
        raise _error(builder.document, refused.mark, refused.message) from None
    except yaml.reader.ReaderError as error:
        mark = Mark.of(text, error.position)
        raise _error(
            builder.document, mark, f"the character {chr(error.character)!r} is not allowed in YAML"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise _error(builder.document, place_of(error), in_words(error, text)) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # "%YAML 1.99999..." and its kin
        raise _error(builder.document, Mark(1, 1), f"this is not YAML: {error}") from None
    if builder.document.root is None:
        raise _error(builder.document, Mark(1, 1), "there is nothing in this file")
    return builder.document


def _error(document: Document, mark: Mark, message: str) -> ConfigError:
    return ConfigError([*document.problems, Problem(document.where(mark), "", message)])


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
        """Take the parser's next event; raises _Refused where going on makes no sense."""
        mark = mark_of(event.start_mark) if event.start_mark else Mark(1, 1)
        if isinstance(event, yaml.ScalarEvent):
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
            self._alias(str(event.anchor), mark)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._document(event, mark)

    def _document(self, event: yaml.DocumentStartEvent, mark: Mark) -> None:
        if self.document.root is not None:
            raise _Refused(mark, "a second document begins here; a configuration is one document")
        if event.version and tuple(event.version) != (1, 2):
            raise _Refused(mark, "this asks for another version of YAML; configurations are YAML 1.2")

    def _alias(self, name: str, mark: Mark) -> None:
        if name not in self.anchors:
            raise _Refused(mark, f"there is no anchor &{name} before this alias")
        node = self.anchors[name]
        if node is None:
            raise _Refused(mark, f"the alias *{name} stands inside what it stands for")
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
        if event.tag is None and not event.style:
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
        try:
            return resolve(text)
        except ValueError as error:
            self._tell(mark, str(error))
            return None


def _tag(tag: str) -> str:
    return f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
