"""The engine in a program of one's own: what the service steps, called with tables.

There is no log and no journal here: what was learned lives in memory until :meth:`Engine.save`.
For a stream that runs for months, with every step journaled, there is ``millrace run``.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from millrace.tables import column, rows_of, taken
from models.base import F64, MillraceError
from models.members.catalogue import names_code
from models.settings import parse_duration
from models.task import Classes, Number, Task
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import Batch, Range, Record, Slice
from stream.decode.payload import encoded
from stream.run.assemble import build_scoring
from stream.settings.load import load as read
from stream.settings.paths import place
from stream.settings.schema import Config
from stream.settings.upgrade import is_given, recorded, settings
from stream.state.generations import CheckpointError, StateDirectory, revive, snapshot_of
from stream.state.topics import Standing
from stream.step.scoring import ScoringEngine
from stream.tools.course import Course
from stream.tools.evaluate import Evaluation

KEEP = 3
"""Saved states kept in a directory."""


class Learned(NamedTuple):
    """What became of labels.

    ``joined`` found their event and were learned, or took the place of an older label; ``early``
    wait for it; ``refused`` holds a ``(position, reason, sentence)`` for each of the others.
    """

    joined: int
    early: int
    refused: list[tuple[int, str, str]]


class Engine:
    """An ensemble that scores and learns, as one configuration describes it.

    Made by :func:`load` or :func:`open`. Calls come from one thread at a time. The same calls give
    the same scores, bit for bit. The clock is the events' own: the latest event time so far, but
    for events more than ``limits.ahead`` later than those around them, which are refused.
    """

    def __init__(self, config: Config, engine: ScoringEngine) -> None:
        self._config = config
        self._engine = engine
        self._course = Course(config.limits.ahead, config.label.horizon)
        self._course.now_ms = engine.clock_ms if engine.seq else -1

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the members, in order."""
        return self._engine.ensemble.names

    @property
    def failed(self) -> frozenset[str]:
        """Names of the members that failed and are left out."""
        return self._engine.ensemble.quarantined

    def score(self, data: Any) -> Any:
        """Score events, and hold them for their labels.

        Parameters
        ----------
        data : pandas or polars DataFrame, Arrow table, list of dicts, or one dict
            Events with the configured fields; ``n`` rows.

        Returns
        -------
        the same kind of table, ``n`` rows in the same order
            ``id``, ``event_time`` (UTC), ``score`` (a probability, or the number expected),
            ``alert``, ``cold`` (before any member had learned), ``score_NAME`` of each member, and
            ``error``: why a row was refused, null where it was not. Of numbers also the
            interval, ``low`` and ``high`` (null where nothing is promised yet). Of classes also
            ``prediction`` (null where none is likely enough), ``set`` (empty where nothing is
            promised yet) and ``probability_CLASS`` of each, and in place of the members' scores
            ``prediction_NAME``.

        Examples
        --------
        >>> engine.score([{"id": "p-1", "time": "2026-01-05T09:30:00Z", ...}])  # doctest: +SKIP
        [{'id': 'p-1', 'score': 0.5, 'alert': False, 'cold': True, ...}]
        """
        table, give = taken(data)
        topic, limit = self._config.topics.events, self._batch_limit()
        parts = [
            self._scored(values[i : i + limit], topic)
            for values in rows_of(table, self._config)
            for i in range(0, len(values), limit)
        ]
        schema = self._schema()
        return give(
            pa.concat_tables(parts, promote_options="default") if parts else schema.empty_table()
        )

    def learn(self, ids: Any, labels: Any, corrects: bool = False) -> Learned:
        """Teach the truth about events that were scored.

        Parameters
        ----------
        ids, labels : columns or sequences of the same length
            Event ids; their truth, as ``label.values`` of the configuration has it.
        corrects : bool
            They take the place of those that were told before, if any were.
        """
        keys, truths = column(ids), column(labels)
        if len(keys) != len(truths):
            raise MillraceError(
                f"learn: expected as many labels as ids, got {len(truths)} and {len(keys)}"
            )
        label = self._config.label
        places = place(self._config.label_event_id), place(label.field)
        said = [(place(label.corrects), True)] if corrects else []
        values = [
            encoded([*zip(places, pair, strict=True), *said])
            for pair in zip(keys, truths, strict=True)
        ]
        counts, limit = self._engine.counts, self._batch_limit()
        met = "labels.joined", "labels.corrected"
        before = sum(counts[name] for name in met), counts["labels.early"]
        refused: list[tuple[int, str, str]] = []
        for start in range(0, len(values), limit):
            outputs = self._step(values[start : start + limit], self._config.topics.labels)
            first = outputs.journal.ranges[0].first
            refused += [
                (start + letter.record.offset - first, letter.reason, letter.error)
                for letter in outputs.dead_letters
                if letter.record.offset >= first
            ]
        joined = sum(counts[name] for name in met) - before[0]
        return Learned(joined, counts["labels.early"] - before[1], refused)

    def evaluate(
        self, data: Any, label_delay: str | None = None, batch: int = 512, labels: Any = None
    ) -> dict[str, Any]:
        """Play past events through a NEW engine of this configuration, and judge its scores.

        Each event is scored before its label can be learned; this engine does not change.

        Parameters
        ----------
        data : as of :meth:`score`, with the truth in it, or in ``labels``
        label_delay : str, optional
            Release each label this long after its event, such as ``"7d"``; by default at its own
            ``label.time``, or at once.
        batch : int
            Most events in one step.
        labels : as of :meth:`score`, optional
            Labels as a table of their own.

        Returns
        -------
        dict
            What ``millrace evaluate --json`` prints.
        """
        try:
            delay = None if label_delay is None else parse_duration(label_delay)
        except ValueError as error:
            raise MillraceError(f"label_delay: {error}, got {label_delay!r}") from error
        fresh = build_scoring(self._config, None)
        apart = None if labels is None else rows_of(taken(labels)[0], self._config)
        run = Evaluation(self._config, fresh, delay, batch, apart)
        return run.run(rows_of(taken(data)[0], self._config), lambda n: None)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Keep the whole state in a directory, events that wait for labels included.

        The newest :data:`KEEP` states stay; each is verified before it is loaded.
        """
        engine = self._engine
        place = StateDirectory(Path(directory)).open()
        try:
            written = place.write(snapshot_of(engine, Standing(), time.time_ns() // 1_000_000))
            place.publish(written, KEEP)
        except OSError as error:
            raise MillraceError(f"{directory}: cannot be written: {error}") from error
        finally:
            place.close()

    # ------------------------------------------------------------------ steps

    def _batch_limit(self) -> int:
        return min(self._config.limits.batch, self._engine.pending.room)

    def _step(self, values: Sequence[bytes], topic: str) -> Outputs:
        first = self._engine.counts[f"consumed.{topic}"]
        records = [Record(topic, 0, first + i, None, v) for i, v in enumerate(values)]
        piece = Slice(Range(topic, 0, first, first + len(values) - 1, len(values)), records)
        piece = self._engine.codec.ahead(piece)
        if topic == self._config.topics.events and piece.ahead is not None:
            events, _ = piece.ahead[1]
            self._course.take(events.columns.event_time_ms, np.empty(0, dtype=np.int64))
        clock_ms = max(self._course.now_ms, self._engine.clock_ms)
        return self._engine.step(Batch(self._engine.seq + 1, clock_ms, [piece]))

    def _scored(self, values: Sequence[bytes], topic: str) -> pa.Table:
        outputs = self._step(values, topic)
        first, n = outputs.journal.ranges[0].first, len(values)
        columns: dict[str, list[Any]] = {name: [None] * n for name in self._schema().names}
        task = self._engine.task
        for part in outputs.scored:
            cells = [
                part.ids,
                part.event_time_ms.tolist(),
                part.score.tolist(),
                part.alert.tolist(),
                [part.cold] * len(part.ids),
                *self._said(part),
                *(
                    [None] * len(part.ids) if name in part.out else _told(task, part.members[:, i])
                    for i, name in enumerate(self.members)
                ),
            ]
            for record, *row in zip(part.records, *cells, strict=True):
                for name, cell in zip(columns, row, strict=False):
                    columns[name][record.offset - first] = cell
        for letter in outputs.dead_letters:
            if letter.record.topic == topic and letter.record.offset >= first:
                columns["error"][letter.record.offset - first] = f"{letter.reason}: {letter.error}"
        return pa.table(columns, self._schema())

    def _said(self, part: Scored) -> list[list[Any]]:
        """What is said beside the score: of a number its interval, of classes all of it."""
        task = self._engine.task
        if part.said is None:
            return []
        if not isinstance(task, Classes):
            return [[None if math.isnan(end) else end for end in ends] for ends in part.said.T]
        sets = [list(itertools.compress(task.names, held)) for held in part.said]
        shares = part.output.T.tolist()[: len(task.names)]
        return [_told(task, part.output, task.abstain_below), sets, *shares]

    def _schema(self) -> pa.Schema:
        task = self._engine.task
        said: list[tuple[str, pa.DataType]] = []
        members = [(f"score_{name}", pa.float64()) for name in self.members]
        if isinstance(task, Classes):
            said = [(f"probability_{name}", pa.float64()) for name in task.names]
            said[:0] = [("prediction", pa.string()), ("set", pa.list_(pa.string()))]
            members = [(f"prediction_{name}", pa.string()) for name in self.members]
        elif isinstance(task, Number):
            said = [("low", pa.float64()), ("high", pa.float64())]
        return pa.schema(
            [
                ("id", pa.string()),
                ("event_time", pa.timestamp("ms", "UTC")),
                ("score", pa.float64()),
                ("alert", pa.bool_()),
                ("cold", pa.bool_()),
                *said,
                *members,
                ("error", pa.string()),
            ]
        )


def _told(task: Task, output: F64, least: float = 0.0) -> list[Any]:
    """What outputs ``(n, k)`` say: a number, or the likeliest class if it has this probability."""
    if not isinstance(task, Classes):
        return list(output[:, 0].tolist())
    told = zip(task.predicted(output).tolist(), output.max(axis=1) >= least, strict=True)
    return [task.named(y) if likely and y >= 0 else None for y, likely in told]


def load(config: str | os.PathLike[str]) -> Engine:
    """A new engine from a TOML configuration, with the environment laid over it.

    Raises :class:`~stream.settings.problems.ConfigError` that lists every mistake.
    """
    settings = read(Path(config), os.environ).in_json()
    return Engine(settings, build_scoring(settings, None))


def open(directory: str | os.PathLike[str], config: str | os.PathLike[str] | None = None) -> Engine:
    """The engine that was saved last in a directory; it goes on bit for bit.

    Parameters
    ----------
    directory : path
        That :meth:`Engine.save` wrote.
    config : path, optional
        The TOML configuration that the engine was made of. Needed where a member names code (a
        River estimator, a module or a type of your own): what runs is what you say, not what
        stands in the directory.

    Raises
    ------
    CheckpointError
        Nothing there can be used, or only under the configuration.
    """
    given = None if config is None else read(Path(config), os.environ).in_json()
    path = Path(directory)
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a directory that Engine.save wrote, got none")
    place = StateDirectory(path).open()
    try:
        for loaded in place.usable(lambda manifest: None):
            saved = _vouched(loaded.manifest.config, str(loaded.path), given)
            engine = build_scoring(saved, None)
            try:
                revive(engine, loaded)
                return Engine(saved, engine)
            except CheckpointError as error:
                place.set_aside(loaded.path, str(error))
    finally:
        place.close()
    raise CheckpointError(f"{path}: expected a saved state that can be used, got none")


def _vouched(tree: dict[str, Any], where: str, given: Config | None) -> Config:
    """The saved configuration, if it runs no code but what the given one names."""
    if given is not None and not is_given(tree, where, given):
        raise CheckpointError(
            f"{where}: expected the given configuration, it was saved under another"
        )
    for member in settings(tree, where).members if given is None else ():
        if names_code(member.type, member.params):
            raise CheckpointError(
                f"{where}: member {member.name!r} names code to run; give the configuration too: "
                "millrace.open(directory, config)"
            )
    return recorded(tree, where)
