"""Prequential evaluation over a file: the service's own engine, with labels released when due.

Each event is scored before its label can be learned; a label is released when its time has come by
event time, never earlier. Batches only ever make labels later, by at most one batch of events.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from models.base import F64, MillraceError
from models.settings import parse_duration
from monitoring.quality.measures import kappa_temporal, no_change_accuracy, summarise
from stream.contract.outputs import Scored
from stream.contract.records import Batch, Range, Record, Slice
from stream.decode.times import TIME_RULES
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.step.engine import Engine
from stream.tools.files import ScoresWriter, count_rows, read_rows
from stream.tools.judged import AlarmMark, Judged, Sample
from stream.tools.progress import progress

DRAIN = 4096
"""Labels learned in one step once the events are over."""

SAMPLES = 500
"""Moments of the run kept at least, once it was long enough; at most twice as many."""


class Evaluation:
    """One run over rows of JSON objects that carry events and their truth.

    Parameters
    ----------
    config : Config
    engine : Engine
        New, with its pending events in memory.
    label_delay_ms : int or None
        A label is released this long after its event. ``None``: at the row's own ``label.time``
        field (no value there: never), or at once if the configuration names none.
    batch : int
        Most events in one step; 1 is strictly prequential.

    Attributes
    ----------
    course : list of Sample
        Member weights and wall clock in equal steps; no part of the summary.
    alarms : list of AlarmMark
        What the drift detectors put on the audit trail.
    """

    def __init__(
        self, config: Config, engine: Engine, label_delay_ms: int | None, batch: int
    ) -> None:
        self._config = config
        self._times = TIME_RULES[config.event.time_format]
        self._engine = engine
        self._delay_ms = label_delay_ms
        self._batch = batch
        # Values stay as they are written: a label repeats its event's id, whatever its size.
        self._row = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._due: list[tuple[int, int, bytes]] = []
        self._truth: list[float] = []
        self._labels_sent = 0
        self._events_sent = 0
        self._scored: list[F64] = []
        self._started = time.monotonic()
        self._every = 1
        self.course: list[Sample] = []
        self.alarms: list[AlarmMark] = []
        self.reasons: dict[str, int] = {}

    def run(
        self,
        batches: Iterable[list[bytes]],
        progress: Callable[[int], None],
        sink: ScoresWriter | None = None,
    ) -> dict[str, Any]:
        """Score every row, learn every label, judge the scores; returns the summary.

        The same rows and configuration give the same summary, to the last bit.
        """
        waiting: list[tuple[int, bytes]] = []
        for rows in batches:
            for raw in rows:
                waiting.append((self._register(raw), raw))
                if len(waiting) >= self._batch:
                    self._step(waiting, sink)
                    waiting = []
            progress(len(rows))
        if waiting:
            self._step(waiting, sink)
        while self._due:
            self._step([], sink)
        return self._summary()

    def _sample(self) -> None:
        """Note where the run stands; of a long run every second note goes, again and again."""
        if self._engine.seq % self._every:
            return
        weights = tuple(self._engine.ensemble.weights().tolist())
        seconds = time.monotonic() - self._started
        self.course.append(Sample(self._engine.watermark_ms, weights, self._events_sent, seconds))
        if len(self.course) == 2 * SAMPLES:
            del self.course[::2]
            self._every *= 2

    def _register(self, raw: bytes) -> int:
        """Note a row's truth and when its label comes; returns its event time, 0 if unreadable."""
        config = self._config
        at, truth = 0, np.nan
        try:
            row = self._row.decode(raw)
            at = self._times.read(row[config.event.time])
            given = row.get(config.label.field, msgspec.Raw(b"null"))
            value = msgspec.json.decode(given)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if text in config.label.values:
                truth = float(config.label.values[text])
                release = self._release(row, at)
                if release is not None and not config.label.inline:
                    label = {config.label_event_id: row[config.event.id], config.label.field: given}
                    order = len(self._truth)
                    heapq.heappush(self._due, (release, order, msgspec.json.encode(label)))
        except (msgspec.MsgspecError, KeyError, ValueError, RecursionError):
            # Not an event: the engine says so with a reason, as a dead letter.
            truth = np.nan
        self._truth.append(truth)
        return at

    def _release(self, row: dict[str, msgspec.Raw], at: int) -> int | None:
        field = self._config.label.time
        if self._delay_ms is not None:
            return at + self._delay_ms
        if field is None or field not in row:
            return at
        value = row[field]
        return None if bytes(value) == b"null" else self._times.read(value)

    def _step(self, events: list[tuple[int, bytes]], sink: ScoresWriter | None) -> None:
        """Labels that are due before the first event, then the events."""
        slices = []
        labels: list[bytes] = []
        now = events[0][0] if events else 0
        while self._due and (self._due[0][0] <= now if events else len(labels) < DRAIN):
            release, _, raw = heapq.heappop(self._due)
            now = max(now, release)
            labels.append(raw)
        topics = self._config.topics
        if labels:
            slices.append(_slice(topics.labels, self._labels_sent, labels))
            self._labels_sent += len(labels)
        if events:
            slices.append(_slice(topics.events, self._events_sent, [raw for _, raw in events]))
            self._events_sent += len(events)
        clock = max([now, *(at for at, _ in events)])
        outputs = self._engine.step(Batch(self._engine.seq + 1, clock, slices))
        for letter in outputs.dead_letters:
            self.reasons[letter.reason] = self.reasons.get(letter.reason, 0) + 1
        self._sample()
        self.alarms += [AlarmMark(clock, a.detector, a.signal) for a in outputs.alarms]
        for scored in outputs.scored:
            self._collect(scored, sink)

    def _collect(self, scored: Scored, sink: ScoresWriter | None) -> None:
        rows = np.array([r.offset for r in scored.records], dtype=np.float64)
        times = scored.event_time_ms.astype(np.float64)
        table = np.column_stack([rows, times, scored.alert, scored.p, scored.members])
        self._scored.append(table)
        if sink is not None:
            truth = [self._truth[r.offset] for r in scored.records]
            sink.write(
                scored.ids,
                scored.event_time_ms,
                scored.p,
                scored.alert,
                scored.members,
                [None if np.isnan(t) else int(t) for t in truth],
            )

    def judged(self) -> Judged:
        """The scored events whose truth is known."""
        table = np.concatenate(self._scored)
        truth = np.array(self._truth)[table[:, 0].astype(np.int64)]
        known = ~np.isnan(truth)
        table = table[known]
        return Judged(table[:, 1].astype(np.int64), truth[known], table[:, 3:], table[:, 2] > 0)

    def _summary(self) -> dict[str, Any]:
        if not self._scored:
            raise MillraceError(
                f"evaluate: expected at least one event that can be scored, got none of "
                f"{self._events_sent}; dead letters by reason: {self.reasons}"
            )
        _, y, p, alert = self.judged()
        threshold = self._engine.threshold
        names = ["ensemble", *self._engine.ensemble.names]
        return {
            "events": self._events_sent,
            "scores": sum(len(part) for part in self._scored),
            "labels": int(self._engine.counts["labels.joined"]),
            "dead_letters": sum(self.reasons.values()),
            "dead_letter_reasons": dict(sorted(self.reasons.items())),
            "labelled": len(y),
            "positives": int(y.sum()),
            "quality": {
                name: _rounded(summarise(column, y, threshold))
                for name, column in zip(names, p.T, strict=True)
            },
            "no_change_accuracy": no_change_accuracy(y),
            "kappa_temporal": kappa_temporal(alert, y),
            "weights": dict(zip(names[1:], self._engine.ensemble.weights().tolist(), strict=True)),
            "steps": self._engine.seq,
            "digest": self._engine.digest,
        }


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {k: None if np.isnan(v) else round(float(v), 6) for k, v in values.items()}


