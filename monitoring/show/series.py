"""Prometheus families from rows of plain numbers: what ``metrics.py`` is written with.

With ``metrics.py`` the only importer of ``prometheus_client``. Knows names and labels of no series.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from monitoring.histogram import Histogram

PREFIX = "millrace_"
Row = tuple[Iterable[str], float]
Rows = Iterable[Row]
"""Label values in the order of the labels, and the number."""


def gauge(name: str, text: str, labels: list[str], rows: Rows) -> Metric:
    """Gauges of one name; ``text`` without its full stop."""
    family = GaugeMetricFamily(PREFIX + name, text + ".", labels=labels)
    for key, value in rows:
        family.add_metric(list(key), float(value))
    return family


def counter(name: str, text: str, labels: list[str], rows: Rows) -> Metric:
    """Counters of one name, which gets ``_total``."""
    family = CounterMetricFamily(PREFIX + name, text + ".", labels=labels)
    for key, value in rows:
        family.add_metric(list(key), float(value))
    return family


def histogram(
    name: str, text: str, labels: list[str], rows: Iterable[tuple[Iterable[str], Histogram]]
) -> Metric:
    """Classic histograms of one name."""
    family = HistogramMetricFamily(PREFIX + name, text + ".", labels=labels)
    for key, h in rows:
        counts, total = h.counts.cumsum().tolist(), h.total
        bounds = [*(_bound(b) for b in h.bounds), "+Inf"]
        family.add_metric(list(key), list(zip(bounds, counts, strict=True)), total)
    return family


def _bound(value: float) -> str:
    """A bound as Prometheus writes numbers: 1.0, 0.0005, 86400.0."""
    return repr(float(value))
