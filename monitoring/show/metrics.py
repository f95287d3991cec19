"""Prometheus metrics: one collector over plain numbers, in the order of the pipeline.

``/metrics`` calls :func:`exposition` on any thread. A scrape reads the newest published
:class:`~monitoring.show.readings.Readings` and the process's
:class:`~monitoring.show.readings.Telemetry`; it never touches the engine, and nothing registers on
import. Only here and in ``series.py`` is ``prometheus_client`` imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from models.ensemble.ensemble import FAILURES
from monitoring.audit.budgets import RULES
from monitoring.drift.evidence import Standing
from monitoring.drift.monitor import MAX_FEATURES
from monitoring.histogram import UPDATE_NORM_BOUNDS, Histogram
from monitoring.quality.measures import UNDECIDED
from monitoring.quality.numbers import PINBALL
from monitoring.quality.rated import METRICS as RATED
from monitoring.quality.tasks import METRICS, Snapshot
from monitoring.show.readings import (
    LABEL_RESULTS,
    Progress,
    Readings,
    Shared,
    Telemetry,
    reactions,
)
from monitoring.show.series import Row, Rows, counter, gauge, histogram

_TABLE_RESULTS = ("evicted", "expired", "late", "truncated", "unmatched")
_NO_NORMS = Histogram(UPDATE_NORM_BOUNDS)
_OUTCOMES = ("tp", "fp", "fn", "tn")
_QUALITY_HELP = {
    "accuracy": "Share of decisions that were right",
    "precision": "Share of alerts that were right",
    "recall": "Share of positives that were alerted",
    "f1": "Harmonic mean of precision and recall",
    "roc_auc": "Area under the ROC curve",
    "pr_auc": "Average precision",
    "log_loss": "Mean log loss in nats",
    "brier": "Mean squared error of the probability",
    "calibration_error": "Expected calibration error over 15 bins",
    "balanced_accuracy": "Mean over the classes of the share of each that was predicted",
    "macro_f1": "Mean of the classes' F1",
    "weighted_f1": "Mean of the classes' F1, by how often each was true",
    "kappa": "Cohen's kappa: agreement beyond chance",
    "top_2_accuracy": "Share of truths among the two likeliest classes",
    "no_change_accuracy": "Accuracy of predicting each truth by the one before",
    "kappa_temporal": "How far predictions beat the truth before",
    "coverage": "Share of truths within what was promised to hold them",
    "width": "Mean width of the intervals, or size of the sets, that were promised",
    "hit_10": "Share of items taken that stood among the first 10, before they were learned",
    "hit_20": "Share of items taken that stood among the first 20, before they were learned",
    "mrr": "Mean of 1 / rank of the items taken, before they were learned",
    "ndcg_10": "Mean NDCG at 10 of the items taken, before they were learned",
    "mae": "Mean absolute error",
    "rmse": "Root of the mean squared error",
    "r2": "Share of the truths' variance that is explained",
    "bias": "Mean error: above 0 where too much is predicted",
}


class MillraceCollector(Collector):
    """All series of one process.

    Parameters
    ----------
    read : callable
        The newest readings; called once for each scrape, on the scraper's thread.
    telemetry : Telemetry
    """

    def __init__(self, read: Callable[[], Readings], telemetry: Telemetry) -> None:
        self._read = read
        self._telemetry = telemetry

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family, in the order of the pipeline."""
        readings = self._read()
        for part in (_flow, _labels, _scores, _quality, _ranking, _drift, _members, _features):
            own = list(part(readings))
            if readings.beside is not None and part in _OF_SCORERS:
                own = _together(own, part(readings.beside))
            yield from own
        yield from _process(self._telemetry)
        yield from _checkpoints(self._telemetry)


