"""Filling in the peers' configurations. Pure: text in, text out.

A template is what its balancer reads, with ``$words`` to fill in; the lines between ``#{`` and ``#}`` are
repeated for every route.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

_BLOCK = re.compile(r"^#\{\n(.*?)^#\}\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Route:
    """One listener of a balancer and the one backend behind it."""

    service: str
    bind_host: str
    bind_port: int
    backend_host: str
    backend_port: int

    def words(self) -> dict[str, str]:
        """Return the words that a repeated block may use."""
        return {
            "service": self.service,
            "bind": f"{self.bind_host}:{self.bind_port}",
            "bind_host": self.bind_host,
            "bind_port": str(self.bind_port),
            "backend": f"{self.backend_host}:{self.backend_port}",
            "backend_host": self.backend_host,
            "backend_port": str(self.backend_port),
        }


def render(template: str, routes: Sequence[Route], words: Mapping[str, str]) -> str:
    """Fill in a template.

    Raises:
        KeyError: the template uses a word that nobody gives.

    >>> print(render("a $x\\n#{\\nb $bind\\n#}\\n", [Route("s", "h", 1, "k", 2)], {"x": "y"}), end="")
    a y
    b h:1
    """

    def repeat(block: re.Match[str]) -> str:
        return "".join(Template(block[1]).substitute({**words, **route.words()}) for route in routes)

    return Template(_BLOCK.sub(repeat, template)).substitute(words)
