"""Where a password comes from, and that nothing repeats it."""

from __future__ import annotations

import os

import pytest
from pydantic import SecretStr

from easyproxy.health.checks.password import LONGEST, NoPasswordError, Password


def refusal(password: Password) -> str:
    with pytest.raises(NoPasswordError) as caught:
        password.read()
    return str(caught.value)


def test_it_stands_in_the_configuration_in_a_file_or_in_the_environment(tmp_path, monkeypatch):
    (tmp_path / "word").write_text("from a file\n")
    monkeypatch.setenv("WORD", "from the environment")
    assert Password(SecretStr("inline")).read() == "inline"
    assert Password(file=str(tmp_path / "word")).read() == "from a file"
    assert Password(env="WORD").read() == "from the environment"
    assert not Password().is_given


def test_a_name_without_a_slash_is_a_systemd_credential(tmp_path, monkeypatch):
    (tmp_path / "monitor").write_text("s3cret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Password(file="monitor").read() == "s3cret"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    assert refusal(Password(file="monitor")) == (
        "monitor has no slash, so it is a systemd credential, and $CREDENTIALS_DIRECTORY is not set;"
        " write an absolute path"
    )


def test_a_file_is_read_anew_each_time(tmp_path):
    path = tmp_path / "word"
    password = Password(file=str(path))
    for word in ("first", "second"):
        path.write_text(word)
        assert password.read() == word


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty or not set"),
        (b"\n\n", "is empty or not set"),
        (b"\xffhunter2", "is not UTF-8"),
        (b"hunter2\nhunter3", "does not hold a password"),
        (b"hunter2\0", "does not hold a password"),
        (b"hunter2" * LONGEST, "does not hold a password"),
    ],
)
def test_what_is_no_password_is_told_without_repeating_it(tmp_path, content, words):
    path = tmp_path / "word"
    path.write_bytes(content)
    said = refusal(Password(file=str(path)))
    assert words in said
    assert str(path) in said
    assert "hunter" not in said


def test_what_cannot_be_read_is_told(tmp_path):
    assert refusal(Password(file=str(tmp_path / "none"))).endswith("there is no such file")
    assert "folder" in refusal(Password(file=str(tmp_path)))
    assert refusal(Password(env="EASYPROXY_NO_SUCH")) == (
        "the environment variable EASYPROXY_NO_SUCH is empty or not set"
    )


def test_a_named_pipe_that_nobody_writes_to_blocks_nobody(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "no regular file" in refusal(Password(file=str(path)))


def test_nothing_shows_it():
    password = Password(SecretStr("hunter2"))
    assert "hunter2" not in repr(password) + str(password)
