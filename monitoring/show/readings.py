"""What a scrape reads: plain numbers that the engine and the process keep, no Prometheus in sight.

The engine counts in :class:`Histogram` and plain integers, and the service publishes an immutable
:class:`Readings` (at most once a second, say) for other threads; the process's own numbers are
attributes of one :class:`Telemetry`. ``metrics.py`` and the live page show both. Nothing here
registers anything or reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from models.task import SHARES, TaskType
from monitoring.audit.budgets import REACTIONS
from monitoring.drift.evidence import Guarded, Standing
from monitoring.drift.monitor import DriftReading
from monitoring.histogram import (
    DURATION_BOUNDS_S,
    HTTP_BOUNDS_S,
    LABEL_DELAY_BOUNDS_S,
    LATENCY_BOUNDS_S,
    Histogram,
)
from monitoring.quality.tasks import Snapshot

LABEL_RESULTS = (
    *("joined", "orphan", "duplicate", "expired", "conflict"),
    *("corrected", "retracted"),
)
STAGES = ("step", "commit", "checkpoint")
"""``checkpoint`` is the snapshot, the part that the loop waits for."""
RESTARTS = ("clean", "unclean")
RANKING = (
    *("users", "items", "users_evicted", "items_evicted"),
    *("interactions", "cold", "shown", "hits", "untaken", "evicted", "fallbacks", "short"),
    *("leads", "coverage", "top_10", "lists", "effective", "shown_value", "ips", "snips", "dr"),
)
"""What is counted of rankings: users and items that are known, and those let go; interactions, and
those of users of whom nothing was known; items of lists that were shown, that were taken, that were
not by their horizon, that made room for others before it; answers to users of whom nothing is
known, and answers with fewer items than were asked for; 1 where members put them in order. Of the
newest places of lists: the share of
the items that had one, and the share that the ten most shown items had. Lists whose horizon is
over, how many of the newest the weighted ones come to, and what lists are worth."""
MAX_HTTP_SERIES = 64
"""Route, method and code together; further ones are counted under route ``other``."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What a process of a service of many knows of the versions that its members come in.

    Attributes
    ----------
    service, role : whose process it is, and which: ``scorer`` or ``learner``.
    number, digest : of the newest version taken over, or published; 0 and "" before the first.
    age_s : by how many seconds of event time it is older than the newest event, ``nan`` before.
    scorers : what a learner knows of each scorer, by its examples.
    risk_lag_s : of a scorer with entities that others see too: by how many seconds of event time
        what they told is behind its newest event, ``nan`` before each has. ``None`` without.
    risk_lacking : events that it scored by tables which lacked something.
    labels_handed, events_elsewhere : of a scorer whose labels stand anywhere: labels that it handed
        on, ``None`` where they do not, and events held by others of whose ids it is the owner.
    deeds : of a service that ranks what users did and what was told of items and users, as a scorer
        handed it over, or the learner took it; of others ``None``.
    deeds_ahead, missed : of such a scorer how many of them have not come back, and whether versions
        are missing, so that it waits for all that is known. Its ``age_s`` is 0 where none waits.
    """

    service: str
    role: str
    number: int
    age_s: float
    digest: str
    scorers: tuple[Scorer, ...] = ()
    risk_lag_s: float | None = None
    risk_lacking: int = 0
    labels_handed: int | None = None
    events_elsewhere: int = 0
    deeds: int | None = None
    deeds_ahead: int = 0
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer, as its examples tell the learner.

    Attributes
    ----------
    name : of the process.
    partitions : of events and labels, that it reads.
    version : that it scored by; 0 before it told.
    watermark_ms : newest event time that it had scored; 0 before it told.
    """

    name: str
    partitions: tuple[int, ...]
    version: int = 0
    watermark_ms: int = 0


