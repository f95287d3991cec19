"""Exactly once on Kafka, from a backlog: the service beside a bare loop, with each client.

Run ``python -m benchmarks.service.kafka_path [--json] [--quick]``. All sides drain the same backlog
from the same broker on this machine, in turn, one transaction a batch of the same size. Twice: the
whole ensemble of ``benchmarks.engine`` over events and their labels; and a constant member over
events alone, whose service does little but read and write. The bare loop of each client is that of
``benchmarks/service/bare.py``. Producing the backlog, connecting and closing are not timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import traffic
from benchmarks.common import Side, arguments, beside, in_turn, middle, rates, show, target
from benchmarks.service.bare import LOOPS, drained
from benchmarks.service.drain import drain
from models.base import MillraceError
from stream.settings.schema import Config
from tests.support.broker import bootstrap, unique

BATCHES = (2_000, 4_096)
"""The batch of the project's first measurements, and the service's default."""


class Backlog(NamedTuple):
    """What all sides read."""

    server: str
    topics: Mapping[str, str]
    records: int
    events: int
    ensemble: bool

    def config(self, directory: Path, client: str, batch: int) -> Config:
        """A new shard on these topics, with output topics of its own."""
        others = {t: unique(t) for t in ("control", "scores", "dead_letters", "audit")}
        if not self.ensemble:
            others["labels"] = unique("labels")
        more: dict[str, Any] = {
            "name": unique("bench"),
            "log": {"type": "kafka", "bootstrap": self.server, "client": client},
            "topics": others | dict(self.topics),
            "limits": {"batch": batch},
        }
        if self.ensemble:
            return traffic.config(directory, **more)
        return traffic.minimal(directory, [traffic.CONSTANT], **more)

    def service(self, client: str, batch: int) -> dict[str, Any]:
        """The service over the whole backlog."""
        with tempfile.TemporaryDirectory() as directory:
            config = self.config(Path(directory), client, batch)
            return drain(config, self.records, self.events)

    def bare(self, client: str, batch: int, scores: str) -> dict[str, Any]:
        """The bare loop over the whole backlog."""
        loop = LOOPS[client](self.server, list(self.topics.values()), scores)
        return rates(self.events, *drained(loop, self.records, batch))

    def sides(self, batch: int, scores: str) -> dict[str, Side]:
        """Service and bare loop with each client."""
        found: dict[str, Side] = {}
        for client in LOOPS:
            found[f"{client} service"] = partial(self.service, client, batch)
            found[f"{client} bare"] = partial(self.bare, client, batch, scores)
        return found


def fill(server: str, events: int, ensemble: bool) -> tuple[Backlog, str]:
    """A backlog on new topics, and a topic for the bare loops' scores."""
    names = ("events", "labels") if ensemble else ("events",)
    topics = {name: unique(name) for name in names}
    empty = Backlog(server, topics, 0, events, ensemble)
    with tempfile.TemporaryDirectory() as directory:
        config = empty.config(Path(directory), "confluent", 4096)
        pieces = traffic.pieces(traffic.simulator(events), 4096, labels=ensemble)
        made = traffic.append(config, pieces)
    if made != events * len(names):
        raise MillraceError(f"benchmark: expected {events * len(names)} records, got {made}")
    return empty._replace(records=made), config.topics.scores


def measure(server: str, events: int, batch: int, ensemble: bool, rounds: int) -> dict[str, Any]:
    """All four sides in turn; each client's service beside its loop, and the two services."""
    backlog, scores = fill(server, events, ensemble)
    backlog.service("confluent", batch)  # compiles, and warms the broker
    runs = in_turn(backlog.sides(batch, scores), rounds)
    found: dict[str, Any] = {}
    for client in LOOPS:
        ours, theirs = runs[f"{client} service"], runs[f"{client} bare"]
        found[client] = {"service": middle(ours), "bare_loop": middle(theirs)} | beside(
            ours, theirs
        )
    services = [runs[f"{client} service"] for client in ("confluent", "kafka-python")]
    return found | {"confluent_beside_kafka_python": beside(*services)}


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    rounds = 1 if options.quick else 3
    events = 20_480 if options.quick else 204_800
    with bootstrap() as server:
        found: dict[str, Any] = {"ensemble": measure(server, events, 4096, True, rounds)}
        for batch in BATCHES:
            found[f"batch_{batch}"] = measure(server, events, batch, False, rounds)
    ensemble = found["ensemble"]
    clients = ensemble["confluent_beside_kafka_python"]["ratio"]["median"]
    found["targets"] = {
        "kafka": target(ensemble["kafka-python"]["service"]["events_per_s"], 15_000, True),
        "kafka_confluent": target(ensemble["confluent"]["service"]["events_per_s"], 25_000, True),
        "confluent": target(clients, 1.8, True),
    } | {
        f"batch_{b}": target(found[f"batch_{b}"]["kafka-python"]["ratio"]["median"], 0.75, True)
        for b in BATCHES
    }
    show("kafka_path", found, options.json)


if __name__ == "__main__":
    main()
