"""Drift: delay, false alarms and misses of alarms and alerts, and what each reaction is worth.

Run ``python -m benchmarks.drift [--json] [--quick]``. Ten seeds, 100,000 payments each, 2,000 a
day; the drift comes on day 25. The whole engine runs with the members of ``benchmarks/traffic.py``,
so weights, thresholds and learning are the service's. Every payment gets its label: at once, 1,000
payments later, or 7 days later. Alarms are those of the ensemble's error; delay counts labels from
the first one of a payment after the drift. The alert on scores needs no label: its delay counts
payments. Each reaction runs on the same payments as none. Then alarms of every type of member over
30 stationary runs, and of errors drawn from distributions, 30 streams of 100,000 each, that stay
as they are or rise by 5, 10 or 20 points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import traffic
from benchmarks.common import arguments, show, target
from models.base import F32, F64, I64
from models.task import SHARES
from monitoring.drift.betting import Betting
from monitoring.drift.monitor import Alarm
from monitoring.drift.settings import EVIDENCE, MARGIN
from stream.contract.records import Batch
from stream.demo.player import event_records, label_records
from stream.demo.simulator import DAY_MS, PAYMENT, Payments, Simulator
from stream.run.assemble import build_engine

SEEDS = range(1, 11)
"""Reported. What the bets are was chosen on seeds 201 to 203, and on others of ERRORS."""
EVENTS = 100_000
SIZE = 1024
WITHIN = 2_000
"""Labels after the drift within which an alarm counts as found in time: a day's."""
DELAYS = {"at once": 0, "1,000 payments": 1_000, "7 days": None}
REACTIONS = ("weights", "reset")
AFTER = 5_000
"""Labels after the drift over which a reaction is judged, beside all of them."""

# The alert MillraceScoreDrift, with 30 minutes as its least number of scores.
SCORE_DRIFT = 0.05
FROM = 0.1
WINDOW = 1_000
LEARNED = 10_000
_STEP = 125
_HELD = 4  # steps: more than the 10 minutes for which it must hold

STREAMS = 30
MEMBERS: tuple[dict[str, Any], ...] = (
    *traffic.COMPILED,
    {"name": "boosting", "type": "boosting"},
    {"name": "naive_bayes", "type": "river", "model": "river.naive_bayes.GaussianNB"},
    {"name": "mlp", "type": "torch", "hidden": [8]},
    {"name": "constant", "type": "constant", "probability": 0.4},
)
"""One of each type, two of them badly calibrated; under a mean, so that none spoils another."""
MEMBERS_EVENTS = 40_000


