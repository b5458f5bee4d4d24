"""When the next probe is due, and how long detection takes at worst. Pure: chance comes in as an argument."""

from __future__ import annotations

from easyproxy.health.checks.base import Target
from easyproxy.health.verdict import Rule


def pause_s(target: Target, *, changing: bool, chance: float) -> float:
    """Return the seconds from the start of one probe to the start of the next.

    ``chance`` in [0, 1) places it evenly between ``interval x (1 - jitter)`` and ``interval x (1 + jitter)``;
    without jitter, balancers that were started together would probe a backend together for ever.
    """
    interval = target.fast_interval_s if changing else target.interval_s
    return interval * (1.0 + target.jitter * (2.0 * chance - 1.0))


def second_pause_s(target: Target, *, chance: float) -> float:
    """Return the seconds from the first probe to the second: anywhere in the interval.

    First probes come as fast as they may, because clients wait for them; this spreads the backends' phases.
    """
    return max(min(target.fast_interval_s, target.interval_s), target.interval_s * chance)


def detection_s(target: Target, rule: Rule) -> float:
    """Return the published detection time: the longest that a dead backend keeps getting new sessions.

    It dies just after a good probe began. The first bad probe begins one full interval later, ``fall - 1`` more
    follow at the fast interval (or as soon as the time limit lets them), and the last one takes its time limit.
    """
    longest = 1.0 + target.jitter
    following = max(target.fast_interval_s * longest, target.timeout_s)
    return target.interval_s * longest + (rule.fall - 1) * following + target.timeout_s
