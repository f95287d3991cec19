"""A file is played as its log would be: in due order, and the same whatever a step takes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.records import Batch, Slice
from stream.logs.sqlite.log import SqliteLog
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from stream.tools.course import FOLLOWERS, Course
from stream.tools.due import FileLabels, RowLabels, Source
from stream.tools.play import SHARE, Play
from tests.support.factory import DAY_MS, HOUR_MS, START_MS, config, event, to_json, truth
from tests.support.runner import append, caught_up, running

BATCHES = (1, 7, 64, 512, 4096)
MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def small() -> Iterator[Config]:
    """Short horizon, little room: everything that can push a row or a label out happens."""
    with tempfile.TemporaryDirectory() as place:
        yield config(
            Path(place),
            label={"field": "fraud", "time": "told", "horizon": "2d", "learning": "arrival"},
            limits={"pending": 40, "batch": 40, "early_labels": 3, "record_bytes": 1024},
        )


def stream_of(seed: int, n: int = 150) -> tuple[list[bytes], list[bytes]]:
    """Rows with their truth, and rows of labels: ids meet, time jumps and lies, some are bad."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    now = START_MS
    step = int(rng.choice([MINUTE_MS, HOUR_MS]))
    for i in range(n):
        now += int(rng.choice([0, step, 6 * step, 60 * step], p=[0.3, 0.5, 0.18, 0.02]))
        number = i if rng.random() < 0.9 else int(rng.integers(n))
        kind = rng.choice(["", "schema", "junk", "future", "late"], p=[0.9, *[0.025] * 4])
        at = now + 3000 * DAY_MS if kind == "future" else now
        at = now - int(rng.integers(4 * DAY_MS)) if kind == "late" else at
        told = at + int(rng.choice([-1, 0, 1, 20, 50]) * HOUR_MS)
        label: dict[str, Any] = {"fraud": [True, False, None, "maybe"][rng.choice(4, p=P)]}
        label["told"] = told if rng.random() < 0.9 else [None, "soon"][rng.integers(2)]
        bad = {"amount": "x"} if kind == "schema" else {}
        rows.append(b"{junk" if kind == "junk" else to_json(event(number, at) | bad | label))
        if label["fraud"] is not None and rng.random() < 0.9:
            labels.append(to_json({"id": f"e{number}"} | label))
    return rows, [labels[i] for i in rng.permutation(len(labels))]


P = [0.3, 0.5, 0.15, 0.05]


def source_of(
    c: Config, engine: ScoringEngine, delay_ms: int | None, labels: list[bytes] | None
) -> Source:
    if labels is None:
        return RowLabels(c, engine.codec, delay_ms)
    return FileLabels(c, engine.codec, delay_ms, [labels])


def decided(
    c: Config, rows: list[bytes], labels: list[bytes] | None, delay_ms: int | None, batch: int
) -> dict[str, Any]:
    """What became of every record."""
    engine = build_engine(c, None)
    play = Play(c, engine, source_of(c, engine, delay_ms, labels), batch)
    scored, letters = [], []
    for each in play.batches([rows]):
        out = engine.step(each)
        scored += [(r.offset, i) for s in out.scored for r, i in zip(s.records, s.ids, strict=True)]
        letters += [(d.record.topic, play.row_of(d.record), d.error) for d in out.dead_letters]
    return {
        "scored": scored,
        "letters": sorted(letters),
        "counts": {k: v for k, v in engine.counts.items() if v and k not in ("alerts", "cold")},
        "waiting": engine.pending.waiting,
        "early": len(engine.early),
        "watermark": engine.watermark_ms,
        "truth": np.nan_to_num(np.concatenate(play.truth), nan=-1.0).tolist(),
    }


