"""What a drift alarm sets off: reactions are replayed, saved, audited and counted."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, FeatureBatch
from models.members.constant import ConstantModel
from monitoring.audit.budgets import EVENTS, REACTIONS
from monitoring.drift.monitor import WARM_UP, Alarm
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.settings.load import ConfigError
from stream.settings.upgrade import journaled
from stream.state.generations import Snapshot, StateDirectory, list_generations
from stream.state.platform import fingerprint
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from stream.tools.audit.verify import check_generations
from tests.support.factory import Feed, config, decoded, event, label, truth

LINEAR = {"name": "linear", "type": "logistic"}
PRIOR = {"name": "prior", "type": "constant", "probability": 0.1}
KINDS: list[dict[str, Any]] = [
    LINEAR,
    {"name": "crossed", "type": "crossed", "table_bits": 10},
    {"name": "forest", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
    {"name": "mlp", "type": "torch", "hidden": [4], "embedding_dim": 2, "dropout": 0.2},
]
SWAP = {"on_alarm": "swap", "challenger_after": 200, "challenger_until": 600}
SIZE = 40
TURN = 5_000


def build(directory: Path, on_alarm: str | dict[str, Any], **changes: Any) -> ScoringEngine:
    """The small engine under a stack, with a reaction."""
    drift = on_alarm if isinstance(on_alarm, dict) else {"on_alarm": on_alarm}
    if "members" not in changes:
        changes["members"] = [LINEAR, PRIOR]
    return build_engine(
        config(directory, drift=drift, ensemble={"combine": "stack"}, **changes), None
    )


def turning(n: int, turn: int = TURN, lag: int = 0) -> list[Batch]:
    """Events whose truth turns into its opposite at event ``turn``, labels ``lag`` events late."""
    feed, out = Feed(), []
    for start in range(0, n, SIZE):
        due = range(max(0, start - lag), max(0, start + SIZE - lag))
        labels = [label(i, truth(i) ^ (i >= turn)) for i in due]
        parts = [("events", [event(i) for i in range(start, start + SIZE)]), ("labels", labels)]
        out.append(feed.batch(*[part for part in parts if part[1]]))
    return out


def run(engine: ScoringEngine, batches: Sequence[Batch]) -> list[Outputs]:
    return [engine.step(batch) for batch in batches]


def audited(outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """Audit records of reactions, in order."""
    found = [record for out in outputs for record in decoded(list(out.audit))]
    return [record for record in found if record["event"] in REACTIONS]


def react(engine: ScoringEngine, name: str, at_ms: int = 1) -> None:
    """An alarm out of the blue, between two steps; its records are thrown away."""
    engine.reactions.alarm(Alarm("betting", name, 16.0, 15.0, 0), at_ms)
    engine.audit_records()


class Failing(ConstantModel):
    """A member that fails at one of its methods."""

    def __init__(self, fails: str) -> None:
        super().__init__(ConstantModel.Params(probability=0.5), None, 0)  # type: ignore[arg-type]
        self.fails = fails

    def score(self, x: FeatureBatch) -> F64:
        return super().score(x) * (np.nan if self.fails == "score" else 1.0)

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        if self.fails == "learn":
            raise ValueError("not today")


# ---------------------------------------------------------------------- none


def test_by_default_alarms_are_told_and_nothing_else(tmp_path: Path) -> None:
    """Without a reaction there are alarms, and the engine is the one that reactions never see."""
    engine, untouched = build(tmp_path, "none"), build(tmp_path, "none")
    untouched.reactions.alarm = lambda *_: None  # type: ignore[method-assign]
    batches = turning(6_000)
    outputs = run(engine, batches)
    run(untouched, batches)
    assert engine.auditor.written["drift"] > 0
    assert audited(outputs) == []
    assert engine.state_digest() == untouched.state_digest()


# ---------------------------------------------------------------------- each reaction


def test_weights_are_forgotten(tmp_path: Path) -> None:
    """After an alarm of any signal the combiner is a new one, and the members are the same."""
    engine = build(tmp_path, "weights")
    run(engine, turning(800))
    before = engine.ensemble.members["linear"].digest()
    react(engine, "linear")
    assert engine.ensemble.members["linear"].digest() == before
    fresh = build(tmp_path, "weights").ensemble.combiner.state()
    np.testing.assert_equal(engine.ensemble.combiner.state(), fresh)
    assert engine.reactions.counts == {"weights_reset/ensemble": 1}


def test_a_reset_member_begins_anew(tmp_path: Path) -> None:
    """The member is as one that never learned, with another seed than before; the rest stays."""
    engine = build(tmp_path, "reset", members=[KINDS[2], LINEAR])
    first = engine.ensemble.members["forest"].digest()
    run(engine, turning(800))
    linear = engine.ensemble.members["linear"].digest()
    react(engine, "forest")
    fresh = engine.ensemble.fresh("forest", 1)
    assert engine.ensemble.members["forest"].digest() == fresh.digest() != first
    assert engine.ensemble.members["linear"].digest() == linear
    assert engine.ensemble.fresh("forest", 2).digest() != fresh.digest()
    react(engine, "ensemble")
    assert engine.reactions.counts == {"member_reset/forest": 1, "weights_reset/ensemble": 1}


def test_a_reset_member_recovers_from_drift(tmp_path: Path) -> None:
    """When the truth turns, the member's alarm lets it begin anew, and it learns the new truth."""
    engine, stubborn = build(tmp_path, "reset"), build(tmp_path, "none")
    batches = turning(6_500)
    records = audited(run(engine, batches))
    run(stubborn, batches)
    assert [r["event"] for r in records if r["model"] == "linear"] == ["member_reset"]
    anew = next(r for r in records if r["event"] == "member_reset")
    assert anew["cause"] == "drift"
    assert anew["step"] > TURN / SIZE
    assert all(tensor["norm"] == "0x0.0p+0" for tensor in anew["tensors"])
    assert (
        engine.quality.report()["linear"]["sliding"]["log_loss"]
        < (stubborn.quality.report()["linear"]["sliding"]["log_loss"])
    )


