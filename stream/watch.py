"""What the engine counts for people: histograms of its state, and the readings that a scrape shows.

:class:`Watch` is part of the engine's state and counts in its step; :func:`readings` copies numbers
out of an engine, on the loop's thread, for every other thread to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base import F64, State
from models.ensemble import FAILURES
from monitoring.budgets import EVENTS, RULES
from monitoring.measures import SCORE_BOUNDS
from monitoring.quality import ExpectedAccuracy
from monitoring.readings import (
    LABEL_DELAY_BOUNDS_S,
    LATENCY_BOUNDS_S,
    Histogram,
    Readings,
    reactions,
)
from stream.codec import REASONS

if TYPE_CHECKING:
    from stream.engine import Engine

_LABEL_REASONS = {
    "orphan": "label_orphan",
    "duplicate": "label_duplicate",
    "conflict": "label_conflict",
}


class Watch:
    """Histograms over scores, delays and labels; deterministic, since the step's clock is."""

    def __init__(self) -> None:
        self.scores = Histogram(SCORE_BOUNDS)
        self.labelled_scores = (Histogram(SCORE_BOUNDS), Histogram(SCORE_BOUNDS))
        self.event_latency = Histogram(LATENCY_BOUNDS_S)
        self.label_delay = Histogram(LABEL_DELAY_BOUNDS_S)
        self.expected = ExpectedAccuracy()

    def scored(self, p: F64, alert: NDArray[np.bool_], latency_s: F64) -> None:
        """Take ``n`` scores as made and how long after their event time."""
        self.scores.observe_many(p)
        # An event may be up to limits.ahead younger than the clock.
        self.event_latency.observe_many(np.maximum(latency_s, 0.0))
        self.expected.observe(p, alert)

    def labelled(self, p: F64, y: F64, delay_s: F64) -> None:
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


def readings(engine: Engine, parameters: Mapping[tuple[str, str, bool], int]) -> Readings:
    """The engine at this moment, for threads that must never touch it; costs about 1 ms."""
    counts, ensemble, watch = engine.counts, engine.ensemble, engine.watch
    topics = engine.config.topics
    passed = counts["horizon.passed"]
    return Readings(
        model=engine.config.name,
        members=ensemble.names,
        consumed={
            t: counts[f"consumed.{t}"] for t in (topics.events, topics.labels, topics.control)
        },
        scored=counts["scored"],
        alerts=counts["alerts"],
        updates={name: counts[f"updates.{name}"] for name in ensemble.names},
        labels={"joined": counts["labels.joined"], "expired": counts["labels.timed_out"]}
        | {result: counts[f"dead.{reason}"] for result, reason in _LABEL_REASONS.items()},
        dead_letters={reason: counts[f"dead.{reason}"] for reason in REASONS},
        pending=engine.pending.waiting,
        pending_evicted=counts["pending.evicted"],
        early_labels=len(engine.early),
        commands=counts["commands"],
        watermark_ms=engine.watermark_ms,
        label_coverage=1 - counts["labels.timed_out"] / passed if passed else float("nan"),
        expected_accuracy=watch.expected.value(),
        threshold=engine.threshold,
        alert_budget=engine.config.quality.alert_budget,
        arrival=engine.quality.snapshot(),
        matured=engine.matured.snapshot(),
        drift=engine.drift.readings(),
        feature_shifts=engine.drift.feature_shifts(),
        weights=dict(zip(ensemble.names, ensemble.weights().tolist(), strict=True)),
        down=ensemble.quarantined,
        frozen=ensemble.frozen,
        member_errors={
            (name, reason): counts[f"member_errors.{name}.{reason}"]
            for name in ensemble.names
            for reason in FAILURES
        },
        skipped={name: member.skipped for name, member in ensemble.members.items()},
        reactions={
            (reaction, name): engine.reactions.counts[f"{reaction}/{name}"]
            for reaction, name in reactions(ensemble.names)
        },
        parameters=parameters,
        features=engine.features.gauges(),
        limits=_limits(engine),
        audit={event: engine.auditor.written[event] for event in EVENTS},
        audit_seq=engine.trail.head()[0],
        audit_violations={
            (name, rule): engine.auditor.violations[f"{name}/{rule}"]
            for name in ensemble.names
            for rule in RULES
        },
        update_norms={name: h.copy() for name, h in engine.auditor.update_norms.items()},
        scores=watch.scores.copy(),
        labelled_scores=(watch.labelled_scores[0].copy(), watch.labelled_scores[1].copy()),
        event_latency=watch.event_latency.copy(),
        label_delay=watch.label_delay.copy(),
    )


def parameter_counts(engine: Engine) -> dict[tuple[str, str, bool], int]:
    """Scalars by (member, role, trainable)."""
    counted: dict[tuple[str, str, bool], int] = {}
    for name, rows in engine.ensemble.parameters().items():
        for row in rows:
            key = (name, row.role, row.trainable)
            counted[key] = counted.get(key, 0) + row.count
    return counted


def _limits(engine: Engine) -> dict[str, float]:
    limits = engine.config.limits
    found = {
        "batch": float(limits.batch),
        "record_bytes": float(limits.record_bytes),
        "pending": float(limits.pending),
        "early_labels": float(limits.early_labels),
        "dead_letter_share": limits.dead_letter_share,
    }
    for feature in engine.config.features:
        if hasattr(feature, "max_entities"):
            found[f"{feature.name}.max_entities"] = float(feature.max_entities)
    return found
