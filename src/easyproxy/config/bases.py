"""What every mapping of the file has, and what every health check: the bases of the models.

Only settings live here; what a check does on the wire is in ``easyproxy.health``, which configuration never imports.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator

from easyproxy.config.fields import Duration, FileName, Fraction, Switch, Text, Whole, wrong
from easyproxy.config.words import format_duration

HostText = Annotated[
    str, Text(most=253, pattern=r"[\x21-\x7e]*", form="a host name in ASCII (write others as xn--...)")
]
CaFile = Annotated[str, FileName()]
MaxLag = Annotated[float, Duration(least=0.05, most=86400, zero="no limit", none=True)]


class Settings(BaseModel):
    """Base of every mapping in the file: frozen, unknown settings refused, docstrings become descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=False,
        hide_input_in_errors=True,
    )


class CheckSettings(Settings):
    """What every health check has."""

    common: ClassVar[frozenset[str]] = frozenset(
        {"type", "interval", "timeout", "rise", "fall", "fast_interval", "jitter", "port"}
    )

    interval: Annotated[float, Duration(least=0.05, most=86400)] = 2.0
    """Time from the start of one probe to the start of the next, for each backend."""

    timeout: Annotated[float, Duration(least=0.01, most=86400)] = 1.0
    """Time within which a probe must succeed, connecting included. It may not be longer than `interval`; when it is
    left out and `interval` is shorter than 1s, it is as long as `interval`."""

    rise: Annotated[int, Whole(1, 1000)] = 2
    """Successful probes in a row after which a backend that was down counts as healthy."""

    fall: Annotated[int, Whole(1, 1000)] = 3
    """Failures in a row after which a healthy backend counts as down."""

    fast_interval: Annotated[float, Duration(least=0.05, most=86400)] = 0.5
    """The interval while the verdict is changing: after a first failure of a healthy backend, after a first success of
    one that is down. It may not be longer than `interval`; when left out, it is never longer."""

    jitter: Annotated[float, Fraction(0.5)] = 0.1
    """Share by which every interval is shortened or lengthened at random, so that probes do not come in step."""

    port: Annotated[int | None, Whole(1, 65535)] = None
    """Probe this port instead of the one that serves clients."""

    @field_validator("timeout", "fast_interval")
    @classmethod
    def _fits_interval(cls, seconds: float, info: ValidationInfo) -> float:
        interval = info.data.get("interval")
        if interval is not None and seconds > interval:
            raise wrong(
                f"{format_duration(seconds)} is longer than the interval of {format_duration(interval)};"
                f" write {format_duration(interval)} or less, or a longer interval"
            )
        return seconds

    @model_validator(mode="before")
    @classmethod
    def _type_alone(cls, value: object) -> object:
        """Read ``check: mysql`` as ``check: {type: mysql}``."""
        return {"type": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shorten_defaults(self) -> Self:
        for name in ("timeout", "fast_interval"):
            if name not in self.model_fields_set and getattr(self, name) > self.interval:
                object.__setattr__(
                    self, name, self.interval
                )  # still under construction: frozen holds afterwards
        return self

    def options(self) -> dict[str, object]:
        """Return what belongs to the type alone, as keyword arguments for making the check."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in self.common}


class TlsSettings(CheckSettings):
    """What every health check has that can speak TLS."""

    tls: Annotated[bool, Switch()] = False
    """Speak TLS; the check of a database logs in only with it then."""

    tls_verify: Annotated[bool, Switch()] = True
    """Verify the certificate and its name."""

    tls_ca: CaFile = ""
    """File with the certificates of the authorities to trust (PEM); by default the system's."""

    server_name: HostText = ""
    """Name for SNI and verification; by default the backend's host, for `http` its `host` if that is set."""
