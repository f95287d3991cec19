"""Quality of a scorer of numbers: prequential windows, and the same over whole arrays.

The windows are those of ``quality.py``; in the fading one an outcome weighs ``fade`` times as much
at the next one (Gama et al. 2013, doi 10.1007/s10994-012-5320-9). Bias is prediction less truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base import BOOL, F64, State
from models.kernels.entry import entry
from models.task import Number
from monitoring.quality.measures import ratio
from monitoring.quality.windows import PROMISES, Snapshot, Windows, of_promises

METRICS = ("mae", "rmse", "r2", "bias", *PROMISES)
"""The quality metrics of numbers, in the order in which they are shown; one for each quantile
(:func:`pinball`) comes after them."""

MOST = 1e140
"""A truth or prediction further from 0 counts as this: the square of one mistyped label must not
make a sum infinite for ever."""

_COUNT, _ABSOLUTE, _SQUARED, _BIAS, _MEAN_Y, _SPREAD_Y = range(6)
_PINBALL = 6  # from there on of each quantile the loss, and the outcomes in it


PINBALL = "pinball_"
"""What the name of a quantile's metric begins with."""


def pinball(quantile: float) -> str:
    """The name of the metric of a quantile.

    >>> pinball(0.9)
    'pinball_0.9'
    """
    return f"{PINBALL}{quantile:g}"


def measure(
    output: F64, y: F64, intervals: F64 | None = None, quantiles: Sequence[float] = ()
) -> dict[str, float]:
    """All of :data:`METRICS`, the pinball losses and the effective samples of one scorer.

    Parameters
    ----------
    output : float64 array ``(n, 1)``
    y : float64 array ``(n,)``
    intervals : float64 array ``(n, 2)``
        What was promised to hold the truth, ends included; ``nan`` where nothing was.
    quantiles : sequence of float
        In ``(0, 1)``: the loss of the prediction as that quantile of the truth, one metric each.

    >>> found = measure(np.array([[2.0], [4.0]]), np.array([1.0, 4.0]), quantiles=[0.9])
    >>> found["mae"], found["bias"], round(found["pinball_0.9"], 3)
    (0.5, 0.5, 0.05)
    """
    told, truth = np.clip(output[:, 0], -MOST, MOST), np.clip(y, -MOST, MOST)
    error = told - truth
    # By differences from the first truth: truths that are all the same have no spread, exactly.
    centred = truth - truth[0] if len(y) else truth
    sums = np.array(
        [
            *(len(y), np.abs(error).sum(), np.square(error).sum(), error.sum(), 0.0),
            np.square(centred - centred.mean()).sum() if len(y) else 0.0,
            *(
                total
                for q in quantiles
                for total in (np.maximum(-q * error, (1 - q) * error).sum(), len(y))
            ),
        ]
    )
    became = np.full((len(y), 2), np.nan) if intervals is None else promises(intervals, y)
    return _summary(sums, quantiles) | of_promises(became)


def promises(said: NDArray[Any], y: F64) -> F64:
    """Whether each interval held the truth, and its width, ``(n, 2)``; ``nan`` for none."""
    low, high = said.T
    return np.where(
        np.isnan(said).any(axis=1, keepdims=True),
        np.nan,
        np.column_stack([(low <= y) & (y <= high), high - low]),
    )


