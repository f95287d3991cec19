"""Prequential quality of the ensemble and its members, from the scores that were made.

The engine calls :meth:`Quality.update` with every label that found its event, in label order, and
publishes :meth:`Quality.snapshot`; a scrape asks that for its report. It keeps one instance for
labels as they arrive and one for cohorts past the horizon. Never scores again, never reads a clock.

Three windows:

``all``
    Every outcome since the start. Areas come from score histograms with bins of 1/32 logit.
``fading``
    Each class fades by itself (``S = L + a S``, ``B = 1 + a B``; Gama et al. 2013, doi
    10.1007/s10994-012-5320-9), because at 0.2% fraud one fade for all leaves two effective
    positives. The classes are then put together by their prevalence: effective outcomes of the
    rarer class over the faded number of outcomes they took to arrive. With ``a = 1`` all of it
    equals ``all``.
``sliding``
    The last ``window`` outcomes, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit

from models.base import F64, I64, State, StateError, state_digest
from monitoring.quality.measures import (
    BOOL,
    CALIBRATION_BINS,
    EPSILON,
    areas,
    measure,
    precision_at_budget,
    ratio,
    summary,
)

WINDOWS = ("all", "fading", "sliding")
Figures = dict[str, dict[str, dict[str, float]]]
"""Name (ensemble first) to window to metric to value."""

_SCORE_BINS = 1024
_BINS_PER_LOGIT = 32.0
# Columns of the sums kept for each window, score and class.
_COUNT, _ALERTS, _LOG_LOSS, _BRIER, _SPAN = range(5)
_MEAN_P = 5
_BIN_COUNT = _MEAN_P + CALIBRATION_BINS
_HISTOGRAM = _BIN_COUNT + CALIBRATION_BINS
_WIDTH = _HISTOGRAM + _SCORE_BINS
# Weights grow instead of sums fading: an outcome costs O(1), not O(_WIDTH). Scaling back by a power
# of two is exact.
_HEAVY, _RELIEF = 2.0**512, 2.0**-512


class Quality:
    """Counts, faded sums and a sliding window for the ensemble and ``m`` members.

    Parameters
    ----------
    names : sequence of str
        The ensemble, then the members.
    threshold : float
        A member's probability at or above it is an alert.
    window : int
        Outcomes in the sliding window.
    fade : float
        ``0 < fade <= 1``: what an outcome's weight is multiplied by at the next one of its class.

    >>> quality = Quality(["ensemble"], 0.5)
    >>> quality.update(np.array([[0.9], [0.2]]), np.array([1.0, 0.0]), np.array([True, False]))
    >>> quality.report()["ensemble"]["sliding"]["accuracy"]
    1.0
    """

    def __init__(
        self, names: Sequence[str], threshold: float, window: int = 10_000, fade: float = 0.999
    ) -> None:
        if window < 1 or not 0 < fade <= 1 or not names or len(set(names)) < len(names):
            raise ValueError(
                "Quality: expected different names, window >= 1 and 0 < fade <= 1, "
                f"got {list(names)}, {window}, {fade}"
            )
        columns = len(names)
        self._names = tuple(names)
        self._threshold = float(threshold)
        self._growth = np.array([1.0, 1.0 / fade])
        self._sums = np.zeros((2, columns, 2, _WIDTH))
        self._weight = np.ones((2, columns, 2))
        self._waiting = np.zeros((columns, 2), np.int64)
        self._seen = 0
        self._p = np.zeros((window, columns))
        self._y = np.zeros(window)
        self._alert = np.zeros((window, columns), np.bool_)

    def update(self, p: F64, y: F64, alert: BOOL) -> None:
        """Take ``n`` outcomes in label order; one call or many with the same rows, same state.

        Parameters
        ----------
        p : float64 array ``(n, 1 + m)``
            Probabilities as made; ``nan`` where a member made none.
        y : float64 array ``(n,)``
            Truth, 0 or 1.
        alert : bool array ``(n,)``
            What the ensemble decided when it scored.
        """
        if p.shape != (len(y), len(self._names)) or alert.shape != y.shape:
            raise ValueError(
                f"Quality.update: expected p (n, {len(self._names)}), y (n,), alert (n,); "
                f"got {p.shape}, {y.shape}, {alert.shape}"
            )
        # One memory layout: Numba compiles anew, for seconds, for each one it meets.
        p, y = np.ascontiguousarray(p, np.float64), np.ascontiguousarray(y, np.float64)
        alert = np.ascontiguousarray(alert, np.bool_)
        if not _valid(p, y):
            raise ValueError("Quality.update: expected p in [0, 1] or nan and y 0 or 1")
        rows = (p, y, alert, self._threshold)
        _absorb(self._sums, self._weight, self._waiting, self._growth, *rows)
        _remember(self._p, self._y, self._alert, self._seen, *rows)
        self._seen += len(y)

    def set_threshold(self, threshold: float) -> None:
        """Members alert at this probability from the next outcome on."""
        self._threshold = float(threshold)

    def snapshot(self) -> QualitySnapshot:
        """A copy that another thread may keep and read (0.5 MB for 4 scores)."""
        kept = min(self._seen, len(self._y))
        return QualitySnapshot(
            self._names,
            self._sums.copy(),
            self._weight.copy(),
            self._waiting.copy(),
            self._p[:kept].copy(),
            self._y[:kept].copy(),
            self._alert[:kept].copy(),
        )

    def report(self) -> Figures:
        """Every metric of every window; see :meth:`QualitySnapshot.report`."""
        return self.snapshot().report()

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"names": list(self._names), "threshold": self._threshold, "seen": self._seen} | {
            key: array.copy() for key, array in self._arrays().items()
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`; names, window and fade must be the same."""
        if list(state["names"]) != list(self._names):
            raise StateError(
                f"quality: expected a state of {list(self._names)}, got {state['names']}"
            )
        for key, array in self._arrays().items():
            found = state[key]
            if found.shape != array.shape or found.dtype != array.dtype:
                raise StateError(
                    f"quality.{key}: expected {array.dtype} {array.shape}, "
                    f"got {found.dtype} {found.shape}"
                )
        if not np.array_equal(state["growth"], self._growth):
            raise StateError(
                f"quality.growth: expected {self._growth.tolist()}, got {state['growth'].tolist()}"
            )
        for key, array in self._arrays().items():
            array[...] = state[key]
        self._threshold = float(state["threshold"])
        self._seen = int(state["seen"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _arrays(self) -> dict[str, F64 | I64 | BOOL]:
        return {
            "growth": self._growth,
            "sums": self._sums,
            "weight": self._weight,
            "waiting": self._waiting,
            "p": self._p,
            "y": self._y,
            "alert": self._alert,
        }


@dataclass(frozen=True, slots=True)
class QualitySnapshot:
    """What :class:`Quality` held at one moment; computes its report when first asked."""

    names: tuple[str, ...]
    sums: F64  # (2, columns, 2, _WIDTH): all or fading, score, class
    weight: F64  # (2, columns, 2): of the newest outcome
    waiting: I64  # (columns, 2): outcomes since the last one of the class
    p: F64  # (kept, columns)
    y: F64  # (kept,)
    alert: BOOL  # (kept, columns)
    _report: Figures = field(default_factory=dict, compare=False)

    def report(self) -> Figures:
        """Every metric of every window. Two threads at once compute the same values twice."""
        if not self._report:
            self._report.update({n: self._windows(j) for j, n in enumerate(self.names)})
        return self._report

    def outcomes(self) -> dict[str, int]:
        """The ensemble's decisions since the start, by outcome: tp, fp, fn, tn."""
        (negatives, false), (positives, true) = self.sums[0, 0, :, [_COUNT, _ALERTS]].T
        cells = {"tp": true, "fp": false, "fn": positives - true, "tn": negatives - false}
        return {name: int(cell) for name, cell in cells.items()}

    def precision_at_budget(self, budget: float) -> dict[str, float]:
        """Each scorer's share of positives among as many of its highest scores as may alert.

        Over the sliding window; ``budget`` is in alerts for 1,000 events, see
        :func:`monitoring.quality.measures.precision_at_budget`.
        """
        found = {}
        for j, name in enumerate(self.names):
            made = ~np.isnan(self.p[:, j])
            found[name] = precision_at_budget(self.p[made, j], self.y[made], budget)
        return found

    def _windows(self, column: int) -> dict[str, dict[str, float]]:
        made = ~np.isnan(self.p[:, column])
        return {
            "all": _from_sums(self.sums[0, column], self.weight[0, column], self.waiting[column]),
            "fading": _from_sums(
                self.sums[1, column], self.weight[1, column], self.waiting[column]
            ),
            "sliding": measure(self.p[made, column], self.y[made], self.alert[made, column]),
        }


class ExpectedAccuracy:
    """An estimate of the accuracy before any label: what calibrated scores say of themselves.

    The mean over the last ``window`` scores of ``p`` where it alerted and ``1 - p`` where not; at a
    threshold of 0.5 that is ``max(p, 1 - p)``. Wrong by as much as the scores are miscalibrated.
    """

    def __init__(self, window: int = 10_000) -> None:
        self._confidence = np.zeros(window)
        self._seen = 0

    def observe(self, p: F64, alert: BOOL) -> None:
        """Take the ensemble's ``n`` scores ``(n,)`` and decisions ``(n,)`` as they are made."""
        window = len(self._confidence)
        confidence = np.where(alert, p, 1 - p)[-window:]
        first = self._seen + len(p) - len(confidence)
        self._confidence[(first + np.arange(len(confidence))) % window] = confidence
        self._seen += len(p)

    def value(self) -> float:
        """The estimate, in ``[0, 1]``; ``nan`` before the first score."""
        kept = min(self._seen, len(self._confidence))
        return float(self._confidence[:kept].mean()) if kept else math.nan

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"confidence": self._confidence.copy(), "seen": self._seen}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        if state["confidence"].shape != self._confidence.shape:
            raise StateError(
                f"expected_accuracy.confidence: expected {self._confidence.shape}, "
                f"got {state['confidence'].shape}"
            )
        self._confidence[...] = state["confidence"]
        self._seen = int(state["seen"])


def _from_sums(sums: F64, weight: F64, waiting: I64) -> dict[str, float]:
    """One row of a report from the weighted sums of both classes ``(2, _WIDTH)``."""
    effective = sums[:, _COUNT] / weight
    share = _shares(effective, sums[:, _SPAN] / weight + waiting)
    scale = np.divide(share, sums[:, _COUNT], out=np.zeros(2), where=sums[:, _COUNT] > 0)
    alerts = sums[:, _ALERTS] * scale
    quiet = (sums[:, _COUNT] - sums[:, _ALERTS]) * scale
    mass = sums * scale[:, None]
    total = float(share.sum())
    histogram = mass[:, : _HISTOGRAM - 1 : -1]  # highest score first
    roc_auc, pr_auc = areas(histogram[1], histogram[0])
    mean_p = mass[:, _MEAN_P:_BIN_COUNT].sum(axis=0)
    gaps = mass[1, _BIN_COUNT:_HISTOGRAM] - mean_p
    return summary(
        cells=(float(alerts[1]), float(alerts[0]), float(quiet[1]), float(quiet[0])),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        log_loss=ratio(float(mass[:, _LOG_LOSS].sum()), total),
        brier=ratio(float(mass[:, _BRIER].sum()), total),
        calibration_error=ratio(float(np.abs(gaps).sum()), total),
        effective=(float(effective[0]), float(effective[1])),
    )


def _shares(effective: F64, span: F64) -> F64:
    """The classes' prevalence, by the class whose effective outcomes reach further back."""
    if not effective.all():
        return (effective > 0).astype(np.float64)
    rarer = int(span[1] >= span[0])
    share = min(1.0, float(effective[rarer] / span[rarer]))
    return np.array([1 - share, share] if rarer else [share, 1 - share])


@njit(cache=True, nogil=True)
def _valid(p: F64, y: F64) -> bool:
    """Whether every probability is in [0, 1] or nan and every truth 0 or 1."""
    good = True
    for i in range(len(y)):
        good &= (y[i] == 0.0) | (y[i] == 1.0)
        for j in range(p.shape[1]):
            good &= not ((p[i, j] < 0.0) | (p[i, j] > 1.0))
    return good


@njit(cache=True, nogil=True, error_model="numpy")
def _absorb(
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
                row[_COUNT] += g
                row[_ALERTS] += g * alerted
                row[_LOG_LOSS] += g * loss
                row[_BRIER] += g * (q - c) * (q - c)
                row[_SPAN] += g * waiting[j, c]
                row[_MEAN_P + level] += g * q
                row[_BIN_COUNT + level] += g
                row[_HISTOGRAM + score_bin] += g
            waiting[j, c] = 0


@njit(cache=True, nogil=True)
def _remember(
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
