"""Quality windows against scikit-learn over the same rows, and their state."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, StateError
from monitoring.quality.measures import (
    METRICS,
    kappa_temporal,
    no_change_accuracy,
    precision_at_budget,
    summarise,
)
from monitoring.quality.quality import ExpectedAccuracy, Quality
from monitoring.quality.sums import CALIBRATION_BINS

Row = tuple[float, float, int, bool]

# A quarter of a logit apart: every distinct score has a histogram bin of its own.
grid = st.integers(-60, 60).map(lambda k: 1 / (1 + math.exp(-k / 4 - 0.01)))
any_p = st.one_of(st.floats(0, 1), grid)


def rows_of(scores: st.SearchStrategy[float]) -> st.SearchStrategy[list[Row]]:
    """Ensemble's score, member's score, truth, ensemble's decision."""
    row = st.tuples(scores, scores, st.integers(0, 1), st.booleans())
    return st.lists(row, min_size=1, max_size=60)


def feed(quality: Quality, rows: Sequence[Row]) -> None:
    """One update with all rows."""
    quality.update(
        np.array([r[:2] for r in rows], float).reshape(-1, 2),
        np.array([r[2] for r in rows], float),
        np.array([r[3] for r in rows], bool),
    )


def oracle(p: F64, y: F64, alert: F64, weight: F64) -> dict[str, float]:
    """Every metric by scikit-learn; the calibration error by its definition."""
    kinds = set(y.tolist())
    kwargs = {"sample_weight": weight}
    bins = [min(int(q * CALIBRATION_BINS), CALIBRATION_BINS - 1) for q in p]
    gaps = [
        abs(sum(weight[i] * (p[i] - y[i]) for i in range(len(p)) if bins[i] == b))
        for b in set(bins)
    ]
    return {
        "accuracy": sk.accuracy_score(y, alert, **kwargs),
        "precision": sk.precision_score(y, alert, zero_division=np.nan, **kwargs),
        "recall": sk.recall_score(y, alert, zero_division=np.nan, **kwargs),
        "f1": sk.f1_score(y, alert, zero_division=np.nan, **kwargs),
        "roc_auc": sk.roc_auc_score(y, p, **kwargs) if len(kinds) == 2 else math.nan,
        "pr_auc": sk.average_precision_score(y, p, **kwargs) if 1 in kinds else math.nan,
        "log_loss": sk.log_loss(y, p, labels=[0, 1], **kwargs),
        "brier": sk.brier_score_loss(y, p, labels=[0, 1], **kwargs),
        "calibration_error": sum(gaps) / weight.sum(),
    }


def check(report: dict[str, float], p: F64, y: F64, alert: F64, weight: F64) -> None:
    """The report's metrics are the oracle's."""
    expected = oracle(p, y, alert, weight)
    got = {name: report[name] for name in METRICS}
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-11, nan_ok=True)


def columns(rows: Sequence[Row], threshold: float) -> list[tuple[F64, F64, F64]]:
    """Scores, truth and decisions of the ensemble and of the member."""
    y = np.array([r[2] for r in rows], float)
    p = np.array([r[:2] for r in rows])
    decided = np.array([r[3] for r in rows], float)
    return [(p[:, 0], y, decided), (p[:, 1], y, (p[:, 1] >= threshold).astype(float))]


@settings(max_examples=60)
@given(rows_of(any_p), st.integers(1, 70))
def test_sliding_window_equals_scikit_learn_over_the_last_rows(
    rows: list[Row], window: int
) -> None:
    """The sliding window holds exactly the last rows, with the ensemble's decisions as made."""
    quality = Quality(["ensemble", "member"], 0.3, window=window)
    feed(quality, rows)
    for name, (p, y, alert) in zip(quality.report(), columns(rows[-window:], 0.3), strict=True):
        check(quality.report()[name]["sliding"], p, y, alert, np.ones(len(p)))


@settings(max_examples=60)
@given(rows_of(grid))
def test_cumulative_window_equals_scikit_learn_over_all_rows(rows: list[Row]) -> None:
    """The cumulative window agrees with the batch metrics; so does fading that never forgets."""
    quality = Quality(["ensemble", "member"], 0.3, window=1, fade=1.0)
    feed(quality, rows)
    report = quality.report()
    for name, (p, y, alert) in zip(report, columns(rows, 0.3), strict=True):
        check(report[name]["all"], p, y, alert, np.ones(len(p)))
        check(quality.snapshot().fading(name), p, y, alert, np.ones(len(p)))


