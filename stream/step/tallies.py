"""What the engine counts for people: histograms of scores, delays and labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.base import F64, State
from monitoring.histogram import LABEL_DELAY_BOUNDS_S, LATENCY_BOUNDS_S, Histogram
from monitoring.quality.measures import SCORE_BOUNDS
from monitoring.quality.quality import ExpectedAccuracy


class Tallies:
    """Histograms over scores, delays and labels; deterministic, since the step's clock is."""

    def __init__(self) -> None:
        self.scores = Histogram(SCORE_BOUNDS)
        self.labelled_scores = (Histogram(SCORE_BOUNDS), Histogram(SCORE_BOUNDS))
        self.event_latency = Histogram(LATENCY_BOUNDS_S)
        self.label_delay = Histogram(LABEL_DELAY_BOUNDS_S)
        self.expected = ExpectedAccuracy()

    def scored(self, p: F64, alert: NDArray[np.bool_], latency_s: F64, cold: bool) -> None:
        """Take ``n`` scores as made and how long after their event time."""
        self.scores.observe_many(p)
        # An event may be up to limits.ahead younger than the clock.
        self.event_latency.observe_many(np.maximum(latency_s, 0.0))
        if not cold:
            self.expected.observe(p, alert)

    def labelled(self, p: F64, y: NDArray[np.int8], delay_s: F64) -> None:
        """Take ``n`` labels: scores as made, truths, and how long after their event time."""
        for truth, histogram in enumerate(self.labelled_scores):
            histogram.observe_many(p[y == truth])
        self.label_delay.observe_many(np.maximum(delay_s, 0.0))

    def _histograms(self) -> dict[str, Histogram]:
        return {
            "scores": self.scores,
            "negatives": self.labelled_scores[0],
            "positives": self.labelled_scores[1],
            "event_latency": self.event_latency,
            "label_delay": self.label_delay,
        }

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        state: State = {name: h.state() for name, h in self._histograms().items()}
        return state | {"expected": self.expected.state()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        for name, histogram in self._histograms().items():
            histogram.restore(state[name])
        self.expected.restore(state["expected"])
