"""A changed configuration: state moves by state and restore alone, for every setting there is."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from models.base import state_digest
from models.members.catalogue import MEMBERS, member_class
from models.settings import Feature
from monitoring.drift.monitor import Alarm
from stream.contract.outputs import Outputs
from stream.contract.records import Batch
from stream.run.assemble import build_engine
from stream.settings.load import ConfigError, parse
from stream.settings.ranking import RankingSettings
from stream.settings.schema import Config
from stream.settings.upgrade import journaled, recorded
from stream.state.generations import Snapshot, StateDirectory
from stream.state.platform import fingerprint
from stream.step.reconfigure import Irreconcilable, compare, differing_keys, reconfigure
from stream.step.scoring import ScoringEngine
from tests.support.factory import DAY_MS, START_MS, Feed, event, label, raw_config, reasons, truth

Raw = dict[str, Any]
REGISTRY = {"url": "http://127.0.0.1:1"}
KAFKA: Raw = {"type": "kafka", "bootstrap": "127.0.0.1:9092"}
LIMIT: Raw = {"limit": 5.0, "action": "reject"}
FOREST: Raw = {"name": "forest", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20}
NEW: Raw = {"name": "new", "type": "crossed", "table_bits": 8}


def first(directory: Path) -> Raw:
    """What is changed: every part has something to know and something to lose."""
    raw = raw_config(
        directory,
        label={"field": "fraud", "horizon": "2d"},
        ensemble={"combine": "stack"},
        drift={"on_alarm": "challenge"},
        guard={"on_worse": "propose"},
        limits={"pending": 5_000, "batch": 64, "early_labels": 100},
        audit={"summary_every": 200, "each": {"update_norm": {"limit": 9.0}}},
    )
    raw["features"].append({"name": "calendar", "type": "calendar", "parts": ["hour"]})
    raw["members"].append(FOREST)
    return raw


# ---------------------------------------------------------------------- each setting and a change

Patch = dict[str, Any]
"""Dotted path to the new value; numbers are places in a list."""

LINEAR = {
    "members": [{"name": "linear", "type": "logistic"}],
    "features": [{"name": "amount", "type": "number", "field": "amount"}],
    "audit.member": {},
}
CLASSES = {"type": "classes", "classes": ["a", "b"]}
NUMBER: dict[str, Any] = {"target": {"type": "number"}, **LINEAR}
SCALED: Patch = {
    "log": KAFKA,
    "topics.partitions": 4,
    "features": LINEAR["features"],
    "drift.on_alarm": "none",
    "guard.on_worse": "none",
}
CHANGES: dict[str, Patch] = {
    "ShardSettings.role": SCALED | {"shard": {"role": "learner"}},
    "ShardSettings.index": SCALED | {"shard": {"role": "scorer", "count": 2, "index": 1}},
    "ShardSettings.count": SCALED | {"shard": {"role": "learner", "count": 2}},
    "ShardSettings.entity": SCALED | {"shard": {"role": "scorer", "entity": "terminal"}},
    "ShardSettings.labels": SCALED | {"shard": {"role": "learner", "labels": "any"}},
    "ShardSettings.every": {"shard.every": "1m"},
    "ShardSettings.service": SCALED
    | {"name": "other-learner", "shard": {"role": "learner", "service": "other"}},
    "Config.name": {"name": "other"},
    "Config.seed": {"seed": 9, "ensemble.combine": "stack"},
    "Config.state_dir": {"state_dir": "elsewhere"},
    "EmbeddedLogSettings.path": {"log.path": "elsewhere.db"},
    "EmbeddedLogSettings.retention": {"log.retention": "3d"},
    "EmbeddedLogSettings.timeout": {"log.timeout": "3s"},
    "KafkaLogSettings.bootstrap": {"log": KAFKA},
    "KafkaLogSettings.delivery": {"log": KAFKA | {"delivery": "at_least_once"}},
    "KafkaLogSettings.transactional_id": {"log": KAFKA | {"transactional_id": "t"}},
    "KafkaLogSettings.transaction_timeout": {"log": KAFKA | {"transaction_timeout": "90s"}},
    "KafkaLogSettings.timeout": {"log": KAFKA | {"timeout": "9s"}},
    "KafkaLogSettings.replication_factor": {"log": KAFKA | {"replication_factor": 3}},
    "KafkaLogSettings.security_protocol": {"log": KAFKA | {"security_protocol": "SSL"}},
    "KafkaLogSettings.ssl_cafile": {"log": KAFKA | {"ssl_cafile": "ca.pem"}},
    "KafkaLogSettings.ssl_certfile": {"log": KAFKA | {"ssl_certfile": "c.pem"}},
    "KafkaLogSettings.ssl_keyfile": {"log": KAFKA | {"ssl_keyfile": "k.pem"}},
    "KafkaLogSettings.client": {"log": KAFKA | {"client": "confluent"}},
    "KafkaLogSettings.ssl_check_hostname": {"log": KAFKA | {"ssl_check_hostname": False}},
    "KafkaLogSettings.sasl_oauth_command": {"log": KAFKA | {"sasl_oauth_command": ["token"]}},
    "KafkaLogSettings.sasl_oauth_url": {"log": KAFKA | {"sasl_oauth_url": "https://id"}},
    "KafkaLogSettings.sasl_oauth_scope": {"log": KAFKA | {"sasl_oauth_scope": "kafka"}},
    "KafkaLogSettings.sasl_mechanism": {"log": KAFKA | {"sasl_mechanism": "PLAIN"}},
    "KafkaLogSettings.sasl_username": {"log": KAFKA | {"sasl_username": "me"}},
    "KafkaLogSettings.sasl_password": {"log": KAFKA | {"sasl_password": "secret"}},
    "HistorySettings.keep": {"history.keep": "3h"},
    "HistorySettings.disk": {"history.disk": "2MB"},
    "VersionsSettings.every": {"versions.every": "3h"},
    "VersionsSettings.keep": {"versions.keep": 2},
    "TopicsSettings.events": {"topics.events": "payments"},
    "TopicsSettings.labels": {"topics.labels": "truth"},
    "TopicsSettings.control": {"topics.control": "orders"},
    "TopicsSettings.scores": {"topics.scores": "verdicts"},
    "TopicsSettings.dead_letters": {"topics.dead_letters": "refused"},
    "TopicsSettings.audit": {"topics.audit": "trail"},
    "TopicsSettings.witness": {"topics.witness": "heads"},
    "TopicsSettings.journal": {"topics.journal": "diary"},
    "TopicsSettings.create": {"topics.create": False},
    "TopicsSettings.partitions": {"topics.partitions": 3},
    "ScoresSettings.format": {"scores.format": "cloudevents"},
    "TopicsSettings.metadata_age": {"topics.metadata_age": "5m"},
    "ScoresSettings.key": {"scores.key": "input"},
    "ScoresSettings.headers": {"scores.headers": ["traceparent"]},
    "ScoresSettings.timestamp": {"scores.timestamp": "event"},
    "RegistrySettings.url": {"registry": REGISTRY},
    "RegistrySettings.username": {"registry": REGISTRY | {"username": "me"}},
    "RegistrySettings.password": {"registry": REGISTRY | {"password": "secret"}},
    "RegistrySettings.token": {"registry": REGISTRY | {"token": "secret"}},
    "RegistrySettings.ssl_cafile": {"registry": REGISTRY | {"ssl_cafile": "ca.pem"}},
    "RegistrySettings.auto_register": {"registry": REGISTRY | {"auto_register": True}},
    "RegistrySettings.timeout": {"registry": REGISTRY | {"timeout": "1s"}},
    "FieldSettings.kind": {"event.fields.amount": "boolean"},
    "FieldSettings.required": {"event.fields.amount": {"kind": "number", "required": False}},
    "FieldSettings.path": {"event.fields.amount": {"kind": "number", "path": "value"}},
    "FieldSettings.decimal": {"event.fields.amount": {"kind": "number", "decimal": ","}},
    "FieldSettings.thousands": {
        "event.fields.amount": {"kind": "number", "decimal": ",", "thousands": "."}
    },
    "FieldSettings.values": {"event.fields.category": {"kind": "category", "values": {"k0": "k1"}}},
    "FieldSettings.default": {"event.fields.amount": {"kind": "number", "default": 1.5}},
    "EventSettings.format": {"event.format": "cloudevents"},
    "EventSettings.id": {"event.id": "key", "label.event_id": "id"},
    "EventSettings.time": {"event.time": "at"},
    "EventSettings.time_format": {"event.time_format": "s"},
    "EventSettings.time_zone": {
        "event.time_format": "%Y-%m-%d %H:%M",
        "event.time_zone": "Europe/Berlin",
    },
    "EventSettings.unknown_fields": {"event.unknown_fields": "reject"},
    "LabelSettings.format": {"label.format": "avro", "registry": REGISTRY},
    "LabelSettings.event_id": {"label.event_id": "key"},
    "LabelSettings.field": {"label.field": "bad"},
    "LabelSettings.time": {"label.time": "at"},
    "LabelSettings.time_format": {"label.time": "at", "label.time_format": "rfc3339"},
    "LabelSettings.corrects": {"label.corrects": "again"},
    "LabelSettings.values": {"label.values": {"true": 0, "false": 1}},
    "LabelSettings.decimal": NUMBER | {"label.decimal": ","},
    "LabelSettings.thousands": NUMBER | {"label.decimal": ",", "label.thousands": "."},
    "LabelSettings.inline": {"label.inline": True},
    "LabelSettings.horizon": {"label.horizon": "1d"},
    "LabelSettings.at_horizon": {"label.at_horizon": "drop"},
    "LabelSettings.learning": {"label.learning": "arrival"},
    "ClassesTarget.classes": {"target": CLASSES, **LINEAR},
    "ClassesTarget.max_classes": {
        "target": {"type": "classes", "max_classes": 3},
        **LINEAR,
    },
    "ClassesTarget.abstain_below": {"target": CLASSES | {"abstain_below": 0.5}, **LINEAR},
    "ClassesTarget.coverage": {"target": CLASSES | {"coverage": 0.8}, **LINEAR},
    "NumberTarget.coverage": {"target": {"type": "number", "coverage": 0.8}, **LINEAR},
    "ClassesTarget.alert": {"target": CLASSES | {"alert": "a"}, **LINEAR},
    "NumberTarget.quantiles": {"target": {"type": "number", "quantiles": [0.9]}, **LINEAR},
    "NumberTarget.unit": {"target": {"type": "number", "unit": "min"}, **LINEAR},
    "NumberTarget.minimum": {"target": {"type": "number", "minimum": 0.0}, **LINEAR},
    "NumberTarget.maximum": {"target": {"type": "number", "maximum": 9.0}, **LINEAR},
    "NumberTarget.alert_above": {"target": {"type": "number", "alert_above": 5.0}, **LINEAR},
    "NumberFeature.name": {"features.0.name": "money"},
    "NumberFeature.field": {
        "event.fields.other": {"kind": "number", "required": False},
        "features.0.field": "other",
    },
    "NumberFeature.transform": {"features.0.transform": "none"},
    "NumberFeature.scale": {"features.0.scale": "standard"},
    "CategoryFeature.name": {"features.1.name": "kind"},
    "CategoryFeature.field": {
        "event.fields.other": {"kind": "category", "required": False},
        "features.1.field": "other",
    },
    "CategoryFeature.buckets": {"features.1.buckets": 8},
    "CalendarFeature.name": {"features.4.name": "clock"},
    "CalendarFeature.parts": {"features.4.parts": ["hour", "weekend"]},
    "CalendarFeature.utc_offset": {"features.4.utc_offset": 60},
    "CalendarFeature.zone": {"features.4.zone": "Asia/Tokyo"},
    "WindowFeature.name": {"features.2.name": "buyer"},
    "WindowFeature.entity": {"features.2.entity": "terminal"},
    "WindowFeature.value": {"features.2.value": None, "features.2.stats": ["count"]},
    "WindowFeature.windows": {"features.2.windows": ["1d", "3d"]},
    "WindowFeature.stats": {"features.2.stats": ["count", "sum"]},
    "WindowFeature.max_entities": {"features.2.max_entities": 5},
    "RiskFeature.name": {"features.3.name": "shop"},
    "RiskFeature.entity": {"features.3.entity": "customer"},
    "RiskFeature.delay": {"features.3.delay": "2d"},
    "RiskFeature.windows": {"features.3.windows": ["1d"]},
    "RiskFeature.stats": {"features.3.stats": ["risk"]},
    "RiskFeature.max_entities": {"features.3.max_entities": 2},
    "MemberSettings.name": {"members.0.name": "line"},
    "MemberSettings.type": {"members.0.type": "boosting"},
    "MemberSettings.features": {"members.0.features": ["amount", "customer"]},
    "MemberSettings.learn_every": {"members.2.learn_every": 3},
    "EnsembleSettings.combine": {"ensemble.combine": "weighted_vote"},
    "EnsembleSettings.threshold": {"ensemble.threshold": 0.2},
    "EnsembleSettings.prior": {"ensemble.prior": 0.2},
    "DriftSettings.evidence": {"drift.evidence": 50.0},
    "DriftSettings.margin": {"drift.margin": 0.02},
    "DriftSettings.on_alarm": {"drift.on_alarm": "reset"},
    "ChallengersSettings.alpha": {"challengers.alpha": 0.01},
    "ChallengersSettings.block": {"challengers.block": "1h"},
    "ChallengersSettings.rows": {"challengers.rows": 40},
    "ChallengersSettings.deadline": {"challengers.deadline": "9d"},
    "ChallengersSettings.at_once": {"challengers.at_once": 2},
    "ChallengersSettings.promote": {"challengers.promote": "auto"},
    "GuardSettings.on_worse": {"guard.on_worse": "none"},
    "GuardSettings.false_every": {"guard.false_every": 9},
    "GuardSettings.renew": {"guard.renew": "9d"},
    "QualitySettings.alert_budget": {"quality.alert_budget": 3.0},
    "CheckpointsSettings.interval": {"checkpoints.interval": "5s"},
    "CheckpointsSettings.recovery_budget": {"checkpoints.recovery_budget": "1s"},
    "CheckpointsSettings.keep": {"checkpoints.keep": 7},
    "CheckpointsSettings.on_divergence": {"checkpoints.on_divergence": "warn"},
    "TlsSettings.certfile": {"http.tls": {"certfile": "c.pem", "keyfile": "k.pem"}},
    "TlsSettings.keyfile": {"http.tls": {"certfile": "d.pem", "keyfile": "k.pem"}},
    "TokenSettings.name": {"http.tokens": [{"name": "a", "sha256": "0" * 64, "scopes": ["score"]}]},
    "TokenSettings.sha256": {
        "http.tokens": [{"name": "b", "sha256": "1" * 64, "scopes": ["score"]}]
    },
    "TokenSettings.scopes": {
        "http.tokens": [{"name": "b", "sha256": "0" * 64, "scopes": ["admin"]}]
    },
    "HttpSettings.enabled": {"http.enabled": True},
    "HttpSettings.host": {"http.host": "127.0.0.2"},
    "HttpSettings.port": {"http.port": 9},
    "HttpSettings.max_body_bytes": {"http.max_body_bytes": 2048},
    "HttpSettings.score_timeout": {"http.score_timeout": "1s"},
    "HttpSettings.max_waiting": {"http.max_waiting": 7},
    "LimitsSettings.batch": {"limits.batch": 32},
    "LimitsSettings.record_bytes": {"limits.record_bytes": 120},
    "LimitsSettings.pending": {"limits.pending": 150},
    "LimitsSettings.early_labels": {"limits.early_labels": 5},
    "LimitsSettings.threads": {"limits.threads": 3},
    "LimitsSettings.ahead": {"limits.ahead": "1m"},
    "LimitsSettings.dead_letter_share": {"limits.dead_letter_share": 0.9},
    "Budget.limit": {"audit.each": {"bytes": {"limit": 100_000}}},
    "Budget.action": {"audit.each": {"bytes": {"limit": 100_000, "action": "reject"}}},
    "UpdateBudget.limit": {"audit.each": {"update_norm": {"limit": 0.02}}},
    "UpdateBudget.action": {"audit.each": {"update_norm": {"limit": 0.4, "action": "reject"}}},
    "UpdateBudget.after": {"audit.each": {"update_norm": {"limit": 0.01, "after": 7}}},
    "UpdateBudget.times": {"audit.each": {"update_norm": {"limit": 0.01, "times": 2}}},
    "TotalBudgets.parameters": {"audit.total": {"parameters": LIMIT}},
    "TotalBudgets.bytes": {"audit.total": {"bytes": LIMIT}},
    "TotalBudgets.growth_per_hour": {"audit.total": {"growth_per_hour": LIMIT}},
    "MemberBudgets.parameters": {"audit.member": {"forest": {"parameters": LIMIT}}},
    "MemberBudgets.bytes": {"audit.member": {"forest": {"bytes": LIMIT}}},
    "MemberBudgets.growth_per_hour": {"audit.each": {"growth_per_hour": LIMIT}},
    "MemberBudgets.update_norm": {"audit.each": {}},
    "MemberBudgets.nonfinite": {"audit.each": {"nonfinite": LIMIT}},
    "ReasonsSettings.tell": {"reasons": {"tell": "all"}},
    "ReasonsSettings.most": {"reasons": {"tell": "all", "most": 2}},
    "ReasonsSettings.groups": {"reasons": {"groups": {"spending": ["amount", "customer"]}}},
    "ReasonsSettings.texts": {"reasons": {"texts": {"amount": "an unusual amount"}}},
    "AuditSettings.summary_every": {"audit.summary_every": 30},
    "AuditSettings.expected_events": {"audit.expected_events": ["created"]},
    "AuditSettings.key": {"audit.key": "key.pem"},
    "AuditSettings.anchor_every": {"audit.anchor_every": 10},
    "AuditSettings.witness": {"audit.witness": "witness.jsonl"},
}
"""A change of each setting, by its class and name."""

WHOLE: dict[str, Patch] = {
    "a member more, in front": {"members": [NEW, {"name": "linear", "type": "logistic"}, FOREST]},
    "a member less": {"members": [{"name": "linear", "type": "logistic"}, FOREST]},
    "members in another order": {
        "members": [
            FOREST,
            {"name": "prior", "type": "constant", "probability": 0.1},
            {"name": "linear", "type": "logistic"},
        ]
    },
    "another member of the name": {"members.0.learning_rate": 0.05},
    "a written default": {"members.0.learning_rate": 0.5, "checkpoints.keep": 4},
    "other members altogether": {"members": [NEW]},
    "a feature more": {
        "features.5": {"name": "plain", "type": "number", "field": "amount", "scale": "standard"}
    },
    "a feature of another kind": {
        "features.0": {"name": "amount", "type": "calendar", "parts": ["weekday"]}
    },
    "much at once": {
        "members.1": NEW,
        "ensemble.combine": "boosting",
        "drift.on_alarm": "weights",
        "limits.early_labels": 3,
        "topics.events": "payments",
    },
}
"""Changes of more than one setting."""

OTHER_TARGETS = (
    "ClassesTarget",
    "NumberTarget",
    "LabelSettings.decimal",
    "LabelSettings.thousands",
)
TARGETS = {name for name in CHANGES if name.startswith(OTHER_TARGETS)}
SHARD = {
    f"ShardSettings.{key}" for key in ("role", "index", "count", "entity", "labels", "service")
}
REFUSED = SHARD | {"Config.name", "TopicsSettings.audit", "TopicsSettings.journal"} | TARGETS


def classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings class in an annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for inner in get_args(annotation):
        yield from classes(inner)


def settings_of(cls: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    """``Class.field`` of each setting that is no section and that tells no kind apart."""
    if cls in seen:
        return
    seen.add(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    for name in cls.model_fields:
        inner = list(classes(hints[name]))
        for found in inner:
            yield from settings_of(found, seen)
        kind = get_origin(hints[name]) is Literal and len(get_args(hints[name])) == 1
        if (not inner and not kind) or cls.__name__.endswith("Budgets"):
            yield f"{cls.__name__}.{name}"


def patched(raw: Raw, patch: Patch) -> Raw:
    """A copy with each path of the patch set."""
    raw = copy.deepcopy(raw)
    for path, value in patch.items():
        *parents, last = path.split(".")
        node: Any = raw
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last) : int(last) + 1] = [copy.deepcopy(value)]
        else:
            node[last] = copy.deepcopy(value)
    return raw


# ---------------------------------------------------------------------- the engines that must agree


SIZE = 40


class Stream:
    """Batches of everything that moves state, for whatever the topics are called at the moment.

    ``after``: batches before the first one, and a switch if there were any.
    """

    def __init__(self, after: int = 0) -> None:
        self._feed = Feed()
        self._next = after * SIZE
        self._feed.seq = after + (after > 0)

    def batch(self, config: Config) -> Batch:
        """Events and the labels that are due; now and then a command, a leap in time."""
        topics, n = config.topics, SIZE
        i, self._next = self._next, self._next + n
        round_, days = i // n, i // n // 7
        ids = range(i, i + n)
        events = [
            event(j, START_MS + j * 60_000 + days * DAY_MS, customer=f"c{j % (9 + j // 20)}")
            for j in ids
        ]
        labels = [label(j) for j in range(max(0, i - 90), max(0, i + n - 90)) if j % 4]
        labels += [label(j) for j in range(i + 3 * n, i + 3 * n + 4)]  # before their events
        labels += [label(9_000 + 7 * round_ + j) for j in range(7)]  # of events that never come
        labels += [label(max(0, i - 70), not truth(max(0, i - 70)))]
        parts = [(topics.events, events), (topics.labels, labels)]
        if round_ % 5 == 2:
            parts.insert(0, (topics.control, [COMMANDS[round_ // 5 % len(COMMANDS)]]))
        return self._feed.batch(*parts)

    def switched(self) -> None:
        """A switch took a step's number."""
        self._feed.seq += 1


