"""The handbook's payments through scorers and a learner, judged beside one process.

Run ``python -m benchmarks.scale.handbook --data PATH --scorers 4 --every 1h``. The engines are
those of a service, with lists in place of topics between them: payments go to the scorer of their
customer, terminals are known to all by what scorers tell each other, labels come 7 days late.
Records take ``--hop`` of event time from one process to the next; a broker takes far less.
``--one`` runs one process as well; ``--scorers 0`` one process alone, a hop at a time too.

With ``--shared`` scorers take no versions over: they score by the learner's own members, as the hop
before has left them. Scores are bit for bit those of a version every hop
(``tests/project/test_scale.py``), of which ``--hop 10s`` would make a million.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from benchmarks.common import machine, target
from benchmarks.handbook.__main__ import evaluate
from benchmarks.handbook.protocol import Payments, judge, read_payments, read_scores, weeks_of
from models.base import I64
from models.settings import parse_duration
from stream.contract.outputs import Outputs
from stream.contract.records import Batch, NewRecord, Range, Record, Slice
from stream.run.assemble import build_engine
from stream.settings.load import parse
from stream.settings.schema import Config

DELAY_MS = parse_duration("7d")
Values = list[bytes]


class Process:
    """A scorer or the learner: its engine, and what it has not read yet, by topic and partition."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.engine = build_engine(config, None)
        self.waiting: dict[tuple[str, int], Values] = defaultdict(list)
        self.cpu_s = 0.0
        self._offsets: dict[tuple[str, int], int] = defaultdict(int)

    def step(self, clock_ms: int) -> Outputs | None:
        """Take all in that waits, in the order of the topics; nothing where nothing does."""
        slices = []
        order = self.config.inputs
        for key in sorted(self.waiting, key=lambda key: (order.index(key[0]), key[1])):
            topic, partition = key
            values, first = self.waiting[key], self._offsets[key]
            rows = [Record(topic, partition, first + i, None, v) for i, v in enumerate(values)]
            span = Range(topic, partition, first, first + len(rows) - 1, len(rows))
            slices.append(Slice(span, rows))
            self._offsets[key] += len(rows)
        self.waiting.clear()
        if not slices:
            return None
        started = time.process_time()
        made = self.engine.step(Batch(self.engine.seq + 1, clock_ms, slices))
        self.cpu_s += time.process_time() - started
        return made


class Service:
    """Scorers and their learner, a hop of event time at a time; ``changes``: of the file.

    Without ``scorers`` one process, which does all. ``shared``: see the module.
    """

    kind: type[Process] = Process

    def __init__(
        self, path: Path, scorers: int, every: str, shared: bool = False, **changes: Any
    ) -> None:
        tree = tomllib.loads(path.read_text(encoding="utf-8")) | changes
        tree["log"] = {"type": "kafka", "bootstrap": "127.0.0.1:9"}  # nobody connects
        tree["topics"] = {"partitions": max(scorers, 1)}
        shard = changes.get("shard", {}) | {"count": scorers, "every": every}
        shards = [shard | {"role": "scorer", "index": i} for i in range(scorers)]
        shards += [shard | {"role": "learner"} if scorers else {}]
        self.processes = [self.kind(parse(tree | {"shard": own}, str(path))) for own in shards]
        self.learner = self.processes[-1]
        self.scorers = self.processes[:-1] or self.processes
        self.unread: set[str] = set()
        if shared:
            self.unread.add(self.learner.config.models_topic)
            for scorer in self.scorers:  # which take their steps before the learner takes its own
                scorer.engine.ensemble.__dict__ = vars(self.learner.engine.ensemble)
        self.ids: list[str] = []
        self.scores: list[Any] = []
        self.bytes: dict[str, int] = defaultdict(int)

    def hop(self, clock_ms: int) -> None:
        """A step of each process with what stood in its topics before."""
        made = [process.step(clock_ms) for process in self.processes]
        for out in made:
            for scored in () if out is None else out.scored:
                self.ids += scored.ids
                self.scores.append(scored.score)
            for topic, records in () if out is None else out.handed.items():
                self._hand(topic, records)

    def _hand(self, topic: str, records: Sequence[NewRecord]) -> None:
        """Each record to all processes that read its partition."""
        for process in self.processes:
            if topic in process.config.inputs and topic not in self.unread:
                for r in records:
                    if process.config.reads(topic, r.partition or 0):
                        process.waiting[topic, r.partition or 0].append(r.value or b"")
        self.bytes[topic] += sum(len(r.value or b"") for r in records)


def hops(payments: Payments, hop_ms: int) -> Iterator[tuple[int, slice, slice]]:
    """Ends of hops in ms, the payments of each, and the payments whose labels come in it."""
    times = payments.time_s * 1000
    ends = np.arange(times[0] + hop_ms, times[-1] + hop_ms + 1, hop_ms)
    events, labels = np.searchsorted(times, ends), np.searchsorted(times, ends - DELAY_MS)
    before, told = 0, 0
    for end, e, y in zip(ends.tolist(), events.tolist(), labels.tolist(), strict=True):
        yield end, slice(before, e), slice(told, y)
        before, told = e, y


