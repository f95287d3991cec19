"""The daemon on the embedded log: start, run, stop, start again, and what goes wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream.decode import codec
from stream.run import service as module
from stream.run.losses import BreakerOpen
from stream.run.service import Service
from stream.state.generations import Locked, list_generations
from stream.state.recovery import ForeignState
from stream.step.join import Join
from stream.tools.operate import generations
from stream.tools.replay import replay_to
from tests.support.factory import config, event, label, to_json
from tests.support.runner import append, caught_up, contents, running


def feed(n: int, first: int = 0) -> tuple[tuple[str, list[Any]], tuple[str, list[Any]]]:
    return (
        ("events", [event(i) for i in range(first, first + n)]),
        ("labels", [label(i) for i in range(first, first + n)]),
    )


def test_events_and_labels_come_out_as_scores(tmp_path: Path) -> None:
    """Each event is scored once, each label joined once, and the state is saved at the end."""
    c = config(tmp_path)
    append(c, *feed(500))
    with running(c) as service:
        caught_up(service, 1000)
        counts = dict(service.engine.counts)  # type: ignore[union-attr]
    assert len(contents(c, "scores")) == 500
    assert counts["labels.joined"] == 500
    assert [g["verdict"] for g in generations(c)] == ["good"]


def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Two runs over two halves leave the state and the outputs of one run over the whole."""
    halves, whole = config(tmp_path / "halves"), config(tmp_path / "whole")
    for c in (halves, whole):
        append(c, *feed(300))
    with running(halves) as service:
        caught_up(service, 600)
    append(halves, *feed(300, first=300))
    with running(halves) as service:
        assert service.recovered is not None
        assert service.recovered.replayed_steps == 0
        caught_up(service, 1200)
    replayed = replay_to(halves, last_seq(halves), None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]
    from_checkpoint = replay_to(halves, last_seq(halves), None, from_start=False)
    assert from_checkpoint["state_digest"] == replayed["state_digest"]


def last_seq(c: Any) -> int:
    log = module.open_log(c, module.wall_clock_ms)
    try:
        tail = log.journal_tail()
        return tail.seq if tail else 0
    finally:
        log.close()


def test_a_past_state_can_be_rebuilt(tmp_path: Path) -> None:
    """`millrace replay --to SEQ` gives the journal's digest and writes a generation."""
    c = config(tmp_path, limits={"batch": 50})
    append(c, *feed(400))
    with running(c) as service:
        caught_up(service, 800)
    seq = last_seq(c) // 2
    found = replay_to(c, seq, tmp_path / "past", from_start=True)
    assert found["digest"] == found["journal_digest"]
    assert found["seq"] == seq
    assert [int(p.name) for p in list_generations(tmp_path / "past")] == [seq]


def test_a_second_process_on_the_directory_is_refused(tmp_path: Path) -> None:
    """The state directory belongs to one process."""
    c = config(tmp_path)
    with running(c), pytest.raises(Locked):
        Service(c).run()


