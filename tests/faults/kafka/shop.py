"""A service that ranks, of scorers and a learner: its configuration, and what it must come to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from models.base import state_digest
from stream.decode.feedback import Interaction
from stream.step.ranking.known import digest_of, scored_by
from stream.step.ranking.news import News, NewsReader
from stream.step.roles.examples import meaning
from stream.step.roles.versions import Version
from tests.faults.shard import TASKS, Shard
from tests.faults.traffic import Traffic

FIELDS: dict[str, Any] = {name: {"kind": "number", "default": -3.0} for name in ("utility", "size")}
CHANGES: dict[str, Any] = TASKS["ranking"] | {
    "event": {"time_format": "ms", "fields": FIELDS},
    "features": [
        {"name": "utility", "type": "number", "field": "utility"},
        {"name": "size", "type": "number", "field": "size"},
        {"name": "pair", "type": "window", "entity": "pair", "windows": ["1h", "1d"]},
        {"name": "rate", "type": "risk", "entity": "item", "delay": "20m", "windows": ["1d"]},
    ],
    "challengers": None,
}
"""Of the configuration of a service that scores events; two stages, and risk that all see."""

COMMANDS: tuple[dict[str, Any], ...] = (
    {"command": "freeze", "member": "ratings"},
    {"command": "checkpoint"},
    {"command": "freeze", "member": "recommender"},
    {"command": "release", "member": "recommender"},
    {"command": "release", "member": "ratings"},
    {"command": "rollback", "to": "last_good"},
)
"""An operator's, which the learner follows or refuses."""


class End(NamedTuple):
    """What a process came to; ``waiting``: deeds that it has not had back."""

    known: str
    scores_by: str
    version: Version
    counts: Counter[str]
    waiting: int

    @classmethod
    def of(cls, engine: Any) -> End:
        """Of the process with this engine."""
        waiting = len(engine.ahead) if engine.config.shard.role == "scorer" else 0
        by = state_digest(scored_by(engine)), engine.reranker.trials.tolist()
        return cls(
            digest_of(engine), str(by), engine.versions.current, engine.counts.copy(), waiting
        )


def problems(shard: Shard, traffic: Traffic, ends: dict[str, End]) -> Iterator[str]:
    """What is wrong with a service whose processes have ended, the learner last."""
    ids, others = _deeds(shard, traffic)
    n = len(ids) + others
    news = list(_news(shard))
    deeds = [what for one in news for what, _ in one.deeds]
    back = Counter(what.id for what in deeds if isinstance(what, Interaction))
    if back != Counter(dict.fromkeys(ids, 1)) or len(deeds) != n:
        yield f"news: expected {len(ids)} interactions, each once, and {others} deeds more"
    if [one.version.number for one in news] != list(range(1, len(news) + 1)):
        yield "news: their numbers have gaps"
    *scorers, learner = ends.values()
    if (took := learner.counts["deeds.taken"]) != n:
        yield f"learner: expected {n} deeds, got {took}"
    if len({end.scores_by for end in scorers}) != 1:
        yield "scorers: score places by different members"
    if (handed := sum(end.counts["deeds.handed"] for end in scorers)) != n:
        yield f"scorers: expected {n} deeds handed over, got {handed}"
    for name, end in ends.items():
        if end.version != news[-1].version:
            yield f"{name}: expected version {news[-1].version}, got {end.version}"
        if end.known != learner.known:
            yield f"{name}: knows something else than the learner"
        if end.waiting:
            yield f"{name}: {end.waiting} deeds wait that it has had back"
    for end in scorers:
        if end.counts["followed"] != len(ids):
            yield f"scorers: expected {len(ids)} interactions, followed {end.counts['followed']}"


def _deeds(shard: Shard, traffic: Traffic) -> tuple[set[str], int]:
    """The ids of interactions that stand in the topic, and how many deeds more do."""
    ids, others = set[str](), 0
    for part in shard.records("events"):
        for record in part:
            if traffic.kind(record.value).what != "feedback":
                continue
            told = json.loads(record.value or b"")
            if told["event"] == "interaction":
                ids.add(told["id"])
            else:
                others += told["event"] != "ranking"  # a list is nobody's but its scorer's
    return ids, others


def _news(shard: Shard) -> Iterator[News]:
    """All that the learner gave, each checked to follow on that before."""
    reader = NewsReader(meaning(shard.config), lambda spec: None)
    for record in shard.records("models")[0]:
        if (news := reader.take(record.value)) is not None:
            yield news
