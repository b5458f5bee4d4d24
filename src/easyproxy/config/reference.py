"""The tables of ``docs/configuration.md``, made from the model, so that the page cannot say anything else.

Prose and examples of the page are written by hand around them. Run as a module with the page's path to renew it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from pydantic.fields import FieldInfo

from easyproxy.config.bases import CheckSettings, Settings, TlsSettings
from easyproxy.config.databases import DatabaseCheckSettings
from easyproxy.config.json_schema import MODELS, written_default

_TABLE = re.compile(r"(<!-- settings of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_COMMON = (CheckSettings, TlsSettings, DatabaseCheckSettings)
_ALL: tuple[type[Settings], ...] = (*MODELS, *_COMMON)
TABLES = {model.__name__: model for model in _ALL}
"""What the page may ask for, by name."""


def table(model: type[Settings]) -> str:
    """Write the table of a mapping's settings. Types of check leave out what their tables before have."""
    inherited = {
        name
        for base in _COMMON
        if model is not base and issubclass(model, base)
        for name in base.model_fields
    }
    hidden = {"type", *inherited} - (model.__annotations__.keys() - {"type"})
    rows = ["| Setting | Default | What it does |", "|---|---|---|"]
    for name, setting in model.model_fields.items():
        if name not in hidden:
            text = " ".join((setting.description or "").split()).replace("|", "\\|")
            rows.append(f"| `{setting.alias or name}` | {_default(setting)} | {text} |")
    return "\n".join(rows) if len(rows) > 2 else "It has no settings of its own."


def _default(setting: FieldInfo) -> str:
    if setting.is_required():
        return "**required**"
    value = setting.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, CheckSettings):
        return "`tcp`"
    if isinstance(value, Settings):
        inner = value.model_dump(mode="json", exclude_none=True)
        return "`{" + ", ".join(f"{key}: {item}" for key, item in inner.items()) + "}`"
    value = written_default(setting) if setting.default_factory is None else value
    if value is None or value == "":
        return "–"  # noqa: RUF001 - well typeset
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def renew(page: str) -> str:
    """Put today's tables into a page.

    Raises:
        KeyError: the page asks for a table of something that is no model.
    """
    return _TABLE.sub(lambda match: f"{match[1]}\n{table(TABLES[match[2]])}\n\n{match[3]}", page)


def missing(page: str) -> set[str]:
    """Name the models whose table the page does not show."""
    return set(TABLES) - {match[2] for match in _TABLE.finditer(page)}


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(renew(target.read_text(encoding="utf-8")), encoding="utf-8")