class ReplicaCollector(Collector):
    """All series of a replica: none of the model's, which are the service's and would count twice.

    Parameters
    ----------
    model : str
    read : callable
        How far it is; called once for each scrape.
    """

    def __init__(self, model: str, read: Callable[[], Progress]) -> None:
        self._model = model
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        now, labels, m = self._read(), ["model"], [self._model]
        behind = max(now.journal_seq - now.verified_seq, 0)
        yield gauge(
            "replica_verified_step", "Newest step proved equal", labels, [(m, now.verified_seq)]
        )
        yield gauge(
            "replica_lag_steps", "Journaled steps not done again yet", labels, [(m, behind)]
        )
        yield gauge(
            "replica_lag_seconds",
            "Time since the replica last stood at the journal's end",
            labels,
            [(m, now.lag_s)],
        )
        yield gauge(
            "replica_diverged",
            "1 once a step gave other bits than the service's: nothing is told any more",
            labels,
            [(m, bool(now.diverged))],
        )
        yield counter("replica_starts", "Starts from a checkpoint", labels, [(m, now.starts)])


def registry(collector: Collector) -> CollectorRegistry:
    """A registry that holds this collector alone."""
    alone = CollectorRegistry(auto_describe=False)
    alone.register(collector)
    return alone


def exposition(registry: CollectorRegistry) -> bytes:
    """The text format 0.0.4 (``text/plain; version=0.0.4``)."""
    return generate_latest(registry)


def _together(own: list[Metric], others: Iterable[Metric]) -> list[Metric]:
    """The families of two models: of one that both have the samples of both."""
    found = {metric.name: metric for metric in own}
    for metric in others:
        found.setdefault(metric.name, metric)
        if found[metric.name] is not metric:
            found[metric.name].samples += metric.samples
    return list(found.values())


# ---------------------------------------------------------------------- parts


def _shared(r: Readings) -> Iterator[Metric]:
    """Of a process of a service of many: the version of its members."""
    found = [] if r.shared is None else [r.shared]
    names = ["model", "service", "role"]
    for name, text, value in (
        (
            "version",
            "Number of the newest version that a scorer took over, or a learner published",
            lambda s: s.number,
        ),
        (
            "version_age_seconds",
            "Event time between what that version knew and the newest event; NaN before the first",
            lambda s: s.age_s,
        ),
        (
            "version_digest",
            "The first 48 bits of the members' digest: equal for equal numbers of a service",
            lambda s: int(s.digest[:12] or "0", 16),
        ),
    ):
        yield gauge(name, text, names, [([r.model, s.service, s.role], value(s)) for s in found])
    lags = [([r.model, s.service], s.risk_lag_s) for s in found if s.risk_lag_s is not None]
    yield gauge(
        "risk_lag_seconds",
        "Event time by which what other scorers told of entities is behind the newest event",
        ["model", "service"],
        lags,
    )
    yield counter(
        "risk_lacking_events",
        "Events scored while something other scorers had not told yet may have counted",
        ["model", "service"],
        [([r.model, s.service], s.risk_lacking) for s in found if s.risk_lag_s is not None],
    )
    handed = [s for s in found if s.labels_handed is not None]
    yield counter(
        "labels_handed",
        "Labels that a scorer handed on to the one that knows, or holds, their event",
        ["model", "service"],
        [([r.model, s.service], s.labels_handed or 0) for s in handed],
    )
    yield gauge(
        "events_elsewhere",
        "Events that wait at other scorers, of whose ids this one is the owner",
        ["model", "service"],
        [([r.model, s.service], s.events_elsewhere) for s in handed],
    )
    yield from _deeds(r.model, [s for s in found if s.deeds is not None])


def _deeds(model: str, found: list[Shared]) -> Iterator[Metric]:
    """Of a process of a service that ranks."""
    yield counter(
        "deeds",
        "What users did, and what was told of items and users: handed over, or taken by a learner",
        ["model", "service", "role"],
        [([model, s.service, s.role], s.deeds or 0) for s in found],
    )
    scorers = [s for s in found if s.role == "scorer"]
    for name, text, value in (
        (
            "deeds_ahead",
            "Deeds that the learner has not given back yet",
            lambda s: s.deeds_ahead,
        ),
        (
            "deeds_missed",
            "1 while versions are missing: the scorer waits for all that is known",
            lambda s: float(s.missed),
        ),
    ):
        yield gauge(
            name, text, ["model", "service"], [([model, s.service], value(s)) for s in scorers]
        )


