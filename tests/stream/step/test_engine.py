"""The deterministic step: what goes in comes out, exactly once, and is learned as it was scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.base import F64, FeatureBatch, FeatureSchema
from models.members.constant import ConstantModel, ConstantParams
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.step.engine import StepError
from stream.step.scoring import ScoringEngine
from tests.support.factory import (
    DAY_MS,
    START_MS,
    Feed,
    config,
    decoded,
    event,
    label,
    reasons,
    traffic,
    truth,
)


@pytest.fixture
def engine(tmp_path: Path) -> ScoringEngine:
    return build_engine(config(tmp_path), None)


def test_every_event_gets_one_score(engine: ScoringEngine) -> None:
    """A score names its event, its position and every member, and is a probability."""
    out = engine.step(Feed().batch(("events", [event(i) for i in range(20)])))
    scores = decoded(out.scores)
    assert [s["id"] for s in scores] == [f"e{i}" for i in range(20)]
    assert [s["offset"] for s in scores] == list(range(20))
    assert all(0 < s["score"] < 1 and set(s["members"]) == {"linear", "prior"} for s in scores)
    assert out.dead_letters == []


def test_bad_events_become_dead_letters_with_their_bytes(engine: ScoringEngine) -> None:
    """Each bad record is answered by one dead letter with its raw bytes, reason and position."""
    ahead = START_MS + 800 * DAY_MS
    values: list[Any] = [
        event(0),
        b"{not json",
        None,
        event(1, amount="12"),
        {"id": "x"},
        event(2) | {"note": "y" * 300_000},
        event(3, at_ms=ahead),
        event(0),
        event(4, id=""),
        event(5, at_ms=-5),
        b'{"id":"n","time":1,"amount":NaN,"customer":"c","terminal":"t","category":"k"}',
        event(6),
    ]
    out = engine.step(Feed().batch(("events", values)))
    assert [s["id"] for s in decoded(out.scores)] == ["e0", "e6"]
    assert sorted(reasons(out.dead_letters)) == sorted(
        ["malformed", "malformed", "null", "oversized", "event_time_ahead", "duplicate_event"]
        + ["schema"] * 4
    )
    letter = next(d for d in out.dead_letters if d.record.offset == 1)
    assert letter.value == b"{not json"
    assert letter.record.topic == "events"


def test_a_duplicate_event_changes_nothing(engine: ScoringEngine) -> None:
    """The same id again, in another step, is a dead letter; features and windows do not move."""
    feed = Feed()
    engine.step(feed.batch(("events", [event(0)])))
    before = engine.features.digest()
    out = engine.step(feed.batch(("events", [event(0)])))
    assert reasons(out.dead_letters) == ["duplicate_event"]
    assert engine.features.digest() == before


def test_labels_join_before_and_after_their_event(engine: ScoringEngine) -> None:
    """A label is learned once whether it comes first, last, or in the same step."""
    feed = Feed()
    engine.step(feed.batch(("labels", [label(0)])))
    assert len(engine.early) == 1
    engine.step(feed.batch(("events", [event(0), event(1), event(2)]), ("labels", [label(1)])))
    engine.step(feed.batch(("labels", [label(2)])))
    assert engine.counts["labels.joined"] == 3
    assert engine.counts["learned"] == 3
    assert len(engine.early) == 0


def test_repeated_labels_are_told_apart(engine: ScoringEngine) -> None:
    """A second label is a duplicate if it agrees and a conflict if not; neither is learned."""
    feed = Feed()
    engine.step(feed.batch(("events", [event(0), event(1)])))
    out = engine.step(feed.batch(("labels", [label(0, 0), label(0, 0), label(0, 1)])))
    assert reasons(out.dead_letters) == ["label_duplicate", "label_conflict"]
    out = engine.step(feed.batch(("labels", [label(0, 1), label(9, 1), label(9, 0), label(9, 1)])))
    assert reasons(out.dead_letters) == ["label_conflict", "label_conflict", "label_duplicate"]
    assert engine.counts["learned"] == 1


def test_label_values_are_mapped_explicitly(engine: ScoringEngine) -> None:
    """Only the configured values count: the text "no" or a null is never taken for false."""
    feed = Feed()
    engine.step(feed.batch(("events", [event(i) for i in range(6)])))
    values = [label(0, True), label(1, "1"), label(2, 0), label(3, "no"), label(4, 2)]
    out = engine.step(feed.batch(("labels", [*values, {"id": "e5", "fraud": None}])))
    assert reasons(out.dead_letters) == ["label_value", "label_value", "schema"]
    assert engine.counts["labels.joined"] == 3


def test_silence_counts_as_genuine_at_the_horizon(engine: ScoringEngine) -> None:
    """When event time passes the horizon, an event without a label is learned as 0, once."""
    feed = Feed()
    engine.step(feed.batch(("events", [event(0), event(1)]), ("labels", [label(0, 1)])))
    engine.step(feed.batch(("events", [event(2, at_ms=START_MS + 31 * DAY_MS)])))
    assert engine.counts["labels.timed_out"] == 1
    assert engine.counts["learned"] == 2
    out = engine.step(feed.batch(("labels", [label(1, 1)])))
    assert out.dead_letters == []  # it waits for an event it may yet belong to
    out = engine.step(feed.batch(("events", [event(3, at_ms=START_MS + 63 * DAY_MS)])))
    assert reasons(out.dead_letters) == ["label_orphan"]


def test_silence_can_be_dropped(tmp_path: Path) -> None:
    """With `at_horizon = "drop"` an event without a label is never learned."""
    engine = build_engine(config(tmp_path, label={"field": "fraud", "at_horizon": "drop"}), None)
    feed = Feed()
    engine.step(feed.batch(("events", [event(0)])))
    engine.step(feed.batch(("events", [event(1, at_ms=START_MS + 31 * DAY_MS)])))
    assert engine.counts["labels.timed_out"] == 1
    assert engine.counts["learned"] == 0


def test_labels_in_the_event_are_learned_after_its_score(tmp_path: Path) -> None:
    """Inline labels train at once, and a label from the topic for such an event is a repeat."""
    engine = build_engine(config(tmp_path, label={"field": "fraud", "inline": True}), None)
    feed = Feed()
    first = engine.step(feed.batch(("events", [event(0, fraud=True), event(1, fraud="maybe")])))
    assert reasons(first.dead_letters) == ["label_value"]
    assert engine.counts["learned"] == 1
    out = engine.step(feed.batch(("labels", [label(0, 1)])))
    assert reasons(out.dead_letters) == ["label_duplicate"]


class _Recorder(ConstantModel):
    """Keeps what it is given."""

    def __init__(self, inner: Any) -> None:
        super().__init__(ConstantParams(), FeatureSchema(()), 0)
        self.scored: list[F64] = []
        self.learned: list[tuple[F64, F64]] = []

    def score(self, x: FeatureBatch) -> F64:
        self.scored += list(x.dense)
        return super().score(x)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        self.learned += list(zip(x.dense, y, strict=True))


def test_learned_features_are_the_scored_ones(engine: ScoringEngine) -> None:
    """A label trains on the row as it was scored, although windows have moved on since."""
    recorder = _Recorder(None)
    engine.ensemble.members["prior"] = recorder
    feed = Feed()
    for parts in traffic(200, lag=120):
        engine.step(feed.batch(*parts))
    assert len(recorder.learned) == 80
    for i, (row, y) in enumerate(recorder.learned):
        assert (row == recorder.scored[i]).all()
        assert y == truth(i)


def test_the_oldest_pending_event_makes_room(tmp_path: Path) -> None:
    """At `limits.pending` the oldest events are let go, unlearned and counted."""
    engine = build_engine(config(tmp_path, limits={"pending": 100, "batch": 50}), None)
    feed = Feed()
    for start in range(0, 250, 50):
        engine.step(feed.batch(("events", [event(i) for i in range(start, start + 50)])))
    assert len(engine.pending) == 100
    assert engine.counts["pending.evicted"] == 150
    assert engine.counts["learned"] == 0


def test_labelled_events_that_make_room_are_judged(tmp_path: Path) -> None:
    """In a full store an event whose label came counts in matured quality when it leaves."""
    engine = build_engine(config(tmp_path, limits={"pending": 100, "batch": 50}), None)
    feed = Feed()
    for start in range(0, 250, 50):
        some = range(start, start + 50)
        engine.step(
            feed.batch(("events", [event(i) for i in some]), ("labels", [label(i) for i in some]))
        )
    assert len(engine.pending) == 100
    assert engine.counts["pending.evicted"] == 0
    # Not the first 50: nothing had been learned when they were scored.
    assert sum(engine.matured.snapshot().outcomes().values()) == 100


def test_labels_before_the_very_first_event_wait_for_theirs(tmp_path: Path) -> None:
    """The first event begins the time by which they wait: it makes no orphan of them."""
    engine, feed = build_engine(config(tmp_path), None), Feed()
    engine.step(feed.batch(("labels", [label(i) for i in range(3)])))
    out = engine.step(feed.batch(("events", [event(0)])))
    assert reasons(out.dead_letters) == []
    engine.step(feed.batch(("events", [event(1), event(2)])))
    assert engine.counts["labels.joined"] == 3
    assert len(engine.early) == 0


def test_early_labels_are_bounded(tmp_path: Path) -> None:
    """Above `limits.early_labels` the oldest waiting label becomes a dead letter."""
    engine = build_engine(config(tmp_path, limits={"early_labels": 3}), None)
    out = engine.step(Feed().batch(("labels", [label(i, 1) for i in range(5)])))
    assert reasons(out.dead_letters) == ["label_orphan"] * 2
    assert out.dead_letters[0].record.offset == 0


def test_commands_are_answered_by_audit_records(engine: ScoringEngine) -> None:
    """Freeze, release, threshold and checkpoint act at once and stand in the trail."""
    feed = Feed()
    engine.step(feed.batch(("events", [event(0)])))
    commands = [
        {"command": "freeze", "member": "linear", "actor": "ana"},
        {"command": "set_threshold", "threshold": 0.2},
        {"command": "checkpoint"},
        {"command": "freeze", "member": "nobody"},
        {"command": "set_threshold", "threshold": 7},
        {"command": "explode"},
    ]
    out = engine.step(feed.batch(("control", commands)))
    audit = decoded(out.audit)
    assert [a["event"] for a in audit] == ["frozen", "threshold_set", "checkpoint_requested"]
    assert audit[0]["actor"] == "ana"
    assert reasons(out.dead_letters) == ["command"] * 3
    assert engine.ensemble.frozen == {"linear"}
    assert engine.threshold == 0.2
    assert engine.checkpoint_wanted
    before = engine.ensemble.members["linear"].digest()
    engine.step(feed.batch(("labels", [label(0, 1)])))
    assert engine.ensemble.members["linear"].digest() == before
    engine.step(feed.batch(("control", [{"command": "release", "member": "linear"}])))
    assert engine.ensemble.frozen == frozenset()


class _Breaks(ConstantModel):
    """Fails from a certain call on."""

    def __init__(self, action: str) -> None:
        super().__init__(ConstantParams(), FeatureSchema(()), 0)
        self.action = action

    def score(self, x: FeatureBatch) -> F64:
        if self.action == "score":
            return np.full((len(x), 1), np.nan)
        return super().score(x)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        if self.action == "learn":
            raise ValueError("broken on purpose")


@pytest.mark.parametrize("action", ["score", "learn"])
def test_a_failing_member_is_quarantined_and_the_rest_go_on(
    engine: ScoringEngine, action: str
) -> None:
    """The stream never stops for a member; the trail says which one left and why."""
    engine.ensemble.members["prior"] = _Breaks(action)
    feed = Feed()
    out = engine.step(feed.batch(("events", [event(0), event(1)]), ("labels", [label(0, 0)])))
    assert len(out.scores) == 2
    quarantined = [a for a in decoded(out.audit) if a["event"] == "quarantined"]
    assert [a["model"] for a in quarantined] == ["prior"]
    assert engine.ensemble.quarantined == {"prior"}
    reason = {"score": "score_not_finite", "learn": "learn_raised"}[action]
    failed = {key: n for key, n in readings(engine, {}).member_errors.items() if n}
    assert failed == {("prior", reason): 1}
    assert len(engine.step(feed.batch(("events", [event(2)]))).scores) == 1


def test_a_poisoned_record_is_left_out_unread(engine: ScoringEngine) -> None:
    """A record named in `skipped` becomes a dead letter; its neighbours are scored."""
    batch = Feed().batch(("events", [event(0), event(1), event(2)]))
    batch = Batch(batch.seq, batch.clock_ms, batch.slices, frozenset({("events", 0, 1)}))
    out = engine.step(batch)
    assert [s["id"] for s in decoded(out.scores)] == ["e0", "e2"]
    assert reasons(out.dead_letters) == ["poison"]
    assert out.journal.skipped == (("events", 0, 1),)


def test_steps_go_in_order(engine: ScoringEngine) -> None:
    """A step that is not the next one is refused."""
    with pytest.raises(StepError, match="expected seq 1, got 5"):
        engine.step(Batch(5, START_MS, []))


def test_same_input_same_state(tmp_path: Path) -> None:
    """Two engines fed the same batches give the same bytes, digests and state."""
    engines = [build_engine(config(tmp_path), None) for _ in range(2)]
    for feed, engine in zip([Feed(), Feed()], engines, strict=True):
        for parts in traffic(400):
            engine.step(feed.batch(*parts))
    assert engines[0].digest == engines[1].digest
    assert engines[0].state_digest() == engines[1].state_digest()


def test_the_digest_depends_on_every_output(tmp_path: Path) -> None:
    """One changed amount changes the journal's digest."""
    digests = []
    for amount in (10.0, 10.5):
        engine = build_engine(config(tmp_path), None)
        engine.step(Feed().batch(("events", [event(0, amount=amount), event(1, amount=amount)])))
        engine.step(Batch(2, START_MS, []))
        digests.append(engine.state_digest())
    assert digests[0] != digests[1]


