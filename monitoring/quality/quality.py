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
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from models.base import BOOL, F64, I64, State, StateError, contiguous, state_digest
from models.carry import fill, shared
from monitoring.quality.measures import (
    areas,
    column_of,
    measure,
    precision_at_budget,
    ratio,
    summary,
)
from monitoring.quality.sums import (
    ALERTS,
    BIN_COUNT,
    BRIER,
    COUNT,
    HISTOGRAM,
    LOG_LOSS,
    MEAN_P,
    SPAN,
    WIDTH,
    absorb,
    remember,
    valid,
)

Figures = dict[str, dict[str, dict[str, float]]]
"""Name (ensemble first) to window to metric to value."""


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
        self._names = tuple(names)
        self._threshold = float(threshold)
        self._window = window
        self._growth = np.array([1.0, 1.0 / fade])
        self._begin()

    def _begin(self) -> None:
        columns = len(self._names)
        self._sums = np.zeros((2, columns, 2, WIDTH))
        self._weight = np.ones((2, columns, 2))
        self._waiting = np.zeros((columns, 2), np.int64)
        self._seen = 0
        self._p = np.zeros((self._window, columns))
        self._y = np.zeros(self._window)
        self._alert = np.zeros((self._window, columns), np.bool_)
        self._again = np.zeros((2, 2))  # the ensemble's decisions that were corrected

    def update(self, p: F64, y: F64, alert: BOOL, said: object = None) -> None:
        """Take ``n`` outcomes in label order; one call or many with the same rows, same state.

        Parameters
        ----------
        p : float64 array ``(n, 1 + m)`` or ``(n, 1 + m, 1)``
            Probabilities as made; ``nan`` where a member made none.
        y : float64 array ``(n,)``
            Truth, 0 or 1.
        alert : bool array ``(n,)``
            What the ensemble decided when it scored.
        said : object
            Nothing is promised of yes or no.
        """
        if p.ndim == 3:
            p = p[:, :, 0]
        if p.shape != (len(y), len(self._names)) or alert.shape != y.shape:
            raise ValueError(
                f"Quality.update: expected p (n, {len(self._names)}), y (n,), alert (n,); "
                f"got {p.shape}, {y.shape}, {alert.shape}"
            )
        p, y = (contiguous(a, np.float64) for a in (p, y))
        alert = contiguous(alert, np.bool_)
        if not valid(p, y):
            raise ValueError("Quality.update: expected p in [0, 1] or nan and y 0 or 1")
        rows = (p, y, alert, self._threshold)
        absorb(self._sums, self._weight, self._waiting, self._growth, *rows)
        remember(self._p, self._y, self._alert, self._seen, *rows)
        self._seen += len(y)

    def correct(self, p: F64, y: F64, instead: F64, alert: BOOL, said: object = None) -> None:
        """See :meth:`monitoring.quality.tasks.Judge.correct`; members alert by today's threshold.

        :meth:`QualitySnapshot.outcomes` counts what a decision turned out to be each time.
        """
        if p.ndim == 3:
            p = p[:, :, 0]
        for i in range(len(y)):
            rows = slice(i, i + 1)
            before = self._alone(p[rows], y[rows], alert[rows])
            self._sums[0] -= before
            self._again += before[0][:, [COUNT, ALERTS]]
            if not np.isnan(instead[i]):
                self._sums[0] += self._alone(p[rows], instead[rows], alert[rows])
            else:
                self._sums[0, ~np.isnan(p[i]), :, SPAN] -= 1.0  # the others took less long

    def _alone(self, p: F64, y: F64, alert: BOOL) -> F64:
        """The sums ``(1 + m, 2, WIDTH)`` of one outcome, but for when it came."""
        alone = copy(self)
        alone._begin()
        alone.update(p, y, alert)
        alone._sums[0, :, :, SPAN] = 0.0
        return alone._sums[0]

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
            self._again.copy(),
        )

    def report(self) -> Figures:
        """Every metric of every window; see :meth:`QualitySnapshot.report`."""
        return self.snapshot().report()

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return (
            {"names": list(self._names), "seen": self._seen, "growth": self._growth.copy()}
            | {key: array.copy() for key, array in self._arrays().items()}
            | ({"again": self._again.copy()} if self._again.any() else {})
        )

    def restore(self, state: State) -> None:
        """Take over what ``state`` tells of these names; the others start new.

        Window and fade must be the same; the threshold is a setting.
        """
        if not np.array_equal(state["growth"], self._growth):
            raise StateError(
                f"quality.growth: expected {self._growth.tolist()}, got {state['growth'].tolist()}"
            )
        self._begin()
        self._p[:] = np.nan  # what a new member did not score
        axes = {"sums": 1, "weight": 1, "waiting": 0, "p": 1, "alert": 1}
        fill(self._arrays(), state, "quality", axes, shared(self._names, state["names"]))
        self._seen = int(state["seen"])
        if "again" in state:
            self._again[:] = state["again"]

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _arrays(self) -> dict[str, F64 | I64 | BOOL]:
        return {
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
    sums: F64  # (2, columns, 2, WIDTH): all or fading, score, class
    weight: F64  # (2, columns, 2): of the newest outcome
    waiting: I64  # (columns, 2): outcomes since the last one of the class
    p: F64  # (kept, columns)
    y: F64  # (kept,)
    alert: BOOL  # (kept, columns)
    again: F64  # (2, 2): by class, all and alerts of the ensemble that count again
    _report: Figures = field(default_factory=dict, compare=False)

    def report(self) -> Figures:
        """Every metric of every window. Two threads at once compute the same values twice."""
        if not self._report:
            self._report.update({n: self._windows(j) for j, n in enumerate(self.names)})
        return self._report

    def outcomes(self) -> dict[str, int]:
        """The ensemble's decisions since the start, by outcome: tp, fp, fn, tn.

        One that was corrected counts each time, so that none of these ever falls.
        """
        counted = self.sums[0, 0, :, [COUNT, ALERTS]].T + self.again
        (negatives, false), (positives, true) = counted
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

    def fading(self, name: str) -> dict[str, float]:
        """See :meth:`monitoring.quality.tasks.Snapshot.fading`."""
        return self._summed(1, column_of(name, self.names))

    def _summed(self, fading: int, column: int) -> dict[str, float]:
        sums, weight = self.sums[fading, column], self.weight[fading, column]
        return _from_sums(sums, weight, self.waiting[column])

    def _windows(self, column: int) -> dict[str, dict[str, float]]:
        made = ~np.isnan(self.p[:, column])
        return {
            "all": self._summed(0, column),
            "fading": self._summed(1, column),
            "sliding": measure(self.p[made, column], self.y[made], self.alert[made, column]),
        }


class ExpectedAccuracy:
    """An estimate of the accuracy before any label: what calibrated scores say of themselves.

    The mean over the last ``window`` scores of the probability of what was decided: of yes or no,
    ``p`` where it alerted and ``1 - p`` where not, of classes that of the likeliest. Wrong by as
    much as the scores are miscalibrated.
    """

    def __init__(self, window: int = 10_000) -> None:
        self._confidence = np.zeros(window)
        self._seen = 0

    def observe(self, confidence: F64) -> None:
        """Take the probability of what was decided of ``n`` events; ``nan``: it has none."""
        window = len(self._confidence)
        kept = confidence[-window:]
        first = self._seen + len(confidence) - len(kept)
        self._confidence[(first + np.arange(len(kept))) % window] = kept
        self._seen += len(confidence)

    def value(self) -> float:
        """The estimate, in ``[0, 1]``; ``nan`` before the first score."""
        kept = min(self._seen, len(self._confidence))
        return float(self._confidence[:kept].mean()) if kept else math.nan

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"confidence": self._confidence.copy(), "seen": self._seen}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        fill({"confidence": self._confidence}, state, "expected_accuracy")
        self._seen = int(state["seen"])


