"""What a scrape reads: plain numbers that the engine and the process keep, no Prometheus in sight.

The engine counts in :class:`Histogram` and plain integers, and the service publishes an immutable
:class:`Readings` (at most once a second, say) for other threads; the process's own numbers are
attributes of one :class:`Telemetry`. ``metrics.py`` and the live page show both. Nothing here
registers anything or reads a clock.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.base import F64, State, StateError
from monitoring.budgets import REACTIONS
from monitoring.drift import DriftReading
from monitoring.measures import SCORE_BOUNDS
from monitoring.quality import QualitySnapshot

DURATION_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
UPDATE_NORM_BOUNDS = (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1, 10)
HTTP_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
LATENCY_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3_600, 86_400)
LABEL_DELAY_BOUNDS_S = (
    *(1, 60, 600, 3_600, 21_600, 86_400, 172_800),
    *(345_600, 604_800, 1_209_600, 2_592_000, 5_184_000),
)

LABEL_RESULTS = ("joined", "orphan", "duplicate", "expired", "conflict")
STAGES = ("step", "commit", "checkpoint")
"""``checkpoint`` is the snapshot, the part that the loop waits for."""
RESTARTS = ("clean", "unclean")
MAX_HTTP_SERIES = 64
"""Route, method and code together; further ones are counted under route ``other``."""


class Histogram:
    """Counts of values by fixed upper bounds (``value <= bound``), and their sum.

    >>> h = Histogram((1.0, 2.0))
    >>> h.observe(1.0)
    >>> h.observe_many(np.array([1.5, 9.0]))
    >>> h.counts.tolist(), h.total
    ([1, 1, 1], 11.5)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(float(b) for b in bounds)
        self.counts = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one finite value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_many(self, values: F64) -> None:
        """Count finite values ``(n,)``; one call or many give the same sum, bit for bit."""
        bins = np.searchsorted(self.bounds, values)
        self.counts += np.bincount(bins, minlength=len(self.counts))
        # In order, not pairwise: the sum must not depend on batches or on the processor.
        self.total = float(np.add.accumulate(np.concatenate(([self.total], values)))[-1])

    def copy(self) -> Histogram:
        """The same counts, for another thread to keep."""
        other = Histogram(self.bounds)
        other.counts, other.total = self.counts.copy(), self.total
        return other

    def state(self) -> State:
        """See :meth:`models.base.Model.state`."""
        return {"counts": self.counts.copy(), "total": self.total}

    def restore(self, state: State) -> None:
        """See :meth:`models.base.Model.restore`."""
        if state["counts"].shape != self.counts.shape:
            raise StateError(
                f"histogram: expected {len(self.counts)} counts, got {len(state['counts'])}"
            )
        self.counts = state["counts"].copy()
        self.total = float(state["total"])


