"""Quality of numbers against scikit-learn over the same rows, and its state."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, StateError
from models.task import Number
from monitoring.quality.numbers import METRICS, NumberQuality, measure, pinball

QUANTILES = (0.1, 0.5, 0.9)
Row = tuple[float, float, float, tuple[float, float]]

# Far from 0 beside their spread: sums of squares would cancel.
value = st.integers(-40, 40).map(lambda v: 1e6 + v / 8)
half = st.one_of(st.just(math.nan), st.integers(0, 40).map(lambda v: v / 8))
rows_of = st.lists(st.tuples(value, value, value, st.tuples(half, half)), min_size=1, max_size=40)


def arrays(rows: Sequence[Row]) -> tuple[F64, F64, F64]:
    """Outputs ``(n, 2, 1)``, truths, intervals around the first output."""
    output = np.array([r[:2] for r in rows], float)
    intervals = output[:, [0, 0]] + np.array([r[3] for r in rows]) * [-1, 1]
    return output[:, :, None], np.array([r[2] for r in rows], float), intervals


def made(rows: Sequence[Row] = (), **options: float) -> NumberQuality:
    """A quality of an ensemble and a member that has seen the rows."""
    quality = NumberQuality(
        ["ensemble", "member"],
        Number(),
        quantiles=QUANTILES,
        **options,  # type: ignore[arg-type]
    )
    feed(quality, rows)
    return quality


def feed(quality: NumberQuality, rows: Sequence[Row]) -> None:
    """One update with all rows."""
    if rows:
        output, y, intervals = arrays(rows)
        quality.update(output, y, np.zeros(len(y), bool), intervals)


def check(
    got: dict[str, float], output: F64, y: F64, weight: F64, intervals: F64 | None, of_said: F64
) -> None:
    """The report's metrics are scikit-learn's; coverage and width by their definition."""
    w = {"sample_weight": weight}
    expected = {
        "mae": sk.mean_absolute_error(y, output, **w),
        "rmse": sk.root_mean_squared_error(y, output, **w),
        "r2": sk.r2_score(y, output, **w) if len(set(y)) > 1 else math.nan,
        "bias": np.average(output - y, weights=weight),
        "coverage": math.nan,
        "width": math.nan,
        **{pinball(q): sk.mean_pinball_loss(y, output, alpha=q, **w) for q in QUANTILES},
    }
    said = [] if intervals is None else [i for i, v in enumerate(intervals) if not any(v != v)]
    if said and intervals is not None:
        low, high = intervals[said].T
        held = [a <= t <= b for a, t, b in zip(low, y[said], high, strict=True)]
        expected["coverage"] = np.average(held, weights=of_said[said])
        expected["width"] = np.average(high - low, weights=of_said[said])
    found = {name: got[name] for name in expected}
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-9, nan_ok=True)
    assert set(METRICS) <= set(expected)


@settings(max_examples=25)
@given(rows_of, st.integers(1, 45))
def test_windows_of_all_and_of_the_last_rows_equal_scikit_learn(
    rows: list[Row], window: int
) -> None:
    """So does a measure over whole arrays; intervals are the ensemble's alone."""
    report = made(rows, window=window).report()
    for j, name in enumerate(report):
        for kind, last in (("all", 0), ("sliding", -window)):
            output, y, intervals = (a[last:] for a in arrays(rows))
            ones = np.ones(len(y))
            said = None if j else intervals
            check(report[name][kind], output[:, j, 0], y, ones, said, ones)
            check(measure(output[:, j], y, said, QUANTILES), output[:, j, 0], y, ones, said, ones)


@settings(max_examples=25)
@given(rows_of, st.sampled_from([0.5, 0.9, 1.0]))
def test_fading_window_equals_scikit_learn_with_faded_weights(rows: list[Row], fade: float) -> None:
    """A row weighs ``fade`` times as much at the next one."""
    snapshot = made(rows, fade=fade).snapshot()
    output, y, intervals = arrays(rows)
    weight = fade ** np.arange(len(y))[::-1].astype(float)
    said = ~np.isnan(intervals).any(axis=1)
    of_said = fade ** (said.sum() - said.cumsum()).astype(float)
    for j, name in enumerate(snapshot.names):
        found = snapshot.fading(name)
        check(found, output[:, j, 0], y, weight, None if j else intervals, of_said)


@settings(max_examples=30)
@given(rows_of, st.data())
def test_split_of_the_batches_does_not_matter(rows: list[Row], data: st.DataObject) -> None:
    """One call or many, with a save and a restore between, give the same state bit for bit."""
    cut = data.draw(st.integers(0, len(rows)))
    whole, again = made(rows, window=7), made(window=7)
    again.restore(made(rows[:cut], window=7).state())
    feed(again, rows[cut:])
    assert again.digest() == whole.digest()
    assert str(again.report()) == str(whole.report())


