"""The dashboards: what the code makes, over series that exist, with a unit and a description."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.dashboards.build import OVERVIEW, overview, rendered
from tests.tools import metric_names, program

BOARD = overview()
PANELS = [p for p in BOARD["panels"] if p["type"] != "row"]


def queries() -> Iterator[str]:
    """Every expression of panels, annotations and variables."""
    yield from (t["expr"] for p in PANELS for t in p["targets"])
    yield from (a["expr"] for a in BOARD["annotations"]["list"])


def test_the_file_is_what_the_code_makes() -> None:
    """overview.json is up to date; if not: python -m monitoring.dashboards.build."""
    assert OVERVIEW.read_text(encoding="utf-8") == rendered()


def test_every_series_exists() -> None:
    """Queries and variables name only series that the service exposes."""
    variables = [v["definition"] for v in BOARD["templating"]["list"] if "definition" in v]
    used = {n for q in [*queries(), *variables] for n in re.findall(r"millrace_[a-z0-9_]+", q)}
    assert used
    assert used <= metric_names()


@pytest.mark.parametrize("panel", PANELS, ids=lambda p: p["title"])
def test_every_panel_has_a_unit_and_a_description(panel: dict[str, Any]) -> None:
    """Each panel says what it shows and in which unit, from the chosen data source and job."""
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 10
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == "${datasource}"
        if "millrace_" in target["expr"]:
            assert 'job="$job"' in target["expr"]


def test_rates_follow_the_zoom() -> None:
    """Every rate is over $__rate_interval, but for those of the KS distance."""
    ranges = {r for q in queries() for r in re.findall(r"\[([^\]]+)\]", q) if "offset" not in q}
    assert ranges == {"$__rate_interval"}


def test_panels_fill_the_grid_without_overlap() -> None:
    """No two panels share a cell and none sticks out."""
    cells: set[tuple[int, int]] = set()
    for place in (p["gridPos"] for p in BOARD["panels"]):
        own = {
            (place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])
        }
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({p["id"] for p in BOARD["panels"]}) == len(BOARD["panels"])


def test_the_board_is_provisioned_not_edited() -> None:
    """A stable uid, no id, not editable: Grafana keeps no state of its own about it."""
    board = json.loads(OVERVIEW.read_text(encoding="utf-8"))
    assert (board["uid"], board["id"], board["editable"]) == ("millrace-overview", None, False)


@pytest.mark.prometheus
def test_every_query_is_promql(tmp_path: Path) -> None:
    """Prometheus's own parser accepts every query, variables filled in."""
    filled = [
        q.replace("$__rate_interval", "1m").replace("$job", "j").replace("$model", "m")
        for q in queries()
    ]
    rules = [{"record": f"checked:{i}", "expr": q} for i, q in enumerate(filled)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    command = [program("promtool", "prometheus"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
