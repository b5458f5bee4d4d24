"""The state file: overrides survive a restart. Reading and writing it, and nothing else.

Written whole and atomically (a temporary file in the same directory, fsync, rename(2)), mode 0600, only when something
has changed. One that cannot be understood is moved aside, never deleted and never written over; what somebody else has put
there (a device, another program's file) is left where it is.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyproxy.control.asked import is_shown_whole
from easyproxy.control.operations import Action, Author, Override

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION = 1
MAX_BYTES = 16 * 1024**2
FORMAT = "easyproxy overrides"
_LATEST = 250_000_000_000  # the year 9892; calendars end soon after


class StateFileError(Exception):
    """The file could not be read or written; the message says which and why."""


class StateFile:
    """Where overrides are kept between two runs. Not meant for two programs at the same time.

    Args:
        path: of the file; its directory must exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._written: tuple[Override, ...] | None = None
        self._writing = (
            threading.Lock()
        )  # fsync(2) may be slow, and one who does not wait for it is followed by another
        self._is_barred = False  # something lies there that is not ours and could not be moved

    @property
    def shortage(self) -> str:
        """Why nothing can be written there, as far as that can be told beforehand; empty when it can."""
        folder = self.path.parent
        if not folder.is_dir():
            return f"there is no directory {folder}"
        return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} may not be written by this user"

    def read(self) -> tuple[Override, ...]:
        """Read the overrides; none when there is no file.

        Raises:
            StateFileError: it cannot be read, or is not one of ours. In the second case it was moved aside.
        """
        try:
            data = _data(self.path)
        except FileNotFoundError:
            return ()
        except OSError as error:
            self._is_barred = True
            raise StateFileError(
                f"{self.path} cannot be read: {error.strerror or error}; overrides of the last run are not in "
                "force, and new ones will not survive a restart"
            ) from None
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"it is larger than {MAX_BYTES // 1024**2} MiB")  # noqa: TRY301
            found = parse(data.decode("utf-8"))  # UnicodeDecodeError is a ValueError
        except ValueError as error:
            if _was_ours(data):
                raise StateFileError(self._move_aside(str(error))) from None
            self._is_barred = True
            raise StateFileError(
                f"{self.path} is no state file: {error}; it is left as it is, so overrides of the last run are not in "
                "force, and new ones will not survive a restart; name another place as state_file"
            ) from None
        self._written = found
        return found

    def write(self, overrides: Iterable[Override]) -> bool:
        """Write the overrides unless they are there already; return whether the file was written.

        Raises:
            StateFileError: it could not be written; the former file is untouched.
        """
        with self._writing:
            return self._write(tuple(overrides))

    def _write(self, wanted: tuple[Override, ...]) -> bool:
        if wanted == self._written or (not wanted and self._written is None and not self.path.exists()):
            return False
        if self._is_barred:
            raise StateFileError(
                f"{self.path} is not ours to write: it is no state file, or could be neither read nor moved aside"
            )
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            _write(temporary, render(wanted).encode("ascii"))
            temporary.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StateFileError(f"{self.path} cannot be written: {error.strerror or error}") from None
        self._written = wanted
        return True

    def _move_aside(self, why: str) -> str:
        """Move what is not understood out of the way; return what to tell."""
        aside = self.path.with_name(f"{self.path.name}.broken-{time.strftime('%Y%m%dT%H%M%S')}")
        number = 0
        while os.path.lexists(aside):
            number += 1
            aside = aside.with_name(f"{self.path.name}.broken-{time.strftime('%Y%m%dT%H%M%S')}-{number}")
        try:
            self.path.rename(aside)
        except OSError as error:
            self._is_barred = True
            return (
                f"{self.path} is no state file of this version: {why}; it could not be moved aside "
                f"({error.strerror or error}), so overrides will not survive a restart"
            )
        return (
            f"{self.path} is no state file of this version: {why}; it lies at {aside} now, and the "
            "overrides of the last run are not in force"
        )


