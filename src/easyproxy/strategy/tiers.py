"""The chooser of one pool: a strategy for each priority, the lower numbers first, and a guard around users' own.

This is what the dialler asks. It must stay free of retries, health and logging; what a faulty strategy leads to is
the dialler's decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from easyproxy.model import Backend
from easyproxy.strategy.base import Context, Strategy, StrategyError


class Tiers:
    """All ready backends of a pool, in tiers of one priority, each with a strategy of its own.

    A higher tier is asked only when the lower ones have no candidate left. With one tier of a built-in strategy
    ``candidates`` *is* that strategy's method: nothing stands in between.

    A strategy from outside this package is watched: whatever it raises, a backend yielded twice, or something that is
    no backend of its tier becomes a :class:`StrategyError` out of ``next()``. A strategy that cannot be made or built
    fails the same way, at the first ``next()`` that needs it, because a snapshot (a backend went down) cannot be refused.
    The dialler counts the error and goes on with those of ``backends`` that it has not tried. Yielding only some of the
    backends is a strategy's right.

    Attributes:
        backends: all of them, by priority, then in the configuration's order: the order without any strategy.
        candidates: called with a client address (numeric, without port); yields each backend at most once, lazily.
        yields_all: every client is offered every backend; a strategy from outside may leave some out.
        failure: why a strategy could not be made or built the last time, or None.
    """

    backends: tuple[Backend, ...]
    candidates: Callable[[str], Iterator[Backend]]
    yields_all: bool
    failure: StrategyError | None

    def __init__(self, strategy: type[Strategy], context: Context, backends: Sequence[Backend]) -> None:
        self._class = strategy
        self._context = context
        self._trusted = self.yields_all = strategy.__module__.startswith(__package__ + ".")
        self._tiers: dict[int, _Tier] = {}
        self.build(backends)

    def build(self, backends: Sequence[Backend]) -> None:
        """Take over another set of ready backends (possibly empty). Never raises; see ``failure``.

        Strategies keep their state, and a tier in which nothing changed is not built again.
        """
        self.backends = tuple(sorted(backends, key=lambda backend: backend.priority))
        former, self._tiers = self._tiers, {}
        for priority in sorted({backend.priority for backend in backends}):
            members = tuple(backend for backend in backends if backend.priority == priority)
            tier = former.get(priority)
            if tier is None or tier.failure is not None:
                tier = _Tier(self._class, self._context)
            tier.build(members)
            self._tiers[priority] = tier
        self.failure = next((tier.failure for tier in self._tiers.values() if tier.failure), None)
        choices = [tier.choice(self._trusted) for tier in self._tiers.values()]
        self.candidates = choices[0] if len(choices) == 1 else _chain(choices)


class _Tier:
    """One strategy with the backends of one priority."""

    def __init__(self, strategy: type[Strategy], context: Context) -> None:
        self._name = f"{strategy.__module__}:{strategy.__qualname__}"
        self._backends: tuple[Backend, ...] = ()
        self._strategy: Strategy | None = None
        self.failure: StrategyError | None = None
        try:
            self._strategy = strategy(context)
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            self.failure = self._error(f"could not be made: {type(error).__name__}: {error}", error)

    def build(self, backends: tuple[Backend, ...]) -> None:
        """Build the strategy for these backends, unless they are those it has."""
        if self._strategy is None or backends == self._backends:
            return
        self._backends = backends
        try:
            self._strategy.build(backends)
        except Exception as error:  # noqa: BLE001 - a user's build may raise anything
            count = len(backends)
            self.failure = self._error(
                f"could not build for {count} backends: {type(error).__name__}: {error}", error
            )

    def choice(self, trusted: bool) -> Callable[[str], Iterator[Backend]]:
        """Return what yields this tier's candidates for a client."""
        if self.failure is not None or self._strategy is None:
            return self._fail
        return self._strategy.candidates if trusted else self._watch

    def _fail(self, client: str) -> Iterator[Backend]:  # noqa: ARG002 - it fails for everyone
        """Raise the failure when asked for the first candidate."""
        raise self.failure or StrategyError(f"strategy {self._name} could not be made")
        yield  # makes this a generator: it raises where all other errors are raised

    def _watch(self, client: str) -> Iterator[Backend]:
        """Yield what the user's strategy yields, checked."""
        left = {backend.id for backend in self._backends}
        try:
            for found in self._strategy.candidates(client) if self._strategy else ():
                self._check(found, left)
                yield found
        except StrategyError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise self._error(
                f"raised {type(error).__name__} for client {client!r}: {error}", error
            ) from error

    def _check(self, found: object, left: set[str]) -> None:
        """Take a yielded backend out of those that are left, or raise."""
        if not isinstance(found, Backend):
            raise self._error(f"yielded {found!r}, which is no backend")
        if found.id in left:
            left.remove(found.id)
        elif any(backend.id == found.id for backend in self._backends):
            raise self._error(f"yielded backend {found.id!r} twice in one call")
        else:
            raise self._error(f"yielded backend {found.id!r}, which it did not get from build()")

    def _error(self, fault: str, cause: Exception | None = None) -> StrategyError:
        """Make the error that names the class and says what to do."""
        error = StrategyError(
            f"strategy {self._name} {fault}; correct it, or write a built-in strategy for the pool"
        )
        error.__cause__ = cause
        return error


def _chain(choices: Sequence[Callable[[str], Iterator[Backend]]]) -> Callable[[str], Iterator[Backend]]:
    """Ask the tiers one after another, the next one only when it is needed."""

    def candidates(client: str) -> Iterator[Backend]:
        for choice in choices:
            yield from choice(client)

    return candidates
