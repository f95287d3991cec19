"""The report of an evaluation: one HTML file with its charts in it, readable without a network.

Nothing here scores or learns, and no figure in it feeds back into the summary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from models.base import F64, I64
from models.task import SHARES, TaskType
from monitoring.quality.tasks import measured
from stream.contract import private
from stream.tools.files import FileError
from stream.tools.judged import AlarmMark, Judged, Sample

PAGE = Path(__file__).with_name("report.html")
SLICES = 50
MARKS = 500
"""The latest alarms that are drawn across a chart."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot")
"""Okabe and Ito's colours, told apart by colour-blind people too; then another dash."""

ENOUGH = 100
"""Events of classes or numbers in a slice, at least."""
POSITIVES = 5
"""A slice says nothing of quality with fewer positives: a line has a gap there."""


def write_report(
    path: Path,
    names: Sequence[str],
    judged: Judged,
    course: Sequence[Sample],
    alarms: Sequence[AlarmMark],
    summary: Mapping[str, Any],
) -> None:
    """Write the file.

    Parameters
    ----------
    names : sequence of str
        The scorers: the ensemble, then the members.
    judged : Judged
    course : sequence of Sample
    alarms : sequence of AlarmMark
    summary : mapping
        What `millrace evaluate` prints.

    Raises
    ------
    FileError
        When the file cannot be written.
    """
    look = LOOKS[judged.task.type]
    first = look.quality[look.compared]
    unit = f", in {judged.task.unit}" if judged.task.unit else ""
    charts = [
        (f"Quality of the ensemble{unit}", _quality(judged, alarms)),
        (f"{first[0].upper()}{first[1:]} by scorer{unit}", _members(names, judged)),
        ("Member weights", _weights(names[1:], course)),
        ("Drift alarms", _alarms(alarms)),
        *look.truths(judged),
        ("Throughput", _throughput(course)),
    ]
    facts = f"<section><dl>{_facts(summary)}</dl></section>"
    table = quality_table(summary["quality"], summary["members"])
    quality = f"<section><h2>Quality of the scores as they were made</h2>{table}</section>"
    parts = [section(i, title, figure) for i, (title, figure) in enumerate(charts)]
    intro = "Each event was scored before its label could be learned."
    write_page(path, "Evaluation", intro, summary["notes"], "".join([facts, quality, *parts]))


def write_page(path: Path, title: str, intro: str, notes: Sequence[str], body: str) -> None:
    """Write a page of sections; raises :class:`FileError` where that cannot be."""
    page = Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        intro=escape(intro),
        notes="".join(f"<li>{escape(note)}</li>" for note in notes),
        body=body,
    )
    try:
        with private.opened(path) as file:
            file.write(page.encode())
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror}") from error


def section(i: int, title: str, figure: go.Figure, height: int = 340, below: str = "") -> str:
    """Chart number ``i`` of a page under its title, and what stands below it, as HTML."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        template="none",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    html = figure.to_html(
        full_html=False,
        include_plotlyjs=i == 0,  # once, whole: the file must open without a network
        div_id=f"chart-{i}",
        config={"displayModeBar": False, "responsive": True},
    )
    return f"<section><h2>{escape(title)}</h2>{html}{below}</section>"


def line(i: int, name: str, x: Any, y: Any) -> go.Scatter:
    """A line in the ``i``-th colour."""
    style = {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i // len(COLOURS) % len(DASHES)]}
    mode = "lines+markers" if len(x) <= SLICES else "lines"  # one point is no line
    return go.Scatter(x=x, y=y, name=escape(name), mode=mode, line=style)


def dates(ms: Any) -> Any:
    """Milliseconds as charts take them."""
    return np.asarray(ms, "datetime64[ms]")


def _slices(judged: Judged) -> list[slice]:
    """At most :data:`SLICES` runs of equally many events, so that positives are in each."""
    n, enough = len(judged.y), LOOKS[judged.task.type].slices(judged.y)
    ends = np.unique(np.linspace(0, n, min(SLICES, max(enough, 1)) + 1).astype(np.int64)).tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


def _quality(judged: Judged, alarms: Sequence[AlarmMark]) -> go.Figure:
    """Quality of the ensemble in equal slices; the ensemble's own drift alarms as lines."""
    parts = _slices(judged)
    times = dates([judged.time_ms[s.stop - 1] for s in parts])
    found = [_told(judged, s, 0) for s in parts]
    figure = go.Figure()
    for i, (key, title) in enumerate(LOOKS[judged.task.type].quality.items()):
        figure.add_trace(line(i, title, times, [f[key] for f in found]))
    for alarm in [a for a in alarms if a.model == "ensemble"][-MARKS:]:
        figure.add_vline(
            x=dates(alarm.at).item(), line={"color": "#d1332e", "width": 1, "dash": "dot"}
        )
    # Labels go on after the last event, and so may alarms.
    ends = {"range": dates([judged.time_ms.min(), judged.time_ms.max()])} if parts else {}
    return figure.update_layout(
        xaxis=ends, yaxis=LOOKS[judged.task.type].axis, hovermode="x unified"
    )


