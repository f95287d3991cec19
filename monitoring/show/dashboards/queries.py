"""Queries that several dashboards ask, and panels of one number."""

from __future__ import annotations

from typing import Any

from monitoring.show.dashboards.grafana import Panel, Query, panel, steps

PROCESS = 'job="$job"'
MODEL = 'job="$job", model="$model"'
ENSEMBLE = f'{MODEL}, member="ensemble"'


def rate(metric: str, matchers: str, by: str) -> str:
    """A counter's rate, summed."""
    return f"sum by ({by}) (rate({metric}{{{matchers}}}[$__rate_interval]))"


def quantiles(metric: str, matchers: str) -> list[Query]:
    """Median, 90th and 99th percentile of a histogram."""
    buckets = rate(f"{metric}_bucket", matchers, "le")
    return [(f"histogram_quantile({q}, {buckets})", f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)]


def quality(metric: str, window: str, maturity: str = "arrival", scorer: str = ENSEMBLE) -> str:
    """A quality gauge of the ensemble, or of every scorer with ``scorer=MODEL``."""
    return f'millrace_quality_{metric}{{{scorer}, window="{window}", maturity="{maturity}"}}'


def stat(
    title: str, text: str, unit: str, query: str, red: float | None = None, **defaults: Any
) -> Panel:
    """One number, red from ``red`` on."""
    colours: list[tuple[str, float | None]] = [("green", None)]
    if red is not None:
        colours.append(("red", red))
    return panel(
        title,
        text,
        unit,
        [(query, "")],
        kind="stat",
        width=4,
        height=4,
        **{"thresholds": steps(*colours), **defaults},
    )


def series(metric: str, matchers: str, legend: str) -> list[Query]:
    """A gauge or counter as it is."""
    return [(f"millrace_{metric}{{{matchers}}}", legend)]
