"""A ranking by scorers and a learner beside one process: how good lists are, and what they cost.

Run ``python -m benchmarks.scale.ranking [--data PATH] --scorers 4``. Before each interaction its
user asks for ten items. The engines are those of a service, with lists in place of topics between
them; records go to the scorer of their user, ``--batch`` of them to a step of all scorers together,
and what is learned comes back a step later, which is long beside what a broker takes. Of the users
who are known it tells how often the item stood in the list (hit) and 1 / place, from a tenth of the
stream on; and processor time for each request with its interaction, of all scorers together, of
which ``follow_us`` is what each further scorer takes to follow what is learned.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.common import arguments, machine, show
from benchmarks.ranking.streams import Stream, generated, read
from benchmarks.scale.handbook import Process
from stream.contract.hashing import hash_text
from stream.contract.records import NewRecord
from stream.settings.load import parse
from stream.settings.schema import Config

WARM = 0.1
"""Share of the stream that is not counted."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def configs(scorers: int, seen: str) -> list[Config]:
    """One process, or scorers and their learner."""
    tree: dict[str, Any] = {
        "name": "ranking",
        "log": {"type": "kafka", "bootstrap": "127.0.0.1:9"},  # nobody connects
        "target": {"type": "ranking"},
        "label": {"horizon": "1d"},
        "reco": {"seen": seen},
        "limits": {"pending": 1 << 20},
    }
    if not scorers:
        return [parse(tree, "benchmark")]
    tree |= {"topics": {"partitions": scorers}, "shard": {"count": scorers}}
    roles: list[dict[str, Any]] = [{"role": "scorer", "index": i} for i in range(scorers)]
    return [
        parse(tree | {"shard": tree["shard"] | role}, "benchmark")
        for role in (*roles, {"role": "learner"})
    ]


def asked(stream: Stream) -> list[tuple[str, bytes, bytes]]:
    """Of each interaction its user, the request before it and its record."""
    times = (stream.time_s * 1000).astype(int).tolist()
    found = []
    for n, (user, item, ms) in enumerate(
        zip(stream.user.tolist(), stream.item.tolist(), times, strict=True)
    ):
        who = {"user": f"u{user}", "timestamp": ms}
        ask = {"event": "recommend", "id": f"{n}", "count": 10} | who
        found.append(
            (who["user"], _encode(ask), _encode({"event": "interaction", "item": f"i{item}"} | who))
        )
    return found


class Lists:
    """What was answered: hits and places of what was taken just after."""

    def __init__(self, stream: Stream) -> None:
        self._item = [f"i{item}" for item in stream.item.tolist()]
        self._first = int(WARM * len(self._item))
        self.hits = self.reciprocal = 0.0
        self.known = 0

    def answered(self, records: Sequence[NewRecord]) -> None:
        """Judge these answers."""
        for record in records:
            answer = _decode(record.value or b"")
            n = int(answer["id"])
            if n < self._first or answer["fallback"]:
                continue
            self.known += 1
            items = [place["id"] for place in answer["items"]]
            if self._item[n] in items:
                self.hits += 1
                self.reciprocal += 1 / (1 + items.index(self._item[n]))

    def told(self) -> dict[str, Any]:
        """The shares."""
        n = max(self.known, 1)
        return {"hit_10": round(self.hits / n, 4), "mrr_10": round(self.reciprocal / n, 4)}


def play(stream: Stream, scorers: int, seen: str, batch: int) -> dict[str, Any]:
    """All of it: how good lists were, and microseconds of scorers and learner for each request."""
    made = [Process(config) for config in configs(scorers, seen)]
    serving, lists = made[: max(scorers, 1)], Lists(stream)
    records = asked(stream)
    clock_ms = int(stream.time_s.max() * 1000)
    for start in range(0, len(records), batch):
        for user, ask, did in records[start : start + batch]:
            p = hash_text(user) % len(serving)
            serving[p].waiting["events", p] += [ask, did]
        for process in made:
            out = process.step(clock_ms)
            if out is None:
                continue
            lists.answered(out.scores)
            for topic, handed in out.handed.items():
                for other in made:
                    if topic in other.config.inputs:
                        for r in handed:
                            other.waiting[topic, r.partition or 0].append(r.value or b"")
    n = len(records)
    found = lists.told() | {"us_a_request": round(sum(p.cpu_s for p in serving) / n * 1e6, 1)}
    if scorers:
        found["learner_us"] = round(made[-1].cpu_s / n * 1e6, 1)
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One process, then scorers."""
    n = 4_000 if options.quick else options.rows
    stream = generated("drift", n) if options.data is None else read(options.data)
    order = stream.time_s.argsort(kind="stable")[:n]
    stream = stream.take(order)
    given = options.seen, options.batch
    one = play(stream, 0, *given)
    single, many = (play(stream, scorers, *given) for scorers in (1, options.scorers))
    further = (many["us_a_request"] - single["us_a_request"]) / max(options.scorers - 1, 1)
    return {
        "machine": machine(),
        "rows": len(stream.user),
        "one": one,
        "1 scorer": single,
        f"{options.scorers} scorers": many,
        "follow_us": round(further, 1),
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="interactions: user, item, rating, time (tsv)")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--scorers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64, help="interactions of all scorers a step")
    parser.add_argument("--seen", default="exclude", choices=("exclude", "include"))


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, _more)
    show("ranking by scorers", measure(options), options.json)


if __name__ == "__main__":
    main()
