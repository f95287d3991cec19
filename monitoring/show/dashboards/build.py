"""Grafana dashboards as code: ``python -m monitoring.show.dashboards.build`` writes them.

``docker-compose.yml`` mounts this folder into Grafana. Each panel has a unit and a description, and
each query names only series of ``monitoring/show/metrics.py``. Never imported by the service.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitoring.show.dashboards.members import members
from monitoring.show.dashboards.model_quality import model_quality
from monitoring.show.dashboards.overview import overview
from monitoring.show.dashboards.pipeline import pipeline

BOARDS: dict[str, Callable[[], dict[str, Any]]] = {
    "overview": overview,
    "quality": model_quality,
    "members": members,
    "pipeline": pipeline,
}
"""File name, without ``.json``, to what makes it."""


def path(name: str) -> Path:
    """Where a dashboard's file stands."""
    return Path(__file__).with_name(f"{name}.json")


def rendered(name: str) -> str:
    """The text of a dashboard's file."""
    return json.dumps(BOARDS[name](), indent=2) + "\n"


if __name__ == "__main__":
    for board in BOARDS:
        path(board).write_text(rendered(board), encoding="utf-8")
