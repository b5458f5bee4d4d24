"""How a configuration names checks, and what they refuse before anything is served."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from easyproxy.health.checks import CHECKS, ExecCheck, HttpCheck, MysqlCheck, TcpCheck, make
from easyproxy.health.checks.base import plain


def test_every_word_of_the_configuration_makes_its_check():
    assert make("tcp", {}) == TcpCheck()
    assert make("http", {"path": "/up", "headers": {"X-A": "b"}}) == HttpCheck(
        path="/up", headers={"X-A": "b"}
    )
    assert make("exec", {"command": ["true"], "env": {"A": "b"}}) == ExecCheck(("true",), {"A": "b"})
    assert make("mysql") == MysqlCheck()


def test_equal_checks_are_equal_and_hashable_so_that_a_reload_does_not_disturb_them():
    options = {"path": "/up", "headers": {"X-A": "b"}}
    assert make("http", options) == make("http", options)
    assert hash(make("http", options)) == hash(make("http", options))
    assert make("http", options) != make("http", {"path": "/down"})


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("tpc", {}, "did you mean tcp"),
        (
            "smtp",
            {},
            "there is no check 'smtp'; known are tcp, http, exec, mysql, postgresql, redis, or module:Class",
        ),
        ("tcp", {"sent": "x"}, "no option sent; did you mean send?"),
        (
            "tcp",
            {"send": 5, "tls": "yes"},
            "send is 5; it must be text; option tls is 'yes'; it must be true or false",
        ),
        ("exec", {}, "option command is missing"),
        ("exec", {"command": "true -x"}, "it must be a list of texts"),
        ("exec", {"command": []}, "command is empty"),
        ("http", {"expect_status": "2xx"}, "write codes and ranges"),
        ("http", {"expect_status": "399-200"}, "is empty"),
        ("http", {"path": "/a b"}, "cannot be sent"),
        ("http", {"path": "/x\r\nX: y"}, "cannot be sent"),
        ("http", {"headers": {"A": "b\r\nC: d"}}, "cannot be sent"),
        ("http", {"headers": ["A"]}, "a mapping of texts to texts"),
        ("mysql", {"user": ""}, "1 to 80 bytes"),
        (
            "mysql",
            {"password": "x", "password_env": "Y"},
            "give one of password, password_file and password_env",
        ),
        ("mysql", {"password": 7}, "option password is 'int'; it must be text"),
        ("no_such_module:Check", {}, "cannot import no_such_module"),
        ("json:Check", {}, "module json has no Check"),
        ("json:JSONDecoder", {}, "no subclass"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(kind, options, words):
    with pytest.raises(ValueError, match="check") as caught:
        make(kind, options)
    assert words in str(caught.value)


def test_a_password_given_as_plain_text_is_shown_by_nothing():
    check = make("mysql", {"password": "hunter2"})
    assert check == make("mysql", {"password": SecretStr("hunter2")})
    assert "hunter2" not in repr(check)
    with pytest.raises(ValueError, match="mysql") as caught:
        make("mysql", {"password": "hunter2", "user": ""})
    assert "hunter2" not in str(caught.value)


def test_a_user_s_class_takes_its_options_and_its_own_errors_are_told(tmp_path, monkeypatch):
    (tmp_path / "own_checks.py").write_text(
        "from easyproxy.health.checks import Check\n"
        "class Own(Check):\n"
        "    def __init__(self, limit=1):\n"
        "        if limit > 5: raise RuntimeError('limit is too high')\n"
        "        self.limit = limit\n"
        "    async def probe(self, target): return 'own'\n"
        "class Sync(Check):\n"
        "    def probe(self, target): return 'own'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert make("own_checks:Own", {"limit": 2}).limit == 2
    with pytest.raises(ValueError, match="limit is too high"):
        make("own_checks:Own", {"limit": 6})
    with pytest.raises(ValueError, match="no option limits; did you mean limit"):
        make("own_checks:Own", {"limits": 6})
    with pytest.raises(ValueError, match="async def probe"):
        make("own_checks:Sync")


@given(st.one_of(st.text(max_size=500), st.binary(max_size=500)), st.integers(5, 80))
def test_whatever_a_backend_says_becomes_one_bounded_printable_line(answer, limit):
    line = plain(answer, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert line == line.strip()


@pytest.mark.parametrize(
    "module", ["diagnosis", "monitor", "verdict", "schedule", "checks", "checks.base", "checks.exec"]
)
def test_every_module_can_be_imported_first(module):
    subprocess.run([sys.executable, "-c", f"import easyproxy.health.{module}"], check=True)


@pytest.mark.parametrize(
    "module", ["diagnosis", "checks", "checks.base", "checks.database", "checks.mysql.standing"]
)
def test_the_examples_in_the_docstrings_are_true(module):
    assert doctest.testmod(importlib.import_module(f"easyproxy.health.{module}")).failed == 0


def test_the_lexicon_has_no_more_checks_than_are_documented():
    assert set(CHECKS) == {"tcp", "http", "exec", "mysql", "postgresql", "redis"}
