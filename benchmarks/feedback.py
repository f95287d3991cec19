"""Late labels: what each way of learning them is worth, on clicks and on chargebacks.

Run ``python -m benchmarks.feedback [--json] [--quick]``. Simulated clicks under
``examples/clicks.toml``: told within minutes, silence is no click after an hour. Simulated payments
under the compiled members of ``examples/fraud.toml``, without and with its windows of risk: a
chargeback comes 1 to 40 days after its payment, silence is genuine after 41; and the same where
what is fraud changes in the middle. Each way of ``label.learning`` sees the same events and labels.

``immediate`` and ``quarter`` are what nobody has: members get both classes right after each event,
or a quarter of the horizon later. Windows of risk know what they know with late labels, so all ways
score the same features. Figures are of the ensemble's scores as made, by periods of the stream;
targets stand for what comes after two horizons.
"""

from __future__ import annotations

import heapq
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, show, target
from models.base import F64, I64
from monitoring.quality.measures import summarise
from stream.contract.records import Batch, NewRecord
from stream.demo.clicks import CLICKS, ClickSimulator
from stream.demo.player import PAYMENTS, Writing
from stream.demo.simulator import DAY_MS, GENUINE, NEVER, Rows, Simulator
from stream.run.assemble import build_engine
from stream.settings.load import parse
from stream.step.scoring import ScoringEngine

EXAMPLES = Path(__file__).parents[1] / "examples"
LAGS = {"immediate": 0.0, "quarter": 0.25}
"""Ways that are told both classes, and what part of the horizon after each event."""
WAYS = (*LAGS, "arrival", "mature", "auto")
SPAN = 64
"""A step takes events of a 64th of the horizon at most: so late are labels at most."""
SHOWN = ("log_loss", "calibration_error", "roc_auc", "positives", "mean_score")


class Stream(NamedTuple):
    """A simulation with the labels that somebody tells; ``truth`` 0 or 1 of each row."""

    raw: dict[str, Any]
    rows: Rows
    truth: I64
    told_ms: I64  # or NEVER
    writing: Writing
    horizon_ms: int
    seed: int


def clicks(events: int, seed: int) -> Stream:
    """Impressions whose clicks are told, and nothing else."""
    raw = tomllib.loads((EXAMPLES / "clicks.toml").read_text())
    rows = _all(ClickSimulator(seed, drift=False, events=events))
    told = rows["reported_at_ms"]
    truth = (told != NEVER).astype(np.int64)
    return Stream(raw, rows, truth, told, CLICKS, 3_600_000, seed)


def chargebacks(events: int, seed: int, risk: bool = False, drift: bool = False) -> Stream:
    """Payments whose frauds are told 1 to 40 days later, and nothing else."""
    raw = tomllib.loads((EXAMPLES / "fraud.toml").read_text())
    raw["members"] = [m for m in raw["members"] if m["type"] in ("logistic", "crossed", "forest")]
    raw["features"] = [f for f in raw["features"] if risk or f["type"] != "risk"]
    raw["label"]["horizon"] = "41d"
    rows = _all(Simulator(seed, 2000, 800, drift=drift, events=events))
    truth = (rows["scenario"] != GENUINE).astype(np.int64)
    delay = (np.random.default_rng([seed, 3]).uniform(1, 40, len(rows)) * DAY_MS).astype(np.int64)
    told = np.where(truth == 1, rows["event_time_ms"] + delay, NEVER)
    return Stream(raw, rows, truth, told, PAYMENTS, 41 * DAY_MS, seed)


def _all(simulation: Simulator | ClickSimulator) -> Rows:
    return np.concatenate([chunk.events for chunk in simulation.chunks(4096)])


def run(stream: Stream, way: str) -> tuple[F64, float]:
    """Scores as made ``(n,)``, ``nan`` where cold; the age of what was learned, by weight, ms."""
    lag_ms = int(LAGS[way] * stream.horizon_ms) if way in LAGS else None
    raw = stream.raw | {"label": stream.raw["label"]}
    raw["label"]["learning"] = "arrival" if way in LAGS else way
    engine = build_engine(parse(raw, "benchmark"), None)
    windows = _Windows(engine, stream) if lag_ms is not None else None
    ages = np.zeros(2)
    learn = engine.learning.learn

    def watch(rows: Any, y: F64, w: F64, watermark_ms: int, waited: bool) -> None:
        ages[:] += w @ (watermark_ms - rows["event_time_ms"].astype(np.float64)), w.sum()
        learn(rows, y, w, watermark_ms, waited)

    engine.learning.learn = watch  # type: ignore[method-assign]
    scores = np.full(len(stream.rows), np.nan)
    sent = {"events": 0, "labels": 0}
    for seq, step in enumerate(_steps(stream, lag_ms), 1):
        if windows:
            windows.tell(step.now_ms)
        slices = []
        for topic, records in step.parts:
            if records:
                slices.append(traffic.piece_slice(topic, sent[topic], records))
                sent[topic] += len(records)
        for scored in engine.step(Batch(seq, traffic.CLOCK_MS, slices)).scored:
            at = np.array([r.offset for r in scored.records])
            scores[at] = np.nan if scored.cold else scored.p
    return scores, float(ages[0] / ages[1])


