"""What a drift alarm sets off: reactions are replayed, saved, audited and counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.audit.budgets import EVENTS, REACTIONS
from monitoring.drift.monitor import WARM_UP, Alarm
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.settings.load import ConfigError
from stream.settings.upgrade import journaled
from stream.state.generations import Snapshot, StateDirectory
from stream.state.platform import fingerprint
from stream.step.scoring import ScoringEngine
from tests.support.factory import Feed, config, decoded, event, label, ranking_config, truth

LINEAR = {"name": "linear", "type": "logistic"}
PRIOR = {"name": "prior", "type": "constant", "probability": 0.1}
KINDS: list[dict[str, Any]] = [
    LINEAR,
    {"name": "crossed", "type": "crossed", "table_bits": 10},
    {"name": "forest", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
    {"name": "mlp", "type": "torch", "hidden": [4], "embedding_dim": 2, "dropout": 0.2},
]
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


# ---------------------------------------------------------------------- when nothing happens


@pytest.mark.parametrize("mark", ["freeze", "quarantine"])
@pytest.mark.parametrize("reaction", ["reset", "challenge"])
def test_a_member_that_does_not_learn_is_left_alone(
    tmp_path: Path, mark: str, reaction: str
) -> None:
    """Nothing begins anew behind an operator's back."""
    engine = build(tmp_path, reaction)
    getattr(engine.ensemble, mark)("linear")
    react(engine, "linear")
    assert engine.reactions.counts == {}
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


# ---------------------------------------------------------------------- replay and checkpoints


def restored(engine: ScoringEngine, directory: Path) -> ScoringEngine:
    """The engine by way of a generation on disk."""
    state = StateDirectory(directory / "restored").open()
    snapshot = Snapshot(
        *("test", engine.seq, engine.digest, engine.clock_ms, {}, journaled(engine.config)),
        *(fingerprint(), engine.state(), engine.files()),
    )
    state.publish(state.write(snapshot), 2)
    loaded = next(iter(state.usable(lambda _: None, None)))
    again = build_engine(engine.config, None)
    again.restore(loaded.state, loaded.segments)
    state.close()
    return again


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["name"])
@pytest.mark.parametrize("reaction", ["weights", "reset", "challenge"])
def test_a_replay_and_a_restart_amid_a_reaction_end_the_same(
    tmp_path: Path, kind: dict[str, Any], reaction: str
) -> None:
    """Twice the same batches, once by way of a checkpoint after the alarm: one state, one digest.

    The alarm is forced, so that it comes for every kind of member at the same row.
    """
    drift = reaction
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
    assert (engines[0].reactions.counts + engines[0].challengers.counts).total() > 0
    assert (reaction == "challenge") == bool(engines[0].ensemble.challengers)
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
    reaction=st.sampled_from(["weights", "reset", "challenge"]),
)
def test_no_moment_of_a_restart_shows(
    tmp_path_factory: pytest.TempPathFactory, cut: int, turn: int, lag: int, reaction: str
) -> None:
    """Wherever the restart falls and the drift comes: the digest is that of one run."""
    tmp_path = tmp_path_factory.mktemp("cut")
    batches = turning(4_000, turn, lag)
    whole, parted = (build(tmp_path, reaction) for _ in range(2))
    run(whole, batches)
    run(parted, batches[:cut])
    parted = restored(parted, tmp_path)
    run(parted, batches[cut:])
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


# ---------------------------------------------------------------------- audit, metrics, settings


def test_the_jump_passes_no_budget(tmp_path: Path) -> None:
    """Another model in the place is one record, and neither a large update nor growth."""
    limits = {"update_norm": 5.0, "growth_per_hour": 1e9, "parameters": 1e9}
    each = {rule: {"limit": limit, "action": "warn"} for rule, limit in limits.items()}
    engine = build(tmp_path, "reset", audit={"each": each})
    outputs = run(engine, turning(6_500))
    records = audited(outputs)
    renewed = [r for r in records if r["event"] == "member_reset"]
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
    assert len(found) == 1 + 5 + 6 * 2  # of all: its weights, and what becomes of a challenger


def test_what_ranks_has_no_challengers(tmp_path: Path) -> None:
    """A reaction that could not be is refused, not passed over."""
    with pytest.raises(ConfigError, match="where items are ranked, got 'challenge'"):
        ranking_config(tmp_path, drift={"on_alarm": "challenge"})


@pytest.mark.parametrize(
    ("drift", "combine", "problem"),
    [
        ({"on_alarm": "weights"}, "mean_logit", "no weights to forget"),
        ({"on_alarm": "sometimes"}, "stack", "drift.on_alarm"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    tmp_path: Path, drift: dict[str, Any], combine: str, problem: str
) -> None:
    """A reaction without an effect is a mistake that the configuration tells."""
    with pytest.raises(ConfigError, match=problem):
        config(tmp_path, drift=drift, ensemble={"combine": combine})
