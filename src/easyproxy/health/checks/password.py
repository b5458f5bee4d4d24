"""Where the password of a check's own account comes from: the configuration, a file, or the environment.

It is read for each probe, so that a new one takes effect without a reload. It is held by nobody here, and no message
repeats it.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

LONGEST = 4096
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""systemd names the folder of a unit's credentials in this variable (systemd.exec(5))."""

_UNREADABLE = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "this user may not read it",
    errno.EISDIR: "it is a folder",
}


class NoPasswordError(Exception):
    """A password was promised and cannot be had; the message says where it was looked for, never what was found."""


@dataclass(frozen=True, slots=True)
class Password:
    """One of three places; all empty is no password.

    Attributes:
        inline: the password itself.
        file: an absolute path, or the name of a systemd credential (without a slash).
        env: the name of an environment variable.
    """

    inline: SecretStr | None = None
    file: str = ""
    env: str = ""

    @property
    def is_given(self) -> bool:
        """Whether there is to be one."""
        return self.inline is not None or bool(self.file or self.env)

    def read(self) -> str:
        """Return it as it is now.

        Raises:
            NoPasswordError: it cannot be had.
        """
        if self.inline is not None:
            return self.inline.get_secret_value()
        if self.env:
            return _checked(os.environ.get(self.env, ""), f"the environment variable {self.env}")
        return _of_file(self.file)


def _of_file(name: str) -> str:
    if "/" in name:
        path = Path(name)
    elif folder := os.environ.get(CREDENTIALS):
        path = Path(folder, name)
    else:
        raise NoPasswordError(
            f"{name} has no slash, so it is a systemd credential, and ${CREDENTIALS} is not set; write an absolute path"
        )
    try:
        data = _data(path)
    except OSError as error:
        raise NoPasswordError(
            f"cannot read {path}: {_UNREADABLE.get(error.errno or 0, str(error))}"
        ) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:  # its message would repeat what was found
        raise NoPasswordError(f"{path} is not UTF-8") from None
    # Editors and echo end a file with a line end; a password that does so is nobody's intention.
    return _checked(text.rstrip("\r\n"), str(path))


def _checked(text: str, place: str) -> str:
    if not text:
        raise NoPasswordError(f"{place} is empty or not set")
    if len(text) > LONGEST or not text.isprintable():
        raise NoPasswordError(
            f"{place} does not hold a password: one line of up to {LONGEST} printable characters"
        )
    return text


def _data(path: Path) -> bytes:
    # fifo(7): opening one waits for a writer, for ever, and the whole event loop with it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        return file.read(4 * LONGEST + 1)
