"""The bodies of requests that change something. Strict: unknown keys are refused, every text has a length.

Whether a change is possible is decided by the balancer; here is decided only whether the request can be read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from easyproxy.config.document import MAX_BYTES
from easyproxy.config.fields import JsonSchema, Kind, Text, wrong
from easyproxy.config.schema import BackendConfig
from easyproxy.config.words import DURATION_PATTERN, LONGEST_S, format_duration, parse_duration
from easyproxy.model import MAX_WEIGHT


@dataclass(frozen=True, slots=True)
class Line(Text):
    """One line of text: it goes into logs, tables and terminals."""

    line: bool = True

    def schema(self) -> JsonSchema:
        """Give the lengths, and leave out what terminals obey."""
        bounds: JsonSchema = {"minLength": self.least} if self.least else {}
        return {
            "type": "string",
            **bounds,
            "maxLength": self.most,
            "pattern": r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$",
        }


@dataclass(frozen=True, slots=True)
class Span(Kind):
    """Seconds as a number, or a duration as the configuration has them; 0 and an empty text are never."""

    def read(self, value: object) -> float:
        """Read either."""
        if isinstance(value, str):
            try:
                seconds = parse_duration(value[:100]) if value else 0.0
            except ValueError as error:
                raise wrong(str(error)) from None
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong("this is not a duration; write seconds, or a text with a unit such as 30m")
        else:
            seconds = value
        if not 0 <= seconds <= LONGEST_S:  # nan is neither
            raise wrong(f"this is out of range; 0 (never) to {format_duration(LONGEST_S)} is allowed")
        return float(seconds)

    def schema(self) -> JsonSchema:
        """Give both forms."""
        return {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": LONGEST_S},
                {"type": "string", "pattern": f"{DURATION_PATTERN}|^$", "examples": ["30m", "1h30m"]},
            ],
        }


_NAME = 1024  # characters of a name; there is none that is longer


class Change(BaseModel):
    """Who changes something, and why."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    who: Annotated[str, Line(most=100)] = ""
    """Who does it, shown wherever the change is; by default the user behind a unix socket, else `api`."""
    why: Annotated[str, Line(most=500)] = ""
    """The reason, shown wherever the change is."""


class BackendChange(Change):
    """A change of one backend."""

    backend: Annotated[str, Line(least=1, most=_NAME)]
    """Its id: `pool/name`."""


class Overriding(BackendChange):
    """A change of one backend that may end by itself."""

    ttl: Annotated[float, Span()] = 0.0
    """After so long it ends by itself: seconds, or a text with a unit; 0 is never."""


class Draining(Overriding):
    """A backend that is to be left by its sessions."""

    deadline: Annotated[float, Span()] = 0.0
    """After so long the sessions that are left are closed: seconds, or a text with a unit; by default, and for 0, as the pool's
    `drain.deadline` says."""


class Weighting(Overriding):
    """A backend's share of new sessions."""

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)]
    """Relative to the other backends of its pool."""


class Adding(Change):
    """A backend that the file does not have."""

    pool: Annotated[str, Line(least=1, most=_NAME)]
    """Name of the pool that gets it."""
    backend: Annotated[
        BackendConfig, WithJsonSchema({"anyOf": [{"type": "string"}, BackendConfig.model_json_schema()]})
    ]
    """As in the file: an address, or a mapping with `address`, `name`, `weight`, `max_sessions`, `backup`."""
    ttl: Annotated[float, Span()] = 0.0
    """After so long it ends by itself: seconds, or a text with a unit; 0 is never."""


class Forgetting(Change):
    """An override to take away."""

    id: Annotated[str, Line(least=1, most=_NAME)]
    """Its id, as `GET /api/overrides` lists it."""


class Closing(Change):
    """Which sessions: every given field must match, and at least one must be given."""

    id: Annotated[str, Line(most=_NAME)] = ""
    """Of one session."""
    backend: Annotated[str, Line(most=_NAME)] = ""
    """All on this backend: `pool/name`."""
    client: Annotated[str, Line(most=_NAME)] = ""
    """All of this client: its address without port."""
    listener: Annotated[str, Line(most=_NAME)] = ""
    """All of this listener."""


class Planning(Change):
    """A configuration to compare with the one in force."""

    text: Annotated[str, Field(max_length=MAX_BYTES)] | None = None
    """The configuration; by default the file is read."""
    form: Literal["yaml", "toml", "json"] = "yaml"
    """In which form the text is written."""


class Reloading(Change):
    """How to load the file again."""

    rollback_after: Annotated[float, Span()] = 0.0
    """Go back after so long unless confirmed: seconds, or a text with a unit; 0 is never."""
