"""What is lost of the input: the breaker, topic by topic, the log, and what probes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stream.contract.letters import REASONS, DeadLetter, Reason
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Range, Record
from stream.run import losses as module
from stream.run.losses import Breaker, BreakerOpen, Losses
from stream.run.service import Service
from tests.support.factory import DAY_MS, config, event, label
from tests.support.runner import append, caught_up, contents, running

READ = ("duplicate_event", "label_duplicate", "label_conflict", "label_orphan")


def step(taken: dict[str, int], bad: list[tuple[str, Reason]], scores: int = 0) -> Outputs:
    """A step that took so many records of each topic; these became dead letters."""
    ranges = tuple(Range(topic, 0, 0, n - 1, n) for topic, n in taken.items())
    letters = [
        DeadLetter(Record(topic, 0, at, None, b"secret"), reason, "an error that quotes secret")
        for at, (topic, reason) in enumerate(bad)
    ]
    made = [NewRecord(None, b"")] * scores
    return Outputs(made, letters, [], JournalRecord(1, 0, "", ranges))


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_that_makes_a_record_unusable_opens_the_breaker(reason: Reason) -> None:
    """All but those of records that were understood: repeats, and labels without an event."""
    bad = step({"events": 1000}, [("events", reason)] * 600)
    if reason in READ:
        Breaker(0.5).check(bad)
    else:
        with pytest.raises(BreakerOpen, match=rf"topic 'events' .* got 0\.600; .*{reason}: an err"):
            Breaker(0.5).check(bad)


def test_a_topic_is_not_hidden_by_another() -> None:
    """600 bad events of 1,000 open it, however many good labels came beside them."""
    with pytest.raises(BreakerOpen, match="topic 'events'"):
        Breaker(0.5).check(step({"events": 1000, "labels": 9000}, [("events", "schema")] * 600))


def test_repeats_hide_nothing() -> None:
    """Of 2,000 records 900 are repeats: 600 bad ones are more than half of what is new."""
    bad: list[tuple[str, Reason]] = [("events", "duplicate_event")] * 900
    with pytest.raises(BreakerOpen, match=r"of the last 1100 records"):
        Breaker(0.5).check(step({"events": 2000}, [*bad, *[("events", "schema")] * 600]))  # type: ignore[list-item]


def test_a_producer_whose_clock_is_off_is_stopped(tmp_path: Path) -> None:
    """Events in a wrong unit become no dead letters by the thousand."""
    c = config(tmp_path)
    now = event(0)["time"]
    append(c, ("events", [event(i, at_ms=now + 10_000 * DAY_MS) for i in range(1500)]))
    append(c, ("labels", [label(i) for i in range(1500)]))
    with (
        pytest.raises(BreakerOpen, match=r"topic 'events' .* event_time_ahead"),
        running(c) as service,
    ):
        caught_up(service, 10_000)
    assert len(contents(c, "dead-letters")) < 1000


def test_the_log_tells_the_first_of_a_kind_and_then_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With reason and position, bounded by the number of kinds; what a record holds is not told."""
    losses = Losses(config(tmp_path))
    bad: list[tuple[str, Reason]] = [("events", "schema"), ("events", "null"), ("events", "schema")]
    with capture_logs() as told:
        for _ in range(5):
            losses.taken(step({"events": 3}, bad), 0, 0)
            losses.tell()
    assert [(t["event"], t["reason"], t["offset"]) for t in told] == [
        ("dead_letter", "schema", "0"),
        ("dead_letter", "null", "1"),
    ]
    monkeypatch.setattr(module, "SUMMARY_S", 0.0)
    with capture_logs() as told:
        losses.tell()
        losses.tell()
    assert [(t["event"], t["reason"], t["count"], t["topic"]) for t in told] == [
        ("dead_letters", "schema", 9, "events"),
        ("dead_letters", "null", 4, "events"),
    ]
    assert "secret" not in str(told)


def test_probes_are_told_when_nothing_is_scored(tmp_path: Path) -> None:
    """Ready, so that better events can come in, and the reason beside it until one is scored."""
    c = config(tmp_path)
    with running(c) as service:
        append(c, ("events", [b"garbage"] * 3 + [event(0, amount="much")]))
        caught_up(service, 4)
        ready, detail = service.health.ready()
        assert ready
        assert detail == "running; no event was scored of the last 4: malformed 3, schema 1"
        append(c, ("events", [event(1), b"garbage"]))
        caught_up(service, 6)
        assert service.health.ready() == (True, "running")


def test_events_of_another_unit_are_told(tmp_path: Path) -> None:
    """Seconds that are read as milliseconds are told, in the log once, until likely times come."""
    c = config(tmp_path)
    now_ms = event(0)["time"]
    with capture_logs() as told, running(c) as service:
        for i in range(2):
            append(c, ("events", [event(i, at_ms=now_ms // 1000 + i)]))
            caught_up(service, i + 1)
        ready, detail = service.health.ready()
        assert ready
        assert "event times lie at 1970-01-" in detail
        assert "event.time_format = 'ms'" in detail
        append(c, ("events", [event(2, at_ms=now_ms)]))
        caught_up(service, 3)
        assert service.health.ready() == (True, "running")
    (warned,) = [t for t in told if t["event"] == "event_times_unlikely"]
    assert "event.time_format = 'ms'" in warned["next_step"]


def test_labels_alone_are_no_events(tmp_path: Path) -> None:
    """A step that took labels says nothing of events."""
    service = Service(config(tmp_path))
    assert service._losses.taken(step({"labels": 5}, [("labels", "schema")] * 5), 0, 0) == ""


def test_events_that_are_let_go_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, then now and then; not those from before this start."""
    losses = Losses(config(tmp_path))
    with capture_logs() as told:
        for total in (100, 100, 107, 108):
            losses.taken(step({}, []), total, 0)
        monkeypatch.setattr(module, "SUMMARY_S", 0.0)
        losses.tell()
        losses.tell()
    assert [(t["event"], t["count"]) for t in told] == [("events_let_go", 7), ("events_let_go", 1)]


def test_a_member_whose_updates_are_all_refused_is_told_once(tmp_path: Path) -> None:
    """At ten in a row, and again only after one was kept."""
    losses = Losses(config(tmp_path))
    with capture_logs() as told:
        for refused in (0, 9, 10, 11, 0, 3, 12):
            losses.refused({"crossed": refused, "linear": 0})
    assert [(t["event"], t["member"], t["in_a_row"]) for t in told] == [
        ("updates_refused", "crossed", 10),
        ("updates_refused", "crossed", 12),
    ]
