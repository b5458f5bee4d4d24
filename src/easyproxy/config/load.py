"""From a file, a text or a mapping to a :class:`~easyproxy.config.schema.Config`, or to every error at once.

Reads files and nothing else of the system; everything that can be wrong with one comes out as a ``ConfigError``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from easyproxy.config import cross, files, json_text, legacy, probing, toml_text, yaml12
from easyproxy.config.document import MAX_BYTES, Document, Mark, path_text, shown
from easyproxy.config.explain import explain, shorten
from easyproxy.config.fields import Token
from easyproxy.config.raw import Finding
from easyproxy.config.schema import AdminConfig, Config
from easyproxy.errors import ConfigError, Problem

FORMATS: dict[str, Callable[[str, str], Document]] = {
    "yaml": yaml12.read,
    "toml": toml_text.read,
    "json": json_text.read,
}
SUFFIXES = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is right, and what is doubtful about it."""

    config: Config
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A file as it was read once: what is judged is what was compared."""

    name: str
    form: str
    text: str

    @property
    def digest(self) -> str:
        """A short name of the content: equal for equal content, whenever it was written."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def load(path: str | Path, *, strategies: frozenset[str] | None = None) -> Config:
    """Read a configuration file; its suffix decides the format.

    Args:
        path: a ``.yaml``, ``.yml``, ``.toml`` or ``.json`` file. The old EasyProxy JSON is recognised by its keys.
        strategies: names that the engine can express; None is all that come with EasyProxy.

    Raises:
        ConfigError: with every problem at once. Nothing else is raised, whatever the file holds.
    """
    return examine(path, strategies=strategies).config


def examine(path: str | Path, *, strategies: frozenset[str] | None = None) -> Loaded:
    """Read a configuration file as :func:`load` does, and keep the warnings."""
    return examine_source(read_source(path), strategies=strategies)


def examine_source(source: Source, *, strategies: frozenset[str] | None = None) -> Loaded:
    """Judge what was read from a file, and keep the warnings."""
    return examine_text(source.text, source.form, source.name, strategies=strategies)


