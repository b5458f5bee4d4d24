"""The few exception types of EasyProxy, in one leaf module.

Every message names the thing, where it stands, and what to do about it. Nothing here imports anything of ours.
"""

from __future__ import annotations

from dataclasses import dataclass


class EasyProxyError(Exception):
    """Base of everything that EasyProxy raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration.

    Attributes:
        where: ``file:line:column`` where the format tells, otherwise the file.
        path: the place inside the document, for example ``pools.mysql.backends[1].weight``.
        message: what is wrong, with the wrong value, and what would be right.
    """

    where: str
    path: str
    message: str

    def __str__(self) -> str:
        """Render as one line: ``easyproxy.yaml:7:13: pools.mysql.retries: ...``."""
        place = f"{self.where}: " if self.where else ""
        path = f"{self.path}: " if self.path else ""
        return f"{place}{path}{self.message}"


class ConfigError(EasyProxyError):
    """A configuration was refused as a whole; ``problems`` holds every reason at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class EngineError(EasyProxyError):
    """An engine could not do what the snapshot asks (an address in use, a missing privilege)."""


class ProbeFailed(EasyProxyError):  # noqa: N818 - a failed probe is a result, not a fault of the program
    """A health check found the backend wanting; the message is the detail that an operator reads."""
