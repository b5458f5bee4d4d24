"""From values to the text that a Prometheus server reads: one metric described as data, and how all are written.

Which metrics there are stands in :mod:`.metrics` and :mod:`.haproxy_metrics`. There is no global registry: what is
scraped is read from the balancer at that moment and belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.registry import Collector

from easyproxy.admin.processes import ProcessUse
from easyproxy.control.operations import ReloadState
from easyproxy.control.status import Status
from easyproxy.engine.seam import BackendDistributions, Distribution


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that metrics are read from, of one moment.

    Attributes:
        distributions: by backend id.
        reload: None where the balancer knows of no reloads.
    """

    status: Status
    distributions: Mapping[str, BackendDistributions] = field(default_factory=dict)
    reload: ReloadState | None = None
    processes: tuple[ProcessUse, ...] = ()


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Row = tuple[tuple[str, ...], float | Distribution]
"""The values of the labels, and the value."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, what it says, and how it is read.

    Attributes:
        name: as Prometheus knows it; a counter's ends in ``_total``.
        read: gives every row there is; the values of labels are in the order of ``labels``.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...]
    read: Callable[[Moment], Iterable[Row]]

    def family(self, moment: Moment) -> Family:
        """Read it."""
        name = self.name.removesuffix("_total")
        unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
        if self.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(name, self.text, labels=self.labels, unit=unit)
            for labels, value in self.read(moment):
                assert isinstance(value, Distribution)  # noqa: S101 - a mistake in the table
                histogram.add_metric([_inert(label) for label in labels], _buckets(value), value.sum)
            return histogram
        make = CounterMetricFamily if self.kind is Kind.COUNTER else GaugeMetricFamily
        family = make(name, self.text, labels=self.labels, unit=unit)
        for labels, value in self.read(moment):
            assert not isinstance(value, Distribution)  # noqa: S101 - a mistake in the table
            family.add_metric([_inert(label) for label in labels], value)
        return family


def expose(metrics: Iterable[Metric], moment: Moment, accept: str) -> tuple[bytes, str]:
    """Write them in the form that ``accept`` (a header) prefers; return the text and its media type."""
    encode, media_type = choose_encoder(accept)
    return encode(_Reading(metrics, moment)), media_type


class _Reading(Collector):
    """What prometheus_client asks of a source of metrics."""

    def __init__(self, metrics: Iterable[Metric], moment: Moment) -> None:
        self._metrics = metrics
        self._moment = moment

    def collect(self) -> Iterator[Family]:
        for metric in self._metrics:
            yield metric.family(self._moment)


def _inert(label: str) -> str:
    # Quotes, backslashes and newlines are escaped by the encoder; a lone surrogate cannot be written as UTF-8 at all.
    return label.encode("utf-8", "replace").decode()


def _buckets(values: Distribution) -> list[tuple[str, float]]:
    """Return the ranges as Prometheus wants them: counts up to each bound, and the whole."""
    buckets, total = [], 0
    counts = values.counts or (0,)
    for bound, count in zip(values.bounds, counts, strict=False):
        total += count
        buckets.append((repr(float(bound)), float(total)))
    return [*buckets, ("+Inf", float(sum(counts)))]
