"""Addresses as people write them, and the plain data that engines get."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.errors import ConfigError, Problem
from easyproxy.model import Address, Backend, Listener, Pool, Snapshot

ports = st.integers(0, 65535)
hosts = st.one_of(
    st.ip_addresses().map(str),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{1,5}){0,2}", fullmatch=True),
    st.just(""),
)
paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20).map("/{}".format)
addresses = st.one_of(st.builds(Address, host=hosts, port=ports), st.builds(Address, path=paths))


@given(addresses)
def test_what_an_address_prints_is_read_as_the_same_address(address):
    assert Address.parse(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_is_refused_in_words(text):
    try:
        address = Address.parse(text)
    except ValueError as refused:
        words = str(refused)
        assert "address" in words or "ends at" in words or "too long" in words
    else:
        assert 0 <= address.port <= 65535
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("localhost", "write host:port"),
        ("", "write host:port"),
        ("host:", "write host:port"),
        ("host:http", "write host:port"),
        ("host:-1", "write host:port"),
        ("host:65536", "ports end at 65535"),
        ("host:99999", "ports end at 65535"),
        ("host:\u0661\u0662", "write host:port"),
        ("::1:80", r"write an IPv6 address in brackets: \[::1\]:80"),
        ("[::1", "ambiguous"),
        ("[]:80", "does not hold an IPv6 address"),
        ("[10.0.0.1]:80", "does not hold an IPv6 address"),
        ("http://host:80", "brackets"),
        ("user@host:80", "does not hold a host name"),
        ("two words:80", "does not hold a host name"),
        ("unix:relative", "unix:/absolute/path"),
        ("unix:/" + "x" * 107, "107 bytes"),
        ("unix:/run/\ud800.sock", "cannot be written in the character set of this program, utf-8"),
        ("unix:/" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 60, "107 bytes"),
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(text, words):
    with pytest.raises(ValueError, match=words):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "numeric"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("[fe80::1%eth0]:1", True),
        ("unix:/run/x", True),
        ("localhost:1", False),
        ("127.1:1", False),
        (":1", False),
    ],
)
def test_an_address_is_numeric_when_nobody_must_be_asked_for_it(text, numeric):
    assert Address.parse(text).is_numeric is numeric


def test_a_snapshot_finds_its_pools_by_name_and_is_equal_by_content():
    pools = (Pool("a", backends=(Backend("a/x", "x", Address("10.0.0.1", 1)),)), Pool("b"))
    listeners = (Listener("l", Address("", 80), "a"),)
    one, two = Snapshot(3, listeners, pools), Snapshot(3, tuple(listeners), tuple(pools))
    assert one == two
    assert one.pool_by_name == {"a": pools[0], "b": pools[1]}
    assert one != Snapshot(4, listeners, pools)
    assert "pool_by_name" not in repr(one)


@pytest.mark.parametrize("kind", [Address, Backend, Pool, Listener, Snapshot, Problem])
def test_values_are_frozen_and_small(kind):
    assert kind.__dataclass_params__.frozen
    assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)
    field = dataclasses.fields(kind)[0].name
    values = {
        item.name: None
        for item in dataclasses.fields(kind)
        if item.init and item.default is dataclasses.MISSING
    }
    if kind is not Snapshot:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(kind(**values), field, 1)


def test_a_configuration_error_says_every_problem_on_a_line_of_its_own():
    """Behaviour 31."""
    problems = [Problem("a.yaml:1:2", "pools.x", "is wrong"), Problem("", "", "is wrong too")]
    error = ConfigError(problems)
    assert str(error) == "a.yaml:1:2: pools.x: is wrong\nis wrong too"
    assert error.problems == problems