def test_scores_that_were_never_made_do_not_count() -> None:
    """A member without an output (nan) is judged on its other rows alone."""
    member = np.array([[math.nan], [2.0], [5.0], [math.nan]])
    output, y = np.stack([np.zeros((4, 1)), member], axis=1), np.array([1.0, 4.0, 3.0, 9.0])
    quality = made(fade=1.0)
    quality.update(output, y, np.zeros(4, bool))
    expected = measure(member[1:3], y[1:3], quantiles=QUANTILES)
    for window in ("all", "fading", "sliding"):
        assert quality.report()["member"][window] == pytest.approx(expected, nan_ok=True)


def test_a_mistyped_label_does_not_spoil_a_window_for_ever() -> None:
    """The square of 1e300 is no number; once it has faded the error is that of the others."""
    quality = NumberQuality(["ensemble"], Number(), window=5, fade=0.5)
    y = np.array([1e300, *np.ones(2000)])
    quality.update(np.zeros((len(y), 1, 1)), y, np.zeros(len(y), bool))
    found = quality.report()["ensemble"]
    assert found["sliding"]["rmse"] == 1
    assert found["fading"]["rmse"] == pytest.approx(1)
    assert math.isfinite(found["all"]["rmse"])


def test_undefined_values_are_nan_and_nothing_warns() -> None:
    """Before any outcome every metric is nan; R2 stays so while the truth never changes."""
    for windows in made().report().values():
        for window in windows.values():
            assert all(math.isnan(window[m]) for m in METRICS)
    quality = made([(1e6, 1e6, 1e6 + 0.3, (0.5, 0.5))] * 5)
    for window in quality.report()["ensemble"].values():
        assert math.isnan(window["r2"])
        assert (window["coverage"], window["width"]) == (1, 1)


@settings(max_examples=20)
@given(rows_of, rows_of)
def test_columns_are_taken_over_by_name(before: list[Row], after: list[Row]) -> None:
    """Whoever stays is judged on as if alone; who joins is judged on what it scored."""
    old = made(before, window=7)
    names = ["ensemble", "new", "member"]
    new = NumberQuality(names, Number(), window=7, quantiles=QUANTILES)
    new.restore(old.state())
    output, y, intervals = arrays(after)
    new.update(output[:, [0, 1, 1]], y, np.zeros(len(y), bool), intervals)
    feed(old, after)
    report = new.report()
    assert str({n: report[n] for n in ("ensemble", "member")}) == str(old.report())
    assert str(report["new"]["all"]) == str(made(after).report()["member"]["all"])


@settings(max_examples=20)
@given(rows_of, rows_of)
def test_quantiles_are_taken_over_by_their_number(before: list[Row], after: list[Row]) -> None:
    """One that stays goes on; one that comes counts what came since, but for the kept rows."""
    old = made(before, window=7)
    names = ["ensemble", "member"]
    new = NumberQuality(names, Number(), window=7, quantiles=[0.33, QUANTILES[-1]])
    new.restore(old.state())
    for quality in (old, new):
        feed(quality, after)
    kept = pinball(QUANTILES[-1])
    for name, windows in new.report().items():
        for window, found in windows.items():
            expected = old.report()[name][window]
            for metric in (*METRICS, kept):
                np.testing.assert_equal(found[metric], expected[metric])
    came = NumberQuality(names, Number(), window=7, quantiles=[0.33])
    feed(came, after)
    np.testing.assert_equal(
        new.report()["ensemble"]["all"][pinball(0.33)],
        came.report()["ensemble"]["all"][pinball(0.33)],
    )


@pytest.mark.parametrize(
    ("output", "y"),
    [
        (np.zeros((2, 2, 1)), np.zeros(2)),
        (np.zeros((2, 1, 2)), np.zeros(2)),
        (np.full((2, 1, 1), math.inf), np.zeros(2)),
        (np.zeros((2, 1, 1)), np.full(2, math.nan)),
    ],
)
def test_wrong_rows_are_refused_and_change_nothing(output: F64, y: F64) -> None:
    """Shapes and numbers that are none raise before any state changes."""
    quality = NumberQuality(["ensemble"], Number())
    before = quality.digest()
    with pytest.raises(ValueError, match=r"Quality\.update: expected"):
        quality.update(output, y, np.zeros(2, bool))
    assert quality.digest() == before


def test_impossible_settings_are_refused() -> None:
    """A quantile outside (0, 1), and what no window allows."""
    with pytest.raises(ValueError, match=r"expected quantiles in \(0, 1\), got \[1\.0\]"):
        NumberQuality(["ensemble"], Number(), quantiles=[1.0])
    for names, window, fade in (([], 1, 1.0), (["a", "a"], 1, 1.0), (["a"], 0, 1.0)):
        with pytest.raises(ValueError, match=r"Quality: expected different names"):
            NumberQuality(names, Number(), window, fade)


def test_state_of_other_settings_is_refused() -> None:
    """Another window or fade does not fit, and the error says which."""
    for other in (made(window=5), made(fade=0.9)):
        with pytest.raises(StateError, match=r"quality\..*: expected"):
            made().restore(other.state())
