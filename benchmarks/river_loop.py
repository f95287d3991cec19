"""What somebody would write with River alone: one event at a time, dicts, pure-Python windows.

``benchmarks/engine.py`` runs it beside Millrace's engine on the same records. It
decodes, computes the features of ``examples/fraud.toml``, scores with three River models, holds
what was scored until the label comes, keeps a few of River's metrics and encodes the score.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any

from river import facto, forest, linear_model, metrics, optim, preprocessing

from stream.contract.records import Batch, Record

DAY_MS = 86_400_000
WINDOWS_MS = (DAY_MS, 7 * DAY_MS, 30 * DAY_MS)
RISK_DELAY_MS = 2 * DAY_MS


class Windows:
    """Count and sum of one entity's events over each window: a queue and two sums a window."""

    def __init__(self) -> None:
        self.queues: list[deque[tuple[int, float]]] = [deque() for _ in WINDOWS_MS]
        self.counts = [0] * len(WINDOWS_MS)
        self.sums = [0.0] * len(WINDOWS_MS)
        self.last_ms: int | None = None

    def add(self, at_ms: int, value: float) -> None:
        """Take one event in."""
        for w, queue in enumerate(self.queues):
            queue.append((at_ms, value))
            self.counts[w] += 1
            self.sums[w] += value
        self.last_ms = at_ms

    def let_go(self, now_ms: int) -> None:
        """Forget what has left each window."""
        for w, queue in enumerate(self.queues):
            oldest = now_ms - WINDOWS_MS[w]
            while queue and queue[0][0] <= oldest:
                _, value = queue.popleft()
                self.counts[w] -= 1
                self.sums[w] -= value


class Risk:
    """An entity's events that are old enough to count, and the frauds among them."""

    def __init__(self) -> None:
        self.young: deque[list[Any]] = deque()
        self.windows = Windows()

    def read(self, now_ms: int, entry: list[Any]) -> tuple[list[int], list[float]]:
        """Counts and risks by window; then the event itself waits for its age."""
        while self.young and self.young[0][0] <= now_ms - RISK_DELAY_MS:
            at, fraud = self.young.popleft()
            self.windows.add(at, fraud)
        self.windows.let_go(now_ms - RISK_DELAY_MS)
        self.young.append(entry)
        counts = self.windows.counts
        return counts, [s / c if c else 0.0 for s, c in zip(self.windows.sums, counts, strict=True)]


class RiverLoop:
    """The whole service as a loop over records."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {
            "logistic": preprocessing.StandardScaler()
            | linear_model.LogisticRegression(optim.AdaGrad(0.05)),
            "crossed": preprocessing.StandardScaler()
            | facto.FMClassifier(n_factors=5, intercept=0.1, seed=1),
            "forest": forest.ARFClassifier(n_models=10, seed=1),
        }
        self.metrics = {
            name: (metrics.Accuracy(), metrics.LogLoss(), metrics.ROCAUC())
            for name in ("ensemble", *self.members)
        }
        self.customers: defaultdict[str, Windows] = defaultdict(Windows)
        self.terminals: defaultdict[str, Risk] = defaultdict(Risk)
        self.pending: dict[str, tuple[dict[str, float], dict[str, float], list[Any]]] = {}
        self.scored = self.learned = 0

    def run(self, batches: Sequence[Batch]) -> int:
        """Take every record in order; returns the number of events scored."""
        for batch in batches:
            for piece in batch.slices:
                take = self.score if piece.range.topic == "events" else self.learn
                for record in piece.records:
                    take(record)
        return self.scored

    def features(self, event: dict[str, Any], entry: list[Any]) -> dict[str, float]:
        """The columns of ``examples/fraud.toml``."""
        at, amount = event["time"], event["amount"]
        minute = at // 60_000
        hour, weekday = minute // 60 % 24, (minute // 1440 + 3) % 7
        angle = 2 * math.pi * (minute % 1440) / 1440
        x = {
            "amount": math.log1p(amount),
            "online": float(event["online"]),
            f"category={event['category']}": 1.0,
            "hour_sin": math.sin(angle),
            "hour_cos": math.cos(angle),
            "night": float(hour <= 6),
            "weekend": float(weekday >= 5),
        }
        customer = self.customers[event["customer"]]
        last = customer.last_ms
        x["since_last"] = min(at - last, WINDOWS_MS[-1]) / 1000 if last else WINDOWS_MS[-1] / 1000
        customer.add(at, amount)
        customer.let_go(at)
        for w, (n, total) in enumerate(zip(customer.counts, customer.sums, strict=True)):
            mean = total / n
            x[f"count_{w}"], x[f"mean_{w}"] = n, mean
            x[f"ratio_{w}"] = amount / mean if mean else 1.0
        counts, risks = self.terminals[event["terminal"]].read(at, entry)
        for w, (n, risk) in enumerate(zip(counts, risks, strict=True)):
            x[f"terminal_count_{w}"], x[f"terminal_risk_{w}"] = n, risk
        return x

    def score(self, record: Record) -> bytes:
        """Score one event, and hold it for its label."""
        event = json.loads(record.value or b"")
        entry = [event["time"], 0.0]
        x = self.features(event, entry)
        p = {n: m.predict_proba_one(x).get(True, 0.0) for n, m in self.members.items()}
        p["ensemble"] = sum(p.values()) / len(p)
        self.pending[event["payment_id"]] = (x, p, entry)
        self.scored += 1
        score = {"id": event["payment_id"], "event_time": event["time"], "score": p["ensemble"],
                 "alert": p["ensemble"] >= 0.5, "members": p}  # fmt: skip
        return json.dumps(score).encode()

    def learn(self, record: Record) -> None:
        """Measure the score that was made, then learn."""
        label = json.loads(record.value or b"")
        x, p, entry = self.pending.pop(label["payment_id"])
        y = label["fraud"]
        for name, (accuracy, *others) in self.metrics.items():
            accuracy.update(y, p[name] >= 0.5)
            for metric in others:
                metric.update(y, p[name])
        for member in self.members.values():
            member.learn_one(x, y)
        entry[1] = float(y)
        self.learned += 1
