"""Grafana's classic dashboard JSON from a few functions: panels, rows, the dashboard.

Knows how Grafana wants its JSON and nothing of what is shown, but for the variables and the drift
marks that every dashboard has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WIDTH = 24
"""Columns of Grafana's grid."""

Panel = dict[str, Any]
Query = tuple[str, str]
"""Expression and legend."""

_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def panel(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    kind: str = "timeseries",
    width: int = 8,
    height: int = 8,
    **defaults: Any,
) -> Panel:
    """One panel, not placed yet; ``defaults`` go to the field configuration, such as ``max=1``."""
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "instant": kind == "stat",
            "range": kind != "stat",
            "format": "heatmap" if kind == "heatmap" else "time_series",
        }
        for i, (expression, legend) in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, **defaults}, "overrides": []},
        "options": _OPTIONS[kind],
        "gridPos": {"w": width, "h": height},
    }


_OPTIONS: dict[str, dict[str, Any]] = {
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


def steps(*colours: tuple[str, float | None]) -> dict[str, Any]:
    """Thresholds for ``panel``: each colour from its value on, the first from ``None``."""
    return {"mode": "absolute", "steps": [{"color": c, "value": v} for c, v in colours]}


def _red_from(limit: float) -> dict[str, Any]:
    return steps(("green", None), ("red", limit))


def row(title: str, panels: Sequence[Panel]) -> list[Panel]:
    """A heading and its panels, from left to right."""
    return [{"type": "row", "title": title, "collapsed": False, "panels": []}, *panels]


def dashboard(uid: str, title: str, rows: Sequence[list[Panel]]) -> dict[str, Any]:
    """The whole dashboard; places the panels and numbers them."""
    return {
        "id": None,
        "uid": uid,
        "title": title,
        "tags": ["millrace"],
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables()},
        "annotations": {"list": [_drift_marks()]},
        "panels": _placed(rows),
    }


def _placed(rows: Sequence[list[Panel]]) -> list[Panel]:
    placed: list[Panel] = []
    y = 0
    for heading, *panels in rows:
        x = height = 0
        placed.append({**heading, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}})
        y += 1
        for item in panels:
            size = item["gridPos"]
            if x + size["w"] > WIDTH:
                x, y, height = 0, y + height, 0
            placed.append({**item, "gridPos": {"x": x, "y": y, **size}})
            x += size["w"]
            height = max(height, size["h"])
        y += height
    return [{"id": i, **item} for i, item in enumerate(placed, 1)]


def _variables() -> list[dict[str, Any]]:
    source = {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    }
    return [
        source,
        _variable("job", "millrace_build_info"),
        _variable("model", 'millrace_events_scored_total{job="$job"}'),
    ]


def _variable(name: str, series: str) -> dict[str, Any]:
    query = f"label_values({series}, {name})"
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


def _drift_marks() -> dict[str, Any]:
    alarms = 'millrace_drift_alarms_total{job="$job", model="$model"}'
    return {
        "name": "Drift alarms",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": f"increase({alarms}[$__rate_interval]) > 0",
        "titleFormat": "Drift: {{detector}} on {{signal}}",
        "step": "30s",
    }
