"""Challengers in whole engines: how often one that is no better takes the place by itself.

Run ``python -m benchmarks.lifecycle.watched [--runs N] [--json] [--quick]``. Each run is an engine
with ``promote = "auto"`` that steps through the stream of ``benchmarks/lifecycle/challengers.py``:
90 days of 600 events, campaigns of 1, 600 or 5,000 rows in turn, labels at once, a day or 7 days
later. A small forest is challenged in the first step by forests of other seeds: by one, or by four
that race. They are equal on average, by symmetry: one seed's forest is truly better than another's
in some runs, so that not all of those that are promoted are so falsely. The evidence is watched
after every block. Then a logistic member is challenged by a model that repeats the share of the
newest 100 labels, which is put in a challenger's place.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from benchmarks.common import arguments, show, target
from benchmarks.lifecycle.challengers import A_DAY, CAMPAIGNS, CHUNK, DELAYS, DENSE, ROWS, world
from models.base import F64, FeatureBatch
from models.ensemble.group import key_of
from models.links import logit
from models.members.constant import ConstantModel
from stream.contract.records import Batch, Range, Record, Slice
from stream.run.assemble import build_scoring
from stream.settings.load import parse
from stream.step.scoring import ScoringEngine

START_MS, EVERY_MS = 1_767_225_600_000, 86_400_000 // A_DAY
FOREST = {"type": "forest", "trees": 3, "max_leaves": 128}
SIZES = (1, 4)
"""Challengers that begin together."""
_encode = msgspec.json.encode


class Copier(ConstantModel):
    """Says the share of positives among the newest 100 labels that it learned."""

    def __init__(self) -> None:
        super().__init__(ConstantModel.Params(probability=0.5), None, 0)  # type: ignore[arg-type]
        self._newest: list[float] = []

    def score(self, x: FeatureBatch) -> F64:
        """See :class:`models.base.Model`."""
        share = (sum(self._newest) + 0.5) / (len(self._newest) + 1.0)
        return np.full((len(x), 1), logit(np.array([share]))[0])

    def learn(self, x: FeatureBatch, y: F64, w: F64) -> None:
        """See :class:`models.base.Model`."""
        self._newest = (self._newest + y.tolist())[-100:]


def engine(member: dict[str, Any]) -> ScoringEngine:
    """One member alone, whose place a better challenger takes by itself."""
    raw = {
        "name": "watched",
        "state_dir": "unused",
        "log": {"type": "embedded", "path": "unused"},
        "event": {"time_format": "ms", "fields": dict.fromkeys(DENSE, "number")},
        "label": {"field": "y", "horizon": "30d"},
        "features": [{"name": name, "type": "number", "field": name} for name in DENSE],
        "members": [{"name": "member"} | member],
        "ensemble": {"combine": "mean_logit"},
        "challengers": {"promote": "auto", "deadline": "1000d"},
        "history": {"keep": "0s"},
        "http": {"enabled": False},
    }
    return build_scoring(parse(raw, "watched"), None)


def batches(seed: int, campaign: int, delay: int, specs: Sequence[Any]) -> Iterator[Batch]:
    """The stream in steps; the first begins the challenge."""
    made = world(seed, campaign)
    dense, truth, offsets = made.x.dense.tolist(), made.y.tolist(), {"events": 0, "labels": 0}
    for i, start in enumerate(range(0, ROWS, CHUNK)):
        rows = range(start, start + CHUNK)
        due = range(max(0, start - delay), max(0, start + CHUNK - delay))
        clock = START_MS + rows.stop * EVERY_MS
        events = [
            {
                "id": f"e{k}",
                "time": START_MS + k * EVERY_MS,
                **dict(zip(DENSE, dense[k], strict=True)),
            }
            for k in rows
        ]
        slices = [_slice("events", offsets, events)]
        if due:
            labels = [{"id": f"e{k}", "y": bool(truth[k])} for k in due]
            slices.append(_slice("labels", offsets, labels))
        if i == 0:
            command = {"command": "challenge", "member": "member", "spec": json.dumps(specs)}
            slices.insert(0, _slice("control", {"control": 0}, [command]))
        yield Batch(i + 1, clock, slices)


def _slice(topic: str, offsets: dict[str, int], values: list[dict[str, Any]]) -> Slice:
    first = offsets[topic]
    offsets[topic] += len(values)
    found = [Record(topic, 0, first + i, None, _encode(v)) for i, v in enumerate(values)]
    return Slice(Range(topic, 0, first, first + len(found) - 1, len(found)), found)


def ended(seed: int, delay: int, size: int, copies: bool) -> tuple[str, int]:
    """How a challenge ends, and after how many blocks of the one that went last."""
    member = {"type": "logistic"} if copies else FOREST
    one, blocks = engine(member), 0
    campaign = CAMPAIGNS[seed % len(CAMPAIGNS)]
    for batch in batches(seed, campaign, delay, [member] * size):
        one.step(batch)
        if copies and batch.seq == 1:
            one.ensemble.challengers[key_of("member", 1)] = Copier()
        standings = one.challengers.standings()
        if not standings:
            break
        blocks = max(s.blocks for s in standings)
    counts = one.challengers.counts
    promoted = counts["challenger_promoted/member"]
    one.close()
    if promoted:
        return "promoted", blocks + 1
    return ("dropped" if not standings else "open"), blocks


def told(runs: int, delay: int, size: int, copies: bool = False) -> dict[str, Any]:
    """So many runs in one number each."""
    ends = [ended(seed, delay, size, copies) for seed in range(runs)]
    promoted = sum(end == "promoted" for end, _ in ends)
    return {
        "runs": runs,
        "promoted": promoted,
        "dropped": sum(end == "dropped" for end, _ in ends),
        "blocks": round(sum(n for _, n in ends) / runs, 1) if runs else math.nan,
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=200, help="of each line of the table")


def main() -> None:
    """Print the table, or JSON."""
    options = arguments(__doc__, _more)
    runs = 3 if options.quick else options.runs
    table = {
        f"{size} at once, labels {name}": told(runs, delay, size)
        for size in SIZES
        for name, delay in DELAYS.items()
    }
    copied = {
        f"copies labels, {name}": told(min(runs, 100), delay, 1, copies=True)
        for name, delay in DELAYS.items()
    }
    shares = [one["promoted"] / one["runs"] for one in table.values()]
    total = sum(one["promoted"] for one in table.values())
    show(
        "Challengers in engines",
        {
            **table,
            **copied,
            "promoted, of all of equal skill": total / sum(one["runs"] for one in table.values()),
            "targets": {
                "false promotions, worst line": target(max(shares), 0.05, at_least=False),
                "copiers promoted": target(
                    sum(one["promoted"] for one in copied.values()), 0, at_least=False
                ),
            },
        },
        options.json,
    )


if __name__ == "__main__":
    main()