@dataclass(frozen=True, slots=True)
class Readings:
    """The engine at one moment. Immutable: arrays and mappings in it are copies nobody changes.

    ``model`` and ``members`` alone make the readings of an engine that has seen nothing, so that
    every series exists before the first event. Keys of the mappings become label values: they must
    come from the configuration or from a closed list.

    Attributes
    ----------
    consumed : records read, by topic.
    decides : whether a score is held against a threshold; those of a second stage are not.
    classes : of the target, those known by now.
    rated : of a shard that foretells ratings who does, the shown rating first; of others nobody.
    learners : names under which it learns, is frozen and is audited; empty: those of ``members``.
    cold_scores : events scored before any member had learned; ``cold`` whether that is so now.
    updates : labels learned, by learner.
    labels : by :data:`LABEL_RESULTS`; of a shard that ranks the interactions learned joined.
    dead_letters : by reason; every reason, also those at 0.
    watermark_ms : newest event time scored, UTC ms; 0 before the first.
    label_coverage : share of events past the horizon that got a label; ``nan`` before the first.
    alert_budget : alerts that may be looked at, for 1,000 events.
    arrival, matured : quality by labels as they come, and by cohorts past the horizon.
    drift : from :meth:`monitoring.drift.monitor.DriftMonitor.readings`.
    weights : the ensemble's, by member.
    down, frozen : learners that do not score; that do not learn.
    stale : learners that have learned what was corrected since.
    member_errors : by (learner, reason).
    skipped : updates that a learner left out, by learner.
    challengers : how each challenge under way stands; of one member at most ``lanes`` at once.
    guard : how members and ensemble compare with what they were.
    kinds : types of members that were challengers, where they have another than is configured.
    reactions : to drift alarms, by what :func:`reactions` lists.
    parameters : scalars, by (member, role, trainable).
    features : from ``FeatureStage.gauges()``: ``FEATURE.GAUGE`` to value.
    feature_shifts : from :meth:`monitoring.drift.monitor.DriftMonitor.feature_shifts`.
    limits : configured bounds by name, as ``pending`` or ``windows.max_entities``.
    audit : records written, by event; ``audit_seq`` the trail's newest number.
    audit_violations : budgets passed, by (learner, rule).
    refused_updates : by budgets, since the last one that was kept, by learner.
    update_norms : relative, by learner.
    shared : of a scorer or a learner; of others ``None``.
    ranking : of a shard that ranks what :data:`RANKING` names, counted; of others nothing.
    beside : of a shard that ranks its second stage, if it has one: a model of its own.
    scores : ``labelled_scores`` by groups of the task: of yes or no by truth, 0 and 1.
    """

    model: str
    members: tuple[str, ...]
    task: TaskType = "binary"
    decides: bool = True
    classes: tuple[str, ...] = ()
    rated: tuple[str, ...] = ()
    learners: tuple[str, ...] = ()
    consumed: Mapping[str, int] = field(default_factory=dict)
    scored: int = 0
    cold_scores: int = 0
    cold: bool = True
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
    arrival: Snapshot | None = None
    matured: Snapshot | None = None
    drift: Sequence[DriftReading] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    frozen: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()
    member_errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    challengers: Sequence[Standing] = ()
    lanes: int = 1
    guard: Sequence[Guarded] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    reactions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    parameters: Mapping[tuple[str, str, bool], int] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    feature_shifts: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    audit: Mapping[str, int] = field(default_factory=dict)
    audit_seq: int = 0
    audit_violations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    refused_updates: Mapping[str, int] = field(default_factory=dict)
    update_norms: Mapping[str, Histogram] = field(default_factory=dict)
    scores: Histogram = field(default_factory=lambda: Histogram(SHARES))
    labelled_scores: Mapping[str, Histogram] = field(
        default_factory=lambda: {truth: Histogram(SHARES) for truth in ("0", "1")}
    )
    shared: Shared | None = None
    ranking: Mapping[str, float] = field(default_factory=dict)
    beside: Readings | None = None
    event_latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))
    label_delay: Histogram = field(default_factory=lambda: Histogram(LABEL_DELAY_BOUNDS_S))


def reactions(members: Sequence[str]) -> list[tuple[str, str]]:
    """Every (reaction, member) there can be; the weights are the member ``ensemble``'s.

    >>> len(reactions(["forest"]))
    12
    """
    weights, reset, *challenges = REACTIONS
    found = [(reaction, m) for m in members for reaction in (reset, *challenges)]
    return [*((reaction, "ensemble") for reaction in (weights, *challenges)), *found]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replica has proved the steps of its service.

    Attributes
    ----------
    verified_seq : the newest step that it did again with the same bits.
    journal_seq : the newest step of the journal that it knows of.
    lag_s : seconds since it last stood at the journal's end, or since its start.
    diverged : why it tells nothing any more; empty while it does.
    starts : how often it began from a checkpoint.
    """

    verified_seq: int = 0
    journal_seq: int = 0
    lag_s: float = 0.0
    diverged: str = ""
    starts: int = 0


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
        self.lag: dict[tuple[str, int], int] = {}
        self.retention_margin_s: dict[str, float] = {}
        self.other_writers: float = math.nan

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
