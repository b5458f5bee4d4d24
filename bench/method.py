"""The method: who runs after whom, and what may be concluded from it. Pure: numbers in, numbers out.

A shared machine changes its speed by 1.7x within seconds, so a figure is only ever compared with its neighbour
in time. One peer, the anchor, runs next to every other one; each burst is divided by the anchor's bursts right
before and after it, and only these ratios are combined over the rounds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of one peer. ``rate`` is None when it failed."""

    peer: str
    rate: float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio over the rounds: its median, and the lowest and highest that any round showed."""

    median: float
    low: float
    high: float
    rounds: int


def order(anchor: str, others: Sequence[str], round_number: int) -> list[str]:
    """Return the bursts of one round: every other peer stands directly beside the anchor.

    The others are rotated by the round and every second round is mirrored, so that none always runs first,
    or always before (or after) its anchor burst.

    >>> order("us", ["a", "b", "c"], 0)
    ['us', 'a', 'b', 'us', 'c']
    >>> order("us", ["a", "b"], 1)
    ['us', 'a', 'b', 'us']
    """
    if not others:
        return [anchor]
    shift = round_number % len(others)
    rotated = [*others[shift:], *others[:shift]]
    sequence = [anchor]
    for position, peer in enumerate(rotated):
        if position and position % 2 == 0:
            sequence.append(anchor)
        sequence.append(peer)
    if len(rotated) % 2 == 0:
        sequence.append(anchor)
    return sequence[::-1] if round_number % 2 else sequence


def neighbour_ratios(anchor: str, bursts: Sequence[Burst]) -> dict[str, float]:
    """Divide each burst of a round by the anchor's bursts beside it; the anchor itself is 1.

    Two anchor bursts count with their geometric mean. A peer whose burst failed, or that has no anchor burst
    beside it that worked, has no ratio in this round.
    """
    ratios: dict[str, list[float]] = {}
    for position, burst in enumerate(bursts):
        if burst.peer == anchor or not burst.rate:
            continue
        beside = [*bursts[max(position - 1, 0) : position], *bursts[position + 1 : position + 2]]
        anchors = [near.rate for near in beside if near.peer == anchor and near.rate]
        if anchors:
            ratios.setdefault(burst.peer, []).append(burst.rate / statistics.geometric_mean(anchors))
    combined = {peer: statistics.geometric_mean(values) for peer, values in ratios.items()}
    if any(burst.peer == anchor and burst.rate for burst in bursts):
        combined[anchor] = 1.0
    return combined


def best(rounds: Sequence[Mapping[str, float]], candidates: Collection[str]) -> str | None:
    """Return the candidate with the highest median ratio, or None when none has one.

    >>> best([{"us": 1.0, "a": 0.9, "b": 1.1}, {"us": 1.0, "a": 0.9, "b": 1.2}], ["a", "b"])
    'b'
    """
    medians = {
        peer: statistics.median(values)
        for peer in candidates
        if (values := [ratios[peer] for ratios in rounds if peer in ratios])
    }
    return max(medians, key=lambda peer: medians[peer], default=None)


def relative_to(reference: str, rounds: Sequence[Mapping[str, float]]) -> dict[str, Ratio]:
    """Express every peer's per-round ratios relative to the reference's of the same round."""
    collected: dict[str, list[float]] = {}
    for ratios in rounds:
        if reference in ratios:
            for peer, value in ratios.items():
                collected.setdefault(peer, []).append(value / ratios[reference])
    return {
        peer: Ratio(statistics.median(values), min(values), max(values), len(values))
        for peer, values in collected.items()
    }


def median_rate(rates: Iterable[float | None]) -> float | None:
    """Return the median of the bursts that worked, or None."""
    worked = [rate for rate in rates if rate]
    return statistics.median(worked) if worked else None


def microseconds_per_operation(cpu_s: Sequence[float], operations: Sequence[float]) -> float:
    """Return CPU time per operation over all bursts together: a tick is 10 ms, too coarse for one of them.

    >>> microseconds_per_operation([0.01, 0.03], [1000, 1000])
    20.0
    """
    total = math.fsum(operations)
    return math.fsum(cpu_s) / total * 1e6 if total else math.nan
