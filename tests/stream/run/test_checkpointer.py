"""How much one step may take, so that a replay stays within the recovery budget."""

from __future__ import annotations

from pathlib import Path

from stream.run.service import Service
from tests.support.factory import config


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
