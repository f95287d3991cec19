"""Prequential evaluation over a file: the service's own engine, with labels released when due.

Each event is scored before its label can be learned; a label is released when its time has come by
event time, never earlier. Batches only ever make labels later, by at most one batch of events.
`millrace evaluate` is the only caller.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console

from models.base import MillraceError
from models.settings import parse_duration
from monitoring.measures import kappa_temporal, no_change_accuracy, summarise
from stream.config import Config
from stream.engine import Engine
from stream.files import ScoresWriter, count_rows, read_rows
from stream.progress import progress
from stream.records import Batch, Range, Record, Slice
from stream.service import build_engine

DRAIN = 4096
"""Labels learned in one step once the events are over."""


class _Score(msgspec.Struct):
    id: str
    event_time: int
    score: float
    alert: bool
    members: dict[str, float]
    offset: int


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
    """

    def __init__(
        self, config: Config, engine: Engine, label_delay_ms: int | None, batch: int
    ) -> None:
        self._config = config
        self._engine = engine
        self._delay_ms = label_delay_ms
        self._batch = batch
        self._score = msgspec.json.Decoder(_Score)
        self._due: list[tuple[int, int, bytes]] = []
        self._truth: list[float] = []
        self._labels_sent = 0
        self._events_sent = 0
        self._scored: list[tuple[Any, ...]] = []
        self.dead_letters = 0
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

    def _register(self, raw: bytes) -> int:
        """Note a row's truth and when its label comes; returns its event time, 0 if unreadable."""
        config = self._config
        at, truth = 0, np.nan
        try:
            row = msgspec.json.decode(raw)
            at = _epoch_ms(row[config.event.time], config.event.time_format)
            value = row.get(config.label.field)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if text in config.label.values:
                truth = float(config.label.values[text])
                release = self._release(row, at)
                if release is not None and not config.label.inline:
                    label = {config.label_event_id: row[config.event.id], config.label.field: value}
                    order = len(self._truth)
                    heapq.heappush(self._due, (release, order, msgspec.json.encode(label)))
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError):
            # Not an event: the engine says so with a reason, as a dead letter.
            truth = np.nan
        self._truth.append(truth)
        return at

    def _release(self, row: dict[str, Any], at: int) -> int | None:
        field = self._config.label.time
        if self._delay_ms is not None:
            return at + self._delay_ms
        if field is None or field not in row:
            return at
        value = row[field]
        return None if value is None else _epoch_ms(value, self._config.event.time_format)

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
            reason = dict(letter.headers)["reason"].decode()
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self._collect([self._score.decode(r.value or b"") for r in outputs.scores], sink)

    def _collect(self, scores: list[_Score], sink: ScoresWriter | None) -> None:
        for s in scores:
            self._scored.append((s.offset, s.score, s.alert, *s.members.values()))
        if sink is not None and scores:
            truth = [self._truth[s.offset] for s in scores]
            sink.write(
                [s.id for s in scores],
                [s.event_time for s in scores],
                np.array([s.score for s in scores]),
                np.array([s.alert for s in scores]),
                np.array([list(s.members.values()) for s in scores]),
                [None if np.isnan(t) else int(t) for t in truth],
            )

    def _summary(self) -> dict[str, Any]:
        if not self._scored:
            raise MillraceError(
                f"evaluate: expected at least one event that can be scored, got none of "
                f"{self._events_sent}; dead letters by reason: {self.reasons}"
            )
        table = np.array(self._scored, dtype=np.float64)
        truth = np.array(self._truth)[table[:, 0].astype(np.int64)]
        judged = ~np.isnan(truth)
        y, table = truth[judged], table[judged]
        threshold = self._engine.threshold
        names = ["ensemble", *self._engine.ensemble.names]
        columns = [1, *range(3, table.shape[1])]
        return {
            "events": self._events_sent,
            "scores": len(self._scored),
            "labels": int(self._engine.counts["labels.joined"]),
            "dead_letters": sum(self.reasons.values()),
            "dead_letter_reasons": dict(sorted(self.reasons.items())),
            "labelled": int(judged.sum()),
            "positives": int(y.sum()),
            "quality": {
                name: _rounded(summarise(table[:, c], y, threshold))
                for name, c in zip(names, columns, strict=True)
            },
            "no_change_accuracy": no_change_accuracy(y),
            "kappa_temporal": kappa_temporal(table[:, 2] > 0, y),
            "weights": dict(zip(names[1:], self._engine.ensemble.weights().tolist(), strict=True)),
            "steps": self._engine.seq,
            "digest": self._engine.digest,
        }


def _rounded(values: dict[str, float]) -> dict[str, float | None]:
    return {k: None if np.isnan(v) else round(float(v), 6) for k, v in values.items()}


def _epoch_ms(value: Any, time_format: str) -> int:
    if time_format == "ms":
        return int(value)
    if time_format == "s":
        return round(value * 1000)
    return round(datetime.fromisoformat(value).timestamp() * 1000)


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
) -> dict[str, Any]:
    """Evaluate a file with a progress bar on a terminal; see :class:`Evaluation`.

    Raises :class:`~models.base.MillraceError` for a file or a delay that cannot be used.
    """
    try:
        delay = None if label_delay is None else parse_duration(label_delay)
    except ValueError as error:
        raise MillraceError(f"--label-delay: {error}, got {label_delay!r}") from error
    engine = build_engine(config, None)
    run = Evaluation(config, engine, delay, batch)
    rows = read_rows(data, time_format=config.event.time_format)
    with ExitStack() as stack:
        sink = None
        if scores_out is not None:
            sink = stack.enter_context(ScoresWriter(scores_out, engine.ensemble.names))
        advance = stack.enter_context(progress(console, "scoring", count_rows(data)))
        return run.run(rows, advance, sink)
