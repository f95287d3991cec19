"""Small configurations and records that several tests share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stream.contract.letters import DeadLetter
from stream.contract.records import Batch, NewRecord, Range, Record, Slice
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.support.waiting import PATIENT

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
START_MS = 1_767_225_600_000
RARELY = {"interval": "1h", "recovery_budget": "1h"}
"""``checkpoints`` that no time makes due; a step's size does not depend on what records cost."""


def raw_config(directory: Path, **changes: Any) -> dict[str, Any]:
    """A raw configuration on the embedded log with compiled members; ``changes`` replace keys."""
    raw: dict[str, Any] = {
        "name": "test",
        "seed": 1,
        "state_dir": str(directory / "state"),
        "log": {"type": "embedded", "path": str(directory / "log.db"), "timeout": PATIENT},
        "event": {
            "time_format": "ms",
            "fields": {
                "amount": "number",
                "customer": "entity",
                "terminal": "entity",
                "category": "category",
            },
        },
        "label": {"field": "fraud", "horizon": "30d"},
        "features": [
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
            {
                "name": "terminal",
                "type": "risk",
                "entity": "terminal",
                "delay": "1d",
                "windows": ["7d"],
            },
        ],
        "members": [
            {"name": "linear", "type": "logistic"},
            {"name": "prior", "type": "constant", "probability": 0.1},
        ],
        "checkpoints": RARELY,
        "http": {"enabled": False, "port": 0},
    }
    raw.update(changes)
    return raw


def config(directory: Path, **changes: Any) -> Config:
    """:func:`raw_config`, validated."""
    return parse(raw_config(directory, **changes), "test")


def event(i: int, at_ms: int | None = None, **changes: Any) -> dict[str, Any]:
    """Event ``i``: one a minute, amounts and entities from ``i`` alone."""
    return {
        "id": f"e{i}",
        "time": START_MS + i * 60_000 if at_ms is None else at_ms,
        "amount": float(10 + i * 37 % 191),
        "customer": f"c{i % 17}",
        "terminal": f"t{i % 5}",
        "category": f"k{i % 3}",
    } | changes


def truth(i: int) -> bool:
    """Whether event ``i`` is fraud: a function of its amount, so that it can be learned."""
    return 10 + i * 37 % 191 > 150


def label(i: int, y: object = None) -> dict[str, Any]:
    """The label of event ``i``."""
    return {"id": f"e{i}", "fraud": truth(i) if y is None else y}


def records(topic: str, first: int, values: list[Any]) -> Slice:
    """A slice of partition 0 from offset ``first``; values that are not bytes become JSON."""
    made = [
        Record(topic, 0, first + i, None, v if v is None or isinstance(v, bytes) else to_json(v))
        for i, v in enumerate(values)
    ]
    return Slice(Range(topic, 0, first, first + len(made) - 1, len(made)), made)


def to_json(value: Any) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(value, separators=(",", ":")).encode()


def new_records(values: list[Any]) -> list[NewRecord]:
    """Records to append, without keys."""
    return [NewRecord(None, v if isinstance(v, bytes) else to_json(v)) for v in values]


class Feed:
    """Batches for an engine, with offsets and sequence numbers that go on."""

    def __init__(self) -> None:
        self.seq = 0
        self.offsets: dict[str, int] = {}

    def batch(
        self, *parts: tuple[str, list[Any]], clock_ms: int = START_MS + 400 * DAY_MS
    ) -> Batch:
        """One batch of ``(topic, values)`` slices in order."""
        slices = []
        for topic, values in parts:
            first = self.offsets.get(topic, 0)
            self.offsets[topic] = first + len(values)
            slices.append(records(topic, first, values))
        self.seq += 1
        return Batch(self.seq, clock_ms, slices)


def decoded(values: list[Any]) -> list[dict[str, Any]]:
    """The JSON of output records."""
    return [json.loads(r.value) for r in values]


def reasons(letters: Sequence[DeadLetter]) -> list[str]:
    """The reasons of dead letters, in order."""
    return [letter.reason for letter in letters]


def traffic(n: int, lag: int = 50, size: int = 40) -> list[list[tuple[str, list[Any]]]]:
    """Slices of ``n`` events in batches of ``size``, each followed by the labels due by then."""
    out = []
    for start in range(0, n, size):
        end = min(start + size, n)
        due = [label(i) for i in range(max(0, start - lag), max(0, end - lag))]
        parts: list[tuple[str, list[Any]]] = [("events", [event(i) for i in range(start, end)])]
        if due:
            parts.append(("labels", due))
        out.append(parts)
    return out


def rng(seed: int) -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(seed)


def ranking_config(directory: Path, **changes: Any) -> Config:
    """A shard that ranks on the embedded log; ``changes`` replace keys."""
    raw: dict[str, Any] = {
        "name": "shop",
        "seed": 1,
        "state_dir": str(directory / "state"),
        "log": {"type": "embedded", "path": str(directory / "log.db"), "timeout": PATIENT},
        "target": {"type": "ranking"},
        "label": {"horizon": "1d"},
        "checkpoints": RARELY,
        "http": {"enabled": False, "port": 0},
    }
    return parse(raw | changes, "test")


def interaction(i: int, **changes: Any) -> dict[str, Any]:
    """Interaction ``i``, one a second: 20 users walk 30 items, each with a step of his own."""
    user, turn = i % 20, i // 20
    return {
        "event": "interaction",
        "id": f"i{i}",
        "timestamp": START_MS + 1000 * i,
        "user": f"u{user}",
        "item": f"m{(user + (1 + user % 3) * turn) % 30}",
    } | changes


def wish(i: int, **changes: Any) -> dict[str, Any]:
    """Request ``i`` for three items that may be seen already, after all of 600 interactions."""
    return {
        "event": "recommend",
        "id": f"r{i}",
        "timestamp": START_MS + 1_000_000 + i,
        "user": f"u{i % 20}",
        "count": 3,
        "seen": "include",
    } | changes
