"""Measures of learned arrays, compared with exact sums and with looking at every scalar."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from monitoring.audit.weights import SAMPLES, Weights, nonfinite, norm, update_norm

FLOATS = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays(dtype, st.integers(0, 40))
)


@given(FLOATS)
def test_nonfinite_counts_every_scalar_that_is_no_number(a: NDArray[Any]) -> None:
    """The screening by a sum changes nothing about the count, also where the sum overflows."""
    assert nonfinite(a) == sum(not math.isfinite(v) for v in a.tolist())


def test_integers_are_numbers() -> None:
    """Nothing is looked for where nothing can be found."""
    assert nonfinite(np.array([1, 2])) == 0


@given(FLOATS)
def test_norm_is_that_of_the_finite_scalars(a: NDArray[Any]) -> None:
    """Exact to a few bits over the whole range of float64, subnormal and near its end."""
    finite = [v for v in a.tolist() if math.isfinite(v)]
    assert norm(a) == pytest.approx(math.hypot(*finite), rel=1e-12, abs=1e-320)


@given(arrays(np.float64, 30, elements=st.floats(-1e6, 1e6)), st.floats(-10, 10))
def test_update_norm_is_absolute_and_relative(before: NDArray[Any], step: float) -> None:
    """The change's norm, and its share of the norm before, or of 1 where that is smaller."""
    after = before + step
    moved, relative = update_norm(
        {"a": before[:10], "b": before[10:]}, {"a": after[:10], "b": after[10:]}
    )
    expected = float(np.linalg.norm(after - before))
    assert moved == pytest.approx(expected, rel=1e-9)
    size = max(float(np.linalg.norm(before)), 1.0)
    assert relative == pytest.approx(expected / size, rel=1e-9)


def test_update_norm_of_what_is_no_number_is_infinite() -> None:
    """A NaN or an infinity anywhere cannot hide behind a budget."""
    good, bad = {"w": np.zeros(3)}, {"w": np.array([0.0, np.nan, 0.0])}
    assert update_norm(good, bad) == (math.inf, math.inf)
    assert update_norm(bad, good) == (math.inf, math.inf)


def test_update_norm_counts_new_and_grown_arrays_whole() -> None:
    """An array that has no counterpart moved by all of itself."""
    before = {"w": np.array([3.0, 4.0])}
    assert update_norm(before, {**before, "v": np.array([5.0])}) == (5.0, 1.0)
    assert update_norm(before, {"w": np.array([3.0, 4.0, 0.0])}) == (5.0, 1.0)


def test_measure_compares_with_the_measure_before() -> None:
    """Change since the last measure; what never changed since the first one is counted."""
    w, rng = np.zeros(50, np.float32), np.random.default_rng(1)
    weights = Weights()
    [first] = weights.measure({"w": w})
    assert (first.delta_norm, first.untrained, first.norm) == (None, 50, 0.0)
    touched: set[int] = set()
    for _ in range(5):
        before = w.copy()
        at = rng.integers(0, 30, 8)
        w[at] += 1.0
        touched |= set(at.tolist())
        [row] = weights.measure({"w": w})
        assert row.delta_norm == pytest.approx(float(np.linalg.norm(w - before)))
        assert row.untrained == 50 - len(touched)
    w[0] = np.nan
    assert weights.measure({"w": w})[0].nonfinite == 1


def test_the_digest_is_of_the_content() -> None:
    """Equal arrays have equal digests; one other bit, dtype or name has another."""

    def digest(path: str, a: NDArray[Any]) -> str:
        return Weights().measure({path: a})[0].digest

    w = np.arange(6.0)
    other = np.nextafter(w, np.inf)
    digests = {digest("w", w), digest("v", w), digest("w", other), digest("w", w.reshape(2, 3))}
    assert len(digests) == 4
    assert digest("w", w) == digest("w", w.copy())


def test_a_large_array_is_sampled() -> None:
    """Memory stays bounded: every n-th scalar, n odd so that pairs are not seen by one half."""
    n = 3 * SAMPLES
    w = np.zeros((n // 2, 2))
    weights = Weights()
    weights.measure({"w": w})
    w += 1.0
    [row] = weights.measure({"w": w})
    assert row.stride == 3
    assert row.delta_norm == pytest.approx(math.sqrt(n), rel=1e-6)
    assert row.untrained == 0
    assert sum(a.nbytes for a in weights.state()["held"].values()) <= 8 * SAMPLES


@given(st.integers(1, 70), st.integers(0, 100))
def test_restored_weights_go_on_the_same(n: int, seed: int) -> None:
    """State and restore lose nothing: the next rows are equal."""
    rng = np.random.default_rng(seed)
    first, second = Weights(), Weights()
    w = rng.normal(size=n)
    first.measure({"w": w})
    w[rng.random(n) < 0.5] += 1
    first.measure({"w": w})
    second.restore(first.state())
    w[rng.random(n) < 0.5] += 1
    assert first.measure({"w": w}) == second.measure({"w": w})


def test_an_array_that_is_gone_is_forgotten() -> None:
    """A member that drops an array does not keep its copy here."""
    weights = Weights()
    weights.measure({"w": np.ones(2), "v": np.ones(2)})
    weights.measure({"w": np.ones(2)})
    assert list(weights.state()["held"]) == ["w"]
