"""What the engine counts for people: histograms of scores, delays and labels."""

from __future__ import annotations

import numpy as np

from models.base import F64, State
from models.task import Task
from monitoring.histogram import LABEL_DELAY_BOUNDS_S, LATENCY_BOUNDS_S, Histogram
from monitoring.quality.quality import ExpectedAccuracy


class Delays:
    """How long after its event time each list was answered, and each of its items taken."""

    def __init__(self) -> None:
        self.answer = Histogram(LATENCY_BOUNDS_S)
        self.taking = Histogram(LABEL_DELAY_BOUNDS_S)

    def answered(self, ms: int) -> None:
        """A list was answered so long after its request, which may be ahead of the clock."""
        self.answer.observe(max(ms, 0) / 1000.0)

    def taken(self, ms: int) -> None:
        """An item was taken so long after its list was shown."""
        self.taking.observe(max(ms, 0) / 1000.0)

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"answer": self.answer.state(), "taking": self.taking.state()}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        self.answer.restore(state["answer"])
        self.taking.restore(state["taking"])


class Tallies:
    """Histograms over scores, delays and labels; deterministic, since the step's clock is."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.scores = Histogram(task.bounds)
        self.labelled_scores = {name: Histogram(task.bounds) for name in task.groups}
        self.event_latency = Histogram(LATENCY_BOUNDS_S)
        self.label_delay = Histogram(LABEL_DELAY_BOUNDS_S)
        self.expected = ExpectedAccuracy()

    def scored(self, score: F64, confidence: F64, latency_s: F64) -> None:
        """Take ``n`` scores as made and how long after their event time.

        ``confidence``: the probability of what was decided, of those that were not cold.
        """
        self.scores.observe_many(score)
        # An event may be up to limits.ahead younger than the clock.
        self.event_latency.observe_many(np.maximum(latency_s, 0.0))
        self.expected.observe(confidence)

    def labelled(self, output: F64, y: F64, delay_s: F64) -> None:
        """Take ``n`` labels: outputs as made, truths, and how long after their event time."""
        score, group = self._task.score(output), self._task.group(output, y)
        for i, histogram in enumerate(self.labelled_scores.values()):
            histogram.observe_many(score[group == i])
        self.label_delay.observe_many(np.maximum(delay_s, 0.0))

    def _histograms(self) -> dict[str, Histogram]:
        return {
            "scores": self.scores,
            **{f"labelled {name}": h for name, h in self.labelled_scores.items()},
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
