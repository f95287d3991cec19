"""Challengers: scored beside their member, judged as made, promoted by command or by evidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream.step.lifecycle.challengers
from models.base import F64, FeatureBatch
from models.ensemble.ensemble import _score
from models.members.constant import ConstantModel
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.settings.upgrade import journaled
from stream.step.reconfigure import compare, reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.failing import Failing
from tests.stream.step.lifecycle.test_reactions import LINEAR, PRIOR, restored
from tests.support.factory import (
    Feed,
    config,
    decoded,
    event,
    label,
    ranking_config,
    reasons,
    truth,
)

SIZE, LAG, RIPE = 40, 50, 200
EASY = {"block": "30m", "rows": 20, "alpha": 0.2}
"""Of events a minute apart: a block for each 31 labels."""
CHALLENGE = {
    "command": "challenge",
    "member": "prior",
    "spec": json.dumps({"type": "logistic", "learning_rate": 0.3}),
}


@pytest.fixture(autouse=True)
def _ripe_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A challenger is judged from its first labels on."""
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", RIPE)


def build(directory: Path, **changes: Any) -> ScoringEngine:
    """Linear and prior under a stack, with short blocks."""
    given = {"members": [LINEAR, PRIOR], "ensemble": {"combine": "stack"}, "challengers": EASY}
    engine = build_engine(config(directory, **(given | changes)), None)
    assert isinstance(engine, ScoringEngine)
    return engine


def told(n: int, *commands: tuple[int, dict[str, Any]]) -> list[Batch]:
    """``n`` batches of events with labels that come later; commands stand first in theirs."""
    feed, out = Feed(), []
    for i in range(n):
        start = i * SIZE
        due = range(max(0, start - LAG), max(0, start + SIZE - LAG))
        parts: list[tuple[str, list[Any]]] = [
            ("control", [command for at, command in commands if at == i]),
            ("events", [event(k) for k in range(start, start + SIZE)]),
            ("labels", [label(k) for k in due]),
        ]
        out.append(feed.batch(*[part for part in parts if part[1]]))
    return out


def run(engine: ScoringEngine, batches: Sequence[Batch]) -> list[Outputs]:
    return [engine.step(batch) for batch in batches]


def audited(outputs: Sequence[Outputs]) -> list[tuple[str, str]]:
    """Events of challengers in the trail, and who set them off."""
    records = [r for out in outputs for r in decoded(list(out.audit))]
    return [(r["event"], r["cause"]) for r in records if r["event"].startswith("challenger")]


# ---------------------------------------------------------------------- what nobody notices


def test_no_score_changes_by_a_bit_while_a_challenger_runs(tmp_path: Path) -> None:
    """Scores, quality, drift, windows and every other part are those of an engine without one."""
    engine, alone = build(tmp_path), build(tmp_path)
    beside = run(engine, told(20, (3, CHALLENGE)))
    without = run(alone, told(20))
    assert engine.ensemble.challengers
    for one, other in zip(beside, without, strict=True):
        assert [r.value for r in one.scores] == [r.value for r in other.scores]
    ours, theirs = engine.state(), alone.state()
    for part in ("features", "quality", "matured", "drift", "tallies", "reactions", "maturity"):
        np.testing.assert_equal(ours[part], theirs[part])
    own = ("members", "combiner", "taught", "labelled")
    np.testing.assert_equal(*({k: e["ensemble"][k] for k in own} for e in (ours, theirs)))


# ---------------------------------------------------------------------- as made


def test_a_class_that_nobody_named_yet_keeps_nobody_from_being_judged(tmp_path: Path) -> None:
    """Where more may enter than have, both say -inf of the rest; rows count all the same."""
    target = {"type": "classes", "max_classes": 4}
    told_as = {"field": "fraud", "horizon": "10d", "values": None}
    plain = [{"name": "amount", "type": "number", "field": "amount"}]
    members = [LINEAR, {"name": "prior", "type": "constant"}]
    engine = build(tmp_path, target=target, label=told_as, features=plain, members=members)
    run(engine, told(20, (1, CHALLENGE | {"member": "linear"})))
    assert len(engine.task.names) == 2
    [standing] = engine.challengers.standings()
    assert standing.labels > 0
    assert 0 < standing.challenger_loss < np.inf


