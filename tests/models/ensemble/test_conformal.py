"""Intervals and sets: how often they hold the truth, their widths, and their state."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, StateError
from models.ensemble.conformal import Conformal, Intervals, Sets, conformal
from models.links import softmax
from models.task import Binary, Classes, Number
from monitoring.quality import classes, numbers

NAMES = ("a", "b", "c", "d")
PER_DAY, DAYS = 200, 150
MONTH = 30 * PER_DAY
SIZE = 20


def intervals(level: float = 0.9) -> Intervals:
    """Of a number without bounds."""
    return Intervals(Number(), level)


def sets(level: float = 0.9) -> Sets:
    """Of four classes."""
    return Sets(Classes(NAMES), level)


def play(made: Conformal, output: F64, y: F64, delay: int) -> F64:
    """Score in batches and learn each label when it is due: held and width ``(n, 2)``."""
    promise, learned = np.zeros((len(y), 2)), 0
    for first in range(0, len(y), SIZE):
        rows = slice(first, first + SIZE)
        promise[rows] = made.promise(output[rows])
        due = slice(learned, max(learned, rows.stop - delay))
        made.learn(output[due], promise[due], y[due])
        learned = due.stop
    return became(made, output, promise, y)


def became(made: Conformal, output: F64, promise: F64, y: F64) -> F64:
    """Whether each promise held, and its width."""
    judge = numbers.promises if output.shape[1] == 1 else classes.promises
    return judge(made.said(output, promise), y)


def drifting_numbers() -> tuple[F64, F64]:
    """Errors in proportion to what is predicted, half as large again in five months."""
    rng = np.random.default_rng(1)
    n = PER_DAY * DAYS
    told = 30 * np.exp(0.5 * rng.standard_normal(n))
    size = 0.1 * 1.5 ** (np.arange(n) / n)
    return told[:, None], told * (1 + size * rng.standard_normal(n))


def drifting_classes() -> tuple[F64, F64]:
    """Probabilities that grow ever more certain than they should be."""
    rng = np.random.default_rng(2)
    n = PER_DAY * DAYS
    true = softmax(1.5 * rng.standard_normal((n, 4)))
    y = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).astype(float)
    return softmax(np.log(true) * (1 + np.arange(n) / n)[:, None]), y


def fixed_window(output: F64, days: int, y: F64) -> F64:
    """The quantile of the last 10,000 errors known ``(n,)``."""
    found, errors = np.full(len(y), np.nan), np.abs(output[:, 0] - y)
    for first in range(days * PER_DAY + 100, len(y), PER_DAY):
        known = errors[: first - days * PER_DAY][-10_000:]
        found[first : first + PER_DAY] = np.quantile(known, 0.9)
    return found


@pytest.mark.parametrize("days", [0, 1, 7])
@pytest.mark.parametrize(
    ("make", "stream"), [(intervals, drifting_numbers), (sets, drifting_classes)]
)
def test_coverage_holds_in_each_month_while_the_stream_drifts(
    make: Callable[[], Conformal], stream: Callable[[], tuple[F64, F64]], days: int
) -> None:
    """Within 1 point of 90 %, whenever labels come."""
    output, y = stream()
    found = play(make(), output, y, days * PER_DAY)
    months = np.nanmean(found[:, 0].reshape(-1, MONTH), axis=1)
    assert np.abs(months - 0.9).max() < 0.01


@pytest.mark.parametrize("days", [0, 1, 7])
def test_intervals_are_narrower_than_those_of_a_fixed_window(days: int) -> None:
    """Than quantiles of the last 10,000 errors, made so wide that they hold as often over all."""
    output, y = drifting_numbers()
    ours = play(intervals(), output, y, days * PER_DAY)
    fixed = fixed_window(output, days, y)
    both = ~np.isnan(ours[:, 1]) & ~np.isnan(fixed)
    held = np.quantile(np.abs(y - output[:, 0])[both] / fixed[both], ours[both, 0].mean())
    assert ours[both, 1].mean() < 0.96 * (2 * held * fixed[both]).mean()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.2, 1.0])
@pytest.mark.parametrize("unit", [1e-6, 1e9])
def test_intervals_are_as_wide_as_errors_are_large(
    power: float, spread: float, unit: float
) -> None:
    """Errors like a power of the prediction, in any unit: within 6 % of the best width there is."""
    rng = np.random.default_rng(9)
    told = np.exp(spread * rng.standard_normal(20_000))
    size = 0.1 * told**power
    y = told + size * rng.standard_normal(20_000)
    found = play(intervals(), unit * told[:, None], unit * y, 0)
    assert np.nanmean(found[:, 0]) == pytest.approx(0.9, abs=0.003)
    assert found[2_000:, 1].mean() < 1.06 * unit * 2 * 1.645 * size[2_000:].mean()


@pytest.mark.parametrize("make", [intervals, sets])
@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_the_level_is_what_is_asked(make: Callable[[float], Conformal], level: float) -> None:
    """Over 30,000 rows, for sets where the likeliest class alone is right less often."""
    output, y = drifting_numbers() if make is intervals else drifting_classes()
    held = np.nanmean(play(make(level), output, y, 0)[:, 0])
    right = 0.0 if make is intervals else (output.argmax(axis=1) == y).mean()
    assert held == pytest.approx(max(level, right), abs=0.015)


@pytest.mark.parametrize(
    "errors",
    [
        lambda rng, n: rng.standard_normal(n),
        lambda rng, n: rng.exponential(size=n) - 1,
        lambda rng, n: rng.standard_t(2, n),
    ],
)
def test_the_first_hundred_rows_are_covered(errors: Callable[..., F64]) -> None:
    """From the first promise, after 20 labels, to the 100th, whatever the errors' shape."""
    held = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        told = 20 + 5 * rng.standard_normal(100)
        made, y = intervals(), told + errors(rng, 100)
        promise = np.zeros((100, 2))
        for i in range(100):
            row = slice(i, i + 1)
            promise[row] = made.promise(told[row, None])
            made.learn(told[row, None], promise[row], y[row])
        found = became(made, told[:, None], promise, y)
        assert np.isnan(found[:20]).all()
        assert not np.isnan(found[20:]).any()
        held.append(found[20:, 0].mean())
    assert np.mean(held) == pytest.approx(0.9, abs=0.025)


