"""Health checks: one small class per protocol, and how a configuration names them."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Mapping

from pydantic import SecretStr

from easyproxy.engine.seam import Facts
from easyproxy.health.checks.base import Check, Finding, Target
from easyproxy.health.checks.exec import ExecCheck
from easyproxy.health.checks.http import HttpCheck
from easyproxy.health.checks.mysql import MysqlCheck
from easyproxy.health.checks.postgresql import PostgresqlCheck
from easyproxy.health.checks.redis import RedisCheck
from easyproxy.health.checks.tcp import TcpCheck

__all__ = [
    "CHECKS",
    "Check",
    "ExecCheck",
    "Facts",
    "Finding",
    "HttpCheck",
    "MysqlCheck",
    "PostgresqlCheck",
    "RedisCheck",
    "Target",
    "TcpCheck",
    "make",
]

CHECKS: Mapping[str, type[Check]] = {
    "tcp": TcpCheck,
    "http": HttpCheck,
    "exec": ExecCheck,
    "mysql": MysqlCheck,
    "postgresql": PostgresqlCheck,
    "redis": RedisCheck,
}
"""The checks that come with EasyProxy, by the word that a configuration uses."""


def make(type: str, options: Mapping[str, object] | None = None) -> Check:  # noqa: A002 - the configuration's word
    """Make the check that a configuration names: a word of :data:`CHECKS`, or ``module:Class`` of the user's own.

    Options are the keyword arguments of the class.

    >>> make("tcp", {"send": "PING", "expect": "PONG"})
    TcpCheck(tls=False, tls_verify=True, tls_ca='', server_name='', send='PING', expect='PONG')

    Raises:
        ValueError: there is no such check, or it does not take these options; the message says what would be right.
    """
    kind = CHECKS[type] if type in CHECKS else _load(type)
    given = {name: _guarded(kind, name, value) for name, value in (options or {}).items()}
    _refuse_unknown(type, kind, given)
    try:
        check = kind(**given)
    except Exception as error:  # a user's class may raise anything; it is told like any other wrong option
        raise ValueError(f"check {type}: {error}") from error
    if not isinstance(check, Check):
        raise ValueError(f"check {type} made a {check.__class__.__name__}, which is no Check")  # noqa: TRY004
    return check


def _load(name: str) -> type[Check]:
    """Import ``module:Class``."""
    module_name, colon, class_name = name.partition(":")
    if not colon or not module_name or not class_name:
        near = difflib.get_close_matches(name, CHECKS, n=1)
        hint = f"did you mean {near[0]}? Known are" if near else "known are"
        raise ValueError(f"there is no check {name!r}; {hint} {', '.join(CHECKS)}, or module:Class")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"check {name}: cannot import {module_name}: {error}") from error
    kind = getattr(module, class_name, None)
    if kind is None:
        raise ValueError(f"check {name}: module {module_name} has no {class_name}")
    if not (inspect.isclass(kind) and issubclass(kind, Check)):
        raise ValueError(f"check {name}: {class_name} is no subclass of easyproxy.health.checks.Check")
    if not inspect.iscoroutinefunction(kind.probe):
        raise ValueError(
            f"check {name}: {class_name} must have a method: async def probe(self, target) -> str"
        )
    return kind


def _guarded(kind: type[Check], name: str, value: object) -> object:
    """Take a password given as plain text out of sight, before anything is said about it."""
    is_secret = kind in CHECKS.values() and any(
        field.name == name and "SecretStr" in str(field.type)
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    )
    return SecretStr(value) if is_secret and isinstance(value, str) else value


def _refuse_unknown(type: str, kind: type[Check], given: Mapping[str, object]) -> None:  # noqa: A002
    """Name unknown options, missing ones, and values of a wrong plain type, all at once."""
    parameters = inspect.signature(kind).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    wrong = []
    for name in given.keys() - parameters.keys():
        near = difflib.get_close_matches(name, parameters, n=1)
        wrong.append(f"there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    wrong += [
        f"option {name} is missing"
        for name, one in parameters.items()
        if one.default is inspect.Parameter.empty and name not in given
    ]
    if kind in CHECKS.values():
        wrong += _wrong_types(kind, given)
    if wrong:
        raise ValueError(f"check {type}: " + "; ".join(sorted(wrong)))


def _wrong_types(kind: type[Check], given: Mapping[str, object]) -> list[str]:
    """Compare the values with the fields of one of our own checks."""
    wrong = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # ours are all dataclasses
        if field.name not in given:
            continue
        value = given[field.name]
        match str(field.type):
            case "str":
                fits, wanted = isinstance(value, str), "text"
            case "bool":
                fits, wanted = isinstance(value, bool), "true or false"
            case "SecretStr | None":
                fits, wanted = value is None or isinstance(value, SecretStr), "text"
                value = value.__class__.__name__
            case "tuple[str, ...]":
                fits, wanted = _is_texts(value), "a list of texts"
            case _:
                fits = isinstance(value, Mapping) and _is_texts([*value, *value.values()])
                wanted = "a mapping of texts to texts"
        if not fits:
            wrong.append(f"option {field.name} is {value!r}; it must be {wanted}")
    return wrong


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
