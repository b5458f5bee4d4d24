"""Adding up what two engines have counted. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from easyproxy.engine.seam import (
    BackendCounters,
    BackendDistributions,
    Distribution,
    ListenerCounters,
    Statistics,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Counted = TypeVar("Counted", BackendCounters, ListenerCounters)


def merged(one: Statistics, other: Statistics) -> Statistics:
    """Add up; a name that both know (a backend of a pool that both serve) gets the sum of both."""
    return Statistics(
        listeners=_united(one.listeners, other.listeners),
        backends=_united(one.backends, other.backends),
        queued=_added(one.queued, other.queued),
        ends=_added(one.ends, other.ends),
        workers=one.workers + other.workers,
        worker_restarts=one.worker_restarts + other.worker_restarts,
        lost_reports=one.lost_reports + other.lost_reports,
        distributions={
            name: _distributions(one.distributions.get(name), other.distributions.get(name))
            for name in {**one.distributions, **other.distributions}
        },
        worker_python=one.worker_python or other.worker_python,
        io_uring=one.io_uring or other.io_uring,
    )


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _united(one: Mapping[str, Counted], other: Mapping[str, Counted]) -> dict[str, Counted]:
    united = {**one, **other}
    for name in one.keys() & other.keys():
        mine, theirs = one[name], other[name]
        united[name] = type(mine)(
            *(getattr(mine, each.name) + getattr(theirs, each.name) for each in fields(mine))
        )
    return united


def _distributions(
    one: BackendDistributions | None, other: BackendDistributions | None
) -> BackendDistributions:
    if one is None or other is None:
        return one or other or BackendDistributions()
    return BackendDistributions(
        *(_distribution(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    )


def _distribution(one: Distribution, other: Distribution) -> Distribution:
    """Add up counts of the same ranges; of others, the larger number says more than a mixture."""
    if one.bounds != other.bounds:
        return max(one, other, key=lambda each: sum(each.counts))
    counts = tuple(mine + theirs for mine, theirs in zip(one.counts, other.counts, strict=True))
    return Distribution(one.bounds, counts, one.sum + other.sum)
