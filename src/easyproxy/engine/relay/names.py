"""The names of sessions, ``index.generation.number`` of the worker that accepted them, and of their clients. Pure.

A session keeps its name when another worker goes on with it (an upgrade). There its number, which must be unique in
that worker, holds index and generation of the first one too, above everything that a worker counts up to.
"""

from __future__ import annotations

_NUMBER_BITS, _GENERATION_BITS = 64, 32
_ELSEWHERE = 1 << 128


def prefix_of(index: int, generation: int) -> str:
    """Return how the names of a worker's own sessions begin."""
    return f"{index}.{generation}."


def name_of(prefix: str, number: int) -> str:
    """Name a session by its number and by the prefix of the worker that has it now.

    >>> name_of("0.3.", 17), name_of("0.3.", number_elsewhere("1.2.5"))
    ('0.3.17', '1.2.5')
    """
    if number < _ELSEWHERE:
        return f"{prefix}{number}"
    own = number & ((1 << _NUMBER_BITS) - 1)
    generation = (number >> _NUMBER_BITS) & ((1 << _GENERATION_BITS) - 1)
    index = (number - _ELSEWHERE) >> (_NUMBER_BITS + _GENERATION_BITS)
    return f"{index}.{generation}.{own}"


def number_elsewhere(name: str) -> int:
    """Return the number of a session that another worker has accepted.

    Raises:
        ValueError: it is no name.
    """
    index, generation, number = (int(part) for part in name.split("."))
    return _ELSEWHERE | index << (_NUMBER_BITS + _GENERATION_BITS) | generation << _NUMBER_BITS | number


def client_text(host: str, port: int) -> str:
    """Write a client's address for people.

    >>> client_text("192.0.2.1", 1025), client_text("2001:db8::1", 1025), client_text("unix", 0)
    ('192.0.2.1:1025', '[2001:db8::1]:1025', 'unix')
    """
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