class NumberQuality(Windows):
    """Errors of the ensemble and ``m`` members, in three windows.

    Parameters
    ----------
    names, window, fade
        See :class:`monitoring.quality.windows.Windows`.
    task : Number
    quantiles : sequence of float
        See :func:`measure`.

    >>> quality = NumberQuality(["ensemble"], Number())
    >>> quality.update(np.array([[[2.0]], [[4.0]]]), np.array([1.0, 4.0]), np.zeros(2, bool))
    >>> quality.report()["ensemble"]["all"]["mae"]
    0.5
    """

    _promises = staticmethod(promises)
    _names_at: ClassVar = {"sums": 1, "kept": 1}

    def __init__(
        self,
        names: Sequence[str],
        task: Number,
        window: int = 10_000,
        fade: float = 0.999,
        quantiles: Sequence[float] = (),
    ) -> None:
        if not all(0 < q < 1 for q in quantiles):
            raise ValueError(f"Quality: expected quantiles in (0, 1), got {list(quantiles)}")
        self._quantiles = np.array(quantiles, np.float64)
        super().__init__(names, task.k, window, fade)

    def _fresh(self) -> dict[str, NDArray[Any]]:
        m, window = len(self._names), self._window
        return {
            "sums": np.zeros((2, m, _PINBALL + 2 * len(self._quantiles))),
            "kept": np.full((window, m), np.nan),
            "kept_y": np.zeros(window),
        }

    def _absorb(self, output: F64, y: F64) -> None:
        if not np.isfinite(y).all() or np.isinf(output).any():
            raise ValueError("Quality.update: expected finite numbers, or nan for no output")
        own = self._own
        rings = (own["kept"], own["kept_y"])
        _absorb_rows(own["sums"], self._fade, self._quantiles, *rings, self._seen, output, y)

    def _merge(self, sums: NDArray[Any], sign: float) -> None:
        for row, alone in zip(self._own["sums"][0], sums, strict=True):
            if not alone[_COUNT]:
                continue
            truth, mean, spread = alone[_MEAN_Y], row[_MEAN_Y], row[_SPREAD_Y]
            row += sign * alone
            # West's update, forwards or back.
            count = row[_COUNT]
            row[_MEAN_Y] = mean + sign * (truth - mean) / count if count else 0.0
            moved = sign * (truth - mean) * (truth - row[_MEAN_Y])
            row[_SPREAD_Y] = max(spread + moved, 0.0) if count else 0.0

    def _shorten(self, made: BOOL) -> None:
        """Nothing here takes time to arrive."""

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return super().state() | {"quantiles": self._quantiles.tolist()}

    def restore(self, state: State) -> None:
        """Like :meth:`Windows.restore`; quantiles that the state does not have start new."""
        theirs, sums = list(state.get("quantiles", ())), np.asarray(state["sums"])
        taken = np.zeros((*sums.shape[:2], _PINBALL + 2 * len(self._quantiles)))
        taken[:, :, :_PINBALL] = sums[:, :, :_PINBALL]
        for i, quantile in enumerate(self._quantiles.tolist()):
            if quantile in theirs:
                ours, its = (_PINBALL + 2 * at for at in (i, theirs.index(quantile)))
                taken[:, :, ours : ours + 2] = sums[:, :, its : its + 2]
        super().restore({**state, "sums": taken})

    def snapshot(self) -> NumberSnapshot:
        """See :meth:`monitoring.quality.windows.Windows.snapshot`; 0.6 MB for 4 scorers."""
        quantiles = tuple(self._quantiles.tolist())
        return NumberSnapshot(self._names, self._seen, self._copies(), quantiles=quantiles)


@dataclass(frozen=True, slots=True)
class NumberSnapshot(Snapshot):
    """What :class:`NumberQuality` held at one moment."""

    quantiles: tuple[float, ...] = ()

    def _from_sums(self, fading: int, column: int) -> dict[str, float]:
        return _summary(self.arrays["sums"][fading, column], self.quantiles)

    def _from_rows(self, column: int) -> dict[str, float]:
        output, y = self._newest("kept")[:, column], self._newest("kept_y")
        made = ~np.isnan(output)
        return measure(output[made, None], y[made], quantiles=self.quantiles)


def _summary(sums: F64, quantiles: Sequence[float]) -> dict[str, float]:
    """One row of a report from weighted sums; R2 is ``nan`` where the truth never changes."""
    count, absolute, squared, bias, _, spread, *losses = sums.tolist()
    return {
        "mae": ratio(absolute, count),
        "rmse": math.sqrt(ratio(squared, count)),
        "r2": 1 - ratio(squared, spread),
        "bias": ratio(bias, count),
        "effective_samples": count,
        **{pinball(q): ratio(*losses[2 * i : 2 * i + 2]) for i, q in enumerate(quantiles)},
    }


@entry("void(f8[:, :, ::1], f8[::1], f8[::1], f8[:, ::1], f8[::1], i8, f8[:, :, ::1], f8[::1])")
def _absorb_rows(
    sums: F64,
    fade: F64,
    quantiles: F64,
    kept: F64,
    kept_y: F64,
    seen: int,
    output: F64,
    y: F64,
) -> None:
    """Add each outcome to the sums, and write it over the oldest of the window.

    Mean and spread of the truths by West's updates of weighted sums (1979, doi
    10.1145/359146.359153), which do not cancel where the mean is far greater than the spread.
    """
    for i in range(len(y)):
        slot = (seen + i) % len(kept_y)
        kept_y[slot] = y[i]
        truth = min(max(y[i], -MOST), MOST)
        for j in range(output.shape[1]):
            kept[slot, j] = output[i, j, 0]
            if np.isnan(output[i, j, 0]):
                continue
            error = min(max(output[i, j, 0], -MOST), MOST) - truth
            for f in range(2):
                row = sums[f, j]
                mean = row[_MEAN_Y]
                row *= fade[f]
                row[_COUNT] += 1.0
                row[_ABSOLUTE] += abs(error)
                row[_SQUARED] += error * error
                row[_BIAS] += error
                row[_MEAN_Y] = mean + (truth - mean) / row[_COUNT]
                row[_SPREAD_Y] += (truth - mean) * (truth - row[_MEAN_Y])
                for q in range(len(quantiles)):
                    loss = max(-quantiles[q] * error, (1.0 - quantiles[q]) * error)
                    row[_PINBALL + 2 * q] += loss
                    row[_PINBALL + 2 * q + 1] += 1.0
