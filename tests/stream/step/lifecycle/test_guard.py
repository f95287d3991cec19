"""The guard: members beside their last good versions, going back proposed or done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, FeatureBatch
from models.ensemble.ensemble import _score
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.settings.load import ConfigError
from stream.settings.upgrade import journaled
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle.failing import Failing
from tests.stream.step.lifecycle.test_reactions import LINEAR, PRIOR, restored
from tests.support.factory import Feed, config, decoded, event, label, ranking_config, truth

SIZE, KEPT = 40, 10
"""Events of a batch; the batch at which a version is kept."""
EASY = {"block": "30m", "rows": 20}
FREEZE = {"command": "freeze", "member": "linear"}
HARM = range(12, 14)
"""Batches whose labels are the wrong way round; after them the member is frozen."""


def build(directory: Path, on_worse: str = "propose", **changes: Any) -> ScoringEngine:
    """Linear and prior under a stack, with short blocks."""
    given = {
        "members": [LINEAR, PRIOR],
        "features": [{"name": "amount", "type": "number", "field": "amount"}],
        "ensemble": {"combine": "mean_logit"},
        "challengers": EASY,
        "guard": {"on_worse": on_worse},
        "versions": {"every": "1h"},
    }
    engine = build_engine(config(directory, **(given | changes)), None)
    assert isinstance(engine, ScoringEngine)
    return engine


def told(
    n: int, harm: Sequence[int] = HARM, kept: Sequence[int] = (KEPT,), commands: Any = ()
) -> list[Batch]:
    """``n`` batches of events and their labels, of those in ``harm`` the wrong way round."""
    feed, out = Feed(), []
    given = [*commands, *([(harm[-1] + 1, FREEZE)] if harm else [])]
    for i in range(n):
        ids = range(i * SIZE, (i + 1) * SIZE)
        parts: list[tuple[str, list[Any]]] = [
            ("control", [command for at, command in given if at == i]),
            ("events", [event(k) for k in ids]),
            ("labels", [label(k, truth(k) ^ (i in harm)) for k in ids]),
        ]
        batch = feed.batch(*[part for part in parts if part[1]])
        out.append(msgspec.structs.replace(batch, checkpoint=i in kept))
    return out


def run(engine: ScoringEngine, batches: Sequence[Batch]) -> list[Outputs]:
    return [engine.step(batch) for batch in batches]


def audited(outputs: Sequence[Outputs]) -> list[dict[str, Any]]:
    """What the guard set off, in order."""
    records = [record for out in outputs for record in decoded(list(out.audit))]
    return [record for record in records if record["cause"] == "guard"]


def events(outputs: Sequence[Outputs]) -> list[tuple[str, str]]:
    return [(record["event"], record["model"]) for record in audited(outputs)]


def standing(engine: ScoringEngine, name: str) -> Any:
    [found] = [one for one in engine.guard.standings() if one.member == name]
    return found


def mute(engine: ScoringEngine, *names: str) -> None:
    """Let no block of these be over."""
    for name in names:
        engine.guard._running[name].blocks.length_ms = 10**12


# ---------------------------------------------------------------------- what nobody notices


def test_no_score_changes_by_a_bit_while_it_watches(tmp_path: Path) -> None:
    """Scores and every other part are those of an engine without a guard."""
    engine, alone = build(tmp_path), build(tmp_path, "none")
    beside, without = (run(e, told(30)) for e in (engine, alone))
    assert engine.ensemble.last_good
    assert alone.guard.standings() == []
    for one, other in zip(beside, without, strict=True):
        assert [r.value for r in one.scores] == [r.value for r in other.scores]
    ours, theirs = engine.state(), alone.state()
    for part in ("features", "quality", "matured", "drift", "tallies", "ledger", "pending"):
        np.testing.assert_equal(ours[part], theirs[part])


# ---------------------------------------------------------------------- as made


def test_both_are_judged_by_what_they_said_then(tmp_path: Path) -> None:
    """Sums of losses of a member and of all, recomputed from links caught at each scoring."""
    engine = build(tmp_path, challengers=EASY | {"block": "30d"})
    made: list[tuple[F64, ...]] = []
    score = engine.guard.score

    def caught(x: FeatureBatch, links: F64, numbers: Any) -> None:
        if engine.ensemble.last_good:
            then = links.copy()
            for j, name in enumerate(engine.ensemble.voters):
                then[:, j] = _score(name, engine.ensemble.last_good[name], x, 1)
            both = (links, then)
            made.append((*(z[:, 0, 0] for z in both), *(z.mean(axis=1)[:, 0] for z in both)))
        score(x, links, numbers)

    engine.guard.score = caught  # type: ignore[method-assign]
    run(engine, told(20))
    links = [np.concatenate(z) for z in zip(*made, strict=True)]
    flipped = [k // SIZE in HARM for k in range((KEPT + 1) * SIZE, 20 * SIZE)]
    y = np.array([truth((KEPT + 1) * SIZE + i) ^ f for i, f in enumerate(flipped)])
    losses = [
        -np.log(np.maximum(np.where(y, p, 1 - p), 1e-4)).mean()
        for p in (1 / (1 + np.exp(-z)) for z in links)
    ]
    for name, found in (("linear", losses[:2]), ("ensemble", losses[2:])):
        at = standing(engine, name)
        assert at.labels == len(y)
        assert [at.loss, at.last_good_loss] == pytest.approx(found)


def test_a_version_is_the_member_as_it_was_kept(tmp_path: Path) -> None:
    """It learns nothing; the ledger lets it stay whatever else is kept."""
    engine = build(tmp_path, versions={"every": "1h", "keep": 1})
    run(engine, told(30, harm=(), kept=range(KEPT, 30)))
    [kept] = [v for v in engine.ledger.versions()["linear"] if v.seq == KEPT + 1]
    assert engine.ensemble.last_good["linear"].digest() == kept.digest
    assert engine.ensemble.members["linear"].digest() != kept.digest
    assert len(engine.ledger.versions()["linear"]) == 2


# ---------------------------------------------------------------------- what it says


def test_a_member_that_became_worse_is_told_and_can_go_back(tmp_path: Path) -> None:
    """Last good is that version then, not the newest."""
    engine = build(tmp_path)
    outputs = run(engine, told(60, kept=(KEPT, 40)))
    began = [("guarded", "linear"), ("guarded", "prior")]
    assert events(outputs)[:2] == began
    assert set(events(outputs)[2:]) == {
        ("rollback_proposed", "linear"),
        ("rollback_proposed", "ensemble"),
    }
    [proposed] = [r for r in audited(outputs[30:]) if r["model"] == "linear"]
    good = engine.ensemble.last_good["linear"].digest()
    assert proposed["to"] == engine.ledger.named("linear", "last_good").digest == good
    assert engine.ledger.versions()["linear"][-1].digest != good
    found = {s.member for s in readings(engine, {}).guard if s.proposed}
    assert found == {"linear", "ensemble"}


def test_a_member_that_is_as_good_is_left_alone(tmp_path: Path) -> None:
    """Nothing but the beginning is told."""
    outputs = run(build(tmp_path), told(80, harm=()))
    assert events(outputs) == [("guarded", "linear"), ("guarded", "prior")]


def test_by_configuration_it_goes_back_at_once(tmp_path: Path) -> None:
    """In full on record, as a version; it is compared again with the next one that is kept."""
    engine, batches = build(tmp_path, "rollback"), told(60)
    outputs = run(engine, batches[: KEPT + 1])
    mute(engine, "ensemble")
    outputs += run(engine, batches[KEPT + 1 :])
    assert events(outputs)[2:] == [("rolled_back", "linear")]
    [record] = [r for r in audited(outputs) if r["event"] == "rolled_back"]
    assert record["root"] == record["to"] == engine.ensemble.members["linear"].digest()
    replaced, now = engine.ledger.versions()["linear"][-2:]
    assert (replaced.cause, now.cause, now.digest) == ("replaced", "rolled_back", record["to"])
    assert set(engine.ensemble.last_good) == {"prior"}
    feed = Feed()
    feed.seq, feed.offsets = engine.seq, {}
    batch = feed.batch(("events", [event(60 * SIZE)]))
    engine.step(msgspec.structs.replace(batch, checkpoint=True))
    assert set(engine.ensemble.last_good) == {"prior", "linear"}


@pytest.mark.parametrize("on_worse", ["propose", "rollback"])
def test_the_ensemble_may_be_worse_where_no_member_is_yet(tmp_path: Path, on_worse: str) -> None:
    """Then all members are meant."""
    engine = build(tmp_path, on_worse)
    batches = told(60)
    run(engine, batches[: KEPT + 1])
    good = {name: model.digest() for name, model in engine.ensemble.last_good.items()}
    mute(engine, *good)
    outputs = run(engine, batches[KEPT + 1 :])
    told_of = ["linear", "prior"] if on_worse == "rollback" else []
    event_name = {"rollback": "rolled_back", "propose": "rollback_proposed"}[on_worse]
    assert events(outputs) == [(event_name, name) for name in ("ensemble", *told_of)]
    if on_worse == "rollback":
        assert {name: engine.ensemble.members[name].digest() for name in good} == good
    else:
        assert {name: engine.ledger.named(name, "last_good").digest for name in good} == good


# ---------------------------------------------------------------------- what it compares with


@pytest.mark.parametrize(("case", "renewed"), [("quiet", True), ("alarm", False), ("worse", False)])
def test_a_newer_version_takes_the_place_when_nothing_speaks_against_it(
    tmp_path: Path, case: str, renewed: bool
) -> None:
    """After `renew`; not soon after an alarm, nor while the older one has been better lately."""
    guard = {"on_worse": "propose", "renew": "20h"}
    engine = build(tmp_path, guard=guard)
    batches = told(42, harm=HARM if case == "worse" else (), kept=(KEPT, 41))
    run(engine, batches[:25])
    if case == "alarm":
        engine.guard.alarmed("linear", engine.watermark_ms)
    begun = events(run(engine, batches[25:]))
    assert (("guarded", "linear") in begun) == renewed


def test_a_proposal_that_nobody_follows_ends_when_the_member_is_as_good_again(
    tmp_path: Path,
) -> None:
    """A newer version is what it is compared with, and the record says what it withdraws."""
    engine = build(tmp_path, guard={"on_worse": "propose", "renew": "20h"})
    release = [(60, {"command": "release", "member": "linear"})]
    outputs = run(engine, told(110, kept=(KEPT, 50, 109), commands=release))
    last = [r for r in audited(outputs) if r["event"] == "guarded" and r["model"] == "linear"][-1]
    first = audited(outputs)[0]
    assert last["withdrawn"] == first["version"] != last["version"]
    assert not standing(engine, "linear").proposed
    assert engine.ledger.worse == set()


def test_what_is_installed_is_compared_with_what_the_member_was(tmp_path: Path) -> None:
    """As if the member had learned what is wrong with it."""
    engine = build(tmp_path)
    wrong = build(tmp_path)
    run(wrong, told(10, harm=range(10)))
    model = wrong.ensemble.members["linear"]
    install = {"command": "install", "member": "linear", "artefact": model.digest()}
    batches = told(60, harm=(), commands=[(14, install)])
    outputs = run(engine, batches[:14])
    models = {("linear", model.digest()): model}
    outputs += run(engine, [msgspec.structs.replace(batches[14], models=models)])
    outputs += run(engine, batches[15:])
    assert "installed" in {r["event"] for o in outputs for r in decoded(list(o.audit))}
    assert ("guard_ended", "linear") not in events(outputs)


@pytest.mark.parametrize("ends", ["challenger", "fails"])
def test_a_member_that_is_another_one_is_compared_no_more(tmp_path: Path, ends: str) -> None:
    """And so where the version itself fails; the others go on."""
    engine = build(tmp_path)
    batches = told(20, harm=(), commands=[(14, {"command": "challenge", "member": "linear"})])
    run(engine, batches[:15])
    if ends == "fails":
        engine.ensemble.last_good["linear"] = Failing("score")
    else:
        engine.challengers.promote("linear")
    records = audited(run(engine, batches[15:]))
    [ended] = [r for r in records if r["event"] == "guard_ended"]
    expected = {"challenger": "took the member's place", "fails": "nan"}[ends]
    assert ended["model"] == "linear"
    assert expected in ended["reason"]
    assert set(engine.ensemble.last_good) == {"prior"}


def test_while_a_member_is_in_quarantine_nothing_is_compared(tmp_path: Path) -> None:
    """It goes on once it is released, with what is scored from there on."""
    engine = build(tmp_path)
    batches = told(30, harm=(), commands=[(20, {"command": "release", "member": "linear"})])
    run(engine, batches[:15])
    engine.ensemble.quarantine("linear")
    run(engine, batches[15:])
    assert standing(engine, "linear").labels == (4 + 10) * SIZE
    assert standing(engine, "ensemble").labels == 19 * SIZE


# ---------------------------------------------------------------------- replay, configurations


@settings(max_examples=4, deadline=None)
@given(cut=st.integers(1, 59), on_worse=st.sampled_from(["propose", "rollback"]))
def test_no_moment_of_a_restart_shows(
    tmp_path_factory: pytest.TempPathFactory, cut: int, on_worse: str
) -> None:
    """Wherever it falls, one digest and one state."""
    tmp_path = tmp_path_factory.mktemp("cut")
    batches = told(60)
    whole, parted = (build(tmp_path, on_worse) for _ in range(2))
    run(whole, batches)
    run(parted, batches[:cut])
    parted = restored(parted, tmp_path)
    run(parted, batches[cut:])
    assert (whole.digest, whole.state_digest()) == (parted.digest, parted.state_digest())
    assert whole.ledger.guarded == parted.ledger.guarded


def test_who_goes_back_first_does_not_depend_on_a_restart(tmp_path: Path) -> None:
    """Members before the ensemble, where one batch decides of both: the trail has one order."""
    engine = build(tmp_path)
    run(engine, told(20, harm=()))
    again = restored(engine, tmp_path)
    judged = []
    for guard in (engine.guard, again.guard):
        for name, watch in guard._running.items():
            watch.judge = lambda *rows, name=name: judged.append(name)  # type: ignore[method-assign]
            watch.holds = lambda numbers: np.ones(len(numbers), bool)  # type: ignore[method-assign]
        rows = np.zeros(
            1, [("cold", "?"), ("score", "f8", 1), ("links", "f8", (2, 1)), ("event_time_ms", "i8")]
        )
        guard.judge(np.zeros(1, np.int64), rows, np.zeros(1))
    assert judged == ["linear", "prior", "ensemble"] * 2


def test_under_another_configuration_it_goes_on_or_ends(tmp_path: Path) -> None:
    """With other bounds as before; with another member all are compared anew; off: nothing is."""
    engine = build(tmp_path)
    run(engine, told(30, harm=()))
    before = engine.guard.standings()
    same = build(tmp_path, limits={"batch": 77})
    reconfigure(engine, same, journaled(same.config))
    assert same.guard.standings() == before
    assert same.ledger.guarded == engine.ledger.guarded
    more = build(tmp_path, members=[LINEAR, PRIOR, {"name": "new", "type": "logistic"}])
    reconfigure(engine, more, journaled(more.config))
    assert more.guard.standings()[1:] == before[1:]
    assert standing(more, "ensemble").blocks == 0
    off = build(tmp_path, "none")
    reconfigure(engine, off, journaled(off.config))
    assert (off.guard.standings(), off.ensemble.last_good) == ([], {})
    on = build(tmp_path)
    reconfigure(off, on, journaled(on.config))
    assert on.guard.standings() == []


def test_a_version_in_a_generation_is_covered_by_the_trail(tmp_path: Path) -> None:
    """Its digest is on record before the checkpoint."""
    outputs = run(build(tmp_path), told(KEPT + 1, harm=()))
    [held] = [r for r in decoded(list(outputs[-1].audit)) if r["event"] == "checkpointed"]
    assert held["roots"]["last good of linear"] == held["roots"]["linear"]


def test_a_shard_that_ranks_has_no_guard(tmp_path: Path) -> None:
    """The configuration is refused."""
    with pytest.raises(ConfigError, match=r"guard\.on_worse: expected none where items are ranked"):
        ranking_config(tmp_path, guard={"on_worse": "propose"})