def _bursts(length: int) -> Callable[[np.random.Generator, int], F64]:
    """One row in twenty is wrong, three times as many in a tenth of all bursts."""

    def draw(rng: np.random.Generator, n: int) -> F64:
        high = np.repeat(rng.random(-(-n // length)) < 0.1, length)[:n]
        return (rng.random(n) < np.where(high, 0.15, 0.05)).astype(np.float64)

    return draw


ERRORS: Mapping[str, Callable[[np.random.Generator, int], F64]] = {
    "1 % wrong": lambda rng, n: (rng.random(n) < 0.01).astype(np.float64),
    "5 % wrong": lambda rng, n: (rng.random(n) < 0.05).astype(np.float64),
    "30 % wrong": lambda rng, n: (rng.random(n) < 0.3).astype(np.float64),
    "a coin": lambda rng, n: (rng.random(n) < 0.5).astype(np.float64),
    "sure, 10 % wrong": lambda rng, n: rng.beta(0.1, 0.9, n),
    "heavy tails": lambda rng, n: -np.expm1(-0.05 * rng.pareto(1.0, n)),
    "bursts of 50": _bursts(50),
    "bursts of 200": _bursts(200),
    "bursts of 1,000": _bursts(1_000),
    "bursts of 5,000": _bursts(5_000),
}
"""Errors that do not change, by what they are drawn from."""
RISES = (0.05, 0.1, 0.2)


class Run(NamedTuple):
    """Rows (labels in order) of the ensemble's alarms; the drift's row, if any.

    ``losses`` ``(labels,)`` is the ensemble's log loss; ``moved`` the events scored when the alert
    on scores begins to fire, ``largest`` its statistic's maximum; ``drift_event`` the first event
    after the drift.
    """

    alarms: list[int]
    drift_row: int | None
    losses: F64
    moved: list[int]
    largest: float
    drift_event: int | None


def pieces(sim: Simulator, delay: int | None) -> Iterator[tuple[Payments, Payments]]:
    """Payments, and those whose labels come after them; ``None``: seven days later."""
    waiting = np.empty(0, PAYMENT)
    for chunk in sim.chunks(SIZE):
        waiting = np.concatenate([waiting, chunk.events])
        if delay is None:
            due = waiting["event_time_ms"] + 7 * DAY_MS <= chunk.events["event_time_ms"][-1]
        else:
            due = np.arange(len(waiting)) < len(waiting) - delay
        labels = waiting[due].copy()
        # Also of those that nobody would report: the delay is the benchmark's, not the simulator's.
        labels["reported_at_ms"] = labels["event_time_ms"] + 1
        yield chunk.events, labels
        waiting = waiting[~due]


def batches(
    sim: Simulator, delay: int | None, seed: int
) -> Iterator[tuple[Payments, Payments, Batch]]:
    """The :func:`pieces`, each with its batch of a run from its first step on."""
    ours, theirs = tee(pieces(sim, delay))
    records = ((event_records(p, seed), label_records(y, seed)) for p, y in theirs)
    for (payments, labels), batch in zip(ours, traffic.each_batch(records), strict=True):
        yield payments, labels, batch


class _Watch:
    """Keeps what passes through an engine's drift monitor."""

    def __init__(self, engine: Any) -> None:
        self.alarms: list[int] = []
        self.losses: list[F64] = []
        self.scores: list[F64] = []
        self.learned: list[int] = []
        self.rows = 0
        self._engine = engine
        self._update, self._observe = engine.drift.update, engine.drift.observe
        engine.drift.update, engine.drift.observe = self.update, self.observe

    def update(self, losses: F64, at_ms: I64, watermark_ms: int) -> list[Alarm]:
        found: list[Alarm] = self._update(losses, at_ms, watermark_ms)
        for alarm in found:
            if alarm.signal == "ensemble":
                self.alarms.append(self.rows + alarm.row)
        self.losses.append(losses[:, 0].copy())
        self.rows += len(losses)
        return found

    def observe(self, p: F64, dense: F32 | None = None) -> None:
        self.scores.append(p.copy())
        self.learned += [self._engine.counts["learned"]] * len(p)
        self._observe(p, dense)


def run(seed: int, drift: bool, delay: int | None, on_alarm: str = "none") -> Run:
    """One engine over one simulation."""
    sim = Simulator(seed, 1000, 400, traffic.START_MS, drift=drift, events=EVENTS)
    drift_row: int | None = None
    drift_event: int | None = None
    with tempfile.TemporaryDirectory() as directory:
        config = traffic.config(Path(directory), drift={"on_alarm": on_alarm})
        engine = build_engine(config, None)
        watch, scored = _Watch(engine), 0
        for payments, labels, batch in batches(sim, delay, seed):
            if sim.drift_ms is not None and drift_event is None:
                drift_event = _first(payments, sim.drift_ms, scored)
            if sim.drift_ms is not None and drift_row is None:
                drift_row = _first(labels, sim.drift_ms, watch.rows)
            scored += len(payments)
            engine.step(batch)
    moved, largest = score_drift(np.concatenate(watch.scores), np.array(watch.learned))
    losses = np.concatenate(watch.losses)
    return Run(watch.alarms, drift_row, losses, moved, largest, drift_event)


def _first(payments: Payments, drift_ms: int, before: int) -> int | None:
    """The place of the first payment after the drift, ``before`` having come before these."""
    after = np.flatnonzero(payments["event_time_ms"] >= drift_ms)
    return before + int(after[0]) if len(after) else None


def score_drift(p: F64, learned: I64) -> tuple[list[int], float]:
    """When the alert on scores begins to fire, in scores, and the largest value of its statistic.

    As the rule has it: the largest gap of the two distribution functions from :data:`FROM` on,
    between this window and the one that ended a window before it began.
    """
    n, kept = len(p) // _STEP, [i for i, b in enumerate(SHARES) if b >= FROM]
    bins = np.searchsorted(SHARES, p[: n * _STEP]).reshape(n, _STEP)
    counts = np.array([np.bincount(row, minlength=len(SHARES) + 1) for row in bins])
    total = np.vstack([np.zeros(counts.shape[1]), counts.cumsum(axis=0)])
    width = WINDOW // _STEP
    ecdf = (total[width:] - total[:-width]).cumsum(axis=1)[:, kept] / WINDOW
    gap = np.abs(ecdf[2 * width :] - ecdf[: -2 * width]).max(axis=1)
    # Labels learned when the older window began.
    gap = np.where(learned[: n * _STEP : _STEP][: len(gap)] >= LEARNED, gap, 0.0)
    held = np.lib.stride_tricks.sliding_window_view(gap, _HELD).min(axis=1)
    fires = np.flatnonzero(np.diff(np.concatenate(([0], held > SCORE_DRIFT))) == 1)
    ends = (fires + _HELD - 1 + 3 * width) * _STEP
    return ends.tolist(), float(held.max())


def delays_of(rows: Sequence[Sequence[int]], starts: Sequence[int | None]) -> dict[str, Any]:
    """How often and how late something fired after the drift, and how often before."""
    found = []
    early = 0
    for fired, at in zip(rows, starts, strict=True):
        start = at or 0
        early += sum(r < start for r in fired)
        found.append(next((r - start for r in fired if r >= start), None))
    delays = sorted(d for d in found if d is not None)
    return {
        "found": len(delays),
        "found_within": sum(d <= WITHIN for d in delays),
        "missed": found.count(None),
        "delay_median": int(np.median(delays)) if delays else None,
        "delay_worst": delays[-1] if delays else None,
        "false_before_the_drift": early,
    }


def judge(drifting: list[Run], calm: list[Run]) -> dict[str, Any]:
    """The ensemble's alarms over the runs of one label delay."""
    found = delays_of([one.alarms for one in drifting], [one.drift_row for one in drifting])
    return found | {"false_on_stationary": sum(len(one.alarms) for one in calm)}


def judge_scores(drifting: list[Run], calm: list[Run]) -> dict[str, Any]:
    """The alert on scores; delays are in payments."""
    found = delays_of([one.moved for one in drifting], [one.drift_event for one in drifting])
    return found | {
        "false_on_stationary": sum(len(one.moved) for one in calm),
        "largest_on_stationary": round(max(one.largest for one in calm), 4),
        "least_with_drift": round(min(one.largest for one in drifting), 4),
    }


def worth(plain: list[Run], reacting: list[Run]) -> dict[str, Any]:
    """Mean log loss with a reaction beside that without, on the same payments."""
    found = {}
    for name, span in (("next_5000", AFTER), ("to_the_end", EVENTS)):
        parts = []
        for one, other in zip(plain, reacting, strict=True):
            start = EVENTS // 2 if one.drift_row is None else one.drift_row
            parts.append([r.losses[start : start + span].mean() for r in (one, other)])
        without, with_it = np.array(parts).T
        gain = without - with_it
        found[name] = {
            "none": round(float(without.mean()), 5),
            "reaction": round(float(with_it.mean()), 5),
            "better_by": round(float(gain.mean()), 5),
            "standard_error": round(float(gain.std(ddof=1) / len(gain) ** 0.5), 5),
            "better": int((gain > 0).sum()),
            "worse": int((gain < 0).sum()),
        }
    return found


def members(seeds: Sequence[int]) -> dict[str, Any]:
    """Alarms of each type of member on stationary streams, and in how many runs."""
    alarms: dict[str, list[int]] = {}
    for seed in seeds:
        sim = Simulator(seed, 1000, 400, traffic.START_MS, drift=False, events=MEMBERS_EVENTS)
        with tempfile.TemporaryDirectory() as directory:
            mean = {"combine": "mean_logit"}
            config = traffic.config(Path(directory), members=list(MEMBERS), ensemble=mean)
            engine = build_engine(config, None)
            raised = dict.fromkeys(("ensemble", *config.learners), 0)
            for _, _, batch in batches(sim, 1_000, seed):
                for alarm in engine.step(batch).alarms:
                    raised[alarm.signal] += 1
        for name, count in raised.items():
            alarms.setdefault(name, []).append(count)
    told = {n: {"alarms": sum(c), "runs": sum(x > 0 for x in c)} for n, c in alarms.items()}
    return {"labels": len(seeds) * (MEMBERS_EVENTS - 1_000), **told}


def errors(streams: int) -> dict[str, Any]:
    """False alarms of errors that stay as they are, and how late a rise is found, in labels."""
    told = {}
    for name, draw in ERRORS.items():
        calm = [draw(np.random.default_rng([seed, 9]), EVENTS) for seed in range(streams)]
        false = [d.row for d in Betting(streams).update(np.column_stack(calm))]
        told[name] = {
            "false": len(false),
            "of them in the first 20,000": sum(f < 20_000 for f in false),
        }
        for rise in RISES:
            risen = [x.copy() for x in calm]
            for seed, x in enumerate(risen):
                late = x[EVENTS // 2 :]
                up = np.random.default_rng(seed).random(len(late)) < rise / (1 - late.mean())
                late[up] = 1.0
            found: dict[int, int] = {}
            for alarm in Betting(streams).update(np.column_stack(risen)):
                if alarm.row >= EVENTS // 2:
                    found.setdefault(alarm.signal, alarm.row - EVENTS // 2)
            delays = sorted(found.values())
            told[name][f"+{rise:g}"] = {
                "found": len(delays),
                "delay_median": delays[len(delays) // 2] if delays else None,
            }
    return told


def main() -> None:
    """Print every label delay's figures, as a table or as JSON."""
    options = arguments(__doc__)
    seeds = SEEDS[:2] if options.quick else SEEDS
    figures: dict[str, Any] = {
        "seeds": len(seeds),
        "events": EVENTS,
        "within": WITHIN,
        "evidence": EVIDENCE,
        "margin": MARGIN,
        "score_drift_threshold": SCORE_DRIFT,
    }
    targets: dict[str, Any] = {}
    for label, delay in DELAYS.items():
        drifting = [run(seed, True, delay) for seed in seeds]
        calm = [run(seed, False, delay) for seed in seeds]
        alert, scores = judge(drifting, calm), judge_scores(drifting, calm)
        figures[f"labels {label}"] = {"errors": alert, "scores": scores}
        false = ("false_before_the_drift", "false_on_stationary")
        targets[f"labels {label}"] = {
            "MillraceDrift found within": target(alert["found_within"], len(seeds), at_least=True),
            "MillraceDrift false": target(sum(alert[k] for k in false), 0, at_least=False),
            "MillraceScoreDrift false": target(sum(scores[k] for k in false), 0, at_least=False),
        }
        if delay == 1_000:
            continue  # the two ends say what a reaction is worth
        for reaction in REACTIONS:
            figures[f"labels {label}"][f"on_alarm {reaction}"] = {
                "drift": worth(drifting, [run(seed, True, delay, reaction) for seed in seeds]),
                "stationary": worth(calm, [run(seed, False, delay, reaction) for seed in seeds]),
            }
    figures["members"] = members(range(1, (2 if options.quick else STREAMS) + 1))
    figures["errors"] = errors(4 if options.quick else STREAMS)
    show("Drift alarms, alerts and reactions", figures | {"targets": targets}, options.json)


if __name__ == "__main__":
    main()
