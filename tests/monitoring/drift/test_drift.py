"""Detectors against River's and the formula, PSI and KS against brute force, state."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift as river_drift

from models.base import F64, StateError
from models.task import SHARES
from monitoring.drift.detectors import Adwin, PageHinkley
from monitoring.drift.monitor import MAX_FEATURES, WARM_UP, DriftMonitor
from monitoring.drift.shift import Shift

segments = st.lists(
    st.tuples(st.integers(1, 700), st.floats(0, 4), st.floats(0, 1), st.integers(0, 2**32 - 1)),
    min_size=1,
    max_size=4,
)


def stream(parts: list[tuple[int, float, float, int]]) -> F64:
    """Segments of (length, mean, spread, seed), one after the other."""
    return np.concatenate(
        [np.abs(np.random.default_rng(s).normal(m, d, n)) for n, m, d, s in parts]
    )


def detections(detector: Any, x: F64) -> list[int]:
    """The rows at which a River detector fires."""
    rows = []
    for i, value in enumerate(x.tolist()):
        detector.update(value)
        if detector.drift_detected:
            rows.append(i)
    return rows


@settings(max_examples=60)
@given(segments, st.sampled_from([0.002, 0.05, 0.3]))
def test_adwin_equals_river(parts: list[tuple[int, float, float, int]], delta: float) -> None:
    """Detections come at River's rows, and the window holds River's width, total and variance."""
    x = stream(parts)
    theirs, ours = river_drift.ADWIN(delta=delta), Adwin(1, delta)
    assert [d.row for d in ours.update(x[:, None])] == detections(theirs, x)
    width, total, variance = ours.arrays()["numbers"][0, :3]
    assert (width, total, variance) == (theirs.width, theirs.total, theirs.variance)


@settings(max_examples=60)
@given(segments, st.sampled_from([1.0, 10.0, 50.0]))
def test_page_hinkley_follows_its_formula(
    parts: list[tuple[int, float, float, int]], threshold: float
) -> None:
    """Detections come where the faded sum over the faded mean, from its definition, passes."""
    x = stream(parts)
    fade, expected, start, total = 0.9999, [], 0, 0.0
    for i, value in enumerate(x.tolist()):
        weights = fade ** np.arange(i - start, -1, -1)
        mean = float((weights * x[start : i + 1]).sum() / weights.sum())
        total = max(0.0, fade * total + value - mean - 0.0125)
        if i - start >= 29 and total > threshold:
            expected.append(i)
            start, total = i + 1, 0.0
    found = PageHinkley(1, threshold).update(x[:, None])
    assert [d.row for d in found] == expected


def test_an_error_that_falls_raises_no_alarm() -> None:
    """A model that learns is no drift, however sudden; the same change upwards is one."""
    rng = np.random.default_rng(2)
    bad, good = rng.uniform(0.5, 0.9, (3000, 1)), rng.uniform(0.0, 0.1, (3000, 1))
    assert DriftMonitor(["ensemble"]).update(np.vstack([bad, good])) == []
    found = DriftMonitor(["ensemble"]).update(np.vstack([good, bad]))
    assert [a.detector for a in found] == ["adwin", "page_hinkley"]
    assert all(3000 <= a.row < 3300 for a in found)


def test_scores_of_a_model_that_has_not_warmed_up_raise_no_alarm() -> None:
    """However late their labels come, and across a restart; what is scored later does."""
    rng = np.random.default_rng(4)
    low, high = rng.uniform(0.0, 0.1, (2 * WARM_UP, 1)), rng.uniform(0.5, 0.9, (2 * WARM_UP, 1))
    at = np.arange(len(low), dtype=np.int64)
    monitor = DriftMonitor(["ensemble"])
    # The labels of all these come only now: what was scored since the first labels is not known.
    late = monitor.update(low, at, int(at[-1])) + monitor.update(high, at, int(at[-1]))
    assert late == []
    again = DriftMonitor(["ensemble"])
    again.restore(monitor.state())
    at += len(at)
    again.update(low, at, int(at[-1]))
    found = again.update(high, at + len(at), 2 * int(at[-1]))
    assert {a.detector for a in found} == {"adwin", "page_hinkley"}


def test_signals_are_taken_over_by_name() -> None:
    """Who stays alarms as if nothing had changed; who joins warms up anew, and only it."""
    rng = np.random.default_rng(4)
    calm, wild = rng.uniform(0.0, 0.1, (3 * WARM_UP, 1)), rng.uniform(0.5, 0.9, (900, 1))
    at = np.arange(len(calm), dtype=np.int64)
    old, alone = (DriftMonitor(["ensemble", "a"], ["f"], window=50, reference=50) for _ in range(2))
    for monitor in (old, alone):
        monitor.update(np.hstack([calm, calm]), at, int(at[-1]))
        monitor.observe(rng.uniform(size=60), np.ones((60, 1), np.float32))
    new = DriftMonitor(["x", "a", "ensemble"], ["f"], window=50, reference=50)
    new.restore(old.state())
    at = at[: len(wild)] + len(calm)
    found = new.update(np.hstack([wild, wild, wild]), at, int(at[-1]))
    expected = alone.update(np.hstack([wild, wild]), at, int(at[-1]))
    assert sorted(found) == sorted(expected)
    assert {a.signal for a in found} == {"ensemble", "a"}
    assert new.feature_shifts().keys() == {"f"}
    ours = {(r.detector, r.signal): str(r) for r in new.readings() if r.signal == "a"}
    assert ours == {(r.detector, r.signal): str(r) for r in alone.readings() if r.signal == "a"}


def test_without_columns_in_the_state_the_features_start_new() -> None:
    """The scores' reference and the detectors go on; other features have one of their own."""
    old, new = (DriftMonitor(["ensemble"], f, reference=5, window=5) for f in (["a"], ["b", "c"]))
    old.observe(np.linspace(0, 1, 10), np.ones((10, 1), np.float32))
    state = old.state()
    del state["columns"], state["features"]
    new.restore(state)
    assert str(new.readings()) == str(old.readings())
    assert new.readings()[-1].statistic > 0
    assert all(math.isnan(psi) for psi, _ in new.feature_shifts().values())


