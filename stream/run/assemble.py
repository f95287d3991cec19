"""Puts a shard together: the only file that names the concrete logs and parts of an engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.base import FeatureSchema, Learner, Model
from models.ensemble.conformal import PROMISE, conformal
from models.ensemble.ensemble import Ensemble
from models.ensemble.group import Group, Spec
from models.features.stage import FeatureStage
from models.members import catalogue
from models.members.narrow import Narrow
from models.reco.ratings import Ratings
from models.reco.recommender import Recommender
from models.settings import column_names, parse_size
from models.task import Task
from monitoring.audit.trail import Trail
from monitoring.drift.monitor import MAX_FEATURES, DriftMonitor
from monitoring.quality.ranks import RankQuality
from monitoring.quality.tasks import quality_of
from stream.contract.hashing import hash_text
from stream.contract.log import Log
from stream.contract.schemas import NoRegistry, Registry
from stream.settings.ranking import RECOMMENDER
from stream.settings.schema import Config, KafkaLogSettings, MemberSettings
from stream.settings.specs import defined, with_ensemble
from stream.step.configure import admitted
from stream.step.engine import Engine
from stream.step.lifecycle.history import History
from stream.step.pending.store import HOME, Pending, row_dtype
from stream.step.ranking.engine import LIST_ROW, RankingEngine
from stream.step.ranking.learner import RankingLearner
from stream.step.ranking.rerank import SIDE, Parts
from stream.step.ranking.scorer import RankingScorer
from stream.step.roles.learner import LearnerEngine
from stream.step.roles.scorer import ScorerEngine
from stream.step.scoring import OtherEngine, ScoringEngine, other

if TYPE_CHECKING:
    from stream.logs.kafka.together import Together


def build_engine(
    config: Config, directory: Path | None, key: Ed25519PrivateKey | None = None
) -> Engine:
    """A new engine; ``directory`` is where pending events live (``None``: in memory).

    ``key`` signs audit records; state and digest are the same without.
    """
    role = config.shard.role
    if config.reco is not None:
        ranks = {"all": RankingEngine, "scorer": RankingScorer, "learner": RankingLearner}
        return ranks[role](*_parts_of_ranking(config, directory, key))
    if role == "all":
        return build_scoring(config, directory, key)
    kind = ScorerEngine if role == "scorer" else LearnerEngine
    return kind(*_parts(config, directory, key))


def build_scoring(
    config: Config, directory: Path | None, key: Ed25519PrivateKey | None = None
) -> ScoringEngine:
    """The whole engine of a configuration whose events are scored, whatever its role.

    Raises :class:`~stream.step.scoring.OtherEngine` for one of another kind.
    """
    if config.reco is not None:
        raise other(config)
    engine = ScoringEngine(*_parts(config, directory, key))
    engine.admits = partial(admitted, partial(build_scoring, directory=directory, key=key))
    engine.challengers.another = partial(_another, config, engine.features, engine.task)
    return engine


def _parts(
    config: Config, directory: Path | None, key: Ed25519PrivateKey | None
) -> tuple[Any, ...]:
    """What an engine that scores events is made of."""
    features = FeatureStage(config.features, config.shared_entities, config.spread)
    task = config.task()
    ensemble = _ensemble(config, features, task)
    names = ("ensemble", *ensemble.names)
    dtype = _row(features, config, task)
    return (
        config,
        features,
        ensemble,
        Pending(dtype, ensemble.names, directory, room(config, dtype.itemsize)),
        quality_of(task, names),
        quality_of(task, names),
        DriftMonitor(
            names,
            features.schema.dense[:MAX_FEATURES],
            config.drift.evidence,
            config.drift.margin,
            bounds=task.score_bins,
        ),
        Trail(config.name, key),
        History(config.history, dtype, ensemble.names, directory),
    )


def _ensemble(
    config: Config, features: FeatureStage, task: Task, beside: Mapping[str, Any] | None = None
) -> Ensemble:
    make = member_maker(config, features.schema, task)
    members = {m.name: make(m.name, 0) for m in config.members}
    every = {m.name: m.learn_every for m in config.members}
    combine, prior = config.ensemble.combine, config.ensemble.prior
    threads = config.limits.threads
    ensemble = Ensemble(members, combine, config.seed, every, prior, task, beside, threads)
    ensemble.fresh = make
    return ensemble


def _another(
    config: Config, features: FeatureStage, task: Task, spec: Mapping[str, Any]
) -> Ensemble:
    """An ensemble by another definition, of what the configuration's sees."""
    return _ensemble(with_ensemble(config, spec)[1], features, task)


def build_ranking(
    config: Config, directory: Path | None, key: Ed25519PrivateKey | None = None
) -> RankingEngine:
    """The whole engine of a configuration that ranks items, whatever its role.

    Raises :class:`~stream.step.scoring.OtherEngine` for one of another kind.
    """
    return RankingEngine(*_parts_of_ranking(config, directory, key))


