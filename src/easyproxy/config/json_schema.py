"""The JSON Schema of the configuration, made from the model. Run as a module it renews the shipped file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from easyproxy.config.bases import Settings
from easyproxy.config.checks import CHECK_MODELS
from easyproxy.config.fields import Kind
from easyproxy.config.schema import (
    AccessLogConfig,
    AdminConfig,
    BackendConfig,
    Config,
    DrainConfig,
    FailoverConfig,
    KernelConfig,
    ListenerConfig,
    LogConfig,
    PoolConfig,
)

MODELS: tuple[type[Settings], ...] = (
    Config,
    ListenerConfig,
    PoolConfig,
    FailoverConfig,
    DrainConfig,
    BackendConfig,
    *CHECK_MODELS.values(),
    AdminConfig,
    LogConfig,
    AccessLogConfig,
    KernelConfig,
)
"""Every mapping that a file can hold."""

SHIPPED = Path(__file__).with_name("easyproxy.schema.json")


def render() -> str:
    """Write the schema as text, the same for the same model."""
    schema = Config.model_json_schema()
    for model in MODELS:
        part = schema if model is Config else schema["$defs"][model.__name__]
        part = next((form for form in part.get("anyOf", ()) if "properties" in form), part)
        for name, setting in model.model_fields.items():
            described = part["properties"][setting.alias or name]
            if "default" in described:
                described["default"] = written_default(setting)
    _tidy(schema)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "EasyProxy configuration",
    }
    return (
        json.dumps({**head, **{key: value for key, value in schema.items() if key != "title"}}, indent=2)
        + "\n"
    )


def written_default(setting: FieldInfo) -> object:
    """Give a setting's default in the form of the file; None where there is none to write."""
    kind = next((mark for mark in setting.metadata if isinstance(mark, Kind)), None)
    default = setting.get_default()
    return kind.write(default) if kind and default is not None else default


def _tidy(node: Any) -> None:  # noqa: ANN401 - any part of a JSON document
    """Take out what tells an editor nothing: generated titles, defaults that stand for "not given"."""
    if isinstance(node, list):
        for item in node:
            _tidy(item)
    if not isinstance(node, dict):
        return
    if isinstance(node.get("title"), str):
        del node["title"]
    if node.get("default", 1) is None or node.get("default") == "":
        del node["default"]
    if isinstance(node.get("description"), str):
        node["description"] = " ".join(node["description"].split())
    for value in node.values():
        _tidy(value)


if __name__ == "__main__":
    SHIPPED.write_text(render(), encoding="utf-8")
