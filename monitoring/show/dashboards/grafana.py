"""Grafana's classic dashboard JSON: a panel, and a board of panels under headings.

Knows how Grafana wants its JSON and nothing of what is shown, but for the variables and the drift
marks that every board has. Grafana's own SDK takes more lines for the same, cannot title the marks
and gives a heat map 0 colours unless told otherwise: the tests read the dashboards with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
Query = tuple[str, str]
"""PromQL and the legend of what it gives. ``{P`` stands for the matchers of the chosen process,
``{M`` for those of its chosen model, ``{B`` for those of the second stage that this model has,
``[R]`` for a range that follows the zoom."""
Rows = Mapping[str, Sequence[Sequence[Json]]]
"""Headings, and under each its lines of panels, which share the width."""

WIDTH = 24
"""Columns of Grafana's grid."""
HEIGHTS = {"row": 1, "stat": 4, "timeseries": 8, "heatmap": 8}

_SHORT = {
    "{P": '{job="$job"',
    "{M": '{job="$job", model="$model"',
    "{B": '{job="$job", model="${model}-members"',
    "[R]": "[$__rate_interval]",
}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "value",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "heatmap": {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Blues", "exponent": 0.5},
        "yAxis": {"unit": "percentunit"},
        "cellGap": 0,
    },
}


def panel(
    title: str, unit: str, text: str, *queries: Query, kind: str = "timeseries", **field: Any
) -> Json:
    """A chart from 0 on; ``field`` goes to its field configuration, such as ``max=1``."""
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "expr": _long(query),
            "legendFormat": legend,
            "instant": kind == "stat",
            "range": kind != "stat",
            "format": "heatmap" if kind == "heatmap" else "time_series",
        }
        for i, (query, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, **field}, "overrides": []},
        "options": _OPTIONS[kind],
    }


def number(
    title: str, unit: str, text: str, query: str, steps: Mapping[float | None, str], **field: Any
) -> Json:
    """A single number, in the colour of the last of the ``steps`` that it has reached."""
    colours = [{"color": colour, "value": value} for value, colour in steps.items()]
    thresholds = {"mode": "absolute", "steps": colours}
    return panel(title, unit, text, (query, ""), kind="stat", thresholds=thresholds, **field)


def board(name: str, rows: Rows) -> Json:
    """A whole dashboard."""
    return {
        "id": None,
        "uid": f"millrace-{name}",
        "title": f"Millrace {name}",
        "tags": ["millrace"],
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _VARIABLES},
        "annotations": {"list": [_DRIFT_MARKS]},
        "panels": _placed(rows),
    }


def _placed(rows: Rows) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for heading, lines in rows.items():
        row = {"type": "row", "title": heading, "collapsed": False, "panels": []}
        for line in ([row], *lines):
            size = {"w": WIDTH // len(line), "h": HEIGHTS[line[0]["type"]]}
            for i, item in enumerate(line):
                place = {"x": i * size["w"], "y": y, **size}
                placed.append({"id": len(placed) + 1, **item, "gridPos": place})
            y += size["h"]
    return placed


def _long(query: str) -> str:
    for short, long in _SHORT.items():
        query = query.replace(short, long)
    return query


def _variable(name: str, series: str) -> Json:
    query = f"label_values({_long(series)}, {name})"
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
    }


_VARIABLES = [
    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
    _variable("job", "millrace_build_info"),
    _variable("model", "millrace_events_scored_total{P}"),
]
_DRIFT_MARKS = {
    "name": "Drift alarms",
    "datasource": _SOURCE,
    "enable": True,
    "iconColor": "orange",
    "expr": _long("increase(millrace_drift_alarms_total{M}[R]) > 0"),
    "titleFormat": "Drift: {{detector}} on {{signal}}",
    "step": "30s",
}
