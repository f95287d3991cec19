"""Numbers out of an engine, copied on the loop's thread for every other thread to read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from models.ensemble.crew import cores
from models.ensemble.ensemble import FAILURES
from models.task import Classes
from monitoring.audit.budgets import EVENTS, RULES
from monitoring.quality.policy import PolicyValue
from monitoring.show.readings import Readings, Scorer, Shared, reactions
from stream.contract.letters import REASONS
from stream.settings.schema import Config
from stream.step.engine import Engine
from stream.step.ranking.changes import learners as ranking_learners
from stream.step.ranking.engine import RankingEngine
from stream.step.ranking.rerank import Reranker
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.versions import Outgoing
from stream.step.scoring import ScoringEngine, scoring

_LABEL_COUNTS = {
    "joined": "labels.joined",
    "expired": "labels.timed_out",
    "orphan": "dead.label_orphan",
    "duplicate": "dead.label_duplicate",
    "conflict": "dead.label_conflict",
    "corrected": "labels.corrected",
    "retracted": "labels.retracted",
}


def readings(engine: Engine, parameters: Mapping[tuple[str, str, bool], int]) -> Readings:
    """The engine at this moment, for threads that must never touch it; costs about 1 ms."""
    if isinstance(engine, RankingEngine):
        return _of_ranking(engine, parameters)
    return _of_scoring(scoring(engine), parameters)


def _of_ranking(engine: RankingEngine, parameters: Mapping[tuple[str, str, bool], int]) -> Readings:
    counts, group, names = engine.counts, engine.ensemble, engine.recommender.names
    stage = engine.reranker
    learners = tuple(ranking_learners(engine))
    own = {k: n for k, n in parameters.items() if stage is None or k[0] in (*learners, *names)}
    return Readings(
        model=engine.config.name,
        members=names,
        learners=learners,
        task="ranking",
        consumed=_consumed(engine),
        scored=counts["scored"],
        cold_scores=counts["fallbacks"],
        cold=engine.recommender.counts()["items"] == 0,
        rated=() if engine.rated is None else engine.rated.ratings.scorers,
        updates={name: counts[f"updates.{name}"] for name in learners},
        labels={"joined": counts["learned"] + counts["followed"]},
        dead_letters={reason: counts[f"dead.{reason}"] for reason in REASONS},
        pending=engine.pending.waiting,
        pending_evicted=counts["lists.evicted"],
        commands=counts["commands"],
        watermark_ms=engine.watermark_ms,
        arrival=engine.quality.snapshot(),
        event_latency=engine.delays.answer.copy(),
        label_delay=engine.delays.taking.copy(),
        drift=engine.drift.readings(),
        weights=_shares(engine.recommender.weights()),
        down=group.quarantined,
        frozen=group.frozen,
        parameters=own,
        limits=_limits(engine)
        | {
            "users": float(engine.recommender.settings.users),
            "items": float(engine.recommender.settings.items),
        },
        audit={event: engine.auditor.written[event] for event in EVENTS},
        audit_seq=engine.trail.head()[0],
        audit_violations=_violations(engine),
        refused_updates=engine.auditor.refused(),
        update_norms={name: h.copy() for name, h in engine.auditor.update_norms.items()},
        ranking=engine.recommender.counts()
        | engine.spread()
        | _worth(engine.value)
        | {
            "interactions": counts["feedback.interaction"],
            "untaken": counts["lists.matured.untaken"],
            "evicted": counts["lists.evicted"],
            "leads": float(stage is not None and stage.leads),
            **{name: counts[name] for name in ("cold", "shown", "hits", "fallbacks", "short")},
        },
        beside=None if stage is None else _of_stage(engine, stage, parameters),
        shared=_shared(engine),
    )


def _worth(value: PolicyValue) -> dict[str, float]:
    """What lists are worth; what was shown stands beside how much was."""
    found = value.fading()
    return {"lists": value.lists, "shown_value": found.pop("shown")} | found


def _of_stage(
    engine: RankingEngine, stage: Reranker, parameters: Mapping[tuple[str, str, bool], int]
) -> Readings:
    """The second stage, as a model of its own that scores places of lists."""
    counts, ensemble, audited = stage.counts, stage.ensemble, engine.auditor
    names = ensemble.voters
    return Readings(
        model=f"{engine.config.name}-members",
        members=names,
        decides=False,
        scored=counts["shown"],
        cold=ensemble.cold,
        updates={name: counts[f"updates.{name}"] for name in names},
        labels={"joined": counts["learned"]},
        watermark_ms=engine.watermark_ms,
        expected_accuracy=stage.tallies.expected.value(),
        alert_budget=engine.config.quality.alert_budget,
        arrival=stage.quality.snapshot(),
        matured=stage.matured.snapshot(),
        drift=stage.drift.readings(),
        feature_shifts=stage.drift.feature_shifts(),
        weights=dict(zip(names, ensemble.weights().tolist(), strict=True)),
        down=ensemble.quarantined,
        frozen=ensemble.frozen,
        member_errors={
            (name, reason): counts[f"member_errors.{name}.{reason}"]
            for name in names
            for reason in FAILURES
        },
        skipped={name: ensemble.members[name].skipped for name in names},
        reactions={
            (reaction, name): stage.reactions.counts[f"{reaction}/{name}"]
            for reaction, name in reactions(names)
        },
        parameters={k: n for k, n in parameters.items() if k[0] in ("ensemble", *names)},
        features=stage.features.gauges(),
        audit_violations=_violations(engine),
        refused_updates=audited.refused(),
        update_norms={name: audited.update_norms[name].copy() for name in names},
        scores=stage.tallies.scores.copy(),
        labelled_scores={name: h.copy() for name, h in stage.tallies.labelled_scores.items()},
        label_delay=stage.tallies.label_delay.copy(),
    )


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights as shares of them all; one that counts against an item is below 0."""
    total = sum(abs(w) for w in weights.values())
    return {name: w / total if total else 0.0 for name, w in weights.items()}


