"""The report of evaluated rankings: one HTML file with its charts in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from models.base import F64, I64
from monitoring.quality.ranks import METRICS, gains
from stream.tools.ranking.ranks import Course, Ranks
from stream.tools.ranking.rated import Foretold
from stream.tools.report import facts_list, line, quality_table, section, speed, write_page

POINTS = 50
BINS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000)


def write_ranking_report(
    path: Path,
    found: Ranks,
    rated: Foretold | None,
    course: Sequence[Course],
    summary: Mapping[str, Any],
) -> None:
    """Write the file; raises :class:`~stream.tools.files.FileError`."""
    values = gains(found.ranks[found.scored])
    charts = [
        ("Share of items taken that stood among the first 10", _over(found.names, values[:, :, 0])),
        ("Mean reciprocal rank", _over(found.names, values[:, :, 2])),
        ("By what was known of the user", _by_history(summary["by_history"])),
        ("Where the items taken had stood", _places(found)),
        ("The stack's weights", _weights(course)),
        (
            "Speed",
            speed("interactions", [c.positives for c in course], [c.seconds for c in course]),
        ),
    ]
    if rated is not None:
        charts.insert(2, ("Mean absolute error of the ratings", _errors(rated)))
    facts = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}
    table = quality_table(summary["quality"], {})
    quality = f"<section><h2>Quality of the rankings as they were made</h2>{table}</section>"
    body = [f"<section><dl>{facts_list(facts)}</dl></section>", quality]
    if rated is not None:
        table = quality_table(summary["ratings"]["quality"], {})
        body.append(
            f"<section><h2>Quality of the ratings as they were foretold</h2>{table}</section>"
        )
    body += [section(i, title, figure) for i, (title, figure) in enumerate(charts)]
    intro = "Each item was ranked among all that could be shown before it was learned."
    write_page(path, "Evaluation of rankings", intro, summary["notes"], "".join(body))


def _over(names: Sequence[str], values: F64) -> go.Figure:
    figure = go.Figure([line(j, n, *moving(values[:, j], POINTS)) for j, n in enumerate(names)])
    return figure.update_layout(xaxis={"title": "interactions"}, yaxis={"rangemode": "tozero"})


def _errors(rated: Foretold) -> go.Figure:
    off = np.abs(rated.rated - rated.value[:, None])[rated.late]
    names = rated.names
    figure = go.Figure([line(j, n, *moving(off[:, j], POINTS)) for j, n in enumerate(names)])
    return figure.update_layout(xaxis={"title": "ratings"})


def _by_history(shares: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    bars = [
        go.Bar(x=list(shares), y=[s[metric] for s in shares.values()], name=metric)
        for metric in (METRICS[0], "mrr")
    ]
    x = {"title": "items that the user had taken before", "type": "category"}
    return go.Figure(bars).update_layout(xaxis=x, yaxis={"rangemode": "tozero"})


def _places(found: Ranks) -> go.Figure:
    """The share of items that stood at a place or before it, by scorer."""
    ranks, lines = found.ranks[found.scored], []
    for j, name in enumerate(found.names):
        known = ranks[:, j] > 0
        shares = [float(np.mean(known & (ranks[:, j] <= k))) if len(ranks) else 0.0 for k in BINS]
        lines.append(line(j, name, list(BINS), shares))
    x = {"title": "place", "type": "log"}
    return go.Figure(lines).update_layout(xaxis=x, yaxis={"range": [0, 1], "title": "share"})


def _weights(course: Sequence[Course]) -> go.Figure:
    names = list(course[0].weights) if course else []
    at = [c.positives for c in course]
    figure = go.Figure(
        [line(j, n, at, [c.weights[n] for c in course]) for j, n in enumerate(names)]
    )
    return figure.update_layout(xaxis={"title": "interactions"})


def moving(values: F64, points: int) -> tuple[I64, F64]:
    """Means of ``points`` equal runs of values, and where each ends."""
    ends = np.unique(np.linspace(0, len(values), min(points, len(values)) + 1).astype(np.int64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return ends[1:], np.diff(sums[ends]) / np.diff(ends)