def test_it_learns(engine: ScoringEngine) -> None:
    """With labels 50 events late the linear member ranks large amounts above small ones."""
    feed = Feed()
    for parts in traffic(4000):
        engine.step(feed.batch(*parts))
    report = engine.quality.report()
    assert report["linear"]["sliding"]["roc_auc"] > 0.9
    assert np.isclose(report["prior"]["sliding"]["roc_auc"], 0.5)


def test_a_cold_model_says_so_and_alerts_nobody(tmp_path: Path) -> None:
    """Until a label is learned, scores are the prior, flagged, no alert, and nobody's quality."""
    engine = build_engine(config(tmp_path), None)
    feed = Feed()
    first = engine.step(feed.batch(("events", [event(i) for i in range(3)])))
    assert [(s["score"], s["alert"], s["cold"]) for s in decoded(first.scores)] == [
        (0.5, False, True)
    ] * 3
    shown = readings(engine, {})
    assert (shown.cold, shown.cold_scores, shown.alerts) == (True, 3, 0)
    assert engine.tallies.expected.state()["seen"] == 0
    engine.step(feed.batch(("labels", [label(i) for i in range(3)])))
    assert sum(engine.quality.snapshot().outcomes().values()) == 0
    assert not readings(engine, {}).cold
    later = engine.step(feed.batch(("events", [event(3)]), ("labels", [label(3)])))
    assert "cold" not in decoded(later.scores)[0]
    assert sum(engine.quality.snapshot().outcomes().values()) == 1


def test_a_configured_prior_is_said_and_may_alert(tmp_path: Path) -> None:
    """`ensemble.prior` is the score of a cold model, and alerts at or above the threshold."""
    engine = build_engine(config(tmp_path, ensemble={"prior": 0.3, "threshold": 0.3}), None)
    out = engine.step(Feed().batch(("events", [event(0)])))
    score = decoded(out.scores)[0]
    assert (score["score"], score["alert"], score["cold"]) == (0.3, True, True)
