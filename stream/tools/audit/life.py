"""The life of each model as one HTML file: the trail's records, and quality beside them by replay.

Readable without a network. Nothing of the service changes: its steps are done again beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from monitoring.audit.budgets import ALARMING, REACTIONS
from monitoring.audit.words import number, told
from stream.contract.commands import COMMANDS
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state.follow import Diverged
from stream.state.generations import list_generations
from stream.state.recovery import OUT_OF_REACH
from stream.tools.audit.read import at_time, read_trail, records_of
from stream.tools.audit.verify import verify_trail
from stream.tools.replay import rebuilt
from stream.tools.report import dates, line, section, write_page

SAMPLES = 200
"""Points of a curve of quality, at most."""
MARKS = 200
"""The newest records that are drawn across a chart or listed below it, of each model."""
FEW = 12
"""A longer list of records is folded."""
PREFERRED = ("pr_auc", "macro_f1", "rmse")
"""The figure that is drawn: the first that the task has."""

ACTS = tuple(kind.event for kind in COMMANDS.values())
KINDS = {
    "drift": (("drift",), "#e69f00", "dot"),
    "operators' acts": (ACTS, "#0072b2", "dash"),
    "refusals": (tuple(sorted(ALARMING)), "#d1332e", "solid"),
    "begun anew": (REACTIONS, "#009e73", "dashdot"),
    "configuration": (
        ("reconfigured", "hyper_changed", "member_added", "member_removed"),
        *("#999999", "dash"),
    ),
}
"""What is drawn across the charts: the events of a kind, its colour and its line."""


class Point(NamedTuple):
    """Quality at one moment: name to metric to value, outcomes of long ago fading."""

    at_ms: int
    figures: dict[str, dict[str, float]]


def write_life(config: Config, target: Path, since_ms: int | None) -> dict[str, Any]:
    """Write the report of a shard, since a time; gives what it is about.

    ``quality`` says of how many points its curves are, or why there are none; ``exit`` is that of
    ``audit verify``.
    """
    verified = verify_trail(config, None, None, None, checkpoints=False)
    records = [
        record
        for record in records_of(read_trail(config))
        if since_ms is None or record["at"] >= since_ms
    ]
    try:
        course = quality_course(config, since_ms)
        quality = f"{len(course)} points, from a replay"
    except (*OUT_OF_REACH, Diverged) as error:
        course, quality = [], f"not known: {error}"
    models = dict.fromkeys(record["model"] for record in records)
    members = [name for name in models if _counted(records, name)]
    rest = [record for record in records if record["model"] not in members]
    sections = [_whole(records, members), _life(0, "ensemble", rest, course)]
    for i, name in enumerate(members, 1):
        own = [record for record in records if record["model"] == name]
        sections.append(_life(i, name, own, course))
    notes = [
        f"Trail: {verified['outcome']}, {verified['records']} records.",
        f"Quality: {quality}.",
    ]
    notes += [f"Not checked: {text}." for text in verified["not_checked"]]
    intro = f"{config.name}: {_period(records)}, by the trail's own clock."
    write_page(target, "The life of each model", intro, notes, "".join(sections))
    return {
        "file": str(target),
        "records": len(records),
        "members": members,
        "trail": verified["outcome"],
        "exit": verified["exit"],
        "quality": quality,
    }


def _counted(records: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """The full records of a member."""
    whole = {"held": int, "bytes": int, "version_to": int, "n_updates": int}
    return [
        record
        for record in records
        if record["model"] == name and all(isinstance(record.get(k), t) for k, t in whole.items())
    ]


def _period(records: Sequence[Mapping[str, Any]]) -> str:
    if not records:
        return "no records"
    return f"{at_time(records[0]['at'])} to {at_time(records[-1]['at'])}"


# ------------------------------------------------------------------ quality


def quality_course(config: Config, since_ms: int | None) -> list[Point]:
    """Quality as it was, sampled over the steps since a time.

    Raises as :func:`~stream.tools.replay.rebuilt`, where no state reaches back far enough; a
    journal that was cut is followed from the oldest checkpoint.
    """
    log = open_log(config, wall_clock_ms)
    try:
        wanted = [r.seq for r in log.journal() if since_ms is None or r.clock_ms >= since_ms]
        head = log.journal_head()
    finally:
        log.close()
    if not wanted or head is None:
        return []
    start, last = wanted[0] - 1, wanted[-1]
    if head.seq > 1:
        saved = [int(path.name) for path in list_generations(config.state_dir)]
        start = max(start, min(saved, default=start))
    every = math.ceil((last - start) / SAMPLES)
    points = []
    with rebuilt(config, start) as past:
        for _, outputs in past.onward(last):
            seq, engine = outputs.journal.seq, past.follower.engine
            if (last - seq) % every == 0:
                report = engine.quality.snapshot().report()
                figures = {name: windows["fading"] for name, windows in report.items()}
                points.append(Point(engine.clock_ms, figures))
    return points


def _metric(course: Sequence[Point]) -> str | None:
    known = {metric for point in course[-1:] for metric in point.figures["ensemble"]}
    return next((name for name in (*PREFERRED, *sorted(known)) if name in known), None)


# ------------------------------------------------------------------ the page


def _whole(records: Sequence[Mapping[str, Any]], members: Sequence[str]) -> str:
    """A row for each member: what became of it."""
    head = ("member", "versions", "labels", "parameters", "now", "bytes", *KINDS)
    rows = []
    for name in members:
        own = [record for record in records if record["model"] == name]
        whole = _counted(records, name)
        first, last = whole[0], whole[-1]
        labels = sum(record["n_updates"] for record in whole)
        cells = [f"{first['version_to']:,} to {last['version_to']:,}", f"{labels:,}"]
        cells += [f"{first['held']:,}", f"{last['held']:,}", f"{last['bytes']:,}"]
        cells += [f"{sum(r['event'] in events for r in own):,}" for events, *_ in KINDS.values()]
        rows.append([name, *cells])
    return f"<section><h2>Members</h2>{_table(head, rows)}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> str:
    """Rows of text; the first of each names it."""
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table class={kind}><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _life(i: int, name: str, records: Sequence[Mapping[str, Any]], course: Sequence[Point]) -> str:
    """One model's charts, and below them what happened to it."""
    listed = [r for r in records if r["event"] not in ("summary", "checkpointed")]
    rows = [
        [at_time(r["at"]), f"{r['event']}", str(r["model"]), str(r["actor"]), _words(r)]
        for r in reversed(listed[-MARKS:])
    ]
    table = _table(("at", "event", "model", "by", "what happened"), rows, "told")
    opened = " open" if len(rows) <= FEW else ""
    table = (
        f"<details{opened}><summary>records, newest first: {len(rows)}</summary>{table}</details>"
    )
    return section(
        i, name, _chart(name, records, course), 560 if name != "ensemble" else 300, table
    )


