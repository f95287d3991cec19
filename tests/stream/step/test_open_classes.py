"""Classes that enter by their labels: order, bounds, scores, records, and what goes on after."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.base import StateError
from monitoring.audit.words import told
from stream.contract.outputs import Outputs
from stream.run.assemble import build_engine
from stream.settings.load import ConfigError
from stream.settings.schema import Config
from stream.step.reconfigure import Irreconcilable, compare
from stream.step.scoring import ScoringEngine
from stream.tools.evaluate import Evaluation
from stream.tools.rehearse import rehearse
from tests.support.factory import Feed, config, event

MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "crossed", "type": "crossed"},
    {"name": "forest", "type": "forest", "trees": 3},
    {"name": "boosting", "type": "boosting", "trees": 5},
    {"name": "prior", "type": "constant"},
    {"name": "bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
]
COMBINERS = ("stack", "stacking", "mean_logit", "mean_probability", "majority_vote", "bagging")


def of(directory: Path, most: int = 4, **changes: Any) -> Config:
    """An open target of so many classes, without windows of risk."""
    target = {"type": "classes", "max_classes": most} | changes.pop("target", {})
    label = {"field": "truth", "horizon": "10d"} | changes.pop("label", {})
    plain = [
        {"name": "amount", "type": "number", "field": "amount", "transform": "log1p"},
        {"name": "category", "type": "category", "field": "category", "buckets": 16},
    ]
    parts = {"members": MEMBERS, "ensemble": {"combine": "stack"}, "features": plain}
    return config(directory, target=target, label=label, **parts | changes)


def truth(i: int) -> str:
    """One of two classes by category; from event 200 on every third is of a third class."""
    category = int(event(i)["category"][1:])
    return "late" if i >= 200 and category % 3 == 0 else ("even", "odd")[category % 2]


def labelled(i: int, name: Any = None) -> dict[str, Any]:
    return {"id": event(i)["id"], "truth": truth(i) if name is None else name}


def run(engine: ScoringEngine, feed: Feed, first: int, last: int) -> list[Outputs]:
    """Events in steps of 25, each with the labels of those 50 before."""
    done = []
    for i in range(first, last, 25):
        labels = [labelled(j) for j in range(max(0, i - 50), max(0, i - 25))]
        done.append(engine.step(feed.batch(("events", [event(j) for j in range(i, i + 25)]),
                                           ("labels", labels))))  # fmt: skip
    return done


def scores(outputs: Outputs) -> list[Any]:
    return [json.loads(r.value or b"") for r in outputs.scores]


def named(engine: ScoringEngine, feed: Feed, names: Sequence[Any]) -> Outputs:
    """A step of events, then one of their labels; what the latter gave."""
    first = engine.counts["consumed.events"]
    engine.step(feed.batch(("events", [event(first + i) for i in range(len(names))])))
    labels = [labelled(first + i, name) for i, name in enumerate(names)]
    return engine.step(feed.batch(("labels", labels)))


def test_classes_enter_in_the_order_of_their_labels(tmp_path: Path) -> None:
    """Each is on record once, with its column, before anything is learned of it."""
    engine, feed = build_engine(of(tmp_path, target={"classes": ["b"]}), None), Feed()
    out = named(engine, feed, ["c", "a", "b", "c", 7])
    assert engine.task.names == ("b", "c", "a", "7")
    audit = [json.loads(r.value or b"") for r in out.audit]
    added = [(a["class"], a["column"], told(a)) for a in audit if a["event"] == "class_added"]
    assert added == [(name, i, f"{name}, by label") for i, name in enumerate(["c", "a", "7"], 1)]
    assert engine.counts["learned"] == 5


def test_beyond_the_most_a_label_is_a_dead_letter_of_its_own(tmp_path: Path) -> None:
    """Known classes go on being learned, and a name that can be none keeps its own reason."""
    engine, feed = build_engine(of(tmp_path, 2), None), Feed()
    out = named(engine, feed, ["a", "b", "c", "a", "", "x" * 81])
    assert [(d.reason, d.error.partition(";")[0]) for d in out.dead_letters] == [
        *[("label_value", "expected a class, named by 1..80 characters")] * 2,
        (
            "label_class",
            "expected one of a, b: with these there are as many as target.max_classes = 2 allows",
        ),
    ]
    assert engine.task.names == ("a", "b")
    assert engine.counts["learned"] == 3
    assert engine.counts["dead.label_class"] == 1


def test_values_may_say_which_class_a_label_is_of(tmp_path: Path) -> None:
    """Also of classes that enter later."""
    label = {"values": {"1": "late", "0": "even"}}
    engine = build_engine(of(tmp_path, label=label, target={"classes": ["even"]}), None)
    named(engine, Feed(), [1, 0, "late", "odd"])
    assert engine.task.names == ("even", "late", "odd")
    assert engine.counts["learned"] == 4


@pytest.mark.parametrize("combine", COMBINERS)
def test_probabilities_are_of_the_classes_known(tmp_path: Path, combine: str) -> None:
    """They sum to 1; nothing is said before the first label, and no class before its own."""
    engine, feed = build_engine(of(tmp_path, 6, ensemble={"combine": combine}), None), Feed()
    for out in run(engine, feed, 0, 400):
        for s in scores(out):
            names = set(s["probabilities"])
            assert names in (set(), {"even", "odd"}, {"even", "odd", "late"})
            assert sum(s["probabilities"].values()) == pytest.approx(1.0 if names else 0.0)
            assert s["prediction"] in (names or {None})
            assert set(s["set"]) | set(s["members"].values()) <= names
            assert s.get("cold", False) or names
    assert names == {"even", "odd", "late"}


def test_a_class_that_comes_late_is_learned_like_one_that_was_listed(tmp_path: Path) -> None:
    """The last predictions are as often right as with a closed list, within a few."""
    right = {}
    for kind, target in (
        ("open", {}),
        ("closed", {"classes": ["even", "odd", "late"], "max_classes": None}),
    ):
        engine = build_engine(of(tmp_path, 12, target=target), None)
        last = run(engine, Feed(), 0, 900)[-8:]
        hits = [s["prediction"] == truth(int(s["id"][1:])) for out in last for s in scores(out)]
        right[kind] = float(np.mean(hits))
    assert right["open"] > 0.9
    assert abs(right["open"] - right["closed"]) < 0.05


def test_a_restored_engine_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Saved before a class enters and after: the same outputs and the same state as without."""
    straight, feed = build_engine(of(tmp_path), None), Feed()
    again, its_feed = build_engine(of(tmp_path), None), Feed()
    for first, last in ((0, 150), (150, 300), (300, 450)):
        run(straight, feed, first, last)
        run(again, its_feed, first, last)
        saved = again
        again = build_engine(of(tmp_path), None)
        again.restore(saved.state(), saved.rows())
        assert again.task.names == straight.task.names
        assert again.state_digest() == saved.state_digest() == straight.state_digest()
        assert again.digest == straight.digest