def _flow(r: Readings) -> Iterator[Metric]:
    m = [r.model]
    yield counter(
        "events_consumed", "Records read", ["topic"], (([t], n) for t, n in r.consumed.items())
    )
    yield counter("events_scored", "Events scored", ["model"], [(m, r.scored)])
    yield counter(
        "cold_scores",
        "Events scored with the prior, before any member had learned",
        ["model"],
        [(m, r.cold_scores)],
    )
    yield gauge("cold", "1 until a member has learned a label", ["model"], [(m, r.cold)])
    yield counter(
        "alerts", "Events whose score was at or over the threshold", ["model"], [(m, r.alerts)]
    )
    yield from _shared(r)
    known = [(m, len(r.classes))] if r.task == "classes" else []
    yield gauge("classes", "Classes of the target so far", ["model"], known)
    yield counter("commands", "Operators' commands applied", ["model"], [(m, r.commands)])
    yield counter(
        "dead_letters",
        "Records that were not taken in",
        ["reason"],
        (([k], n) for k, n in r.dead_letters.items()),
    )
    yield gauge(
        "last_event_timestamp_seconds",
        "Newest event time scored",
        ["model"],
        [(m, r.watermark_ms / 1000)],
    )
    yield histogram(
        "event_latency_seconds", "Event time to decision", ["model"], [(m, r.event_latency)]
    )
    yield gauge("limit", "Configured bounds", ["bound"], (([k], v) for k, v in r.limits.items()))
    yield counter(
        "audit_records", "Audit records written", ["event"], (([k], n) for k, n in r.audit.items())
    )
    yield gauge(
        "audit_head_seq", "Number of the newest audit record", ["model"], [(m, r.audit_seq)]
    )


def _labels(r: Readings) -> Iterator[Metric]:
    m = [r.model]
    yield counter(
        "labels",
        "Labels and time-outs by what became of them",
        ["model", "result"],
        (([r.model, k], r.labels.get(k, 0)) for k in LABEL_RESULTS),
    )
    yield gauge(
        "pending_labels", "Scored events that wait for a label", ["model"], [(m, r.pending)]
    )
    yield counter(
        "pending_evicted", "Events let go before their horizon", ["model"], [(m, r.pending_evicted)]
    )
    yield gauge(
        "early_labels", "Labels that wait for their event", ["model"], [(m, r.early_labels)]
    )
    yield gauge(
        "label_coverage_ratio",
        "Share of events past the horizon that got a label",
        ["model"],
        [(m, r.label_coverage)],
    )
    yield histogram("label_delay_seconds", "Event time to label", ["model"], [(m, r.label_delay)])


def _scores(r: Readings) -> Iterator[Metric]:
    m = [r.model]
    yield histogram("score_ratio", "Scores as made", ["model"], [(m, r.scores)])
    yield histogram(
        "labelled_score_ratio",
        "Scores as made of events whose truth is known",
        ["model", "truth"],
        (([r.model, truth], h) for truth, h in r.labelled_scores.items()),
    )
    over = [(m, r.threshold)] if r.decides else []
    yield gauge("threshold_ratio", "Scores at or over it alert", ["model"], over)
    of = _OUTCOMES if r.task == "binary" else ("judged",)
    outcomes = r.arrival.outcomes() if r.arrival else dict.fromkeys(of, 0)
    yield counter(
        "labelled_outcomes",
        "Decisions of the ensemble by what they turned out to be",
        ["model", "outcome"],
        (([r.model, k], outcomes[k]) for k in of if r.decides),
    )


