"""What it costs that labels stand in any partition, beside those that stand with their events.

``python -m benchmarks.scale.labels [--quick]``. The payments and members of the fraud example, a
label for each payment, with 2, 4 and 8 scorers, each measured on one core: the processor time of
their engines, alternately with labels in their events' partitions and in those of the labels' ids;
and what each foreign label would cost if every scorer read all of them. No client and no broker.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from rich.console import Console
from rich.table import Table

from benchmarks import traffic
from benchmarks.common import arguments, machine, spread
from benchmarks.scale.handbook import Process, Service
from benchmarks.scale.model import EVERY, EXAMPLE, pieces
from benchmarks.scale.versions import BATCH
from models.base import MillraceError
from stream.contract.records import Record
from stream.step.early import EarlyLabel, EarlyLabels

SCORERS = (2, 4, 8)


class Cost(NamedTuple):
    """Of all scorers: microseconds of one core and bytes handed on to each other, an event."""

    cpu_us: float
    bytes: float


def played(made: Sequence[Any], scorers: int, labels: str) -> tuple[Cost, Service]:
    """The second half of the payments through scorers that took the first one in."""
    service = Service(EXAMPLE, scorers, EVERY, limits={"threads": 1}, shard={"labels": labels})
    counted = 0
    for i, (events, told) in enumerate(made):
        if i == len(made) // 2:
            _settle(service)
        counted += len(events) if i >= len(made) // 2 else 0
        for value, home in events:
            service.scorers[home % scorers].waiting["events", home % scorers].append(value)
        for value, home in told:
            at = (home if labels == "partition" else xxhash.xxh3_64_intdigest(value)) % scorers
            service.scorers[at].waiting["labels", at].append(value)
        if (i + 1) % scorers == 0 or i + 1 == len(made):
            service.hop(traffic.CLOCK_MS)
    for _ in range(3):
        service.hop(traffic.CLOCK_MS)
    joined = sum(one.engine.counts["labels.joined"] for one in service.scorers)
    if joined != (said := sum(len(told) for _, told in made)):
        raise MillraceError(f"expected {said:,} labels to be joined, got {joined:,}")
    cpu_s = sum(scorer.cpu_s for scorer in service.scorers)
    handed = service.bytes[service.learner.config.routes_topic]
    return Cost(1e6 * cpu_s / counted, handed / counted), service


def _settle(service: Service) -> None:
    """Begin to count; from here on no version is due."""
    for _ in range(3):
        service.hop(traffic.CLOCK_MS)
    service.learner.engine.versions.due = lambda watermark_ms: False  # type: ignore[union-attr]
    for process in service.scorers:
        process.cpu_s = 0.0
    service.bytes.clear()


def foreign_us(process: Process, made: Sequence[Any]) -> float:
    """What each label of another's event would take at least, if every scorer read all of them.

    To read it, not to find its event, to keep it, and to drop it once its holder has told.
    """
    raws = [value for _, told in made for value, _ in told]
    engine: Any = process.engine
    records = [Record("labels", 0, i, None, value) for i, value in enumerate(raws)]
    early = EarlyLabels(len(raws), 1 << 40)
    started = time.process_time()
    for first in range(0, len(records), BATCH):
        labels, _ = engine.codec.labels(records[first : first + BATCH])
        engine.pending.find(labels.id_hash ^ np.uint64(1))
        ids, y = labels.id_hash.tolist(), labels.y.tolist()
        for row in zip(ids, y, labels.labelled_at_ms.tolist(), labels.records, strict=True):
            early.add(EarlyLabel(*row[:3], 0, row[3]))
        for _ in early.claim(ids):
            pass
    return 1e6 * (time.process_time() - started) / len(records)


def measure(events: int, rounds: int, scorers: Sequence[int]) -> dict[str, Any]:
    """By number of scorers what both ways take, in turn, and what all reading all would."""
    made = list(pieces(events))
    gc.freeze()  # what is played is nobody's garbage, and looking through it is nobody's work
    found: dict[str, Any] = {}
    for n in scorers:
        costs: dict[str, list[Cost]] = {"partition": [], "any": []}
        for _ in range(rounds):
            for labels, own in costs.items():
                cost, service = played(made, n, labels)
                own.append(cost)
        pairs = zip(costs["any"], costs["partition"], strict=True)
        found[str(n)] = {
            **{f"{name}_us": spread([c.cpu_us for c in own]) for name, own in costs.items()},
            "more_us": spread([one.cpu_us - other.cpu_us for one, other in pairs]),
            "routes_bytes": round(costs["any"][-1].bytes, 1),
            "all_read_all_us": round((n - 1) * foreign_us(service.scorers[0], made), 2),
        }
    return found


def main() -> None:
    """Measure and print."""
    given = arguments(__doc__)
    quick = given.quick
    rounds, scorers = (1, SCORERS[:1]) if quick else (3, SCORERS)
    found = measure((8 if quick else 24) * BATCH, rounds, scorers)
    if given.json:
        print(json.dumps({"benchmark": "scale.labels", "machine": machine()} | found, indent=2))
        return
    console = Console()
    console.print(machine())
    heads = ("scorers", "with events, us", "anywhere, us", "more, us", "bytes handed on")
    table = Table(
        *heads, "if all read all: more, us", title="An event and its label, all scorers together"
    )
    for n, row in found.items():
        took = [f"{row[key]['median']:.2f}" for key in ("partition_us", "any_us", "more_us")]
        bytes_, all_us = f"{row['routes_bytes']:.0f}", f"{row['all_read_all_us']:.2f}"
        table.add_row(n, *took, bytes_, all_us)
    console.print(table)


if __name__ == "__main__":
    main()