def test_where_batches_are_cut_decides_no_class(tmp_path: Path) -> None:
    """The same records in other steps: the same classes, dead letters and counts."""
    names = ["a", "b", "a", "c", "d", "b", "e"]
    found = []
    for cuts in ([7], [1] * 7, [3, 4]):
        engine, feed, letters = build_engine(of(tmp_path, 3), None), Feed(), []
        engine.step(feed.batch(("events", [event(i) for i in range(7)])))
        rows = iter([labelled(i, name) for i, name in enumerate(names)])
        for n in cuts:
            out = engine.step(feed.batch(("labels", [next(rows) for _ in range(n)])))
            letters += [(d.reason, d.error, d.record.offset) for d in out.dead_letters]
        found.append((engine.task.names, letters, engine.counts))
    assert found[0] == found[1] == found[2]
    assert found[0][0] == ("a", "b", "c")
    assert [reason for reason, *_ in found[0][1]] == ["label_class"] * 2


def test_no_score_knows_a_class_from_its_own_label(tmp_path: Path) -> None:
    """Labels in the events: a class has a probability from the next events on."""
    c = of(tmp_path, 2, label={"inline": True})
    engine, feed = build_engine(c, None), Feed()

    def step(first: int, *names: str) -> Outputs:
        rows = [event(first + i) | {"truth": name} for i, name in enumerate(names)]
        return engine.step(feed.batch(("events", rows)))

    assert [s["probabilities"] for s in scores(step(0, "a", "b"))] == [{}, {}]
    out = step(2, "a", "c", "b")
    assert [set(s["probabilities"]) for s in scores(out)] == [{"a", "b"}] * 2
    assert [(d.reason, d.record.offset) for d in out.dead_letters] == [("label_class", 3)]
    assert engine.counts["learned"] == 4