def test_errors_that_are_ever_0_leave_intervals_that_open_again() -> None:
    """A long calm narrows them to almost nothing; 300 labels after it they hold again."""
    rng = np.random.default_rng(3)
    told = rng.standard_normal((20_000, 1))
    y = told[:, 0].copy()
    y[10_000:] += rng.standard_normal(10_000)
    made = intervals()
    found = play(made, told, y, 0)
    assert found[:10_000, 0][20:].all()
    assert found[9_000:10_000, 1].max() < 0.01
    assert found[10_300:11_300, 0].mean() > 0.87
    assert found[12_000:, 1].mean() == pytest.approx(2 * 1.645, rel=0.1)


def test_errors_that_are_mostly_0_are_ties_that_hold() -> None:
    """Where 95 % of truths are met exactly nine in ten need no width, and get little."""
    rng = np.random.default_rng(4)
    told = rng.standard_normal((10_000, 1))
    y = told[:, 0] + (rng.random(10_000) < 0.05) * 100 * rng.standard_normal(10_000)
    found = play(intervals(), told, y, 0)[20:]
    assert found[:, 0].mean() >= 0.9
    assert np.isfinite(found).all()
    assert np.median(found[5_000:, 1]) < 50


def test_a_mistyped_label_does_not_open_intervals_for_long() -> None:
    """One truth of 1e300 counts as 20 usual errors."""
    rng = np.random.default_rng(5)
    told = rng.standard_normal((3_000, 1))
    y = told[:, 0] + rng.standard_normal(3_000)
    y[1_500] = 1e300
    width = play(intervals(), told, y, 0)[:, 1]
    assert width[2_000:].mean() < 1.2 * width[1_000:1_500].mean()


def test_constant_predictions_have_intervals() -> None:
    """Without any spread there is one usual error for all."""
    rng = np.random.default_rng(6)
    found = play(intervals(), np.zeros((5_000, 1)), rng.standard_normal(5_000), 0)
    assert np.nanmean(found[:, 0]) == pytest.approx(0.9, abs=0.01)
    assert np.nanmean(found[:, 1]) == pytest.approx(2 * 1.645, rel=0.05)


