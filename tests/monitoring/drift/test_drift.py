"""Detectors against River's and the formula, PSI and KS against brute force, state."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import F64, StateError
from models.task import SHARES
from monitoring.drift.betting import Betting
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


def brute_alarms(x: F64, evidence: float, margin: float) -> list[int]:
    """The rows at which bets prove a rise, by their definition, looking back at every value."""
    fired, usual, one, weight = [], 0.0, 0.0, 0.0
    stakes = dict.fromkeys((0.0125, 0.025, 0.05, 0.2), (0.0, 0.0, 0.0))
    long, pairs = 0.0, dict[int, list[float]]()
    away: list[float] | None = None
    for i, v in enumerate(x.tolist()):
        for size in (2**level for level in range(13)):
            if (i + 1) % (2 * size) == 0 and (i + 1) // (2 * size):
                part = x[i + 1 - 2 * size : i + 1]
                rise = max(0.0, math.fsum(part[size:]) - math.fsum(part[:size]))
                pairs.setdefault(size, []).append(rise * rise / size)
        if (i + 1) % 32 == 0:
            long = max((float(np.mean(p)) for p in pairs.values() if len(p) >= 8), default=0.0)
        if away is not None:
            away.append(v)
            if len(away) % 1000:
                continue
            now, before = np.mean(away[-1000:]), np.mean(away[-2000:-1000] or [math.inf])
            back = now <= usual + margin
            if back or abs(now - before) <= margin + 2 * math.sqrt(long / 1000):
                away, stakes = None, dict.fromkeys(stakes, (0.0, 0.0, 0.0))
                if not back:
                    return fired  # what a new level makes of it has a test of its own
            continue
        if i >= 2000 and long > 0:
            for rise, (stake, bet, above) in stakes.items():
                if stake <= 1:
                    stake, bet = 1.0, rise / long
                    above = usual + margin + math.sqrt(long / weight)
                    above += bet * max(0.0, long - one) / 2
                    bet = min(bet, 0.5 / above)
                stakes[rise] = stake * (1 + bet * (v - above)), bet, above
            if max(stake for stake, _, _ in stakes.values()) > evidence * len(stakes):
                fired.append(i)
                away = []
                continue
        weight = 0.9999 * weight + 1
        gap = v - usual
        usual += gap / weight
        one += (gap * (v - usual) - one) / weight
    return fired


@settings(max_examples=30)
@given(segments, st.sampled_from([2.0, 100.0]), st.sampled_from([0.0, 0.02]))
def test_bets_follow_their_definition(
    parts: list[tuple[int, float, float, int]], evidence: float, margin: float
) -> None:
    """Alarms come where a stake passes, and an alarm is over where the signal is back."""
    x = np.clip(np.concatenate([stream([(2500, 0.1, 0.1, 7)]), stream(parts) / 4]), 0, 1)
    found = [d.row for d in Betting(1, evidence, margin).update(x[:, None])]
    expected = brute_alarms(x, evidence, margin)
    assert found[: len(expected)] == expected


def test_a_change_is_told_once() -> None:
    """At the rise; not again while it lasts, nor once it is the new level; the next rise is."""
    rng = np.random.default_rng(8)
    levels = np.repeat([0.1, 0.3, 0.6], [5000, 8000, 4000])
    x = (rng.random(len(levels)) < levels).astype(np.float64)
    rows = [d.row for d in Betting(1).update(x[:, None])]
    assert len(rows) == 2
    assert 5000 <= rows[0] < 5500
    assert 13_000 <= rows[1] < 13_500


def test_a_rise_that_is_over_is_told_again_when_it_returns() -> None:
    """In between the signal has been back to what was usual."""
    rng = np.random.default_rng(8)
    levels = np.repeat([0.1, 0.5, 0.1, 0.5], [5000, 500, 4000, 500])
    x = (rng.random(len(levels)) < levels).astype(np.float64)
    rows = [d.row for d in Betting(1).update(x[:, None])]
    assert [5000 <= rows[0] < 5500, 9500 <= rows[1] < 10_000, len(rows)] == [True, True, 2]


STATIONARY = {
    "rare errors": lambda rng, n: rng.random(n) < 0.01,
    "a coin": lambda rng, n: rng.random(n) < 0.5,
    "certain and often wrong": lambda rng, n: rng.beta(0.05, 0.15, n),
    "losses with heavy tails": lambda rng, n: -np.expm1(-0.05 * rng.pareto(1.0, n)),
    "bursts of 50": lambda rng, n: (
        rng.random(n) < np.where(np.repeat(rng.random(n // 50) < 0.1, 50), 0.15, 0.05)
    ),
}
"""Errors that do not change, however they are spread."""


@pytest.mark.parametrize("kind", STATIONARY)
def test_what_does_not_change_raises_no_alarm(kind: str) -> None:
    """Six streams of 60,000 labels each: none of what varies by itself is taken for a change."""
    draws = [STATIONARY[kind](np.random.default_rng([s, 41]), 60_000) for s in range(6)]
    assert Betting(6).update(np.column_stack(draws).astype(np.float64)) == []


def test_an_error_that_falls_raises_no_alarm() -> None:
    """A model that learns is no drift, however sudden; the same change upwards is one."""
    rng = np.random.default_rng(2)
    bad, good = rng.uniform(0.5, 0.9, (3000, 1)), rng.uniform(0.0, 0.1, (3000, 1))
    assert DriftMonitor(["ensemble"]).update(np.vstack([bad, good])) == []
    found = DriftMonitor(["ensemble"]).update(np.vstack([good, bad]))
    assert [3000 <= a.row < 3100 for a in found] == [True]


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
    assert [a.detector for a in found] == ["betting"]


def test_signals_are_taken_over_by_name() -> None:
    """Who stays alarms as if nothing had changed; who joins warms up anew, and only it."""
    rng = np.random.default_rng(4)
    calm, wild = rng.uniform(0.0, 0.1, (3 * WARM_UP, 1)), rng.uniform(0.5, 0.9, (900, 1))
    at = np.arange(len(calm), dtype=np.int64)
    old, alone = (DriftMonitor(["ensemble", "a"], ["f"], window=50, reference=50) for _ in range(2))
    for monitor in (old, alone):
        monitor.update(np.hstack([calm, calm]), at, int(at[-1]))
        monitor.update(np.hstack([calm, calm]), at + len(at), 2 * int(at[-1]))
        monitor.observe(rng.uniform(size=60), np.ones((60, 1), np.float32))
    new = DriftMonitor(["x", "a", "ensemble"], ["f"], window=50, reference=50)
    new.restore(old.state())
    at = at[: len(wild)] + 2 * len(calm)
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
    whole, first, second = (DriftMonitor(["ensemble", "a"], (), 2.0, 0.0) for _ in range(3))
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
    calm = np.abs(rng.normal(0.1, 0.05, (3000, 2)))
    losses = np.vstack([calm, calm + np.array([0.0, 2.0])])
    monitor = DriftMonitor(["ensemble", "a"])
    alarms = monitor.update(losses)
    assert {(a.detector, a.signal) for a in alarms} == {("betting", "a")}
    for alarm in alarms:
        assert alarm.row >= 3000
        assert alarm.statistic > alarm.threshold
        assert alarm.detail() == {
            "statistic": alarm.statistic,
            "threshold": alarm.threshold,
            "row": alarm.row,
        }
    counts = {(r.detector, r.signal): r.alarms for r in monitor.readings()}
    assert counts["betting", "a"] == len(alarms) == 1


def test_losses_of_scores_never_made_are_skipped() -> None:
    """A column with gaps gives what the column without the gaps gives."""
    x = stream([(2500, 0.2, 0.1, 1), (500, 0.9, 0.1, 2)])
    gaps = np.full(6000, math.nan)
    gaps[::2] = x
    dense, sparse = Betting(1), Betting(1)
    rows = [2 * d.row for d in dense.update(x[:, None])]
    assert rows
    assert [d.row for d in sparse.update(gaps[:, None])] == rows
    for name, array in dense.arrays().items():
        assert np.array_equal(array, sparse.arrays()[name])


def test_every_reading_exists_before_the_first_value() -> None:
    """Each detector and signal is there from the start, without a statistic and without alarms."""
    rows = DriftMonitor(["ensemble", "a"]).readings()
    assert [(r.detector, r.signal) for r in rows] == [
        ("betting", "ensemble"),
        ("betting", "a"),
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
    with pytest.raises(StateError, match=r"drift\.bets_bets: expected"):
        monitor.restore(monitor.state() | {"bets_bets": np.zeros((2, 3), np.int64)})
    with pytest.raises(StateError, match=r"shift\.ring"):
        monitor.restore(DriftMonitor(["ensemble", "a"], window=5).state())