def test_both_are_judged_by_what_they_said_then(tmp_path: Path) -> None:
    """Sums of losses and figures of alerts, recomputed from links caught at each scoring."""
    engine = build(tmp_path, challengers=EASY | {"block": "30d"})
    batches = told(30, (2, CHALLENGE))
    made: list[tuple[F64, F64]] = []
    score = engine.challengers.score

    def caught(x: FeatureBatch, links: F64, *rest: Any) -> None:
        if "prior #1" in engine.ensemble.challengers:
            said = _score("prior", engine.ensemble.challengers["prior #1"], x, 1)
            made.append((links[:, 1, 0].copy(), said[:, 0]))
        score(x, links, *rest)

    engine.challengers.score = caught  # type: ignore[method-assign]
    run(engine, batches)
    [standing] = engine.challengers.standings()
    ours, theirs = (1 / (1 + np.exp(-np.concatenate(z))) for z in zip(*made, strict=True))
    assert standing.scored == len(ours) == 28 * SIZE
    assert standing.divergence == pytest.approx(np.abs(ours - theirs).mean())
    one, other = ours >= 0.5, theirs >= 0.5
    assert standing.agreement == pytest.approx((one == other).mean())
    assert standing.alerts_challenger == (other & ~one).sum() > 0
    # Ripe with the labels of a batch; the rows scored from the next one on count.
    first = next(b for b in range(30) if (b + 1) * SIZE - LAG >= RIPE + 2 * SIZE - LAG) + 1
    at = slice((first - 2) * SIZE, 30 * SIZE - LAG - 2 * SIZE)
    y = np.array([truth(i) for i in range(first * SIZE, 30 * SIZE - LAG)])
    assert standing.labels == len(y)
    for p, found in ((ours[at], standing.loss), (theirs[at], standing.challenger_loss)):
        right = np.maximum(np.where(y, p, 1 - p), 1e-4)
        assert found == pytest.approx(-np.log(right).mean())


@pytest.mark.parametrize("combine", ["bagging", "boosting", "stack"])
def test_a_challenger_learns_what_its_member_learns(tmp_path: Path, combine: str) -> None:
    """Rows, weights and every n-th row are the member's: as twins they stay bit for bit equal."""
    members = [PRIOR, LINEAR | {"learn_every": 3}]
    engine = build(tmp_path, members=members, ensemble={"combine": combine})
    run(engine, told(10, (0, {"command": "challenge", "member": "linear"})))
    twin = engine.ensemble.challengers["linear #1"]
    assert twin.digest() == engine.ensemble.members["linear"].digest()


# ---------------------------------------------------------------------- how it ends


def test_the_better_one_is_proposed_and_an_operator_promotes_it(tmp_path: Path) -> None:
    """By default evidence proposes; the command puts it in the place, in full on record."""
    engine = build(tmp_path)
    proposed = run(engine, told(40, (2, CHALLENGE)))
    assert audited(proposed) == [
        ("challenger_started", "command"),
        ("challenger_proposed", "challenge"),
    ]
    assert engine.challengers.standings()[0].proposed
    better = engine.ensemble.challengers["prior #1"]
    feed = Feed()
    feed.seq, feed.offsets = engine.seq, {"control": 1}
    outputs = [engine.step(feed.batch(("control", [{"command": "promote", "member": "prior"}])))]
    assert audited(outputs) == [("challenger_promoted", "command")] * 2
    assert engine.ensemble.members["prior"] is better
    assert engine.ensemble.challengers == {}
    assert engine.challengers.standings() == []


def test_by_configuration_the_better_one_takes_the_place_at_once(tmp_path: Path) -> None:
    """The next event is scored by it."""
    engine = build(tmp_path, challengers=EASY | {"promote": "auto"})
    outputs = run(engine, told(40, (2, CHALLENGE)))
    assert audited(outputs)[1:] == [("challenger_promoted", "challenge")]
    assert not isinstance(engine.ensemble.members["prior"], ConstantModel)