_EFFECTIVE = {"binary": (("0", "effective_negatives"), ("1", "effective_positives"))}


def _quality(r: Readings) -> Iterator[Metric]:
    reports = {"arrival": _report(r.arrival), "matured": _report(r.matured)}
    labels = ["model", "member", "window", "maturity"]
    keys = [
        (name, window, maturity)
        for name in ("ensemble", *r.members)
        for window in ("fading", "sliding")
        for maturity in reports
    ]

    def value(key: tuple[str, str, str], metric: str, default: float) -> float:
        name, window, maturity = key
        return reports[maturity].get(name, {}).get(window, {}).get(metric, default)

    rated = [(name, window, "arrival") for name in r.rated for window in ("fading", "sliding")]
    shown = dict.fromkeys(METRICS[r.task] if r.decides else UNDECIDED, keys)
    shown |= dict.fromkeys(RATED if rated else (), rated)
    for metric, those in shown.items():
        rows = [([r.model, *key], value(key, metric, math.nan)) for key in those]
        yield gauge(f"quality_{metric}", _QUALITY_HELP[metric], labels, rows)
    yield gauge(
        "quality_pinball",
        "Mean pinball loss of the numbers as this quantile of the truth",
        [*labels, "quantile"],
        (
            ([r.model, *key, name.removeprefix(PINBALL)], value(key, name, math.nan))
            for key in keys
            for name in reports["arrival"].get("ensemble", {}).get("sliding", ())
            if name.startswith(PINBALL)
        ),
    )
    yield gauge(
        "quality_effective_samples",
        "Outcomes that still count; of yes or no by their true class",
        [*labels, "class"],
        (
            ([r.model, *key, which], value(key, name, 0.0))
            for key in (*keys, *rated)
            for which, name in _EFFECTIVE.get(r.task, (("all", "effective_samples"),))
        ),
    )
    yield gauge(
        "alert_budget_ratio",
        "Alerts that may be looked at, as a share of the events",
        ["model"],
        [([r.model], r.alert_budget / 1000)] if r.decides else [],
    )
    yield gauge(
        "alert_precision_at_budget_ratio",
        "Share of positives among as many of the highest scores as the budget allows, sliding",
        ["model", "member", "maturity"],
        _at_budget(r) if r.decides else [],
    )
    yield gauge(
        "quality_expected_accuracy",
        "Estimate from the scores alone, before labels; as good as their calibration",
        ["model"],
        [([r.model], r.expected_accuracy)] if r.decides else [],
    )


def _ranking(r: Readings) -> Iterator[Metric]:
    """Families that hold something where items are ranked."""
    ranks, got = r.task == "ranking", r.ranking

    def alone(key: str, nothing: float = 0.0) -> Rows:
        return [([r.model], got.get(key, nothing))] if ranks else []

    def each(**keys: str) -> Rows:
        return [([r.model, k], got.get(key, 0.0)) for k, key in keys.items()] if ranks else []

    side = ["model", "side"]
    yield gauge(
        "ranking_known", "Users and items that are known", side, each(users="users", items="items")
    )
    yield counter(
        "ranking_evicted",
        "Users and items let go for lack of room",
        side,
        each(users="users_evicted", items="items_evicted"),
    )
    yield counter("interactions", "Interactions taken in", ["model"], alone("interactions"))
    yield counter(
        "cold_interactions",
        "Interactions learned of users of whom nothing was known",
        ["model"],
        alone("cold"),
    )
    yield counter(
        "listed_items",
        "Items of lists: shown, then taken, not taken by the horizon, or let go before it",
        ["model", "result"],
        each(shown="shown", taken="hits", untaken="untaken", evicted="evicted"),
    )
    yield counter(
        "fallback_answers",
        "Answers to users of whom nothing was known, by what is popular",
        ["model"],
        alone("fallbacks"),
    )
    yield counter(
        "short_answers", "Answers with fewer items than asked for", ["model"], alone("short")
    )
    yield gauge(
        "catalogue_coverage_ratio",
        "Share of the known items among the newest 10,000 places of lists",
        ["model"],
        alone("coverage", math.nan),
    )
    yield gauge(
        "shown_top_10_ratio",
        "Share of the newest 10,000 places of lists that the ten most shown items had",
        ["model"],
        alone("top_10", math.nan),
    )
    yield from _worth(r)


