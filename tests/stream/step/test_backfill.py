"""What a switch makes of the stream's state and of an engine that the past has taught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.base import state_digest
from stream.contract.records import Batch
from stream.settings.upgrade import journaled
from stream.step.backfill import Backfill
from stream.step.reconfigure import compare, reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.test_reconfigure import (
    CHANGES,
    WHOLE,
    Raw,
    Stream,
    alarmed,
    engine_of,
    first,
    patched,
    restored,
    step_alike,
)

STEPS = 12
GAINS = {
    **{change: WHOLE[change] for change in ("a member more, in front", "a feature more")},
    **{change: CHANGES[change] for change in ("WindowFeature.windows", "FieldSettings.default")},
    **{change: CHANGES[change] for change in ("RiskFeature.entity", "EnsembleSettings.combine")},
    "another member of the name": WHOLE["another member of the name"],
    "features in another order": {
        "features": [first(Path())["features"][i] for i in (3, 0, 4, 2, 1)]
    },
}


def taught(raw: Raw, change: Raw, after: int) -> tuple[ScoringEngine, ScoringEngine, Stream]:
    """A stream's engine, one that took its steps after one under a change, and what comes next."""
    old, past, stream = alarmed(engine_of(raw)), engine_of(patched(raw, change)), Stream()
    past.seq = after
    for _ in range(STEPS):
        batch = stream.batch(old.config)
        old.step(batch)
        if batch.seq > after:
            past.step(Batch(batch.seq, batch.clock_ms, batch.slices))
            past.digest = old.digest
    return old, past, stream


@pytest.mark.parametrize("after", [0, 10])
@pytest.mark.parametrize("change", sorted(GAINS))
def test_what_goes_on_is_the_streams_and_what_is_new_the_pasts(
    tmp_path: Path, change: str, after: int
) -> None:
    """Part by part, bit for bit; a restart goes on alike."""
    raw = first(tmp_path)
    old, past, stream = taught(raw, GAINS[change], after)
    new = alarmed(engine_of(patched(raw, GAINS[change])))
    changes = compare(old, new, past)
    assert changes.fresh == []
    reconfigure(old, new, journaled(new.config), Backfill(past, after))
    for name, member in new.ensemble.members.items():
        source = old if name in changes.staying else past
        assert member.digest() == source.ensemble.members[name].digest()
    if not changes.same_combiner:
        assert new.ensemble.weights().tolist() == past.ensemble.weights().tolist()
    kept = {f"feature {name}" for name in new.features.memories()} & set(changes.kept)
    tables = [(e.features.state()["tables"], e is old) for e in (old, past)]
    for name, table in new.features.state()["tables"].items():
        assert any(
            state_digest(table) == state_digest(theirs[name])
            for theirs, stays in tables
            if stays == (f"feature {name}" in kept)
        )
    again = restored(new, tmp_path)
    assert again.state_digest() == new.state_digest()
    stream.switched()
    for _ in range(3):
        step_alike([new, again], stream.batch(new.config))
    assert new.state_digest() == again.state_digest()


@pytest.mark.parametrize("learning", ["arrival", "mature", "corrected"])
@pytest.mark.parametrize("after", [0, 10])
def test_events_that_wait_go_on_where_the_past_knows_them(
    tmp_path: Path, learning: str, after: int
) -> None:
    """With another column: each as it was scored, with what the past's members said of it; the
    rest are told as lost. Labels that come are learned once, who was looked at is known."""
    raw = first(tmp_path) | {"label": {"field": "fraud", "horizon": "2d", "learning": learning}}
    raw["drift"] = {}
    change = WHOLE["a feature more"]
    old, past, stream = taught(raw, change, after)
    new = engine_of(patched(raw, change))
    changes = compare(old, new, past)
    reconfigure(old, new, journaled(new.config), Backfill(past, after))
    theirs, taken, ours = rows(old), rows(past), rows(new)
    known = np.isin(theirs["id"], taken["id"])
    assert known.all() == (after == 0)
    assert np.array_equal(ours["id"], theirs["id"][known])
    assert np.array_equal(ours["score"], theirs["score"][known])
    assert np.array_equal(ours["links"], taken["links"])
    assert np.array_equal(ours["dense"][:, :-1], theirs["dense"][known])
    assert np.array_equal(ours["dense"][:, -1], taken["dense"][:, -1])
    truths = [e.pending.truth(np.arange(e.pending.head, e.pending.tail)) for e in (old, new)]
    assert np.array_equal(truths[1], truths[0][known], equal_nan=True)
    lost = old.pending.waiting - new.pending.waiting
    assert [line.split(" (")[0] for line in changes.lost if "pending" in line] == (
        [f"{lost} pending events"] if lost else []
    )
    before_look = [e.pending.tail - e.maturity.state()["ends"] for e in (old, new)]
    assert np.array_equal(before_look[1], np.minimum(before_look[0], len(ours)))
    before, waiting = new.counts.copy(), len(new.pending.unlearned())
    stream.switched()
    for _ in range(20):
        new.step(stream.batch(new.config))
    gained = new.counts - before
    if learning != "corrected":  # which learns an event more than once
        told = gained["labels.joined"] + gained["labels.timed_out"] + waiting
        assert gained["learned"] + len(new.pending.unlearned()) == told
    assert gained["labels.timed_out"] > 0


def rows(engine: ScoringEngine) -> np.ndarray[Any, Any]:
    return engine.pending.take(np.arange(engine.pending.head, engine.pending.tail))
