"""JSON and TOML: the same data and the same places as the standard library and the eye find."""

from __future__ import annotations

import json
import tomllib

import pytest
from config_samples import refusals
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.config import json_text, toml_text
from easyproxy.config.document import Mark
from easyproxy.errors import ConfigError

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN, st.sampled_from([None, 1, "\t"]))
def test_json_reads_as_the_standard_library_does(value, indent):
    text = json.dumps(value, indent=indent)
    assert json_text.read(text, "f").root.plain() == value


@given(st.text(alphabet='{}[]:,"0123e.-+truefalsn \n\t\\u/*#', max_size=40))
def test_json_accepts_exactly_what_the_standard_library_does(text):
    try:
        expected = json.loads(text, parse_constant=pytest.fail)
    except json.JSONDecodeError:
        with pytest.raises(ConfigError):
            json_text.read(text, "f")
    else:
        assert json_text.read(text, "f").root.plain() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n "a": 2}', "f:2:2: the key 'a' stands here for the second time; the first is in line 1"),
        ('{"a": 1,}', "f:1:9: a comma cannot stand before } in JSON"),
        ('{"a": [1,]}', "f:1:10: a comma cannot stand before ] in JSON"),
        ('{"a" 1}', "f:1:6: a colon is missing after the key 'a'"),
        ('{"a": 1\n"b": 2}', "f:2:1: a comma or } is missing here"),
        ("{'a': 1}", "f:1:2: a key in double quotes is missing here"),
        ("{\"a\": 'b'}", "f:1:7: text stands in double quotes in JSON, not in single ones"),
        ('{"a": on}', "f:1:7: 'on' is not JSON; text stands in double quotes"),
        ('{"a": NaN}', "f:1:7: 'NaN' is not JSON"),
        ('// x\n{"a": 1}', "f:1:1: JSON has no comments; use YAML or TOML to write some"),
        ('{"a": 010}', "f:1:7: a number cannot begin with 0 in JSON"),
        ('{"a": "b', "f:1:7: this text has no closing double quote"),
        ('{"a": "b\n"}', "f:1:9: a line end or a tab cannot stand in text"),
        ('{"a": 1', "f:1:8: the file ends too early: } is missing"),
        ('{"a": 1} x', "f:1:10: 'x' stands after the end of the document"),
        ("", "f:1:1: the file ends too early"),
        ("[" * 100_000, "f:1:34: this is nested more than 32 levels deep"),
        ('{"a": ' + "9" * 5000, "f:1:7: this number has 5000 characters"),
    ],
)
def test_wrong_json_is_told_where_and_why(text, expected):
    assert any(line.startswith(expected) for line in refusals(text, "json"))


def test_json_keeps_places():
    document = json_text.read('{\n\t"a": [\n\t\t{"b": 1}\n\t]\n}', "f")
    assert document.mark(("a", 0, "b"), key=True) == Mark(3, 4)
    assert document.mark(("a", 0, "b")) == Mark(3, 9)


TOML = '''
top = "x"   # comment with = and [
[[listeners]]
bind = "127.0.0.1:1"
[[listeners]]
"bind" = '[::1]:1'
[listeners.more]
x = """
a = 1
"quoted" \\""""
[pools."a.b"]
check.interval = "2s"
backends = [ # here
  "10.0.0.1:1",
  { address = "10.0.0.2:1", weight = 3 },
]
'''


def test_toml_keeps_places_through_tables_arrays_and_strings():
    document = toml_text.read(TOML, "f")
    assert document.root.plain() == tomllib.loads(TOML)
    assert document.mark(("top",), key=True) == Mark(2, 1)
    assert document.mark(("listeners", 0, "bind")) == Mark(4, 8)
    assert document.mark(("listeners", 1, "bind"), key=True) == Mark(6, 1)
    assert document.mark(("listeners", 1, "more", "x"), key=True) == Mark(8, 1)
    assert document.mark(("pools", "a.b", "check", "interval")) == Mark(12, 18)
    assert document.mark(("pools", "a.b", "backends", 0)) == Mark(14, 3)
    assert document.mark(("pools", "a.b", "backends", 1, "weight")) == Mark(15, 38)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\na = 2", "f:2:6: this is not TOML: cannot overwrite a value"),
        ("a = ", "f:1:5: this is not TOML: invalid value"),
        ("a = " + "[" * 2000 + "]" * 2000, "f"),
        ("a = " + "[" * 40 + "]" * 40, "f:1:"),
        ("b = 1\n" + ".".join("a" * 100_000) + " = 1", "f:2:1: this key has more than 32 parts"),
    ],
)
def test_wrong_toml_is_told_where_and_why(text, expected):
    assert refusals(text, "toml")[0].startswith(expected)


def test_toml_dates_are_no_text():
    lines = refusals(
        'workers = 2001-01-01\n[[listeners]]\nbind = ":1"\npool = "a"\n[pools.a]\nbackends = ["h:1"]', "toml"
    )
    assert lines == [
        "f:1:11: workers: datetime.date(2001, 1, 1) (date) is not auto or a whole number from 1 to 256"
    ]


@given(st.text(alphabet="ab=.[]{}\"'#\n, 01\\-:tT", max_size=60))
def test_toml_garbage_is_a_document_or_a_config_error(text):
    try:
        document = toml_text.read(text, "f")
    except ConfigError:
        pass
    else:
        assert document.root.plain() == tomllib.loads(text)
