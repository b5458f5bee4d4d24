"""Checks that log in: where the password may stand, and that nothing repeats it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from config_samples import config_with, message_for, refusals

from easyproxy.cli.check import command as check_command
from easyproxy.config.load import examine_text
from easyproxy.control.masking import masked
from easyproxy.health.checks import make

WORD = "hunter2-hunter2"


def options(**settings):
    return config_with(check={"type": "mysql", **settings}, load=True).pools["db"].check


def test_the_documented_example_is_read_and_made():
    place = "/run/secrets/monitor"
    settings = options(user="monitor", password_file=place, interval="1s", max_lag="5s")
    assert settings.max_lag == 5
    made = make("mysql", settings.options())
    assert (made.user, made.password_file, made.tls) == ("monitor", place, False)


def test_without_a_limit_no_lag_is_too_much():
    assert options().max_lag == options(max_lag=0).max_lag == options(max_lag="none").max_lag == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"password_file": "secrets/monitor"}, "an absolute path, or the name of a systemd credential"),
        ({"password_env": "A-B"}, "is not a variable's name"),
        ({"password": ""}, "this has 0 characters; 1 to 4096 are allowed"),
        ({"password": 12345678}, "this is not text; write it in quotes"),
        ({"password": WORD + "\n"}, "this is not one line of printable characters"),
        ({"password": "x", "password_file": "/x"}, "there is password already; give one of password"),
        ({"password_file": "/x", "password_env": "X"}, "there is password_file already"),
        ({"max_lag": 5}, "has no unit; write 5s"),
    ],
)
def test_what_is_wrong_is_told(settings, words):
    said = message_for(config_with(check={"type": "mysql", **settings}))
    assert words in said
    assert WORD not in said
    assert "12345678" not in said


def test_no_error_anywhere_in_the_file_repeats_a_password(tmp_path):
    raw = config_with(check={"type": "mysql", "password": WORD, "intervall": "1s"})
    text = json.dumps(raw)
    assert WORD not in "\n".join(refusals(text, "json"))
    path = tmp_path / "easyproxy.json"
    path.write_text(text)
    result = CliRunner().invoke(check_command, [str(path)])
    assert result.exit_code == 2
    assert WORD not in result.output


def test_a_password_where_no_check_wants_one_is_not_repeated():
    for kind in ("tcp", "http", "none", "pg"):
        raw = config_with(check={"type": kind, "password": WORD})
        assert WORD not in "\n".join(refusals(json.dumps(raw), "json"))


def test_nothing_that_shows_a_configuration_shows_a_password():
    config = config_with(check={"type": "mysql", "password": WORD}, load=True)
    settings = config.pools["db"].check
    shown = (
        repr(config),
        str(config.model_dump()),
        config.model_dump_json(),
        json.dumps(masked(config)),
        repr(make("mysql", settings.options())),
    )
    assert WORD not in "\n".join(shown)
    assert masked(config)["pools"]["db"]["check"]["password"] == "**********"  # noqa: S105 - stars


def test_max_lag_without_a_listener_of_replicas_is_a_warning():
    raw = config_with(check={"type": "mysql", "max_lag": "5s"})
    [found] = examine_text(json.dumps(raw), "json", "f").warnings
    assert f"{found.path}: {found.message}" == (
        "pools.db.check.max_lag: it has no effect: no listener of this pool has role: replica"
    )


@pytest.mark.parametrize(
    ("kind", "user", "database"), [("postgresql", "easyproxy", "postgres"), ("redis", "default", None)]
)
def test_the_other_databases_have_the_same_settings(kind, user, database):
    settings = config_with(
        check={"type": kind, "password_file": "/run/secrets/monitor", "interval": "1s", "max_lag": "5s"},
        load=True,
    )
    check = settings.pools["db"].check
    made = make(kind, check.options())
    assert (check.max_lag, made.user, made.password_file) == (5, user, "/run/secrets/monitor")
    assert getattr(made, "database", None) == database


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"type": "postgresql", "database": "a b"}, "a database's name in ASCII"),
        ({"type": "postgresql", "user": "x" * 64}, "has 64 characters; 1 to 63 are allowed"),
        ({"type": "postgresql", "databse": "x"}, "did you mean database?"),
        ({"type": "redis", "user": ""}, "0 characters"),
        ({"type": "redis", "database": "0"}, "database"),
        ({"type": "postgres"}, "did you mean postgresql?"),
        ({"type": "valkey"}, "did you mean redis?"),
    ],
)
def test_what_is_wrong_with_the_other_databases_is_told(settings, words):
    assert words in message_for(config_with(check=settings))


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_a_check_made_by_a_program_refuses_what_the_protocol_cannot_carry(kind):
    with pytest.raises(ValueError, match="user is"):
        make(kind, {"user": ""})
    with pytest.raises(ValueError, match="give one of password"):
        make(kind, {"password": WORD, "password_env": "X"})
