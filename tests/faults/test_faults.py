"""A seeded subset of ``python -m tests.faults``: what it breaks, the service survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import CorruptRecordError

from stream.contract.log import LogUnavailable
from stream.contract.records import JournalRecord
from stream.logs.kafka import writer as kafka_writer
from stream.logs.kafka.calls import translated
from stream.run.assemble import build_engine
from stream.run.isolation import Attempts
from stream.state.generations import Snapshot, StateDirectory, list_generations
from tests.faults.check import check
from tests.faults.checkpoints import SEGMENT_ROWS, make, small_segments, spoil_all
from tests.faults.checkpoints import Tally as SpoilTally
from tests.faults.crash import Feeder, Tally, crash, drain, finish
from tests.faults.diverge import diverge
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker
from tests.faults.zombie import zombie
from tests.support.factory import Feed, config, event
from tests.support.log_harness import kafka, poll_all, step, values
from tests.support.waiting import DEADLINE_S


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def test_kills_at_random_moments_leave_no_trace(tmp_path: Path) -> None:
    """After four SIGKILLs under load every invariant holds, byte for byte."""
    verdict, tally = crash(Shard(tmp_path / "shard"), 4, 11, 500, quiet)
    assert verdict.problems == []
    assert tally.hits == 4


def test_an_orderly_stop_right_after_a_restart_saves_the_replayed_state(tmp_path: Path) -> None:
    """SIGTERM ends a service that replayed steps and took none since, and writes their state."""
    shard, traffic = Shard(tmp_path / "shard"), Traffic(1)
    feeder = Feeder(shard, traffic, 12)
    shard.log.create_topics()
    with Worker(shard.path) as worker:
        worker.wait_for("restored")
        feeder.rest()
        drain(shard, worker)
        worker.kill()
    with Worker(shard.path) as worker:
        assert worker.wait_for("restored")["replayed_steps"] > 0
        assert worker.stop() == 0
    with Worker(shard.path) as worker:
        assert worker.wait_for("restored")["replayed_steps"] == 0
        feeder.flush()
        drain(shard, worker)
        assert worker.stop() == 0
    assert check(shard, traffic).problems == []


def test_a_frozen_process_ends_when_it_was_replaced(tmp_path: Path) -> None:
    """SIGSTOP, a replacement, SIGCONT: it writes nothing more and ends; a second one is refused."""
    verdict, _ = zombie(tmp_path, None, rounds=1, frozen_s=0.5, seed=5)
    assert verdict.problems == []


def test_a_member_that_is_not_deterministic_stops_the_service(tmp_path: Path) -> None:
    """The replay after a restart gives other bits: status 4 and a reason, unless told to warn."""
    assert diverge(tmp_path, "random", seed=6)["problems"] == []


def test_no_spoiled_generation_is_believed(tmp_path: Path) -> None:
    """Each file of each generation removed, cut and flipped: the right state, or a refusal."""
    tally = SpoilTally()
    spoil_all(tmp_path, 7, 1, tally, quiet)
    assert tally.problems == []
    assert tally.counts["bad_loaded"] == 0
    assert tally.counts["from_older"] > 0


def test_the_checks_see_a_lost_and_a_doubled_output(tmp_path: Path) -> None:
    """A score deleted from the topic, or written twice, is found: the harness is not blind."""
    import sqlite3

    shard, traffic = Shard(tmp_path / "shard"), Traffic(2)
    shard.log.create_topics()
    finish(shard, Feeder(shard, traffic, 40), Tally())
    assert check(shard, traffic).problems == []
    with sqlite3.connect(tmp_path / "shard" / "log.db") as db:
        [table] = db.execute(
            "SELECT id FROM partitions WHERE topic = 'scores' AND partition = 0"
        ).fetchone()
        db.execute(f"DELETE FROM records_{table} WHERE offset = 3")
    db.close()
    verdict = check(shard, traffic)
    assert (verdict.lost, verdict.duplicated, verdict.outputs_equal) == (1, 0, False)
    with sqlite3.connect(tmp_path / "shard" / "log.db") as db:
        for offset in (3, 5):
            db.execute(
                f"INSERT OR REPLACE INTO records_{table} SELECT {offset}, key, value,"
                f" timestamp_ms, headers FROM records_{table} WHERE offset = 4"
            )
    db.close()
    verdict = check(shard, traffic)
    assert verdict.lost == 2
    assert verdict.duplicated == 1


def test_a_signal_never_waits_for_a_lock_that_the_main_thread_holds() -> None:
    """SIGTERM while the main thread holds a lock which stopping needs: it stops once that is free.

    With a handler that ran in the main thread a SIGTERM in the middle of a log line hung for ever.
    """
    program = """
