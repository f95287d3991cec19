"""Members that learned wrong labels are rebuilt by the history as it is corrected."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import FeatureBatch, Model, state_digest
from stream.contract.outputs import Outputs
from stream.run.assemble import build_engine, build_scoring
from stream.run.refit import rebuild as rebuilding
from stream.run.refit import train as training
from stream.run.refit.answer import Answer
from stream.run.refit.rebuild import rebuild
from stream.run.refit.train import by_what_is_there
from stream.settings.upgrade import journaled
from stream.state.artefacts import FOLDER, Artefacts
from stream.state.generations import CheckpointError, StateDirectory, read_manifest, snapshot_of
from stream.state.topics import Standing
from stream.step.lifecycle import rebuilds
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.test_corrections import TARGETS, retract, run, shard, told
from tests.stream.step.lifecycle.test_reactions import restored
from tests.support.factory import Feed, decoded, event, label, ranking_config, reasons, truth

TREES = {"name": "trees", "type": "refit", "least": 5, "positives": 20, "trees": 5}
ARRIVAL = {"field": "fraud", "horizon": "2h", "learning": "arrival"}


def corrects(i: int, y: object) -> dict[str, Any]:
    return label(i, y) | {"corrects": True}


def command(**fields: Any) -> tuple[str, list[Any]]:
    return "control", [fields]


def learned_right(engine: ScoringEngine, name: str = "linear") -> Model:
    """A new member after each row of the history, as corrected, one by one."""
    model = engine.ensemble.fresh(name, 0)
    for part in engine.history.learned():
        for i in range(len(part.y)):
            row = part.rows[i : i + 1]
            x = FeatureBatch(engine.features.schema, row["dense"].copy(), row["hashed"].copy())
            model.learn(x, part.y[i : i + 1].copy(), part.w[i : i + 1].copy())
    return model


def answered(engine: ScoringEngine, directory: Path, name: str = "linear") -> dict[str, Any]:
    """What the process beside a service makes of the engine as it is now: the command to send."""
    place = StateDirectory(directory).open()
    try:
        path = place.publish(place.write(snapshot_of(engine, Standing(), 0)), keep=3)
        answer = rebuild(directory, path, name, engine.tree)
    finally:
        place.close()
    if answer.refused:
        return {"command": "withdraw", "member": name, "reason": answer.refused}
    found = {"command": "install", "member": name, "artefact": answer.digest}
    return found | {"upto": answer.upto}


def install(engine: ScoringEngine, directory: Path, sent: dict[str, Any]) -> Outputs:
    """The step of an install, with its artefact; the trail has the member as it then is."""
    feed = Feed()
    feed.seq, feed.offsets = engine.seq, {"control": engine.counts["consumed.control"]}
    batch = feed.batch(("control", [sent]))
    models = Artefacts(directory / FOLDER).models(engine, batch.slices)
    out = engine.step(msgspec.structs.replace(batch, models=models))
    for record in [r for r in decoded(list(out.audit)) if "root" in r]:
        assert record["root"] == engine.ensemble.members[sent["member"]].digest()
    return out


@settings(max_examples=6)
@given(data=st.data())
def test_a_rebuilt_member_is_one_that_learned_right(tmp_path_factory: Any, data: Any) -> None:
    """Bit for bit, by any corrections and retractions, and by what is learned meanwhile."""
    directory = tmp_path_factory.mktemp("rebuilt")
    target = data.draw(st.sampled_from(sorted(TARGETS)))
    changes, said = TARGETS[target]
    engine = build_scoring(shard(directory, **({"label": ARRIVAL} | changes)), None)
    run(engine, said)
    for _ in range(2):  # a rebuilt one can be rebuilt again
        words = data.draw(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 9)), max_size=20))
        gone = data.draw(st.lists(st.integers(151, 190), unique=True, max_size=3))
        told(engine, ("labels", [corrects(i, said(j)) for i, j in [(2, 3), (2, 5), *words]]))
        told(engine, retract(*gone))
        if not engine.rebuilds.stale:
            continue
        told(engine, command(command="rebuild", member="linear"))
        sent = answered(engine, directory / "state")
        start = engine.counts["scored"]
        later = range(start, start + 30)
        told(
            engine,
            ("events", [event(i) for i in later]),
            ("labels", [label(i, said(i)) for i in later]),
        )
        assert reasons(install(engine, directory / "state", sent).dead_letters) == []
        assert engine.ensemble.members["linear"].digest() == learned_right(engine).digest()
        assert (engine.rebuilds.asked, "linear" in engine.rebuilds.stale) == ({}, False)


def test_who_is_stale_is_asked_for_and_on_record(tmp_path: Path) -> None:
    """All of them without a name; nobody where nothing was corrected."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    run(engine, truth)
    out = told(engine, command(command="rebuild"))
    assert reasons(out.dead_letters) == ["command"]
    told(engine, ("labels", [corrects(3, not truth(3))]))
    assert engine.rebuilds.stale == ["linear", "prior"]
    out = told(engine, command(command="rebuild", actor="ops"))
    [record] = [r for r in decoded(list(out.audit)) if r["event"] == "rebuild_asked"]
    assert (record["members"], record["actor"]) == (["linear", "prior"], "ops")
    assert engine.checkpoint_wanted
    told(engine, command(command="withdraw", member="prior"))
    assert engine.rebuilds.asked.keys() == {"linear"}
    assert reasons(told(engine, command(command="withdraw", member="prior")).dead_letters)