def read_source(path: str | Path) -> Source:
    """Read a file without judging its content.

    Raises:
        ConfigError: it cannot be read, or is not text, or its name does not tell the format.
    """
    name = str(path)
    form = SUFFIXES.get(Path(path).suffix.lower())
    if form is None:
        message = "the file name does not tell the format; it must end in .yaml, .yml, .toml or .json"
        try:
            _data(path)
        except (OSError, ValueError) as error:  # a name without an end is often a wrong one
            message = _unreadable(error)
        raise ConfigError([Problem(name, "", message)])
    return Source(name, form, _text(path, name))


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a file to quote from, numbered as problems number them; none where it cannot be read."""
    try:
        text = _data(path).decode("utf-8-sig", "replace")
    except (OSError, ValueError):
        return []
    # Only what the readers count as the end of a line.
    return text.replace("\r\n", "\n").split("\n")


def loads(text: str, format: str, name: str = "", *, strategies: frozenset[str] | None = None) -> Config:  # noqa: A002 - the word that callers expect
    """Read a configuration from a text.

    Args:
        text: the text itself.
        format: ``yaml``, ``toml`` or ``json``.
        name: what messages call it.
        strategies: names that the engine can express; None is all that come with EasyProxy.

    Raises:
        ConfigError: with every problem at once.
    """
    return examine_text(text, format, name or f"<{format}>", strategies=strategies).config


def from_dict(mapping: Mapping[str, object], *, strategies: frozenset[str] | None = None) -> Config:
    """Make a configuration from plain data of the file's shape.

    Raises:
        ConfigError: with every problem at once, each with its path.
    """
    return _judge(Document(""), dict(mapping), strategies).config


def examine_text(text: str, form: str, name: str, *, strategies: frozenset[str] | None = None) -> Loaded:
    """Read a text of a known format as :func:`loads` does, and keep the warnings."""
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(name, "", f"the file is larger than {MAX_BYTES // 1024**2} MiB")])
    document = FORMATS[form](text, name)
    raw = document.root.plain() if document.root else None
    if not isinstance(raw, dict):
        message = f"the whole file is {shown(raw)}; it must be a mapping with listeners and pools"
        raise ConfigError([*document.problems, Problem(document.where(Mark(1, 1)), "", message)])
    if form == "json" and legacy.is_legacy(raw):
        return _judge_legacy(document, raw)
    return _judge(document, raw, strategies)


def _judge(document: Document, raw: dict[str, object], strategies: frozenset[str] | None) -> Loaded:
    problems = [*document.problems, *_placed(document, files.over_itself(raw, document.name))]
    try:
        config = Config.model_validate(raw, context={"strategies": strategies})
    except ValidationError as error:
        problems += explain(error, document, raw)
        raise ConfigError(shorten(in_order(problems), document.name)) from None
    if problems:
        raise ConfigError(shorten(in_order(problems), document.name))
    doubts = [*cross.warnings(raw), *probing.warnings(config)]
    return Loaded(config, tuple(in_order(_placed(document, doubts, key=True))))


def _placed(document: Document, findings: Iterable[Finding], *, key: bool = False) -> list[Problem]:
    """Say where findings stand: at the values, or at the keys."""
    return [
        Problem(document.where(document.mark(item.path, key=key)), path_text(item.path), item.message)
        for item in findings
    ]


def _judge_legacy(document: Document, raw: dict[str, object]) -> Loaded:
    problems = list(document.problems)
    try:
        old = legacy.OldFile.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, document, raw, legacy.explain_unknown)
        raise ConfigError(shorten(in_order(problems), document.name)) from None
    problems += legacy.contradictions(old, document)
    if problems:
        raise ConfigError(shorten(in_order(problems), document.name))
    return Loaded(legacy.convert(old), legacy.warnings(old, document))


def in_order(problems: list[Problem]) -> list[Problem]:
    """Sort problems as they stand in the file; those without a place come first."""

    def place(problem: Problem) -> tuple[int, int]:
        parts = problem.where.rsplit(":", 2)
        if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
            return int(parts[1]), int(parts[2])
        return 0, 0

    return sorted(problems, key=place)


def _text(path: str | Path, name: str) -> str:
    try:
        data = _data(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError([Problem(name, "", _unreadable(error))]) from None
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(name, "", f"the file is larger than {MAX_BYTES // 1024**2} MiB")])
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError([Problem(f"{name}:1:1", "", "the file is UTF-16; save it as UTF-8")])
    try:
        # A byte order mark is what some Windows editors put there; it says nothing.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = data[: error.start].decode("utf-8-sig")
        mark = Mark.of(good, len(good))
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise ConfigError([Problem(f"{name}:{mark.line}:{mark.column}", "", message)]) from None


def _data(path: str | Path) -> bytes:
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("it is no regular file")
        return file.read(MAX_BYTES + 1)


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # fifo(7): it would wait for a writer, for ever


def read_token(admin: AdminConfig) -> str | None:
    """Return the admin server's token, from the configuration or from its file; None if there is none.

    Raises:
        ConfigError: the file cannot be read, or does not hold a token.
    """
    if admin.token is not None:
        return admin.token.get_secret_value()
    if admin.token_file is None:
        return None
    try:
        return Token().read(_text(admin.token_file, admin.token_file).strip()).get_secret_value()
    except ConfigError as error:
        named = [replace(problem, path="admin.token_file") for problem in error.problems]
        raise ConfigError(named) from None
    except PydanticCustomError as error:
        raise ConfigError([Problem(admin.token_file, "admin.token_file", error.message())]) from None


def _unreadable(error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    known = {
        errno.ENOENT: "there is no such file",
        errno.EACCES: "the file may not be read by this user",
        errno.EISDIR: "this is a directory, not a file",
    }
    return known.get(number or 0, f"the file cannot be read: {error}")
