"""Why events have their scores: sums, what is told and what not, and no trace where nobody asks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.members.constant import ConstantModel
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs
from stream.contract.records import Record
from stream.run.assemble import build_engine
from stream.settings.load import ConfigError
from stream.settings.schema import Config
from stream.step.reasons import EVERY
from stream.step.scoring import ScoringEngine
from tests.stream.step.test_cuts import CLOCK_MS
from tests.support.factory import Feed, config, decoded, event, label, to_json, traffic

MEMBERS = [
    {"name": "linear", "type": "logistic", "class_weights": {"true": 2.0}},
    {"name": "crossed", "type": "crossed", "table_bits": 12, "features": ["amount", "category"]},
    {"name": "boosting", "type": "boosting", "trees": 8, "grace": 20},
    {"name": "forest", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20},
    {"name": "prior", "type": "constant", "probability": 0.1},
]
FEATURES = ["amount", "category", "customer", "terminal"]


def of(directory: Path, combine: str = "stack", **reasons: Any) -> Config:
    """All kinds of members; every second event of the stream alerts, nearly."""
    return config(
        directory,
        members=MEMBERS,
        ensemble={"combine": combine, "threshold": 0.3},
        reasons={"tell": "all"} | reasons,
    )


def run(engine: ScoringEngine, n: int = 400) -> list[Outputs]:
    """Events, and the labels due by then."""
    feed = Feed()
    return [engine.step(feed.batch(*parts)) for parts in traffic(n)]


def scores(outputs: list[Outputs]) -> list[dict[str, Any]]:
    return [score for out in outputs for score in decoded(list(out.scores))]


def ask(engine: ScoringEngine, i: int) -> dict[str, Any]:
    """What event ``i`` would be told."""
    told = engine.what_if(Record("events", 0, 0, None, to_json(event(i))), CLOCK_MS)
    assert not isinstance(told, DeadLetter)
    return told


def is_the_link(told: dict[str, Any], score: float) -> None:
    """Base, what is shown and the rest are the link, which is the score's."""
    total = told["base"] + told["rest"] + sum(t["weight"] for t in told["top"])
    assert total == pytest.approx(told["link"], abs=1e-9)
    assert 1 / (1 + math.exp(-told["link"])) == pytest.approx(score, abs=1e-12)


@pytest.mark.parametrize("combine", ["stack", "stacking", "mean_probability", "weighted_vote"])
def test_reasons_add_up_to_the_link_of_each_score(tmp_path: Path, combine: str) -> None:
    """With all members, learned or not; a cold score has none."""
    told = scores(run(build_engine(of(tmp_path, combine), None)))
    assert all(("reasons" in score) != score.get("cold", False) for score in told)
    with_reasons = [score for score in told if "reasons" in score]
    assert len(with_reasons) > 300
    for score in with_reasons:
        is_the_link(score["reasons"], score["score"])
        weights = [t["weight"] for t in score["reasons"]["top"]]
        assert len(weights) <= 4
        assert all(w > 0 for w in weights)
        assert weights == sorted(weights, reverse=True)


def test_what_decides_is_told_first(tmp_path: Path) -> None:
    """The truth is a function of the amount: it is the first reason of nearly each alert."""
    c = config(tmp_path, members=MEMBERS[:3], reasons={"tell": "all"}, ensemble={"threshold": 0.3})
    told = scores(run(build_engine(c, None), 1200))
    first = [s["reasons"]["top"][0]["reason"] for s in told[600:] if s["alert"]]
    assert len(first) > 50
    assert first.count("amount") > 0.9 * len(first)


def test_each_member_is_told_and_what_cannot_tell_is_one_block(tmp_path: Path) -> None:
    """All of it adds up too; a member says nothing of features that it does not see."""
    engine = build_engine(of(tmp_path, tell="asked"), None)
    run(engine)
    answer = ask(engine, 400)
    told = answer["reasons"]
    is_the_link(told, answer["score"])
    assert list(told["members"]) == [m["name"] for m in MEMBERS]
    for name, parts in told["members"].items():
        assert list(parts) == [*FEATURES, name]
    assert all(told["members"]["linear"][feature] for feature in ("amount", "category"))
    assert told["members"]["crossed"]["customer"] == 0.0
    assert told["members"]["crossed"]["crossed"] == 0.0
    assert told["members"]["forest"]["forest"] != 0.0
    assert not any(told["members"]["forest"][feature] for feature in FEATURES)
    every = sum(weight for parts in told["members"].values() for weight in parts.values())
    assert told["base"] + every == pytest.approx(told["link"], abs=1e-9)