class _Windows:
    """Windows of risk that are told positives when somebody would, whatever members are told."""

    def __init__(self, engine: ScoringEngine, stream: Stream) -> None:
        self._stream = stream
        self._tell, self._keep = engine.learning.told, engine.pending.hold
        self._held: list[tuple[int, int, Any]] = []
        self._seen = 0
        engine.learning.told = lambda rows, truth: None  # type: ignore[method-assign]
        engine.pending.hold = self._hold  # type: ignore[method-assign]

    def _hold(self, rows: Any) -> I64:
        """Events are held in their order: the next ones are these."""
        truth = self._stream.truth[self._seen : self._seen + len(rows)]
        for i in np.flatnonzero(truth == 1).tolist():
            at = self._seen + i
            heapq.heappush(self._held, (int(self._stream.told_ms[at]), at, rows[i : i + 1].copy()))
        self._seen += len(rows)
        return self._keep(rows)

    def tell(self, now_ms: int) -> None:
        while self._held and self._held[0][0] <= now_ms:
            self._tell(heapq.heappop(self._held)[2], np.ones(1, np.int8))


class _Step(NamedTuple):
    now_ms: int
    parts: list[tuple[str, list[NewRecord]]]


def _steps(stream: Stream, lag_ms: int | None) -> Iterator[_Step]:
    """The stream in steps: labels that are due, then events.

    With ``lag_ms`` each event has a label, so much later; without delay in the same step.
    """
    times = stream.rows["event_time_ms"]
    labels = stream.rows.copy()
    labels["reported_at_ms"] = stream.told_ms if lag_ms is None else times + lag_ms
    events = stream.writing.events(stream.rows, stream.seed)
    truths = stream.writing.labels(labels, stream.seed)
    if lag_ms is not None and stream.writing is CLICKS:
        for i in np.flatnonzero(stream.truth == 0).tolist():
            value = (truths[i].value or b"").replace(b'"clicked":true', b'"clicked":false')
            truths[i] = NewRecord(truths[i].key, value)
    due: list[tuple[int, int]] = []
    first = 0
    while first < len(times):
        most = int(np.searchsorted(times, times[first] + stream.horizon_ms // SPAN, "right"))
        last = max(first + 1, min(most, first + 256))
        now = int(times[first])
        if lag_ms == 0:
            yield _Step(now, [("events", events[first:last]), ("labels", truths[first:last])])
        else:
            late = []
            while due and due[0][0] <= now:
                late.append(truths[heapq.heappop(due)[1]])
            yield _Step(now, [("labels", late), ("events", events[first:last])])
            for i in range(first, last):
                if labels["reported_at_ms"][i] != NEVER:
                    heapq.heappush(due, (int(labels["reported_at_ms"][i]), i))
        first = last


def periods(stream: Stream, scores: F64) -> dict[str, dict[str, float]]:
    """The measures of the first two horizons, and of the halves of what comes after them."""
    after = stream.rows["event_time_ms"] - stream.rows["event_time_ms"][0] > 2 * stream.horizon_ms
    n = len(scores)
    start = int(after.argmax())
    middle = (start + n) // 2
    cuts = {"two horizons": (0, start), "then": (start, middle), "last": (middle, n)}
    found = {name: _measures(stream, scores, *cut) for name, cut in cuts.items()}
    return found | {"after": _measures(stream, scores, start, n)}


def _measures(stream: Stream, scores: F64, start: int, end: int) -> dict[str, float]:
    y, p = stream.truth[start:end].astype(np.float64), scores[start:end]
    made = ~np.isnan(p)
    found = summarise(p[made], y[made], 0.5)
    found |= {"positives": float(y.sum()), "mean_score": float(p[made].mean())}
    return {name: round(found[name], 5) for name in SHOWN} | {"cold": float((~made).sum())}


def main() -> None:
    """Print every stream's figures, as a table or as JSON."""
    options = arguments(__doc__)
    figures: dict[str, Any] = {}
    targets: dict[str, Any] = {}
    n = (8_000, 400_000) if options.quick else (100_000, 600_000)
    streams = {
        "clicks": clicks(n[0], 7),
        "chargebacks": chargebacks(n[1], 7),
        "chargebacks with risk": chargebacks(n[1], 7, risk=True),
        "chargebacks with drift": chargebacks(n[1], 7, drift=True),
    }
    for name, stream in streams.items():
        found = {}
        for way in WAYS:
            scores, age_ms = run(stream, way)
            found[way] = periods(stream, scores)
            found[way]["age_when_learned"] = {"horizons": round(age_ms / stream.horizon_ms, 3)}
        figures[name] = found
        got, best = (found[way]["after"] for way in ("auto", "immediate"))
        beside = got["log_loss"] / best["log_loss"]
        targets[name] = {
            "log_loss_beside_immediate": target(beside, 1.05, at_least=False),
            "calibration_error": target(got["calibration_error"], 0.01, at_least=False),
        }
    show("Delayed feedback", figures | {"targets": targets}, options.json)


if __name__ == "__main__":
    main()
