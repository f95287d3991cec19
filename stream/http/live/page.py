"""What the live page shows: a snapshot about once a second and a ring of the last ten minutes.

It reads published readings and committed outputs only, never the engine, and holds no event's
payload: anybody with a token may look.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.base import I64
from monitoring.audit.words import told
from monitoring.drift.evidence import Guarded, Standing
from monitoring.drift.monitor import DriftReading
from monitoring.histogram import DURATION_BOUNDS_S, LATENCY_BOUNDS_S, Histogram
from monitoring.quality.measures import UNDECIDED
from monitoring.quality.numbers import PINBALL
from monitoring.quality.rated import METRICS as RATED
from monitoring.quality.tasks import METRICS, Snapshot
from monitoring.show.readings import RANKING, Readings
from stream.contract.outputs import Outputs
from stream.http.live.recent import KEPT, LISTS, RecentScores

POINT_S = 2.0
POINTS = 300
"""Ten minutes of them; the ring of six scorers is 130 kB as JSON."""
RECENT = 15
"""Points that a snapshot repeats: a reader misses none unless it is gone for half a minute."""
RATE_S = 10.0
LATEST = 20
"""Audit records and dead letters shown."""
SHOWN = 10
"""Latest and highest scores shown."""
OF_STAGE = "over candidates"
"""What stands behind the names of signals of a second stage."""
_CHAIN = frozenset({"v", "trail", "prev", "hash", "sig"})


class _Mark(NamedTuple):
    """Counts at one publication: rates and latencies are differences of two."""

    at_s: float
    scored: int
    labels: int
    step: I64
    event: I64


class PageView:
    """The live page's numbers; ``ranks``: of a shard that ranks.

    Threads: the loop calls :meth:`published`, the commit thread :meth:`committed`, one thread of
    its own adds points, the HTTP server's worker calls :meth:`snapshot` and :meth:`history`. A
    deque's append and a list of it are single steps of the interpreter, so there is no lock.
    """

    def __init__(self, ranks: bool = False) -> None:
        self._marks: deque[_Mark] = deque(maxlen=64)
        self._points: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._alarms: Counter[tuple[str, str]] | None = None
        self._before: dict[str, tuple[int, int]] = {}
        self.scores = RecentScores(LISTS if ranks else KEPT)
        self._audit: deque[bytes] = deque(maxlen=LATEST)
        self._dead: deque[dict[str, str]] = deque(maxlen=LATEST)

    @property
    def began(self) -> bool:
        """Whether anything was published yet."""
        return bool(self._marks)

    # ------------------------------------------------------------------ from the service's threads

    def published(self, readings: Readings, step: Histogram) -> None:
        """New readings, and how long steps took so far (the loop's thread)."""
        now = time.monotonic()
        joined = readings.labels.get("joined", 0)
        event = readings.event_latency.counts
        self._marks.append(_Mark(now, readings.scored, joined, step.counts.copy(), event))
        while now - self._marks[0].at_s > RATE_S and len(self._marks) > 2:
            self._marks.popleft()

    def committed(self, outputs: Outputs) -> None:
        """Keep the newest scores, audit records and dead letters (the commit thread)."""
        self.scores.committed(outputs)
        self._audit.extend(r.value or b"" for r in outputs.audit[-LATEST:])
        self._dead.extend(letter.told() for letter in outputs.dead_letters[-LATEST:])

    # ------------------------------------------------------------------ for the live feed

    def add_point(self, latest: Readings) -> None:
        """Put readings onto the ring."""
        rates = self.rates()
        alarms = Counter({(d.detector, d.signal): d.alarms for d in _drift(latest)})
        # The moment of alarms from before the first point is not known; the audit trail has it.
        fresh = Counter() if self._alarms is None else alarms - self._alarms
        self._alarms = alarms
        held = {member: sum(roles.values()) for member, roles in _by_role(latest).items()}
        self._points.append(
            {
                "t": time.time_ns() // 1_000_000,
                "events_per_s": round(rates["events_per_s"], 1),
                "labels_per_s": round(rates["labels_per_s"], 1),
                "step": rates["step"],
                "quality": {
                    name: [finite(values.get(m, np.nan), 5) for m in shown(latest)]
                    for name, values in sliding(latest.arrival).items()
                },
                "weights": {name: finite(w, 5) for name, w in latest.weights.items()},
                "parameters": {member: count for member, count in held.items() if count},
                "drift": sorted(fresh),
                "alert_share": self._share("alerts", latest.alerts, latest.scored),
                **self._shown(latest),
                **({} if latest.beside is None else {"stage": _stage_point(latest)}),
            }
        )

    def _shown(self, latest: Readings) -> dict[str, float | None]:
        """Shares of what is shown, where items are ranked."""
        of = latest.ranking
        if latest.task != "ranking":
            return {}
        return {
            "fallback_share": self._share("fallbacks", int(of.get("fallbacks", 0)), latest.scored),
            **{name: finite(of.get(name, np.nan), 5) for name in ("coverage", "top_10")},
        }

    def _share(self, name: str, part: int, scored: int) -> float | None:
        """Share of the events scored since the point before; ``None`` without any."""
        now = (part, scored)
        before, self._before[name] = self._before.get(name), now
        if before is None or now[1] == before[1]:
            return None
        return round((now[0] - before[0]) / (now[1] - before[1]), 6)

    def history(self) -> dict[str, Any]:
        """What a reader gets once: every point of the ring."""
        return {"points": list(self._points)}

    def rates(self) -> dict[str, Any]:
        """Events and labels a second, and p50 and p99 of latencies, over the last ten seconds."""
        marks = list(self._marks)
        if len(marks) < 2:
            unknown = [None, None]
            return {"events_per_s": 0.0, "labels_per_s": 0.0, "step": unknown, "event": unknown}
        first, last = marks[0], marks[-1]
        seconds = max(last.at_s - first.at_s, 1e-3)
        return {
            "events_per_s": (last.scored - first.scored) / seconds,
            "labels_per_s": (last.labels - first.labels) / seconds,
            "step": _quantiles(DURATION_BOUNDS_S, last.step - first.step),
            "event": _quantiles(LATENCY_BOUNDS_S, last.event - first.event),
        }

    def snapshot(self, latest: Readings) -> dict[str, Any]:
        """The engine's numbers of this moment; ``None`` stands for what is not known yet."""
        return {
            "at": time.time_ns() // 1_000_000,
            "model": latest.model,
            "task": latest.task,
            "scored": latest.scored,
            **self.rates(),
            "alerts": latest.alerts,
            "threshold": finite(latest.threshold),
            "labels": dict(latest.labels),
            "dead_letters": {k: v for k, v in latest.dead_letters.items() if v},
            "pending": latest.pending,
            "let_go": latest.pending_evicted,
            "watermark_ms": latest.watermark_ms,
            "label_coverage": finite(latest.label_coverage),
            "judged": outcomes(latest.arrival),
            "matured": outcomes(latest.matured),
            "limits": _limits(latest),
            "weights": {k: finite(v) for k, v in latest.weights.items()},
            "parameters": _by_role(latest),
            "quality": {
                name: {k: finite(v) for k, v in values.items()}
                for name, values in sliding(latest.arrival).items()
            },
            "matured_quality": {
                k: finite(v) for k, v in sliding(latest.matured).get("ensemble", {}).items()
            },
            "metrics": shown(latest),
            "recent": {
                "latest": [msgspec.Raw(r) for r in self.scores.latest(SHOWN)],
                "highest": [msgspec.Raw(r) for r in self.scores.highest(SHOWN)],
            },
            "scores": {
                "bounds": latest.scores.bounds,
                "truth": [h.counts.tolist() for h in latest.labelled_scores.values()],
                "all": latest.scores.counts.tolist(),
            },
            "drift": [
                [d.detector, d.signal, finite(d.statistic), finite(d.threshold), d.alarms]
                for d in _drift(latest)
            ],
            "challengers": [standing(c) for c in latest.challengers],
            "guard": [standing(g) for g in latest.guard],
            "audit": [_shown_audit(raw) for raw in list(self._audit)],
            "last_dead_letters": list(self._dead),
            "points": list(self._points)[-RECENT:],
            **self._ranking(latest),
        }

    def _ranking(self, latest: Readings) -> dict[str, Any]:
        """Of rankings: what is counted, and the newest lists instead of scores."""
        if latest.task != "ranking":
            return {"ranking": None, "stage": None}
        return {
            "stage": _stage(latest),
            "ranking": {name: finite(latest.ranking.get(name, 0.0)) for name in RANKING},
            "recent": {"latest": [_list(r) for r in self.scores.latest(SHOWN)], "highest": []},
        }


def _drift(latest: Readings) -> list[DriftReading]:
    """Of every signal; those of a second stage say so."""
    beside = () if latest.beside is None else latest.beside.drift
    return [*latest.drift, *(d._replace(signal=f"{d.signal} {OF_STAGE}") for d in beside)]


def _stage(latest: Readings) -> dict[str, Any] | None:
    """The second stage of rankings, if there is one: whose order is shown, and how good it is."""
    if latest.beside is None:
        return None
    quality = sliding(latest.beside.arrival)
    return {
        "leads": bool(latest.ranking.get("leads", 0.0)),
        "metrics": UNDECIDED,
        "judged": outcomes(latest.beside.arrival),
        "quality": {
            n: {m: finite(v.get(m, np.nan)) for m in UNDECIDED} for n, v in quality.items()
        },
        "weights": {name: finite(w) for name, w in latest.beside.weights.items()},
    }


def _stage_point(latest: Readings) -> dict[str, Any] | None:
    """Of :func:`_stage` what is drawn over time."""
    told = _stage(latest)
    if told is None:
        return None
    rounded = {n: [v and round(v, 5) for v in of.values()] for n, of in told["quality"].items()}
    weights = {name: w and round(w, 5) for name, w in told["weights"].items()}
    return {"leads": told["leads"], "quality": rounded, "weights": weights}


def shown(latest: Readings) -> list[str]:
    """The metrics of the target, in the order in which they are shown."""
    told = sliding(latest.arrival).get("ensemble", {})
    rated = RATED if latest.rated else ()
    return [*METRICS[latest.task], *rated, *(name for name in told if name.startswith(PINBALL))]


def sliding(snapshot: Snapshot | None) -> dict[str, dict[str, float]]:
    """Each scorer's metrics over the sliding window."""
    if snapshot is None:
        return {}
    return {name: windows["sliding"] for name, windows in snapshot.report().items()}


def outcomes(snapshot: Snapshot | None) -> int:
    """Decisions of the ensemble whose truth is known."""
    return sum(snapshot.outcomes().values()) if snapshot is not None else 0


def finite(value: float, digits: int | None = None) -> float | None:
    """``None`` for what JSON cannot say; ``digits`` decimals where it is drawn, not read."""
    if not np.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def standing(found: Standing | Guarded) -> dict[str, Any]:
    """How a challenge stands, or a member beside what it was, as JSON can say it."""
    return {
        key: finite(value) if isinstance(value, float) else value
        for key, value in found._asdict().items()
    }


def quantile(bounds: tuple[float, ...], counts: I64, q: float) -> float | None:
    """A quantile of histogram counts, straight between bounds as Prometheus does it.

    >>> quantile((1.0, 2.0), np.array([1, 1, 0]), 0.75)
    1.5
    """
    total = np.cumsum(counts)
    if total[-1] <= 0:
        return None
    rank = q * total[-1]
    i = int(np.searchsorted(total, rank))
    if i >= len(bounds):
        return float(bounds[-1])
    low, before = (bounds[i - 1], total[i - 1]) if i else (0.0, 0)
    return float(low + (bounds[i] - low) * (rank - before) / max(counts[i], 1))


def _quantiles(bounds: tuple[float, ...], counts: I64) -> list[float | None]:
    return [quantile(bounds, counts, q) for q in (0.5, 0.99)]


def _by_role(latest: Readings) -> dict[str, dict[str, int]]:
    held: dict[str, dict[str, int]] = {name: {} for name in latest.members}
    for (member, role, _), count in latest.parameters.items():
        roles = held.setdefault(member, {})
        roles[role] = roles.get(role, 0) + count
    if latest.beside is not None:
        held |= {n: of for n, of in _by_role(latest.beside).items() if n in latest.beside.members}
    return held


def _limits(latest: Readings) -> list[dict[str, Any]]:
    """Configured bounds that fill up, and how far they have."""
    used: dict[str, float] = {"pending": latest.pending, "classes": len(latest.classes)}
    if latest.task == "ranking":
        used |= {side: latest.ranking.get(side, 0) for side in ("users", "items")}
    else:
        used["early_labels"] = latest.early_labels
    used |= {
        f"{key.removesuffix('.entities')}.max_entities": value
        for key, value in latest.features.items()
        if key.endswith(".entities")
    }
    return [
        {"name": name, "used": used[name], "limit": limit}
        for name, limit in latest.limits.items()
        if name in used
    ]


def _list(raw: bytes) -> dict[str, Any]:
    """An answer without most of its items, and how many they are."""
    answer = msgspec.json.decode(raw)
    return answer | {"items": answer["items"][:SHOWN], "count": len(answer["items"])}


def _shown_audit(raw: bytes) -> dict[str, Any]:
    """A record in words, and whole but for its chain, which `millrace audit verify` checks."""
    record = msgspec.json.decode(raw)
    return {
        **{k: record[k] for k in ("seq", "at", "event", "model")},
        "inside": record.get("inside", True),
        "told": told(record),
        "raw": {k: v for k, v in record.items() if k not in _CHAIN},
    }