def _told(judged: Judged, part: slice, scorer: int) -> dict[str, float]:
    """Quality of a scorer in a slice; nan where too few positives tell, or it did not score all."""
    output, y = judged.output[part, scorer], judged.y[part]
    look = LOOKS[judged.task.type]
    if not look.tells(y) or np.isnan(output).any():
        return dict.fromkeys(look.quality, math.nan)
    return measured(judged.task, output, y, judged.alert[part])


def _members(names: Sequence[str], judged: Judged) -> go.Figure:
    parts = _slices(judged)
    times = dates([judged.time_ms[s.stop - 1] for s in parts])
    figure = go.Figure()
    for i, name in enumerate(names):
        values = [_told(judged, s, i)[LOOKS[judged.task.type].compared] for s in parts]
        figure.add_trace(line(i, name, times, values))
    return figure.update_layout(yaxis=LOOKS[judged.task.type].axis, hovermode="x unified")


def _weights(names: Sequence[str], course: Sequence[Sample]) -> go.Figure:
    times = dates([s.time_ms for s in course])
    lines = [line(i + 1, n, times, [s.weights[i] for s in course]) for i, n in enumerate(names)]
    return go.Figure(lines).update_layout(hovermode="x unified")


def _alarms(alarms: Sequence[AlarmMark]) -> go.Figure:
    """Every alarm at its time, in the row of what it is about."""
    figure = go.Figure()
    for i, cause in enumerate(sorted({a.cause for a in alarms})):
        some = [a for a in alarms if a.cause == cause]
        marker = {"color": COLOURS[i % len(COLOURS)], "symbol": i, "size": 9}
        x, y = dates([a.at for a in some]), [escape(a.model) for a in some]
        name = f"{escape(cause)} ({len(some)})"
        figure.add_trace(go.Scatter(x=x, y=y, name=name, mode="markers", marker=marker))
    return figure.update_layout(showlegend=True)


def _bins(judged: Judged) -> I64:
    """The score bin of each event, by :data:`models.task.SHARES`."""
    return np.searchsorted(SHARES, judged.p[:, 0], side="left")


def _calibration(judged: Judged) -> go.Figure:
    """Mean score against the share of positives in each bin, both on logarithmic axes."""
    bins, k = _bins(judged), len(SHARES) + 1
    n = np.bincount(bins, minlength=k)
    used = n > 0
    mean = np.bincount(bins, judged.p[:, 0], k)[used] / n[used]
    share = np.bincount(bins, judged.y, k)[used] / n[used]
    seen = share > 0  # a logarithm has no place for a bin without positives
    ends = [float(mean.min(initial=1.0)), 1.0]
    figure = go.Figure(
        [
            go.Scatter(
                x=ends,
                y=ends,
                name="perfect",
                mode="lines",
                line={"color": "#999999", "dash": "dot"},
            ),
            go.Scatter(
                x=mean[seen],
                y=share[seen],
                name="ensemble",
                mode="lines+markers",
                line={"color": COLOURS[0]},
                text=[f"{v:,} events" for v in n[used][seen]],
            ),
        ]
    )
    axis = {"type": "log", "exponentformat": "none"}
    return figure.update_layout(
        xaxis={**axis, "title": "mean score"}, yaxis={**axis, "title": "share of positives"}
    )