def test_a_challenger_takes_the_place_of_the_worse_member(tmp_path: Path) -> None:
    """It starts at the alarm, has no vote, and is promoted once it is better on enough labels."""
    engine = build(tmp_path, SWAP)
    votes = []
    records = []
    for batch in turning(6_500):
        out = engine.step(batch)
        records += audited([out])
        if engine.ensemble.challengers:
            votes.append(set(decoded(list(out.scores))[-1]["members"]))
    records = [r for r in records if r["model"] == "linear"]
    assert [r["event"] for r in records] == ["challenger_started", "challenger_promoted"]
    started, promoted = records
    assert promoted["labels"] >= SWAP["challenger_after"]
    assert float.fromhex(promoted["challenger_log_loss"]) < float.fromhex(promoted["log_loss"])
    assert promoted["step"] - started["step"] == promoted["labels"] / SIZE - 1
    assert votes
    assert all(v == {"linear", "prior"} for v in votes)
    assert engine.ensemble.challengers == {}


def test_a_challenger_that_is_not_better_is_dropped(tmp_path: Path) -> None:
    """Two equal members never swap: the challenge ends at its limit, and the member is the same."""
    engine = build(tmp_path, SWAP)
    react(engine, "prior")
    assert set(engine.ensemble.challengers) == {"prior"}
    records = audited(run(engine, turning(800)))
    assert [(r["event"], r["reason"]) for r in records] == [("challenger_dropped", "not better")]
    assert records[0]["labels"] == 600
    assert engine.reactions.state()["judged"] == {}


