"""Nothing that is decided about a record depends on where batches are cut."""

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
from stream.contract.records import Batch, Range, Record, Slice
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.step.engine import Engine
from tests.support.factory import DAY_MS, HOUR_MS, START_MS, config, event, label, to_json

CLOCK_MS = START_MS + 400 * DAY_MS
DAY = st.integers(0, 12).map(lambda d: START_MS + d * DAY_MS // 2)

Item = tuple[str, bytes | None]
"""Topic and value."""


@st.composite
def items(draw: st.DrawFn) -> Item:
    """A record of a stream in which ids meet often and time jumps: good ones and every bad kind."""
    number = draw(st.integers(0, 7))
    topic = draw(st.sampled_from(["events"] * 6 + ["labels"] * 4 + ["control"]))
    if topic == "control":
        command = draw(
            st.sampled_from(
                [
                    {"command": "set_threshold", "threshold": 0.3},
                    {"command": "freeze", "member": "linear"},
                    {"command": "release", "member": "linear"},
                    {"command": "freeze", "member": "nobody"},
                    {"command": "explode"},
                ]
            )
        )
        return topic, to_json(command)
    bad = draw(st.sampled_from([*["none"] * 8, "null", "junk", "big", "schema", "ahead", "value"]))
    if bad == "null":
        return topic, None
    if bad == "junk":
        return topic, b"{not json"
    if bad == "big":
        return topic, b'"' + b"x" * 300_000 + b'"'
    if topic == "labels":
        truth = "maybe" if bad == "value" else draw(st.booleans())
        return topic, to_json({"id": []} if bad == "schema" else label(number, truth))
    at_ms = CLOCK_MS + DAY_MS if bad == "ahead" else draw(DAY) + draw(st.integers(0, HOUR_MS))
    changes = {"amount": "x"} if bad == "schema" else {}
    return topic, to_json(event(number, at_ms, **changes))


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


def run(c: Config, stream: Sequence[Item], cuts: Sequence[int]) -> tuple[Engine, dict[str, Any]]:
    """What became of each record."""
    engine = build_engine(c, None)
    outputs = [engine.step(batch) for batch in batches(stream, cuts)]
    scores = [s for out in outputs for s in out.scored]
    letters = sorted(
        (d.record.topic, d.record.offset, d.reason, d.error)
        for out in outputs
        for d in out.dead_letters
    )
    counts = {k: v for k, v in engine.counts.items() if v and not k.startswith("updates.")}
    return engine, {
        "scored": [(r.offset, i) for s in scores for r, i in zip(s.records, s.ids, strict=True)],
        "letters": letters,
        "counts": counts,
        "waiting": engine.pending.waiting,
        "held": engine.pending.take(_numbers(engine))["id"].tolist(),
        "early": engine.early.state(),
        "watermark": engine.watermark_ms,
    }


def _numbers(engine: Engine) -> Any:
    return np.arange(engine.pending.head, engine.pending.tail)


def learned(engine: Engine) -> str:
    """Digest of all that was learned and judged; the trail tells steps apart and is left out."""
    state = engine.state()
    kept = ("features", "quality", "matured", "drift", "tallies", "threshold")
    return state_digest({k: state[k] for k in kept} | {"ensemble": engine.ensemble.digest()})


@pytest.fixture(scope="module")
def small() -> Config:
    """Short horizon, little room: everything that can push a row or a label out happens."""
    with tempfile.TemporaryDirectory() as place:
        return config(
            Path(place),
            label={"field": "fraud", "horizon": "2d"},
            limits={"pending": 4, "batch": 4, "early_labels": 2, "record_bytes": 262_144},
        )


@settings(max_examples=150)
@given(data=st.data(), stream=st.lists(items(), min_size=2, max_size=40))
def test_decisions_do_not_depend_on_cuts(
    small: Config, data: st.DataObject, stream: list[Item]
) -> None:
    """One record a step decides as any other cut does: scored, joined, late, dead letter, why."""
    _, expected = run(small, stream, range(len(stream)))
    # No step may hold more events than the store: limits.batch <= limits.pending.
    cuts = set(data.draw(st.lists(st.integers(1, len(stream)), max_size=12)))
    cuts |= set(range(0, len(stream), small.limits.batch))
    _, got = run(small, stream, sorted(cuts))
    assert got == expected


@settings(max_examples=60)
@given(data=st.data(), stream=st.lists(items(), min_size=2, max_size=40))
def test_what_is_learned_does_not_depend_on_cuts(
    small: Config, data: st.DataObject, stream: list[Item]
) -> None:
    """With no label before its event, members, windows, quality and drift end in equal bits."""
    seen: set[Any] = set()
    stream = [item for item in stream if _after_its_event(item, seen)]
    if not stream:
        return
    one, _ = run(small, stream, range(len(stream)))
    cuts = set(data.draw(st.lists(st.integers(1, len(stream)), max_size=12)))
    cuts |= set(range(0, len(stream), small.limits.batch))
    other, _ = run(small, stream, sorted(cuts))
    if one.counts["labels.early"] == 0:
        assert learned(one) == learned(other)


def _after_its_event(item: Item, seen: set[Any]) -> bool:
    topic, value = item
    try:
        number = json.loads(value or b"")["id"]
    except (ValueError, KeyError, TypeError):
        return True
    if topic == "events":
        seen.add(number)
    return topic != "labels" or not isinstance(number, str) or number in seen


def test_an_event_from_the_future_does_not_shadow_a_good_one(small: Config) -> None:
    """A bad event and a good one with the same id in one step: the good one is scored."""
    stream = [
        ("events", to_json(event(0, CLOCK_MS + 2 * DAY_MS))),
        ("events", to_json(event(0, START_MS))),
    ]
    _, found = run(small, stream, [])
    assert found["scored"] == [(1, "e0")]
    assert [reason for _, _, reason, _ in found["letters"]] == ["event_time_ahead"]
