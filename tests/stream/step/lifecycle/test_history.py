"""The history of learned rows against what was learned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.base import FeatureBatch, FeatureSchema, state_digest
from stream.run.assemble import build_scoring
from stream.settings.schema import HistorySettings
from stream.state.generations import CheckpointError, StateDirectory, load, read_manifest
from stream.state.generations import snapshot_of as snapshot
from stream.state.topics import Standing
from stream.step.lifecycle.history import History, Learned, learned_of
from stream.step.pending.store import row_dtype
from stream.step.scoring import ScoringEngine
from tests.support.factory import DAY_MS, Feed, config, rng, traffic

ROW = row_dtype(FeatureSchema(("a", "b")), members=2, keys=1)
MEMBERS = ("m", "n")
Kept = list[tuple[int, float, float, int]]
"""Event time, truth, weight and step of rows."""


def made(times: list[int]) -> np.ndarray:
    rows = np.zeros(len(times), ROW)
    rows["event_time_ms"] = times
    rows["links"][:, :, 0] = np.array(times)[:, None] + [0.25, 0.5]
    return rows


def kept(found: Iterator[Learned]) -> Kept:
    """What was learned, row by row."""
    return [
        (int(row["event_time_ms"]), float(y), float(w), int(seq))
        for part in found
        for row, y, w, seq in zip(part.rows, part.y, part.w, part.seq, strict=True)
    ]


def fill(history: History, steps: int, each: int = 500, apart_ms: int = 1) -> Kept:
    """``steps`` steps, each of which learns so many rows of events ``apart_ms`` apart."""
    everything: Kept = []
    for seq in range(1, steps + 1):
        times = [((seq - 1) * each + i) * apart_ms for i in range(each)]
        y, w = rng(seq).integers(0, 2, each).astype(float), rng(seq).random(each)
        history.hold(made(times), y, w, seq, times[-1])
        everything += zip(times, y.tolist(), w.tolist(), [seq] * each, strict=True)
    return everything


@pytest.mark.parametrize("on_disk", [False, True])
def test_steps_give_back_what_they_learned(tmp_path: Path, on_disk: bool) -> None:
    """From any step to any later one: those rows, in order, across parts."""
    history = History(HistorySettings(disk="1MB"), ROW, MEMBERS, tmp_path if on_disk else None)
    everything = fill(history, 12)
    assert len(history.files()) > 3
    for after, until in ((0, 99), (0, 1), (3, 7), (11, 12), (12, 99)):
        assert kept(history.learned(after, until)) == [
            row for row in everything if after < row[3] <= until
        ]


def test_the_oldest_part_makes_room(tmp_path: Path) -> None:
    """No more bytes are kept than is configured, and more than three quarters of them."""
    history = History(HistorySettings(disk="1MB"), ROW, MEMBERS, tmp_path)
    everything = fill(history, 40)
    found = kept(history.learned())
    assert found == everything[-len(found) :]
    assert 750_000 < history.nbytes <= 1_000_000
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert on_disk == history.nbytes


def test_rows_leave_by_event_time() -> None:
    """What is kept reaches back as long as is configured, and an eighth longer at most."""
    history = History(HistorySettings(keep="1d"), ROW, MEMBERS, None)
    fill(history, 50, each=100, apart_ms=60_000)  # 83 hours
    oldest, *_, newest = (row[0] for row in kept(history.learned()))
    assert DAY_MS <= newest - oldest <= DAY_MS * 10 / 8


def test_none_are_kept_where_none_are_asked_for() -> None:
    """``keep = "0s"`` costs nothing, and lets go of what another configuration kept."""
    before = History(HistorySettings(), ROW, MEMBERS, None)
    fill(before, 2)
    history = History(HistorySettings(keep="0s"), ROW, MEMBERS, None)
    history.restore(before.state(), before.rows())
    fill(history, 2)
    assert (len(history), history.files(), kept(history.learned())) == (0, [], [])


def test_a_restored_history_goes_on_alike(tmp_path: Path) -> None:
    """From the rows of another one, full parts as files: the same rows, the same state."""
    one = History(HistorySettings(disk="1MB"), ROW, MEMBERS, tmp_path)
    fill(one, 5)
    other = History(HistorySettings(disk="1MB"), ROW, MEMBERS, tmp_path)
    other.restore(one.state(), one.rows())
    before = kept(one.learned())
    assert kept(other.learned()) == before
    for history in (one, other):
        rows = made([7, 8, 9])
        history.hold(rows, np.ones(3), np.ones(3), 6, 9)
    assert state_digest(one.state()) == state_digest(other.state())
    one.close()
    assert kept(other.learned())[:-3] == before


def test_rows_keep_the_members_that_scored_them() -> None:
    """A history of other members goes on beside what is there: links keep their names."""
    one = History(HistorySettings(), ROW, MEMBERS, None)
    fill(one, 1, each=3)
    wider = row_dtype(FeatureSchema(("a", "b")), members=3, keys=1)
    other = History(HistorySettings(), wider, ("m", "new", "n"), None)
    other.restore(one.state(), one.rows())
    other.hold(np.ones(2, wider), np.ones(2), np.ones(2), 2, 9)
    first, second = other.learned()
    assert (list(first.members), list(second.members)) == ([*MEMBERS], ["m", "new", "n"])
    assert first.rows["links"][:, :, 0].tolist() == [[t + 0.25, t + 0.5] for t in range(3)]
    assert (second.rows["links"] == 1).all()


# ---------------------------------------------------------------------- in an engine


def run(directory: Path, steps: int = 12, **changes: Any) -> ScoringEngine:
    engine, feed = build_scoring(config(directory, **changes), directory), Feed()
    for parts in traffic(40 * steps, lag=100):
        engine.step(feed.batch(*parts))
    return engine


@pytest.mark.parametrize("learning", ["arrival", "corrected"])
def test_who_learns_the_history_becomes_the_member_that_learned_live(
    tmp_path: Path, learning: str
) -> None:
    """Features, truths, weights and their order are those that members were taught."""
    label = {"field": "fraud", "horizon": "1h", "learning": learning}
    engine = run(tmp_path, label=label)
    again = build_scoring(engine.config, None).ensemble.members["linear"]
    for part in engine.history.learned():
        x = FeatureBatch(
            *(engine.features.schema, part.rows["dense"].copy(), part.rows["hashed"].copy())
        )
        again.learn(x, part.y.copy(), part.w.copy())
    assert again.digest() == engine.ensemble.members["linear"].digest()
    assert engine.counts["updates.linear"] == len(engine.history) > 100


def test_a_generation_holds_the_history(tmp_path: Path) -> None:
    """Restored it is the same; beside it, from its files alone, it reads the same."""
    directory = StateDirectory(tmp_path / "state").open()
    engine = run(directory.pending)
    directory.publish(directory.write(snapshot(engine, Standing(), 0)), keep=3)
    [loaded] = directory.usable(lambda m: None)
    again = build_scoring(engine.config, directory.pending)
    again.restore(loaded.state, loaded.segments)
    assert again.state_digest() == engine.state_digest()
    row = engine.pending.dtype
    beside = learned_of(loaded.state["history"], loaded.segments["history"], row, 3, 9)
    expected = list(engine.history.learned(3, 9))
    assert [p.rows.tobytes() for p in beside] == [p.rows.tobytes() for p in expected]
    assert expected[0].seq.tolist()[:1] == [4]
    directory.close()


def test_another_history_than_that_of_the_state_is_refused(tmp_path: Path) -> None:
    """A part with a good checksum of its own, but not the one that the state names."""
    directory = StateDirectory(tmp_path / "state").open()
    engines = [run(tmp_path, steps=n) for n in (10, 12)]
    snapshots = [snapshot(engine, Standing(), 0) for engine in engines]
    crossed = directory.write(
        type(snapshots[0])(
            **{f: getattr(snapshots[0], f) for f in snapshots[0].__struct_fields__}
            | {"segments": snapshots[0].segments | {"history": snapshots[1].segments["history"]}}
        )
    )
    path = directory.publish(crossed, keep=3)
    with pytest.raises(CheckpointError, match=r"history-0{8}\.seg: expected SHA-256"):
        load(path, read_manifest(path))
    directory.close()


def test_a_harmed_part_sets_its_generation_aside(tmp_path: Path) -> None:
    """One bit of a learned row: the generation is never loaded."""
    directory = StateDirectory(tmp_path / "state").open()
    engine = run(directory.pending)
    path = directory.publish(directory.write(snapshot(engine, Standing(), 0)), keep=3)
    part = path / "history-00000000.seg"
    raw = bytearray(part.read_bytes())
    raw[100] ^= 1
    os.unlink(part)
    part.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"history-0{8}\.seg: expected SHA-256"):
        load(path, read_manifest(path))
    directory.close()