def test_a_challenger_is_compared_on_what_both_score_before_they_learn(tmp_path: Path) -> None:
    """The sums are the log losses of both by weight, recomputed from outside, label for label."""
    engine = build(tmp_path, SWAP | {"challenger_until": 10_000})
    batches = turning(1_200)
    run(engine, batches[:10])
    react(engine, "linear")
    sums = np.zeros(2)
    judge = engine.reactions.judge

    def watched(x: FeatureBatch, y: F64, w: F64) -> None:
        w = np.resize([1.0, 0.25], len(w))  # as of rows that are learned in parts
        models = (engine.ensemble.members["linear"], engine.ensemble.challengers["linear"])
        for i, model in enumerate(models):
            p = 1 / (1 + np.exp(-model.score(x)[:, 0]))
            sums[i] -= w @ np.log(np.where(y > 0, p, 1 - p))
        judge(x, y, w)

    engine.reactions.judge = watched  # type: ignore[method-assign]
    run(engine, batches[10:14])
    n, *found = engine.reactions.state()["judged"]["linear"]
    assert n == 4 * SIZE * 0.625
    np.testing.assert_allclose(found, sums, rtol=1e-10)


@pytest.mark.parametrize("combine", ["bagging", "boosting", "stack"])
def test_a_challenger_learns_what_its_member_learns(tmp_path: Path, combine: str) -> None:
    """Rows, weights and every n-th row are the member's: as twins they stay bit for bit equal."""
    engine = build_engine(
        config(
            tmp_path,
            members=[PRIOR, LINEAR | {"learn_every": 3}],
            ensemble={"combine": combine},
            drift=SWAP | {"challenger_after": 10_000, "challenger_until": 10_000},
        ),
        None,
    )
    react(engine, "linear")
    run(engine, turning(400))
    assert engine.ensemble.challengers["linear"].digest() == (
        engine.ensemble.members["linear"].digest()
    )


# ---------------------------------------------------------------------- when nothing happens


@pytest.mark.parametrize("mark", ["freeze", "quarantine"])
def test_a_member_that_does_not_learn_is_left_alone(tmp_path: Path, mark: str) -> None:
    """Nothing begins anew behind an operator's back, and a challenge under way ends."""
    engine = build(tmp_path, SWAP)
    batches = turning(400)
    run(engine, batches[:2])
    react(engine, "linear")
    getattr(engine.ensemble, mark)("linear")
    records = audited(run(engine, batches[2:]))
    react(engine, "linear")
    assert [(r["event"], r["reason"]) for r in records] == [
        ("challenger_dropped", "the member does not learn")
    ]
    assert engine.ensemble.challengers == {}


def test_late_labels_of_an_older_model_set_nothing_off(tmp_path: Path) -> None:
    """A reset member is not reset again for scores from before it had learned its fill."""
    engine = build(tmp_path, "reset")
    batches = turning(2 * WARM_UP, turn=10 * WARM_UP)
    run(engine, batches[:5])
    react(engine, "linear")
    for batch in batches[5:]:
        engine.step(batch)
        if "linear" in engine.reactions.state()["unripe"]:
            react(engine, "linear", engine.watermark_ms)
    assert engine.reactions.counts == {"member_reset/linear": 1}
    ripe = engine.reactions.state()["ripe_ms"]["linear"]
    react(engine, "linear", ripe)
    assert engine.reactions.counts == {"member_reset/linear": 1}
    react(engine, "linear", ripe + 1)
    assert engine.reactions.counts == {"member_reset/linear": 2}


@pytest.mark.parametrize("fails", ["score", "learn"])
def test_a_challenger_that_fails_is_dropped(tmp_path: Path, fails: str) -> None:
    """Its member goes on as if it had never been."""
    engine, alone = build(tmp_path, SWAP), build(tmp_path, SWAP)
    react(engine, "linear")
    engine.ensemble.challengers["linear"] = Failing(fails)
    batches = turning(400)
    records = audited(run(engine, batches))
    run(alone, batches)
    assert [r["event"] for r in records] == ["challenger_dropped"]
    assert ("not today" if fails == "learn" else "nan") in records[0]["reason"]
    assert engine.ensemble.digest() == alone.ensemble.digest()
    assert engine.ensemble.quarantined == frozenset()


