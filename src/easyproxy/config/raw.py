"""Reading a configuration before it has been judged: raw data, as far as it can be read, or finished models.

For rules that concern several settings at once (``cross``, ``kernel``). Nothing here knows what is right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from easyproxy.config.document import Path
from easyproxy.model import Address


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong or doubtful at a place of the document."""

    path: Path
    message: str


def get(item: object, key: str) -> object:
    """Read a setting; None where it is not given or cannot be read."""
    if isinstance(item, Mapping):
        return item.get(key)
    return getattr(item, key, None) if isinstance(item, BaseModel) else None


def given(item: object, key: str) -> bool:
    """Tell whether a setting was written, and not only has its default."""
    if isinstance(item, Mapping):
        return key in item
    return isinstance(item, BaseModel) and key in item.model_fields_set


def items(value: object) -> Sequence[object]:
    """Read a list; empty where it is none."""
    return value if isinstance(value, list | tuple) else ()


def pools_of(raw: object) -> dict[str, object]:
    """Read the pools by name."""
    pools = get(raw, "pools")
    return (
        {key: pool for key, pool in pools.items() if isinstance(key, str)}
        if isinstance(pools, Mapping)
        else {}
    )


def check_type(pool: object) -> object:
    """Read the type of a pool's check, whether it is written as a mapping or bare, or not at all."""
    check = get(pool, "check")
    return check if isinstance(check, str) else get(check, "type") or "tcp"


def address_of(value: object) -> Address | None:
    """Read an address; None where it is none."""
    if isinstance(value, Address):
        return value
    try:
        return Address.parse(value) if isinstance(value, str) else None
    except ValueError:
        return None


def backend_address(backend: object) -> Address | None:
    """Read the address of a backend, whether it is written as a mapping or bare."""
    return address_of(backend if isinstance(backend, str | Address) else get(backend, "address"))