def _worth(r: Readings) -> Iterator[Metric]:
    """What lists are worth; of others than rankings without a sample."""
    ranks, got = r.task == "ranking", r.ranking
    yield counter(
        "valued_lists",
        "Lists that say what rankings are worth",
        ["model"],
        [([r.model], got.get("lists", 0.0))] if ranks else [],
    )
    yield gauge(
        "policy_effective_lists",
        "So many lists drawn by the best ranking the newest 10,000 come to",
        ["model"],
        [([r.model], got.get("effective", 0.0))] if ranks else [],
    )
    estimates = {"shown": "shown_value", "ips": "ips", "snips": "snips", "dr": "dr"}
    yield gauge(
        "policy_value_ratio",
        "Share of lists whose first item is taken: as shown, and estimated with the best first",
        ["model", "estimator"],
        [([r.model, k], got.get(key, math.nan)) for k, key in estimates.items()] if ranks else [],
    )


def _at_budget(r: Readings) -> Iterator[Row]:
    for maturity, snapshot in (("arrival", r.arrival), ("matured", r.matured)):
        found = snapshot.precision_at_budget(r.alert_budget) if snapshot else {}
        for name in ("ensemble", *r.members):
            yield [r.model, name, maturity], found.get(name, math.nan)


def _challengers(r: Readings) -> Iterator[Metric]:
    """Of every member, and of all, there may be challengers; lanes without one have no figures."""
    standings = {(c.member, c.lane): c for c in r.challengers}
    members = () if r.task == "ranking" else ("ensemble", *r.members)
    lanes = range(1, r.lanes + 1)
    found = [([r.model, n, str(i)], standings.get((n, i))) for n in members for i in lanes]
    each = ["model", "member", "lane"]

    def figure(name: str, told: str, value: Callable[[Standing], float], none: float) -> Metric:
        return gauge(name, told, each, [(k, value(c) if c else none) for k, c in found])

    yield figure(
        "challenger_proposed", "1 while it waits to be promoted", lambda c: float(c.proposed), 0.0
    )
    yield figure(
        "challenger_evidence_ratio",
        "Evidence that it is better than its member, of what is needed",
        lambda c: c.evidence / c.needed,
        math.nan,
    )
    yield figure(
        "challenger_number", "Which of all that the member ever had", lambda c: c.number, math.nan
    )
    yield figure(
        "challenger_divergence",
        "Mean difference of its score to its member's",
        lambda c: c.divergence,
        math.nan,
    )
    yield figure(
        "challenger_agreement_ratio",
        "Share of events on which both or neither would alert",
        lambda c: c.agreement,
        math.nan,
    )
    alerts = ("alerts_both", "alerts_member", "alerts_challenger")
    yield gauge(
        "challenger_alerts",
        "Events on which both would have alerted, or one of them alone",
        [*each, "by"],
        [
            ([*k, by.removeprefix("alerts_")], getattr(c, by) if c else 0)
            for k, c in found
            for by in alerts
        ],
    )
    sides = {"member": "loss", "challenger": "challenger_loss"}
    yield gauge(
        "challenger_loss",
        "Mean loss of scores as made, of events whose truth came, of both",
        [*each, "of"],
        [
            ([*k, side], getattr(c, field) if c else math.nan)
            for k, c in found
            for side, field in sides.items()
        ],
    )