# ---------------------------------------------------------------------- replay and checkpoints


def restored(engine: ScoringEngine, directory: Path) -> ScoringEngine:
    """The engine by way of a generation on disk."""
    state = StateDirectory(directory / "restored").open()
    snapshot = Snapshot(
        *("test", engine.seq, engine.digest, engine.clock_ms, {}, journaled(engine.config)),
        *(fingerprint(), engine.state(), engine.pending.files()),
    )
    state.publish(state.write(snapshot), 2)
    loaded = next(iter(state.usable(lambda _: None, None)))
    again = build_engine(engine.config, None)
    again.restore(loaded.state, loaded.segments)
    state.close()
    return again


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["name"])
@pytest.mark.parametrize("reaction", ["weights", "reset", "swap"])
def test_a_replay_and_a_restart_amid_a_reaction_end_the_same(
    tmp_path: Path, kind: dict[str, Any], reaction: str
) -> None:
    """Twice the same batches, once by way of a checkpoint after the alarm: one state, one digest.

    The alarm is forced, so that it comes for every kind of member at the same row.
    """
    drift = SWAP | {"on_alarm": reaction}
    batches = turning(1_600, turn=500)
    engines = [build(tmp_path, drift, members=[kind, PRIOR]) for _ in range(2)]
    for engine in engines:
        update = engine.drift.update

        def alarming(
            *given: Any, engine: ScoringEngine = engine, update: Any = update
        ) -> list[Alarm]:
            forced = [Alarm("betting", kind["name"], 16.0, 15.0, 3)]
            return update(*given) + (forced if engine.seq == 19 else [])

        engine.drift.update = alarming  # type: ignore[method-assign]
        run(engine, batches[:23])
    assert engines[0].reactions.counts.total() > 0
    assert (reaction == "swap") == bool(engines[0].ensemble.challengers)
    engines[1] = restored(engines[1], tmp_path)
    assert engines[0].state_digest() == engines[1].state_digest()
    for engine in engines:
        run(engine, batches[23:])
    assert engines[0].digest == engines[1].digest
    assert engines[0].state_digest() == engines[1].state_digest()


@settings(max_examples=8)
@given(
    cut=st.integers(1, 99),
    turn=st.integers(2_100, 2_900),
    lag=st.sampled_from([0, 100]),
    reaction=st.sampled_from(["weights", "reset", "swap"]),
)
def test_no_moment_of_a_restart_shows(
    tmp_path_factory: pytest.TempPathFactory, cut: int, turn: int, lag: int, reaction: str
) -> None:
    """Wherever the restart falls and the drift comes: the digest is that of one run."""
    tmp_path = tmp_path_factory.mktemp("cut")
    batches = turning(4_000, turn, lag)
    whole, parted = (build(tmp_path, SWAP | {"on_alarm": reaction}) for _ in range(2))
    run(whole, batches)
    run(parted, batches[:cut])
    parted = restored(parted, tmp_path)
    run(parted, batches[cut:])
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


def test_a_challenger_in_a_generation_is_covered_by_the_trail(tmp_path: Path) -> None:
    """Its digest is on record before the checkpoint, and compared with what was saved."""
    engine = build(tmp_path, SWAP)
    react(engine, "linear")
    batch = msgspec.structs.replace(turning(SIZE)[0], checkpoint=True)
    lines = [r.value or b"" for r in engine.step(batch).audit]
    assert "challenger of linear" in engine.ensemble.roots()
    state = StateDirectory(engine.config.state_dir).open()
    at = {(topic, partition): offset for topic, partition, offset in engine.auditor.positions()}
    parts = ("test", 1, engine.digest, 0, at, journaled(engine.config), fingerprint())
    state.publish(state.write(Snapshot(*parts, engine.state(), engine.pending.files())), 2)
    state.close()
    assert check_generations(engine.config, lines, lambda seq: engine.digest) == [
        {"seq": 1, "verdict": "match"}
    ]
    path = next(iter(list_generations(engine.config.state_dir)))
    shutil.rmtree(path)
    engine.ensemble.challengers.clear()
    state = StateDirectory(engine.config.state_dir).open()
    state.publish(state.write(Snapshot(*parts, engine.state(), engine.pending.files())), 2)
    state.close()
    [row] = check_generations(engine.config, lines, lambda seq: engine.digest)
    assert row["verdict"].startswith("challenger of linear: expected digest")


