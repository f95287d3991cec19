"""What `millrace check` tries out: members on a few made-up events of the configured schema.

A member that would raise at its first label is found before it is one of a running service. Nothing
is kept: the members are built for this alone. And up to which rate events wait for their labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from models.base import F64, U64, EventColumns, FeatureBatch, Model
from models.ensemble.ensemble import Ensemble, MemberError
from models.features.stage import FeatureStage
from models.settings import format_duration
from stream.contract.hashing import hash_text
from stream.run.assemble import member_maker, room, row_bytes
from stream.settings.schema import Config
from stream.state.room import free_room

FIRST_MS = 1_767_225_600_000
ROWS = 8
TEXTS = ("category", "entity")


def rehearse(config: Config) -> list[str]:
    """A line for each member that cannot be built, or fails to score or learn."""
    features = FeatureStage(config.features)
    task = config.member_task()
    make = member_maker(config, features.schema, task)
    place = {m.name: f"members[{i}]" for i, m in enumerate(config.members)}
    problems: dict[str, str] = {}
    members: dict[str, Model] = {}
    for name in place:
        try:
            members[name] = make(name, 0)
        except Exception as error:  # noqa: BLE001 - a member may refuse to be built by any error
            problems[name] = f"member {name!r} cannot be built: {type(error).__name__}: {error}"
    if members:
        ensemble = Ensemble(members, config.ensemble.combine, config.seed, task=task)
        for x in map(features.transform, _events(config)):
            problems |= {failed.member: str(failed) for failed in _tried(ensemble, x)}
    tried = "expected to work on made-up events of this schema"
    return [f"{place[name]}: {tried}, but {why}" for name, why in problems.items()]


class Holds(NamedTuple):
    """How many events wait for a label at most, what they take, and up to which rate they may."""

    events: int
    bytes: int
    per_s: float


def holds(config: Config) -> Holds:
    """Where the configuration leaves it to the disk: as a first step would find it now."""
    row = row_bytes(config)
    events = room(config, row)
    if events is None:
        events = max(free_room(config.state_dir, row), config.limits.batch)
    return Holds(events, events * row, events / (config.label.horizon / 1000))


def part(config: Config) -> str:
    """What a process of many does of its service; empty where it does all."""
    shard, topics = config.shard, config.topics
    if config.reco is not None and shard.role != "all":
        return _part_of_ranking(config)
    if shard.role == "learner":
        trains = f", trains {', '.join(config.trains)} by it" if config.trains else ""
        return (
            f"learner: judges and learns what {shard.count} scorers hand over in"
            f" {config.examples_topic}{trains}; a version of the members every"
            f" {format_duration(shard.every)} of event time in {config.models_topic}; no"
            " guard, which sees events as they are scored"
        )
    if shard.role == "scorer":
        where = _own(config)
        labels = f" and {topics.labels}; labels come to the partition of their event"
        if shard.labels == "any":
            labels = f", and each of {topics.labels} that is {shard.index} modulo {shard.count}"
        if config.routed:
            labels += f"; labels go on to their event's scorer in {config.routes_topic}"
        return (
            f"scorer {shard.index} of {shard.count}: {where}{labels};"
            f" learns nothing, takes versions from {config.models_topic}"
        )
    return ""


def _part_of_ranking(config: Config) -> str:
    shard, examples, models = config.shard, config.examples_topic, config.models_topic
    if shard.role == "learner":
        return (
            f"learner: learns what users do, and is told of items and users, as {shard.count}"
            f" scorers hand it over in {examples}, and gives it back in {models}, in one order;"
            " answers nobody"
        )
    return (
        f"scorer {shard.index} of {shard.count}: {_own(config)}; answers requests by all that"
        f" {models} says, hands what users do over in {examples}; learns nothing itself"
    )


def _own(config: Config) -> str:
    """Which events a scorer reads."""
    topic = config.topics.events
    own = [p for p in range(config.topics.partitions) if config.reads(topic, p)]
    return f"partitions {', '.join(map(str, own))} of {topic}"


def _tried(ensemble: Ensemble, x: FeatureBatch) -> Iterator[MemberError]:
    """What goes wrong as rows are scored and then learned, with truths that alternate."""
    while True:
        try:
            links, _ = ensemble.score(x)
            break
        except MemberError as error:
            ensemble.quarantine(error.member)
            yield error
    y = ensemble.task.examples(len(x))
    one_by_one = [np.array([i]) for i in range(len(x))]
    for rows in (*one_by_one, np.arange(len(x))):
        for failed in ensemble.learn(x.take(rows), links[rows], y[rows], np.ones(len(rows))):
            ensemble.quarantine(failed.member)
            yield failed


def _events(config: Config) -> Iterator[EventColumns]:
    """Plain events, events of which all that may be missing is, and events like none before."""
    kinds = {name: field.kind for name, field in config.event.fields.items()}
    rng = np.random.default_rng(0)

    def numbers(spread: float) -> dict[str, F64]:
        drawn = {name: rng.exponential(spread, ROWS) for name, k in kinds.items() if k == "number"}
        booleans = [name for name, kind in kinds.items() if kind == "boolean"]
        return drawn | {name: rng.integers(0, 2, ROWS).astype(np.float64) for name in booleans}

    def texts(kind: str, first: int) -> dict[str, U64]:
        names = [name for name, k in kinds.items() if k == kind]
        return {
            n: np.array([hash_text(f"{n}{first + i % 3}") for i in range(ROWS)], np.uint64)
            for n in names
        }

    at_ms = FIRST_MS + np.arange(ROWS) * 60_000
    for spread, first in ((50.0, 0), (1e6, 3)):
        yield EventColumns(at_ms, numbers(spread), texts("category", first), texts("entity", first))
        at_ms = at_ms + ROWS * 60_000
        none = {name: np.full(ROWS, np.nan) for name in numbers(spread)}
        absent = [dict.fromkeys(texts(k, 0), np.zeros(ROWS, np.uint64)) for k in TEXTS]
        yield EventColumns(at_ms, none, *absent)
        at_ms = at_ms + ROWS * 60_000
