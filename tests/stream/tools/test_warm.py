"""History into a new shard: learned as `evaluate` learns it, journaled as the service does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models.base import MillraceError
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.run.service import Service
from stream.settings.schema import Config
from stream.state.generations import StateDirectory
from stream.state.recovery import recover
from stream.tools.evaluate import evaluate_file
from stream.tools.past.warm import NotNew, warm
from stream.tools.ranking.evaluate import evaluate_ranks
from tests.stream.step.roles.scaled import of_role, raw
from tests.support.factory import (
    config,
    event,
    interaction,
    label,
    ranking_config,
    truth,
    wish,
)
from tests.support.runner import append, caught_up, contents, running

QUIET = Console(quiet=True)


def history(path: Path, n: int = 1200) -> Path:
    """Events with their truth, a minute apart, one row that is none among them."""
    rows = [json.dumps(event(i) | {"fraud": truth(i)}) for i in range(n)]
    path.write_text("\n".join([*rows[:500], '{"id": "x"}', *rows[500:]]) + "\n", encoding="utf-8")
    return path


def recovered(c: Config) -> Any:
    """The engine as a start would restore it."""
    log, directory = open_log(c, wall_clock_ms), StateDirectory(c.state_dir).open()
    try:
        log.open()
        return recover(
            log, directory, c, lambda other: build_engine(other, None), lambda: None
        ).engine
    finally:
        log.close()
        directory.close()


def test_it_learns_what_evaluate_learns(tmp_path: Path) -> None:
    """Same quality, same members' digests; and the journal replays to the same state."""
    data, c = history(tmp_path / "h.jsonl"), config(tmp_path)
    judged = evaluate_file(c, data, "1h", None, 64, QUIET)
    found = warm(c, data, None, "1h", 64, QUIET)
    assert found["quality"] == judged["quality"]
    assert found["digest"] == judged["digest"]
    assert found["dead_letters"] == 1
    loaded = recovered(c)
    assert loaded.seq == judged["steps"] + 1  # the step of the checkpoint
    for generation in StateDirectory(c.state_dir).listed():
        generation.rename(tmp_path / "aside")
    assert recovered(c).state_digest() == loaded.state_digest()


def test_scores_of_history_are_not_published(tmp_path: Path) -> None:
    """Nobody waits for them; its dead letters and audit records are there."""
    data, c = history(tmp_path / "h.jsonl"), config(tmp_path)
    warm(c, data, None, "1h", 64, QUIET)
    assert contents(c, "scores") == []
    assert contents(c, "dead-letters") == [b'{"id": "x"}']
    assert contents(c, "audit")


def test_the_service_goes_on_from_there(tmp_path: Path) -> None:
    """It starts without a replay, knows old ids, scores new events and joins old labels."""
    data, c = history(tmp_path / "h.jsonl"), config(tmp_path)
    warm(c, data, None, "2h", 64, QUIET)
    append(c, ("events", [event(3), event(2000)]), ("labels", [label(2000)]))
    with running(c) as service:
        assert isinstance(service, Service)
        assert service.recovered is not None
        assert service.recovered.replayed_steps == 0
        caught_up(service, 2 * 1200 + 1 + 3)
        assert service.engine is not None
        assert service.engine.counts["dead.duplicate_event"] == 1
        assert service.engine.counts["learned"] == 1201
    assert len(contents(c, "scores")) == 1


def test_only_a_new_shard_takes_history(tmp_path: Path) -> None:
    """A second time, or with records in the topics, it is refused and nothing is written."""
    data, c = history(tmp_path / "h.jsonl", 600), config(tmp_path)
    warm(c, data, None, "1h", 64, QUIET)
    with pytest.raises(
        NotNew, match="expected a shard that has taken nothing yet, got one at step"
    ):
        warm(c, data, None, "1h", 64, QUIET)
    other = config(tmp_path, name="b", log={"type": "embedded", "path": str(tmp_path / "b.db")})
    other = other.model_copy(update={"state_dir": tmp_path / "b"})
    append(other, ("events", [event(0)]))
    with pytest.raises(NotNew, match="expected empty input topics, got events/0 with 1 records"):
        warm(other, data, None, "1h", 64, QUIET)
    assert contents(other, "journal-b") == []


def test_a_shard_that_ranks_takes_its_past(tmp_path: Path) -> None:
    """What `evaluate` makes of it; the service goes on from there, and the journal replays."""
    data, c = tmp_path / "h.jsonl", ranking_config(tmp_path)
    data.write_text("".join(json.dumps(interaction(i)) + "\n" for i in range(600)))
    judged = evaluate_ranks(c, data, None, 64, QUIET)
    found = warm(c, data, None, None, 64, QUIET)
    assert found["quality"] == judged["quality"]
    assert found["digest"] == judged["digest"]
    loaded = recovered(c)
    for generation in StateDirectory(c.state_dir).listed():
        generation.rename(tmp_path / "aside")
    assert recovered(c).state_digest() == loaded.state_digest()
    append(c, ("events", [interaction(3), wish(0)]))
    with running(c) as service:
        caught_up(service, 602)
        assert service.engine is not None
        assert service.engine.counts["dead.duplicate_event"] == 1
    assert len(contents(c, "scores")) == 1


def test_interactions_have_no_labels(tmp_path: Path) -> None:
    """What means nothing is refused before anything is written."""
    c = ranking_config(tmp_path)
    with pytest.raises(MillraceError, match="expected no labels and no label delay"):
        warm(c, tmp_path / "h.jsonl", None, "1h", 64, QUIET)
    assert not c.state_dir.exists()


@pytest.mark.parametrize("role", ["scorer", "learner"])
def test_history_is_for_a_process_that_does_all(tmp_path: Path, role: str) -> None:
    """A scorer would take in what belongs to others; refused before anything is opened."""
    c = of_role(raw(tmp_path, 2), role)
    with pytest.raises(MillraceError, match="each event to the partition of its entity"):
        warm(c, tmp_path / "any", None, None, 64, QUIET)
    assert not c.state_dir.exists()
