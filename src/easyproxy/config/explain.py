"""Turns what pydantic found into problems that an operator can act on: place, path, wrong value, nearest right word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from easyproxy.config.bases import CheckSettings
from easyproxy.config.checks import CHECK_MODELS, CHECK_TYPES
from easyproxy.config.document import MAX_REPORTED, Document, Path, path_text, shown
from easyproxy.config.schema import (
    AccessLogConfig,
    AdminConfig,
    BackendConfig,
    Config,
    ListenerConfig,
    LogConfig,
    PoolConfig,
)
from easyproxy.config.words import listing, nearest
from easyproxy.errors import Problem

_EXAMINED = 10 * MAX_REPORTED  # finding the nearest word costs; a hostile file may hold 100,000 unknown keys
_ADMIN_HINT = "write off to run without admin server"
# Words of other balancers and of people in a hurry; too far from ours for a comparison of letters.
_MEANT = {
    "listen": ("bind",),
    "address": ("bind",),
    "addr": ("address",),
    "host": ("address",),
    "server": ("address",),
    "servers": ("backends", "pools"),
    "upstreams": ("backends",),
    "upstream": ("pool", "pools"),
    "backend": ("pool", "pools", "backends"),
    "frontend": ("listeners",),
    "balance": ("strategy",),
    "algorithm": ("strategy",),
    "maxconn": ("max_sessions",),
    "max_conns": ("max_sessions",),
    "max_connections": ("max_sessions",),
    "health_check": ("check",),
    "healthcheck": ("check",),
    "timeout": ("connect_timeout",),
    "inter": ("interval",),
    "heartbeat": ("interval",),
    "frontends": ("listeners",),
    "services": ("pools",),
    "processes": ("workers",),
    "threads": ("workers",),
    "logging": ("log",),
}


def explain(
    error: ValidationError,
    document: Document,
    raw: object,
    unknown: Callable[[Path, Path], str] | None = None,
) -> list[Problem]:
    """Turn a validation error into problems, in the order of the file, each once.

    Args:
        error: what pydantic found.
        document: knows where everything stands.
        raw: the data that was validated.
        unknown: what to say of an unknown key, from its path in the document and in the model.
    """
    items = error.errors(include_url=False)
    misspelt = {hint for item in items[:_EXAMINED] if (hint := _meant(item, raw))}
    placed = []
    for item in items:
        path = _document_path(item, raw)
        mark = document.mark(path, key=item["type"] == "extra_forbidden" or _on_key(item))
        placed.append(((mark.line, mark.column) if mark else (0, 0), mark, path, item))
    placed.sort(key=lambda one: one[0])
    found: dict[Problem, None] = {}
    for _, mark, path, item in placed[:_EXAMINED]:
        message = _message(item, path, raw)
        if item["type"] == "extra_forbidden" and unknown:
            message = unknown(path, item["loc"])
        if message is not None and path not in misspelt:
            shown_path = path[:-1] if item["type"] == "missing" else path
            found[Problem(document.where(mark), path_text(shown_path), message)] = None
    # Each of the others is a problem; what it is would be costly to say, and nobody reads so far.
    last = document.where(placed[-1][1])  # so that they stay behind the others
    more = [Problem(last, "", "not examined")] * (len(placed) - _EXAMINED)
    return [*found, *more]


def shorten(problems: list[Problem], name: str) -> list[Problem]:
    """Keep the first hundred: past that, the file as a whole is the problem."""
    if len(problems) <= MAX_REPORTED:
        return problems
    rest = Problem(name, "", f"{len(problems) - MAX_REPORTED} further problems are not shown")
    return [*problems[:MAX_REPORTED], rest]


def _on_key(item: ErrorDetails) -> bool:
    return item["loc"][-1:] == ("[key]",)


def _message(item: ErrorDetails, path: Path, raw: object) -> str | None:
    """Say what is wrong; None says nothing."""
    kind, value = item["type"], item.get("input")
    message: str | None = f"{item['msg']} (got {shown(value)})"
    if kind == "easyproxy":
        message = str(item["ctx"]["message"])
    elif kind == "extra_forbidden":
        message = _unknown(path, item["loc"])
    elif kind == "missing":
        message = _missing(path)
    elif kind == "too_short":
        # Items that were refused for their own faults are missing here too; that needs no second message.
        message = None if _at(raw, path) else "it is empty; at least one is needed"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        message = _check_type(_at(raw, path[:-1] if path[-1] == "type" else path))
    elif kind in ("tuple_type", "list_type"):
        message = f"{shown(value)} stands where a list belongs" + _list_hint(path)
    elif kind in ("dict_type", "model_type", "model_attributes_type"):
        message = f"{shown(value)} stands where a mapping belongs" + _mapping_hint(path)
    return message


def _document_path(item: ErrorDetails, raw: object) -> Path:
    """Take out what pydantic put into the path and what shorthands stand for."""
    path = list(item["loc"])
    if len(path) > 3 and path[0] == "pools" and path[2] == "check":
        del path[3]  # the type that the union chose
    if _on_key(item):
        path.pop()
    if item["type"].startswith("union_tag") and isinstance(_at(raw, path), Mapping):
        path.append("type")
    for depth in range(len(path)):
        node = _at(raw, path[:depth])
        # A bare "10.0.0.1:80" or "mysql" has no inner places.
        if depth and not isinstance(node, Mapping | list | tuple) and node is not None:
            return tuple(path[:depth])
    return tuple(path)


def _at(raw: object, path: Sequence[int | str]) -> object:
    node = raw
    for step in path:
        if isinstance(node, Mapping):
            node = node.get(step)
        elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
            node = node[step]
        else:
            return None
    return node


def model_at(path: Path, check: str = "tcp") -> type[BaseModel] | None:
    """Say which model describes the mapping at a path."""
    if not path:
        return Config
    if path[0] == "pools" and len(path) > 2:
        inner: dict[object, type[BaseModel]] = {"backends": BackendConfig, "check": CHECK_MODELS[check]}
        return inner.get(path[2])
    models: dict[object, type[BaseModel]] = {
        "listeners": ListenerConfig,
        "pools": PoolConfig,
        "admin": AdminConfig,
        "log": LogConfig,
        "access_log": AccessLogConfig,
    }
    return models.get(path[0])


def _settings(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _meant(item: ErrorDetails, raw: object) -> Path | None:
    """Return the path that a misspelt key was meant to be; that it is missing needs no message of its own."""
    if item["type"] != "extra_forbidden":
        return None
    path = _document_path(item, raw)
    model = model_at(path[:-1], _check_of(item["loc"]))
    near = _near(str(path[-1]), _settings(model)) if model else None
    return (*path[:-1], near) if near else None


def _check_of(loc: tuple[int | str, ...]) -> str:
    return str(loc[3]) if len(loc) > 3 and loc[2] == "check" else "tcp"


def _near(key: str, known: list[str]) -> str | None:
    meant = _MEANT.get(key.lower().replace("-", "_"), ())
    return next((word for word in meant if word in known), None) or nearest(key, known)


def _unknown(path: Path, loc: tuple[int | str, ...]) -> str:
    key = str(path[-1])
    check = _check_of(loc)
    model = model_at(path[:-1], check)
    if key == "<<":
        return "merge keys (<<) are not part of YAML 1.2; use an alias for the whole value, or write the settings out"
    if model is None:
        return f"there is no setting {shown(key)}"
    known = _settings(model)
    owner = _owner(path[:-1], check)
    if issubclass(model, CheckSettings):
        others = [kind for kind in CHECK_TYPES if kind != check and key in _settings(CHECK_MODELS[kind])]
        if others:
            return f"{owner} has no setting {shown(key)}; {listing(others)} has: write type: {others[0]}"
    if near := _near(key, known):
        return f"there is no setting {shown(key)} in {owner}; did you mean {near}?"
    elsewhere = _elsewhere(key, model)
    if elsewhere:
        return f"there is no setting {shown(key)} in {owner}; it belongs to {elsewhere}"
    return f"there is no setting {shown(key)} in {owner}; it has {listing(known, 'and')}"


_OWNERS: dict[str, type[BaseModel]] = {
    "the top level": Config,
    "a listener": ListenerConfig,
    "a pool": PoolConfig,
    "a backend": BackendConfig,
    "a pool's check": CheckSettings,
    "log": LogConfig,
    "access_log": AccessLogConfig,
}


def _elsewhere(key: str, here: type[BaseModel]) -> str:
    return listing(text for text, model in _OWNERS.items() if model is not here and key in _settings(model))


def _owner(path: Path, check: str) -> str:
    if not path:
        return "the top level"
    if len(path) >= 3 and path[2] == "check":
        return "a check of your own" if check == "custom" else f"{_article(check)} {check} check"
    if len(path) >= 3 and path[2] == "backends":
        return "a backend"
    return {"listeners": "a listener", "pools": "a pool"}.get(str(path[0]), str(path[0]))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _missing(path: Path) -> str:
    examples = {
        "bind": "bind: 127.0.0.1:3306",
        "pool": "pool: and the name of a pool",
        "backends": "backends: and a list of addresses",
        "address": "address: 10.0.0.1:3306",
        "listeners": "listeners: and where clients connect",
        "pools": "pools: and the servers behind the listeners",
        "command": 'command: ["/path/to/program"]',
    }
    name = str(path[-1])
    return f"{name} is missing; add {examples.get(name, name)}"


def _check_type(check: object) -> str:
    kind = check.get("type") if isinstance(check, Mapping) else check
    if isinstance(check, Mapping) and not isinstance(kind, str):
        return f"{shown(kind)} is not a type of check; write {listing(CHECK_TYPES)}, or module:Class"
    if not isinstance(kind, str):
        return f"{shown(kind)} stands where a check belongs; write for example {{type: tcp, interval: 2s}}"
    near = nearest(kind, CHECK_TYPES) or {
        "https": "http with tls: true",
        "mariadb": "mysql",
        "postgres": "postgresql",
        "pgsql": "postgresql",
        "valkey": "redis",
        "script": "exec",
    }.get(kind)
    hint = (
        f"did you mean {near}?"
        if near
        else f"write {listing(CHECK_TYPES)}, or module:Class for one of your own"
    )
    return f"{shown(kind)} is not a type of check; {hint}"


def _list_hint(path: Path) -> str:
    examples = {
        "listeners": "; write the listeners below it, each after a dash: - bind: ...",
        "backends": "; write the addresses below it, each after a dash, or as [10.0.0.1:3306, 10.0.0.2:3306]",
    }
    return examples.get(str(path[-1]) if path else "", "")


def _mapping_hint(path: Path) -> str:
    if path == ("admin",):
        return f": bind: 127.0.0.1:7259; or {_ADMIN_HINT}"
    if path == ("pools",):
        return ": the name of each pool, and its settings below it"
    if path and path[0] == "listeners":
        return ": bind: and pool:"
    if len(path) == 4 and path[2] == "backends":
        return "; write an address, or {address: 10.0.0.1:3306} with more settings"
    if path == ("access_log",):
        return "; write stdout, a path, or {path: /var/log/easyproxy/access.log, format: haproxy}"
    if path == ("log",):
        return ": level: and format:"
    return ""
