"""One shard under test: its configuration on disk, its log, and its topics read back.

Reads what stands in the topics without the code under test where that is easy: Kafka by a plain
consumer, SQLite by its tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stream.contract.log import Log
from stream.contract.records import Record
from stream.logs.sqlite.io import Connection, partitions_of, select
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.load import load
from stream.settings.schema import Config, EmbeddedLogSettings, KafkaLogSettings
from tests.faults.traffic import HORIZON, RECORD_BYTES, RankingTraffic, Traffic
from tests.support.broker import unique
from tests.support.waiting import PATIENT

PARTITIONS = 2
MEMBERS: list[dict[str, Any]] = [
    {"name": "linear", "type": "logistic"},
    {"name": "prior", "type": "constant", "probability": 0.1},
    {
        "name": "bayes",
        "type": "river",
        "model": "river.compose.Pipeline",
        "steps": [
            {"model": "river.preprocessing.StandardScaler"},
            {"model": "river.linear_model.LogisticRegression"},
        ],
    },
]


_PLAIN = [
    {"name": "amount", "type": "number", "field": "amount", "transform": "log1p"},
    {"name": "category", "type": "category", "field": "category", "buckets": 16},
    {"name": "count", "type": "window", "entity": "customer", "windows": ["1d"]},
]
TASKS: dict[str, dict[str, Any]] = {
    "binary": {},
    "classes": {
        "target": {"type": "classes", "classes": ["true", "false", "never"], "alert": "true"},
        "label": {"field": "fraud", "horizon": HORIZON, "at_horizon": "false"},
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "forest", "type": "forest", "trees": 3},
            {
                "name": "bayes",
                "type": "river",
                "model": "river.naive_bayes.GaussianNB",
            },
        ],
    },
    "open": {
        "target": {
            "type": "classes",
            "classes": ["true", "false"],
            "max_classes": 8,
            "alert": "true",
        },
        "label": {"field": "team", "horizon": HORIZON, "at_horizon": "false"},
        "members": [
            {"name": "linear", "type": "logistic", "class_weights": {"team 1": 2.0}},
            {"name": "forest", "type": "forest", "trees": 3},
            {
                "name": "bayes",
                "type": "river",
                "model": "river.naive_bayes.GaussianNB",
            },
        ],
    },
    "number": {
        "target": {"type": "number", "minimum": 0, "maximum": 100, "alert_above": 12},
        "label": {"field": "minutes", "horizon": HORIZON, "at_horizon": "0"},
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "crossed", "type": "crossed"},
            {"name": "bayes", "type": "boosting"},
        ],
        "features": _PLAIN,
    },
    "ranking": {
        "target": {"type": "ranking"},
        "event": {"time_format": "ms", "fields": {"size": "number"}},
        "label": {"horizon": HORIZON},
        "guard": None,
        "reco": {"explore": {"temperature": 1.0}, "ratings": {}},
        "features": [
            {"name": "utility", "type": "number", "field": "utility", "scale": "standard"},
            {"name": "size", "type": "number", "field": "size"},
            {"name": "pair", "type": "window", "entity": "pair", "windows": ["1h", "1d"]},
            {"name": "rate", "type": "risk", "entity": "item", "delay": "0s", "windows": ["1d"]},
        ],
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "forest", "type": "forest", "trees": 3},
        ],
    },
}
"""What each kind of target changes of the configuration; the records are the same, but
for rankings. ``open``: classes that enter by their labels."""


def raw_config(directory: Path, log: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Windows, risk features, three kinds of member, and checkpoints several times a second."""
    from tests.support.factory import raw_config as small

    names = ("events", "labels", "control", "scores", "dead_letters", "audit")
    topics = {n: unique(n) for n in names} if log["type"] == "kafka" else {}
    raw = small(
        directory,
        log=log,
        name=unique("shard"),
        topics=topics | {"partitions": PARTITIONS},
        label={"field": "fraud", "horizon": HORIZON},
        members=MEMBERS,
        ensemble={"combine": "stack"},
        checkpoints={"interval": "300ms", "recovery_budget": "1s"},
        versions={"every": "1h", "keep": 5},
        challengers={"block": "1h", "rows": 20},
        guard={"on_worse": "rollback", "false_every": 2, "renew": "12h"},
        limits={"record_bytes": RECORD_BYTES, "batch": 256},
    )
    raw.update(changes)
    return {key: value for key, value in raw.items() if value is not None}


