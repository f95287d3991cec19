"""A seeded subset of ``python -m tests.faults``: what it breaks, the service survives."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.contract.commands import COMMANDS
from stream.state.generations import list_generations
from stream.state.topics import TopicsChanged
from tests.faults.changes.backfill import backfill
from tests.faults.changes.reconfigure import reconfigure
from tests.faults.changes.replica import HTTP, replica
from tests.faults.check import check
from tests.faults.checkpoints import CHECKPOINTS, make, save, small_segments, spoil_all
from tests.faults.checkpoints import Tally as SpoilTally
from tests.faults.crash import Feeder, Tally, crash, drain, finish
from tests.faults.diverge import diverge
from tests.faults.lifecycle import MAKERS, lifecycle
from tests.faults.shard import TASKS, Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker
from tests.faults.zombie import zombie
from tests.stream.logs.log_file import changed
from tests.support.factory import RARELY
from tests.support.runner import running
from tests.support.waiting import wait_until


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def test_kills_at_random_moments_leave_no_trace(tmp_path: Path) -> None:
    """After four SIGKILLs under load every invariant holds, byte for byte."""
    verdict, tally = crash(Shard(tmp_path / "shard"), 4, 11, 500, quiet)
    assert verdict.problems == []
    assert tally.hits == 4


@pytest.mark.parametrize("task", ["classes", "open", "number", "ranking"])
def test_kills_leave_no_trace_whatever_the_target(tmp_path: Path, task: str) -> None:
    """Classes, numbers and rankings are made, learned and restored like yes or no."""
    verdict, tally = crash(Shard(tmp_path / "shard", **TASKS[task]), 2, 13, 300, quiet)
    assert verdict.problems == []
    assert tally.hits == 2


def test_changes_between_kills_leave_no_trace(tmp_path: Path) -> None:
    """Whatever is changed before whichever life: the journal makes the same of it without kills."""
    verdict, tally, switches = reconfigure(Shard(tmp_path / "shard"), 5, 17, 600, quiet)
    assert verdict.problems == []
    assert tally.hits == 5
    assert switches.journaled > 0


def test_commands_of_every_kind_among_kills_leave_no_trace(tmp_path: Path) -> None:
    """Whatever is asked for and wherever it is killed: the journal makes the same of it."""
    found, told = lifecycle(tmp_path, None, 1, 23, quiet)
    assert found["problems"] == {}
    assert found["hits"] == 3
    assert set(told.sent) <= set(COMMANDS) == set(MAKERS)
    assert told.followed.total() > 0


def test_a_replica_agrees_wherever_it_and_its_service_are_killed(tmp_path: Path) -> None:
    """Three faults of either; at the end both say the same of an event, bit for bit."""
    verdict, figures = replica(Shard(tmp_path / "shard", http=HTTP), 3, 31, quiet)
    assert verdict.problems == []
    assert sum(figures["hits"].values()) == 3


def test_a_stream_gains_a_member_between_kills(tmp_path: Path) -> None:
    """The backfill beside it dies, and the start that takes it over, amid the commit."""
    shard = Shard(tmp_path / "shard")
    verdict, tally, switches = backfill(shard, ["commit.middle"], 19, quiet)
    assert verdict.problems == []
    assert (tally.hits, switches) == (1, 1)


def test_an_orderly_stop_right_after_a_restart_saves_the_replayed_state(tmp_path: Path) -> None:
    """SIGTERM ends a service that replayed steps and took none since, and writes their state."""
    shard, traffic = Shard(tmp_path / "shard", checkpoints=RARELY), Traffic(1)
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


def test_rows_that_change_under_a_service_are_told_and_made_again(tmp_path: Path) -> None:
    """A start that reads no rows goes back as far as it must when a label asks for a bad one."""
    shard = Shard(tmp_path, checkpoints=CHECKPOINTS)
    with small_segments():
        traffic = make(shard, 5)
        newest, *_ = list_generations(shard.config.state_dir)
        damaged = list(newest.glob("pending-*.ids"))
        for ids in damaged:  # under this name alone, whose links have the good rows
            path = ids.with_suffix(".seg")
            raw = bytearray(path.read_bytes())
            raw[len(raw) // 2] ^= 1
            path.unlink()
            path.write_bytes(raw)
        with running(shard.config) as service:
            assert service.engine is not None
            assert service.engine.seq >= int(newest.name)
            feeder = Feeder(shard, traffic, 200)
            for some in (feeder.rest, feeder.flush):
                some()
                wait_until(lambda: not shard.waiting(), "all to be taken")
            save(shard, traffic)
        verdict = check(shard, traffic)
    assert damaged
    assert verdict.problems == []
    assert [path.name for path in shard.config.state_dir.glob("quarantine/*")] == [
        f"{newest.name}-0"
    ]
    shard.renew_log()


def test_the_checks_see_a_lost_and_a_doubled_output(tmp_path: Path) -> None:
    """A score deleted from the topic, or written twice, is found: the harness is not blind."""
    shard, traffic = Shard(tmp_path / "shard"), Traffic(2)
    shard.log.create_topics()
    finish(shard, Feeder(shard, traffic, 40), Tally())
    assert check(shard, traffic).problems == []
    with changed(tmp_path / "shard" / "log.db", "scores") as rows:
        del rows[3]
    verdict = check(shard, traffic)
    assert (verdict.lost, verdict.duplicated, verdict.outputs_equal) == (1, 0, False)
    with changed(tmp_path / "shard" / "log.db", "scores") as rows:
        rows[3] = rows[5] = rows[4]
    verdict = check(shard, traffic)
    assert verdict.lost == 2
    assert verdict.duplicated == 1


def test_a_state_whose_log_was_replaced_is_refused_and_kept(tmp_path: Path) -> None:
    """Nothing is begun anew over it: nobody can tell whose it is without its journal."""
    shard = Shard(tmp_path, checkpoints=CHECKPOINTS, limits={"batch": 8})
    make(shard, 1, events=400)  # 50 steps at least
    old = [path.name for path in list_generations(shard.config.state_dir)]
    shard.renew_log()
    for file in tmp_path.glob("log.db*"):
        file.unlink()
    with pytest.raises(TopicsChanged, match="the journal of this state is gone with it"):
        make(shard, 2, events=4)
    assert [path.name for path in list_generations(shard.config.state_dir)] == old
    assert not (shard.config.state_dir / "quarantine").exists()
    shard.renew_log()