def _guard(r: Readings) -> Iterator[Metric]:
    """Of the ensemble and every member that may be compared with what it was."""
    standings = {g.member: g for g in r.guard}
    names = () if r.task == "ranking" else ("ensemble", *r.members)
    found = [([r.model, name], standings.get(name)) for name in names]
    each = ["model", "member"]
    yield gauge(
        "rollback_proposed",
        "1 while it is worse than its last good version and nobody has put that back",
        each,
        [(k, float(g.proposed) if g else 0.0) for k, g in found],
    )
    yield gauge(
        "guard_evidence_ratio",
        "Evidence that it is worse than its last good version, of what is needed",
        each,
        [(k, g.evidence / g.needed if g else 0.0) for k, g in found],
    )


def _drift(r: Readings) -> Iterator[Metric]:
    labels = ["model", "detector", "signal"]
    rows = [([r.model, d.detector, d.signal], d) for d in r.drift]
    yield counter("drift_alarms", "Drift alarms", labels, ((k, d.alarms) for k, d in rows))
    yield gauge(
        "drift_statistic", "Where the detector stands", labels, ((k, d.statistic) for k, d in rows)
    )
    yield gauge(
        "drift_threshold", "Where the detector alarms", labels, ((k, d.threshold) for k, d in rows)
    )
    yield counter(
        "drift_reactions",
        "What alarms set off, by what was done and to whom",
        ["model", "reaction", "member"],
        (([r.model, *key], r.reactions.get(key, 0)) for key in reactions(r.learners or r.members)),
    )
    yield from _challengers(r)
    yield from _guard(r)
    psi = next((d.statistic for d in r.drift if d.detector == "psi"), math.nan)
    yield gauge(
        "score_psi", "Population stability index of the scores", ["model"], [([r.model], psi)]
    )


def _members(r: Readings) -> Iterator[Metric]:
    learners = r.learners or r.members

    def each(values: Callable[[str], float]) -> Rows:
        return (([r.model, name], values(name)) for name in learners)

    labels = ["model", "member"]
    yield counter("updates_applied", "Labels learned", labels, each(lambda n: r.updates.get(n, 0)))
    yield gauge(
        "ensemble_weight_ratio",
        "The member's weight in the ensemble",
        labels,
        (([r.model, n], r.weights.get(n, math.nan)) for n in r.members),
    )
    yield gauge(
        "members_lead",
        "1 where members put the candidates of rankings in order, 0 where the recommender does",
        ["model"],
        [] if r.beside is None else [([r.model], r.ranking.get("leads", 0.0))],
    )
    yield from _standing(r)
    yield counter(
        "member_errors",
        "Failures of the member by what it did",
        [*labels, "reason"],
        (([r.model, *k], r.member_errors.get(k, 0)) for k in product(learners, FAILURES)),
    )
    yield counter(
        "member_skipped_updates",
        "Updates that the member left out, such as a gradient that is no number",
        labels,
        each(lambda n: r.skipped.get(n, 0)),
    )
    yield gauge(
        "refused_updates",
        "Updates of the member that budgets undid since the last one that was kept",
        labels,
        each(lambda n: r.refused_updates.get(n, 0)),
    )
    yield histogram(
        "update_norm",
        "Change of the weights in one update over their norm, where it was measured",
        labels,
        (([r.model, n], r.update_norms.get(n, _NO_NORMS)) for n in learners),
    )
    yield counter(
        "audit_violations",
        "Budgets passed",
        ["model", "member", "rule"],
        (([r.model, *k], r.audit_violations.get(k, 0)) for k in product(learners, RULES)),
    )
    yield gauge(
        "parameters",
        "Scalars the member holds",
        ["model", "member", "role", "trainable"],
        (([r.model, n, role, str(t).lower()], c) for (n, role, t), c in r.parameters.items()),
    )


def _standing(r: Readings) -> Iterator[Metric]:
    labels, names = ["model", "member"], r.learners or r.members
    for name, told, those in (
        ("up", "scores", frozenset(names) - r.down),
        ("frozen", "does not learn", r.frozen),
        ("stale", "has learned labels that were corrected since", r.stale),
    ):
        rows = (([r.model, n], float(n in those)) for n in names)
        yield gauge(f"member_{name}", f"1 when the member {told}", labels, rows)