def test_one_very_wrong_score_is_no_drift() -> None:
    """A loss of 34 nats, a probability of 1e-15 for what happened, weighs as one wrong score."""
    losses = np.random.default_rng(3).uniform(0.0, 0.1, (5000, 1))
    losses[1000::1000] = 34.0
    assert DriftMonitor(["ensemble"]).update(losses) == []


@settings(max_examples=30)
@given(segments, st.data())
def test_split_of_the_batches_does_not_matter(
    parts: list[tuple[int, float, float, int]], data: st.DataObject
) -> None:
    """One call or two with a save and a restore between give the same alarms and the same state."""
    x = stream(parts)
    losses = np.column_stack([x, x[::-1]])
    cut = data.draw(st.integers(0, len(x)))
    whole, first, second = (DriftMonitor(["ensemble", "a"], (), 0.05, 10.0) for _ in range(3))
    alarms = whole.update(losses)
    early = first.update(losses[:cut])
    second.restore(first.state())
    late = [a._replace(row=a.row + cut) for a in second.update(losses[cut:])]
    assert sorted(early + late) == sorted(alarms)
    assert second.digest() == whole.digest()
    assert str(second.readings()) == str(whole.readings())


def test_alarm_carries_the_statistic_that_passed_its_threshold() -> None:
    """Each alarm names detector, signal and row, and its statistic is above its threshold."""
    rng = np.random.default_rng(1)
    calm = np.abs(rng.normal(0.1, 0.05, (2000, 2)))
    losses = np.vstack([calm, calm + np.array([0.0, 2.0])])
    monitor = DriftMonitor(["ensemble", "a"])
    alarms = monitor.update(losses)
    assert {(a.detector, a.signal) for a in alarms} == {("adwin", "a"), ("page_hinkley", "a")}
    for alarm in alarms:
        assert alarm.row >= 2000
        assert alarm.statistic > alarm.threshold
        assert alarm.detail() == {
            "statistic": alarm.statistic,
            "threshold": alarm.threshold,
            "row": alarm.row,
        }
    counts = {(r.detector, r.signal): r.alarms for r in monitor.readings()}
    assert counts["adwin", "a"] == sum(a.detector == "adwin" for a in alarms)


def test_losses_of_scores_never_made_are_skipped() -> None:
    """A column with gaps gives what the column without the gaps gives."""
    x = stream([(500, 0.2, 0.1, 1), (500, 2.0, 0.5, 2)])
    gaps = np.full(2000, math.nan)
    gaps[::2] = x
    for make in (lambda: Adwin(1), lambda: PageHinkley(1)):
        dense, sparse = make(), make()
        rows = [2 * d.row for d in dense.update(x[:, None])]
        assert rows
        assert [d.row for d in sparse.update(gaps[:, None])] == rows
        assert np.array_equal(dense.arrays()["numbers"], sparse.arrays()["numbers"])


def test_every_reading_exists_before_the_first_value() -> None:
    """Each detector and signal is there from the start, without a statistic and without alarms."""
    rows = DriftMonitor(["ensemble", "a"]).readings()
    assert [(r.detector, r.signal) for r in rows] == [
        ("adwin", "ensemble"),
        ("adwin", "a"),
        ("page_hinkley", "ensemble"),
        ("page_hinkley", "a"),
        ("psi", "ensemble"),
        ("ks", "ensemble"),
    ]
    assert all(math.isnan(r.statistic) and r.alarms == 0 for r in rows)


