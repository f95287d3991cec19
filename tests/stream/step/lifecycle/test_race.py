"""Challengers that race: several settings of one member, judged by one level between them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stream.step.lifecycle.challengers
from monitoring.drift.evidence import LEAST, evidence
from stream.contract.outputs import Outputs
from stream.settings.upgrade import journaled
from stream.step.lifecycle.challengers import needed_by
from stream.step.reconfigure import reconfigure
from stream.step.scoring import ScoringEngine
from tests.stream.step.lifecycle import test_second as whole
from tests.stream.step.lifecycle.test_challengers import EASY, RIPE, build, run, told
from tests.stream.step.lifecycle.test_reactions import LINEAR, PRIOR, restored
from tests.support.factory import Feed, decoded

MEMBER = PRIOR | {"probability": 0.25}
"""About the share of positives."""
SETTINGS: list[dict[str, Any]] = [
    {"type": "constant", "probability": 0.35},
    {"type": "logistic", "learning_rate": 0.006},  # finds out slowly
    {"type": "constant", "probability": 0.9},
    {"type": "constant", "probability": 0.249},
]
RACE = {"command": "challenge", "member": "prior", "spec": json.dumps(SETTINGS)}
SLOW = EASY | {"block": "30d"}
"""Nothing is decided by itself."""


@pytest.fixture(autouse=True)
def _ripe_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A challenger is judged from its first labels on."""
    monkeypatch.setattr(stream.step.lifecycle.challengers, "WARM_UP", RIPE)


def trail(outputs: list[Outputs]) -> list[dict[str, Any]]:
    """Records of challengers, oldest first."""
    records = [r for out in outputs for r in decoded(list(out.audit))]
    return [r for r in records if r["event"].startswith("challenger")]


def after(engine: ScoringEngine, *commands: dict[str, Any]) -> Outputs:
    """A step of these commands alone."""
    feed = Feed()
    feed.seq, feed.offsets = engine.seq, {"control": 100}
    return engine.step(feed.batch(("control", list(commands))))


# ---------------------------------------------------------------------- the race


@pytest.mark.parametrize("mode", ["propose", "auto"])
def test_the_best_of_four_wins_and_the_worst_goes_first(tmp_path: Path, mode: str) -> None:
    """The mirror bets drop those that are worse, the worst before the bad; who wins ends it."""
    engine = build(
        tmp_path,
        members=[LINEAR, MEMBER],
        challengers=EASY | {"promote": mode, "alpha": 0.05},
    )
    found = trail(run(engine, told(60, (2, RACE))))
    begun = [r for r in found if r["event"] == "challenger_started"]
    types = [(number, spec["type"]) for number, spec in enumerate(SETTINGS, 1)]
    assert [(r["number"], r["spec"]["type"]) for r in begun] == types
    ends = [(r["event"], r.get("number"), r.get("reason")) for r in found[4:]]
    ends = [end for end in ends if end[0] != "challenger_warned"]
    assert ends[:2] == [("challenger_dropped", 3, "worse"), ("challenger_dropped", 1, "worse")]
    if mode == "propose":
        over = ("challenger_dropped", 4, "number 2 was better first")
        assert ends[2:] == [("challenger_proposed", 2, None), over]
        [left] = engine.challengers.standings()
        assert (left.number, left.proposed) == (2, True)
        after(engine, {"command": "promote", "member": "prior"})
    else:
        over = ("challenger_dropped", 4, "number 2 took the member's place")
        assert ends[2:] == [over, ("challenger_promoted", 2, None)]
    assert engine.ensemble.specs == {"prior": SETTINGS[1]}
    assert engine.ensemble.challengers == {}


def test_a_race_asks_for_as_much_together_as_one_after_the_other() -> None:
    """Each of a race needs the same; over all there may ever be, chances come to alpha."""
    for size in (1, 2, 4):
        firsts = range(1, 20_000, size)
        chances = [size / needed_by(range(k, k + size), 0.05) for k in firsts]
        assert 0.05 * 0.9999 < sum(chances) < 0.05
    assert needed_by([1], 0.05) == pytest.approx(math.pi**2 / 6 / 0.05)
    assert needed_by([2], 0.05) == pytest.approx(4 * math.pi**2 / 6 / 0.05)


def test_a_race_of_equals_is_won_no_oftener_than_alpha() -> None:
    """Watched after every block, with one member whose luck all of the race share."""
    alpha, runs, blocks = 0.3, 250, 30
    needed, unshared = needed_by(range(1, 5), alpha), 1 / alpha
    rng = np.random.default_rng(5)
    won = careless = 0
    for _ in range(runs):
        common = rng.normal(size=blocks)
        most = max(
            evidence(list(gaps[:n]))
            for gaps in common + rng.normal(size=(4, blocks))
            for n in range(LEAST, blocks + 1, 2)
        )
        won += most >= needed
        careless += most >= unshared
    assert won <= alpha * runs
    assert won < careless  # looking oftener does find something