def _features(r: Readings) -> Iterator[Metric]:
    # The rest are left out, in the order of the configuration: the number of series is bounded.
    names = list(dict.fromkeys(key.rpartition(".")[0] for key in r.features))[:MAX_FEATURES]

    def of(kind: str) -> Rows:
        return (([n], r.features[f"{n}.{kind}"]) for n in names if f"{n}.{kind}" in r.features)

    yield counter("feature_missing", "Values imputed", ["feature"], of("missing"))
    yield gauge("feature_entities", "Entities remembered", ["feature"], of("entities"))
    yield gauge("feature_table_bytes", "Memory of the entity table", ["feature"], of("bytes"))
    yield counter(
        "feature_events",
        "Entities and events that the table could not keep or use",
        ["feature", "result"],
        (([*key, kind], n) for kind in _TABLE_RESULTS for key, n in of(kind)),
    )

    for i, name in enumerate(("psi", "ks_ratio")):
        text = ("Population stability index", "Largest gap of the distribution functions")[i]
        rows = (([n], figures[i]) for n, figures in r.feature_shifts.items())
        yield gauge(f"feature_{name}", f"{text} of the feature", ["feature"], rows)


_OF_SCORERS = (_scores, _quality, _drift, _members, _features)
"""What a second stage tells too."""


def _process(t: Telemetry) -> Iterator[Metric]:
    yield histogram(
        "stage_duration_seconds",
        "Duration of the loop's stages",
        ["stage"],
        (([s], h) for s, h in t.stages.items()),
    )
    yield histogram(
        "http_request_duration_seconds",
        "Request to the start of the response",
        ["route", "method", "code"],
        (([route, method, str(code)], h) for (route, method, code), h in t.http.copy().items()),
    )
    yield gauge(
        "consumer_lag_messages",
        "Records not read yet",
        ["topic", "partition"],
        (([topic, str(n)], lag) for (topic, n), lag in t.lag.copy().items()),
    )
    yield gauge(
        "retention_margin_seconds",
        "How much longer a topic keeps its records than a restart may need; below 0: too short",
        ["topic"],
        (([topic], margin_s) for topic, margin_s in t.retention_margin_s.copy().items()),
    )
    yield gauge(
        "scores_other_writers",
        "Others that wrote to the topic of scores within 5 minutes; NaN: nobody can tell",
        [],
        [([], t.other_writers)],
    )
    yield gauge(
        "loop_heartbeat_timestamp_seconds",
        "Last turn of the loop",
        [],
        [([], t.heartbeat_ms / 1000)],
    )
    yield counter(
        "restarts",
        "Starts that found an earlier session, by how that one ended",
        ["reason"],
        (([k], n) for k, n in t.restarts.items()),
    )
    yield counter("replay_divergences", "Replays that gave other bits", [], [([], t.divergences)])
    yield gauge("build_info", "Versions", list(t.versions), [(list(t.versions.values()), 1)])


def _checkpoints(t: Telemetry) -> Iterator[Metric]:
    yield gauge(
        "checkpoint_last_success_timestamp_seconds",
        "When the newest checkpoint was published",
        [],
        [([], t.checkpoint_success_ms / 1000)],
    )
    yield gauge(
        "checkpoint_size_bytes",
        "Size of the newest checkpoint",
        [],
        [([], t.checkpoint_size_bytes)],
    )
    yield histogram(
        "checkpoint_duration_seconds", "Snapshot to publication", [], [([], t.checkpoint_duration)]
    )
    yield counter(
        "checkpoint_failures", "Checkpoints that failed", [], [([], t.checkpoint_failures)]
    )


def _report(snapshot: Snapshot | None) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    return snapshot.report() if snapshot else {}