def fading_weights(y: F64, fade: float) -> tuple[F64, list[float]]:
    """The weight of each row by the definition, and the effective samples of both classes."""
    weight = np.zeros(len(y))
    effective, horizon = [0.0, 0.0], [0.0, 0.0]
    for c in (0, 1):
        at = np.flatnonzero(y == c)
        aged = fade ** np.arange(len(at))[::-1]
        weight[at] = aged
        effective[c] = aged.sum()
        gaps = np.diff(at, prepend=-1)
        horizon[c] = (aged * gaps).sum() + len(y) - 1 - (at[-1] if len(at) else -1)
    rarer = int(horizon[1] >= horizon[0])
    share = effective[rarer] / horizon[rarer] if all(effective) else 1.0
    for c in (0, 1):
        part = share if c == rarer or not all(effective) else 1 - share
        weight[y == c] *= part / effective[c] if effective[c] else 0
    return weight, effective


@settings(max_examples=60)
@given(rows_of(grid), st.sampled_from([0.5, 0.9, 0.999]))
def test_fading_window_equals_scikit_learn_with_faded_weights(rows: list[Row], fade: float) -> None:
    """Fading by class is a batch metric in which a row weighs what its class's fade left."""
    quality = Quality(["ensemble", "member"], 0.3, window=1, fade=fade)
    feed(quality, rows)
    report = quality.report()
    for name, (p, y, alert) in zip(report, columns(rows, 0.3), strict=True):
        weight, effective = fading_weights(y, fade)
        keep = weight > 0  # a class of share 0 is absent
        check(report[name]["fading"], p[keep], y[keep], alert[keep], weight[keep])
        assert report[name]["fading"]["effective_negatives"] == pytest.approx(effective[0])
        assert report[name]["fading"]["effective_positives"] == pytest.approx(effective[1])


def test_fading_survives_weights_that_would_overflow() -> None:
    """After thousands of outcomes at fade 0.5 the weights were scaled back and the rates hold."""
    rng = np.random.default_rng(1)
    rows: list[Row] = [
        (0.9 if hit else 0.1, 0.5, int(label), bool(hit))
        for hit, label in zip(rng.random(5000) < 0.5, rng.random(5000) < 0.3, strict=True)
    ]
    quality = Quality(["ensemble", "member"], 0.3, fade=0.5)
    feed(quality, rows)
    (p, y, alert), _ = columns(rows[-1000:], 0.3)
    weight, _ = fading_weights(y, 0.5)
    keep = weight > 0
    check(quality.report()["ensemble"]["fading"], p[keep], y[keep], alert[keep], weight[keep])


def test_rare_class_keeps_its_effective_samples() -> None:
    """At 0.2% positives and fade 0.999 far more than 2 positives stay effective."""
    y = (np.arange(100_000) % 500 == 0).astype(float)
    quality = Quality(["ensemble"], 0.5, fade=0.999)
    quality.update(np.full((100_000, 1), 0.9), y, np.ones(100_000, bool))
    fading = quality.report()["ensemble"]["fading"]
    assert fading["effective_positives"] == pytest.approx((1 - 0.999**200) / 0.001)
    assert fading["precision"] == pytest.approx(0.002, rel=0.02)


def test_cumulative_areas_stay_within_the_histogram_resolution() -> None:
    """On continuous scores the areas from histograms differ from the exact ones by under 0.003."""
    rng = np.random.default_rng(2)
    p = rng.beta(0.5, 8, (50_000, 1))
    y = (rng.random(50_000) < p[:, 0]).astype(float)
    quality = Quality(["ensemble"], 0.5, window=50_000)
    quality.update(p, y, p[:, 0] >= 0.5)
    windows = quality.report()["ensemble"]
    for metric in ("roc_auc", "pr_auc"):
        assert windows["all"][metric] == pytest.approx(windows["sliding"][metric], abs=3e-3)


@settings(max_examples=40)
@given(rows_of(any_p), st.data())
def test_split_of_the_batches_does_not_matter(rows: list[Row], data: st.DataObject) -> None:
    """One call or many, with a save and a restore between, give the same state bit for bit."""
    whole = Quality(["ensemble", "member"], 0.3, window=7)
    feed(whole, rows)
    cut = data.draw(st.integers(0, len(rows)))
    first = Quality(["ensemble", "member"], 0.3, window=7)
    feed(first, rows[:cut])
    second = Quality(["ensemble", "member"], 0.3, window=7)
    second.restore(first.state())
    feed(second, rows[cut:])
    assert second.digest() == whole.digest()
    assert str(second.report()) == str(whole.report())


def test_scores_that_were_never_made_do_not_count() -> None:
    """A member without a score (nan) is judged on its other rows alone."""
    p = np.array([[0.9, math.nan], [0.2, 0.4], [0.6, 0.7], [0.1, math.nan]])
    y = np.array([1.0, 0.0, 1.0, 0.0])
    quality = Quality(["ensemble", "member"], 0.5, fade=1.0)
    quality.update(p, y, p[:, 0] >= 0.5)
    for window in ("all", "fading", "sliding"):
        got = quality.report()["member"][window]
        assert got == pytest.approx(summarise(p[1:3, 1], y[1:3], 0.5), rel=1e-9)