def default_place(config: str | Path, environment: Mapping[str, str]) -> Path:
    """Say where the state of ``easyproxy run FILE`` is kept when the configuration names no place.

    >>> str(default_place("/etc/easyproxy/easyproxy.yaml", {"STATE_DIRECTORY": "/var/lib/easyproxy"}))
    '/var/lib/easyproxy/overrides.json'
    >>> str(default_place("/etc/easyproxy/easyproxy.yaml", {}))
    '/etc/easyproxy/easyproxy.overrides.json'
    """
    # systemd.exec(5): StateDirectory= may name several, separated by colons.
    folder = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if folder:
        return Path(folder) / "overrides.json"
    file = Path(config).absolute()
    return file.with_name(f"{file.stem}.overrides.json")


# -- its text


def render(overrides: Iterable[Override]) -> str:
    """Write overrides as the text of a state file."""
    plain = [to_plain(override) for override in overrides]
    return json.dumps({"format": FORMAT, "version": VERSION, "overrides": plain}, indent=1) + "\n"


def parse(text: str) -> tuple[Override, ...]:
    """Read the text of a state file.

    Raises:
        ValueError: it is not one, or of another version; the message says what is wrong.
    """
    try:
        document = json.loads(text)
        json.dumps(document, ensure_ascii=False).encode()  # nor a half of a surrogate pair, behind an escape
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair, which is not a character") from None
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f'it is something else: there is no "format": "{FORMAT}" in it')
    if document.get("version") != VERSION:
        raise ValueError(f"it has version {document.get('version')!r}, this program writes {VERSION}")
    items = document.get("overrides")
    if not isinstance(items, list):
        raise ValueError("its overrides are no list")  # noqa: TRY004 - of the file's content
    found = tuple(from_plain(item) for item in items)
    if len({override.id for override in found}) != len(found):
        raise ValueError("two of its overrides have the same id")
    return found


def to_plain(override: Override) -> dict[str, object]:
    """Write one override as plain data, which JSON can hold."""
    plain = asdict(override)
    del plain["warning"]
    without = {"value": None, "base": None, "until": 0.0, "deadline": 0.0, "conflict": ""}
    return {key: value for key, value in plain.items() if key not in without or value != without[key]}


def from_plain(item: object) -> Override:
    """Read one override.

    Raises:
        ValueError: something is missing or wrong.
    """
    if not isinstance(item, dict):
        raise ValueError("one of its overrides is no mapping")  # noqa: TRY004 - of the file's content
    author: Any = item.get("author")
    try:
        override = Override(
            id=_line(item["id"]),
            backend=_line(item["backend"]),
            action=Action(item["action"]),
            author=Author(_line(author["who"]), _line(author.get("why", ""))),
            at=_time(item["at"]),
            value=_value(item.get("value")),
            base=_value(item.get("base")),
            until=_time(item.get("until", 0.0)),
            deadline=_time(item.get("deadline", 0.0)),
            conflict=_word(item.get("conflict", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"one of its overrides is wrong ({type(error).__name__}: {error})") from None
    needed = {Action.WEIGHT: int, Action.ADD: dict}.get(override.action)
    if needed is not None and not isinstance(override.value, needed):
        raise ValueError(f"the value of override {override.id} is not what {override.action} needs")
    if needed is None and override.value is not None:
        raise ValueError(f"override {override.id} has a value that {override.action} does not have")
    return override


def _word(value: object) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise ValueError("text was expected")
    return value


def _line(value: object) -> str:
    if not is_shown_whole(text := _word(value)):
        raise ValueError("one line of text was expected")
    return text


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise ValueError("a time was expected")
    return float(value)


def _value(value: object) -> int | dict[str, object] | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)) or isinstance(value, dict):
        return value
    raise ValueError("a weight or a backend was expected")


# -- the disk


def _data(path: Path) -> bytes:
    # Not through a link that somebody left there, and without waiting for the writer of a FIFO (open(2)).
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(MAX_BYTES + 1)


def _was_ours(data: bytes) -> bool:
    """Whether a crash, another version or an editor may have left this of a state file."""
    return FORMAT.encode() in data or not data.strip(b"\0") or render(()).encode().startswith(data)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # of a run that was killed while writing
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename last (fsync(2): the entry in the directory needs its own); not every filesystem can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