@settings(max_examples=60)
@given(
    seed=st.integers(0, 1 << 32),
    delay_ms=st.sampled_from([None, 0, HOUR_MS, 40 * HOUR_MS, 49 * HOUR_MS]),
    apart=st.booleans(),
)
def test_decisions_do_not_depend_on_the_batch(
    small: Config, seed: int, delay_ms: int | None, apart: bool
) -> None:
    """Strictly prequential or thousands a step: the same is joined, over, orphaned or refused."""
    rows, labels = stream_of(seed)
    given_labels = labels if apart else None
    expected = decided(small, rows, given_labels, delay_ms, 1)
    for batch in BATCHES[1:]:
        assert decided(small, rows, given_labels, delay_ms, batch) == expected


def test_the_streams_meet_what_can_happen(small: Config) -> None:
    """Rows are joined, evicted, over, early, refused as future, duplicate, orphan, bad label."""
    met: set[str] = set()
    for seed in range(12):
        rows, labels = stream_of(seed)
        for apart in (None, labels):
            met |= set(decided(small, rows, apart, None, 64)["counts"])
    reasons = "event_time_ahead", "duplicate_event", "label_orphan", "label_value", "schema"
    assert met >= {f"dead.{reason}" for reason in reasons}
    assert met >= {"labels.joined", "labels.early", "labels.timed_out", "pending.evicted"}


def played(
    c: Config, rows: list[dict[str, Any]], delay_ms: int | None, batch: int = 512
) -> tuple[ScoringEngine, Play, list[Batch]]:
    """The rows, played to their end."""
    engine = build_engine(c, None)
    play = Play(c, engine, RowLabels(c, engine.codec, delay_ms), batch)
    batches = []
    for each in play.batches([[to_json(r) for r in rows]]):
        engine.step(each)
        batches.append(each)
    return engine, play, batches


def thin(n: int, gap_ms: int) -> list[dict[str, Any]]:
    """One event each ``gap_ms``, with its truth."""
    return [event(i, START_MS + i * gap_ms) | {"fraud": truth(i)} for i in range(n)]


def test_labels_of_a_thin_stream_are_in_time(tmp_path: Path) -> None:
    """Hours between events, labels after an hour, a horizon of two days: every label is joined."""
    c = config(tmp_path, label={"field": "fraud", "horizon": "2d"})
    engine, play, _ = played(c, thin(700, 3 * HOUR_MS), HOUR_MS)
    assert engine.counts["labels.joined"] == 700
    assert engine.counts["labels.timed_out"] == 0
    assert play.waits.late == 0


def test_a_label_waits_for_a_small_share_of_its_delay(tmp_path: Path) -> None:
    """A step ends before a label that is due has waited longer, and the wait is told."""
    _, play, batches = played(config(tmp_path), thin(2000, MINUTE_MS), 10 * HOUR_MS)
    assert 0 < play.waits.longest_ms <= 10 * HOUR_MS // SHARE
    assert max(len(b) for b in batches) > 2
    _, play, _ = played(config(tmp_path), thin(300, MINUTE_MS), HOUR_MS, batch=1)
    assert play.waits.longest_ms == 0


def test_no_label_comes_before_it_is_due(tmp_path: Path) -> None:
    """The step that learns a label begins at or after its moment, or all events are over."""
    rows = thin(500, 7 * MINUTE_MS)
    _, _, batches = played(config(tmp_path), rows, 5 * HOUR_MS)
    times = {r["id"]: r["time"] for r in rows}
    for batch in batches:
        if batch.slices[-1].range.topic == "events":
            first = rows[batch.slices[-1].range.first]["time"]
            for record in batch.slices[0].records if len(batch.slices) > 1 else ():
                identifier = record.value.decode().split('"')[3]  # type: ignore[union-attr]
                assert times[identifier] + 5 * HOUR_MS <= first


