"""Options whose usual values the shell completes, and that take others too."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Words(click.types.StringParamType):
    """A word of which completion offers the usual ones; others, as ``module:Class``, are for whoever reads it to judge.

    Args:
        known: returns them; called for completion only, so that nothing else waits for what it imports.
    """

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self._known = known

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        """Offer every word that begins so."""
        return [CompletionItem(word) for word in self._known() if word.startswith(incomplete)]