def _parts_of_ranking(
    config: Config, directory: Path | None, key: Ed25519PrivateKey | None
) -> tuple[Any, ...]:
    """What an engine that ranks items is made of."""
    if config.reco is None:
        raise OtherEngine(f"target.type: expected 'ranking', got {config.target.type!r}")
    reco, seed = config.reco, config.seed

    def fresh(name: str, number: int) -> Learner:
        if name == RECOMMENDER or reco.ratings is None:
            return Recommender(reco, seed)
        return Ratings(reco.ratings, reco.users, reco.items, seed)

    group: Group[Any] = Group({name: fresh(name, 0) for name in reco.learners})
    group.fresh = fresh
    second, row = None, pending_row(config)
    if config.members:
        second = _second_stage(config, group)
        group = second.ensemble
    names = ("ensemble", *reco.members.names)
    return (
        config,
        group,
        Pending(
            row, second.ensemble.voters if second else (), directory, room(config, row.itemsize)
        ),
        RankQuality(names),
        DriftMonitor(names, (), config.drift.evidence, config.drift.margin, bounds=None),
        Trail(config.name, key),
        second,
    )


def _second_stage(config: Config, first: Group[Any]) -> Parts:
    """What puts the candidates of the first stage in order."""
    features = FeatureStage(config.features, config.shared_entities, config.spread)
    task = config.member_task()
    ensemble = _ensemble(config, features, task, first.members)
    make = ensemble.fresh
    ensemble.fresh = lambda name, number: (
        first.fresh(name, number) if name in first.members else make(name, number)
    )
    names = ("ensemble", *ensemble.voters)
    return Parts(
        *(features, ensemble, quality_of(task, names), quality_of(task, names)),
        DriftMonitor(
            *(names, features.schema.dense[:MAX_FEATURES]),
            *(config.drift.evidence, config.drift.margin),
            bounds=task.score_bins,
        ),
    )


def _row_of_lists(config: Config) -> np.dtype[Any]:
    """The layout of an item of a list."""
    if not config.members:
        spread = [] if config.shard.role == "all" else [HOME]
        return np.dtype([*LIST_ROW.descr, *spread])
    row = _row(FeatureStage(config.features), config, config.member_task())
    others = [field for field in LIST_ROW.descr if field[0] not in (row.names or ())]
    return np.dtype([*row.descr, *others, SIDE])


def row_bytes(config: Config) -> int:
    """What an event takes on disk while it waits for its label."""
    return pending_row(config).itemsize


def pending_row(config: Config) -> np.dtype[Any]:
    """The layout of a waiting event, or item of a list."""
    if config.reco is not None:
        return _row_of_lists(config)
    return _row(FeatureStage(config.features), config, config.task())


def _row(features: FeatureStage, config: Config, task: Task) -> np.dtype[Any]:
    """The layout of a waiting event."""
    fields, promise = len(features.entity_fields), 0 if conformal(task) is None else PROMISE
    spread = config.shard.role != "all"
    return row_dtype(features.schema, len(config.members), fields, task.k, promise, spread)


def room(config: Config, row: int) -> int | None:
    """How many events of ``row`` bytes may wait; ``None``: the configuration does not say."""
    pending = config.limits.pending
    if isinstance(pending, str):
        return max(parse_size(pending) // row, config.limits.batch)
    return pending


def member_maker(config: Config, schema: FeatureSchema, task: Task) -> Callable[..., Model]:
    """A function of (name, number) that builds a member; each number is another seed.

    Number 0 is the member as configured; a higher one takes its place after drift. A third argument
    is the definition to build instead, as a configuration has it, without a name.
    """
    settings = {m.name: m for m in config.members}

    def make(name: str, number: int, spec: Spec | None = None) -> Model:
        member = settings[name] if spec is None else defined(settings[name], spec)
        # A seed of its own for each, the same in every process.
        text = name if number == 0 else f"{name}/{number}"
        seed = (config.seed ^ hash_text(text)) & 0x7FFF_FFFF
        own = _seen(config, member, schema)
        model = catalogue.build(member.type, member.params, own, seed, task)
        return model if own == schema else Narrow(model, own, schema)

    return make


def _seen(config: Config, member: MemberSettings, schema: FeatureSchema) -> FeatureSchema:
    """The columns of the features that a member sees."""
    names = {name for f in config.features if member.sees(f.name) for name in column_names(f)}
    return FeatureSchema(
        tuple(name for name in schema.dense if name in names),
        tuple(column for column in schema.hashed if column.name in names),
    )


def open_log(config: Config, clock_ms: Callable[[], int], read_only: bool = False) -> Log:
    """The configured log, not opened yet. kafka-python is imported only when it is used.

    ``read_only``: for who never opens it, commits or appends; an embedded one refuses that then. On
    Kafka whoever only reads makes no producer.
    """
    if isinstance(config.log, KafkaLogSettings):
        from stream.logs.kafka.log import KafkaLog

        return KafkaLog(config, clock_ms)
    from stream.logs.sqlite.log import SqliteLog

    return SqliteLog(config, clock_ms, read_only)


def open_together(config: Config) -> Together:
    """The topics of a service of many processes, for who moves partitions between them."""
    from stream.logs.kafka.together import Together

    return Together(config)


def open_registry(config: Config) -> Registry:
    """The configured registry, not asked yet. Its client is imported only when it is used."""
    if config.registry is None:
        return NoRegistry()
    from stream.run.registry import HttpRegistry

    return HttpRegistry(config.registry)


def wall_clock_ms() -> int:
    """UTC milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
