"""YAML 1.2's core schema, strictly, with places."""

from __future__ import annotations

import pytest
from config_samples import refusals
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.config import yaml12
from easyproxy.config.document import Mark
from easyproxy.errors import ConfigError


def value_of(text):
    """Read ``text`` as the value of a key."""
    document = yaml12.read(f"key: {text}\n", "f")
    assert not document.problems
    return document.root.plain()["key"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("2001-01-01", "2001-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1:30:00", "1:30:00"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("~", None),
        ("", None),
        ("Null", None),
        ("=", "="),
        ("<<", "<<"),
        ("'22'", "22"),
        ('"\\r\\n"', "\r\n"),
        ("!!str 22", "22"),
        ("! 22", "22"),
        ("!!float 3", 3.0),
        ("[a, {b: c}]", ["a", {"b": "c"}]),
        ("{bind: :80}", {"bind": ":80"}),
        ("{a: 10.0.0.1:80, b: ::1}", {"a": "10.0.0.1:80", "b": "::1"}),
        ('{"a":1}', {"a": 1}),
        ("{a: , b: c}", {"a": None, "b": "c"}),
        ("[::1]", ["::1"]),
        ("|\n  a\n  b", "a\nb\n"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, value):
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "f:2:1: the key 'a' stands here for the second time; the first is in line 1"),
        ("a: 1\n---\nb: 2", "f:2:1: a second document begins here; a configuration is one document"),
        ("1: a", "f:1:1: the key 1 is not text; put it in quotes if it is meant as a name"),
        ("true: a", "f:1:1: the key true is not text; put it in quotes if it is meant as a name"),
        ("[a]: b", "f:1:1: a list or a mapping cannot be a key; if this is a template, fill it in first"),
        (
            "a: {{ port }}",
            "f:1:5: a list or a mapping cannot be a key; if this is a template, fill it in first",
        ),
        (
            "a: !!python/name:os.system x",
            "f:1:4: the tag !!python/name:os.system is not known here; leave it out",
        ),
        ("a: !!int x", "f:1:4: 'x' is not !!int"),
        ("a: *b", "f:1:4: there is no anchor &b before this alias"),
        ("a: &b [*b]", "f:1:8: the alias *b stands inside what it stands for"),
        ("%YAML 1.1\n---\na: 1", "f:1:1: this asks for another version of YAML; configurations are YAML 1.2"),
        ("a:\n\tb: 1", "f:2:1: a tab cannot indent in YAML; use spaces"),
        (
            "a: [::1]:80",
            'f:1:9: an address that begins with a bracket has to be quoted in YAML: "[::1]:3306"',
        ),
        ("a: @b", "f:1:4: text that begins with @ has to be quoted in YAML"),
        (
            "a: *:80",
            "f:1:5: text that begins with * has to be quoted in YAML; every address of this machine is",
        ),
        ("a: b: c", "f:1:5: a colon stands where it cannot"),
        ("a:\n  - b: 1\n   c: 2", "f:3:4: this line does not fit the lines above it since line 2"),
        (
            "a:\n  {b: c d: e}",
            "f:2:10: a comma or } is missing before this; the bracket was opened in line 2",
        ),
        ('a: "b\nc: 1', "f:1:4: this quote has no end"),
        ("a: 1\nbcd\ne: 1", "f:2:1: a colon and a space are missing after this key"),
        ("a: \x01", "f:1:4: the character '\\x01' is not allowed in YAML"),
        ("a: " + "9" * 5000, "f:1:4: this number has 5000 characters"),
        ("", "f:1:1: there is nothing in this file"),
        ("# only\n", "f:1:1: there is nothing in this file"),
        ("- a", "f:1:1: the whole file is a list; it must be a mapping with listeners and pools"),
        ("text", "f:1:1: the whole file is 'text'; it must be a mapping"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_with_its_place(text, expected):
    assert any(line.startswith(expected) for line in refusals(text)), refusals(text)


def test_every_duplicate_key_is_told():
    lines = refusals("log: {level: info, level: debug}\nlog: 1\nworkers: 1\nworkers: 2\n")
    assert sum("for the second time" in line for line in lines) == 3


def test_an_alias_bomb_is_refused_and_not_expanded():
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20))
    assert "more than 200,000 values, aliases counted" in refusals(text)[-1]


@pytest.mark.parametrize("text", ["[" * 100_000, "a: " + "{a: " * 5000, "- " * 5000])
def test_deep_nesting_is_an_error_and_no_recursion(text):
    assert "nested more than 32 levels deep" in refusals(text)[-1]


def test_aliases_repeat_a_value():
    document = yaml12.read("a: &x {b: 1}\nc: *x\n", "f")
    assert document.root.plain() == {"a": {"b": 1}, "c": {"b": 1}}


def test_keys_and_values_keep_their_places():
    document = yaml12.read("a:\n  - b: 1\n    c: [x, y]\n", "f")
    assert document.mark(("a", 0, "c"), key=True) == Mark(3, 5)
    assert document.mark(("a", 0, "c", 1)) == Mark(3, 12)
    assert document.mark(("a", 0, "missing")) == Mark(2, 5)
    assert document.mark(("a", 0, "b", "inner")) == Mark(2, 8)


@given(st.text(alphabet=st.sampled_from("ab01 \n\t:-[]{},&*!|>'\"%@`#?~.\\<\u2028\x85é"), max_size=60))
def test_garbage_is_a_document_or_a_config_error(text):
    try:
        document = yaml12.read(text, "f")
    except ConfigError as error:
        places = {problem.where.rpartition(":")[0].rpartition(":")[0] for problem in error.problems}
        if places != {"f"}:
            pytest.fail(f"a problem without its place: {error}")
    else:
        document.root.plain()
