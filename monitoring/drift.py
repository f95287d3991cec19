"""Drift: detectors on the delayed log loss of each scorer, and the scores against a reference.

The engine calls :meth:`DriftMonitor.update` with the losses of joined labels and
:meth:`DriftMonitor.observe` with every score; alarms go on the audit trail and to the metrics.
Never acts on an alarm, never reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F64, State, StateError, state_digest
from monitoring.detectors import ADWIN_DELTA, PAGE_HINKLEY_THRESHOLD, Adwin, PageHinkley
from monitoring.measures import SCORE_BOUNDS

PSI_THRESHOLD = 0.25
"""A population stability index above it is a major shift (Siddiqi 2006, Credit Risk Scorecards)."""

KS_THRESHOLD = 0.1
"""Largest gap of the two distribution functions that is let pass: an effect size, no p-value,
because at a stream's volume every gap is significant."""


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


class Shift:
    """Values binned, the last ``window`` of them against the first ``reference``, frozen.

    Parameters
    ----------
    bounds : sequence of float
        Upper bounds of the bins (``value <= bound``), increasing; one more bin takes the rest.
    reference, window : int
        Values in the frozen part and in the current one.
    """

    def __init__(
        self, bounds: Sequence[float], reference: int = 10_000, window: int = 10_000
    ) -> None:
        self._bounds = np.array(bounds, np.float64)
        self._size = reference
        self._seen = 0
        self._before = np.zeros(len(bounds) + 1, np.int64)
        self._now = np.zeros(len(bounds) + 1, np.int64)
        self._ring = np.zeros(window, np.int16)

    def observe(self, values: F64) -> None:
        """Take ``n`` values ``(n,)``, none of them ``nan``."""
        bins = np.searchsorted(self._bounds, values).astype(np.int16)
        head = max(0, min(len(bins), self._size - self._seen))
        self._before += np.bincount(bins[:head], minlength=len(self._before))
        start = max(0, self._seen - self._size)  # values in the ring's history so far
        self._seen += len(bins)
        bins = bins[head:]
        skipped = max(0, len(bins) - len(self._ring))
        slots = (start + skipped + np.arange(len(bins) - skipped)) % len(self._ring)
        self._ring[slots] = bins[skipped:]
        if len(bins):
            kept = self._ring[: min(start + len(bins), len(self._ring))]
            self._now = np.bincount(kept, minlength=len(self._now))

    @property
    def ready(self) -> bool:
        """Whether the reference and the current window are full; before that both are ``nan``."""
        return self._seen >= self._size + len(self._ring)

    def psi(self) -> float:
        """Population stability index ``sum((q - p) ln(q / p))``, half a value added to each bin."""
        if not self.ready:
            return math.nan
        p, q = ((c + 0.5) / (c.sum() + 0.5 * len(c)) for c in (self._before, self._now))
        return float(((q - p) * np.log(q / p)).sum())

    def ks(self) -> float:
        """Largest gap between the two distribution functions at the bounds, in ``[0, 1]``."""
        if not self.ready:
            return math.nan
        p, q = (np.cumsum(c) / c.sum() for c in (self._before, self._now))
        return float(np.abs(p - q).max())

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"seen": self._seen, "before": self._before.copy(), "ring": self._ring.copy()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        _fill({"before": self._before, "ring": self._ring}, state, "shift")
        self._seen = int(state["seen"])
        kept = self._ring[: max(0, min(self._seen - self._size, len(self._ring)))]
        self._now = np.bincount(kept, minlength=len(self._now))


class DriftMonitor:
    """ADWIN and Page-Hinkley on each scorer's loss, PSI and KS on the ensemble's scores.

    Parameters
    ----------
    names : sequence of str
        The ensemble, then the members: the signals.
    delta : float
        ADWIN's chance of a false alarm.
    page_hinkley : float
        Page-Hinkley's threshold.
    reference, window : int
        Scores in the frozen reference and in the window compared with it.
    """

    def __init__(
        self,
        names: Sequence[str],
        delta: float = ADWIN_DELTA,
        page_hinkley: float = PAGE_HINKLEY_THRESHOLD,
        reference: int = 10_000,
        window: int = 10_000,
    ) -> None:
        self._names = tuple(names)
        self._detectors: tuple[Adwin | PageHinkley, ...] = (
            Adwin(len(names), delta),
            PageHinkley(len(names), page_hinkley),
        )
        self._alarms = np.zeros((len(self._detectors), len(names)), np.int64)
        self._scores = Shift(SCORE_BOUNDS, reference, window)
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

    def observe(self, p: F64) -> list[Alarm]:
        """Take the ensemble's scores ``(n,)`` as made; alarms when a limit is passed anew."""
        self._scores.observe(p)
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

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        arrays = {key: array.copy() for key, array in self._arrays().items()}
        return arrays | {"names": list(self._names), "scores": self._scores.state()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        if list(state["names"]) != list(self._names):
            raise StateError(
                f"drift: expected a state of {list(self._names)}, got {state['names']}"
            )
        _fill(self._arrays(), state, "drift")
        self._scores.restore(state["scores"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _shifts(self) -> list[tuple[str, float, float]]:
        return [
            ("psi", self._scores.psi(), PSI_THRESHOLD),
            ("ks", self._scores.ks(), KS_THRESHOLD),
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
