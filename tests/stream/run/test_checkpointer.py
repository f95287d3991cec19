"""How much a step may take, and when a checkpoint is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.run.service import Listener, Service
from tests.stream.run.test_service import feed
from tests.support.factory import config, event
from tests.support.runner import append, caught_up, running
from tests.support.waiting import wait_until


def test_slow_members_take_small_steps(tmp_path: Path) -> None:
    """A step is a quarter of what may be replayed at most; its cost is forgotten slowly."""
    service = Service(config(tmp_path, checkpoints={"recovery_budget": "4s"}))
    checkpointer = service.checkpointer
    assert checkpointer.most_records(4096) == 256  # nothing is known yet
    assert checkpointer.most_records(1) == 1
    checkpointer.stepped(1.0, 1)  # too few records to tell
    assert checkpointer.most_records(4096) == 256
    checkpointer.stepped(0.1, 1000)
    assert checkpointer.most_records(4096) == 4096
    checkpointer.stepped(2.0, 200)
    assert checkpointer.most_records(4096) == 75  # 0.75 s at 10 ms a record
    checkpointer.stepped(0.1, 100)
    assert 75 < checkpointer.most_records(4096) < 100


def test_a_step_that_somebody_waits_for_is_short(tmp_path: Path) -> None:
    """10 ms at what a record costs, but no fewer than 16 records."""
    checkpointer = Service(config(tmp_path)).checkpointer
    assert checkpointer.most_records(4096, awaited=True) == 256  # nothing is known yet
    checkpointer.stepped(0.1, 1000)
    assert checkpointer.most_records(4096, awaited=True) == 100
    assert checkpointer.most_records(4096) == 4096
    assert checkpointer.most_records(8, awaited=True) == 8
    checkpointer.stepped(1.0, 1000)
    assert checkpointer.most_records(4096, awaited=True) == 16


class _Waiting(Listener):
    """Somebody who waits for an answer, until told otherwise."""

    waits = True

    def awaited(self) -> bool:
        return self.waits


def test_a_checkpoint_is_put_off_while_somebody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken as soon as nobody does, as a step of its own; not put off for ever."""
    monkeypatch.setattr("stream.run.checkpointer.PUT_OFF_S", 1e9)
    c, waiting = config(tmp_path, checkpoints={"interval": "1ms"}), _Waiting()
    with running(c) as service:
        service.listeners.append(waiting)
        append(c, *feed(50))
        caught_up(service, 100)
        wait_until(lambda: service.checkpointer.put_off, "a checkpoint that is put off")
        append(c, ("events", [event(i) for i in range(50, 60)]))
        caught_up(service, 110)
        assert service.checkpointer.written_total == 0
        waiting.waits = False
        wait_until(lambda: service.checkpointer.written_total > 0, "the checkpoint")
        assert not service.checkpointer.put_off
        waiting.waits = True
        monkeypatch.setattr("stream.run.checkpointer.PUT_OFF_S", 0.0)
        append(c, ("events", [event(i) for i in range(60, 70)]))
        wait_until(lambda: service.checkpointer.written_total > 1, "one though somebody waits")
