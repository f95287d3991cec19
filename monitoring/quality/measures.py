"""Measures of a binary scorer over whole arrays, exact: what every window is compared with.

``quality.py`` calls these for its sliding window, ``millrace evaluate`` for a finished run. Nothing
here keeps state or reads a clock. An undefined value (recall without positives) is ``nan``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.base import BOOL, F64
from monitoring.quality.sums import CALIBRATION_BINS, EPSILON

METRICS = (
    "accuracy",
    "precision",
    "recall",
    "f1",
    "roc_auc",
    "pr_auc",
    "log_loss",
    "brier",
    "calibration_error",
)
"""The quality metrics, in the order in which they are shown."""
UNDECIDED = METRICS[4:]
"""Those that no threshold has a part in."""


def summarise(p: F64, y: F64, threshold: float) -> dict[str, float]:
    """All of :data:`METRICS` and the effective samples, with ``p >= threshold`` as the alert.

    Parameters
    ----------
    p : float64 array ``(n,)``
        Probabilities, in ``[0, 1]``.
    y : float64 array ``(n,)``
        Truth, 0 or 1.

    >>> summarise(np.array([0.9, 0.2]), np.array([1.0, 0.0]), 0.5)["accuracy"]
    1.0
    """
    return measure(p, y, p >= threshold)


def measure(p: F64, y: F64, alert: BOOL) -> dict[str, float]:
    """Like :func:`summarise`, with the alerts as they were decided."""
    truth = y > 0.5
    positives, negatives = float(truth.sum()), float((~truth).sum())
    tp, fp = float((truth & alert).sum()), float((~truth & alert).sum())
    roc_auc, pr_auc = areas(*_masses(p, truth))
    n = len(p)
    return summary(
        cells=(tp, fp, positives - tp, negatives - fp),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        log_loss=float(log_losses(p, y).mean()) if n else math.nan,
        brier=float(np.square(p - y).mean()) if n else math.nan,
        calibration_error=calibration_error(p, y),
        effective=(negatives, positives),
    )


def summary(
    *,
    cells: tuple[float, float, float, float],
    roc_auc: float,
    pr_auc: float,
    log_loss: float,
    brier: float,
    calibration_error: float,
    effective: tuple[float, float],
) -> dict[str, float]:
    """One row of a report from its parts; ``cells`` are tp, fp, fn, tn on any common scale.

    ``effective`` are the samples of class 0 and of class 1 that still count.
    """
    tp, fp, fn, tn = cells
    return {
        "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "roc_auc": roc_auc,
        "pr_auc": pr_auc,
        "log_loss": log_loss,
        "brier": brier,
        "calibration_error": calibration_error,
        "effective_samples": effective[0] + effective[1],
        "effective_negatives": effective[0],
        "effective_positives": effective[1],
    }


def column_of(name: str, names: Sequence[str]) -> int:
    """Where a scorer stands among the names; the ensemble, the first of them, for any other."""
    return names.index(name) if name in names else 0


def ratio(part: float, whole: float) -> float:
    """``part / whole``, ``nan`` for an empty whole."""
    return part / whole if whole > 0 else math.nan


def log_losses(p: F64, y: F64) -> F64:
    """The log loss in nats of each probability, ``(n,)`` or ``(n, k)``, given truth ``(n,)``."""
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    truth = (y > 0.5).reshape(y.shape + (1,) * (p.ndim - 1))
    losses: F64 = -np.log(np.where(truth, clipped, 1 - clipped))
    return losses


def calibration_error(p: F64, y: F64) -> float:
    """Expected calibration error over 15 bins ``[k/15, (k+1)/15)``, the last one closed.

    The mean over all rows of ``|mean(p) - mean(y)|`` of the row's bin (Naeini et al. 2015, AAAI).
    """
    if not len(p):
        return math.nan
    bins = np.minimum((p * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=p - y, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(p))


def areas(positive: F64, negative: F64) -> tuple[float, float]:
    """ROC AUC and average precision from the masses of both classes at each distinct score.

    Parameters
    ----------
    positive, negative : float64 arrays ``(k,)``
        Mass of each class at the score, highest score first; any common scale.

    Returns
    -------
    roc_auc : float
        Trapezoids, so a tie counts half; ``nan`` unless both classes have mass.
    pr_auc : float
        Average precision, sum of ``(R_k - R_(k-1)) P_k``, no interpolation; ``nan`` without
        positives.
    """
    found, false = np.cumsum(positive), np.cumsum(negative)
    if not len(found) or found[-1] <= 0:
        return math.nan, math.nan
    recall = found / found[-1]
    some = found + false > 0
    precision = np.divide(found, found + false, out=np.zeros_like(found), where=some)
    pr_auc = float((positive / found[-1] * precision).sum())
    if false[-1] <= 0:
        return math.nan, pr_auc
    before = np.concatenate(([0.0], recall[:-1]))
    return float((negative / false[-1] * (recall + before) / 2).sum()), pr_auc


def precision_at_budget(p: F64, y: F64, budget: float) -> float:
    """The share of positives among the ``k`` highest scores: who may alert so often, hits so often.

    Parameters
    ----------
    p, y : float64 arrays ``(n,)``
        Scores and truths, 0 or 1.
    budget : float
        Alerts for 1,000 events: ``k = max(1, floor(n * budget / 1000))``, at most ``n``.

    Returns
    -------
    float
        In ``[0, 1]``; ``nan`` for no events. Events tied at the lowest score that alerts share the
        alerts left for them, as if drawn at random.

    >>> precision_at_budget(np.array([0.9, 0.5, 0.5, 0.1]), np.array([1.0, 1.0, 0.0, 1.0]), 500.0)
    0.75
    """
    n = len(p)
    if not n:
        return math.nan
    k = min(n, max(1, math.floor(n * budget / 1000)))
    lowest = np.partition(p, n - k)[n - k]
    above, tied = p > lowest, p == lowest
    left = k - int(above.sum())
    return float((y[above].sum() + left * y[tied].mean()) / k)


def _masses(p: F64, truth: BOOL) -> tuple[F64, F64]:
    """Counts of positives and negatives at each distinct score, highest first."""
    order = np.argsort(-p, kind="stable")
    ordered, positive = p[order], truth[order].astype(np.float64)
    if not len(p):
        return positive, positive
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return np.add.reduceat(positive, starts), np.add.reduceat(1 - positive, starts)


def no_change_accuracy(y: F64) -> float:
    """Accuracy of predicting each row's truth by the truth of the row before; needs two rows."""
    return float((y[1:] == y[:-1]).mean()) if len(y) > 1 else math.nan


def kappa_temporal(alert: BOOL, y: F64) -> float:
    """How far the alerts beat the no-change predictor: ``(p0 - pe) / (1 - pe)``; 0 is no better.

    Over the rows that have a row before them (Zliobaite et al. 2015,
    doi 10.1007/s10994-014-5441-0). ``nan`` where the truth never changes.
    """
    expected = no_change_accuracy(y)
    if math.isnan(expected) or expected == 1:
        return math.nan
    accuracy = float((alert[1:] == (y[1:] > 0.5)).mean())
    return (accuracy - expected) / (1 - expected)