@dataclass(frozen=True, slots=True)
class Readings:
    """The engine at one moment. Immutable: arrays and mappings in it are copies nobody changes.

    ``model`` and ``members`` alone make the readings of an engine that has seen nothing, so that
    every series exists before the first event. Keys of the mappings become label values: they must
    come from the configuration or from a closed list.

    Attributes
    ----------
    consumed : records read, by topic.
    updates : labels learned, by member.
    labels : by :data:`LABEL_RESULTS`.
    dead_letters : by reason; every reason, also those at 0.
    watermark_ms : newest event time scored, UTC ms; 0 before the first.
    label_coverage : share of events past the horizon that got a label; ``nan`` before the first.
    alert_budget : alerts that may be looked at, for 1,000 events.
    arrival, matured : quality by labels as they come, and by cohorts past the horizon.
    drift : from :meth:`monitoring.drift.DriftMonitor.readings`.
    weights : the ensemble's, by member.
    down, frozen : members that do not score; that do not learn.
    member_errors : by (member, reason).
    skipped : updates that a member left out, by member.
    reactions : to drift alarms, by what :func:`reactions` lists.
    parameters : scalars, by (member, role, trainable).
    features : from ``FeatureStage.gauges()``: ``FEATURE.GAUGE`` to value.
    feature_shifts : from :meth:`monitoring.drift.DriftMonitor.feature_shifts`.
    limits : configured bounds by name, as ``pending`` or ``windows.max_entities``.
    audit : records written, by event; ``audit_seq`` the trail's newest number.
    audit_violations : budgets passed, by (member, rule).
    update_norms : relative, by member.
    scores : ``labelled_scores`` by truth, 0 and 1.
    """

    model: str
    members: tuple[str, ...]
    consumed: Mapping[str, int] = field(default_factory=dict)
    scored: int = 0
    alerts: int = 0
    updates: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    pending_evicted: int = 0
    early_labels: int = 0
    commands: int = 0
    watermark_ms: int = 0
    label_coverage: float = float("nan")
    expected_accuracy: float = float("nan")
    threshold: float = float("nan")
    alert_budget: float = float("nan")
    arrival: QualitySnapshot | None = None
    matured: QualitySnapshot | None = None
    drift: Sequence[DriftReading] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    member_errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    reactions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    parameters: Mapping[tuple[str, str, bool], int] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    feature_shifts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    audit: Mapping[str, int] = field(default_factory=dict)
    audit_seq: int = 0
    audit_violations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    update_norms: Mapping[str, Histogram] = field(default_factory=dict)
    scores: Histogram = field(default_factory=lambda: Histogram(SCORE_BOUNDS))
    labelled_scores: tuple[Histogram, Histogram] = field(
        default_factory=lambda: (Histogram(SCORE_BOUNDS), Histogram(SCORE_BOUNDS))
    )
    event_latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))
    label_delay: Histogram = field(default_factory=lambda: Histogram(LABEL_DELAY_BOUNDS_S))


def reactions(members: Sequence[str]) -> list[tuple[str, str]]:
    """Every (reaction, member) there can be; the weights are the member ``ensemble``'s.

    >>> len(reactions(["forest"]))
    5
    """
    weights, *others = REACTIONS
    return [(weights, "ensemble"), *((reaction, m) for m in members for reaction in others)]


class Telemetry:
    """The process's own numbers; not engine state, so they start at 0 with the process.

    Whoever does the work sets the attribute, on any thread. Times are UTC ms, 0 for never.

    Parameters
    ----------
    versions : mapping of str to str
        Labels of ``build_info``, such as ``version`` and ``python``.
    routes : iterable of (route, method, code)
        HTTP series that exist from the start.
    """

    def __init__(
        self,
        versions: Mapping[str, str] | None = None,
        routes: Iterable[tuple[str, str, int]] = (),
    ) -> None:
        self.versions = dict(versions or {})
        self.stages = {stage: Histogram(DURATION_BOUNDS_S) for stage in STAGES}
        self.http = {key: Histogram(HTTP_BOUNDS_S) for key in routes}
        self.checkpoint_duration = Histogram(DURATION_BOUNDS_S)
        self.checkpoint_failures = 0
        self.checkpoint_size_bytes = 0
        self.checkpoint_success_ms = 0
        self.restarts = dict.fromkeys(RESTARTS, 0)
        self.heartbeat_ms = 0
        self.divergences = 0
        self.rebased = 0
        self.lag: dict[tuple[str, int], int] = {}

    def observe_http(self, route: str, method: str, code: int, seconds: float) -> None:
        """Count one response; ``route`` is the template, never the path that was asked."""
        key = (route, method, code)
        if key not in self.http and len(self.http) >= MAX_HTTP_SERIES:
            key = ("other", "OTHER", 0)
        self.http.setdefault(key, Histogram(HTTP_BOUNDS_S)).observe(seconds)

    def checkpointed(self, at_ms: int, seconds: float, size_bytes: int) -> None:
        """A checkpoint was published at ``at_ms``."""
        self.checkpoint_duration.observe(seconds)
        self.checkpoint_size_bytes = size_bytes
        self.checkpoint_success_ms = at_ms
