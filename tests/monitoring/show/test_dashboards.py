"""The dashboards: what the code makes, over series that exist, with a unit and a description."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from monitoring.show.dashboards.build import BOARDS, FOR, Shard, path, rendered
from tests.support.tools import all_metric_names, metric_names, program

PANELS = {
    f"{name} {p['id']}: {p['title']}": p
    for name, board in BOARDS.items()
    for p in board["panels"]
    if p["type"] != "row"
}
each_board = pytest.mark.parametrize("name", BOARDS)


def queries() -> Iterator[str]:
    """Every expression of panels and annotations."""
    yield from (t["expr"] for p in PANELS.values() for t in p["targets"])
    yield from (a["expr"] for board in BOARDS.values() for a in board["annotations"]["list"])


@each_board
def test_the_file_is_what_the_code_makes(name: str) -> None:
    """Each JSON file is up to date; if not: python -m monitoring.show.dashboards.build."""
    assert path(name).read_text(encoding="utf-8") == rendered(name)


def test_every_series_exists() -> None:
    """Queries and variables name only series that the service exposes."""
    variables = [
        v["definition"]
        for board in BOARDS.values()
        for v in board["templating"]["list"]
        if "definition" in v
    ]
    used = {n for q in [*queries(), *variables] for n in re.findall(r"millrace_[a-z0-9_]+", q)}
    assert used
    assert used <= all_metric_names()


@pytest.mark.parametrize("shard", get_args(Shard))
def test_no_panel_is_empty_for_a_shard_that_its_board_is_for(shard: Shard) -> None:
    """Of every query one alternative names only series of such a service."""
    known = metric_names(shard)
    empty = [
        f"{name}: {panel['title']}"
        for name, board in BOARDS.items()
        if shard in FOR.get(name, (shard,))
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if not any(
            set(re.findall(r"millrace_[a-z0-9_]+", part)) <= known
            for part in target["expr"].split(" or ")
        )
    ]
    assert empty == []


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
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


@each_board
def test_panels_fill_the_grid_without_overlap(name: str) -> None:
    """No two panels share a cell, none sticks out and no hole is left."""
    board = BOARDS[name]
    cells: set[tuple[int, int]] = set()
    for place in (p["gridPos"] for p in board["panels"]):
        own = {
            (place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])
        }
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len(cells) == 24 * (1 + max(y for _, y in cells))
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])


def test_boards_are_provisioned_not_edited() -> None:
    """Stable uids, no id, not editable: Grafana keeps no state of its own about them."""
    boards = [json.loads(path(name).read_text(encoding="utf-8")) for name in BOARDS]
    assert [b["uid"] for b in boards] == [f"millrace-{name}" for name in BOARDS]
    assert all((b["id"], b["editable"]) == (None, False) for b in boards)


def test_the_second_stage_is_found_by_the_name_of_its_model() -> None:
    """Nobody chooses a model twice: its board's series are those of the chosen one's members."""
    asked = {t["expr"] for p in BOARDS["second-stage"]["panels"] for t in p.get("targets", ())}
    assert sum('model="${model}-members"' in expr for expr in asked) > 10
    assert [expr for expr in asked if 'model="$model"' in expr] == [
        'millrace_members_lead{job="$job", model="$model"}'
    ]


def test_the_overview_keeps_its_order() -> None:
    """From whether it runs, over how well it scores, to what was saved."""
    rows = [p["title"] for p in BOARDS["overview"]["panels"] if p["type"] == "row"]
    assert rows == [
        "Status",
        "Flow",
        "Quality of the scores as they were made",
        "Labels",
        "Scores and drift",
        "Members",
        "Learning",
        "Checkpoints, dead letters, restarts",
    ]


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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
