"""Rules without a kernel: a stand-in for nft that keeps our table's objects and says no where the kernel would.

It follows whole transactions: an object is made before it is used, nothing is deleted that is missing or still used, and a
transaction with a mistake changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from easyproxy.engine.kernel.ruleset import TABLE
from easyproxy.errors import EngineError

_NAME = r"(?P<name>[\w]+)"
_OBJECT = re.compile(rf"(?P<kind>chain|counter|set|ct timeout) inet {TABLE} {_NAME}")
_RULE = re.compile(rf"rule inet {TABLE} {_NAME} (?P<text>.*)")
_ELEMENT = re.compile(rf"element inet {TABLE} {_NAME} ")
_USES = (
    ("chain", re.compile(r"\bgoto (\w+)")),
    ("counter", re.compile(r'counter name "(\w+)"')),
    ("set", re.compile(r"@(\w+)")),
    ("ct timeout", re.compile(r'ct timeout set "(\w+)"')),
)


@dataclass
class Table:
    objects: dict[tuple[str, str], str] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)

    def copy(self) -> Table:
        return Table(dict(self.objects), {name: list(rules) for name, rules in self.rules.items()})


class FakeRules:
    """Implements ``nft.Rules``.

    Attributes:
        table: what there is, or None.
        packets: what the counters shall say.
        refuse: says no to the next transaction, in these words.
    """

    def __init__(self) -> None:
        self.table: Table | None = None
        self.packets: dict[str, int] = {}
        self.refuse = ""
        self.transactions: list[str] = []

    def replace(self, text: str) -> None:
        if self.refuse:
            words, self.refuse = self.refuse, ""
            raise EngineError(words)
        table = self.table.copy() if self.table is not None else None
        for number, line in enumerate(text.splitlines(), 1):
            try:
                table = self._do(table, line)
            except (KeyError, ValueError, AssertionError) as error:
                raise EngineError(f"line {number}: {line[:160]}: {error!r}") from error
        self.table = table
        self.transactions.append(text)

    add = replace

    def refusing(self, _text: str) -> None:
        raise EngineError("no")

    def counters(self) -> dict[str, int]:
        if self.table is None:
            return {}
        return {name: self.packets.get(name, 0) for kind, name in self.table.objects if kind == "counter"}

    def comments(self, chain: str) -> list[str]:
        rules = self.table.rules.get(chain, []) if self.table is not None else []
        return [found[1] for text in rules if (found := re.search(r'comment "(.*)"$', text))]

    def objects(self) -> frozenset[tuple[str, str]]:
        return frozenset(self.table.objects) if self.table is not None else frozenset()

    def exists(self) -> bool:
        return self.table is not None

    def remove(self) -> bool:
        there, self.table = self.table is not None, None
        return there

    def _do(self, table: Table | None, line: str) -> Table | None:
        verb, _, rest = line.partition(" ")
        if rest == f"table inet {TABLE}":
            if verb == "add":
                return table or Table()
            assert table is not None, "no such table"
            if verb == "delete":
                return None
            assert verb == "flush"
            return Table(table.objects, {name: [] for name in table.rules})
        assert table is not None, "no such table"
        if found := _RULE.fullmatch(rest):
            assert verb == "add"
            for kind, pattern in _USES:
                for used in pattern.findall(found["text"]):
                    assert (kind, used) in table.objects, f"no {kind} {used}"
            table.rules[found["name"]].append(found["text"])
        elif found := _ELEMENT.match(rest):
            assert ("set", found["name"]) in table.objects
        else:
            found = _OBJECT.match(rest)
            assert found, "not understood"
            key = found["kind"], found["name"]
            if verb == "add":
                table.objects.setdefault(key, rest)
                if key[0] == "chain":
                    table.rules.setdefault(key[1], [])
            elif verb == "flush":
                assert key in table.objects
                table.rules[key[1]] = []
            else:
                assert verb == "delete"
                self._delete(table, key)
        return table

    @staticmethod
    def _delete(table: Table, key: tuple[str, str]) -> None:
        for kind, pattern in _USES:
            used = {
                name for rules in table.rules.values() for text in rules for name in pattern.findall(text)
            }
            assert kind != key[0] or key[1] not in used, "in use"
        del table.objects[key]
        if key[0] == "chain":
            assert not table.rules.pop(key[1]), "a chain with rules"