def test_groups_and_texts_are_those_of_the_configuration(tmp_path: Path) -> None:
    """Features of a group are one reason, with the text that people read."""
    groups = {"spending": ("amount", "customer")}
    texts = {"spending": "unusual amount", "terminal": "risky terminal"}
    one = build_engine(of(tmp_path, tell="asked", groups=groups, texts=texts), None)
    other = build_engine(of(tmp_path, tell="asked"), None)
    run(one, 800)
    run(other, 800)
    for i in range(800, 830):
        ours, theirs = ask(one, i)["reasons"], ask(other, i)["reasons"]
        for name, parts in ours["members"].items():
            apart = theirs["members"][name]
            together = apart["amount"] + apart["customer"]
            assert parts["spending"] == pytest.approx(together, abs=1e-12)
            assert parts["terminal"] == pytest.approx(apart["terminal"], abs=1e-12)
        assert all(t.get("text") == texts.get(t["reason"]) for t in ours["top"])


def test_alerts_alone_are_told_with_the_score_if_so_configured(tmp_path: Path) -> None:
    """And with none of them where reasons are only asked for: the records are as without."""
    alerts = scores(run(build_engine(of(tmp_path, tell="alerts"), None)))
    asked = run(build_engine(of(tmp_path, tell="asked"), None))
    plain = config(tmp_path, members=MEMBERS, ensemble={"combine": "stack", "threshold": 0.3})
    without = run(build_engine(plain, None))
    assert all(("reasons" in s) == (s["alert"] and not s.get("cold", False)) for s in alerts)
    assert any("reasons" in score for score in alerts)
    assert [[r.value for r in out.scores] for out in asked] == [
        [r.value for r in out.scores] for out in without
    ]


def test_scores_are_the_same_whether_their_reasons_are_told_or_not(tmp_path: Path) -> None:
    """Bit by bit, though members tell in another pass than they score in else."""
    plain = config(tmp_path, members=MEMBERS, ensemble={"combine": "stack", "threshold": 0.3})
    engines = build_engine(of(tmp_path, tell="all"), None), build_engine(plain, None)
    told, without = (scores(run(engine)) for engine in engines)
    assert sum("reasons" in score for score in told) > 300
    assert [{k: v for k, v in s.items() if k != "reasons"} for s in told] == without
    members = [{n: m.digest() for n, m in e.ensemble.members.items()} for e in engines]
    assert members[0] == members[1]


def test_a_model_that_tells_of_other_columns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it gave and what was expected: kernels check no bounds."""
    few = lambda self, x, exact: np.zeros((len(x), 2))  # noqa: E731
    monkeypatch.setattr(ConstantModel, "contributions", few)
    with pytest.raises(ValueError, match=r"prior: contributions: expected shape \(\d+, \d+\)"):
        run(build_engine(of(tmp_path), None))


def test_reasons_and_what_is_usual_go_on_after_a_restart(tmp_path: Path) -> None:
    """The restored engine tells the same, bit for bit; asking leaves no trace."""
    first, second = (build_engine(of(tmp_path), None) for _ in range(2))
    parts, feed = traffic(400), Feed()
    for part in parts[:6]:
        first.step(feed.batch(*part))
    second.restore(first.state(), first.rows())
    ask(first, 399)
    first.why("e10")
    for part in parts[6:]:
        batch = feed.batch(*part)
        assert [r.value for r in first.step(batch).scores] == [
            r.value for r in second.step(batch).scores
        ]
    assert first.state_digest() == second.state_digest()


def test_a_member_in_quarantine_leaves_its_part_to_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says what they say on average; sums hold."""
    engine = build_engine(of(tmp_path), None)
    run(engine)

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ConstantModel, "score", fails)
    answer = ask(engine, 400)
    is_the_link(answer["reasons"], answer["score"])
    assert not any(answer["reasons"]["members"]["prior"].values())