def test_intervals_lie_within_the_bounds_of_the_target() -> None:
    """A basket is not worth less than nothing."""
    made = Intervals(Number(low=0.0, high=10.0), 0.9)
    promise = np.array([[3.0, 0.0], [math.nan, 0.0]])
    said = made.said(np.array([[1.0], [1.0]]), promise)
    assert said[0].tolist() == [0.0, 4.0]
    assert np.isnan(said[1]).all()


def test_a_set_has_the_likeliest_class_and_those_that_tie_with_the_last() -> None:
    """The first of equals is the likeliest; a probability equal to the least is in."""
    output = np.array([[0.4, 0.4, 0.1, 0.1], [0.4, 0.3, 0.3, 0.0], [0.25, 0.25, 0.25, 0.25]])
    promise = np.array([[0.5, 9], [0.3, 9], [math.nan, 0]])
    assert sets().said(output, promise).tolist() == [
        [True, False, False, False],
        [True, True, True, False],
        [False, False, False, False],
    ]


def test_a_class_that_nobody_named_yet_is_in_no_set_and_teaches_none() -> None:
    """Not even where a set has every class; no wider set could have held it."""
    sets = Sets(Classes([], most=3), 0.5)
    known, new = np.array([[0.999999999, 1e-9, 0.0]]), np.array([2.0])
    said = []
    for _ in range(500):
        promise = sets.promise(known)
        said.append(sets.said(known, promise)[0].tolist())
        sets.learn(known, promise, np.array([1.0]))
    assert [True, True, False] in said
    assert not any(of_new for *_, of_new in said)
    before = sets.digest()
    sets.learn(known, sets.promise(known), new)
    assert sets.digest() == before


def test_after_certain_classes_sets_are_not_slow_to_grow() -> None:
    """While the likeliest is always right nothing is saved up that must be spent first."""
    rng = np.random.default_rng(7)
    n = 6_000
    output = softmax(1.5 * rng.standard_normal((n, 4)))
    y = output.argmax(axis=1).astype(float)
    rest = (output[3_000:].cumsum(axis=1) < rng.random((3_000, 1))).sum(axis=1)
    y[3_000:] = rest
    found = play(sets(), output, y, 0)
    assert np.nanmean(found[:3_000, 0]) > 0.99
    assert found[3_200:, 0].mean() == pytest.approx(0.9, abs=0.015)


@settings(max_examples=20)
@given(st.integers(0, 60), st.integers(0, 60), st.booleans())
def test_split_of_the_batches_does_not_matter(cut: int, other: int, number: bool) -> None:
    """One call or many, with a save and a restore between, give the same bits."""
    rng = np.random.default_rng(8)
    output = rng.standard_normal((60, 1)) if number else softmax(rng.standard_normal((60, 4)))
    y = rng.standard_normal(60) if number else rng.integers(0, 4, 60).astype(float)
    make = intervals if number else sets
    whole, first, second = make(), make(), make()
    start = whole.promise(output)
    whole.learn(output, start, y)
    first.learn(output[:cut], start[:cut], y[:cut])
    second.restore(first.state())
    second.learn(output[cut:], start[cut:], y[cut:])
    assert second.digest() == whole.digest()
    parts = [second.promise(part) for part in np.split(output, [other])]
    assert np.concatenate(parts).tobytes() == whole.promise(output).tobytes()


def test_state_of_another_target_is_refused() -> None:
    """What is known of sets is not what is known of intervals."""
    with pytest.raises(StateError, match=r"conformal\.known: expected"):
        intervals().restore(sets().state())


def test_parameters_are_counted() -> None:
    """Every number of the state."""
    for made in (intervals(), sets()):
        (row,) = made.parameters()
        assert row.count == made.state()["known"].size


def test_each_target_has_its_promises() -> None:
    """Numbers intervals, classes sets; yes or no none."""
    assert isinstance(conformal(Number()), Intervals)
    assert isinstance(conformal(Classes(NAMES)), Sets)
    assert conformal(Binary()) is None
    with pytest.raises(ValueError, match=r"expected a level in \(0, 1\), got 90"):
        conformal(Number(coverage=90))