def test_undefined_values_are_nan_and_nothing_warns() -> None:
    """Before any outcome every metric is nan; without positives recall and areas stay nan."""
    quality = Quality(["ensemble"], 0.5)
    for window in quality.report()["ensemble"].values():
        assert all(math.isnan(window[m]) for m in METRICS)
        assert window["effective_samples"] == 0
    quality.update(np.array([[0.2]]), np.array([0.0]), np.array([False]))
    for window in quality.report()["ensemble"].values():
        assert window["accuracy"] == 1
        assert all(math.isnan(window[m]) for m in ("recall", "precision", "roc_auc", "pr_auc"))


def test_members_use_the_threshold_of_the_moment() -> None:
    """A changed threshold holds for the outcomes after it, not for those before."""
    quality = Quality(["ensemble", "member"], 0.5)
    row = (np.array([[0.4, 0.4]]), np.array([1.0]), np.array([False]))
    quality.update(*row)
    quality.set_threshold(0.3)
    quality.update(*row)
    assert quality.report()["member"]["all"]["recall"] == 0.5
    assert quality.snapshot().outcomes() == {"tp": 0, "fp": 0, "fn": 2, "tn": 0}


def test_snapshot_does_not_change_with_the_quality() -> None:
    """A report read later from a snapshot is that of the moment it was taken."""
    quality = Quality(["ensemble"], 0.5, window=2)
    quality.update(np.array([[0.9]]), np.array([1.0]), np.array([True]))
    snapshot, state = quality.snapshot(), quality.state()
    quality.update(np.array([[0.9]] * 3), np.zeros(3), np.ones(3, bool))
    assert snapshot.report()["ensemble"]["sliding"]["precision"] == 1
    assert snapshot.report()["ensemble"]["all"]["precision"] == 1
    assert state["seen"] == 1
    assert state["y"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("p", "y", "alert"),
    [
        (np.full((2, 2), 0.5), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1), 1.5), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1), -math.inf), np.zeros(2), np.zeros(2, bool)),
        (np.full((2, 1), 0.5), np.full(2, 0.5), np.zeros(2, bool)),
        (np.full((2, 1), 0.5), np.zeros(2), np.zeros(3, bool)),
    ],
)
def test_wrong_rows_are_refused_and_change_nothing(p: F64, y: F64, alert: F64) -> None:
    """Shapes, ranges and truths outside the contract raise before any state changes."""
    quality = Quality(["ensemble"], 0.5)
    before = quality.digest()
    with pytest.raises(ValueError, match=r"Quality\.update: expected"):
        quality.update(p, y, alert)
    assert quality.digest() == before


@pytest.mark.parametrize(
    ("names", "window", "fade"),
    [([], 1, 1.0), (["a", "a"], 1, 1.0), (["a"], 0, 1.0), (["a"], 1, 0.0), (["a"], 1, 1.1)],
)
def test_impossible_settings_are_refused(names: list[str], window: int, fade: float) -> None:
    """No name, the same name twice, no window, and a fade outside (0, 1] raise."""
    with pytest.raises(ValueError, match=r"Quality: expected different names"):
        Quality(names, 0.5, window, fade)


@pytest.mark.parametrize(
    "other",
    [
        Quality(["ensemble", "member"], 0.5, window=5),
        Quality(["ensemble", "member"], 0.5, fade=0.9),
    ],
)
def test_state_of_another_shape_is_refused(other: Quality) -> None:
    """Another window or fade does not fit, and the error says which."""
    with pytest.raises(StateError, match=r"quality\..*: expected"):
        Quality(["ensemble", "member"], 0.5).restore(other.state())


@settings(max_examples=30)
@given(rows_of(any_p), rows_of(any_p))
def test_columns_are_taken_over_by_name(before: list[Row], after: list[Row]) -> None:
    """Whoever stays is judged on as if alone; who joins is judged on what it scored."""
    old, alone = (Quality(["ensemble", "a"], 0.4, window=7) for _ in range(2))
    new = Quality(["x", "ensemble", "a"], 0.4, window=7)
    fresh = Quality(["x"], 0.4, window=7)
    feed(old, before)
    feed(alone, before)
    new.restore(old.state())
    feed(alone, after)
    y = np.array([row[2] for row in after], float)
    p = np.array([row[:2] for row in after], float).reshape(-1, 2)
    alert = np.array([row[3] for row in after])
    new.update(np.column_stack([np.full(len(y), np.nan), p]), y, p[:, 1] >= 0.4)
    assert str(new.report()["a"]) == str(alone.report()["a"])
    assert str(new.report()["x"]) == str(fresh.report()["x"])
    new.update(p[:, [0, 0, 1]], y, alert)
    fresh.update(p[:, [0]], y, p[:, 0] >= 0.4)
    # The first column's alerts are the ensemble's decisions, whoever it is.
    for window in ("all", "fading"):
        for metric in ("log_loss", "brier", "effective_samples"):
            got, expected = (q.report()["x"][window][metric] for q in (new, fresh))
            assert got == pytest.approx(expected, nan_ok=True)


