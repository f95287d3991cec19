"""A seeded subset of ``python -m tests.faults scaled``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kafka.scaled import scaled
from tests.support.log_harness import kafka_table

pytestmark = pytest.mark.kafka


def test_kills_and_frozen_processes_leave_no_trace(tmp_path: Path, kafka_bootstrap: str) -> None:
    """Each event has one score, each label is learned once, wherever it stands, versions are the
    same everywhere, and every state is that of a run which was never killed."""
    log = kafka_table(kafka_bootstrap)
    found = scaled(tmp_path, log, 4, 23, lambda *_: None, labels="any")
    assert found.problems == []
    assert set(found.hits) == {"scorer-0", "scorer-1", "learner", "frozen scorer-0"}
    assert found.versions > 1
    assert found.challenged > 0


def test_kills_leave_no_trace_of_what_is_ranked(tmp_path: Path, kafka_bootstrap: str) -> None:
    """Each request has one answer, each deed is learned once, and all processes know the same."""
    log = kafka_table(kafka_bootstrap)
    found = scaled(tmp_path, log, 4, 29, lambda *_: None, kind="ranking")
    assert found.problems == []
    assert set(found.hits) == {"scorer-0", "scorer-1", "learner", "frozen scorer-0"}
    assert found.deeds > found.scored > 0
    assert found.taken > 0
    assert found.applied > 0
