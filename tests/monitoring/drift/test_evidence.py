"""Bets on blocks of differences of losses: a plain reading of the formula, and what it decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base import F64
from monitoring.drift.evidence import CHECKED, LEAST, Blocks, change, correlation, evidence

HOUR_MS = 3_600_000


def plain_evidence(blocks: F64) -> float:
    """The sum over restarts by its definition, each with arrays of its own."""
    total = 0.0
    first = next((i for i in range(3, len(blocks)) if blocks[:i].any()), len(blocks))
    if first > 3:
        return evidence(blocks.tolist())  # blocks of 0: nothing to compare with
    for r, start in enumerate(range(first, len(blocks), 20)):
        at = np.arange(start, len(blocks))
        c = np.array([2 * np.sqrt(np.mean(blocks[:i] ** 2)) for i in at])
        u = np.minimum(blocks[at] / c, 1.0)
        stakes = [np.prod(np.maximum(1 + bet * u, 0.0)) for bet in (0.9, 0.3, 0.1)]
        total += float(np.mean(stakes)) / ((r + 1) * (r + 2))
    return total


@given(st.lists(st.integers(-300, 300), max_size=70), st.integers(-100, 100))
def test_evidence_follows_its_formula(blocks: list[int], shift: int) -> None:
    """Compared with the products of the definition."""
    x = (np.array(blocks) + shift) / 100
    assert evidence(x.tolist()) == pytest.approx(plain_evidence(x), rel=1e-9)


@given(st.lists(st.integers(-300, 300), max_size=40), st.integers(-100, 100))
def test_a_change_follows_its_formula(blocks: list[int], shift: int) -> None:
    """Compared with one product for each block at which a stake was put in."""
    x = (np.array(blocks) + shift) / 100
    total = 0.0
    for start in range(3, len(x)):
        at = [i for i in range(start, len(x)) if x[:i].any()]
        c = np.array([2 * np.sqrt(np.mean(x[:i] ** 2)) for i in at])
        u = np.minimum(x[at] / c, 1.0)
        if at and at[0] == start:
            total += np.mean([np.prod(np.maximum(1 + bet * u, 0)) for bet in (0.9, 0.3, 0.1)])
    assert change(x.tolist()) == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_what_has_not_changed_is_hardly_ever_told() -> None:
    """Of 200 runs of 90 blocks, looked at after each, fewer than one in eleven come to 1,000."""
    told = [
        any(change(row[:i]) >= 1_000 for i in range(LEAST, len(row) + 1))
        for row in draws(200, 90, 0.0).tolist()
    ]
    assert sum(told) <= 200 * 90 / 1_000


def test_a_change_is_found_whatever_came_before() -> None:
    """A week of blocks far below 0, and then above it by as much: found within three weeks."""
    before = draws(1, 20, 0.0)[0].tolist()
    blocks = [*before, *[-50.0] * 7, *[50.0] * 21]
    assert change(blocks[:27]) < 20
    assert change(blocks) >= 1_000
    assert evidence(blocks) < 20


def draws(n: int, blocks: int, mean: float) -> F64:
    """Blocks ``(n, blocks)`` of losses with heavy tails, in units of their spread."""
    x = np.random.default_rng(17).standard_t(4, (n, blocks))
    return x / np.sqrt(2) + mean


def test_equal_skill_is_hardly_ever_taken_for_better() -> None:
    """Looked at after every block of 90, in 300 runs: less often than alpha."""
    wins = [
        any(evidence(row[:i]) >= 1 / 0.05 for i in range(LEAST, len(row) + 1))
        for row in draws(300, 90, 0.0).tolist()
    ]
    assert sum(wins) <= 0.05 * 300


def test_a_better_one_is_found() -> None:
    """By six tenths of what blocks vary: within 60 blocks in nine of ten runs."""
    wins = [
        any(evidence(row[:i]) >= 1 / 0.05 for i in range(LEAST, len(row) + 1))
        for row in draws(100, 60, 0.6).tolist()
    ]
    assert sum(wins) >= 90


def test_what_became_best_is_found_behind_what_was_worst() -> None:
    """Restarts forget the blocks in which it lost."""
    row = np.concatenate([np.full(40, -1.0), np.full(40, 1.0)])
    row += np.random.default_rng(1).normal(size=80)
    assert evidence(row.tolist()) > 20


def filled(blocks: Blocks, rows: list[tuple[float, int, int]]) -> list[int]:
    """The rows with which a block was over."""
    return [i for i, row in enumerate(rows) if blocks.add(*row)]


def test_a_block_has_its_time_its_rows_and_both_truths() -> None:
    """It ends with the row by which all three hold."""
    hourly = [(1.0, i * HOUR_MS // 10, int(i % 20 == 0)) for i in range(200)]
    assert filled(Blocks(HOUR_MS, 1, 0), hourly)[:2] == [10, 21]
    assert filled(Blocks(HOUR_MS, 50, 0), hourly)[:2] == [49, 99]
    assert filled(Blocks(HOUR_MS, 1, 2), hourly)[:1] == [80]
    sums = Blocks(HOUR_MS, 50, 0)
    filled(sums, hourly)
    assert sums.sums == [50.0] * 4


def test_blocks_that_depend_on_each_other_are_put_together() -> None:
    """In pairs, and those that follow are twice as long; independent ones stay as they are."""
    rng = np.random.default_rng(2)
    slow = np.repeat(rng.normal(size=CHECKED), 4)
    blocks = Blocks(1, 1, 0)
    filled(blocks, [(value, i * 10, 0) for i, value in enumerate(np.repeat(slow, 2))])
    assert blocks.doubled > 0
    assert blocks.length_ms == 2**blocks.doubled
    calm = Blocks(1, 1, 0)
    filled(calm, [(value, i * 10, 0) for i, value in enumerate(rng.normal(size=80))])
    assert calm.doubled == 0


def test_a_trend_is_no_dependence() -> None:
    """A model that learns is better in each block than in the one before."""
    rng = np.random.default_rng(3)
    assert correlation((np.arange(40) + rng.normal(size=40)).tolist()) < 0.3
    assert correlation([1.0, 1.0]) == 0.0


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 10**6), st.integers(0, 1)), max_size=99))
def test_a_restart_between_two_rows_does_not_show(rows: list[tuple[float, int, int]]) -> None:
    """The state says all that is known of the open block, too."""
    whole, parted = Blocks(10_000, 3, 0), Blocks(10_000, 3, 0)
    for row in rows:
        again = Blocks(5, 3, 0)
        again.restore(parted.state())
        assert whole.add(*row) == again.add(*row)
        parted = again
    np.testing.assert_equal(whole.state(), parted.state())
