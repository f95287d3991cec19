"""Members that fall due by event time, are trained on what was learned, and installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.run.assemble import build_engine
from stream.run.refit.at_once import Refitting
from stream.settings.upgrade import journaled
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.test_reactions import react, restored
from tests.support.factory import Feed, config, decoded, event, label, reasons

SIZE = 50
LINEAR = {"name": "linear", "type": "logistic"}
TREES = {"name": "trees", "type": "refit", "every": "5h", "trees": 10, "leaves": 4}
SMALL = TREES | {"least": 5, "positives": 20, "learning_rate": 0.3}
"""Of events a minute apart: due after 300."""


def build(directory: Path, **changes: Any) -> ScoringEngine:
    """A member that learns and one that is trained, which sees one column alone."""
    given = {"members": [LINEAR, SMALL | {"features": ["amount"]}]}
    engine = build_engine(config(directory, **(given | changes)), None)
    assert isinstance(engine, ScoringEngine)
    return engine


def run(engine: ScoringEngine, feed: Feed, n: int, train: bool = True) -> list[dict[str, Any]]:
    """``n`` batches of events and their labels, answered at once; what went on record."""
    refits, records = Refitting(engine), []
    for _ in range(n):
        first = feed.offsets.get("events", 0)
        ids = range(first, first + SIZE)
        feed.seq = engine.seq
        batch = feed.batch(("events", [event(i) for i in ids]), ("labels", [label(i) for i in ids]))
        records += decoded(list(engine.step(batch).audit))
        if train:
            refits.answer(batch.clock_ms)
    return records


def test_a_member_falls_due_by_event_time(tmp_path: Path) -> None:
    """On record, with a checkpoint to train on; asked for until a model is installed."""
    engine = build(tmp_path)
    records = run(engine, Feed(), 7, train=False)
    due = [r for r in records if r["event"] == "refit_due"]
    assert [(r["model"], r["step"]) for r in due] == [("trees", 7)]
    assert engine.refits.asked == {"trees": 7}
    assert engine.checkpoint_wanted
    Refitting(engine).answer(engine.clock_ms)
    assert engine.refits.asked == {}


def test_what_is_installed_scores_from_the_next_event_on(tmp_path: Path) -> None:
    """Better than the share of positives that it said before; a version as any other."""
    engine = build(tmp_path)
    run(engine, Feed(), 6)
    before = engine.ensemble.members["trees"].digest()
    feed = Feed()
    feed.offsets = {"events": 6 * SIZE, "labels": 6 * SIZE}
    run(engine, feed, 12)
    assert engine.ensemble.members["trees"].digest() != before
    assert [v.cause for v in engine.ledger.versions()["trees"]][:2] == ["replaced", "installed"]
    report = engine.quality.report()
    assert report["trees"]["fading"]["log_loss"] < 0.3


def test_a_training_that_is_refused_is_not_tried_again_before_the_next_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The member goes on as it was."""
    engine = build(tmp_path, members=[LINEAR, SMALL | {"positives": 10_000}])
    tried = []
    from stream.run.refit import train

    fit = train.fit
    monkeypatch.setattr(train, "fit", lambda *given: tried.append(1) or fit(*given))
    run(engine, Feed(), 10)
    assert tried == [1]
    assert engine.refits.asked == {"trees": 7}


def test_no_moment_of_a_restart_shows(tmp_path: Path) -> None:
    """Before, between and after what falls due: one digest and one state."""
    whole, parted = build(tmp_path), build(tmp_path)
    run(whole, Feed(), 16)
    feed = Feed()
    for i in range(16):
        run(parted, feed, 1)
        if i in (3, 6, 9):
            parted = restored(parted, tmp_path / str(i))
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


def test_under_another_configuration_it_falls_due_as_before(tmp_path: Path) -> None:
    """And a member that comes anew a whole ``every`` after it came."""
    engine = build(tmp_path)
    feed = Feed()
    run(engine, feed, 4)
    after = build(tmp_path, limits={"batch": 77})
    reconfigure(engine, after, journaled(after.config))
    run(after, feed, 3, train=False)
    assert after.refits.asked == {"trees": 8}
    alone = build(tmp_path, members=[LINEAR])
    feed = Feed()
    run(alone, feed, 4)
    both = build(tmp_path)
    reconfigure(alone, both, journaled(both.config))
    records = run(both, feed, 7)
    assert [r["step"] for r in records if r["event"] == "refit_due"] == [12]


def test_where_another_kind_of_model_stands_nothing_falls_due(tmp_path: Path) -> None:
    """One that was promoted learns for itself; when the member is back it falls due."""
    engine, feed = build(tmp_path), Feed()

    def told(**fields: Any) -> list[str]:
        feed.seq = engine.seq
        out = engine.step(feed.batch(("control", [{"member": "trees"} | fields])))
        return reasons(out.dead_letters)

    run(engine, feed, 2)
    assert told(command="challenge", spec='{"type": "logistic"}') == []
    assert told(command="promote") == []
    run(engine, feed, 14)
    assert engine.refits.asked == {}
    assert told(command="rebuild") == []
    assert (engine.refits.asked, "trees" in engine.rebuilds.asked) == ({}, True)
    engine.ensemble.replace("trees", engine.ensemble.fresh("trees", 0))
    run(engine, feed, 7, train=False)
    assert list(engine.refits.asked) == ["trees"]


def test_what_nobody_would_train_does_not_challenge(tmp_path: Path) -> None:
    """Neither by command, as the member is, nor after an alarm, which leaves the member alone."""
    engine, feed = build(tmp_path, drift={"on_alarm": "challenge"}), Feed()
    run(engine, feed, 2)
    feed.seq = engine.seq
    out = engine.step(feed.batch(("control", [{"command": "challenge", "member": "trees"}])))
    [letter] = out.dead_letters
    assert "expected a model that learns label by label" in letter.error
    react(engine, "trees")
    assert engine.ensemble.challengers == {}


def test_a_second_answer_is_refused(tmp_path: Path) -> None:
    """As of a process that was frozen until another had trained in its place; an operator's
    install is not."""
    engine, feed = build(tmp_path), Feed()
    run(engine, feed, 7, train=False)
    [(name, due)] = engine.refits.asked.items()
    Refitting(engine).answer(engine.clock_ms)
    model = engine.ensemble.members[name]
    own = {"command": "install", "member": name, "artefact": model.digest()}
    feed.offsets["control"] = 1
    for command, expected in ((own | {"due": due}, ["command"]), (own, [])):
        feed.seq = engine.seq
        batch = feed.batch(("control", [command]))
        models = {(name, model.digest()): model}
        out = engine.step(msgspec.structs.replace(batch, models=models))
        assert reasons(out.dead_letters) == expected


def test_a_replay_takes_the_model_by_its_digest(tmp_path: Path) -> None:
    """The same records with the same artefact, and no training: the same state."""
    engine, again = build(tmp_path), build(tmp_path)
    batches: list[Any] = []
    step = engine.step
    engine.step = lambda batch: (batches.append(batch), step(batch))[1]  # type: ignore[method-assign]
    run(engine, Feed(), 10)
    for batch in batches:
        models = {}
        for (name, digest), model in batch.models.items():
            models[name, digest] = again.ensemble.fresh(name, 0)
            models[name, digest].restore(model.state())
        again.step(msgspec.structs.replace(batch, models=models))
    assert again.digest == engine.digest
    assert again.ensemble.members["trees"].digest() == engine.ensemble.members["trees"].digest()