def test_the_threshold_is_a_setting() -> None:
    """A restored quality judges by its own threshold, not by that of whoever gave the state."""
    old, new = Quality(["ensemble", "a"], 0.9), Quality(["ensemble", "a"], 0.3)
    new.restore(old.state())
    new.update(np.array([[0.4, 0.4]]), np.array([1.0]), np.array([True]))
    assert new.report()["a"]["all"]["recall"] == 1.0


def test_expected_accuracy_is_the_mean_confidence_of_the_last_scores() -> None:
    """The estimate runs over the last window of scores, whatever the batches, and restores."""
    p = np.random.default_rng(3).random(25)
    whole, parts = ExpectedAccuracy(10), ExpectedAccuracy(10)
    assert math.isnan(whole.value())
    whole.observe(np.maximum(p, 1 - p))
    for i in range(25):
        parts.observe(np.maximum(p, 1 - p)[i : i + 1])
    assert whole.value() == parts.value() == pytest.approx(np.maximum(p, 1 - p)[-10:].mean())
    again = ExpectedAccuracy(10)
    again.restore(whole.state())
    assert again.value() == whole.value()


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans()), min_size=2, max_size=40))
def test_temporal_kappa_compares_with_repeating_the_last_truth(
    rows: list[tuple[int, bool]],
) -> None:
    """No-change accuracy and temporal kappa follow their definitions row by row."""
    y, alert = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows])
    pairs = list(itertools.pairwise(rows))
    expected = sum(a[0] == b[0] for a, b in pairs) / len(pairs)
    right = sum(b[0] == b[1] for _, b in pairs) / len(pairs)
    assert no_change_accuracy(y) == pytest.approx(expected)
    kappa = (right - expected) / (1 - expected) if expected < 1 else math.nan
    assert kappa_temporal(alert, y) == pytest.approx(kappa, nan_ok=True)


def alerted(p: F64, k: int) -> list[list[int]]:
    """Every set of ``k`` rows that no other row has a higher score than."""
    order = np.argsort(-p, kind="stable").tolist()
    sure = [i for i in order if p[i] > p[order[k - 1]]]
    tied = [i for i in order if p[i] == p[order[k - 1]]]
    return [sure + list(rest) for rest in itertools.combinations(tied, k - len(sure))]


few_scores = st.one_of(st.sampled_from([0.1, 0.5, 0.9]), st.floats(0, 1))


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(few_scores, few_scores, st.integers(0, 1), st.booleans()), min_size=1, max_size=30
    ),
    st.integers(4, 12),
    st.sampled_from([1.0, 90.0, 250.0, 500.0, 1000.0]),
    st.data(),
)
def test_precision_at_the_budget_is_that_of_the_highest_scores(
    rows: list[Row], window: int, budget: float, data: st.DataObject
) -> None:
    """Over the window it is the mean over every way to break ties, after a restart too."""
    quality = Quality(["ensemble", "member"], 0.5, window)
    cut = data.draw(st.integers(0, len(rows)))
    feed(quality, rows[:cut])
    again = Quality(["ensemble", "member"], 0.5, window)
    again.restore(quality.state())
    feed(again, rows[cut:])
    found = again.snapshot().precision_at_budget(budget)
    kept = rows[-window:]
    k = max(1, math.floor(len(kept) * budget / 1000))
    y = np.array([row[2] for row in kept], float)
    for column, name in enumerate(("ensemble", "member")):
        ways = alerted(np.array([row[column] for row in kept]), k)
        assert found[name] == pytest.approx(np.mean([y[way].mean() for way in ways]))


def test_precision_at_the_budget_leaves_out_what_was_not_scored() -> None:
    """A member in quarantine has no score for a row; without any there is no precision."""
    quality = Quality(["ensemble", "member", "silent"], 0.5)
    p = np.array([[0.9, math.nan, math.nan], [0.8, 0.3, math.nan], [0.1, 0.2, math.nan]])
    quality.update(p, np.array([0.0, 1.0, 1.0]), p[:, 0] > 0.5)
    found = quality.snapshot().precision_at_budget(10.0)
    assert (found["ensemble"], found["member"]) == (0.0, 1.0)
    assert math.isnan(found["silent"])
    assert math.isnan(precision_at_budget(np.zeros(0), np.zeros(0), 10.0))