# ---------------------------------------------------------------------- audit, metrics, settings


@pytest.mark.parametrize("reaction", ["reset", "swap"])
def test_the_jump_passes_no_budget(tmp_path: Path, reaction: str) -> None:
    """Another model in the place is one record, and neither a large update nor growth."""
    limits = {"update_norm": 5.0, "growth_per_hour": 1e9, "parameters": 1e9}
    each = {rule: {"limit": limit, "action": "warn"} for rule, limit in limits.items()}
    engine = build(tmp_path, SWAP | {"on_alarm": reaction}, audit={"each": each})
    outputs = run(engine, turning(6_500))
    records = audited(outputs)
    renewed = [r for r in records if r["event"] in ("member_reset", "challenger_promoted")]
    renewed = [r for r in renewed if r["model"] == "linear"]
    assert len(renewed) == 1
    assert renewed[0]["inside"]
    assert all(b["ok"] and b["got"] in (0, renewed[0]["held"]) for b in renewed[0]["budgets"])
    assert all(tensor["delta_norm"] is None for tensor in renewed[0]["tensors"])
    growth = [r for r in renewed[0]["budgets"] if r["rule"] == "growth_per_hour"]
    assert [r["got"] for r in growth] == [0]
    same_step = decoded(list(outputs[renewed[0]["step"] - 1].audit))
    assert "warned" not in {r["event"] for r in same_step}


def test_reactions_are_counted_from_the_start(tmp_path: Path) -> None:
    """Every reaction of every member is a number before the first one, and counts from then on."""
    engine = build(tmp_path, "reset")
    assert set(readings(engine, {}).reactions.values()) == {0}
    assert set(REACTIONS) < set(EVENTS)
    react(engine, "linear")
    found = readings(engine, {}).reactions
    assert found["member_reset", "linear"] == 1
    assert sum(found.values()) == 1
    assert len(found) == 1 + 4 * 2


@pytest.mark.parametrize(
    ("drift", "combine", "problem"),
    [
        ({"on_alarm": "weights"}, "mean_logit", "no weights to forget"),
        ({"on_alarm": "sometimes"}, "stack", "drift.on_alarm"),
        ({"challenger_after": 500, "challenger_until": 499}, "stack", "at least challenger_after"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    tmp_path: Path, drift: dict[str, Any], combine: str, problem: str
) -> None:
    """A reaction without an effect is a mistake that the configuration tells."""
    with pytest.raises(ConfigError, match=problem):
        config(tmp_path, drift=drift, ensemble={"combine": combine})


def test_challengers_follow_an_unchanged_member(tmp_path: Path) -> None:
    """Another configuration moves the challenge along; one without swaps ends it, on record."""
    engine = build(tmp_path, SWAP)
    batches = turning(400)
    run(engine, batches[:5])
    react(engine, "linear")
    run(engine, batches[5:7])
    before = engine.ensemble.challengers["linear"].digest()
    changed = {"limits": {"batch": 77}}
    after = build(tmp_path, SWAP, **changed)
    reconfigure(engine, after, journaled(after.config))
    assert after.ensemble.challengers["linear"].digest() == before
    assert after.reactions.state()["judged"]["linear"][0] == 2 * SIZE
    engine, after = after, build(tmp_path, "none", **changed)
    records = list(reconfigure(engine, after, journaled(after.config)).audit)
    told = [r for r in decoded(records) if r["event"] in REACTIONS]
    assert [(r["event"], r["cause"]) for r in told] == [("challenger_dropped", "configuration")]
    assert after.ensemble.challengers == {}
