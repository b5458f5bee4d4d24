"""A length of time as an option of a command, written as in the configuration."""

from __future__ import annotations

import click


class TimeParam(click.types.StringParamType):
    """A length of time: ``30s``, ``1h30m``. The balancer gets the text as it was typed."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Fail with what to write instead, before anybody is asked."""
        from easyproxy.config.words import parse_duration  # noqa: PLC0415 - the package takes 140 ms

        text = str(super().convert(value, param, ctx))
        if text:
            try:
                parse_duration(text)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return text
