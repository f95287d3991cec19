"""The demo's story: what its operator answers, and which labels are wrong."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from models.base import I64
from stream.contract.commands import COMMAND, Challenge, Checkpoint, Promote, Rollback
from stream.contract.outputs import Outputs, Scored
from stream.contract.records import JournalRecord, NewRecord
from stream.demo.player import label_records
from stream.demo.simulator import DAY_MS, GENUINE, START_MS, Payments, Simulator
from stream.demo.story import QUIET_DAYS, RACED, RACERS, WRONG_DAYS, Operator


def committed(seq: int, time_ms: int, *events: dict[str, Any]) -> Outputs:
    """A step with one event scored at that time, and records of the trail."""
    nothing = np.zeros((1, 1))
    scored = Scored([], ["a"], np.array([time_ms]), nothing[0], nothing, nothing, nothing[0] > 1)
    audit = [NewRecord(None, msgspec.json.encode(e)) for e in events]
    return Outputs([], [], audit, JournalRecord(seq, 0, ""), [scored])


def payments_of(days: int) -> Payments:
    made = next(Simulator(1, 50, events=100 * days).chunks(100 * days)).events
    return made[made["reported_at_ms"] > 0]


def truths(records: list[NewRecord]) -> I64:
    return np.array([msgspec.json.decode(r.value or b"")["fraud"] for r in records], np.int64)


def test_the_operator_promotes_and_goes_back_to_the_step_before_the_wrong_labels() -> None:
    """The first proposal is followed, no second one; the way back leads to the step at which the
    checkpoint was asked for."""
    sent: list[Any] = []
    decode = msgspec.json.Decoder(COMMAND).decode

    def append(topic: str, records: Any) -> None:
        assert topic == "control"
        sent.extend(decode(r.value) for r in records)

    operator = Operator(append, "control")
    proposed = {"event": "challenger_proposed", "model": "bayes"}
    operator.committed(committed(1, START_MS, proposed), 0.0)
    operator.committed(committed(2, START_MS, proposed | {"model": "forest"}), 0.0)
    assert [(type(c), c.member) for c in sent] == [(Promote, "bayes")]
    operator.committed(
        committed(3, START_MS, {"event": "challenger_promoted", "model": "bayes"}), 0
    )
    operator.committed(committed(4, START_MS + QUIET_DAYS * DAY_MS - 1), 0.0)
    assert len(sent) == 1
    operator.committed(committed(5, START_MS + QUIET_DAYS * DAY_MS), 0.0)
    assert isinstance(sent[1], Checkpoint)
    asked = {"event": "checkpoint_requested", "model": "service"}
    operator.committed(committed(7, START_MS + QUIET_DAYS * DAY_MS, asked), 0.0)
    end_ms = START_MS + (QUIET_DAYS + WRONG_DAYS) * DAY_MS
    operator.committed(committed(9, end_ms), 0.0)
    operator.committed(committed(10, end_ms + 1), 0.0)
    assert [type(c) for c in sent] == [Promote, Checkpoint, Rollback, Challenge]
    assert (sent[2].to, sent[2].member) == ("7", "")
    assert [line[:10] for line in operator.told[-2:]] == ["2026-01-08", "2026-01-15"]


def test_a_race_ends_with_its_winner_in_the_place() -> None:
    """Whatever was promoted before; a proposal for another place is none of the race."""
    sent: list[Any] = []
    decode = msgspec.json.Decoder(COMMAND).decode
    append = lambda topic, records: sent.extend(decode(r.value) for r in records)  # noqa: E731
    operator = Operator(append, "control")
    promoted = {"event": "challenger_promoted", "model": RACED}
    operator.committed(committed(1, START_MS, {"event": "challenger_proposed", "model": RACED}), 0)
    operator.committed(committed(2, START_MS, promoted), 0)
    for seq, day in enumerate((QUIET_DAYS, QUIET_DAYS + WRONG_DAYS), 3):
        operator.committed(committed(seq, START_MS + day * DAY_MS), 0)
    assert json.loads(sent[-1].spec) == list(RACERS)
    assert sent[-1].member == RACED
    later_ms = START_MS + 60 * DAY_MS
    started = {"event": "challenger_started", "model": RACED, "cause": "command"}
    operator.committed(committed(5, later_ms, started, started, started), 0)
    assert sum("race" in line for line in operator.told) == 1
    other = {"event": "challenger_proposed", "model": "forest"}
    operator.committed(committed(6, later_ms, other, other | {"model": RACED}), 0)
    assert [(type(c), c.member) for c in sent[-2:]] == [(Challenge, RACED), (Promote, RACED)]


def test_who_is_dropped_is_told_with_the_reason() -> None:
    """As the trail has it."""
    operator = Operator(lambda topic, records: None, "control")
    dropped = {"event": "challenger_dropped", "model": "forest", "reason": "worse"}
    operator.committed(committed(1, START_MS, dropped), 0.0)
    assert operator.told[-1].endswith("forest: the challenger is dropped (worse)")


def test_the_labels_of_one_week_say_the_contrary_of_the_truth() -> None:
    """Those reported in it, of what was not written yet at the promotion, and no others."""
    operator = Operator(lambda topic, records: None, "control")
    payments = payments_of(60)
    early = payments[payments["reported_at_ms"] < START_MS + 5 * DAY_MS]
    assert operator.writing.labels(early, 1) == label_records(early, 1)
    operator.committed(committed(1, START_MS, {"event": "challenger_promoted", "model": "a"}), 0.0)
    known = payments["reported_at_ms"]
    first = int(early["reported_at_ms"].max()) + QUIET_DAYS * DAY_MS
    wrong = (known >= first) & (known < first + WRONG_DAYS * DAY_MS)
    assert 0 < wrong.sum() < len(wrong)
    told = truths(operator.writing.labels(payments, 1)) > 0
    assert (told == ((payments["scenario"] != GENUINE) != wrong)).all()
