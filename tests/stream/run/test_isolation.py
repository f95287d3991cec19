"""Records that kill: the process, the step, or the topic."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stream.run.isolation import ALONE_TWICE, CAREFUL_AFTER, Attempts, halve
from tests.stream.cli.test_cli import COMMAND, toml
from tests.support.factory import event, raw_config, records, to_json
from tests.support.runner import append, contents
from tests.support.waiting import wait_until

DEADLY = '''
import os
from river import base

class Deadly(base.Classifier):
    """Ends the process, as a defect in compiled code would, at one amount."""

    def learn_one(self, x, y):
        pass

    def predict_proba_one(self, x):
        if x["amount"] > 6:
            os._exit(139)
        return {True: 0.5, False: 0.5}

def factory():
    return Deadly()
'''


def test_care_begins_after_starts_without_progress(tmp_path: Path) -> None:
    """Starts at one step are counted on disk; progress in between begins anew."""
    for _ in range(CAREFUL_AFTER):
        assert not Attempts(tmp_path, 7).careful
    assert Attempts(tmp_path, 7).careful
    assert not Attempts(tmp_path, 8).careful


def test_a_record_taken_alone_twice_is_poison(tmp_path: Path) -> None:
    """The record that was noted each time the process died is left out at the next start."""
    one = [records("events", 41, [event(0)])]
    for _ in range(CAREFUL_AFTER):
        Attempts(tmp_path, 7)
    for _ in range(2):
        attempts = Attempts(tmp_path, 7)
        assert attempts.poison == set()
        attempts.taking(one, 7)
    assert Attempts(tmp_path, 7).poison == {("events", 0, 41)}


def test_progress_clears_the_count(tmp_path: Path) -> None:
    """After a committed step nothing is left on disk."""
    attempts = Attempts(tmp_path, 7)
    attempts.committed(8, 100)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_note_counts_as_none(tmp_path: Path) -> None:
    """The note may have been cut off by the crash that it counts."""
    (tmp_path / "attempts.json").write_bytes(b'{"seq": 7, "sta')
    assert not Attempts(tmp_path, 7).careful


def test_attempts_that_cannot_be_noted_are_forgotten(tmp_path: Path) -> None:
    """On a full disk nothing else happens: the service starts and scores."""
    (tmp_path / "attempts.new").mkdir()  # whoever opens it to write gets an OSError, as on ENOSPC
    attempts = Attempts(tmp_path, 7)
    attempts.taking([], 7)
    attempts.committed(8, 1)
    assert not attempts.careful
    assert not attempts.poison


@pytest.mark.parametrize("sizes", [[1], [2], [5, 1], [3, 4, 2]])
def test_halves_hold_every_record_once(sizes: list[int]) -> None:
    """Ranges fit their records, in order, across slices."""
    slices = [records(f"t{i}", 10 * i, [event(j) for j in range(n)]) for i, n in enumerate(sizes)]
    first, second = halve(slices)
    got = [(r.topic, r.offset) for s in [*first, *second] for r in s.records]
    assert got == [(r.topic, r.offset) for s in slices for r in s.records]
    assert sum(len(s.records) for s in first) == sum(sizes) // 2
    for s in [*first, *second]:
        assert (s.range.first, s.range.count) == (s.records[0].offset, len(s.records))


def test_a_record_that_kills_the_process_ends_as_a_dead_letter(tmp_path: Path) -> None:
    """A supervisor that restarts the daemon gets past the record; all others are scored.

    The starts that end before care begins are only noted: each takes seconds, and the next counts.
    """
    module = tmp_path / "deadly.py"
    module.write_text(DEADLY)
    raw = raw_config(
        tmp_path, members=[{"name": "deadly", "type": "river", "model": f"{module}:factory"}]
    )
    file = tmp_path / "c.toml"
    file.write_text(toml(raw))
    from stream.settings.load import load

    config = load(file, {})
    events = [event(i, amount=9999.0 if i == 3 else 5.0) for i in range(8)]
    append(config, ("events", events))
    config.state_dir.mkdir()
    for _ in range(CAREFUL_AFTER):
        Attempts(config.state_dir, 0)

    def answered() -> bool:
        return len(contents(config, "scores")) + len(contents(config, "dead-letters")) == 8

    statuses = []
    while not answered():
        with subprocess.Popen([*COMMAND, "run", str(file)], stderr=subprocess.DEVNULL) as daemon:
            wait_until(lambda d=daemon: answered() or d.poll() is not None, "all records")
            daemon.terminate()
        statuses.append(daemon.returncode)
    assert statuses == [139] * ALONE_TWICE + [0]
    assert len(contents(config, "scores")) == 7
    assert contents(config, "dead-letters") == [to_json(events[3])]