@pytest.mark.parametrize(
    ("command", "commands", "reason"),
    [
        ({"member": "linear", "spec": '{"type": "constant", "probability": 0.6}'}, [], "worse"),
        ({"member": "prior", "deadline": "10h"}, [], "not better by the deadline"),
        ({"member": "prior"}, [(4, {"command": "drop", "member": "prior"})], None),
    ],
)
def test_one_that_is_not_better_is_dropped(
    tmp_path: Path, command: dict[str, Any], commands: list[Any], reason: str | None
) -> None:
    """By evidence, by its deadline, or by command; the member is the one that never had any."""
    engine, alone = build(tmp_path), build(tmp_path)
    outputs = run(engine, told(40, (2, {"command": "challenge"} | command), *commands))
    run(alone, told(40))
    records = [r for out in outputs for r in decoded(list(out.audit))]
    [dropped] = [r for r in records if r["event"] == "challenger_dropped"]
    assert dropped.get("reason") == reason
    assert engine.ensemble.digest() == alone.ensemble.digest()


@pytest.mark.parametrize("fails", ["score", "learn", "quarantine"])
def test_one_that_fails_or_has_no_champion_is_dropped(tmp_path: Path, fails: str) -> None:
    """Its member goes on as if it had never been."""
    engine = build(tmp_path)
    batches = told(10, (1, CHALLENGE))
    run(engine, batches[:3])
    if fails == "quarantine":
        engine.ensemble.quarantine("prior")
    else:
        engine.ensemble.challengers["prior #1"] = Failing(fails)
    records = [r for out in run(engine, batches[3:]) for r in decoded(list(out.audit))]
    [dropped] = [r for r in records if r["event"] == "challenger_dropped"]
    expected = {"score": "nan", "learn": "not today", "quarantine": "in quarantine"}
    assert expected[fails] in dropped["reason"]
    assert engine.ensemble.quarantined == ({"prior"} if fails == "quarantine" else set())


def test_each_further_challenger_needs_more_evidence(tmp_path: Path) -> None:
    """The k-th of a member has a share of alpha that sums to alpha over all there may be."""
    engine, drop = build(tmp_path), {"command": "drop", "member": "prior"}
    given = [(i, c) for i in (1, 3, 5) for c in (CHALLENGE, drop)]
    needed = [
        r["evidence_needed"]
        for out in run(engine, told(7, *given))
        for r in decoded(list(out.audit))
        if r["event"] == "challenger_started"
    ]
    shares = [1 / float.fromhex(n) for n in needed]
    assert shares == pytest.approx([0.2 * 6 / np.pi**2 / k**2 for k in (1, 2, 3)])


def test_a_drift_alarm_challenges_by_the_same_rules(tmp_path: Path) -> None:
    """A model as new, of the member's own definition, one at a time."""
    from monitoring.drift.monitor import Alarm

    engine = build(tmp_path, drift={"on_alarm": "challenge"})
    batches = told(4)
    run(engine, batches[:3])
    for _ in range(2):
        engine.reactions.alarm(Alarm("betting", "linear", 16.0, 15.0, 0), 1)
    assert audited([engine.step(batches[3])]) == [("challenger_started", "drift")]
    fresh = engine.ensemble.fresh("linear", 1)
    assert type(engine.ensemble.challengers["linear #1"]) is type(fresh)


def test_a_promotion_can_be_rolled_back_and_made_again(tmp_path: Path) -> None:
    """Both are versions, each of its own definition; a challenge of one that goes ends."""
    engine, feed = build(tmp_path), Feed()
    batches = told(8, (0, CHALLENGE), (6, {"command": "promote", "member": "prior"}))
    batches[7] = msgspec.structs.replace(batches[7], checkpoint=True)
    run(engine, batches)
    replaced, promoted = engine.ledger.versions()["prior"][-2:]
    assert (replaced.cause, promoted.cause) == ("replaced", "promoted")
    states = {digest: state() for digest, state in engine.ledger.unsaved.items()}
    feed.seq, feed.offsets = engine.seq, {"control": 2}
    for version in (replaced, promoted):
        command = {"command": "rollback", "member": "prior", "to": version.digest[:12]}
        batch = feed.batch(("control", [CHALLENGE, command]))
        [(name, digest)] = engine.wanted(batch.slices)
        model = engine.ensemble.made(name, 0, engine.spec(name, digest))
        model.restore(states[digest])
        out = engine.step(msgspec.structs.replace(batch, models={(name, digest): model}))
        assert ("challenger_dropped", "command") in audited([out])
        assert engine.ensemble.members["prior"].digest() == version.digest
        assert engine.ensemble.specs == ({} if version is replaced else {"prior": version.spec})


