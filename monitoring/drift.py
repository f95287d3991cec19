"""Drift: detectors on delayed losses; scores and features against a frozen reference.

The engine calls :meth:`DriftMonitor.update` with the losses of joined labels and
:meth:`DriftMonitor.observe` with every score; alarms go on the audit trail and to the metrics.
Never acts on an alarm, never reads a clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F32, F64, State, StateError, state_digest
from monitoring.detectors import ADWIN_DELTA, PAGE_HINKLEY_THRESHOLD, Adwin, PageHinkley
from monitoring.measures import SCORE_BOUNDS
from monitoring.shift import Shift

PSI_THRESHOLD = 0.25
"""A population stability index above it is a major shift (Siddiqi 2006, Credit Risk Scorecards)."""

KS_THRESHOLD = 0.1
"""Largest gap of the two distribution functions that is let pass: an effect size, no p-value,
because at a stream's volume every gap is significant."""

MAX_FEATURES = 50
"""Features watched at most: each has series of its own."""


class Alarm(NamedTuple):
    """One detection.

    ``detector`` is adwin, page_hinkley, psi or ks; ``signal`` the scorer's name; ``statistic`` had
    passed ``threshold``; ``row`` is the place in the update's batch (the last row for psi and ks).
    """

    detector: str
    signal: str
    statistic: float
    threshold: float
    row: int

    def detail(self) -> dict[str, Any]:
        """What the audit record says beside detector and signal."""
        return {"statistic": self.statistic, "threshold": self.threshold, "row": self.row}


class DriftReading(NamedTuple):
    """Where one detector stands: ``nan`` until it has a statistic; ``alarms`` since the start."""

    detector: str
    signal: str
    statistic: float
    threshold: float
    alarms: int


class DriftMonitor:
    """ADWIN and Page-Hinkley on each scorer's loss, PSI and KS on scores and features.

    Losses and scores raise alarms. Features do not: a calendar feature alone would raise one every
    night; their figures are there to be looked at when an alarm came.

    Parameters
    ----------
    names : sequence of str
        The ensemble, then the members: the signals.
    features : sequence of str
        Dense columns to watch: the first ones of a batch, at most :data:`MAX_FEATURES`.
    delta : float
        ADWIN's chance of a false alarm.
    page_hinkley : float
        Page-Hinkley's threshold.
    reference, window : int
        Events in the frozen reference and in the window compared with it.
    """

    def __init__(
        self,
        names: Sequence[str],
        features: Sequence[str] = (),
        delta: float = ADWIN_DELTA,
        page_hinkley: float = PAGE_HINKLEY_THRESHOLD,
        reference: int = 10_000,
        window: int = 10_000,
    ) -> None:
        if len(features) > MAX_FEATURES:
            raise ValueError(
                f"DriftMonitor: expected at most {MAX_FEATURES} features, got {len(features)}"
            )
        self._names = tuple(names)
        self._features = tuple(features)
        self._detectors: tuple[Adwin | PageHinkley, ...] = (
            Adwin(len(names), delta),
            PageHinkley(len(names), page_hinkley),
        )
        self._alarms = np.zeros((len(self._detectors), len(names)), np.int64)
        self._scores = Shift(1, SCORE_BOUNDS, reference, window)
        self._columns = Shift(len(features), None, reference, window)
        self._score_alarms = np.zeros(2, np.int64)
        self._above = np.zeros(2, np.bool_)

    def update(self, losses: F64) -> list[Alarm]:
        """Take the losses ``(n, 1 + m)`` of ``n`` labels in order; ``nan`` where no score was made.

        Returns the alarms, ADWIN's before Page-Hinkley's, each by row.
        """
        if losses.ndim != 2 or losses.shape[1] != len(self._names):
            raise ValueError(
                f"DriftMonitor.update: expected losses (n, {len(self._names)}), got {losses.shape}"
            )
        losses = np.ascontiguousarray(losses, np.float64)
        alarms = []
        for d, detector in enumerate(self._detectors):
            for row, j, statistic, threshold in detector.update(losses):
                self._alarms[d, j] += 1
                alarms.append(Alarm(detector.detector, self._names[j], statistic, threshold, row))
        return alarms

    def observe(self, p: F64, dense: F32 | None = None) -> list[Alarm]:
        """Take the ensemble's scores ``(n,)`` as made and the features ``(n, d)`` they came from.

        Returns an alarm for each limit that is passed anew.
        """
        self._scores.observe(p[:, None])
        if self._features and dense is not None:
            self._columns.observe(dense[:, : len(self._features)])
        if not self._scores.ready:
            return []
        alarms = []
        for i, (name, value, limit) in enumerate(self._shifts()):
            if value > limit and not self._above[i]:
                self._score_alarms[i] += 1
                alarms.append(Alarm(name, self._names[0], value, limit, len(p) - 1))
            self._above[i] = value > limit
        return alarms

    def readings(self) -> list[DriftReading]:
        """Every detector and signal, in a fixed order, from the start."""
        rows = [
            DriftReading(d.detector, name, d.statistic(j), d.threshold(j), int(self._alarms[i, j]))
            for i, d in enumerate(self._detectors)
            for j, name in enumerate(self._names)
        ]
        for i, (name, value, limit) in enumerate(self._shifts()):
            rows.append(
                DriftReading(name, self._names[0], value, limit, int(self._score_alarms[i]))
            )
        return rows

    def feature_shifts(self) -> dict[str, tuple[float, float]]:
        """PSI and KS of each watched feature, by name."""
        figures = zip(self._columns.psi(), self._columns.ks(), strict=True)
        return dict(zip(self._features, figures, strict=True))

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        arrays = {key: array.copy() for key, array in self._arrays().items()}
        return arrays | {
            "names": list(self._names),
            "features": list(self._features),
            "scores": self._scores.state(),
            "columns": self._columns.state(),
        }

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        for key, ours in (("names", self._names), ("features", self._features)):
            if list(state[key]) != list(ours):
                raise StateError(f"drift.{key}: expected {list(ours)}, got {state[key]}")
        _fill(self._arrays(), state, "drift")
        self._scores.restore(state["scores"])
        self._columns.restore(state["columns"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _shifts(self) -> list[tuple[str, float, float]]:
        return [
            ("psi", self._scores.psi()[0], PSI_THRESHOLD),
            ("ks", self._scores.ks()[0], KS_THRESHOLD),
        ]

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {
            "alarms": self._alarms,
            "score_alarms": self._score_alarms,
            "above": self._above,
        }
        for detector in self._detectors:
            arrays |= {f"{detector.detector}_{k}": a for k, a in detector.arrays().items()}
        return arrays


def _fill(arrays: dict[str, NDArray[Any]], state: State, part: str) -> None:
    """Copy a state's arrays into ours, all or none."""
    for key, array in arrays.items():
        found = state[key]
        if found.shape != array.shape or found.dtype != array.dtype:
            raise StateError(
                f"{part}.{key}: expected {array.dtype} {array.shape}, "
                f"got {found.dtype} {found.shape}"
            )
    for key, array in arrays.items():
        array[...] = state[key]
