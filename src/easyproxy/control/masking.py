"""A configuration as it may be shown: in the file's shape, with stars where a secret may stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from easyproxy.config.schema import Config

STARS = "**********"
SECRET = frozenset({"token", "password", "headers", "send", "env", "settings", "options"})
"""Settings whose values may hold a password: what a check sends, its headers, its environment, those of users' own."""


def masked(config: Config) -> dict[str, object]:
    """Return the configuration as plain data in the file's shape, without secrets."""
    shown = _hidden(config.model_dump(mode="json", exclude_none=True), is_secret=False)
    assert isinstance(shown, dict)  # noqa: S101 - a mapping goes in
    return shown


def _hidden(value: object, *, is_secret: bool) -> object:
    if isinstance(value, Mapping):
        return {key: _hidden(item, is_secret=is_secret or key in SECRET) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(item, is_secret=is_secret) for item in value]
    return STARS if is_secret and value not in ("", None) else value