def test_an_artefact_challenges_with_what_it_has_learned(tmp_path: Path) -> None:
    """What a member was after half of it, judged from the next event on; beside that, what it is
    stays its twin. All go on from state; promoted at once it has learned what it had."""
    engine, feed = build(tmp_path, versions={"every": "1h", "keep": 50}), Feed()
    batches = told(30)
    run(engine, [msgspec.structs.replace(b, checkpoint=True) for b in batches[:10]])
    now = engine.ensemble.members["linear"].digest()
    then = engine.ledger.versions()["linear"][2].digest
    assert now != then
    states = {digest: state() for digest, state in engine.ledger.unsaved.items()}
    states[now] = engine.ensemble.members["linear"].state()
    feed.seq = engine.seq
    asked = [{"command": "challenge", "member": "linear", "artefact": d} for d in (then, now)]
    batch = feed.batch(("control", asked))
    models = {}
    for name, digest in engine.wanted(batch.slices):
        models[name, digest] = engine.ensemble.made(name, 0, engine.spec(name, digest))
        models[name, digest].restore(states[digest])
    out = engine.step(msgspec.structs.replace(batch, models=models))
    assert audited([out]) == [("challenger_started", "command")] * 2
    assert [r["artefact"] for r in decoded(list(out.audit))] == [then, now]
    assert engine.checkpoint_wanted
    again, third = (restored(engine, tmp_path / name) for name in ("again", "third"))
    promote = {"command": "promote", "member": "linear", "number": 1}
    third.step(feed.batch(("control", [promote])))
    assert third.ensemble.members["linear"].digest() == then
    assert third.ensemble.taught("linear")
    rest = [msgspec.structs.replace(b, seq=b.seq + 1) for b in batches[10:]]
    run(engine, rest)
    run(again, rest)
    assert engine.state_digest() == again.state_digest()
    twin = engine.ensemble.challengers["linear #2"]
    assert twin.digest() == engine.ensemble.members["linear"].digest()
    assert engine.ensemble.challengers["linear #1"].digest() != twin.digest()
    older, same = engine.challengers.standings()
    assert older.labels == same.labels == 30 * SIZE - LAG - 10 * SIZE
    assert same.loss == same.challenger_loss != older.challenger_loss


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"spec": json.dumps({"type": "logistic"})}, "Expected no spec beside an artefact"),
        ({"member": "ensemble"}, "Expected a member's name beside an artefact"),
        ({"artefact": "12"}, "artefact"),
        ({}, f"artefact {'0' * 64} cannot be had; put it there by `millrace models import`"),
    ],
)
def test_an_artefact_that_cannot_challenge_is_refused(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """What else was given, or that nobody has it."""
    engine = build(tmp_path)
    command = {"command": "challenge", "member": "linear", "artefact": "0" * 64} | fields
    [letter] = engine.step(Feed().batch(("control", [command]))).dead_letters
    assert said in letter.error
    assert not engine.ensemble.challengers


def test_what_has_learned_nothing_leaves_the_ensemble_cold(tmp_path: Path) -> None:
    """Promoted or put back it says .5 of everything: that alerts nobody, as before it came."""
    engine, feed = build(tmp_path, ensemble={"combine": "stack", "threshold": 0.5}), Feed()

    def scored(first: int, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        events = [event(k) for k in range(first, first + SIZE)]
        parts = [("control", [*commands]), ("events", events)]
        batch = feed.batch(*[part for part in parts if part[1]])
        models = {}
        for name, digest in engine.wanted(batch.slices):
            models[name, digest] = engine.ensemble.made(name, 0, engine.spec(name, digest))
            models[name, digest].restore(states[digest]())
        out = engine.step(msgspec.structs.replace(batch, models=models, checkpoint=True))
        assert not out.dead_letters
        return decoded(out.scores)

    states = engine.ledger.unsaved
    found = scored(0, CHALLENGE)
    found += scored(SIZE, {"command": "promote", "member": "prior"})
    found += scored(2 * SIZE)
    assert engine.ensemble.cold
    assert all(score["cold"] and not score["alert"] for score in found)
    versions = engine.ledger.versions()
    engine.step(feed.batch(("labels", [label(k) for k in range(SIZE)])))
    assert not any("cold" in score for score in scored(3 * SIZE))
    to = [
        {"command": "rollback", "member": name, "to": versions[name][-1].digest[:12]}
        for name in ("linear", "prior")
    ]
    back = [scored((4 + i) * SIZE, command) for i, command in enumerate(to)]
    assert engine.ensemble.cold
    assert all(score["cold"] and not score["alert"] for score in back[-1])


# ---------------------------------------------------------------------- what cannot be followed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"spec": "logistic"}, "Expected a member's table as JSON"),
    "no type": ({"spec": "{}"}, "Expected a `type`"),
    "unknown type": ({"spec": '{"type": "oracle"}'}, "Expected code that a member"),
    "parameters": ({"spec": '{"type": "logistic", "learning_rate": -1}'}, "learning_rate"),
    "a place's": ({"spec": '{"type": "logistic", "features": ["amount"]}'}, "Expected no features"),
    "code": (
        {"spec": '{"type": "river", "model": "river.linear_model.LogisticRegression"}'},
        "Expected code that a member of the configuration names",
    ),
    "alpha": ({"alpha": 1.5}, "alpha"),
    "block": ({"block": "a day"}, "block"),
    "no block": ({"block": "0s"}, "block"),
    "no deadline": ({"deadline": "000d"}, "deadline"),
    "trained": ({"spec": '{"type": "refit"}'}, "Expected a `type` that learns label by label"),
    "member": ({"member": "nobody"}, "Expected one of linear, prior"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_challenge_that_means_nothing_is_a_dead_letter(tmp_path: Path, case: str) -> None:
    """It says which field, and nothing begins."""
    fields, error = REFUSED[case]
    engine = build(tmp_path)
    [out] = run(engine, told(1, (0, CHALLENGE | fields)))
    [letter] = out.dead_letters
    assert error in letter.error
    assert engine.ensemble.challengers == {}


def test_code_that_a_member_names_may_challenge_with_other_numbers(tmp_path: Path) -> None:
    """The configuration vouches for it."""
    tree = {"type": "river", "model": "river.tree.HoeffdingTreeClassifier"}
    named = tree | {"name": "tree", "grace_period": 50}
    engine = build(tmp_path, members=[PRIOR, named])
    spec = json.dumps(tree | {"grace_period": 20})
    run(engine, told(3, (0, {"command": "challenge", "member": "prior", "spec": spec})))
    assert set(engine.ensemble.challengers) == {"prior #1"}


def test_what_there_is_no_challenger_for_is_a_dead_letter(tmp_path: Path) -> None:
    """One more than there is room for, and ends of challenges that nobody began."""
    commands = [
        (0, {"command": "promote", "member": "prior"}),
        (0, {"command": "drop", "member": "prior"}),
        *[(0, CHALLENGE)] * 5,
    ]
    [out] = run(build(tmp_path), told(1, *commands))
    assert reasons(out.dead_letters) == ["command"] * 3
    assert "drop or promote first" in out.dead_letters[-1].error


def test_a_shard_that_ranks_has_no_challengers(tmp_path: Path) -> None:
    """The dead letter says that its member scores no events."""
    engine = build_engine(ranking_config(tmp_path), None)
    command = {"command": "challenge", "member": "recommender"}
    [letter] = engine.step(Feed().batch(("control", [command]))).dead_letters
    assert "Expected a member that scores events" in letter.error


# ---------------------------------------------------------------------- replay and other targets


COMMANDS = [
    (2, CHALLENGE),
    (9, {"command": "challenge", "member": "linear"}),
    (14, {"command": "drop", "member": "linear"}),
    (30, {"command": "promote", "member": "prior"}),
    (33, CHALLENGE | {"spec": ""}),
]


@settings(max_examples=8)
@given(cut=st.integers(1, 39))
def test_no_moment_of_a_restart_shows(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Wherever it falls among challenges, promotions and drops, one digest and one state."""
    tmp_path = tmp_path_factory.mktemp("cut")
    batches = told(40, *COMMANDS)
    whole, parted = (build(tmp_path) for _ in range(2))
    run(whole, batches)
    run(parted, batches[:cut])
    parted = restored(parted, tmp_path)
    run(parted, batches[cut:])
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())


TARGETS = [
    pytest.param({"type": "number"}, lambda i: float(truth(i)), id="number"),
    pytest.param(
        {"type": "classes", "classes": ["a", "b", "c"]}, lambda i: "ab"[truth(i)], id="classes"
    ),
]


@pytest.mark.parametrize(("target", "value"), TARGETS)
def test_every_target_that_scores_has_challengers(
    tmp_path: Path, target: dict[str, Any], value: Any
) -> None:
    """A learner beside a constant is proposed, by the loss that learners of the target have."""
    constant = {"name": "prior", "type": "constant"}
    features = [{"name": "amount", "type": "number", "field": "amount", "transform": "log1p"}]
    engine = build(
        tmp_path,
        members=[LINEAR, constant],
        features=features,
        target=target,
        # One round of the amounts.
        challengers={"block": "191m", "rows": 191, "alpha": 0.5},
    )
    feed, outputs = Feed(), []
    for i in range(65):
        ids = range(i * SIZE, (i + 1) * SIZE)
        parts = [("events", [event(k) for k in ids]), ("labels", [label(k, value(k)) for k in ids])]
        given = [("control", [CHALLENGE | {"spec": '{"type": "logistic"}'}])] if i == 1 else []
        outputs.append(engine.step(feed.batch(*given, *parts)))
    found = [event for event, _ in audited(outputs) if event != "challenger_warned"]
    assert found == ["challenger_started", "challenger_proposed"]


# ---------------------------------------------------------------------- another configuration


def test_a_promoted_definition_stays_until_the_configuration_has_another(tmp_path: Path) -> None:
    """Other settings change nothing of it; written into the configuration it is the same."""
    engine = build(tmp_path)
    run(engine, told(8, (0, CHALLENGE), (7, {"command": "promote", "member": "prior"})))
    model = engine.ensemble.members["prior"].digest()
    as_made = {"name": "prior"} | json.loads(CHALLENGE["spec"])
    for members in ([LINEAR, PRIOR], [LINEAR, as_made]):
        after = build(tmp_path, members=members, limits={"batch": 77})
        assert "member prior" in compare(engine, after).kept
        reconfigure(engine, after, journaled(after.config))
        assert after.ensemble.members["prior"].digest() == model
        assert restored(after, tmp_path / str(len(members[1]))).state_digest() == (
            after.state_digest()
        )
    other = build(tmp_path, members=[LINEAR, PRIOR | {"probability": 0.3}])
    assert "member prior" in compare(engine, other).fresh
    reconfigure(engine, other, journaled(other.config))
    assert isinstance(other.ensemble.members["prior"], ConstantModel)


def test_a_challenge_goes_on_under_another_configuration(tmp_path: Path) -> None:
    """With its evidence while the events stay; with what comes later where their columns change."""
    engine = build(tmp_path)
    run(engine, told(20, (0, CHALLENGE)))
    [before] = engine.challengers.standings()
    after = build(tmp_path, limits={"batch": 77})
    reconfigure(engine, after, journaled(after.config))
    assert after.challengers.standings() == [before]
    narrow = [LINEAR | {"features": ["amount"]}, PRIOR | {"features": ["amount"]}]
    engine = build(tmp_path, members=narrow)
    run(engine, told(20, (0, CHALLENGE)))
    [before] = engine.challengers.standings()
    fewer = build(tmp_path, members=narrow, features=list(engine.config.features[:1]))
    reconfigure(engine, fewer, journaled(fewer.config))
    [standing] = fewer.challengers.standings()
    assert standing == before
    held = fewer.challengers.state()["running"]["prior #1"]
    assert (len(held["links"]), held["ripe"]) == (0, -1)


def test_a_challenger_in_a_generation_is_covered_by_the_trail(tmp_path: Path) -> None:
    """Its digest is on record before the checkpoint, of its own type's kind."""
    engine = build(tmp_path)
    batch = msgspec.structs.replace(told(1, (0, CHALLENGE))[0], checkpoint=True)
    records = decoded(list(engine.step(batch).audit))
    [held] = [r for r in records if r["event"] == "checkpointed"]
    assert (
        held["roots"]["challenger of prior #1"] == engine.ensemble.challengers["prior #1"].digest()
    )