def _consumed(engine: Engine) -> dict[str, int]:
    return {t: engine.counts[f"consumed.{t}"] for t in engine.config.inputs}


def _coverage(counts: Mapping[str, int]) -> float:
    """Share of the events past their horizon that got a label."""
    passed = counts["horizon.passed"]
    return 1 - counts["labels.timed_out"] / passed if passed else float("nan")


def _of_scoring(engine: ScoringEngine, parameters: Mapping[tuple[str, str, bool], int]) -> Readings:
    counts, ensemble, tallies = engine.counts, engine.ensemble, engine.tallies
    return Readings(
        model=engine.config.name,
        members=ensemble.names,
        consumed=_consumed(engine),
        scored=counts["scored"],
        cold_scores=counts["cold"],
        cold=ensemble.cold,
        alerts=counts["alerts"],
        updates={name: counts[f"updates.{name}"] for name in ensemble.names},
        labels=_labels(engine),
        dead_letters={reason: counts[f"dead.{reason}"] for reason in REASONS},
        pending=engine.pending.waiting,
        pending_evicted=counts["pending.evicted"],
        early_labels=len(engine.early),
        commands=counts["commands"],
        watermark_ms=engine.watermark_ms,
        label_coverage=_coverage(counts),
        expected_accuracy=tallies.expected.value(),
        threshold=engine.threshold,
        task=engine.task.type,
        classes=engine.task.names,
        alert_budget=engine.config.quality.alert_budget,
        arrival=engine.quality.snapshot(),
        matured=engine.matured.snapshot(),
        drift=engine.drift.readings(),
        feature_shifts=engine.drift.feature_shifts(),
        weights=dict(zip(ensemble.names, ensemble.weights().tolist(), strict=True)),
        down=ensemble.quarantined,
        frozen=ensemble.frozen,
        stale=frozenset(engine.rebuilds.stale),
        member_errors={
            (name, reason): counts[f"member_errors.{name}.{reason}"]
            for name in ensemble.names
            for reason in FAILURES
        },
        skipped={name: member.skipped for name, member in ensemble.members.items()},
        challengers=engine.challengers.standings(),
        lanes=engine.challengers.lanes,
        guard=engine.guard.standings(),
        kinds={name: str(spec["type"]) for name, spec in ensemble.specs.items()},
        reactions=_reactions(engine),
        parameters=parameters,
        features=engine.features.gauges(),
        limits=_bounds(engine),
        audit={event: engine.auditor.written[event] for event in EVENTS},
        audit_seq=engine.trail.head()[0],
        audit_violations=_violations(engine),
        refused_updates=engine.auditor.refused(),
        update_norms={name: h.copy() for name, h in engine.auditor.update_norms.items()},
        scores=tallies.scores.copy(),
        labelled_scores={name: h.copy() for name, h in tallies.labelled_scores.items()},
        event_latency=tallies.event_latency.copy(),
        label_delay=tallies.label_delay.copy(),
        shared=_shared(engine),
    )


