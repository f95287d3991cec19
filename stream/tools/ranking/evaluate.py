"""Prequential evaluation of rankings: each item that was taken is ranked before it is learned.

All items that are known and may be shown are ranked, none is drawn; ties count against us. The
engine is the service's own. Scored are interactions from a tenth of the file on, of users of whom
something is known; an item that was never seen is a miss and stays in the denominator.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from models.base import I64, MillraceError
from stream.contract import private
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Judged, Outputs
from stream.contract.records import Batch, Record, Slice, range_of
from stream.decode.times import misread, period_of
from stream.run.assemble import build_ranking
from stream.settings.schema import Config
from stream.step.ranking.engine import RankingEngine
from stream.tools.files import FileError, kind_of
from stream.tools.progress import progress
from stream.tools.ranking.interactions import Played, played
from stream.tools.ranking.ranks import Course, Ranks, beside_best, by_history, finite, quality
from stream.tools.ranking.rated import Foretold, errors
from stream.tools.refused import Refused

SAMPLES = 200

TYPES = 5
"""Types of interactions that a note names."""


class _Run:
    """Plays records into an engine and keeps what became of each positive.

    The clock is the latest time of the file's records so far.
    """

    def __init__(
        self, engine: RankingEngine, file: Played, step: Callable[[Batch], Outputs]
    ) -> None:
        self._engine, self._file, self._step = engine, file, step
        self._parts: list[tuple[I64, Judged]] = []
        self._began = time.monotonic()
        self._every = 1
        self.course: list[Course] = []

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    def step(self, part: list[Record]) -> Sequence[DeadLetter]:
        """Take records; gives those that were not taken in."""
        engine, file = self._engine, self._file
        clock_ms = int(file.time_ms[[r.offset for r in part]].max())
        outputs = self._step(Batch(engine.seq + 1, clock_ms, [Slice(range_of(part), part)]))
        # What is frozen is not judged; what is judged are all interactions of a run.
        gone = {letter.record.offset for letter in outputs.dead_letters}
        there = [r.offset for r in part if file.interacts[r.offset] and r.offset not in gone]
        rows, start = file.rows[there], 0
        for judged in outputs.judged:
            end = start + len(judged.weight)
            self._parts.append((rows[start:end], judged))
            start = end
        if engine.seq % self._every == 0:
            weights = engine.recommender.weights()
            self.course.append(Course(engine.counts["learned"], weights, self.seconds))
            if len(self.course) == 2 * SAMPLES:
                del self.course[::2]
                self._every *= 2
        return outputs.dead_letters

    def rated(self) -> Foretold | None:
        """The ratings so far, where any are foretold."""
        ratings = self._engine.rated
        if ratings is None:
            return None
        value = np.concatenate([np.zeros(0), *(j.value for _, j in self._parts)])
        nothing = np.zeros((0, len(ratings.ratings.scorers)))
        rated = np.concatenate([nothing, *(j.rated for _, j in self._parts)])
        there = np.isfinite(value)
        return Foretold(ratings.ratings.scorers, value[there], rated[there])

    def found(self) -> Ranks:
        """The positives so far, without repeats."""
        names = ("ensemble", *self._engine.recommender.names)
        none, nowhere = np.zeros(0, np.int64), np.zeros((0, len(names)), np.int32)
        taken = [(rows, j, (j.weight > 0.0) & ~j.repeat) for rows, j in self._parts]
        return Ranks(
            names,
            np.concatenate([*(rows[kept] for rows, _, kept in taken), none]),
            np.concatenate([*(j.time_ms[kept] for _, j, kept in taken), none]),
            np.concatenate([*(j.ranks[kept] for _, j, kept in taken), nowhere]),
            np.concatenate([*(j.history[kept] for _, j, kept in taken), none]),
        )


def evaluate_ranks(
    config: Config,
    data: Path,
    ranks_out: Path | None,
    batch: int,
    console: Console,
    report: Path | None = None,
    dead_letters_out: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a file of interactions with a progress bar on a terminal; returns the summary.

    ``ranks_out`` names a Parquet file for the ranks, ``report`` an HTML file to write in the end,
    ``dead_letters_out`` one for the dead letters. Raises :class:`~models.base.MillraceError`.
    """
    for option, path in (("report", report), ("ranks-out", ranks_out)):
        if path is not None and not path.parent.is_dir():
            raise MillraceError(f"--{option}: expected a directory, got {str(path.parent)!r}")
    if ranks_out is not None and kind_of(ranks_out) != "parquet":
        raise FileError(f"{ranks_out}: expected a name that ends in .parquet")
    config = config.in_json()
    run = play(config, build_ranking(config, None), data, batch, console, dead_letters_out)
    if ranks_out is not None:
        _write(ranks_out, run.found)
    if report is not None:
        from stream.tools.ranking.report import write_ranking_report

        write_ranking_report(report, run.found, run.rated, run.course, run.summary)
    return run.summary


class Done(NamedTuple):
    """What a file gave: its positives, its ratings where any are foretold, the course of the run,
    and the summary."""

    found: Ranks
    rated: Foretold | None
    course: list[Course]
    summary: dict[str, Any]


