"""The sums that quality keeps of each outcome, and the window of the last ones: compiled.

Works on arrays of ``quality.py``; keeps nothing.
"""

from __future__ import annotations

import math

import numpy as np

from models.base import BOOL, F64, I64
from models.kernels.entry import entry

CALIBRATION_BINS = 15
EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are clipped to ``[EPSILON, 1 - EPSILON]`` in the log loss, as scikit-learn does."""

_SCORE_BINS = 1024
_BINS_PER_LOGIT = 32.0
# Columns of the sums kept for each window, score and class.
COUNT, ALERTS, LOG_LOSS, BRIER, SPAN = range(5)
MEAN_P = 5
BIN_COUNT = MEAN_P + CALIBRATION_BINS
HISTOGRAM = BIN_COUNT + CALIBRATION_BINS
WIDTH = HISTOGRAM + _SCORE_BINS
# Weights grow instead of sums fading: an outcome costs O(1), not O(WIDTH). Scaling back by a power
# of two is exact.
_HEAVY, _RELIEF = 2.0**512, 2.0**-512


@entry("b1(f8[:, ::1], f8[::1])")
def valid(p: F64, y: F64) -> bool:
    """Whether every probability is in [0, 1] or nan and every truth 0 or 1."""
    good = True
    for i in range(len(y)):
        good &= (y[i] == 0.0) | (y[i] == 1.0)
        for j in range(p.shape[1]):
            good &= not ((p[i, j] < 0.0) | (p[i, j] > 1.0))
    return good


@entry(
    "void(f8[:, :, :, ::1], f8[:, :, ::1], i8[:, ::1], f8[::1], f8[:, ::1], f8[::1], b1[::1], f8)"
)
def absorb(
    sums: F64,
    weight: F64,
    waiting: I64,
    growth: F64,
    p: F64,
    y: F64,
    alert: BOOL,
    threshold: float,
) -> None:
    """Add each outcome to the sums of its class, in order."""
    for i in range(len(y)):
        c = int(y[i])
        for j in range(p.shape[1]):
            q = p[i, j]
            if np.isnan(q):
                continue
            clipped = min(max(q, EPSILON), 1.0 - EPSILON)
            log_p, log_not_p = math.log(clipped), math.log(1.0 - clipped)
            loss = -log_p if c else -log_not_p
            place = (log_p - log_not_p) * _BINS_PER_LOGIT + _SCORE_BINS // 2
            score_bin = int(min(max(place, 0.0), _SCORE_BINS - 1.0))
            level = min(int(q * CALIBRATION_BINS), CALIBRATION_BINS - 1)
            alerted = alert[i] if j == 0 else q >= threshold
            waiting[j, 0] += 1
            waiting[j, 1] += 1
            for f in range(2):
                row = sums[f, j, c]
                g = weight[f, j, c] * growth[f]
                if g > _HEAVY:
                    row *= _RELIEF
                    g *= _RELIEF
                weight[f, j, c] = g
                row[COUNT] += g
                row[ALERTS] += g * alerted
                row[LOG_LOSS] += g * loss
                row[BRIER] += g * (q - c) * (q - c)
                row[SPAN] += g * waiting[j, c]
                row[MEAN_P + level] += g * q
                row[BIN_COUNT + level] += g
                row[HISTOGRAM + score_bin] += g
            waiting[j, c] = 0


@entry("void(f8[:, ::1], f8[::1], b1[:, ::1], i8, f8[:, ::1], f8[::1], b1[::1], f8)")
def remember(
    kept_p: F64,
    kept_y: F64,
    kept_alert: BOOL,
    seen: int,
    p: F64,
    y: F64,
    alert: BOOL,
    threshold: float,
) -> None:
    """Write the outcomes over the oldest ones of the sliding window."""
    for i in range(len(y)):
        slot = (seen + i) % len(kept_y)
        kept_y[slot] = y[i]
        for j in range(p.shape[1]):
            kept_p[slot, j] = p[i, j]
            kept_alert[slot, j] = alert[i] if j == 0 else p[i, j] >= threshold
