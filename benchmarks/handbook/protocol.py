"""The Fraud Detection Handbook's test, rebuilt from its description: which rows count, and how.

``benchmarks/handbook`` calls it with payments and a score for each. It shares no code with
``monitoring/``, so that two independent programs have to agree. It trains nothing and never sees
how a score was made.

A week is tested as the handbook's fold does [1]_: seven days of training, seven of delay, seven of
test. On a test day ``d`` cards are left out that are known to be compromised: by a fraud in the
training week, or on any later day up to ``d - 8``. Area under the ROC curve and average precision
are taken over a week's remaining payments. Card precision at 100 is taken each day, over cards by
their highest score; a card that was caught is left out of the week's later days. Each figure is the
mean of its weeks.

.. [1] Le Borgne, Siblini, Lebichot and Bontempi, "Reproducible Machine Learning for Credit Card
   Fraud Detection: Practical Handbook", 2022, chapters 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

FIRST_DAY = date(2018, 4, 1)
WEEKS = {"validation": date(2018, 7, 4), "final": date(2018, 8, 8)}
"""First day of the four weeks on which settings are chosen, and of the four that are reported."""

ALERTS = 100
REPLICATES = 500


class Payments(NamedTuple):
    """The data's columns, in order of time; ``day`` counts from :data:`FIRST_DAY`."""

    id: I64
    time_s: I64
    day: I64
    customer: I64
    terminal: I64
    amount: F64
    fraud: I64


class Week(NamedTuple):
    """The payments that count in one test week: their places, and their days 0..6."""

    rows: I64
    day: I64


def read_payments(path: Path) -> Payments:
    """The data's Parquet file but for ``scenario``, which says why a payment is fraud."""
    table = pq.read_table(path)
    time_s = table["timestamp"].cast(pa.timestamp("s")).cast(pa.int64()).to_numpy()
    first = (FIRST_DAY - date(1970, 1, 1)).days
    return Payments(
        id=table["transaction_id"].cast(pa.int64()).to_numpy(),
        time_s=time_s,
        day=time_s // 86_400 - first,
        customer=table["customer_id"].cast(pa.int64()).to_numpy(),
        terminal=table["terminal_id"].cast(pa.int64()).to_numpy(),
        amount=table["amount"].cast(pa.float64()).to_numpy(),
        fraud=table["is_fraud"].cast(pa.int64()).to_numpy(),
    )


def read_scores(path: Path, payments: Payments) -> dict[str, F64]:
    """The scores that `millrace evaluate --scores-out` wrote, in the payments' order.

    Returns the ensemble's under ``"ensemble"``, a member's under its name. Raises ``ValueError``
    unless each payment has exactly one score.
    """
    table = pq.read_table(path)
    ids = table["id"].cast(pa.int64()).to_numpy()
    order = np.argsort(ids, kind="stable")
    wanted = np.argsort(payments.id, kind="stable")
    if not np.array_equal(ids[order], payments.id[wanted]):
        raise ValueError(f"{path}: expected one score for each of {len(payments.id)} payments")
    place = np.empty(len(order), np.int64)
    place[wanted] = order
    names = {"score": "ensemble"} | {
        c: c.removeprefix("score_") for c in table.column_names if c.startswith("score_")
    }
    return {name: table[c].to_numpy()[place] for c, name in names.items()}


def weeks_of(period: str) -> list[int]:
    """First days of the four test weeks of ``"validation"`` or ``"final"``."""
    first = (WEEKS[period] - FIRST_DAY).days
    return [first + 7 * week for week in range(4)]


def rows_of_week(payments: Payments, first: int) -> Week:
    """What counts in the test week that begins on day ``first``."""
    day, customer = payments.day, payments.customer
    rows = []
    for d in range(first, first + 7):
        known = customer[(payments.fraud > 0) & (day >= first - 14) & (day <= d - 8)]
        today = np.flatnonzero(day == d)
        rows.append(today[~np.isin(customer[today], known)])
    found = np.concatenate(rows)
    return Week(found, day[found] - first)