@pytest.mark.parametrize("by", ["rebuild", "train"])
def test_a_generation_that_leaves_meanwhile_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Learning takes longer than a generation is kept."""
    members = [{"name": "linear", "type": "logistic"}, TREES]
    engine = build_scoring(shard(tmp_path, label=ARRIVAL, members=members), None)
    run(engine, truth)
    told(engine, ("labels", [corrects(3, not truth(3))]))
    told(engine, command(command="rebuild", member="linear"))
    place = StateDirectory(tmp_path / "state").open()
    path = place.publish(place.write(snapshot_of(engine, Standing(), 0)), keep=3)
    place.close()
    module, slow = {"rebuild": (rebuilding, "taught"), "train": (training, "trained")}[by]
    learns = getattr(module, slow)

    def late(*given: Any) -> Any:
        shutil.rmtree(path, ignore_errors=True)
        return learns(*given)

    monkeypatch.setattr(module, slow, late)
    if by == "rebuild":
        answer = rebuild(tmp_path / "state", path, "linear", engine.tree)
        assert answer.digest == learned_right(engine).digest()
    else:
        assert training.train(tmp_path / "state", path, "trees").digest
    assert not path.exists()


def test_where_the_generation_is_gone_the_newest_is_taken(tmp_path: Path) -> None:
    """One that is there and cannot be read is told."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    place, paths = StateDirectory(tmp_path / "state").open(), []
    for k in range(2):
        told(engine, ("events", [event(k)]))
        snapshot = snapshot_of(engine, Standing(), 0)
        paths.append(place.publish(place.write(snapshot), keep=3))
    place.close()
    gone, there = paths
    shutil.rmtree(gone)

    def made(path: Path) -> Answer:
        return Answer(str(read_manifest(path).seq))

    assert by_what_is_there(tmp_path / "state", gone, made).digest == str(engine.seq)
    (there / "manifest.json").unlink()
    with pytest.raises(CheckpointError):
        by_what_is_there(tmp_path / "state", gone, made)


def test_who_goes_back_to_before_a_rebuild_has_learned_wrong_labels(tmp_path: Path) -> None:
    """And is not stale once it is what was rebuilt again, wherever the engine was saved."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    run(engine, truth)
    wrong = engine.ensemble.members["linear"].state()
    told(engine, ("labels", [corrects(i, not truth(i)) for i in range(9)]))
    told(engine, command(command="rebuild", member="linear"))
    install(engine, tmp_path / "state", answered(engine, tmp_path / "state"))
    right = engine.ensemble.members["linear"].state()
    engine = restored(engine, tmp_path / "again")
    artefacts = Artefacts(tmp_path / "state" / FOLDER)
    for state, stale in ((wrong, True), (right, False), (wrong, True)):
        digest = state_digest(state)
        artefacts.put(digest, lambda state=state: state)  # type: ignore[misc]
        back = {"command": "rollback", "member": "linear", "to": digest}
        assert reasons(install(engine, tmp_path / "state", back).dead_letters) == []
        assert ("linear" in engine.rebuilds.stale) == stale


def test_a_member_whose_past_is_elsewhere_is_rebuilt_only_if_that_is_accepted(
    tmp_path: Path,
) -> None:
    """It has learned what the history does not have; rebuilt, it knows the history alone."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    run(engine, truth, n=80)
    engine.ensemble.renew("linear", 1)
    run_on(engine, 80, 200)
    told(engine, ("labels", [corrects(3, not truth(3))]), command(command="rebuild"))
    sent = answered(engine, tmp_path / "state")
    assert "not its whole past" in sent["reason"]
    told(engine, ("control", [sent]))
    assert "linear" not in engine.rebuilds.asked
    told(engine, command(command="rebuild", member="linear", accept=True))
    install(engine, tmp_path / "state", answered(engine, tmp_path / "state"))
    assert engine.ensemble.members["linear"].digest() == learned_right(engine).digest()


