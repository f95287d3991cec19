"""Prequential evaluation over a file: the service's own engine, with labels released when due.

``play.py`` says what the engine gets and when. Here its scores are judged: each was made before the
label of its event could be learned.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from models.base import F64, MillraceError
from models.settings import parse_duration
from monitoring.quality.measures import kappa_temporal, no_change_accuracy
from monitoring.quality.tasks import measured
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import Batch
from stream.decode.times import misread, period_of, utc
from stream.run.assemble import build_scoring
from stream.run.refit.at_once import Refitting
from stream.settings.paths import place
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from stream.tools.due import FileLabels, RowLabels, Source
from stream.tools.files import LABEL, ScoresWriter, count_rows, read_rows
from stream.tools.judged import AlarmMark, Judged, Sample
from stream.tools.play import Play
from stream.tools.progress import progress
from stream.tools.refused import Refused

SAMPLES = 500
"""Moments of the run kept at least, once it was long enough; at most twice as many."""


class Evaluation:
    """One run over rows of JSON objects that carry events and their truth.

    Parameters
    ----------
    config : Config
    engine : ScoringEngine
        New, with its pending events in memory.
    label_delay_ms : int or None
        A label is released this long after its event. ``None``: at its own ``label.time`` (no value
        there: never), or at once if the configuration names none.
    batch : int
        Most events in one step; 1 is strictly prequential.
    labels : iterable of lists of bytes, optional
        Rows of a file of labels; without, labels stand in the events' rows.
    files : pair of str
        What the file of events and that of labels are called in messages.
    step : callable, optional
        What each batch is given to instead of ``engine.step``, which it must call.

    Attributes
    ----------
    course : list of Sample
        Member weights and wall clock in equal steps; no part of the summary.
    alarms : list of AlarmMark
        What the drift detectors put on the audit trail.
    """

    def __init__(
        self,
        config: Config,
        engine: ScoringEngine,
        label_delay_ms: int | None,
        batch: int,
        labels: Iterable[list[bytes]] | None = None,
        files: tuple[str, str] = ("data", "labels"),
        step: Callable[[Batch], Outputs] | None = None,
    ) -> None:
        source: Source
        if labels is None:
            source = RowLabels(config, engine.codec, label_delay_ms)
        else:
            source = FileLabels(config, engine.codec, label_delay_ms, labels)
        self._source = source
        self._config = config
        self._engine = engine
        self._step = step or engine.step
        # Where steps are journaled, the service trains once it runs.
        self._refits = Refitting(engine) if step is None and engine.refits.on else None
        self._play = Play(config, engine, source, batch)
        self._files = dict(zip((config.topics.events, config.topics.labels), files, strict=True))
        self._scored: list[F64] = []
        self._said: list[NDArray[Any]] = []
        self._failed: dict[str, dict[str, Any]] = {}
        self._started = time.monotonic()
        self._every = 1
        self.course: list[Sample] = []
        self.alarms: list[AlarmMark] = []

    def run(
        self,
        batches: Iterable[list[bytes]],
        progress: Callable[[int], None],
        sink: ScoresWriter | None = None,
        refused: Refused | None = None,
    ) -> dict[str, Any]:
        """Score every row, learn every label, judge the scores; returns the summary.

        The same rows and configuration give the same summary, to the last bit.
        """
        refused = refused or Refused(self._config)
        for batch in self._play.batches(batches):
            outputs = self._step(batch)
            if self._refits is not None:
                self._refits.answer(batch.clock_ms)
            self._sample()
            self._refuse(outputs, refused)
            self._watch(outputs)
            self.alarms += [AlarmMark(batch.clock_ms, a.detector, a.signal) for a in outputs.alarms]
            for scored in outputs.scored:
                self._collect(scored, sink)
            progress(_events_in(batch, self._config))
        return self._summary(refused)

    def _refuse(self, outputs: Outputs, refused: Refused) -> None:
        for letter in outputs.dead_letters:
            record = letter.record
            row = self._play.row_of(record)
            refused.take(letter, self._files[record.topic], row + 1)

    def _watch(self, outputs: Outputs) -> None:
        """Note which member was put into quarantine in this step, and why."""
        if len(self._engine.ensemble.quarantined) == len(self._failed):
            return
        for record in outputs.audit:
            told = msgspec.json.decode(record.value or b"")
            if told["event"] == "quarantined":
                self._failed.setdefault(
                    told["model"],
                    {
                        "state": "quarantined",
                        "error": told.get("error") or f"it passed a budget: {told['breaches']}",
                        "since": utc(self._engine.clock_ms),
                        "step": self._engine.seq,
                    },
                )

    def _sample(self) -> None:
        """Note where the run stands; of a long run every second note goes, again and again."""
        if self._engine.seq % self._every:
            return
        weights = tuple(self._engine.ensemble.weights().tolist())
        seconds = time.monotonic() - self._started
        self.course.append(
            Sample(self._engine.watermark_ms, weights, self._play.events_sent, seconds)
        )
        if len(self.course) == 2 * SAMPLES:
            del self.course[::2]
            self._every *= 2

    def _collect(self, scored: Scored, sink: ScoresWriter | None) -> None:
        rows = np.array([r.offset for r in scored.records], dtype=np.float64)
        times = scored.event_time_ms.astype(np.float64)
        members = scored.members.copy()
        names = self._engine.ensemble.names
        members[:, [name in scored.out for name in names]] = np.nan
        cold = np.full(len(rows), scored.cold)
        flat = members.reshape(len(rows), -1)
        if scored.said is not None:
            self._said.append(scored.said)
        self._scored.append(np.column_stack([rows, times, cold, scored.alert, scored.output, flat]))
        if sink is not None:
            task = self._engine.task
            truth = [self._label(self._play.truth_of(r.offset)) for r in scored.records]
            sink.write(
                scored.ids,
                scored.event_time_ms,
                scored.score,
                scored.alert,
                cold.tolist(),
                np.stack([task.score(m) for m in members.swapaxes(0, 1)], axis=1),
                truth,
            )

    def _label(self, y: float) -> float | str | None:
        """A truth as the file of scores has it."""
        if math.isnan(y):
            return None
        return self._source.newcomers.get(y) or self._engine.task.named(y)

    def judged(self, cold: bool = False) -> Judged:
        """The scored events whose truth is known, made once a member had learned, or ``cold``."""
        m, k = 1 + len(self._engine.ensemble.names), self._engine.task.k
        table = np.concatenate([*self._scored, np.empty((0, 4 + m * k))])
        truth = np.concatenate([*self._play.truth, np.empty(0)])
        y = truth[table[:, 0].astype(np.int64)]
        # Classes that entered on the way; what found no place was a dead letter.
        if newcomers := self._source.newcomers:
            settled = {p: self._engine.task.truth(name) for p, name in newcomers.items()}
            y = np.array([settled.get(t, t) for t in y.tolist()], np.float64)
        chosen = ~np.isnan(y) & ((table[:, 2] > 0) == cold)
        table = table[chosen]
        said = np.concatenate(self._said)[chosen] if self._said else None
        output = table[:, 4:].reshape(len(table), m, k)
        alert = table[:, 3] > 0
        return Judged(
            table[:, 1].astype(np.int64), y[chosen], output, alert, self._engine.task, said
        )

    def _summary(self, refused: Refused) -> dict[str, Any]:
        judged, cold = self.judged(), self.judged(cold=True)
        engine, waits = self._engine, self._play.waits
        names = ["ensemble", *engine.ensemble.names]
        times = [t for part in self._scored for t in (part[:, 1].min(), part[:, 1].max())]
        summary: dict[str, Any] = {
            "configuration": self._config.name,
            "period": period_of(np.array(times, np.int64)),
            "target": engine.task.type,
            **({"unit": engine.task.unit} if engine.task.unit else {}),
            "threshold": _finite(engine.threshold),
            "events": self._play.events_sent,
            "scores": sum(len(part) for part in self._scored),
            "alerts": int(engine.counts["alerts"]),
            "labels": int(engine.counts["labels.joined"]),
            "dead_letters": sum(refused.reasons.values()),
            "dead_letter_reasons": dict(sorted(refused.reasons.items())),
            "first_dead_letters": refused.first,
            "labelled": len(judged.y) + len(cold.y),
            "judged": len(judged.y),
            **judged.task.counted(judged.y),
            "unlearned": {
                "scores": int(sum(part[:, 2].sum() for part in self._scored)),
                "judged": len(cold.y),
                **cold.task.counted(cold.y),
                "quality": _measured(cold, 0, engine.threshold),
            },
            "quality": {
                name: _measured(judged, i, engine.threshold) for i, name in enumerate(names)
            },
            "members": {
                name: self._failed.get(name, {"state": "working", "error": None, "since": None})
                for name in names[1:]
            },
            **_copying(judged),
            "labels_waited": {
                "late": waits.late,
                "mean_s": round(waits.total_ms / 1000 / max(waits.labels, 1), 3),
                "longest_s": waits.longest_ms / 1000,
            },
            "without_label": int(engine.pending.waiting),
            "labels_without_event": len(engine.early),
            "labels_without_time": self._source.untimed,
            "weights": {
                name: _finite(w)
                for name, w in zip(names[1:], engine.ensemble.weights().tolist(), strict=True)
            },
            "steps": engine.seq,
            "digest": engine.digest,
        }
        found = [one for one in (judged, cold) if len(one.y)]
        only = {_only(one) for one in found}
        told = notes(summary, only.pop() if len(only) == 1 else None)
        odd = misread(summary["period"], self._config.event.time_format)
        return summary | {"notes": [*odd, *told]}


def notes(summary: Mapping[str, Any], only: str | None) -> Iterator[str]:
    """What somebody who reads the figures must know; ``only``: the one truth that all rows have."""
    scores, judged, unlearned = summary["scores"], summary["judged"], summary["unlearned"]
    if not scores:
        yield f"nothing could be scored of {_many(summary['events'], 'row')}"
    if unlearned["scores"]:
        yield (
            f"scored before anything was learned: {unlearned['scores']:,} of "
            f"{_many(scores, 'row')}; {unlearned['judged']:,} of them judged apart"
            + (f", {unlearned['positives']:,} positive" if "positives" in unlearned else "")
        )
    if scores and not summary["labelled"]:
        yield "no row has a label: there is nothing to judge"
    labelled = summary["labelled"]
    if labelled > 1 and only is not None:
        yield f"all {labelled:,} judged rows are {only}: with one truth no model can be told apart"
    elif labelled and not judged:
        yield "every judged row was scored before anything was learned: the file is too short"
    waited = summary["labels_waited"]
    if waited["late"]:
        yield (
            f"{_many(waited['late'], 'label')} waited past the due time while events were scored: "
            f"{_seconds(waited['mean_s'])} on average over all, {_seconds(waited['longest_s'])} at "
            "most; --batch 1 lets none wait"
        )
    if summary["labels_without_event"]:
        yield f"{_many(summary['labels_without_event'], 'label')} found no event"
    if summary["labels_without_time"]:
        yield (
            f"{_many(summary['labels_without_time'], 'label')} had no label.time and were never "
            "learned; --label-delay releases labels without it"
        )
    ahead = summary["dead_letter_reasons"].get("event_time_ahead", 0)
    if 20 * ahead > summary["events"]:
        yield f"{_many(ahead, 'row')} ran ahead of the others: is the file in event-time order?"
    for name, member in summary["members"].items():
        if member["state"] != "working":
            yield (
                f"member {name} failed and is out since {member['since']} (step "
                f"{member['step']}): {member['error']}"
            )


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _seconds(value: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"


def _only(judged: Judged) -> str | None:
    """The truth that all rows have; none where they have several, or there are no rows."""
    y = judged.y
    return judged.task.word(y[0]) if len(y) and (y == y[0]).all() else None


def _copying(judged: Judged) -> dict[str, float | None]:
    """How good it is to say what was true last, and how much better the alerts are."""
    if judged.task.type != "binary":
        return {}
    return {
        "no_change_accuracy": _finite(no_change_accuracy(judged.y)),
        "kappa_temporal": _finite(kappa_temporal(judged.alert, judged.y)),
    }


def _measured(judged: Judged, column: int, threshold: float) -> dict[str, float | None]:
    """Quality of one scorer over the rows that it scored itself."""
    output = judged.output[:, column]
    own = ~np.isnan(output[:, 0])
    output, y, task = output[own], judged.y[own], judged.task
    alert = judged.alert[own] if column == 0 else task.alert(output, threshold)
    said = judged.said[own] if column == 0 and judged.said is not None else None
    found = measured(task, output, y, alert, said)
    return {k: _finite(round(v, 6)) for k, v in found.items()}


def _finite(value: float) -> float | None:
    """What JSON can hold: it has no nan."""
    return float(value) if np.isfinite(value) else None


def _events_in(batch: Batch, config: Config) -> int:
    return sum(len(s.records) for s in batch.slices if s.range.topic == config.topics.events)


def evaluate_file(
    config: Config,
    data: Path,
    label_delay: str | None,
    scores_out: Path | None,
    batch: int,
    console: Console,
    report: Path | None = None,
    labels: Path | None = None,
    dead_letters_out: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a file with a progress bar on a terminal; see :class:`Evaluation`.

    ``labels`` names a file of labels, ``report`` the HTML file to write in the end,
    ``dead_letters_out`` one for the dead letters. Raises :class:`~models.base.MillraceError` for a
    file or a delay that cannot be used.
    """
    config, delay = config.in_json(), delay_ms(label_delay)
    if report is not None and not report.parent.is_dir():
        raise MillraceError(f"--report: expected a directory, got {str(report.parent)!r}")
    engine = build_scoring(config, None)
    files = (str(data), str(data if labels is None else labels))
    run = Evaluation(
        config, engine, delay, batch, None if labels is None else rows_of(config, labels), files
    )
    with ExitStack() as stack:
        sink = None
        if scores_out is not None:
            sink = stack.enter_context(
                ScoresWriter(scores_out, engine.ensemble.names, LABEL[engine.task.type])
            )
        refused = stack.enter_context(Refused(config, dead_letters_out))
        advance = stack.enter_context(progress(console, "scoring", count_rows(data)))
        summary = run.run(rows_of(config, data), advance, sink, refused)
    summary = {"data": str(data), "label_delay": label_delay} | summary
    if report is not None:
        from stream.tools.report import write_report  # half a second of plotly that few runs need

        names = ["ensemble", *engine.ensemble.names]
        write_report(report, names, run.judged(), run.course, run.alarms, summary)
    return summary


def delay_ms(label_delay: str | None) -> int | None:
    """Milliseconds in ``--label-delay``; raises :class:`~models.base.MillraceError`."""
    try:
        return None if label_delay is None else parse_duration(label_delay)
    except ValueError as error:
        raise MillraceError(f"--label-delay: {error}, got {label_delay!r}") from error


def rows_of(config: Config, path: Path) -> Iterator[list[bytes]]:
    """A file's rows as JSON, its times as the configuration reads them."""
    others = {config.label.time: config.label_time_format} if config.label.time else {}
    event, label = config.event, config.label
    text = [event.place(n) for n, f in event.fields.items() if f.decimal is not None]
    text += [] if label.decimal is None else [place(label.field)]
    return read_rows(
        path,
        time_format=event.time_format,
        time_formats=others,
        time_zone=event.time_zone,
        text=[".".join(map(str, path)) for path in text],
    )