def _histogram(judged: Judged, groups: tuple[str, str]) -> go.Figure:
    bins, k = _bins(judged), len(SHARES) + 1
    names = [f"to {b:g}" for b in (*SHARES, 1)]
    figure = go.Figure()
    for truth, (name, colour) in enumerate(zip(groups, COLOURS, strict=False)):
        counts = np.bincount(bins[judged.y == truth], minlength=k)
        figure.add_trace(go.Bar(x=names, y=counts, name=name, marker={"color": colour}))
    yaxis = {"type": "log", "title": "events", "exponentformat": "none"}
    return figure.update_layout(yaxis=yaxis, xaxis={"title": "score"})


def _confusion(judged: Judged) -> go.Figure:
    """Of each true class, which share was predicted as which."""
    task = judged.task
    truth, said = (a.astype(np.int64) for a in (judged.y, task.predicted(judged.output[:, 0])))
    n = len(task.names)
    counts = np.bincount(truth * n + said, minlength=n * n).reshape(n, n)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [escape(name) for name in task.names]
    heat = go.Heatmap(
        z=share,
        x=names,
        y=names,
        colorscale="Blues",
        zmin=0,
        zmax=1,
        text=counts,
        texttemplate="%{text:,}",
        hovertemplate="%{y} as %{x}: %{text:,}<extra></extra>",
    )
    axes = {"xaxis": {"title": "predicted"}, "yaxis": {"title": "true", "autorange": "reversed"}}
    return go.Figure(heat).update_layout(**axes)


def _likeliest(judged: Judged) -> Judged:
    """The probability of the likeliest class, as that of its being right."""
    output = judged.output[:, 0]
    right = (judged.task.predicted(output) == judged.y).astype(np.float64)
    return judged._replace(y=right, output=output.max(axis=1)[:, None, None])


def _expected(judged: Judged) -> go.Figure:
    """Mean truth of each twentieth of the events, in the order of what was predicted."""
    said, y = judged.p[:, 0], judged.y
    parts = [part for part in np.array_split(np.argsort(said, kind="stable"), 20) if len(part)]
    x, mean = [float(said[p].mean()) for p in parts], [float(y[p].mean()) for p in parts]
    ends = [min(x, default=0.0), max(x, default=1.0)]
    style = {"color": "#999999", "dash": "dot"}
    figure = go.Figure(
        [
            go.Scatter(x=ends, y=ends, name="perfect", mode="lines", line=style),
            go.Scatter(x=x, y=mean, name="ensemble", mode="lines+markers"),
        ]
    )
    axes = {"xaxis": {"title": "mean prediction"}, "yaxis": {"title": "mean truth"}}
    return figure.update_layout(**axes)


def _errors(judged: Judged) -> go.Figure:
    """How far predictions were off, but for the furthest hundredth."""
    error = judged.p[:, 0] - judged.y
    ends = np.quantile(error, [0.005, 0.995]) if len(error) else np.zeros(2)
    inner = error[(error >= ends[0]) & (error <= ends[1])]
    counts, edges = np.histogram(inner, 60)
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(go.Bar(x=middles, y=counts, marker={"color": COLOURS[0]}))
    axes = {"xaxis": {"title": "prediction less truth"}, "yaxis": {"title": "events"}}
    return figure.update_layout(**axes)


class Look(NamedTuple):
    """How scores of one kind of target are drawn."""

    quality: dict[str, str]
    """Metrics of the ensemble over time, with their titles."""
    compared: str
    """The metric by which scorers are compared."""
    axis: dict[str, Any]
    """The axis of these metrics."""
    slices: Callable[[F64], int]
    """Into how many slices these truths may be cut, so that each tells something."""
    tells: Callable[[F64], bool]
    """Whether these truths are enough to tell the quality."""
    truths: Callable[[Judged], list[tuple[str, go.Figure]]]
    """Charts of scores beside truths, with their titles."""