COMMANDS: list[Raw] = [
    {"command": "set_threshold", "threshold": 0.35},
    {"command": "freeze", "member": "prior"},
    {"command": "release", "member": "prior"},
    {"command": "freeze", "member": "linear"},
]


def engine_of(raw: Raw) -> ScoringEngine:
    return build_engine(parse(raw, "test"), None)


def alarmed(engine: ScoringEngine) -> ScoringEngine:
    """The engine with an alarm of its first member out of the blue, every 150 labels."""
    update = engine.drift.update

    def alarming(losses: Any, *rest: Any) -> list[Alarm]:
        before, after = engine.counts["learned"], engine.counts["learned"] + len(losses)
        forced = [Alarm("betting", engine.ensemble.names[0], 16.0, 15.0, 0)]
        return update(losses, *rest) + (forced if before // 150 < after // 150 else [])

    engine.drift.update = alarming  # type: ignore[method-assign]
    return engine


def restored(engine: ScoringEngine, directory: Path) -> ScoringEngine:
    """The engine by way of a generation on disk."""
    state = StateDirectory(directory / f"restored-{engine.seq}").open()
    snapshot = Snapshot(
        *("test", engine.seq, engine.digest, engine.clock_ms, {}, journaled(engine.config)),
        *(fingerprint(), engine.state(), engine.files()),
    )
    state.publish(state.write(snapshot), 2)
    loaded = next(iter(state.usable(lambda _: None, None)))
    again = alarmed(build_engine(recorded(loaded.manifest.config, "here"), None))
    again.restore(loaded.state, loaded.segments)
    state.close()
    return again


def switched(old: ScoringEngine, raw: Raw, journal: list[Any]) -> ScoringEngine:
    """The engine under another configuration; the switch goes into the journal as bytes do."""
    new = alarmed(engine_of(raw))
    tree = journaled(new.config)
    reconfigure(old, new, tree)
    journal.append(msgspec.json.decode(msgspec.json.encode(tree)))
    return new


def replayed(engine: ScoringEngine, journal: list[Any]) -> ScoringEngine:
    """The engine after every step and switch of a journal."""
    for entry in journal:
        if isinstance(entry, Batch):
            engine.step(entry)
        else:
            new = alarmed(build_engine(recorded(entry, "the journal"), None))
            reconfigure(engine, new, entry)
            engine = new
    return engine


def visible(out: Outputs) -> list[Any]:
    """Everything that a step makes visible."""
    rows = [*out.scores, *out.letters(), *out.audit]
    return [out.journal, *((r.key, r.value, r.headers) for r in rows)]


def step_alike(engines: list[ScoringEngine], batch: Batch) -> None:
    """The engines take a batch and give the same outputs."""
    ours, *others = [visible(engine.step(batch)) for engine in engines]
    assert all(other == ours for other in others)


STEPS = 12
"""Before the change."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Raw], ScoringEngine]:
    """A function that gives an engine after the first steps, again and again."""
    engine, stream = alarmed(engine_of(first(tmp_path_factory.mktemp("known")))), Stream()
    for _ in range(STEPS):
        engine.step(stream.batch(engine.config))
    assert engine.ensemble.challengers
    assert len(engine.early) > 10
    state, rows = engine.state(), engine.rows()

    def make(raw: Raw) -> ScoringEngine:
        again = alarmed(engine_of(raw))
        again.restore(state, rows)
        return again

    return make


# ---------------------------------------------------------------------- the tests


def test_no_setting_is_forgotten() -> None:
    """The table has a change of every setting there is, and of none that is gone."""
    seen: set[type[BaseModel]] = {RankingSettings}  # ``test_ranking.py`` has their changes
    found = {*settings_of(Config, seen)}
    for cls in classes(Feature):
        found |= {*settings_of(cls, seen)}
    assert sorted(CHANGES) == sorted(found)


@pytest.mark.parametrize("change", sorted({*CHANGES, *WHOLE} - REFUSED))
def test_a_switch_is_what_a_restart_makes_of_it(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine], change: str
) -> None:
    """Reconfigured live, restored after it, and replayed from the journal: one state, one digest.

    After each of the steps that follow the outputs are the same, at the end the whole state.
    """
    raw, stream, journal = first(tmp_path), Stream(STEPS), []
    engine = switched(known(raw), patched(raw, CHANGES.get(change) or WHOLE[change]), journal)
    again = restored(engine, tmp_path)
    assert again.state_digest() == engine.state_digest()
    for _ in range(6):
        journal.append(stream.batch(engine.config))
        step_alike([engine, again], journal[-1])
    whole = replayed(known(raw), journal)
    assert len({e.state_digest() for e in (engine, again, whole)}) == 1
    assert whole.digest == engine.digest


@pytest.mark.parametrize("combine", ["bagging", "boosting"])
def test_another_seed_draws_from_the_switch_on(tmp_path: Path, combine: str) -> None:
    """Live and after a restart: what a combiner draws goes by the seed that is configured."""
    raw, stream, journal = first(tmp_path), Stream(), []
    raw |= {"ensemble": {"combine": combine}, "drift": {}}
    old = alarmed(engine_of(raw))
    for _ in range(4):
        old.step(stream.batch(old.config))
    new = switched(old, raw | {"seed": 77}, journal)
    assert compare(old, new).lines() == compare(old, engine_of(raw)).lines()
    stream.switched()
    again = restored(new, tmp_path)
    for _ in range(3):
        step_alike([new, again], stream.batch(new.config))
    assert new.state_digest() == again.state_digest()


@pytest.mark.parametrize("change", sorted({*CHANGES, *WHOLE} - REFUSED))
def test_what_is_said_to_stay_stays(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine], change: str
) -> None:
    """Clocks, counts, tallies and early labels always; members and columns by name; and all of it
    where nothing is said to be new or lost."""
    raw = first(tmp_path)
    old, new = known(raw), engine_of(patched(raw, CHANGES.get(change) or WHOLE[change]))
    changes = compare(old, new)
    reconfigure(old, new, journaled(new.config))
    before, after = old.state(), new.state()
    always = {"clock_ms", "watermark_ms", "tallies"}
    if new.config.limits.early_labels >= len(old.early):
        always |= {"counts", "early"}
    for name in set(new.ensemble.names).difference(changes.staying):
        for counts in (before["counts"], after["counts"]):
            counts.pop(f"updates.{name}", None)  # it learns the history
    if not changes.fresh and not changes.lost and new.ensemble.names == old.ensemble.names:
        always |= {"features", "pending", "quality", "matured", "drift"}
        assert np.array_equal(new.pending.rows()[0], old.pending.rows()[0])
    for key in always:
        assert state_digest(after[key]) == state_digest(before[key]), key
    for name in changes.staying:
        assert new.ensemble.members[name].digest() == old.ensemble.members[name].digest()
    signals = ("ensemble", *changes.staying)
    for report in ("quality", "matured"):
        now, then = getattr(new, report).report(), getattr(old, report).report()
        assert str([now[n] for n in signals]) == str([then[n] for n in signals])
    ours, theirs = (
        # What a statistic is compared with is a setting.
        {str(r._replace(threshold=0.0)) for r in e.drift.readings() if r.signal in signals}
        for e in (new, old)
    )
    assert ours == theirs


@pytest.mark.parametrize("change", sorted(REFUSED))
def test_what_a_shard_keeps_for_life_is_refused(tmp_path: Path, change: str) -> None:
    """The sentence names the setting, both values and the ways out; nothing has moved."""
    old = engine_of(first(tmp_path))
    stream = Stream()
    old.step(stream.batch(old.config))
    before = old.state_digest()
    new = engine_of(patched(first(tmp_path), CHANGES[change]))
    with pytest.raises(Irreconcilable, match=r"expected '.*', got '.*Put (the old name|it) back"):
        compare(old, new)
    with pytest.raises(Irreconcilable):
        reconfigure(old, new, journaled(new.config))
    assert old.state_digest() == before


def test_early_labels_over_a_lower_bound_leave_with_the_switch(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine]
) -> None:
    """The oldest first, each as a dead letter that is counted: nothing is silent."""
    raw = first(tmp_path)
    old, new = known(raw), engine_of(patched(raw, {"limits.early_labels": 5}))
    over = len(old.early) - 5
    out = reconfigure(old, new, journaled(new.config))
    assert reasons(out.dead_letters) == ["label_orphan"] * over
    assert new.counts["dead.label_orphan"] - old.counts["dead.label_orphan"] == over
    assert len(new.early) == 5


@pytest.mark.parametrize("commanded", [False, True])
def test_a_changed_threshold_reaches_all_who_judge_by_it(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine], commanded: bool
) -> None:
    """That of the configuration where it changed, else that of the last command."""
    raw, journal = first(tmp_path), []
    old = known(raw)
    assert old.threshold == 0.35  # by a command
    patch = {"limits.batch": 32} if commanded else {"ensemble.threshold": 0.2}
    new = switched(old, patched(raw, patch), journal)
    assert new.threshold == (0.35 if commanded else 0.2)
    for judge in (new.quality, new.matured):
        before = judge.report()["prior"]["all"]["effective_samples"]
        alerts = judge.state()["sums"][0, 2, 1, 1]
        p = np.full((1, 4), 0.3)
        judge.update(p, np.ones(1), np.ones(1, bool))
        assert judge.report()["prior"]["all"]["effective_samples"] == before + 1
        assert judge.state()["sums"][0, 2, 1, 1] - alerts == (not commanded)


def test_a_new_member_is_judged_by_what_it_scored(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine]
) -> None:
    """It learns the events that wait, with no weight; their labels tell nothing of its scores."""
    raw, stream, journal = first(tmp_path), Stream(STEPS), []
    old = known(raw)
    more = copy.deepcopy(raw)
    more["members"].insert(1, NEW)
    new = switched(old, more, journal)
    weights = new.ensemble.combiner.state()["weights"]
    assert weights[1] == 0
    assert np.delete(weights, 1).tolist() == old.ensemble.combiner.state()["weights"].tolist()
    new.step(stream.batch(new.config))  # labels of events from before the switch
    assert new.counts["updates.new"] > 0
    assert new.quality.report()["new"]["all"]["effective_samples"] == 4  # whose labels were early
    assert abs(new.ensemble.combiner.state()["weights"][1]) < 0.01  # moved by these four alone
    for _ in range(4):
        new.step(stream.batch(new.config))
    assert 0 < new.quality.report()["new"]["all"]["effective_samples"] < 160
    assert new.ensemble.combiner.state()["weights"][1] != 0


def test_only_what_learned_can_be_lost(tmp_path: Path) -> None:
    """Before the first label members and combiner start new and nothing is lost by it."""
    old, stream = engine_of(first(tmp_path)), Stream()
    new = engine_of(patched(first(tmp_path), WHOLE["other members altogether"]))
    assert compare(old, new).lost == []
    for _ in range(4):
        old.step(stream.batch(old.config))
    assert compare(old, new).lost == [
        *("member linear", "member prior", "member forest", "combiner stack")
    ]


def test_what_is_lost_is_named(tmp_path: Path, known: Callable[[Raw], ScoringEngine]) -> None:
    """Another column: all members, the combiner, its feature's memory, and who waits for labels."""
    old = known(first(tmp_path))
    new = engine_of(patched(first(tmp_path), CHANGES["WindowFeature.entity"]))
    assert compare(old, new).lost == [
        *("member linear as it was", "member prior as it was", "member forest as it was"),
        *("combiner stack", "feature customer"),
        f"{old.pending.waiting} pending events (the columns changed)",
        f"{len(old.history)} learned rows (the columns changed)",
    ]


def amount(**settings: Any) -> Patch:
    return {"event.fields.amount": {"kind": "number"} | settings}


@pytest.mark.parametrize(
    ("patch", "forgotten"),
    [
        (amount(path="value"), ["amount", "customer"]),
        (amount(default=1.5), ["amount", "customer"]),
        ({"event.fields.amount": "boolean"}, ["amount", "customer"]),
        (CHANGES["FieldSettings.values"], []),
        ({"event.fields.terminal": {"kind": "entity", "values": {"t0": "t1"}}}, ["terminal"]),
    ],
)
def test_a_field_that_means_something_else_changes_what_is_made_of_it(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine], patch: Patch, forgotten: list[str]
) -> None:
    """Its features' memories begin anew, so do members and pending events; all of it is told."""
    raw, journal = first(tmp_path), []
    old, stream = known(raw), Stream(STEPS)
    new = engine_of(patched(raw, patch))
    changes = compare(old, new)
    memories = [name for name in old.features.memories() if name not in forgotten]
    assert [f"feature {name}" for name in memories] == [
        line for line in changes.kept if line.startswith("feature")
    ]
    assert changes.lost == [
        *("member linear as it was", "member prior as it was", "member forest as it was"),
        *("combiner stack", *(f"feature {name}" for name in forgotten)),
        f"{old.pending.waiting} pending events (the columns changed)",
        f"{len(old.history)} learned rows (the columns changed)",
    ]
    new = switched(old, patched(raw, patch), journal)
    kept = new.features.state()
    for name, state in old.features.state()["tables"].items():
        same = state_digest(kept["tables"][name]) == state_digest(state)
        assert same == (name not in forgotten)
    assert (kept["numbers"].any()) == ("amount" not in forgotten)
    assert new.ensemble.cold
    again = restored(new, tmp_path)
    step_alike([new, again], stream.batch(new.config))


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ({}, {"required": False}, True),
        ({}, {"path": "/amount"}, True),
        ({}, {"decimal": ","}, True),
        ({"decimal": ","}, {}, True),
        ({"decimal": ","}, {"decimal": "."}, False),
        ({"decimal": "."}, {"decimal": ".", "thousands": ","}, False),
    ],
)
def test_a_field_that_takes_more_or_less_means_the_same(
    tmp_path: Path, before: Raw, after: Raw, same: bool
) -> None:
    """What was taken before meant the same: only other marks read the same text otherwise."""
    raw = first(tmp_path)
    old, new = (engine_of(patched(raw, amount(**settings))) for settings in (before, after))
    assert compare(old, new).same_columns == same