def _words(record: Mapping[str, Any]) -> str:
    try:
        return told(record)
    except Exception:  # noqa: BLE001 - a crafted one may raise anything
        return "not as the service writes it: see audit verify"


def _chart(name: str, records: Sequence[Mapping[str, Any]], course: Sequence[Point]) -> go.Figure:
    """Over one time: quality, fading; of a member its scalars and how far its arrays moved."""
    metric = _metric(course)
    titles = [(metric or "quality").replace("_", " ")]
    whole = _counted(records, name)
    titles += ["parameters", "change"] if whole else []
    figure = make_subplots(rows=len(titles), shared_xaxes=True, vertical_spacing=0.06)
    for row, title in enumerate(titles, 1):
        figure.update_yaxes(title=title, row=row, col=1)
    at = dates([point.at_ms for point in course])
    for j, scorer in enumerate(dict.fromkeys(("ensemble", name)) if metric else ()):
        values = [point.figures.get(scorer, {}).get(metric or "", math.nan) for point in course]
        figure.add_trace(line(j, scorer, at, values), row=1, col=1)
    if whole:
        at = dates([record["at"] for record in whole])
        panels = (("held", [r["held"] for r in whole]), ("moved", [_moved(r) for r in whole]))
        for row, (what, values) in enumerate(panels, 2):
            drawn = line(row, what, at, values).update(showlegend=False)
            figure.add_trace(drawn.update(line_shape="hv" if what == "held" else None), row, 1)
    for kind, (events, colour, dash) in KINDS.items():
        some = [record for record in records if record["event"] in events][-MARKS:]
        style = {"color": colour, "dash": dash, "width": 1}
        for record in some:
            figure.add_vline(x=dates(record["at"]).item(), line=style, row="all", col=1)
        if some:  # a line across a chart has no place in the legend
            mark = go.Scatter(x=[None], y=[None], mode="lines", name=f"{kind} ({len(some)})")
            figure.add_trace(mark.update(line=style), row=1, col=1)
    return figure.update_layout(hovermode="x unified")


def _moved(record: Mapping[str, Any]) -> float:
    """The L2 norm of the change of a record's arrays; nan where none was measured."""
    rows = record.get("tensors")
    arrays = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    moves = [number(row.get("delta_norm")) for row in arrays]
    sizes = [size for size in moves if isinstance(size, float)]
    return math.hypot(*sizes) if sizes else math.nan