def _reactions(engine: ScoringEngine) -> dict[tuple[str, str], int]:
    """By reaction and member: of alarms, and of what challenges."""
    counts = engine.reactions.counts + engine.challengers.counts
    return {key: counts["/".join(key)] for key in reactions(engine.ensemble.names)}


def _labels(engine: ScoringEngine) -> dict[str, int]:
    """By result; a learner's come as examples of its scorers."""
    found = {result: engine.counts[name] for result, name in _LABEL_COUNTS.items()}
    return found | {"joined": found["joined"] + engine.counts["examples"]}


def _shared(engine: RankingEngine | ScoringEngine) -> Shared | None:
    """Of a scorer or a learner its version, and of a learner what it knows of scorers."""
    config, versions = engine.config, getattr(engine, "versions", None)
    if versions is None:
        return None
    current = versions.current
    age_s = (engine.watermark_ms - current.at_ms) / 1000 if current.number else math.nan
    own = (config.service, config.shard.role, current.number, age_s, current.digest)
    if isinstance(versions, Outgoing):
        taken = engine.counts["deeds.taken"] if config.reco is not None else None
        return Shared(*own, _scorers(config, versions), deeds=taken)
    told: dict[str, Any] = {}
    scores: Any = getattr(engine, "reranker", None) or engine
    if (sharing := getattr(scores, "sharing", None)) is not None:
        told["risk_lag_s"] = sharing.lag_s(engine.watermark_ms)
        told["risk_lacking"] = scores.counts["risk.lacking"]
    if (routes := getattr(engine, "routes", None)) is not None:
        told["labels_handed"] = engine.counts["labels.handed"]
        told["events_elsewhere"] = len(routes.holders)
    if isinstance(engine, RankingScorer):
        told["deeds"], told["deeds_ahead"] = engine.counts["deeds.handed"], len(engine.ahead)
        told["missed"] = engine.versions.missed
        if current.number and not engine.ahead:  # versions come with deeds alone
            own = (*own[:3], 0.0, current.digest)
    return Shared(*own, **told)


def _scorers(config: Config, versions: Outgoing) -> tuple[Scorer, ...]:
    """What a learner knows of each scorer."""
    scorers = []
    for index, name in enumerate(config.processes[:-1]):
        reads = tuple(range(index, config.topics.partitions, config.shard.count))
        taken = versions.taken.get(index)
        known = () if taken is None else (taken.version, taken.watermark_ms)
        scorers.append(Scorer(name, reads, *known))
    return tuple(scorers)


def parameter_counts(engine: Engine) -> dict[tuple[str, str, bool], int]:
    """Scalars by (member, role, trainable); a recommender's by its parts that are members."""
    counted: dict[tuple[str, str, bool], int] = {}
    parts = engine.recommender.names if isinstance(engine, RankingEngine) else ()
    for name, rows in engine.ensemble.parameters().items():
        for row in rows:
            part = row.path.partition(".")[0]
            key = (part if part in parts else name, row.role, row.trainable)
            counted[key] = counted.get(key, 0) + row.count
    return counted


def _violations(engine: Engine) -> dict[tuple[str, str], int]:
    return {
        (name, rule): engine.auditor.violations[f"{name}/{rule}"]
        for name in engine.ensemble.names
        for rule in RULES
    }


def _limits(engine: Engine) -> dict[str, float]:
    limits = engine.config.limits
    return {
        "batch": float(limits.batch),
        "record_bytes": float(limits.record_bytes),
        "pending": float(engine.pending.room),
        "early_labels": float(limits.early_labels),
        "threads": float(limits.threads or cores()),
        "dead_letter_share": limits.dead_letter_share,
    }


def _bounds(engine: ScoringEngine) -> dict[str, float]:
    found = _limits(engine)
    if isinstance(engine.task, Classes) and engine.task.open:
        found["classes"] = float(engine.task.k)
    for feature in engine.config.features:
        if hasattr(feature, "max_entities"):
            found[f"{feature.name}.max_entities"] = float(feature.max_entities)
    return found
