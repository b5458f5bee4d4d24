"""What a strategy is. Pure: no sockets, no clock, no logging; chance, load and tickets come in from outside.

A strategy is made once per pool and built anew, off the data path, whenever the ready backends change. For a new
session it yields candidates in order; the dialler takes the next one when a connect fails. It holds no retry and
no health code, and it never yields a backend twice in one call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from easyproxy.errors import EasyProxyError
from easyproxy.model import Backend


class StrategyError(EasyProxyError):
    """A strategy could not be loaded, built or followed; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the engine lends a strategy.

    Attributes:
        ticket: the next number of the pool: 0, 1, 2, ... over all workers, each given once.
        load: sessions of a backend right now, over all workers.
        random: a float in [0, 1), as :func:`random.random` gives.
    """

    ticket: Callable[[], int]
    load: Callable[[Backend], int]
    random: Callable[[], float]


class Strategy(ABC):
    """Chooses backends for new sessions. Subclass it, and name it ``module:Class`` in the configuration.

    An instance belongs to one pool, one priority and one worker; it is called from that worker's loop only, so it
    needs no lock, and it must not block. Its state is forgotten when the worker ends.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def build(self, backends: Sequence[Backend]) -> None:
        """Take over these ready backends (never empty, all of one priority, in the configuration's order).

        Called before the first session and after every change. It holds up the worker's loop for as long as it runs:
        precompute what makes :meth:`candidates` cheap, and stay within some ten milliseconds.
        """

    @abstractmethod
    def candidates(self, client: str) -> Iterator[Backend]:
        """Yield backends, the best first, each at most once, for a client address (numeric, without port).

        A generator is the natural form: nearly always only the first candidate is taken, so whatever finds the
        others belongs after the first ``yield``. It may be left unfinished. Yield the objects that ``build`` got.
        """