class Shard:
    """A directory with ``config.toml``, and everything a fault needs to reach.

    Parameters
    ----------
    directory : Path
        Made when missing; holds the configuration, the state, and the embedded log.
    log : dict or None
        The ``[log]`` table; ``None``: the embedded log in ``directory``.
    direct : str
        Bootstrap address by which the tests reach the cluster, when the service has another one.
    changes
        Keys of the configuration to replace.
    """

    def __init__(
        self,
        directory: Path,
        log: dict[str, Any] | None = None,
        direct: str = "",
        **changes: Any,
    ) -> None:
        self._direct = direct
        log = log or {"type": "embedded", "path": str(directory / "log.db"), "timeout": PATIENT}
        self._write(directory, raw_config(directory, log, **changes))

    def sibling(self, directory: Path, **changes: Any) -> Shard:
        """The same shard on the same log with a configuration, and a state, in a directory of its
        own: what a replacement on another machine would have."""
        made = object.__new__(Shard)
        made._direct = self._direct
        made._write(directory, self.raw | {"state_dir": str(directory / "state")} | changes)
        return made

    def change(self, raw: dict[str, Any]) -> None:
        """Give the shard, whose service has ended, another configuration."""
        self.renew_log()
        self._write(self.directory, raw)

    def _write(self, directory: Path, raw: dict[str, Any]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.raw = raw
        self.path = directory / "config.toml"
        self.path.write_text("".join(f"{k} = {toml(v)}\n" for k, v in self.raw.items()))
        self.config: Config = load(self.path, {})
        environ = {"MILLRACE_LOG__BOOTSTRAP": self._direct} if self._direct else {}
        self._reach = load(self.path, environ)
        self._log: Log | None = None

    def traffic(self, seed: int) -> Traffic:
        """Input that it can read."""
        return (Traffic if self.config.reco is None else RankingTraffic)(seed)

    @property
    def log(self) -> Log:
        """A log beside the service's: appends, journal, ranges, lag. Never opened as the shard."""
        if self._log is None:
            self._log = open_log(self._reach, wall_clock_ms)
        return self._log

    def renew_log(self) -> None:
        """Let go of the log's connections, for a new one on next use."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def topic(self, name: str) -> str:
        """The topic that plays the role ``events``, ``labels``, ``scores``, ..."""
        if name in ("journal", "models"):
            own: str = getattr(self.config, f"{name}_topic")
            return own
        found: str = getattr(self.config.topics, name)
        return found

    def records(self, name: str) -> list[list[Record]]:
        """Every committed record of a topic, by partition, in offset order."""
        log = self._reach.log
        if isinstance(log, KafkaLogSettings):
            return _kafka_records(log, self.topic(name))
        return _embedded_records(log, self.topic(name))

    def waiting(self) -> int:
        """Input records that no committed step has taken."""
        return sum(self.log.lag().values())


def _embedded_records(log: EmbeddedLogSettings, topic: str) -> list[list[Record]]:
    connection = Connection(log.path, log.timeout)
    try:
        with connection.snapshot() as db:
            parts = partitions_of(db, [topic])
            return [select(db, part, part.first, part.next - part.first) for part in parts]
    finally:
        connection.close()


def _kafka_records(log: KafkaLogSettings, topic: str) -> list[list[Record]]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(
        bootstrap_servers=log.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="none",
        metrics_enabled=False,
    )
    try:
        found = []
        for number in sorted(consumer.partitions_for_topic(topic) or ()):
            tp = TopicPartition(topic, number)
            [end] = consumer.end_offsets([tp]).values()
            consumer.assign([tp])
            consumer.seek_to_beginning(tp)
            rows: list[Record] = []
            while consumer.position(tp) < end:
                for raw in consumer.poll(timeout_ms=500).get(tp, ()):
                    rows.append(
                        Record(
                            topic,
                            number,
                            raw.offset,
                            raw.key,
                            raw.value,
                            raw.timestamp,
                            tuple((k, v) for k, v in raw.headers or ()),
                        )
                    )
            found.append(rows)
        return found
    finally:
        consumer.close(timeout_ms=1000)


def toml(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(v) for v in value) + "]"
    return json.dumps(value)
