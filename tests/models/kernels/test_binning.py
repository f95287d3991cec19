"""Growing bins: what they promise about edges, ids, sizes and tails."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.base import F32, F64
from models.kernels.binning import (
    CHECK,
    FLOOR,
    MASS,
    YOUNG,
    Bins,
    locate,
    make_bins,
    observe,
    position,
)


def fed(values: F64, capacity: int = 64) -> Bins:
    """The bins of one column after these values."""
    bins = make_bins(1, capacity)
    for v in values:
        observe(0, float(v), position(0, float(v), bins.edge), bins)
    return bins


def positions(values: F64, bins: Bins) -> list[int]:
    """Where each value falls."""
    return [position(0, float(v), bins.edge) for v in values]


@given(
    hnp.arrays(np.float32, st.integers(0, 400), elements=st.floats(width=32, allow_nan=False)),
    st.sampled_from([4, 8, 64]),
)
@settings(max_examples=60)
def test_edges_ascend_ids_are_unique_and_rows_are_counted(values: F32, capacity: int) -> None:
    """Whatever finite or infinite numbers come, the bins stay a partition of the line."""
    values = values[np.isfinite(values)]
    bins = fed(np.concatenate([values] * 4).astype(np.float64), capacity)
    n = int(bins.used[0])
    assert 1 <= n <= capacity
    assert (np.diff(bins.edge[0, :n]) > 0).all()
    assert np.isinf(bins.edge[0, n - 1 :]).all()
    assert sorted(bins.order[0, :n]) == list(range(n))
    assert bins.known[0, :n, MASS].sum() == 4 * len(values)


def test_a_position_is_what_a_sorted_search_finds() -> None:
    """A value on an edge belongs to the bin below it, as numpy's left search says."""
    bins = fed(np.random.default_rng(0).normal(size=3000))
    n = int(bins.used[0])
    probes = np.concatenate([bins.edge[0, : n - 1], [-1e30, 0, 1e30]])
    assert positions(probes, bins) == np.searchsorted(bins.edge[0, : n - 1], probes).tolist()


def test_a_split_keeps_the_old_id_on_the_left() -> None:
    """What was learned of an id stays true for the smaller half of its values."""
    bins = make_bins(1, 8)
    splits = [observe(0, v, position(0, v, bins.edge), bins) for v in [1.0] * FLOOR + [3.0] * FLOOR]
    split = next(p for p in splits if p >= 0)
    assert (split, bins.used[0]) == (0, 2)
    assert bins.order[0, :2].tolist() == [0, 1]
    at, ids = np.zeros((2, 1), np.int64)
    locate(np.array([[1.0]], np.float32), 0, bins.edge, bins.order, at, ids)
    assert ids[0] == 0


def test_discrete_values_end_in_bins_of_their_own() -> None:
    """A column of six values gets six bins, and not one more however long the stream is."""
    values = np.random.default_rng(1).choice([0, 1, 2, 5, 7, 1e6], 20_000)
    bins = fed(values)
    assert bins.used[0] == 6
    assert sorted(positions(np.array([0, 1, 2, 5, 7, 1e6]), bins)) == list(range(6))


def test_no_bin_of_a_long_stream_holds_much_more_than_its_limit() -> None:
    """On a heavy-tailed stream every bin's true share is near 4/64, and tails hold few rows."""
    values = np.random.default_rng(2).lognormal(0, 2, 100_000)
    bins = fed(values)
    shares = np.bincount(positions(values, bins), minlength=64) / len(values)
    assert shares.max() < 1.5 * 4 / 64
    top = shares[: int(bins.used[0])][-6:].sum()
    assert top < 0.02


def test_a_column_that_was_constant_grows_bins_when_it_moves() -> None:
    """A feature that is switched on late is resolved as finely as one that always moved."""
    rng = np.random.default_rng(3)
    bins = fed(np.concatenate([np.full(5000, 0.5), rng.normal(0, 1, 20_000)]))
    assert bins.used[0] > 16
    moved = rng.normal(0, 1, 5000)
    assert np.bincount(positions(moved, bins)).max() < 0.2 * len(moved)


def test_a_huge_outlier_does_not_spoil_the_body() -> None:
    """One value of 1e30 in a thousand costs a bin or two, not the resolution of the rest."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=20_000)
    values[::1000] = 1e30
    bins = fed(values)
    body = values[values < 1e29]
    assert np.bincount(positions(body, bins)).max() < 0.12 * len(body)


def test_a_low_floor_resolves_a_young_column() -> None:
    """The first bin splits at its third row instead of past its 32nd; 100 rows make 12 bins."""
    rows = np.random.default_rng(0).uniform(size=100)
    splits = {}
    for floor in (YOUNG, FLOOR):
        bins = make_bins(1, 64, floor)
        splits[floor] = [
            i for i, x in enumerate(rows, 1) if observe(0, x, position(0, x, bins.edge), bins) >= 0
        ]
    assert splits[YOUNG][0] == YOUNG + 1
    assert splits[FLOOR][0] > FLOOR
    assert len(splits[YOUNG]) >= 11


def test_a_low_floor_rises_with_the_rows() -> None:
    """A bin that is born waits for a 16th of the column's rows, for 32 from the 512th on."""
    bins = make_bins(1, 64, YOUNG)
    for n, x in enumerate(np.random.default_rng(0).uniform(size=5000), 1):
        p = observe(0, x, position(0, x, bins.edge), bins)
        if p >= 0:
            halves = bins.order[0, p : p + 2]
            assert (bins.known[0, halves, CHECK] == min(max(n / 16, YOUNG), FLOOR)).all()