def test_a_record_that_crashes_the_step_is_isolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bisection finds the one record; it becomes a dead letter and all others are scored."""
    c = config(tmp_path, limits={"batch": 64})
    real = Join.hold

    def hold(self: Join, events: Any, *rest: Any) -> Any:
        if "e37" in events.ids:
            raise ZeroDivisionError("a defect that one event triggers")
        return real(self, events, *rest)

    monkeypatch.setattr(Join, "hold", hold)
    append(c, *feed(100))
    with running(c) as service:
        caught_up(service, 200)
        dead = {k: v for k, v in service.engine.counts.items() if k.startswith("dead.")}  # type: ignore[union-attr]
    scores = [to_json(s) if s is None else s for s in contents(c, "scores")]
    assert len(scores) == 99
    assert dead == {"dead.poison": 1}
    letters = contents(c, "dead-letters")
    assert letters == [to_json(event(37))]


@pytest.mark.parametrize("failure", [ZeroDivisionError, RecursionError, MemoryError])
def test_a_record_that_crashes_the_decoder_is_isolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """Decoded ahead or in the step: one dead letter, all others scored; a restart replays it."""
    c = config(tmp_path, limits={"batch": 16})
    real = codec._identifiers

    def identifiers(values: list[str | int]) -> list[str]:
        if "e37" in values:
            raise failure("a defect that one record triggers")
        return real(values)

    monkeypatch.setattr(codec, "_identifiers", identifiers)
    append(c, ("events", [event(i) for i in range(100)]))
    with running(c) as service:
        caught_up(service, 100)
    assert len(contents(c, "scores")) == 99
    assert contents(c, "dead-letters") == [to_json(event(37))]
    for generation in list_generations(c.state_dir):
        generation.rename(tmp_path / f"taken-away-{generation.name}")
    with running(c) as service:
        assert service.recovered is not None
        assert service.recovered.replayed_records == 100


def test_the_breaker_stops_before_the_commit(tmp_path: Path) -> None:
    """When most records are unusable the service stops, and nothing of that step is taken."""
    c = config(tmp_path, limits={"batch": 4096, "dead_letter_share": 0.3})
    append(c, ("events", [event(i) for i in range(900)]))
    append(c, ("events", [b"garbage"] * 900))
    with pytest.raises(BreakerOpen, match=r"limits\.dead_letter_share.*malformed"), running(c) as s:
        caught_up(s, 10_000)
    assert contents(c, "dead-letters") == []
    log = module.open_log(c, module.wall_clock_ms)
    taken = sum(r.count for step in log.journal() for r in step.ranges)
    log.close()
    assert len(contents(c, "scores")) == taken < 900  # of earlier, smaller steps


def test_the_breaker_lets_a_few_bad_records_pass(tmp_path: Path) -> None:
    """Below its share bad records are dead letters and the stream goes on."""
    c = config(tmp_path)
    values = [event(i) if i % 10 else b"garbage" for i in range(2000)]
    append(c, ("events", values))
    with running(c) as service:
        caught_up(service, 2000)
    assert len(contents(c, "dead-letters")) == 200


def test_the_disk_is_asked_once_and_the_journal_says_what_it_gave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events are let go at the bound of the first step, whatever a later start would find."""
    c = config(tmp_path, limits={"batch": 20})
    append(c, ("events", [event(i) for i in range(100)]))
    monkeypatch.setattr(module, "free_room", lambda directory, row: 50)
    with running(c) as service:
        caught_up(service, 100)
    monkeypatch.setattr(module, "free_room", lambda directory, row: 70)
    append(c, ("events", [event(i) for i in range(100, 200)]))
    with running(c) as service:
        caught_up(service, 200)
        engine = service.engine
        assert engine is not None
        assert (len(engine.pending), engine.counts["pending.evicted"]) == (50, 150)
        digest, seq = engine.digest, engine.seq
    log = module.open_log(c, module.wall_clock_ms)
    assert [r.room for r in log.journal() if r.room] == [50]
    log.close()
    assert replay_to(c, seq, None, from_start=True)["digest"] == digest


def test_another_shard_s_directory_is_refused(tmp_path: Path) -> None:
    """Nothing of the other shard is touched."""
    c = config(tmp_path)
    append(c, *feed(50))
    with running(c) as service:
        caught_up(service, 100)
    before = list_generations(c.state_dir)
    with pytest.raises(ForeignState, match="'test'"), running(config(tmp_path, name="other")):
        pass
    assert list_generations(c.state_dir) == before


def test_orderly_stops_do_not_count_as_attempts(tmp_path: Path) -> None:
    """However often an idle service is started and stopped, it never becomes careful."""
    c = config(tmp_path)
    append(c, *feed(20))
    for _ in range(6):
        with running(c) as service:
            caught_up(service, 40)
            assert not service.isolation.careful


def test_a_full_disk_does_not_stop_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints fail and are counted; events are still scored."""
    from stream.state.generations import StateDirectory

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateDirectory, "write", full)
    c = config(tmp_path, checkpoints={"interval": "1ms"}, limits={"batch": 10})
    append(c, *feed(100))
    with running(c) as service:
        caught_up(service, 200)
        checkpointer = service.checkpointer
    assert checkpointer.failures_total > 0
    assert checkpointer.written_total == 0
    assert len(contents(c, "scores")) == 100
