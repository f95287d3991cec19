"""The judge of the handbook's protocol against a brute-force reading of its rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.handbook.__main__ import batch
from benchmarks.handbook.protocol import (
    Payments,
    card_precision,
    judge,
    ranked,
    read_payments,
    read_scores,
    rows_of_week,
    weeks_of,
)


@pytest.fixture
def payments() -> Payments:
    rng = np.random.default_rng(3)
    n = 6000
    time_s = np.sort(rng.integers(0, 30 * 86_400, n)) + 1_522_540_800
    return Payments(
        id=np.arange(n) + 10,
        time_s=time_s,
        day=(time_s - 1_522_540_800) // 86_400,
        customer=rng.integers(0, 150, n),
        terminal=rng.integers(0, 50, n),
        amount=rng.exponential(50, n),
        fraud=(rng.random(n) < 0.02).astype(np.int64),
    )


def test_test_weeks_are_those_of_the_handbook() -> None:
    """Four weeks from 4 July, the 94th day after 1 April, and four from 8 August, the 129th."""
    assert weeks_of("validation") == [94, 101, 108, 115]
    assert weeks_of("final") == [129, 136, 143, 150]


def test_cards_known_to_be_compromised_are_left_out(payments: Payments) -> None:
    """A card leaves a test day by a fraud in the training week or later, up to 8 days before."""
    first = 20
    expected = []
    for i in range(len(payments.id)):
        d = payments.day[i]
        if not first <= d < first + 7:
            continue
        frauds = payments.day[(payments.customer == payments.customer[i]) & (payments.fraud == 1)]
        if not any(first - 14 <= f <= d - 8 for f in frauds):
            expected.append(i)
    week = rows_of_week(payments, first)
    assert week.rows.tolist() == expected
    assert week.day.tolist() == (payments.day[expected] - first).tolist()


def test_areas_equal_those_of_scikit_learn() -> None:
    """Both areas are scikit-learn's, with ties and for every weighting."""
    rng = np.random.default_rng(5)
    y = (rng.random(500) < 0.1).astype(float)
    p = np.round(rng.random(500) * 0.5 + 0.3 * y, 2)
    w = rng.integers(0, 3, (4, 500)).astype(float)
    auc, ap = ranked(y, p, w)
    for i in range(4):
        assert auc[i] == pytest.approx(roc_auc_score(y, p, sample_weight=w[i]), abs=1e-12)
        assert ap[i] == pytest.approx(average_precision_score(y, p, sample_weight=w[i]), abs=1e-12)


def test_a_caught_card_is_not_caught_again() -> None:
    """Card 1 is caught on day 0, so day 1 catches card 2, which it would have missed otherwise."""
    day = np.array([0, 0, 1, 1, 1])
    customer = np.array([1, 3, 1, 2, 3])
    y = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    p = np.array([0.9, 0.1, 0.9, 0.5, 0.1])
    assert card_precision(day, customer, y, p, alerts=1).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_a_card_is_judged_by_its_highest_score_and_any_fraud() -> None:
    """A card whose genuine payment scores highest counts as caught if another one was fraud."""
    day, customer = np.zeros(3, np.int64), np.array([1, 1, 2])
    y, p = np.array([0.0, 1.0, 0.0]), np.array([0.9, 0.2, 0.5])
    assert card_precision(day, customer, y, p, alerts=1)[0] == 1.0


def test_intervals_hold_the_figure_and_repeat(payments: Payments) -> None:
    """The bootstrap is seeded, and the figure lies in its interval."""
    p = np.random.default_rng(1).random(len(payments.id)) + payments.fraud
    once = judge(payments, p, [16, 23], replicates=40)
    assert once == judge(payments, p, [16, 23], replicates=40)
    for name in ("auc", "ap", "cp100"):
        low, high = once[f"{name}_interval"]
        assert low <= once[name] <= high


def test_files_are_joined_by_id(payments: Payments, tmp_path) -> None:
    """Scores in any order come back in the payments' order; a missing one is an error."""
    columns = {
        "transaction_id": payments.id,
        "timestamp": pa.array(payments.time_s * 1000).cast(pa.timestamp("ms")),
        "customer_id": payments.customer,
        "terminal_id": payments.terminal,
        "amount": payments.amount,
        "is_fraud": payments.fraud,
    }
    pq.write_table(pa.table(columns), tmp_path / "data.parquet")
    read = read_payments(tmp_path / "data.parquet")
    assert all(np.array_equal(a, b) for a, b in zip(read, payments, strict=True))
    back = payments.id[::-1]
    scores = pa.table({"id": [str(i) for i in back], "score": back / 1e4, "score_a": back / 1e5})
    pq.write_table(scores, tmp_path / "scores.parquet")
    found = read_scores(tmp_path / "scores.parquet", read)
    assert np.array_equal(found["ensemble"], payments.id / 1e4)
    assert np.array_equal(found["a"], payments.id / 1e5)
    pq.write_table(scores.slice(1), tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match="one score for each of 6000 payments"):
        read_scores(tmp_path / "scores.parquet", read)


def test_batch_learners_are_judged_beside_the_stream(payments: Payments) -> None:
    """Where the largest amounts are frauds, either tells them from what it learned before."""
    frauds = (payments.amount > 180).astype(np.int64)
    found = batch(Path("examples/handbook.toml"), payments._replace(fraud=frauds), [20])
    assert len(found) == 2
    assert all(figures["auc"] > 0.9 for figures in found.values())