def run_on(engine: ScoringEngine, first: int, last: int) -> None:
    """Events that have their labels in the step that scores them."""
    rows = range(first, last)
    told(engine, ("events", [event(i) for i in rows]), ("labels", [label(i) for i in rows]))


def test_what_cannot_catch_up_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too much was learned meanwhile, or is not kept; the member stays as it is."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    run(engine, truth)
    told(engine, ("labels", [corrects(3, not truth(3))]), command(command="rebuild"))
    sent = answered(engine, tmp_path / "state")
    run_on(engine, 240, 300)
    before = engine.ensemble.members["linear"].digest()
    monkeypatch.setattr(rebuilds, "MOST", 59)
    out = install(engine, tmp_path / "state", sent)
    assert "at most 59 rows" in out.dead_letters[0].error
    assert engine.ensemble.members["linear"].digest() == before
    assert "linear" not in engine.rebuilds.asked
    out = install(engine, tmp_path / "state", sent | {"upto": engine.seq + 5})
    assert "does not have all that followed" in out.dead_letters[0].error


def test_no_moment_of_a_restart_shows(tmp_path: Path) -> None:
    """Asked, answered, behind: all of it is part of the state."""
    whole, parted = (build_scoring(shard(tmp_path, label=ARRIVAL), None) for _ in range(2))
    for i, engine in enumerate((whole, parted)):
        run(engine, truth)
        told(engine, ("labels", [corrects(3, not truth(3))]), command(command="rebuild"))
        again = restored(engine, tmp_path / "asked") if i else engine
        sent = answered(again, tmp_path / f"state-{i}")
        run_on(again, 240, 260)
        install(again, tmp_path / f"state-{i}", sent)
        again = restored(again, tmp_path / "answered") if i else again
        told(again, ("labels", [corrects(4, not truth(4))]))
        if i:
            parted = again
    assert whole.rebuilds.stale == parted.rebuilds.stale == ["linear", "prior"]
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


def test_a_member_that_comes_new_learns_what_is_right(tmp_path: Path) -> None:
    """By another configuration, from the corrected history: it is not stale."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL), None)
    run(engine, truth)
    told(engine, ("labels", [corrects(3, not truth(3))]))
    more = {
        "members": [*engine.config.model_dump()["members"], {"name": "new", "type": "logistic"}]
    }
    after = build_scoring(shard(tmp_path, label=ARRIVAL, **more), None)
    reconfigure(engine, after, journaled(after.config))
    assert after.rebuilds.stale == ["linear", "prior"]
    assert after.ensemble.members["new"].digest() == learned_right(after, "new").digest()


def test_what_ranks_is_not_rebuilt(tmp_path: Path) -> None:
    """It says so."""
    engine = build_engine(ranking_config(tmp_path), None)
    out = engine.step(Feed().batch(command(command="rebuild")))
    assert "cannot be corrected" in out.dead_letters[0].error


def test_rows_that_were_learned_in_parts_are_rebuilt_whole(tmp_path: Path) -> None:
    """An event whose label was learned in two parts is learned once, with weight 1."""
    engine = build_scoring(shard(tmp_path, label=ARRIVAL | {"learning": "corrected"}), None)
    run(engine, truth)
    told(engine, ("labels", [corrects(3, not truth(3))]))
    rows = [
        (int(i), y, w)
        for part in engine.history.learned()
        for i, y, w in zip(part.rows["id"], part.y, part.w, strict=True)
    ]
    own = engine.codec.labels(Feed().batch(("labels", [label(3)])).slices[0].records)[0].id_hash[0]
    assert [row[1:] for row in rows if row[0] == int(own)] == [(float(not truth(3)), 1.0)]
    assert np.isfinite([row[2] for row in rows]).all()
