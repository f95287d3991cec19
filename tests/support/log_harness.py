"""Makes logs of either kind over one store, for the contract tests and those of each log."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from stream.contract.log import Log, LogUnavailable
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Range, Record, Slice
from stream.logs.kafka.log import KafkaLog
from stream.logs.sqlite.log import SqliteLog
from stream.settings import schema as settings
from stream.settings.load import parse as parse_config
from tests.support.broker import unique
from tests.support.waiting import DEADLINE_S, PATIENT, wait_until

T = TypeVar("T")

DIGEST = "0" * 32


def now_ms() -> int:
    """The wall clock: brokers refuse timestamps far from theirs."""
    return int(time.time() * 1000)


def parse(log: dict[str, Any], name: str = "shard", **topics: Any) -> settings.Config:
    """A small configuration around a log."""
    return parse_config(
        {
            "name": name,
            "log": log,
            "topics": topics,
            "event": {"fields": {"amount": "number"}},
            "features": [{"name": "amount", "type": "number", "field": "amount"}],
            "members": [{"name": "constant", "type": "constant"}],
        },
        "test",
    )


class Store:
    """One embedded file, or one set of topics on a broker; opens any number of logs over it."""

    def __init__(self, log: dict[str, Any], partitions: int = 1, **topics: Any) -> None:
        topics |= {"partitions": partitions}
        self.config = parse(log, unique("shard"), **topics)
        if log["type"] == "kafka":
            names = {
                topic: unique(topic)
                for topic in ("events", "labels", "control", "scores", "dead_letters", "audit")
            }
            self.config = parse(log, self.config.name, **names, **topics)
        self._logs: list[Log] = []

    def log(self, clock_ms: Callable[[], int] = now_ms) -> Log:
        """A log that was not opened."""
        kind = SqliteLog if isinstance(self.config.log, settings.EmbeddedLogSettings) else KafkaLog
        log: Log = kind(self.config, clock_ms)
        self._logs.append(log)
        return log

    def opened(self) -> Log:
        """A log that is open and stands at the oldest record of every input."""
        log = self.log()
        log.open()
        log.seek({})
        return log

    def close(self) -> None:
        """Close every log."""
        for log in self._logs:
            log.close()


def embedded(path: Path, partitions: int = 1, **topics: Any) -> Store:
    """A store in one SQLite file."""
    table = {"type": "embedded", "path": str(path / "log.db"), "timeout": PATIENT}
    return Store(table, partitions, **topics)


def kafka(bootstrap: str, partitions: int = 1, **options: Any) -> Store:
    """A store in topics of its own on a broker."""
    return Store(kafka_table(bootstrap, **options), partitions)


def kafka_table(bootstrap: str, **options: Any) -> dict[str, Any]:
    """The ``[log]`` table for a broker: no call of a slow machine comes to its deadline."""
    patient = {"timeout": PATIENT, "transaction_timeout": PATIENT}
    return {"type": "kafka", "bootstrap": bootstrap} | patient | options


def values(*texts: str) -> list[NewRecord]:
    """Records to append: value and key are the text."""
    return [NewRecord(key=t.encode(), value=t.encode()) for t in texts]


def step(
    seq: int, slices: list[Slice] | None = None, scores: list[NewRecord] | None = None, **more: Any
) -> Outputs:
    """The outputs of one step over the slices."""
    ranges: tuple[Range, ...] = tuple(s.range for s in slices or [])
    journal = JournalRecord(seq, now_ms(), DIGEST, ranges, **more)
    return Outputs(scores or [], [], [], journal)


def patiently(operation: Callable[[], T]) -> T:
    """The operation's result, tried again while the log is unavailable."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            return operation()
        except LogUnavailable:
            if time.monotonic() > deadline:
                raise


def poll_all(log: Log, count: int, max_records: int = 1000) -> list[Slice]:
    """Poll until ``count`` records came."""
    found: list[Slice] = []

    def enough() -> bool:
        missing = count - sum(len(s.records) for s in found)
        if missing > 0:
            found.extend(log.poll(max_records, 1.0))
        return missing <= 0

    wait_until(enough, f"{count} records")
    return found


def eventually(wanted: T, look: Callable[[], T]) -> None:
    """Assert that ``look()`` comes to give ``wanted``.

    On Kafka a commit is decided when ``commit`` returns and seen once its markers are written.
    """
    deadline = time.monotonic() + DEADLINE_S
    while (got := patiently(look)) != wanted and time.monotonic() < deadline:
        time.sleep(0.01)
    assert got == wanted


def texts(slices: list[Slice]) -> list[str]:
    """The values of the records, as text."""
    return [(r.value or b"").decode() for s in slices for r in s.records]


def raw(found: list[Record]) -> list[bytes | None]:
    """The values of records."""
    return [r.value for r in found]