def brute_shift(values: F64, bounds: list[float], reference: int, window: int) -> list[float]:
    """PSI and KS over the bins by their definitions, from the whole history of one column."""
    edges = [-math.inf, *bounds, math.inf]
    before, now = values[:reference], values[reference:][-window:]

    def share(part: F64) -> list[float]:
        counts = [sum(lo < v <= hi for v in part) + 0.5 for lo, hi in itertools.pairwise(edges)]
        return [c / sum(counts) for c in counts]

    pairs = list(zip(share(before), share(now), strict=True))
    psi = sum((q - p) * math.log(q / p) for p, q in pairs)
    return [psi, max(abs(float(np.mean(before <= b) - np.mean(now <= b))) for b in bounds)]


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0])), max_size=60),
    st.integers(1, 12),
    st.integers(1, 12),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
)
def test_shift_equals_brute_force(
    rows: list[tuple[float, float]], reference: int, window: int, cuts: list[int], deciles: bool
) -> None:
    """PSI and KS compare the first rows with the last ones by given bounds or the deciles."""
    x = np.array(rows, np.float32).reshape(-1, 2)
    parts = np.split(x, sorted(min(c, len(x)) for c in cuts))
    bounds = None if deciles else SHARES
    shift, again = (Shift(2, bounds, reference, window) for _ in range(2))
    for part in parts:
        shift.observe(part)
        again.restore(again.state())
        again.observe(part)
    figures = list(zip(shift.psi(), shift.ks(), strict=True))
    assert str(figures) == str(list(zip(again.psi(), again.ks(), strict=True)))
    if len(x) < reference + window:
        assert all(math.isnan(f) for pair in figures for f in pair)
        return
    for j in range(2):
        ordered = np.sort(x[:reference, j])
        ranks = [math.ceil(reference * i / 10) - 1 for i in range(1, 10)]
        edges = [float(ordered[i]) for i in ranks] if deciles else list(SHARES)
        assert figures[j] == pytest.approx(
            brute_shift(x[:, j].astype(float), edges, reference, window)
        )


def test_features_are_compared_with_their_reference() -> None:
    """The first dense columns are watched by name: one that moved shows, the other is calm."""
    rng = np.random.default_rng(6)
    monitor = DriftMonitor(["ensemble"], ["amount", "online"], reference=1000, window=1000)
    for moved in (0.0, 5.0):
        dense = rng.normal(0, 1, (1000, 3)).astype(np.float32)
        dense[:, 0] += moved
        monitor.observe(rng.uniform(0, 1, 1000), dense)
    (amount_psi, amount_ks), (online_psi, online_ks) = monitor.feature_shifts().values()
    assert amount_psi > 1
    assert amount_ks > 0.8
    assert online_psi < 0.1
    assert online_ks < 0.1
    again = DriftMonitor(["ensemble"], ["amount", "online"], reference=1000, window=1000)
    again.restore(monitor.state())
    assert again.digest() == monitor.digest()
    with pytest.raises(ValueError, match="at most 50 features, got 51"):
        DriftMonitor(["ensemble"], [f"f{i}" for i in range(MAX_FEATURES + 1)])


def test_shifted_scores_are_shown_and_raise_no_alarm() -> None:
    """PSI and KS pass their conventions when scores move, and are low again when they return."""
    rng = np.random.default_rng(4)
    monitor = DriftMonitor(["ensemble"], reference=2000, window=2000)
    for low, high in ((0.0, 0.3), (0.5, 1.0), (0.0, 0.3)):
        monitor.observe(rng.uniform(low, high, 4000))
        moved = low > 0
        for reading in monitor.readings()[-2:]:
            assert (reading.statistic > reading.threshold) == moved
            assert reading.alarms == 0
    again = DriftMonitor(["ensemble"], reference=2000, window=2000)
    again.restore(monitor.state())
    assert again.digest() == monitor.digest()
    assert again.readings()[-2:] == monitor.readings()[-2:]


def test_wrong_shapes_and_states_are_refused() -> None:
    """Losses for another number of scorers and states of other columns or sizes raise."""
    monitor = DriftMonitor(["ensemble", "a"])
    with pytest.raises(ValueError, match=r"expected losses \(n, 2\), got \(3, 1\)"):
        monitor.update(np.zeros((3, 1)))
    with pytest.raises(StateError, match=r"drift\.features: expected"):
        monitor.restore(DriftMonitor(["ensemble", "a"], ["amount"]).state())
    with pytest.raises(StateError, match=r"drift\.adwin_counts: expected"):
        monitor.restore(monitor.state() | {"adwin_counts": np.zeros((2, 3), np.int64)})
    with pytest.raises(StateError, match=r"shift\.ring"):
        monitor.restore(DriftMonitor(["ensemble", "a"], window=5).state())