_SHARE = {"range": [0, 1.02]}
LOOKS: dict[TaskType, Look] = {
    "binary": Look(
        {"roc_auc": "ROC AUC", "pr_auc": "PR AUC", "recall": "recall"},
        "pr_auc",
        _SHARE,
        lambda y: int(y.sum()) // (2 * POSITIVES),
        lambda y: y.sum() >= POSITIVES,
        lambda judged: [
            ("Calibration", _calibration(judged)),
            ("Scores by truth", _histogram(judged, ("genuine", "positive"))),
        ],
    ),
    "classes": Look(
        {"accuracy": "accuracy", "macro_f1": "macro F1", "kappa": "kappa"},
        "accuracy",
        _SHARE,
        lambda y: len(y) // ENOUGH,
        lambda y: len(y) > 0,
        lambda judged: [
            ("Confusion", _confusion(judged)),
            ("Calibration of the likeliest class", _calibration(_likeliest(judged))),
            (
                "Probability of the likeliest class",
                _histogram(_likeliest(judged), ("wrong", "right")),
            ),
        ],
    ),
    "number": Look(
        {"mae": "mean absolute error", "rmse": "RMSE"},
        "mae",
        {"rangemode": "tozero"},
        lambda y: len(y) // ENOUGH,
        lambda y: len(y) > 0,
        lambda judged: [
            ("Truths by prediction", _expected(judged)),
            ("Errors", _errors(judged)),
        ],
    ),
}


def _throughput(course: Sequence[Sample]) -> go.Figure:
    """Events a second between neighbouring samples, over the events so far."""
    return speed("events", [s.events for s in course], [s.seconds for s in course])


def speed(what: str, counts: Sequence[int], seconds: Sequence[float]) -> go.Figure:
    """How fast ``counts`` of ``what`` grew between neighbouring moments."""
    done, took = np.array(counts), np.diff(seconds)
    fast = np.divide(np.diff(done), took, out=np.zeros(len(took)), where=took > 0)
    figure = go.Figure([line(0, f"{what} a second", done[1:], fast)])
    return figure.update_layout(xaxis={"title": what}, yaxis={"rangemode": "tozero"})


def _facts(summary: Mapping[str, Any]) -> str:
    """The summary's single figures as a definition list."""
    shown = {k: v for k, v in summary.items() if isinstance(v, int | float | str)}
    shown["period"] = " to ".join(str(at)[:16] for at in summary["period"] or ("none",))
    reasons = summary["dead_letter_reasons"]
    shown["dead_letters"] = ", ".join(f"{k} {v:,}" for k, v in reasons.items()) or "none"
    failed = [k for k, v in summary["members"].items() if v["state"] != "working"]
    shown["members that failed"] = ", ".join(failed) or "none"
    shown["unlearned"] = f"{summary['unlearned']['judged']:,} judged apart"
    return facts_list(shown)


def facts_list(facts: Mapping[str, int | float | str]) -> str:
    """Figures by name as a definition list."""
    return "".join(
        f"<div><dt>{escape(k.replace('_', ' '))}</dt><dd>{escape(_figure(v))}</dd></div>"
        for k, v in facts.items()
    )


def _figure(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def quality_table(
    quality: Mapping[str, Mapping[str, float | None]], members: Mapping[str, Mapping[str, Any]]
) -> str:
    """Each scorer's measures as HTML; ``members`` says which failed."""

    def failed(name: str) -> str:
        state = members.get(name, {"state": "working"})["state"]
        return "" if state == "working" else " (failed)"

    shown = [m for m in next(iter(quality.values())) if not m.startswith("effective")]
    head = "".join(f"<th>{escape(m.replace('_', ' '))}</th>" for m in shown)
    rows = "".join(
        f"<tr><th>{escape(name + failed(name))}</th>"
        + "".join(f"<td>{'-' if (v := found[m]) is None else f'{v:.4f}'}</td>" for m in shown)
        + "</tr>"
        for name, found in quality.items()
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
