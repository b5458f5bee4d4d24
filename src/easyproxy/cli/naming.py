"""Names of backends, pools, listeners and overrides on the command line: what was typed against what the balancer has, and completion of it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, ClassVar

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
    return find_with_pool(asker, text)[1]


def find_with_pool(asker: Asker, text: str) -> tuple[Json, Json]:
    """Return the one backend that a text names, behind its pool."""
    pools = asker.get("/api/status")["pools"]
    found = matches(pools, text)
    if not found:
        ids = [backend["id"] for pool in pools for backend in pool["backends"]]
        near = _near(text, ids)
        asker.fail(f"there is no backend {printable(text)}; there is {near or 'none at all'}", EXIT_REFUSED)
    if len(found) > 1:
        several = ", ".join(printable(backend["id"]) for backend in found)
        asker.fail(f"{printable(text)} is the name of several backends; write which: {several}", EXIT_REFUSED)
    pool = next(pool for pool in pools if found[0] in pool["backends"])
    return pool, found[0]


def find_listener(asker: Asker, text: str) -> str:
    """Return the name of a listener, or end the program when there is none of that name."""
    names = [listener["name"] for listener in asker.get("/api/listeners")]
    if text not in names:
        asker.fail(f"there is no listener {printable(text)}; there is {_near(text, names)}", EXIT_REFUSED)
    return text


def _near(text: str, names: list[str]) -> str:
    """Say what may have been meant, or what there is."""
    return ", ".join(map(printable, difflib.get_close_matches(text, names, n=3) or names[:10]))


class _Name(click.types.StringParamType):
    """A name that the running balancer knows; completion asks it."""

    path: ClassVar[str]
    """What is asked."""

    def _known(self, answer: list[Json]) -> list[str]:
        raise NotImplementedError

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        """Offer every name that begins so; nothing when nobody answers."""
        from easyproxy.cli.client import fetch  # noqa: PLC0415 - only while completing

        options = ctx.params
        try:
            address, token = find(
                "", options.get("admin"), options.get("config_file"), options.get("token_file")
            )
            known = self._known(fetch(address, self.path, token))
        except (Exception, SystemExit):  # noqa: BLE001 - a completion that fails must say nothing
            return []
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


class BackendName(_Name):
    """A backend."""

    name = "backend"
    path = "/api/pools"

    def _known(self, answer: list[Json]) -> list[str]:
        return [backend["id"] for pool in answer for backend in pool["backends"]]


class PoolName(_Name):
    """A pool."""

    name = "pool"
    path = "/api/pools"

    def _known(self, answer: list[Json]) -> list[str]:
        return [pool["name"] for pool in answer]


class ListenerName(_Name):
    """A listener."""

    name = "name"
    path = "/api/listeners"

    def _known(self, answer: list[Json]) -> list[str]:
        return [listener["name"] for listener in answer]


class OverrideId(_Name):
    """An override."""

    name = "override"
    path = "/api/overrides"

    def _known(self, answer: list[Json]) -> list[str]:
        return [override["id"] for override in answer]
