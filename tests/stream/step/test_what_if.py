"""What a score would be: what the next step says, bit for bit, and no trace of the question."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.members.constant import ConstantModel
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs
from stream.contract.records import Record
from stream.run.assemble import build_engine
from stream.settings.schema import Config
from stream.step.scores import PLACE
from stream.step.scoring import ScoringEngine
from tests.stream.step.test_cuts import CLOCK_MS, batches, stream_of
from tests.stream.step.test_open_classes import of as open_classes
from tests.stream.step.test_targets import TARGETS, of, truth_of
from tests.support.factory import Feed, config, decoded, event, label, to_json


def ask(engine: ScoringEngine, value: bytes | None) -> dict[str, Any] | DeadLetter:
    """What the engine would say of the value."""
    return engine.what_if(Record("events", 0, 7, None, value), CLOCK_MS)


def under(engine: ScoringEngine) -> dict[str, Any]:
    """What an answer says of the state it is given under."""
    return {"seq": engine.seq, "digest": engine.digest}


def without_place(outputs: Outputs) -> dict[str, Any]:
    """The one score of a step as an answer has it, but for the state."""
    [score] = decoded(list(outputs.scores))
    return {k: v for k, v in score.items() if k not in PLACE}


@pytest.fixture(scope="module")
def small() -> Config:
    """Short horizon, little room: rows leave, labels wait, entities are forgotten."""
    with tempfile.TemporaryDirectory() as place:
        return config(
            Path(place),
            label={"field": "fraud", "horizon": "2d"},
            limits={"pending": 6, "batch": 6, "early_labels": 3, "record_bytes": 1024},
        )


@settings(max_examples=25)
@given(seed=st.integers(0, 1 << 32), others=st.lists(st.integers(0, 59), max_size=8))
def test_questions_tell_the_next_score_and_leave_no_trace(
    small: Config, seed: int, others: list[int]
) -> None:
    """Good and bad, late and repeated events: the same bytes, dead letters, digests and state."""
    stream = stream_of(seed)
    asked, alone = build_engine(small, None), build_engine(small, None)
    for batch in batches(stream, range(len(stream))):
        for other in others:
            ask(asked, stream[other][1])
        [piece] = batch.slices
        told = ask(asked, piece.records[0].value) if piece.range.topic == "events" else None
        state, outputs, expected = under(asked), asked.step(batch), alone.step(batch)
        assert [r.value for r in outputs.scores] == [r.value for r in expected.scores]
        assert outputs.journal == expected.journal
        if isinstance(told, DeadLetter):
            [letter] = [d for d in outputs.dead_letters if d.record.topic == "events"]
            assert (told.reason, told.error) == (letter.reason, letter.error)
        elif told is not None:
            assert told == without_place(outputs) | state
    assert asked.state_digest() == alone.state_digest()
    assert asked.counts == alone.counts


@pytest.mark.parametrize("task", sorted(TARGETS))
def test_classes_and_numbers_are_told_with_what_is_promised(tmp_path: Path, task: str) -> None:
    """Probabilities, sets and intervals as the next score has them."""
    engine, feed = build_engine(of(tmp_path, task), None), Feed()
    for start in range(0, 200, 20):
        numbers = range(start, start + 20)
        labels = [{"id": f"e{i}", "truth": truth_of(task, i)} for i in numbers]
        engine.step(feed.batch(("events", [event(i) for i in numbers]), ("labels", labels)))
    state, told = under(engine), ask(engine, to_json(event(200)))
    assert told == without_place(engine.step(feed.batch(("events", [event(200)])))) | state


def test_a_member_that_fails_is_left_out_of_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next score says the same; only that one puts the member into quarantine."""
    engine, feed = build_engine(config(tmp_path), None), Feed()
    engine.step(
        feed.batch(
            ("events", [event(i) for i in range(50)]), ("labels", [label(i) for i in range(50)])
        )
    )
    before = engine.state_digest()

    def fails(*_: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(ConstantModel, "score", fails)
    state, told = under(engine), ask(engine, to_json(event(50)))
    assert engine.state_digest() == before
    assert told == without_place(engine.step(feed.batch(("events", [event(50)])))) | state
    assert engine.ensemble.quarantined == {"prior"}


def test_a_label_in_the_event_is_not_read(tmp_path: Path) -> None:
    """The answer is that of the event without it, and no class enters by it."""
    c = open_classes(tmp_path, label={"inline": True})
    engine = build_engine(c, None)
    told = [ask(engine, json.dumps(event(0, truth=t)).encode()) for t in ("new", "other")]
    assert told[0] == told[1]
    assert engine.task.names == ()
