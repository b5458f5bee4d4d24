"""The verdict: what a row of observations says about a backend. Pure; no clock, no sockets, no logging.

Probes and live traffic are judged by the same function. Whoever keeps the verdicts (the registry) replaces the old
value by the returned one; nothing here remembers anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from easyproxy.engine.seam import Observation, Outcome

LATE_S = 10.0
"""An observation that is older than the last one by up to this much was overtaken on its way and is dropped.

One that is older still cannot have been on its way for so long: somebody set the clock back, and a verdict that
dropped everything until the old time is reached again would be blind. Seconds.
"""


@dataclass(frozen=True, slots=True)
class Rule:
    """How many observations in a row change a verdict.

    Attributes:
        rise: consecutive successes that bring a backend up, 1 or more.
        fall: consecutive failures that take it down, 1 or more.
    """

    rise: int = 2
    fall: int = 3

    def __post_init__(self) -> None:
        """Refuse rules that no row of observations can satisfy."""
        if self.rise < 1 or self.fall < 1:
            raise ValueError(f"rise is {self.rise} and fall is {self.fall}; both must be 1 or more")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the observations so far say about one backend. Times in seconds since the epoch.

    Attributes:
        healthy: True, False, or None before the first observation.
        streak: how many observations in a row spoke against the present state.
        since: when ``healthy`` last changed.
        reason: why it is so, in words.
        last: the newest observation.
        last_error: the newest failure in words, kept after recovery; empty if there was none.
        last_error_at: when that was.
    """

    healthy: bool | None = None
    streak: int = 0
    since: float = 0.0
    reason: str = "not probed yet"
    last: Observation | None = None
    last_error: str = ""
    last_error_at: float = 0.0

    @property
    def is_changing(self) -> bool:
        """Whether a streak against the present state is under way."""
        return self.streak > 0


INITIAL = Verdict()
"""The verdict about a backend that nobody has looked at."""


def judge(verdict: Verdict, observation: Observation, rule: Rule) -> Verdict:
    """Return the verdict after one more observation.

    The first observation decides outright. Afterwards ``rule.fall`` consecutive failures take a healthy backend
    down and ``rule.rise`` consecutive successes bring it back; every observation that agrees with the present
    state sets the count to zero. Every outcome but success is a failure. An observation that was overtaken by a
    newer one (see :data:`LATE_S`) changes nothing.

    >>> up = judge(INITIAL, Observation("p/a", Outcome.SUCCESS, "connected", at=1.0), Rule(rise=2, fall=2))
    >>> up.healthy, up.reason
    (True, 'connected')
    >>> shaken = judge(up, Observation("p/a", Outcome.REFUSED, "connection refused", at=2.0), Rule(2, 2))
    >>> shaken.healthy, shaken.is_changing
    (True, True)
    >>> judge(shaken, Observation("p/a", Outcome.TIMEOUT, "no answer within 1 s", at=3.0), Rule(2, 2)).reason
    'no answer within 1 s (2 failures in a row)'
    """
    last = verdict.last
    if last is not None and 0 < last.at - observation.at <= LATE_S:
        return verdict
    success = observation.outcome is Outcome.SUCCESS
    seen = replace(verdict, last=observation)
    if not success:
        words = observation.detail or observation.outcome.value
        seen = replace(seen, last_error=words, last_error_at=observation.at)
    if verdict.healthy is None:
        return _decided(seen, observation, 1)
    if success == verdict.healthy:
        return replace(seen, streak=0)
    streak = verdict.streak + 1
    needed = rule.rise if success else rule.fall
    if streak < needed:
        return replace(seen, streak=streak)
    return _decided(seen, observation, streak)


def _decided(verdict: Verdict, observation: Observation, streak: int) -> Verdict:
    """Change the state; the cause stands first, because a table has little room."""
    success = observation.outcome is Outcome.SUCCESS
    plural = "successes" if success else "failures"
    count = f" ({streak} {plural} in a row)" if streak > 1 else ""
    return replace(
        verdict,
        healthy=success,
        streak=0,
        since=observation.at,
        reason=f"{observation.detail or observation.outcome.value}{count}",
    )
