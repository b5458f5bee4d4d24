"""EasyProxy: a TCP load balancer that you install with pip.

>>> import easyproxy
>>> async def serve(config: dict[str, object]) -> None:
...     async with easyproxy.Balancer(config) as balancer:
...         print(balancer.addresses)

A strategy of your own is a subclass of :class:`Strategy`, a health check of your own one of :class:`Check`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from easyproxy.version import __version__

__all__ = ["Balancer", "Check", "Config", "Strategy", "__version__"]

if TYPE_CHECKING:
    from easyproxy.balancer import Balancer
    from easyproxy.config.schema import Config
    from easyproxy.health.checks.base import Check
    from easyproxy.strategy.base import Strategy

_HOMES = {
    "Balancer": "easyproxy.balancer",
    "Check": "easyproxy.health.checks.base",
    "Config": "easyproxy.config.schema",
    "Strategy": "easyproxy.strategy.base",
}


def __getattr__(name: str) -> object:
    # Workers and the command line's --help import this package, and must not pay for what they do not use.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