def test_what_is_usual_is_a_mean_of_events_scored(tmp_path: Path) -> None:
    """Over the events that it was taken of, contributions of a member are 0 on average."""
    members = [{"name": "crossed", "type": "crossed"}]
    raw = {
        "members": members,
        "reasons": {"tell": "asked"},
        "ensemble": {"combine": "mean_logit"},
    }
    engine, feed = build_engine(config(tmp_path, **raw), None), Feed()
    numbers = range(400)
    engine.step(
        feed.batch(("events", [event(i) for i in numbers]), ("labels", [label(i) for i in numbers]))
    )
    assert engine.reasons is not None
    engine.reasons.replaced("crossed")
    told = []
    for i in range(400, 400 + 5 * EVERY):
        if engine.counts["scored"] % EVERY == 0:
            # Nothing is usual yet, or what was: with it the contribution is the column's own.
            usual = engine.reasons.state()["usual"]["crossed"]
            own = ask(engine, i)["reasons"]["members"]["crossed"]["amount"]
            told.append(own + usual[engine.reasons.state()["columns"].index("amount")])
        engine.step(feed.batch(("events", [event(i)])))
    state = engine.reasons.state()
    assert state["taken"]["crossed"] == len(told) == 5
    amount = state["columns"].index("amount")
    assert state["usual"]["crossed"][amount] == pytest.approx(np.mean(told), abs=1e-12)


def test_nothing_is_usual_of_a_member_that_began_anew(tmp_path: Path) -> None:
    """By a drift alarm, or as another model; of the others it stays."""
    members = [*MEMBERS[:2], MEMBERS[4]]
    c = config(tmp_path, members=members, reasons={"tell": "asked"}, drift={"on_alarm": "reset"})
    engine = build_engine(c, None)
    run(engine)
    assert engine.reasons is not None
    before = engine.reasons.state()["taken"]
    assert set(before.values()) == {400 // EVERY}
    engine.reactions._reset("crossed")
    assert engine.reasons.state()["taken"] == before | {"crossed": 0}


def test_an_event_that_waits_is_told_why_it_would_have_its_score_now(tmp_path: Path) -> None:
    """By the features that it was scored by and the members of today; no other event is."""
    engine = build_engine(of(tmp_path), None)
    run(engine)
    before = engine.state_digest()
    told = engine.why("e7")
    assert told is not None
    is_the_link(told["reasons"], told["score"])
    assert (told["seq"], told["digest"]) == (engine.seq, engine.digest)
    assert engine.why("nobody") is None
    assert engine.state_digest() == before


def test_a_cold_score_has_no_reasons(tmp_path: Path) -> None:
    """Nothing was learned that could give one."""
    engine = build_engine(of(tmp_path), None)
    engine.step(Feed().batch(("events", [event(0)])))
    assert "reasons" not in ask(engine, 1)
    told = engine.why("e0")
    assert told is not None
    assert told["reasons"] is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ensemble": {"combine": "majority_vote"}}, "which counts votes"),
        ({"target": {"type": "number"}, "features": []}, "expected target.type = 'binary'"),
        ({"reasons": {"groups": {"g": ["nothing"]}}}, "reasons.groups.g: expected features' names"),
        ({"reasons": {"groups": {"g": ["amount"], "h": ["amount"]}}}, "in one group"),
        ({"reasons": {"groups": {"g": ["amount"]}, "texts": {"amount": "x"}}}, "texts.amount"),
        ({"reasons": {"groups": {"linear": ["amount"]}}}, "other names than the members'"),
        (
            {"scores": {"format": "avro"}, "registry": {"url": "http://127.0.0.1:1"}},
            "reasons.tell: expected 'asked'",
        ),
    ],
)
def test_reasons_that_cannot_be_told_are_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    """In one sentence, at the start."""
    with pytest.raises(ConfigError, match=sentence):
        config(tmp_path, **{"reasons": {"tell": "all"}} | changes)
