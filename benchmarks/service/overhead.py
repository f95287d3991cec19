"""What the service costs around River members, and what watching it costs.

Run ``python -m benchmarks.service.overhead [--json] [--quick]``. The bare loop has its dicts and
labels ready in memory: ``predict_proba_one``, ``learn_one``, nothing else. The service runs on the
embedded log: it reads and decodes events and labels as JSON, scores, holds, joins, measures quality
and drift, audits, and commits every step durably. Both score each event once and learn each label
once, in the same order; features are four raw numbers on both sides. Watching: the compiled members
with HTTP, readings for metrics and live page and a scrape a second, beside the same without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from river import forest, linear_model, preprocessing

from benchmarks import traffic
from benchmarks.common import arguments, compare, repeat, show, target, timed
from benchmarks.service.drain import drain
from stream.contract.records import NewRecord
from tests.support.broker import free_port

FIELDS = ("a", "b", "c", "d")
EVENT = {"id": "id", "time": "time", "time_format": "ms", "fields": dict.fromkeys(FIELDS, "number")}
FEATURES = [{"name": f, "type": "number", "field": f} for f in FIELDS]
ARF = {
    "name": "arf",
    "type": "river",
    "model": "river.forest.ARFClassifier",
    "n_models": 10,
    "seed": 1,
}
LINEAR = {
    "name": "linear",
    "type": "river",
    "model": "river.compose.Pipeline",
    "steps": [
        {"model": "river.preprocessing.StandardScaler"},
        {"model": "river.linear_model.LogisticRegression"},
    ],
}
BARE: dict[str, Callable[[], Any]] = {
    "arf": lambda: forest.ARFClassifier(n_models=10, seed=1),
    "linear": lambda: preprocessing.StandardScaler() | linear_model.LogisticRegression(),
}
Row = tuple[dict[str, float], bool]


def rows(n: int) -> list[Row]:
    """Payments as four numbers; fraud as simulated, with a rule that a tree must split to find."""
    made: list[Row] = []
    for chunk in traffic.simulator(n).chunks(4096):
        e = chunk.events
        hour = e["event_time_ms"] // 3_600_000 % 24
        truth = (e["scenario"] > 0) | ((e["amount"] > 60) & (hour < 9))
        columns = (e["amount"], hour, e["category"], e["online"])
        made += [
            (dict(zip(FIELDS, map(float, row), strict=True)), y)
            for *row, y in zip(*(c.tolist() for c in columns), truth.tolist(), strict=True)
        ]
    return made


def bare(made: list[Row], model: Any) -> int:
    """River's own loop."""
    for x, y in made:
        model.predict_proba_one(x)
        model.learn_one(x, y)
    return len(made)


def served(made: list[Row], member: dict[str, Any], size: int = 4096) -> dict[str, Any]:
    """The service over the same rows as JSON, events and labels on the embedded log."""
    encode = msgspec.json.encode
    events = [
        NewRecord(None, encode({"id": f"e{i}", "time": traffic.START_MS + i * 1000} | x))
        for i, (x, _) in enumerate(made)
    ]
    labels = [NewRecord(None, encode({"id": f"e{i}", "fraud": y})) for i, (_, y) in enumerate(made)]
    cuts = [slice(at, at + size) for at in range(0, len(made), size)]
    with tempfile.TemporaryDirectory() as directory:
        config = traffic.config(Path(directory), event=EVENT, label={"field": "fraud"},
                                features=FEATURES, members=[member])  # fmt: skip
        records = traffic.append(config, ((events[c], labels[c]) for c in cuts))
        return drain(config, records, len(made))


def watched(events: int, rounds: int) -> dict[str, Any]:
    """The service with the compiled members: HTTP, readings and a scrape a second, or none."""

    def once(http: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            config = traffic.config(Path(directory), http=http)
            records = traffic.append(config, traffic.pieces(traffic.simulator(events), 4096))
            return drain(config, records, events)

    found = compare(
        lambda: once({"port": free_port()}), lambda: once({"enabled": False}), max(rounds, 3)
    )
    return {"served": found.pop("ours"), "alone": found.pop("theirs")} | found


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__)
    rounds = 1 if options.quick else 3
    many = rows(4096 if options.quick else 100_000)
    few = many[: 1024 if options.quick else 15_000]
    served(few[:100], traffic.CONSTANT)  # compiles what the engine itself compiles
    found: dict[str, Any] = {}
    for name, member, made in (("arf", ARF, few), ("linear", LINEAR, many)):
        result = compare(
            lambda: served(made, member),  # noqa: B023
            lambda: timed(lambda: bare(made, BARE[name]())),  # noqa: B023
            rounds,
        )
        found[name] = {"service": result.pop("ours"), "bare_loop": result.pop("theirs")} | result
    found["constant"] = repeat(lambda: served(many, traffic.CONSTANT), rounds)
    found["watched"] = watched(5 * 4096 if options.quick else 50 * 4096, rounds)
    found["targets"] = {
        "scrape_ms": target(found["watched"]["served"].get("scrape_ms", 0.0), 50, False),
        "monitoring_cost": target(1 - found["watched"]["ratio"]["median"], 0.01, False),
        "arf": target(found["arf"]["ratio"]["median"], 0.75, True),
    }
    show("overhead", found, options.json)


if __name__ == "__main__":
    main()