def test_all_of_them_are_twins_of_challengers_that_run_alone(tmp_path: Path) -> None:
    """None knows of another: model, links and figures are those it has without the others."""
    race = build(tmp_path, challengers=SLOW)
    run(race, told(20, (2, RACE)))
    for number, spec in enumerate(SETTINGS, 1):
        alone = build(tmp_path, challengers=SLOW)
        run(alone, told(20, (2, RACE | {"spec": json.dumps(spec)})))
        ours, theirs = (e.challengers.of("prior") for e in (race, alone))
        one, other = ours[number - 1].state(), theirs[0].state()
        for key in ("links", "judged", "scored", "blocks", "ripe", "labels"):
            np.testing.assert_equal(one[key], other[key])
        digests = [
            engine.ensemble.challengers[key].digest()
            for engine, key in ((race, f"prior #{number}"), (alone, "prior #1"))
        ]
        assert digests[0] == digests[1]


def test_a_later_one_joins_and_a_lane_is_used_again(tmp_path: Path) -> None:
    """Numbers never come again, lanes do: series of metrics stay as many."""
    engine = build(tmp_path, challengers=SLOW | {"at_once": 3})
    some = json.dumps(SETTINGS[:2])
    run(engine, told(3, (0, RACE | {"spec": some})))
    after(engine, {"command": "drop", "member": "prior", "number": 1})
    after(engine, RACE | {"spec": some})
    standings = engine.challengers.standings()
    assert [(s.number, s.lane) for s in standings] == [(2, 2), (3, 1), (4, 3)]
    assert engine.challengers.lanes == 3
    out = after(engine, {"command": "drop", "member": "prior"})
    assert [r["number"] for r in trail([out])] == [2, 3, 4]
    assert engine.ensemble.challengers == engine.ensemble.challenger_specs == {}


def test_one_of_several_is_promoted_by_its_number(tmp_path: Path) -> None:
    """The others' end is on record, with why."""
    engine = build(tmp_path, challengers=SLOW)
    run(engine, told(8, (2, RACE)))
    chosen = engine.ensemble.challengers["prior #4"]
    found = trail([after(engine, {"command": "promote", "member": "prior", "number": 4})])
    assert engine.ensemble.members["prior"] is chosen
    dropped = [r for r in found if r["event"] == "challenger_dropped"]
    assert [r["number"] for r in dropped] == [1, 2, 3]
    assert {r["reason"] for r in dropped} == {"number 4 took the member's place"}
    assert [r["number"] for r in found if r["event"] == "challenger_promoted"] == [4, 4]


