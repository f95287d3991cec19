"""Score records: valid JSON that gives back the very numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from models.task import BINARY, Classes
from stream.contract.outputs import Scored
from stream.contract.records import Batch, NewRecord, Range, Record, Slice
from stream.decode.codec import Codec
from stream.run.assemble import build_engine
from stream.settings.load import ConfigError
from stream.step.scores import HEADER_BYTES, Shared, score_encoder
from tests.support.factory import START_MS, config, event, records, to_json

PROBABILITY = st.floats(0, 1, allow_subnormal=True)


@given(st.lists(st.tuples(PROBABILITY, PROBABILITY, PROBABILITY), min_size=1, max_size=5))
def test_a_score_record_gives_back_every_number_exactly(rows: list[tuple[float, ...]]) -> None:
    """Ids, times, positions and floats survive the way through JSON, bit for bit."""
    piece = records("events", 40, [event(i, id=f'é"{i}') for i in range(len(rows))])
    events, bad = Codec(config(Path("unused"))).events(piece.records)
    table = np.array(rows)
    p, times = table[:, 0], events.columns.event_time_ms
    members = table[:, 1:, None]
    scored = Scored(events.records, events.ids, times, p, p[:, None], members, p >= 0.5)
    encode = score_encoder(BINARY, ("a-b", "c_d"))
    made = encode(scored, Shared(7, "m", 3, cold=False))([UNSET] * len(rows))
    assert bad == []
    assert [r.key for r in made] == [i.encode() for i in events.ids]
    assert [r.partition for r in made] == [None] * len(rows)
    assert [json.loads(r.value or b"") for r in made] == [
        {
            "id": f'é"{i}',
            "event_time": events.columns.event_time_ms[i],
            "score": row[0],
            "alert": row[0] >= 0.5,
            "members": {"a-b": row[1], "c_d": row[2]},
            "partition": 0,
            "offset": 40 + i,
            "scored_at": 7,
            "model": "m",
            "seq": 3,
        }
        for i, row in enumerate(rows)
    ]


def test_scores_written_late_are_those_of_the_classes_then_known() -> None:
    """A label that names another class first may come between an event and the writing."""
    task = Classes(["low", "high"], most=4)
    encode = score_encoder(task, ("one",))
    record = Record("events", 0, 3, None, b"")
    said = np.array([[True, False, False, False]])
    shares = np.array([[0.7, 0.3, 0.0, 0.0]])
    alert, shared = np.zeros(1, bool), Shared(7, "m", 1, cold=False)
    scored = Scored(
        *([record], ["e"], np.array([5]), shares[:, 0], shares, shares[:, None], alert), said=said
    )
    at_once = encode(scored, shared)([UNSET])
    late = encode(scored, shared)
    task.enter("mid")
    assert task.catch_up() == ("mid",)
    assert encode(scored, shared)([UNSET]) != at_once
    assert late([UNSET]) == at_once


def scores_of(directory: Path, settings: dict[str, Any], headers: Any) -> list[NewRecord]:
    """Scores of two events with these headers; the second is of one minute after the step."""
    engine = build_engine(config(directory, scores=settings), None)
    made = [
        Record("events", 0, i, b"key", to_json(event(i)), START_MS - 7, headers) for i in range(2)
    ]
    piece = Slice(Range("events", 0, 0, 1, 2), made)
    return list(engine.step(Batch(1, START_MS, [piece])).scores)


def test_scores_carry_the_chosen_headers_of_their_event(tmp_path: Path) -> None:
    """In the event's order, repeated ones too; none unless they are named."""
    headers = (("a", b"1"), ("traceparent", b"00-x"), ("b", b""), ("a", b"2"))
    made = scores_of(tmp_path, {"headers": ["traceparent", "a"]}, headers)
    assert made[0].headers == (("a", b"1"), ("traceparent", b"00-x"), ("a", b"2"))
    assert scores_of(tmp_path, {}, headers)[0].headers == ()


def test_headers_of_a_score_are_bounded(tmp_path: Path) -> None:
    """What is too long for a score's room is left out, what follows it is not."""
    headers = (("a", b"x" * HEADER_BYTES), ("a", b"fits"))
    assert scores_of(tmp_path, {"headers": ["a"]}, headers)[0].headers == (("a", b"fits"),)


def test_a_score_has_the_timestamp_that_the_setting_says(tmp_path: Path) -> None:
    """The step's clock is the log's to set; an event's time counts up to it."""
    assert [r.timestamp_ms for r in scores_of(tmp_path, {}, ())] == [None, None]
    made = scores_of(tmp_path, {"timestamp": "event"}, ())
    assert [r.timestamp_ms for r in made] == [START_MS, START_MS]
    assert [json.loads(r.value or b"")["event_time"] for r in made] == [START_MS, START_MS + 60_000]


def test_the_names_of_our_own_headers_cannot_be_carried(tmp_path: Path) -> None:
    """An event could forge them."""
    with pytest.raises(ConfigError, match=r"scores\.headers\[0\]: expected the name of a header"):
        config(tmp_path, scores={"headers": ["millrace-position"]})


def test_scores_are_keyed_as_the_setting_says(tmp_path: Path) -> None:
    """By the event's id, or by the event's own key; the id stands in where an event has none."""
    assert [r.key for r in scores_of(tmp_path, {}, ())] == [b"e0", b"e1"]
    assert [r.key for r in scores_of(tmp_path, {"key": "input"}, ())] == [b"key", b"key"]
    engine = build_engine(config(tmp_path, scores={"key": "input"}), None)
    piece = Slice(Range("events", 0, 0, 0, 1), [Record("events", 0, 0, None, to_json(event(0)))])
    assert [r.key for r in engine.step(Batch(1, START_MS, [piece])).scores] == [b"e0"]