@pytest.mark.parametrize("change", ["a written default", "WindowFeature.max_entities"])
def test_what_means_the_same_is_no_change(
    tmp_path: Path, known: Callable[[Raw], ScoringEngine], change: str
) -> None:
    """A default that is written out and another bound leave every part as it was."""
    patch = CHANGES.get(change) or WHOLE[change]
    old, new = known(first(tmp_path)), engine_of(patched(first(tmp_path), patch))
    changes = compare(old, new)
    assert (changes.fresh, changes.lost) == ([], [])
    assert not any(changes.differences.values())


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_every_parameter_of_a_member_is_part_of_its_definition(tmp_path: Path, name: str) -> None:
    """A member with any other parameter is another one, and the key is on record."""
    base: Raw = {"name": "m", "type": name}
    if name == "river":
        base["model"] = "river.naive_bayes.GaussianNB"
    params = member_class(name).Params
    for key, value in other_parameters(params):
        raw = first(tmp_path)
        raw["members"] = [base]
        changed = copy.deepcopy(raw)
        changed["members"] = [base | {key: value}]
        try:
            one, other = parse(raw, "one"), parse(changed, "other")
        except ConfigError:
            continue  # parameters that exclude each other
        assert differing_keys(one.members[0], other.members[0], "binary") == [key]


