"""Engines of classes and of numbers: scores, truths, restores, cuts, silence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitoring.show.metrics import MillraceCollector
from monitoring.show.readings import Telemetry
from stream.contract.outputs import Outputs
from stream.run.assemble import build_engine
from stream.run.readings import readings
from stream.settings.load import ConfigError
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from tests.support.factory import DAY_MS, START_MS, Feed, config, event

KINDS = ["card", "login", "other"]
TARGETS: dict[str, dict[str, Any]] = {
    "classes": {"type": "classes", "classes": KINDS},
    "number": {"type": "number", "minimum": 0.0, "maximum": 500.0},
}
MEMBERS = [
    {"name": "linear", "type": "logistic"},
    {"name": "crossed", "type": "crossed"},
    {"name": "river", "type": "logistic", "learning_rate": 0.05},
]
EACH = pytest.mark.parametrize("task", sorted(TARGETS))


def of(directory: Path, task: str, **changes: Any) -> Config:
    """A configuration for the target, without windows of risk."""
    target = TARGETS[task] | changes.pop("target", {})
    label = {"field": "truth", "horizon": "10d"} | changes.pop("label", {})
    found = config(
        directory,
        **{
            "target": target,
            "label": label,
            "members": MEMBERS,
            "ensemble": {"combine": "stack"},
            "features": [
                {"name": "amount", "type": "number", "field": "amount", "transform": "log1p"},
                {"name": "category", "type": "category", "field": "category", "buckets": 16},
            ],
        }
        | changes,
    )
    return found


def truth_of(task: str, i: int) -> Any:
    """What the category, and of a number the amount, tell of event ``i``."""
    made = event(i)
    if task == "classes":
        return KINDS[int(made["category"][1:]) % 3]
    return 10.0 * (int(made["category"][1:]) % 3) + math.log1p(made["amount"])


def parts(task: str, first: int, n: int, late: int = 50) -> list[tuple[str, list[Any]]]:
    """Events, and the labels of those ``late`` before."""
    labels = [
        {"id": event(i)["id"], "truth": truth_of(task, i)}
        for i in range(max(0, first - late), max(0, first + n - late))
    ]
    return [("events", [event(i) for i in range(first, first + n)]), ("labels", labels)]


def run(engine: ScoringEngine, task: str, steps: int, feed: Feed, first: int = 0) -> list[Outputs]:
    """So many steps of 25 events."""
    return [engine.step(feed.batch(*parts(task, first + 25 * i, 25))) for i in range(steps)]


def scores(outputs: Outputs) -> list[Any]:
    return [json.loads(r.value or b"") for r in outputs.scores]


@EACH
def test_scores_are_of_the_target_and_get_better(tmp_path: Path, task: str) -> None:
    """Each has what its target promises, within its bounds, and the truth is found more often."""
    engine = build_engine(of(tmp_path, task), None)
    last = scores(run(engine, task, 40, Feed())[-1])
    truths = [truth_of(task, 975 + i) for i in range(25)]
    if task == "classes":
        assert all(set(s["probabilities"]) == set(KINDS) for s in last)
        assert all(sum(s["probabilities"].values()) == pytest.approx(1.0) for s in last)
        assert all(s["prediction"] in s["set"] for s in last)
        assert all(set(s["members"].values()) <= set(KINDS) for s in last)
        assert np.mean([s["prediction"] == t for s, t in zip(last, truths, strict=True)]) > 0.9
    else:
        assert all(s["interval"][0] <= s["score"] <= s["interval"][1] for s in last)
        away = [abs(s["score"] - t) for s, t in zip(last, truths, strict=True)]
        assert np.mean(away) < 1.0
    assert not any(s["alert"] for s in last)
    report = engine.quality.report()["ensemble"]["all"]
    assert report["effective_samples"] > 800
    assert 0.8 < report["coverage"] <= 1.0


@EACH
def test_a_restored_engine_goes_on_bit_for_bit(tmp_path: Path, task: str) -> None:
    """Saved in the middle: the same outputs and the same state as without."""
    straight, saved = (build_engine(of(tmp_path, task), None) for _ in range(2))
    feeds = Feed(), Feed()
    for engine, feed in zip((straight, saved), feeds, strict=True):
        run(engine, task, 8, feed)
    again = build_engine(of(tmp_path, task), None)
    again.restore(saved.state(), saved.rows())
    assert again.state_digest() == saved.state_digest()
    for engine, feed in zip((straight, again), feeds, strict=True):
        run(engine, task, 6, feed, 200)
    assert straight.digest == again.digest
    assert straight.state_digest() == again.state_digest()


@EACH
def test_a_truth_that_is_none_is_a_dead_letter_with_what_was_expected(
    tmp_path: Path, task: str
) -> None:
    """Neither lost nor guessed."""
    engine, feed = build_engine(of(tmp_path, task), None), Feed()
    bad = {"classes": "cards", "number": 501.5}[task]
    out = engine.step(
        feed.batch(("events", [event(0)]), ("labels", [{"id": event(0)["id"], "truth": bad}]))
    )
    expected = {"classes": "one of card, login, other", "number": "a number in 0..500"}[task]
    assert [(d.reason, d.error) for d in out.dead_letters] == [
        ("label_value", f"expected {expected}; got '{bad}'")
    ]


@EACH
def test_silence_is_a_truth_where_it_is_configured(tmp_path: Path, task: str) -> None:
    """Without it an event that nobody labels is never learned; with it, it is at its horizon."""
    silent = {"classes": "other", "number": "0"}[task]
    for at_horizon, learned in ((None, 0), (silent, 5)):
        label = {} if at_horizon is None else {"at_horizon": at_horizon}
        engine, feed = build_engine(of(tmp_path, task, label=label), None), Feed()
        engine.step(feed.batch(("events", [event(i) for i in range(5)])))
        late = [event(100 + i, START_MS + 20 * DAY_MS + i) for i in range(2)]
        engine.step(feed.batch(("events", late)))
        assert engine.counts["learned"] == learned


def test_a_class_that_alerts_and_one_that_is_too_unlikely(tmp_path: Path) -> None:
    """Alerts go by the probability of one class; below the bound no class is predicted."""
    target = {"alert": "card", "abstain_below": 1.0}
    engine = build_engine(of(tmp_path, "classes", target=target), None)
    last = scores(run(engine, "classes", 30, Feed())[-1])
    assert {s["prediction"] for s in last} == {None}
    assert any(s["alert"] for s in last)
    assert all(s["alert"] == (s["probabilities"]["card"] >= 0.5) for s in last)
    assert all(s["score"] == s["probabilities"]["card"] for s in last)


def test_pinball_losses_are_told_of_the_quantiles_asked_for(tmp_path: Path) -> None:
    """With the quality, as metrics by quantile; a quantile stands once."""
    engine = build_engine(of(tmp_path, "number", target={"quantiles": [0.5, 0.9]}), None)
    run(engine, "number", 8, Feed())
    found = engine.quality.report()["ensemble"]["sliding"]
    assert found["pinball_0.5"] == pytest.approx(found["mae"] / 2)
    collector = MillraceCollector(lambda: readings(engine, {}), Telemetry({"version": "1"}))
    wanted = {"member": "ensemble", "window": "sliding", "maturity": "arrival"}
    told = {
        sample.labels["quantile"]: sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == "millrace_quality_pinball" and wanted.items() <= sample.labels.items()
    }
    assert told == {q: found[f"pinball_{q}"] for q in ("0.5", "0.9")}
    with pytest.raises(ConfigError, match=r"target\.quantiles\[1\]: expected another one"):
        of(tmp_path, "number", target={"quantiles": [0.5, 0.5]})


def test_numbers_alert_at_a_number(tmp_path: Path) -> None:
    """A score at or above it."""
    engine = build_engine(of(tmp_path, "number", target={"alert_above": 15.0}), None)
    last = scores(run(engine, "number", 30, Feed())[-1])
    assert {s["alert"] for s in last} == {True, False}
    assert all(s["alert"] == (s["score"] >= 15.0) for s in last)


@pytest.mark.parametrize(
    ("task", "changes", "error"),
    [
        ("classes", {"label": {"at_horizon": "negative"}}, "label.at_horizon: expected 'drop' or"),
        ("classes", {"label": {"values": {"1": "bank"}}}, "label.values.1: expected one of card"),
        ("classes", {"target": {"alert": "bank"}}, "target.alert: expected one of"),
        (
            "classes",
            {"target": {"alert": "bank"}, "drift": {"on_alarm": "weights"}},
            "target.alert: expected one of",
        ),
        ("classes", {"target": {"classes": ["a", "a"]}}, "target.classes[1]: expected a name"),
        ("number", {"label": {"values": {"1": 1}}}, "label.values: expected none"),
        ("number", {"label": {"at_horizon": "never"}}, "label.at_horizon: expected 'drop' or a"),
        ("number", {"target": {"minimum": 9, "maximum": 9}}, "target.maximum: expected more than"),
        ("number", {"ensemble": {"combine": "boosting"}}, "ensemble.combine: expected one of"),
        ("number", {"label": {"learning": "corrected"}}, "label.at_horizon: expected 'negative'"),
        (
            "number",
            {"features": [{"name": "r", "type": "risk", "entity": "customer"}]},
            "features[0]",
        ),
    ],
)
def test_what_does_not_fit_the_target_is_refused(
    tmp_path: Path, task: str, changes: dict[str, Any], error: str
) -> None:
    """With its key, before anything runs."""
    with pytest.raises(ConfigError) as caught:
        of(tmp_path, task, **changes)
    assert error in str(caught.value)
