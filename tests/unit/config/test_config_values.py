"""How durations, words and addresses are read and written."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

import pytest
from config_samples import config_with, message_for, problems_of
from hypothesis import given
from hypothesis import strategies as st

from easyproxy.config.cross import collide
from easyproxy.config.rates import parse_rate
from easyproxy.config.words import format_duration, listing, nearest, parse_duration
from easyproxy.model import Address, Rate


@given(st.integers(0, 366 * 86400 * 1000))
def test_a_duration_written_from_milliseconds_reads_back_exactly(milliseconds):
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.text(alphabet="0123456789.dhms -+eE", max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text):
    try:
        seconds = parse_duration(text)
    except ValueError:
        pass
    else:
        assert seconds >= 0
        assert Decimal(repr(seconds)).is_finite()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("3s", 3),
        ("1m30s", 90),
        ("1h", 3600),
        ("2d", 172800),
        ("1.5h", 5400),
        ("0", 0),
        ("1s500ms", 1.5),
    ],
)
def test_durations_have_units(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("3", "write 3s for seconds or 3ms"),
        ("3 sec", "write 3s"),
        ("5min", "write 5m"),
        ("2 Hours", "write 2h"),
        ("1s1h", "larger unit first"),
        ("-3s", "negative"),
        ("soon", "for example 250ms, 3s or 1h30m"),
        ("", "for example"),
        ("3s ", "write 3s"),
        ("٣s", "for example"),
    ],
)
def test_a_wrong_duration_is_told_what_to_write(text, advice):
    with pytest.raises(ValueError, match="is not a duration") as caught:
        parse_duration(text)
    assert advice in str(caught.value)


@pytest.mark.parametrize("value", [3, 1.5, -1, True, None, [], {}, float("nan"), float("inf"), 10**400])
def test_a_bare_number_is_no_duration(value):
    assert problems_of(config_with(listener={"idle_timeout": value}))


@given(st.integers(1, 1_000_000), st.sampled_from([1, 60, 3600]))
def test_a_rate_that_is_written_reads_back(count, per_s):
    rate = Rate(count, per_s)
    assert parse_rate(str(rate)) == rate
    assert config_with(listener={"client_rate": str(rate)}, load=True).listeners[0].client_rate == rate


@given(st.text(alphabet="0123456789/smhinperdcoua .-", max_size=14))
def test_any_text_is_a_rate_or_is_told_what_to_write(text):
    try:
        assert parse_rate(text).count > 0
    except ValueError as error:
        for better in re.findall(r"write (\d+/\w+)", str(error)):
            assert parse_rate(better)


@pytest.mark.parametrize("value", [0, "0", "none", None])
def test_no_rate_has_its_words(value):
    assert config_with(listener={"client_rate": value}, load=True).listeners[0].client_rate is None


@pytest.mark.parametrize("value", [0, "0", "none", timedelta(0)])
def test_no_limit_has_its_words(value):
    assert config_with(listener={"idle_timeout": value}, load=True).listeners[0].idle_timeout == 0


def test_none_is_refused_where_it_means_nothing():
    assert "'none' is not a duration" in message_for(config_with(pool={"connect_timeout": "none"}))


def test_zero_is_refused_where_it_means_nothing():
    assert "out of range; 1ms to 1h" in message_for(config_with(pool={"connect_timeout": 0}))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (":80", ":80", True),
        (":80", ":81", False),
        (":80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::1]:80", "[0:0:0:0:0:0:0:1]:80", True),
        ("localhost:80", "127.0.0.1:80", True),
        ("localhost:80", "[::]:80", True),
        ("localhost:80", "[::1]:80", False),
        ("[::]:80", "0.0.0.0:80", True),
        ("a.b:80", "a.b:80", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        (":0", ":0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/run/a", "unix:/run//./a", True),
        ("unix:/a", ":80", False),
    ],
)
def test_addresses_collide_as_sockets_do(one, other, expected):
    assert collide(Address.parse(one), Address.parse(other)) is expected
    assert collide(Address.parse(other), Address.parse(one)) is expected


def test_the_nearest_word_is_found_across_spelling():
    assert nearest("Max-Sessions", ["max_sessions", "name"]) == "max_sessions"
    assert nearest("zzz", ["max_sessions"]) is None
    assert nearest("", []) is None


def test_words_are_joined_as_a_sentence_does():
    assert listing(["a", "b", "c"], "and") == "a, b and c"
    assert listing(["a"]) == "a"
    assert listing([]) == ""