def _slice(topic: str, first: int, values: list[bytes]) -> Slice:
    records = [Record(topic, 0, first + i, None, v) for i, v in enumerate(values)]
    return Slice(Range(topic, 0, first, first + len(values) - 1, len(values)), records)


def evaluate_file(
    config: Config,
    data: Path,
    label_delay: str | None,
    scores_out: Path | None,
    batch: int,
    console: Console,
    report: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a file with a progress bar on a terminal; see :class:`Evaluation`.

    ``report`` names the HTML file to write in the end. Raises
    :class:`~models.base.MillraceError` for a file or a delay that cannot be used.
    """
    try:
        delay = None if label_delay is None else parse_duration(label_delay)
    except ValueError as error:
        raise MillraceError(f"--label-delay: {error}, got {label_delay!r}") from error
    if report is not None and not report.parent.is_dir():
        raise MillraceError(f"--report: expected a directory, got {str(report.parent)!r}")
    engine = build_engine(config, None)
    run = Evaluation(config, engine, delay, batch)
    rows = read_rows(data, time_format=config.event.time_format)
    with ExitStack() as stack:
        sink = None
        if scores_out is not None:
            sink = stack.enter_context(ScoresWriter(scores_out, engine.ensemble.names))
        advance = stack.enter_context(progress(console, "scoring", count_rows(data)))
        summary = run.run(rows, advance, sink)
    if report is not None:
        from stream.tools.report import write_report  # half a second of plotly that few runs need

        names = ["ensemble", *engine.ensemble.names]
        write_report(report, names, run.judged(), run.course, run.alarms, summary)
    return summary
