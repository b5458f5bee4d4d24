"""The kinds of value that settings have: durations, words, whole numbers, text (addresses are in ``addresses``).

Each kind is one marker for ``Annotated``. It brings its own strict validator, whose message an operator can act on,
and its own JSON Schema, so that an editor helps with the same words. No setting is named here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, SecretStr
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from easyproxy.config.document import shown
from easyproxy.config.words import (
    DURATION_PATTERN,
    LONGEST_S,
    format_duration,
    listing,
    nearest,
    parse_duration,
)
from easyproxy.model import path_bytes

JsonSchema = dict[str, Any]

# C0, DEL, C1, the line ends of Unicode and what turns text round (https://trojansource.codes): they break logs and
# tables, or show something else than what is there, and terminals obey some of them.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def wrong(message: str) -> PydanticCustomError:
    """Make the error that carries a finished message through pydantic."""
    # The message goes in as a value: a template would interpret braces that come from the user's file.
    return PydanticCustomError("easyproxy", "{message}", {"message": message})


class Kind:
    """A marker for ``Annotated``: strict validation, serialisation back to the file's form, JSON Schema."""

    def read(self, value: object) -> object:
        """Validate a value of the file; raises what :func:`wrong` makes."""
        raise NotImplementedError

    def write(self, value: Any) -> object:  # noqa: ANN401 - whatever read returned
        """Bring a value back to the form of the file."""
        return value

    def schema(self) -> JsonSchema:
        """Describe the form of the file for editors."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Hook into pydantic."""
        return core_schema.no_info_plain_validator_function(
            self.read, serialization=core_schema.plain_serializer_function_ser_schema(self.write)
        )

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Hook into pydantic."""
        return self.schema()


@dataclass(frozen=True, slots=True)
class Duration(Kind):
    """A duration; the model holds seconds.

    Attributes:
        least, most: bounds in seconds.
        zero: what ``0`` stands for, where it is allowed.
        none: whether ``none`` may be written for 0.
    """

    least: float = 0.001
    most: float = LONGEST_S
    zero: str = ""
    none: bool = False

    def read(self, value: object) -> float:
        """Read text with a unit, a bare 0, or (from Python) a timedelta."""
        if isinstance(value, timedelta):
            seconds = value.total_seconds()
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise wrong(f"{shown(value)} is not a duration; write a number with a unit, for example 3s")
        elif isinstance(value, int | float):
            if value != 0:
                text = f"{value:.6g}" if abs(value) < 10**6 else ""  # also leaves out nan and inf
                hint = (
                    f"write {text}s for seconds or {text}ms for milliseconds"
                    if text
                    else "write one, as in 3s"
                )
                raise wrong(f"{shown(value)} has no unit; {hint}")
            seconds = 0.0
        elif value == "none" and self.none:
            seconds = 0.0
        else:
            try:
                seconds = parse_duration(value)
            except ValueError as error:
                raise wrong(str(error)) from None
        if seconds == 0 and self.zero:
            return 0.0
        if not self.least <= seconds <= self.most:
            less = f" (or 0 for {self.zero})" if self.zero else ""
            bounds = f"{format_duration(self.least)} to {format_duration(self.most)}"
            raise wrong(f"{shown(value)} is out of range; {bounds}{less} is allowed")
        return seconds

    def write(self, value: float) -> str:
        """Write with units."""
        return format_duration(value)

    def schema(self) -> JsonSchema:
        """Give a pattern with units; 0 and none where they mean something."""
        forms: list[JsonSchema] = [
            {
                "type": "string",
                "pattern": DURATION_PATTERN,
                "description": "A duration with a unit: 250ms, 3s, 1m30s, 1h, 2d.",
                "examples": ["250ms", "3s", "1m30s", "1h"],
            }
        ]
        if self.zero:
            forms.append({"const": 0, "description": f"0 is {self.zero}."})
        if self.none:
            forms.append({"const": "none", "description": f"none is {self.zero}."})
        return forms[0] if len(forms) == 1 else {"anyOf": forms}


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """A whole number within bounds; ``also`` are words that may stand for it (``auto``)."""

    least: int
    most: int
    also: tuple[str, ...] = ()

    def read(self, value: object) -> int | str:
        """Read an int; a string of digits is not one."""
        if isinstance(value, str) and value in self.also:
            return value
        expected = listing([*self.also, f"a whole number from {self.least} to {self.most}"])
        if isinstance(value, bool) or not isinstance(value, int):
            if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,12}", value, re.ASCII):
                raise wrong(f"{shown(value)} is text; write the number without quotes: {int(value)}")
            if isinstance(value, str) and (near := nearest(value, self.also)):
                raise wrong(f"{shown(value)} is not known here; did you mean {near}?")
            raise wrong(f"{shown(value)} is not {expected}")
        if not self.least <= value <= self.most:
            raise wrong(f"{shown(value)} is out of range; {self.least} to {self.most} is allowed")
        return value

    def schema(self) -> JsonSchema:
        """Give the bounds."""
        number: JsonSchema = {"type": "integer", "minimum": self.least, "maximum": self.most}
        return {"anyOf": [number, *({"const": word} for word in self.also)]} if self.also else number


@dataclass(frozen=True, slots=True)
class Fraction(Kind):
    """A number from 0 to ``most``."""

    most: float

    def read(self, value: object) -> float:
        """Read an int or a float."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= self.most:
            raise wrong(f"{shown(value)} is not a number from 0 to {self.most:g}")
        return float(value)

    def schema(self) -> JsonSchema:
        """Give the bounds."""
        return {"type": "number", "minimum": 0, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Switch(Kind):
    """``true`` or ``false`` and no other spelling."""

    def read(self, value: object) -> bool:
        """Read a bool; ``yes`` and ``on`` are text in YAML 1.2."""
        if not isinstance(value, bool):
            meant = {"yes": "true", "on": "true", "no": "false", "off": "false", "1": "true", "0": "false"}
            better = meant.get(str(value).lower()) if isinstance(value, str | int) else None
            better = better or (str(value).lower() if str(value).lower() in ("true", "false") else None)
            raise wrong(f"{shown(value)} is not true or false" + (f"; write {better}" if better else ""))
        return value

    def schema(self) -> JsonSchema:
        """Say boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text.

    Attributes:
        least, most: lengths in characters.
        pattern: what all of it must match, with ``form`` saying so in words.
        line: refuse line ends and other control characters.
    """

    least: int = 0
    most: int = 4096
    pattern: str = ""
    form: str = ""
    line: bool = False
    secret: bool = False

    def read(self, value: object) -> str:
        """Read a string; numbers have to be quoted, so that 010 and 1.10 stay what they are."""
        if not isinstance(value, str):
            if isinstance(value, bool | int | float) and not self.secret:
                word = str(value).lower() if isinstance(value, bool) else str(shown(value))
                raise wrong(f'{word} is not text here; put it in quotes: "{word}"')
            remedy = "write one text" if isinstance(value, Mapping | list) else "write it in quotes"
            raise wrong(f"{'this' if self.secret else shown(value)} is not text; {remedy}")
        name = "this" if self.secret else shown(value)
        if not self.least <= len(value) <= self.most:
            raise wrong(f"{name} has {len(value)} characters; {self.least} to {self.most} are allowed")
        if any(0xD800 <= ord(char) <= 0xDFFF for char in value):
            raise wrong(f"{name} holds half of a surrogate pair, which is not a character")
        if self.line and (found := CONTROL.search(value)):
            raise wrong(f"{name} holds the control character {found[0]!r}; it must be one line of text")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise wrong(f"{name} is not {self.form}")
        return value

    def schema(self) -> JsonSchema:
        """Give the lengths and the pattern."""
        found: JsonSchema = {"type": "string"}
        if self.least:
            found["minLength"] = self.least
        if self.pattern:
            found["pattern"] = f"^{self.pattern}$"
        return found


@dataclass(frozen=True, slots=True)
class FileName(Text):
    """The name of a file, which this program must be able to write in its character set; attributes as of :class:`Text`."""

    line: bool = True

    def read(self, value: object) -> str:
        """Read a string; whether there is such a file is found out by whoever opens it."""
        name = Text.read(self, value)
        try:
            path_bytes(name)
        except ValueError as error:
            raise wrong(str(error)) from None
        return name


@dataclass(frozen=True, slots=True)
class FileMode(Text):
    """Permissions of a file, in octal digits as chmod(1) takes them."""

    pattern: str = "(0?[0-7]{3})?"
    form: str = 'a file mode; write three octal digits as for chmod, for example "0660"'

    def read(self, value: object) -> str:
        """Read a string: of a number nobody could tell which digits were meant (in TOML 0o660 is 432)."""
        if isinstance(value, int) and not isinstance(value, bool):
            raise wrong('a file mode is text; write it in quotes, as chmod takes it: "0660"')
        return Text.read(self, value)


@dataclass(frozen=True, slots=True)
class Word(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, value: object) -> str:
        """Read a word, and name the nearest one for a wrong one."""
        if isinstance(value, str) and value in self.words:
            return value
        near = nearest(value, self.words) if isinstance(value, str) else None
        hint = f"did you mean {near}?" if near else f"write {listing(self.words)}"
        raise wrong(f"{shown(value)} is not known here; {hint}")

    def schema(self) -> JsonSchema:
        """Give the words."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Secret(Kind):
    """Text that no message, repr or dump shows: a password.

    Attributes:
        least, most, pattern, form: as of :class:`Text`.
    """

    least: int = 1
    most: int = 4096
    pattern: str = r"[^\x00-\x1f\x7f]+"
    form: str = "one line of printable characters"

    def read(self, value: object) -> SecretStr:
        """Read it; a message about it does not repeat it."""
        if isinstance(value, SecretStr):
            return value
        return SecretStr(Text(self.least, self.most, self.pattern, self.form, secret=True).read(value))

    def write(self, value: SecretStr | None) -> str | None:
        """Write stars."""
        return None if value is None else str(value)

    def schema(self) -> JsonSchema:
        """Give the form."""
        return {
            "type": "string",
            "minLength": self.least,
            "maxLength": self.most,
            "pattern": f"^{self.pattern}$",
        }


@dataclass(frozen=True, slots=True)
class Token(Secret):
    """A secret that can stand in a header."""

    least: int = 16
    most: int = 512
    pattern: str = r"[\x21-\x7e]+"
    form: str = "a token: printable ASCII without spaces"


@dataclass(frozen=True, slots=True)
class Custom(Kind):
    """Any reader function with a schema of its own, for a setting that is like no other."""

    reader: Callable[[object], object]
    form: tuple[tuple[str, Any], ...]

    def read(self, value: object) -> object:
        """Call the reader."""
        return self.reader(value)

    def schema(self) -> JsonSchema:
        """Give the form."""
        return dict(self.form)
