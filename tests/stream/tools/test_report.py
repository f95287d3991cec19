"""The report of an evaluation: what its charts say, and that it opens anywhere."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score

from models.base import MillraceError
from stream.run.assemble import build_engine
from stream.tools import evaluate
from stream.tools.evaluate import Evaluation, evaluate_file
from stream.tools.report import SLICES, write_report
from tests.support.factory import config, event, truth
from tests.support.tools import chromium
from tests.support.waiting import DEADLINE_S

EVENTS = 6000
TITLES = (
    "Quality of the ensemble",
    "PR AUC by scorer",
    "Member weights",
    "Drift alarms",
    "Calibration",
    "Scores by truth",
    "Throughput",
)


class Report(NamedTuple):
    """A report with the run that it is about."""

    path: Path
    run: Evaluation
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A run over two halves of a stream, the truth reversed in the second."""
    directory = tmp_path_factory.mktemp("report")
    c = config(directory, ensemble={"combine": "stack"})
    engine = build_engine(c, None)
    run = Evaluation(c, engine, 3_600_000, 20)
    rows = [event(i) | {"fraud": truth(i) != (i >= EVENTS // 2)} for i in range(EVENTS)]
    summary = run.run([[json.dumps(r).encode() for r in rows]], lambda n: None)
    path = directory / "report.html"
    names = ["ensemble", *engine.ensemble.names]
    write_report(path, names, run.judged(), run.course, run.alarms, summary)
    return Report(path, run, summary)


@pytest.mark.browser
def test_it_opens_without_a_complaint_or_a_request(report: Report) -> None:
    """In both schemes every chart is drawn, in the colour of the text, and nothing is fetched."""
    complaints: list[str] = []
    colours = []
    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda r: complaints.append(r.url) if "http" in r.url[:4] else None)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(report.path.as_uri())
            page.wait_for_selector(f"#chart-{len(TITLES) - 1} .main-svg")
            text = page.evaluate("getComputedStyle(document.body).color")
            tick = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
            assert text == tick
            colours.append(text)
    assert complaints == []
    assert len(set(colours)) == 2


def test_it_holds_every_chart_and_plotly_once(report: Report) -> None:
    """Seven charts, the script that draws them inside the file, once, and no address to load."""
    html = report.path.read_text()
    for i, title in enumerate(TITLES):
        assert f"<h2>{title}</h2>" in html
        assert html.count(f'id="chart-{i}"') == 1
    assert html.count("plotly.js v") == 1
    assert "<script src=" not in html


def _chart(report: Report, i: int) -> list[dict[str, Any]]:
    """The traces that the file gives to chart ``i``."""
    html = report.path.read_text()
    start = html.index("[", html.index(f'Plotly.newPlot(                        "chart-{i}"'))
    traces, _ = json.JSONDecoder().raw_decode(html[start:])
    return traces


def test_quality_over_time_is_that_of_equal_slices(report: Report) -> None:
    """The second point of the second line is the average precision of the second slice."""
    judged = report.run.judged()
    lines = _chart(report, 0)
    assert [line["name"] for line in lines] == ["ROC AUC", "PR AUC", "recall"]
    size = len(judged.y) / SLICES
    rows = slice(int(size), int(2 * size))
    expected = average_precision_score(judged.y[rows], judged.p[rows, 0])
    assert _numbers(lines[1]["y"])[1] == pytest.approx(expected)
    assert lines[1]["x"][1].startswith(str(np.datetime64(int(judged.time_ms[rows.stop - 1]), "ms")))


def test_weights_end_where_the_run_ended(report: Report) -> None:
    """The last point of each member's line is its weight in the summary."""
    lines = _chart(report, 2)
    ends = {line["name"]: _numbers(line["y"])[-1] for line in lines}
    assert ends == report.summary["weights"]


def test_every_alarm_of_the_trail_has_its_mark(report: Report) -> None:
    """As many marks as the drift monitor raised alarms; reversing the truth raises some."""
    raised = sum(r.alarms for r in report.run._engine.drift.readings())
    assert raised == sum(len(trace["x"]) for trace in _chart(report, 3)) > 0


def _numbers(values: Any) -> list[float]:
    """A trace's numbers, which plotly may write as base64."""
    if isinstance(values, list):
        return values
    return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).tolist()


def test_it_says_what_it_is_about_and_what_failed(tmp_path: Path) -> None:
    """File, period, delay, threshold, alerts, dead letters, members that failed, notes."""
    bad = {"name": "bad", "type": "river", "model": "river.imblearn.RandomUnderSampler",
           "desired_dist": {"a": 0.5, "b": 0.5},
           "classifier": {"model": "river.linear_model.LogisticRegression"}}  # fmt: skip
    data = tmp_path / "d.jsonl"
    rows = [event(i) | {"fraud": truth(i)} for i in range(200)] + [{"id": 1}]
    data.write_text("\n".join(json.dumps(r) for r in rows))
    c = config(tmp_path, members=[bad, {"name": "good", "type": "logistic"}])
    path = tmp_path / "r.html"
    evaluate_file(c, data, "1h", None, 20, Console(), path)
    html = path.read_text()
    for text in ("test", str(data), "2026-01-01T00:00 to 2026-01-01T03:19", "1h", "0.5000",
                 "<dt>alerts</dt>", "schema 1", "bad (failed)", "before anything was learned",
                 "KeyError"):  # fmt: skip
        assert text in html


@pytest.mark.parametrize("fraud", [None, False])
def test_nothing_to_judge_is_a_page_too(tmp_path: Path, fraud: bool | None) -> None:
    """No label, or one class in few rows: a report that says so."""
    data = tmp_path / "d.jsonl"
    data.write_text("\n".join(json.dumps(event(i) | {"fraud": fraud}) for i in range(5)))
    path = tmp_path / "r.html"
    evaluate_file(config(tmp_path), data, "1d", None, 20, Console(), path)
    assert ("no row has a label" in path.read_text()) == (fraud is None)


def test_a_long_run_keeps_a_bounded_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples stay between SAMPLES and twice as many, evenly spread."""
    monkeypatch.setattr(evaluate, "SAMPLES", 8)
    c = config(tmp_path)
    run = Evaluation(c, build_engine(c, None), 0, 10)
    rows = [json.dumps(event(i) | {"fraud": truth(i)}).encode() for i in range(1000)]
    run.run([rows], lambda n: None)
    events = [s.events for s in run.course]
    assert 8 <= len(events) < 16
    assert len(set(np.diff(events[:-1]).tolist())) == 1


def test_a_report_without_a_place_fails_before_the_run(tmp_path: Path) -> None:
    """The directory is looked for before anything is scored."""
    with pytest.raises(MillraceError, match="--report: expected a directory"):
        evaluate_file(
            config(tmp_path), tmp_path / "none.jsonl", None, None, 1, Console(), tmp_path / "a/b"
        )
