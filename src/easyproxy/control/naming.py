"""How operators name things: a backend by its id or its name, and what is said when there is none. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.config.words import nearest
from easyproxy.control.operations import UnknownError

if TYPE_CHECKING:
    from collections.abc import Collection


def find_backend(name: str, ids: Collection[str]) -> str:
    """Find a backend by its id (``pool/name``), or by its name where only one pool has it.

    >>> find_backend("db1", ["mysql/db1", "mysql/db2"])
    'mysql/db1'

    Raises:
        UnknownError: there is none, or more than one; the message says which there are.
    """
    if name in ids:
        return name
    found = [one for one in ids if one.partition("/")[2] == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownError(f"more than one backend is called {name}: {', '.join(sorted(found))}")
    near = nearest(name, [*ids, *(one.partition("/")[2] for one in ids)])
    hint = f"did you mean {near}?" if near else _there_is(ids)
    raise UnknownError(f"there is no backend {name}; {hint}")


def _there_is(ids: Collection[str]) -> str:
    shown = ", ".join(list(ids)[:10])
    return f"there is {shown}" + (" and more" if len(ids) > 10 else "") if ids else "there is none at all"
