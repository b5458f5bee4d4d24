"""The strategies by name, and how a name becomes a class. Each strategy is one file; ``base`` says what one is.

Workers import this package: the standard library and the model only, and nothing expensive at import.
"""

from __future__ import annotations

import importlib

from easyproxy.strategy.base import Context, Strategy, StrategyError
from easyproxy.strategy.first import First
from easyproxy.strategy.least_connections import LeastConnections
from easyproxy.strategy.maglev import Maglev
from easyproxy.strategy.power_of_two import PowerOfTwo
from easyproxy.strategy.random import Random
from easyproxy.strategy.round_robin import RoundRobin
from easyproxy.strategy.source_hash import SourceHash

__all__ = ["ALIASES", "BUILTIN", "ENTRY_POINTS", "Context", "Strategy", "StrategyError", "load"]

BUILTIN: dict[str, type[Strategy]] = {
    "round_robin": RoundRobin,
    "random": Random,
    "source_hash": SourceHash,
    "least_connections": LeastConnections,
    "power_of_two": PowerOfTwo,
    "maglev": Maglev,
    "first": First,
}

ALIASES: dict[str, str] = {"poll": "round_robin", "iphash": "source_hash"}
"""Names of the old EasyProxy, still accepted."""

ENTRY_POINTS = "easyproxy.strategies"
"""The group under which a package registers strategies of its own."""


def load(name: str) -> type[Strategy]:
    """Find the class of a strategy: a built-in name, an old name, ``module:Class``, or the name of an entry point.

    Looking at ``module:Class`` or an entry point imports, and so runs, the user's module.

    Raises:
        StrategyError: there is no such strategy, it cannot be imported, or it is no usable subclass of ``Strategy``.
    """
    builtin = BUILTIN.get(ALIASES.get(name, name))
    if builtin is not None:
        return builtin
    if ":" in name:
        return _checked(name, _imported(name))
    return _checked(name, _registered(name))


def _imported(name: str) -> object:
    """Import what ``module:Class`` names."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise StrategyError(f"strategy {name!r} is incomplete; write module:Class")
    try:
        found: object = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise StrategyError(
            f"strategy {name!r}: cannot import module {module_name!r}: {type(error).__name__}: {error}"
        ) from error
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise StrategyError(f"strategy {name!r}: module {module_name!r} has no {path!r}") from None
    return found


def _registered(name: str) -> object:
    """Load the entry point of this name."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to import and rarely needed

    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        known = ", ".join(BUILTIN)
        raise StrategyError(
            f"there is no strategy {name!r}; write one of {known}, module:Class for one of your own, "
            f"or install a package that registers it under {ENTRY_POINTS}"
        )
    (entry, *others) = found
    if others:
        places = ", ".join(point.value for point in found)
        raise StrategyError(f"strategy {name!r} is registered more than once ({places}); write module:Class")
    return _imported(entry.value)


def _checked(name: str, found: object) -> type[Strategy]:
    """Refuse what cannot be made and asked for candidates."""
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise StrategyError(f"strategy {name!r} is not a class derived from easyproxy.strategy.base.Strategy")
    if found.__abstractmethods__:
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise StrategyError(f"strategy {name!r} is abstract; it must define {missing}")
    return found