def other_parameters(params: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Each parameter with a number, a switch or a choice, and a value that is not its default."""
    for key, field in params.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            yield key, not default
        elif isinstance(default, int):
            yield key, default + 1
        elif isinstance(default, float):
            yield key, default / 2 if default else 0.25
        elif get_origin(field.annotation) is Literal:
            yield key, next(v for v in get_args(field.annotation) if v != default)


@settings(max_examples=8)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from(sorted({*CHANGES, *WHOLE} - REFUSED)),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_any_sequence_of_changes(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, bool]]
) -> None:
    """Whatever is changed after what, with restarts or without: the digest is that of one run."""
    tmp_path = tmp_path_factory.mktemp("sequence")
    raw = first(tmp_path)
    stream, journal = Stream(), []
    engine, again = (alarmed(engine_of(raw)) for _ in range(2))
    start = raw
    for n, change, restart in steps:
        for _ in range(n):
            journal.append(stream.batch(engine.config))
            step_alike([engine, again], journal[-1])
        try:
            after = patched(raw, CHANGES.get(change) or WHOLE[change])
            parse(after, "test")
        except (ConfigError, IndexError, KeyError):
            continue  # not on top of what was changed before
        raw = after
        engine, again = switched(engine, raw, journal), switched(again, raw, [])
        stream.switched()
        again = restored(again, tmp_path) if restart else again
    journal.append(stream.batch(engine.config))
    step_alike([engine, again], journal[-1])
    assert again.state_digest() == engine.state_digest()
    whole = replayed(alarmed(engine_of(start)), journal)
    assert whole.state_digest() == engine.state_digest()