# ---------------------------------------------------------------------- what cannot be followed


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no room": (RACE | {"spec": json.dumps(SETTINGS[:3])}, "at most 4 challengers at once"),
    "none": (RACE | {"spec": "[]"}, "at least one"),
    "one of them": (RACE | {"spec": json.dumps([SETTINGS[0], {"type": "oracle"}])}, "`$.spec[1]`"),
    "which": ({"command": "promote", "member": "prior"}, "one of 1, 2; got no number"),
    "no such": (
        {"command": "promote", "member": "prior", "number": 7},
        "one of 1, 2; got number 7",
    ),
    "none to drop": (
        {"command": "drop", "member": "prior", "number": 7},
        "one of 1, 2; got number 7",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_changes_nothing(tmp_path: Path, case: str) -> None:
    """It is a dead letter that says what was expected; those that run go on."""
    command, error = REFUSED[case]
    engine = build(tmp_path, challengers=SLOW)
    run(engine, told(2, (0, RACE | {"spec": json.dumps(SETTINGS[:2])})))
    before = engine.challengers.state()
    [letter] = after(engine, command).dead_letters
    assert error in letter.error
    np.testing.assert_equal(engine.challengers.state(), before)
    assert set(engine.ensemble.challengers) == {"prior #1", "prior #2"}


def test_where_one_cannot_be_built_none_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constructor that fails takes those before it along."""
    engine = build(tmp_path, challengers=SLOW)
    made = engine.ensemble.fresh

    def fails(name: str, number: int, *spec: Any) -> Any:
        if number == 3:
            raise RuntimeError("not this one")
        return made(name, number, *spec)

    monkeypatch.setattr(engine.ensemble, "fresh", fails)
    [letter] = after(engine, RACE).dead_letters
    assert "prior: cannot be built: RuntimeError: not this one" in letter.error
    assert engine.ensemble.challengers == engine.ensemble.challenger_specs == {}
    assert engine.challengers.standings() == []


# ---------------------------------------------------------------------- restarts, other settings


COMMANDS = [
    (2, RACE),
    (9, {"command": "challenge", "member": "linear", "spec": json.dumps(SETTINGS[:2])}),
    (14, {"command": "drop", "member": "prior", "number": 1}),
    (16, RACE | {"spec": json.dumps(SETTINGS[:1])}),
    (30, {"command": "promote", "member": "linear", "number": 2}),
]


@settings(max_examples=4)
@given(cut=st.integers(1, 39))
def test_no_moment_of_a_restart_shows(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Wherever it falls in two races, one digest and one state."""
    tmp_path = tmp_path_factory.mktemp("cut")
    batches = told(40, *COMMANDS)
    one, parted = (build(tmp_path, challengers=EASY | {"promote": "auto"}) for _ in range(2))
    run(one, batches)
    run(parted, batches[:cut])
    parted = restored(parted, tmp_path)
    run(parted, batches[cut:])
    assert (one.digest, one.state_digest()) == (parted.digest, parted.state_digest())


def test_another_configuration_keeps_the_race_of_a_member_that_stays(tmp_path: Path) -> None:
    """With its evidence; of a member that is another one now it ends."""
    engine = build(tmp_path, challengers=SLOW)
    run(engine, told(20, (0, RACE), (1, RACE | {"member": "linear"})))
    before = engine.challengers.standings()
    assert len(before) == 8
    other = build(
        tmp_path, members=[LINEAR, PRIOR | {"probability": 0.3}], challengers=SLOW | {"at_once": 2}
    )
    reconfigure(engine, other, journaled(other.config))
    assert other.challengers.standings() == before[:4]
    assert other.challengers.lanes == 4
    [letter] = after(other, RACE | {"member": "linear", "spec": ""}).dead_letters
    assert "at most 2 challengers at once (challengers.at_once); 4 run" in letter.error


def test_every_model_of_a_race_is_in_a_generation(tmp_path: Path) -> None:
    """Each by a root of its own in the trail."""
    engine = build(tmp_path, challengers=SLOW)
    run(engine, told(2, (0, RACE)))
    assert {f"challenger of prior #{k}" for k in range(1, 5)} < engine.ensemble.roots().keys()
    again = restored(engine, tmp_path)
    assert again.ensemble.roots() == engine.ensemble.roots()


# ---------------------------------------------------------------------- whole ensembles


def test_whole_ensembles_race_too(tmp_path: Path) -> None:
    """The one that is named takes the place; what made room challenges, the others are over."""
    third = whole.SPEC | {"combine": "stack"}
    race = whole.CHALLENGE | {"spec": json.dumps([whole.SPEC, third])}
    promote = whole.PROMOTE | {"number": 2}
    begun = [(2, race), (3, RACE), (15, promote)]
    engine, outputs = whole.serve(whole.build(tmp_path), whole.told(20, *begun))
    assert engine.config.ensemble.combine == "stack"
    found = trail(outputs)
    dropped = [(r["model"], r["number"]) for r in found if r["event"] == "challenger_dropped"]
    assert dropped == [("prior", 1), ("prior", 2), ("prior", 3), ("prior", 4), ("ensemble", 1)]
    [promoted] = [r for r in found if r["event"] == "challenger_promoted"]
    assert (promoted["number"], promoted["number_of_old_one"]) == (2, 3)
    [back] = engine.challengers.standings()
    assert (back.member, back.number, back.lane) == ("ensemble", 3, 1)


def test_a_race_of_ensembles_decided_by_evidence(tmp_path: Path) -> None:
    """The better one takes the place by itself, the one that is no better is told to be over."""
    zero = {"combine": "mean_logit", "members": [{"name": "half", "type": "constant"}]}
    race = whole.CHALLENGE | {"spec": json.dumps([zero, whole.SPEC])}
    engine = whole.build(
        tmp_path, members=whole.WORSE, ensemble={}, challengers=EASY | {"promote": "auto"}
    )
    engine, outputs = whole.serve(engine, whole.told(120, (1, race)))
    found = trail(outputs)
    assert engine.ensemble.names == ("fast", "prior", "pairs")
    ends = [(r["event"], r["number"]) for r in found[2:]]
    assert ("challenger_promoted", 2) in ends
    assert ("challenger_dropped", 1) in ends


def test_each_of_several_ensembles_is_checked(tmp_path: Path) -> None:
    """The dead letter says which of the list is none."""
    bad = whole.CHALLENGE | {"spec": json.dumps([whole.SPEC, {"type": "logistic"}])}
    [letter] = after(whole.build(tmp_path), bad).dead_letters
    assert "Expected `combine` and `members`" in letter.error
    assert "`$.spec[1]`" in letter.error
