"""The payments that the benchmarks feed: made once, as batches in memory or appended to a log.

Called by the programs of this package. Every event has its label, ``lag`` events behind it, so that
a run of any length teaches each member one row for each event; nothing here depends on a clock.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from stream.contract.log import Log
from stream.contract.records import Batch, NewRecord, Range, Record, Slice
from stream.demo.player import event_records, label_records
from stream.demo.simulator import DAY_MS, Simulator
from stream.run.assemble import open_log, wall_clock_ms
from stream.settings.load import parse
from stream.settings.schema import Config

START_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z: no run reaches the present, past which events are refused."""
CLOCK_MS = START_MS + 3650 * DAY_MS
EXAMPLE = Path(__file__).parent.parent / "examples" / "fraud.toml"
LOGISTIC = {"name": "logistic", "type": "logistic"}
COMPILED: tuple[dict[str, Any], ...] = (
    LOGISTIC,
    {"name": "crossed", "type": "crossed", "table_bits": 16},
    {"name": "forest", "type": "forest"},
)
CONSTANT = {"name": "constant", "type": "constant", "probability": 0.01}
AMOUNT = {"name": "amount", "type": "number", "field": "amount"}

Piece = tuple[list[NewRecord], list[NewRecord]]
"""Some events, and the labels that come after them."""


def changes(directory: Path, **others: Any) -> dict[str, Any]:
    """What replaces keys of ``examples/fraud.toml``: paths, compiled members, and ``others``."""
    found: dict[str, Any] = {
        "state_dir": str(directory / "state"),
        "log": {"type": "embedded", "path": str(directory / "log.db")},
        "members": list(COMPILED),
        "http": {"enabled": False},
    }
    return found | others


def config(directory: Path, **others: Any) -> Config:
    """The example with :func:`changes`, validated."""
    raw = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    return parse(raw | changes(directory, **others), "benchmark")


def minimal(directory: Path, members: Sequence[dict[str, Any]], **others: Any) -> Config:
    """One number as the only feature."""
    return config(directory, features=[AMOUNT], members=list(members), **others)


def simulator(events: int, customers: int = 5_000, seed: int = 11) -> Simulator:
    """Two payments a customer and day; two customers to a terminal, as in the handbook."""
    return Simulator(seed, customers, customers * 2, START_MS, events=events)


def pieces(sim: Simulator, size: int, labels: bool = True, lag: int = 4096) -> Iterator[Piece]:
    """Events ``size`` at a time, and the labels of those that came ``lag`` events before."""
    waiting: list[NewRecord] = []
    for chunk in sim.chunks(size):
        if labels:
            truth = chunk.events.copy()
            truth["reported_at_ms"] = truth["event_time_ms"] + DAY_MS  # also what nobody reports
            waiting += label_records(truth, sim.seed)
        due = max(0, len(waiting) - lag)
        yield event_records(chunk.events, sim.seed), waiting[:due]
        del waiting[:due]
    if waiting:
        yield [], waiting


def batches(made: Iterator[Piece]) -> list[Batch]:
    """The pieces as the batches of a run from its first step on."""
    return list(each_batch(made))


def each_batch(made: Iterable[Piece]) -> Iterator[Batch]:
    """As :func:`batches`, one after the other."""
    offsets = {"events": 0, "labels": 0}
    for seq, (events, labels) in enumerate(made, 1):
        slices = []
        for topic, records in (("events", events), ("labels", labels)):
            if records:
                slices.append(piece_slice(topic, offsets[topic], records))
                offsets[topic] += len(records)
        yield Batch(seq, CLOCK_MS, slices)


def piece_slice(topic: str, first: int, new: list[NewRecord]) -> Slice:
    """Records of partition 0 from offset ``first`` on."""
    records = [Record(topic, 0, first + i, r.key, r.value) for i, r in enumerate(new)]
    return Slice(Range(topic, 0, first, first + len(records) - 1, len(records)), records)


def count(made: Sequence[Batch], topic: str) -> int:
    """Records of a topic in all the batches."""
    return sum(len(s.records) for b in made for s in b.slices if s.range.topic == topic)


def append(config: Config, made: Iterator[Piece]) -> int:
    """Append the pieces to the configuration's log, topics and all; returns the records."""
    log = open_log(config, wall_clock_ms)
    try:
        log.create_topics()
        return sum(map(sender(log, config), made))
    finally:
        log.close()


def sender(log: Log, config: Config) -> Callable[[Piece], int]:
    """What appends a piece to an open log; it gives the records."""

    def send(piece: Piece) -> int:
        for topic, records in zip((config.topics.events, config.topics.labels), piece, strict=True):
            if records:
                log.append(topic, records)
        return sum(map(len, piece))

    return send