def _from_sums(sums: F64, weight: F64, waiting: I64) -> dict[str, float]:
    """One row of a report from the weighted sums of both classes ``(2, WIDTH)``."""
    effective = sums[:, COUNT] / weight
    share = _shares(effective, sums[:, SPAN] / weight + waiting)
    scale = np.divide(share, sums[:, COUNT], out=np.zeros(2), where=sums[:, COUNT] > 0)
    alerts = sums[:, ALERTS] * scale
    quiet = (sums[:, COUNT] - sums[:, ALERTS]) * scale
    mass = sums * scale[:, None]
    total = float(share.sum())
    histogram = mass[:, : HISTOGRAM - 1 : -1]  # highest score first
    roc_auc, pr_auc = areas(histogram[1], histogram[0])
    mean_p = mass[:, MEAN_P:BIN_COUNT].sum(axis=0)
    gaps = mass[1, BIN_COUNT:HISTOGRAM] - mean_p
    return summary(
        cells=(float(alerts[1]), float(alerts[0]), float(quiet[1]), float(quiet[0])),
        roc_auc=roc_auc,
        pr_auc=pr_auc,
        log_loss=ratio(float(mass[:, LOG_LOSS].sum()), total),
        brier=ratio(float(mass[:, BRIER].sum()), total),
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