import signal, threading
from stream.run.daemon import obey_signals
lock, stopped = threading.Lock(), threading.Event()
def stop():
    with lock:
        stopped.set()
obey_signals(stop)
with lock:
    signal.raise_signal(signal.SIGTERM)
stopped.wait()
signal.raise_signal(signal.SIGTERM)
threading.Event().wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 130, done.stderr


def test_a_segment_saved_before_and_after_it_filled_verifies(tmp_path: Path) -> None:
    """A generation with a pending segment that an older one holds half full can be loaded."""
    with small_segments():
        engine, feed = build_engine(config(tmp_path), tmp_path), Feed()
        directory = StateDirectory(tmp_path / "state")
        for start in (0, 100):
            engine.step(feed.batch(("events", [event(i) for i in range(start, start + 100)])))
            files = engine.pending.files()
            snapshot = Snapshot(
                "test", engine.seq, engine.digest, 0, {}, {}, {}, engine.state(), files
            )
            directory.publish(directory.write(snapshot), keep=3)
        assert SEGMENT_ROWS < 200
        assert [loaded.manifest.seq for loaded in directory.usable(lambda m: None)] == [2, 1]
        engine.pending.close()
        directory.close()


def test_bits_that_flip_on_the_way_are_fetched_again() -> None:
    """A checksum that does not match is trouble of the moment: it does not end the service."""
    with pytest.raises(LogUnavailable, match="CorruptRecordError"), translated("poll"):
        raise CorruptRecordError("Record batch at offset 6 failed crc check")


def test_generations_of_another_history_give_way(tmp_path: Path) -> None:
    """A state directory kept while its log was replaced: the old generations are set aside.

    Numbered higher than what comes now, they would push out every new generation.
    """
    shard = Shard(tmp_path, limits={"batch": 8})  # 25 steps at least, then 3 and an empty one each
    make(shard, 1, events=200)
    old = [path.name for path in list_generations(shard.config.state_dir)]
    shard.renew_log()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    make(shard, 2, events=4)
    tail = shard.log.journal_tail()
    assert tail is not None
    assert tail.seq < int(old[0])
    assert int(list_generations(shard.config.state_dir)[0].name) == tail.seq
    aside = {path.name for path in (shard.config.state_dir / "quarantine").iterdir()}
    assert aside == {f"{name}-0" for name in old}
    shard.renew_log()


def test_a_service_starts_and_scores_while_its_state_disk_is_full(tmp_path: Path) -> None:
    """Attempts that cannot be noted on a full disk are forgotten; nothing else happens."""
    (tmp_path / "attempts.new").mkdir()  # whoever opens it to write gets an OSError, as on ENOSPC
    attempts = Attempts(tmp_path, 7)
    attempts.taking([], 7)
    attempts.committed(8, 1)
    assert not attempts.careful
    assert not attempts.poison


@pytest.mark.kafka
def test_a_commit_whose_batch_the_broker_refused_is_made_again(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch out of sequence in the middle of a transaction: all of the step stands, once.

    kafka-python then starts a new epoch by itself, forgets the transaction, and says that the
    commit succeeded: half a step, or none, would be taken for a whole one.
    """
    store = kafka(kafka_bootstrap)
    send = kafka_writer.send_journal
    spoiled: list[TopicPartition] = []

    def out_of_sequence(producer: Any, topic: str, journal: JournalRecord) -> Any:
        if journal.seq == 2 and not spoiled:
            spoiled.append(TopicPartition(topic, 0))
            producer._transaction_manager.set_sequence_number(spoiled[0], 7)
        return send(producer, topic, journal)

    monkeypatch.setattr(kafka_writer, "send_journal", out_of_sequence)
    try:
        log = store.opened()
        for seq, value in enumerate("abc", 1):
            log.append(store.config.topics.events, values(value))
            log.commit(step(seq, poll_all(log, 1), values(value)))
        log.close()
        again = store.opened()  # ends or aborts whatever was left open
        assert [record.seq for record in again.journal()] == [1, 2, 3]
        assert [r.value for r in again.tail(store.config.topics.scores, 10)] == [b"a", b"b", b"c"]
    finally:
        store.close()
