"""A service of scorers and a learner without a log: engines, and lists for topics between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xxhash

from stream.contract.outputs import Outputs
from stream.contract.records import Batch, NewRecord, Range, Record, Slice
from stream.run.assemble import build_engine
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.support.factory import DAY_MS, START_MS, raw_config, to_json
from tests.support.log_harness import kafka_table

CLOCK_MS = START_MS + 400 * DAY_MS
FEATURES = [
    {"name": "amount", "type": "number", "field": "amount", "transform": "log1p"},
    {"name": "category", "type": "category", "field": "category", "buckets": 16},
    {
        "name": "customer",
        "type": "window",
        "entity": "customer",
        "value": "amount",
        "windows": ["1d", "7d"],
        "stats": ["count", "mean"],
    },
    {"name": "risk", "type": "risk", "entity": "customer", "delay": "1h", "windows": ["7d"]},
]
"""Those whose windows are of the entity by which events are spread."""
RISK = {
    "name": "shop",
    "type": "risk",
    "entity": "terminal",
    "delay": "6h",
    "windows": ["4h", "1d"],
    "stats": ["count", "risk"],
}
"""Of an entity that several scorers see."""


def raw(directory: Path, count: int = 1, bootstrap: str = "127.0.0.1:9", **changes: Any) -> Any:
    """The file of a service with so many scorers, without a role."""
    tree = raw_config(directory, log=kafka_table(bootstrap), **{"features": FEATURES} | changes)
    tree["shard"] = {"count": count, "every": "1ms"} | changes.get("shard", {})
    tree["topics"] = {"partitions": 2 * count} | changes.get("topics", {})
    return tree


def of_role(tree: dict[str, Any], role: str, index: int = 0) -> Config:
    """The configuration of one of its processes."""
    own = {"role": role, "index": index} if role == "scorer" else {"role": role}
    return parse(tree | {"shard": tree["shard"] | own}, "test")


def whole(tree: dict[str, Any]) -> Config:
    """The same as one process."""
    return parse({k: v for k, v in tree.items() if k != "shard"}, "test")


def partition(value: dict[str, Any], partitions: int, key: str = "customer") -> int:
    """Where an event belongs by its entity."""
    return xxhash.xxh3_64_intdigest(str(value[key]).encode()) % partitions


def contents(made: Sequence[NewRecord]) -> list[bytes]:
    """The values of records."""
    return [r.value or b"" for r in made]


class Part:
    """One process: its engine, and what it reads."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.engine: Any = build_engine(config, None)
        self.offsets: dict[tuple[str, int], int] = {}
        self.batches: list[Batch] = []

    def step(self, *parts: tuple[str, int, list[Any]], quiet: bool = False) -> Outputs:
        """One step of ``(topic, partition, values)``; values that are not bytes become JSON."""
        slices = []
        for topic, number, values in parts:
            at = self.offsets.get((topic, number), 0)
            rows = [
                Record(topic, number, at + i, None, v if isinstance(v, bytes) else to_json(v))
                for i, v in enumerate(values)
            ]
            self.offsets[topic, number] = at + len(rows)
            slices.append(Slice(Range(topic, number, at, at + len(rows) - 1, len(rows)), rows))
        batch = Batch(self.engine.seq + 1, CLOCK_MS, slices, quiet=quiet)
        self.batches.append(batch)
        done: Outputs = self.engine.step(batch)
        return done


def assert_goes_on(part: Part, cut: int) -> None:
    """A process replays to the same bits, and from its state after ``cut`` steps, too."""
    again, restored = Part(part.config), Part(part.config)
    for batch in part.batches[:cut]:
        again.engine.step(batch)
    restored.engine.restore(again.engine.state(), again.engine.rows())
    for batch in part.batches[cut:]:
        again.engine.step(batch)
        restored.engine.step(batch)
    wanted = part.engine.digest, part.engine.state_digest()
    assert (again.engine.digest, again.engine.state_digest()) == wanted
    assert (restored.engine.digest, restored.engine.state_digest()) == wanted


class Scaled:
    """Scorers and a learner, one step of each at a time.

    Attributes
    ----------
    outputs : list of Outputs
        Of the scorers' steps, in order.
    examples : list of list of bytes
        By scorer, all that were handed over.
    models : list of bytes
        The pieces of every version.
    risk : list of list of bytes
        By scorer, all that it told the others.
    routes : list of list of bytes
        By scorer, all of labels and events that others told it.
    """

    def __init__(self, tree: dict[str, Any]) -> None:
        count = tree["shard"]["count"]
        self.scorers = [Part(of_role(tree, "scorer", i)) for i in range(count)]
        self.learner = Part(of_role(tree, "learner"))
        self.outputs: list[Outputs] = []
        self.examples: list[list[bytes]] = [[] for _ in self.scorers]
        self.models: list[bytes] = []
        self.risk: list[list[bytes]] = [[] for _ in self.scorers]
        self.routes: list[list[bytes]] = [[] for _ in self.scorers]
        self._told = [[0] * count for _ in self.scorers]
        self._routed = [0] * count
        self._taken = [0] * count
        self._learned = [0] * count

    def score(self, index: int, *parts: tuple[str, int, list[Any]], hear: bool = True) -> Outputs:
        """A step of one scorer, which first takes the versions that have come since its last.

        ``hear``: and what other scorers have told.
        """
        scorer = self.scorers[index]
        fresh = self.models[self._taken[index] :]
        self._taken[index] = len(self.models)
        taken = [(scorer.config.models_topic, 0, fresh)] if fresh else []
        if hear:
            taken += self._heard(index)
        made = scorer.step(*taken, *parts, quiet=not any(topic == "events" for topic, *_ in parts))
        self.outputs.append(made)
        self.examples[index] += contents(made.handed[scorer.config.examples_topic])
        self.risk[index] += contents(made.handed.get(scorer.config.risk_topic, ()))
        for record in made.handed.get(scorer.config.routes_topic, ()):
            self.routes[record.partition or 0].append(record.value or b"")
        return made

    def _heard(self, index: int) -> list[tuple[str, int, list[Any]]]:
        topic, told = self.scorers[index].config.risk_topic, self._told[index]
        found: list[tuple[str, int, list[Any]]] = []
        for i, risk in enumerate(self.risk):
            if i != index and (fresh := risk[told[i] :]):
                found.append((topic, i, fresh))
                told[i] = len(risk)
        if fresh := self.routes[index][self._routed[index] :]:
            found.append((self.scorers[index].config.routes_topic, index, fresh))
            self._routed[index] = len(self.routes[index])
        return found

    def learn(self) -> Outputs:
        """A step of the learner with all examples that it has not seen."""
        parts = []
        for i, handed in enumerate(self.examples):
            if fresh := handed[self._learned[i] :]:
                parts.append((self.learner.config.examples_topic, i, fresh))
                self._learned[i] = len(handed)
        made = self.learner.step(*parts)
        self.models += contents(made.handed.get(self.learner.config.models_topic, ()))
        return made
