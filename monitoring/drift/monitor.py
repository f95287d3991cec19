"""Drift: detectors on delayed losses; scores and features against a frozen reference.

The engine calls :meth:`DriftMonitor.update` with the losses of joined labels and
:meth:`DriftMonitor.observe` with every score; alarms go on the audit trail and to the metrics.
Never acts on an alarm, never reads a clock. ``docs/drift.md`` says how well it detects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base import F32, F64, I64, State, StateError, state_digest
from models.carry import fill, shared
from models.task import SHARES
from monitoring.drift.betting import Betting
from monitoring.drift.settings import EVIDENCE, MARGIN
from monitoring.drift.shift import Shift

PSI_THRESHOLD = 0.25
"""A population stability index above it is a major shift (Siddiqi 2006, Credit Risk Scorecards)."""

KS_THRESHOLD = 0.1
"""Largest gap of the two distribution functions that is let pass: an effect size, no p-value,
because at a stream's volume every gap is significant."""

WARM_UP = 2_000
"""Labels that a model learns before the scores it makes from then on count: before, their error
moves by itself. In simulations it rose from 0.50 to 0.75 over the first labels of one run in 16."""

_NOT_YET = (1 << 63) - 1

MAX_FEATURES = 50
"""Features watched at most: each has series of its own."""


class Alarm(NamedTuple):
    """One detection.

    ``detector`` is betting; ``signal`` the scorer's name; ``statistic`` had passed ``threshold``;
    ``row`` is the place in the update's batch.
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
    """Where one detector stands: ``nan`` until it has a statistic; ``alarms`` since the start.

    For psi and ks the threshold is the convention, and nothing alarms.
    """

    detector: str
    signal: str
    statistic: float
    threshold: float
    alarms: int


class DriftMonitor:
    """Bets on a rise of each scorer's error, PSI and KS on scores and features.

    Only an error that rises is an alarm: while a model learns it falls, and that is no drift. The
    error is ``1 - exp(-loss)``, for the log loss ``|y - p|``: in [0, 1] as the bets want it, so
    that one very wrong probability is not a drift by itself. Scores and features raise no alarm: a
    learning ensemble's scores move on a stationary stream too, and a calendar feature moves every
    night; their figures are there to be looked at when an alarm came.

    Parameters
    ----------
    names : sequence of str
        The ensemble, then the members: the signals.
    features : sequence of str
        Dense columns to watch: the first ones of a batch, at most :data:`MAX_FEATURES`.
    evidence, margin : float
        See :class:`~monitoring.drift.betting.Betting`.
    reference, window : int
        Events in the frozen reference and in the window compared with it.
    bounds : sequence of float, optional
        Of the bins of scores; without them the deciles of the reference.
    """

    def __init__(
        self,
        names: Sequence[str],
        features: Sequence[str] = (),
        evidence: float = EVIDENCE,
        margin: float = MARGIN,
        reference: int = 10_000,
        window: int = 10_000,
        bounds: Sequence[float] | None = SHARES,
    ) -> None:
        if len(features) > MAX_FEATURES:
            raise ValueError(
                f"DriftMonitor: expected at most {MAX_FEATURES} features, got {len(features)}"
            )
        self._names = tuple(names)
        self._features = tuple(features)
        self._bets = Betting(len(names), evidence, margin)
        self._alarms = np.zeros(len(names), np.int64)
        self._labels = np.zeros(len(names), np.int64)
        self._warm_ms = np.full(len(names), _NOT_YET)
        self._scores = Shift(1, bounds, reference, window)
        self._columns = Shift(len(features), None, reference, window)

    def update(
        self, losses: F64, event_time_ms: I64 | None = None, watermark_ms: int = 0
    ) -> list[Alarm]:
        """Take the losses ``(n, 1 + m)`` of ``n`` labels in order; ``nan`` where no score was made.

        ``event_time_ms`` ``(n,)`` are the times of the events scored, ``watermark_ms`` the newest
        one scored so far: what a scorer scored before it had learned :data:`WARM_UP` labels is not
        looked at. Without times everything counts.

        Returns the alarms by row.
        """
        if losses.ndim != 2 or losses.shape[1] != len(self._names):
            raise ValueError(
                f"DriftMonitor.update: expected losses (n, {len(self._names)}), got {losses.shape}"
            )
        warm_ms = self._warm_ms.copy()
        if event_time_ms is not None:
            self._labels += len(losses)
            self._warm_ms[(warm_ms == _NOT_YET) & (self._labels >= WARM_UP)] = watermark_ms
        errors = np.ascontiguousarray(-np.expm1(-losses), np.float64)
        if event_time_ms is not None:
            errors[event_time_ms[:, None] <= warm_ms] = np.nan
        alarms = []
        for row, j, statistic, threshold in self._bets.update(errors):
            self._alarms[j] += 1
            alarms.append(Alarm(Betting.detector, self._names[j], statistic, threshold, row))
        return alarms

    def renew(self, name: str) -> None:
        """Another model scores under the name: its bets begin anew, and it must warm up."""
        j = self._names.index(name)
        for array in self._bets.arrays().values():
            array[j] = 0
        self._labels[j], self._warm_ms[j] = 0, _NOT_YET

    def raised(self) -> set[str]:
        """Signals that were told to have risen, and are not back nor at a new level yet."""
        return {name for j, name in enumerate(self._names) if self._bets.raised(j)}

    def observe(self, p: F64, dense: F32 | None = None) -> None:
        """Take the ensemble's scores as made ``(n,)`` and their features ``(n, d)``."""
        self._scores.observe(p[:, None])
        if self._features and dense is not None:
            self._columns.observe(dense[:, : len(self._features)])

    def readings(self) -> list[DriftReading]:
        """Every detector and signal, in a fixed order, from the start."""
        rows = [
            DriftReading(
                Betting.detector,
                name,
                self._bets.statistic(j),
                self._bets.threshold(),
                int(self._alarms[j]),
            )
            for j, name in enumerate(self._names)
        ]
        for name, value, limit in (
            ("psi", self._scores.psi()[0], PSI_THRESHOLD),
            ("ks", self._scores.ks()[0], KS_THRESHOLD),
        ):
            rows.append(DriftReading(name, self._names[0], value, limit, 0))
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
        """Take over what ``state`` tells of these names; the others start new.

        Without ``columns`` in it, the features' reference starts new too.
        """
        for name, array in self._arrays().items():
            array[...] = _NOT_YET if name == "warm_ms" else 0
        axes = dict.fromkeys(self._arrays(), 0)
        fill(self._arrays(), state, "drift", axes, shared(self._names, state["names"]))
        self._scores.restore(state["scores"])
        if "columns" in state:
            if list(state["features"]) != list(self._features):
                raise StateError(
                    f"drift.features: expected {list(self._features)}, got {state['features']}"
                )
            self._columns.restore(state["columns"])

    def digest(self) -> str:
        """See :meth:`models.base.Model.digest`."""
        return state_digest(self.state())

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "alarms": self._alarms,
            "labels": self._labels,
            "warm_ms": self._warm_ms,
        }
        return arrays | {f"bets_{name}": array for name, array in self._bets.arrays().items()}