def play(
    config: Config,
    engine: RankingEngine,
    data: Path,
    batch: int,
    console: Console,
    dead_letters_out: Path | None = None,
    step: Callable[[Batch], Outputs] | None = None,
) -> Done:
    """Play a file into a new engine, ``batch`` records a step, with a progress bar on a terminal.

    ``step`` takes each batch instead of ``engine.step``, which it must call.
    """
    file = played(config, data)
    run = _Run(engine, file, step or engine.step)
    with ExitStack() as stack:
        refused = stack.enter_context(Refused(config, dead_letters_out))
        advance = stack.enter_context(progress(console, "ranking", len(file.records)))
        for first in range(0, len(file.records), batch):
            part = file.records[first : first + batch]
            for letter in run.step(part):
                refused.take(letter, str(data), int(file.rows[letter.record.offset]) + 1)
            advance(len(part))
    found = run.found()
    rated = run.rated()
    summary = _summary(config, data, engine, found, refused, run.seconds)
    times = period_of(file.time_ms[file.time_ms > 0])
    notes = [*misread(times, config.event.time_format), *_notes(summary, config, file)]
    summary |= {"period": times, "notes": notes}
    if rated is not None:
        summary["ratings"] = {"scored": rated.scored, "quality": errors(rated)}
    return Done(found, rated, run.course, summary)


def _summary(
    config: Config,
    data: Path,
    engine: RankingEngine,
    found: Ranks,
    refused: Refused,
    seconds: float,
) -> dict[str, Any]:
    scored = found.scored
    counts, known = engine.counts, engine.recommender.counts()
    return {
        "data": str(data),
        "configuration": config.name,
        "target": "ranking",
        "events": int(counts[f"consumed.{config.topics.events}"]),
        "interactions": int(counts["feedback.interaction"]),
        "positives": len(found.row),
        "scored": int(scored.sum()),
        "repeats": int(counts["repeats"]),
        "dead_letters": sum(refused.reasons.values()),
        "dead_letter_reasons": dict(sorted(refused.reasons.items())),
        "first_dead_letters": refused.first,
        "new_items": int((found.ranks[scored, 0] == 0).sum()),
        "cold": int((found.history == 0).sum()),
        "users": known["users"],
        "items": known["items"],
        "evicted": {side: known[f"{side}_evicted"] for side in ("users", "items")},
        "quality": quality(found),
        "by_history": by_history(found),
        "beside_best": beside_best(found),
        "weights": engine.recommender.weights(),
        "value": _worth(engine),
        "second_stage": _second_stage(engine),
        "answers": int(counts["scored"]),
        "steps": engine.seq,
        "seconds": round(seconds, 3),
        "digest": engine.digest,
    }


def _worth(engine: RankingEngine) -> dict[str, dict[str, float | None]] | None:
    """What lists are worth, as far as their horizon is over; ``None``: there are none."""
    if not engine.value.lists:
        return None
    return {
        name: {k: finite(v) for k, v in figures.items()}
        for name, figures in engine.value.report().items()
    }


def _second_stage(engine: RankingEngine) -> dict[str, Any] | None:
    """What members made of the candidates; ``None``: there are none."""
    stage = engine.reranker
    if stage is None:
        return None
    report = stage.quality.report()
    return {
        "places": int(stage.counts["shown"]),
        "learned": int(stage.counts["learned"]),
        "led": int(engine.counts["led"]),
        "leads": stage.leads,
        "quality": {
            name: {metric: finite(of["sliding"][metric]) for metric in OF_PLACES}
            for name, of in report.items()
        },
    }


OF_PLACES = ("log_loss", "roc_auc", "pr_auc")
"""How well members tell which places of lists are taken, over the newest of them."""


def _notes(summary: dict[str, Any], config: Config, file: Played) -> list[str]:
    notes = []
    if file.types and not summary["positives"] and not summary["repeats"]:
        types = ", ".join(f"{name!r} ({n:,})" for name, n in file.types.most_common(TYPES))
        wanted = ", ".join(map(repr, (config.reco and config.reco.positive) or ()))
        notes.append(
            f"no interaction counts: expected what reco.positive names, {wanted or 'nothing'}; got "
            f"the types {types}"
        )
    elif not summary["scored"]:
        notes.append("nothing could be scored: expected users, or sessions, with two positives")
    if summary["repeats"]:
        notes.append(
            f"{summary['repeats']:,} interactions with what the user took before for less, such as"
            " a purchase of what was looked at, are not scored: it is not shown again"
        )
    if summary["new_items"]:
        share = summary["new_items"] / summary["scored"]
        notes.append(f"{share:.1%} of what was scored were items that nobody had taken before")
    return notes


def _write(path: Path, found: Ranks) -> None:
    """The ranks as Parquet: a row of the file each, in the order of play."""
    columns: dict[str, Any] = {
        "row": found.row,
        "event_time": pa.array(found.time_ms, pa.timestamp("ms", "UTC")),
        "scored": found.scored,
        "history": found.history,
        "rank": found.ranks[:, 0],
    }
    columns |= {f"rank_{name}": found.ranks[:, j] for j, name in enumerate(found.names) if j}
    try:
        private.opened(path).close()
        pq.write_table(pa.table(columns), path, compression="zstd")
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error}") from error