def play(service: Service, payments: Payments, hop_ms: int, order: int | None = None) -> None:
    """All payments, and the labels that come by the last of them.

    ``order``: seed of another order of the labels that come in one hop.
    """
    rng = None if order is None else random.Random(order)
    n = len(service.scorers)
    homes: I64 = np.array([xxhash.xxh3_64_intdigest(b"%d" % c) % n for c in range(100_000)])
    if payments.customer.max() >= len(homes):
        raise ValueError(f"customers: expected numbers under {len(homes)}")
    home = homes[payments.customer].tolist()
    rows = list(
        zip(
            *(payments.id.tolist(), payments.time_s.tolist(), payments.amount.tolist()),
            *(payments.customer.tolist(), payments.terminal.tolist(), payments.fraud.tolist()),
            home,
            strict=True,
        )
    )
    for end_ms, events, labels in hops(payments, hop_ms):
        for i, at, amount, customer, terminal, _, p in rows[events]:
            event = (
                b'{"transaction_id":"%d","timestamp":%d,"amount":%s,"customer_id":"%d",'
                b'"terminal_id":"%d"}' % (i, at, repr(amount).encode(), customer, terminal)
            )
            service.scorers[p].waiting["events", p].append(event)
        told = rows[labels]
        if rng is not None:
            rng.shuffle(told)
        for i, _, _, _, _, fraud, p in told:
            label = b'{"transaction_id":"%d","is_fraud":%d}' % (i, fraud)
            service.scorers[p].waiting["labels", p].append(label)
        service.hop(end_ms)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the service, and of one process where asked for."""
    whole, firsts = read_payments(options.data), weeks_of(options.period)
    n = int(np.searchsorted(whole.day, firsts[-1] + 7))  # what comes later is judged by nobody
    payments = Payments(*(column[:n] for column in whole))
    service = Service(options.config, options.scorers, options.every, options.shared)
    started = time.perf_counter()
    play(service, payments, parse_duration(options.hop), options.order)
    took_s = time.perf_counter() - started
    found: dict[str, Any] = {
        "scorers": options.scorers,
        "hop": options.hop,
        "order": options.order,
        "every": options.hop if options.shared else options.every,
        "versions": None if options.shared else service.learner.engine.counts["versions"],
        "risk_lacking": sum(s.engine.counts["risk.lacking"] for s in service.scorers),
        "dead_letters": sum(
            n
            for process in service.processes
            for name, n in process.engine.counts.items()
            if name.startswith("dead.")
        ),
        "learned": service.learner.engine.counts["learned"],
        "bytes_a_payment": {t: n / len(payments.id) for t, n in service.bytes.items()},
        "scorer_cpu_us": 1e6 * sum(s.cpu_s for s in service.scorers) / len(payments.id),
        "learner_cpu_us": 1e6 * service.learner.cpu_s / len(payments.id),
        "seconds": took_s,
    }
    with tempfile.TemporaryDirectory() as directory:
        path = options.scores_out or Path(directory) / "scores.parquet"
        pq.write_table(pa.table({"id": service.ids, "score": np.concatenate(service.scores)}), path)
        scores = {"hop by hop": read_scores(path, payments)["ensemble"]}
        if options.one:
            one = Path(directory) / "one.parquet"
            found["one"] = evaluate(options.config, options.data, one)
            scores["one process"] = read_scores(one, whole)["ensemble"][:n]
    judged = found["judged"] = {name: judge(payments, p, firsts) for name, p in scores.items()}
    if options.one:
        many, one = (judged[name]["ap"] for name in ("hop by hop", "one process"))
        found["targets"] = {"ap_apart": target(abs(many - one), 0.002, at_least=False)}
    return found


def main() -> None:
    """Parse the arguments, measure, print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the payments, Parquet")
    parser.add_argument("--config", type=Path, default=Path("examples/handbook.toml"))
    parser.add_argument("--scorers", type=int, default=4, help="0: one process that does all")
    parser.add_argument("--every", default="1h", help="event time between two versions")
    parser.add_argument("--hop", default="10m", help="event time from one process to the next")
    parser.add_argument(
        "--shared", action="store_true", help="score by the learner's own members: a version a hop"
    )
    parser.add_argument("--order", type=int, help="seed of another order of each hop's labels")
    parser.add_argument("--period", choices=("validation", "final"), default="final")
    parser.add_argument("--one", action="store_true", help="run one process as well")
    parser.add_argument("--scores-out", type=Path, help="keep the scores, Parquet")
    found = measure(parser.parse_args())
    print(json.dumps({"benchmark": "scale.handbook", "machine": machine()} | found, indent=2))


if __name__ == "__main__":
    main()