def ranked(y: F64, p: F64, w: F64) -> tuple[F64, F64]:
    """Area under the ROC curve and average precision, for several weightings at once.

    Payments of equal score count as one threshold, as in scikit-learn.

    Parameters
    ----------
    y, p : float64 ``(n,)``, truths 0 or 1 and scores
    w : float64 ``(r, n)``, weights >= 0 for ``r`` weightings

    Returns
    -------
    Two float64 arrays ``(r,)``; nan where a class has no weight.
    """
    order = np.argsort(-p, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    caught = np.cumsum(w[:, order] * y[order], axis=1)[:, ends]
    wrong = np.cumsum(w[:, order] * (1.0 - y[order]), axis=1)[:, ends]
    nothing = np.zeros((len(w), 1))
    step = np.diff(caught, axis=1, prepend=nothing)
    across = np.diff(wrong, axis=1, prepend=nothing)
    area = (across * (caught - step / 2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(caught + wrong > 0, caught / (caught + wrong), 0.0)
        auc = area / (caught[:, -1] * wrong[:, -1])
        return auc, (step * precision).sum(axis=1) / caught[:, -1]


def card_precision(day: I64, customer: I64, y: F64, p: F64, alerts: int = ALERTS) -> F64:
    """The share of compromised cards among the day's ``alerts`` highest, for each of seven days."""
    found = np.zeros(7)
    caught: set[int] = set()
    for d in range(7):
        rows = np.flatnonzero(day == d)
        rows = rows[~np.isin(customer[rows], list(caught))]
        cards, which = np.unique(customer[rows], return_inverse=True)
        top, bad = np.full(len(cards), -np.inf), np.zeros(len(cards))
        np.maximum.at(top, which, p[rows])
        np.maximum.at(bad, which, y[rows])
        first = np.argsort(-top, kind="stable")[:alerts]
        hit = first[bad[first] > 0]
        caught |= set(cards[hit].tolist())
        found[d] = len(hit) / alerts
    return found


def judge(
    payments: Payments, p: F64, firsts: list[int], replicates: int = REPLICATES
) -> dict[str, Any]:
    """AUC, AP and CP@100 of scores ``p``, each the mean of the weeks that begin on ``firsts``.

    The intervals are the 2.5 and 97.5 percentiles of a bootstrap over days: each replicate draws
    seven days of each week with replacement (seed 0). Cards caught stay those of the true order.
    """
    rng = np.random.default_rng(0)
    means: list[F64] = []
    by_week = []
    for first in firsts:
        week = rows_of_week(payments, first)
        y, score = payments.fraud[week.rows].astype(np.float64), p[week.rows]
        drawn = rng.multinomial(7, np.full(7, 1 / 7), replicates).astype(np.float64)
        counts = np.vstack([np.ones(7), drawn])
        parts = [ranked(y, score, c[:, week.day]) for c in np.array_split(counts, 25)]
        auc, ap = (np.concatenate(column) for column in zip(*parts, strict=True))
        daily = card_precision(week.day, payments.customer[week.rows], y, score)
        means.append(np.column_stack([auc, ap, counts @ daily / 7]))
        by_week.append([round(float(v), 4) for v in means[-1][0]])
    return _summary(np.mean(means, axis=0)) | {"weeks": by_week}


def _summary(table: F64) -> dict[str, Any]:
    """``table``: a row of figures, then one for each replicate."""
    found: dict[str, Any] = {}
    for name, column in zip(("auc", "ap", "cp100"), table.T, strict=True):
        found[name] = round(float(column[0]), 4)
        interval = np.nanquantile(column[1:], [0.025, 0.975])
        found[f"{name}_interval"] = [round(float(v), 4) for v in interval]
    return found


def cell(figures: Mapping[str, Any], name: str) -> str:
    """One figure with its interval, for a table."""
    low, high = figures[f"{name}_interval"]
    return f"{figures[name]:.3f} ({low:.3f}-{high:.3f})"