def test_silence_and_alerts_are_of_listed_classes(tmp_path: Path) -> None:
    """They must be known before any label came."""
    target = {"classes": ["calm"], "alert": "calm"}
    label = {"at_horizon": "calm"}
    assert of(tmp_path, target=target, label=label).task().silence == 0.0
    for changes, error in (
        ({"target": {"alert": "a"}}, "target.alert: expected one of target.classes"),
        ({"label": {"at_horizon": "a"}}, "label.at_horizon: expected 'drop' or one of target.cl"),
        ({"label": {"values": {"1": ""}}}, "label.values.1: expected a class, named by 1..80"),
        ({"target": {"classes": list("abcde")}}, "target.max_classes: expected at least the 5"),
        ({"target": {"max_classes": None}}, "target.classes: expected two at least, or target.max"),
    ):
        with pytest.raises(ConfigError, match="expected") as caught:
            of(tmp_path, **changes)  # type: ignore[arg-type]
        assert error in str(caught.value)


def test_class_weights_wait_for_their_class(tmp_path: Path) -> None:
    """A weight of a class that nobody named yet is that of the class once it entered."""
    weighed = [
        {"name": n, "type": n, "class_weights": {"late": 4.0}} for n in ("logistic", "forest")
    ]
    listed = {"classes": ["even", "odd", "late"]}
    ends = []
    for target in ({}, listed):
        engine = build_engine(of(tmp_path, 3, target=target, members=weighed), None)
        run(engine, Feed(), 0, 500)
        ends.append({n: m.digest() for n, m in engine.ensemble.members.items()})
    assert ends[0] == ends[1]


def test_members_are_tried_on_made_up_classes(tmp_path: Path) -> None:
    """`millrace check` finds nothing to say of any member, though no class is known yet."""
    assert rehearse(of(tmp_path, 5)) == []


@pytest.mark.parametrize(
    ("classes", "error"),
    [
        (["b", "a"], "expected ['a'] first"),
        (["a", "b", "c"], "expected up to 2 different names"),
        (["a", "a"], "expected up to 2 different names"),
        (["a", 1], "expected up to 2 different names"),
        (None, "expected up to 2 different names"),
    ],
)
def test_a_state_of_other_classes_is_refused(tmp_path: Path, classes: Any, error: str) -> None:
    """Before anything is restored by columns that mean something else."""
    engine = build_engine(of(tmp_path, 2, target={"classes": ["a"]}), None)
    with pytest.raises(StateError) as caught:
        engine.restore(engine.state() | {"classes": classes})
    assert error in str(caught.value)


def test_a_past_that_named_classes_in_another_order_teaches_nothing(tmp_path: Path) -> None:
    """Its members' columns mean other classes; one that named the first of them is taken."""
    old, new, past = (build_engine(of(tmp_path), None) for _ in range(3))
    for name in ("a", "b"):
        old.task.enter(name)
    past.task.enter("a")
    assert compare(old, new, past)
    past.task.enter("c")
    with pytest.raises(Irreconcilable, match="expected the past to name classes as the stream"):
        compare(old, new, past)


@pytest.mark.parametrize("apart", [False, True])
def test_an_evaluation_judges_by_the_classes_that_entered(tmp_path: Path, apart: bool) -> None:
    """Truths are those of the labels, whichever order they came in; the rest are dead letters."""
    names = [f"rare {i}" if i >= 300 and i % 50 == 0 else truth(i) for i in range(600)]
    engine = build_engine(of(tmp_path, 4), None)
    rows = [event(i) | ({} if apart else {"truth": name}) for i, name in enumerate(names)]
    labels = [labelled(i, name) for i, name in enumerate(names)] if apart else None
    found = Evaluation(
        engine.config,
        engine,
        60_000,
        32,
        None if labels is None else [[json.dumps(r).encode() for r in labels]],
    )
    summary = found.run([[json.dumps(r).encode() for r in rows]], lambda n: None)
    assert engine.task.names == ("even", "odd", "late", "rare 300")
    assert summary["dead_letter_reasons"] == {"label_class": 5}
    assert summary["labelled"] == 595
    judged = found.judged()
    told = [engine.task.named(y) for y in judged.y]
    assert summary["classes"] == {name: told.count(name) for name in engine.task.names}
    at = {row["time"]: name for row, name in zip(rows, names, strict=True)}
    assert told == [at[time] for time in judged.time_ms.tolist()]
    assert not math.isnan(summary["quality"]["ensemble"]["macro_f1"])
