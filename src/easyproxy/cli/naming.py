"""Names of backends on the command line: what was typed against what the balancer has, and completion of it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from easyproxy.cli.asking import EXIT_REFUSED, find
from easyproxy.cli.text import printable

if TYPE_CHECKING:
    from easyproxy.cli.asking import Asker

Json = dict[str, Any]


def matches(pools: list[Json], text: str) -> list[Json]:
    """Find the backends that a text names: by id (``pool/name``), else by name or address.

    >>> pools = [{"backends": [{"id": "web/a", "name": "a", "address": "10.0.0.1:80"}]}]
    >>> [found["id"] for word in ("web/a", "a", "10.0.0.1:80", "b") for found in matches(pools, word)]
    ['web/a', 'web/a', 'web/a']
    """
    backends = [backend for pool in pools for backend in pool["backends"]]
    exact = [backend for backend in backends if backend["id"] == text]
    return exact or [backend for backend in backends if text in (backend["name"], backend["address"])]


def find_backend(asker: Asker, text: str) -> Json:
    """Return the one backend that a text names; end the program when there is none, or more than one."""
    pools = asker.get("/api/status")["pools"]
    found = matches(pools, text)
    if not found:
        ids = [backend["id"] for pool in pools for backend in pool["backends"]]
        near = ", ".join(map(printable, difflib.get_close_matches(text, ids, n=3) or ids[:10]))
        asker.fail(f"there is no backend {printable(text)}; there is {near or 'none at all'}", EXIT_REFUSED)
    if len(found) > 1:
        several = ", ".join(printable(backend["id"]) for backend in found)
        asker.fail(f"{printable(text)} is the name of several backends; write which: {several}", EXIT_REFUSED)
    return found[0]


class _Name(click.types.StringParamType):
    """A name that the running balancer knows; completion asks it."""

    def _known(self, pools: list[Json]) -> list[str]:
        raise NotImplementedError

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Offer every name that begins so; nothing when nobody answers."""
        return [CompletionItem(name) for name in self._known(_pools(ctx)) if name.startswith(incomplete)]


class BackendName(_Name):
    """A backend."""

    name = "backend"

    def _known(self, pools: list[Json]) -> list[str]:
        return [backend["id"] for pool in pools for backend in pool["backends"]]


class PoolName(_Name):
    """A pool."""

    name = "pool"

    def _known(self, pools: list[Json]) -> list[str]:
        return [pool["name"] for pool in pools]


def _pools(ctx: click.Context) -> list[Json]:
    from easyproxy.cli.client import fetch  # noqa: PLC0415 - only while completing

    options = ctx.params
    try:
        address, token = find("", options.get("admin"), options.get("config_file"), options.get("token_file"))
        pools: list[Json] = fetch(address, "/api/status", token)["pools"]
    except (Exception, SystemExit):  # noqa: BLE001 - a completion that fails must say nothing
        return []
    return pools