@pytest.mark.parametrize("place", [0, 300, 698, 699])
def test_a_row_of_the_far_future_is_refused_alone(tmp_path: Path, place: int) -> None:
    """One row of 2099 anywhere is a dead letter; all others are joined, none is over."""
    rows = thin(700, 10 * MINUTE_MS)
    rows[place]["time"] = 4_070_908_800_000
    engine, _, _ = played(config(tmp_path), rows, DAY_MS)
    assert engine.counts["dead.event_time_ahead"] == 1
    assert engine.counts["labels.joined"] == engine.counts["scored"] == 699
    assert engine.counts["labels.timed_out"] == 0
    assert engine.clock_ms < START_MS + 30 * DAY_MS


def test_a_night_without_events_is_believed() -> None:
    """Gaps far longer than `limits.ahead` move the course where the stream goes on behind them."""
    times = np.concatenate([START_MS + day * DAY_MS + np.arange(30) * 1000 for day in range(9)])
    course = Course(HOUR_MS, 30 * DAY_MS)
    assert course.take(times, times[:0]) == times.tolist()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_rows_days_apart_are_believed(n: int) -> None:
    """So few that nothing confirms the last: leaps within the horizon."""
    times = START_MS + np.arange(n) * 3 * DAY_MS
    assert Course(HOUR_MS, 30 * DAY_MS).take(times, times[:0]) == times.tolist()


def test_a_stray_event_that_the_stream_soon_reaches_is_not_believed() -> None:
    """Four hours ahead of its neighbours, ten minutes apart: no label comes four hours early."""
    times = START_MS + np.arange(200) * 10 * MINUTE_MS
    times[50] += 4 * HOUR_MS
    course = Course(HOUR_MS, 30 * DAY_MS).take(times, times[:0])
    assert course[50] == times[49]


def test_a_handful_of_rows_from_the_future_is_not_believed() -> None:
    """Fewer than half of those that are asked, within the stream and at its end."""
    times = START_MS + np.arange(500) * 1000
    wild = times.copy()
    wild[200 : 200 + FOLLOWERS // 2 - 1] += 9000 * DAY_MS
    wild[-20:] += 9000 * DAY_MS
    course = Course(HOUR_MS, 30 * DAY_MS).take(wild, wild[:0])
    assert max(course) == times[-21]


def test_where_rows_come_in_lists_makes_no_difference(tmp_path: Path) -> None:
    """A list a row, or one of all: the same steps, the same outputs."""
    c = config(tmp_path)
    rows = [to_json(r) for r in thin(300, 10 * MINUTE_MS)]
    digests = set()
    for lists in ([rows], [[r] for r in rows], [[], rows[:7], rows[7:]]):
        engine = build_engine(c, None)
        for each in Play(c, engine, RowLabels(c, engine.codec, DAY_MS), 64).batches(lists):
            engine.step(each)
        digests.add(engine.digest)
    assert len(digests) == 1


def test_evaluate_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service, given the same records in the same steps, ends in the same digest and state."""
    label = {"field": "fraud", "time": "told", "horizon": "3d"}
    c = config(tmp_path, label=label, limits={"pending": 5000})
    rows = stream_of(3, 400)[0]
    engine = build_engine(c, None)
    for topic in ("control", "events", "labels"):  # a file has no topics that could be read
        engine.auditor.joined(topic, 0, 0)
    batches = []
    for each in Play(c, engine, RowLabels(c, engine.codec, None), 64).batches([rows]):
        engine.step(each)
        batches.append(each)
    records = [r for b in batches for piece in b.slices for r in piece.records]
    append(c, *((t, [r.value for r in records if r.topic == t]) for t in ("events", "labels")))
    steps = iter(batches)
    clock = [0]

    def poll(log: SqliteLog, limit: int, timeout_s: float) -> list[Slice]:
        batch = next(steps, None)
        if batch is None:
            return []
        clock[0] = batch.clock_ms
        return log.read([piece.range for piece in batch.slices])

    monkeypatch.setattr(SqliteLog, "poll", poll)
    with running(c, clock_ms=lambda: clock[0]) as service:
        caught_up(service, len(records))
        assert service.engine is not None
        assert service.engine.digest == engine.digest
        assert service.engine.state_digest() == engine.state_digest()
