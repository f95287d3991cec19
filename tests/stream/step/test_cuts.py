"""Nothing that is decided about a record depends on where batches are cut, or on threads."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import state_digest
from models.ensemble.ensemble import SIDE_BY_SIDE
from stream.contract.letters import REASONS
from stream.contract.records import Batch, Range, Record, Slice
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.step.scoring import ScoringEngine
from tests.support.factory import DAY_MS, HOUR_MS, START_MS, Feed, config, event, label, to_json

CLOCK_MS = START_MS + 400 * DAY_MS
COMMANDS = (
    {"command": "set_threshold", "threshold": 0.3},
    {"command": "freeze", "member": "linear"},
    {"command": "release", "member": "linear"},
    {"command": "freeze", "member": "nobody"},
    {"command": "explode"},
)
Item = tuple[str, bytes | None]
"""Topic and value."""


def stream_of(seed: int, n: int = 60) -> list[Item]:
    """A stream in which ids meet often, time goes on and jumps: good records, every bad kind."""
    rng = np.random.default_rng(seed)
    found: list[Item] = []
    now, topic = START_MS, "events"
    while len(found) < n:
        if rng.random() < 0.3:
            topic = str(rng.choice(["events", "labels", "control"], p=[0.55, 0.4, 0.05]))
        now += int(rng.choice([0, HOUR_MS, 6 * HOUR_MS, 3 * DAY_MS], p=[0.3, 0.4, 0.25, 0.05]))
        found.append((topic, _value(rng, topic, now)))
    return found


def _value(rng: np.random.Generator, topic: str, now: int) -> bytes | None:
    if topic == "control":
        return to_json(COMMANDS[rng.integers(len(COMMANDS))])
    number = int(rng.integers(12))
    bad = rng.choice(["", "null", "junk", "big", "schema", "other"], p=[0.85, *[0.03] * 5])
    if bad == "null":
        return None
    if bad in ("junk", "big"):
        return b"{not json" if bad == "junk" else b'"' + b"x" * 2000 + b'"'
    if topic == "labels":
        truth = "maybe" if bad == "other" else bool(rng.integers(2))
        return to_json({"id": []} if bad == "schema" else label(number, truth))
    at_ms = (
        CLOCK_MS + 2 * DAY_MS if bad == "other" else now - int(rng.choice([0, 1, 5, 40])) * HOUR_MS
    )
    return to_json(event(number, at_ms, **({"amount": "x"} if bad == "schema" else {})))


def batches(stream: Sequence[Item], cuts: Sequence[int]) -> list[Batch]:
    """The stream as steps that end before each of ``cuts``."""
    offsets: dict[str, int] = {}
    found: list[Batch] = []
    slices: list[Slice] = []
    for i, (topic, value) in enumerate(stream):
        if i in cuts and slices:
            found.append(Batch(len(found) + 1, CLOCK_MS, slices))
            slices = []
        offset = offsets.get(topic, 0)
        offsets[topic] = offset + 1
        record = Record(topic, 0, offset, None, value)
        if slices and slices[-1].range.topic == topic:
            last = slices.pop()
            slices.append(_slice(topic, [*last.records, record]))
        else:
            slices.append(_slice(topic, [record]))
    return [*found, Batch(len(found) + 1, CLOCK_MS, slices)]


def _slice(topic: str, records: list[Record]) -> Slice:
    first, last = records[0].offset, records[-1].offset
    return Slice(Range(topic, 0, first, last, len(records)), records)


def run(
    c: Config, stream: Sequence[Item], cuts: Sequence[int]
) -> tuple[ScoringEngine, dict[str, Any]]:
    """What became of each record."""
    engine = build_engine(c, None)
    outputs = [engine.step(batch) for batch in batches(stream, cuts)]
    scores = [s for out in outputs for s in out.scored]
    letters = sorted(
        (d.record.topic, d.record.offset, d.reason, d.error)
        for out in outputs
        for d in out.dead_letters
    )
    # What members know when they score: labels that came early are learned when a run is over.
    known = ("alerts", "cold")
    counts = {k: v for k, v in engine.counts.items() if v and k not in known}
    return engine, {
        "scored": [(r.offset, i) for s in scores for r, i in zip(s.records, s.ids, strict=True)],
        "letters": letters,
        "counts": counts,
        "waiting": engine.pending.waiting,
        "held": engine.pending.take(_numbers(engine))["id"].tolist(),
        "early": engine.early.state(),
        "watermark": engine.watermark_ms,
    }


def _numbers(engine: ScoringEngine) -> Any:
    return np.arange(engine.pending.head, engine.pending.tail)


def learned(engine: ScoringEngine) -> str:
    """Digest of all that was learned and judged; the trail tells steps apart and is left out."""
    state = engine.state()
    kept = ("features", "quality", "matured", "drift", "tallies", "maturity", "threshold")
    return state_digest({k: state[k] for k in kept} | {"ensemble": engine.ensemble.digest()})


@pytest.fixture(scope="module", params=["auto", "mature", "corrected", "arrival"])
def small(request: pytest.FixtureRequest) -> Config:
    """Short horizon, little room: everything that can push a row or a label out happens."""
    with tempfile.TemporaryDirectory() as place:
        return config(
            Path(place),
            label={"field": "fraud", "horizon": "2d", "learning": request.param},
            limits={"pending": 6, "batch": 6, "early_labels": 3, "record_bytes": 1024},
        )


def cuts_of(seed: int, n: int, most: int) -> list[int]:
    """Where steps end: anywhere, at most ``most`` records apart."""
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(1, most + 1, n))
    return [int(end) for end in ends if end < n]


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_decisions_do_not_depend_on_cuts(small: Config, seed: int) -> None:
    """One record a step decides as any other cut does: scored, joined, late, dead letter, why."""
    stream = stream_of(seed)
    _, expected = run(small, stream, range(len(stream)))
    # No step may hold more events than the store: limits.batch <= limits.pending.
    _, got = run(small, stream, cuts_of(seed, len(stream), small.limits.batch))
    assert got == expected


@settings(max_examples=40)
@given(seed=st.integers(0, 1 << 32))
def test_what_is_learned_does_not_depend_on_cuts(small: Config, seed: int) -> None:
    """With no label before its event, members, windows, quality and drift end in equal bits."""
    scored: set[object] = set()
    stream = [item for item in stream_of(seed) if _after_its_event(item, scored)]
    one, _ = run(small, stream, range(len(stream)))
    other, _ = run(small, stream, cuts_of(seed, len(stream), small.limits.batch))
    if one.counts["labels.early"] == 0:
        assert learned(one) == learned(other)


def _after_its_event(item: Item, scored: set[object]) -> bool:
    topic, value = item
    try:
        identifier = json.loads(value or b"")["id"]
    except (ValueError, KeyError, TypeError):
        return True
    if topic == "events":
        scored.add(identifier)
    return topic != "labels" or identifier == [] or identifier in scored


ELSEWHERE = {"poison", "label_class", "foreign"}
"""Reasons of records that stopped the service, and of labels where classes may enter."""


def test_the_streams_meet_every_reason(small: Config) -> None:
    """Events and labels are turned away for every reason that there is for them."""
    letters = [run(small, stream_of(s), [])[1]["letters"] for s in range(40)]
    assert {reason for found in letters for _, _, reason, _ in found} == {*REASONS} - ELSEWHERE


def test_an_event_from_the_future_does_not_shadow_a_good_one(small: Config) -> None:
    """A bad event and a good one with the same id in one step: the good one is scored."""
    stream = [
        ("events", to_json(event(0, CLOCK_MS + 2 * DAY_MS))),
        ("events", to_json(event(0, START_MS))),
    ]
    _, found = run(small, stream, [])
    assert found["scored"] == [(1, "e0")]
    assert [reason for _, _, reason, _ in found["letters"]] == ["event_time_ahead"]


# ---------------------------------------------------------------------- members side by side

KERNELS = [
    {"name": "linear", "type": "logistic"},
    {"name": "prior", "type": "constant", "probability": 0.1},
    {"name": "crossed", "type": "crossed", "table_bits": 12},
    {"name": "boosting", "type": "boosting", "features": ["amount", "customer"]},
    {"name": "forest", "type": "forest", "trees": 5, "max_leaves": 64, "grace": 20},
]
EVENTS = 3 * SIDE_BY_SIDE


def shared_by(threads: int | None, directory: Path, size: int) -> tuple[str, str]:
    """Digests of outputs and state after steps of ``size`` events, their labels a step later."""
    limits = {"threads": threads}
    audit = {"summary_every": SIDE_BY_SIDE}  # digests are made in the threads too
    c = config(
        directory, members=KERNELS, ensemble={"combine": "stack"}, limits=limits, audit=audit
    )
    engine, feed = build_engine(c, None), Feed()
    for start in range(0, EVENTS + size, size):
        events: list[Any] = [event(i) for i in range(start, min(start + size, EVENTS))]
        labels: list[Any] = [label(i) for i in range(max(0, start - size), min(start, EVENTS))]
        engine.step(feed.batch(*(p for p in (("events", events), ("labels", labels)) if p[1])))
    assert engine.counts["learned"] == EVENTS
    return engine.digest, engine.state_digest()


@pytest.mark.parametrize("size", [SIDE_BY_SIDE - 1, SIDE_BY_SIDE + 1, EVENTS - 7])
def test_no_bit_depends_on_threads(tmp_path: Path, size: int) -> None:
    """Members in two threads, four, or as many as there are cores do as in one."""
    alone = shared_by(1, tmp_path, size)
    assert [shared_by(threads, tmp_path, size) for threads in (2, 4, None)] == [alone] * 3
