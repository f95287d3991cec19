"""What the process tells of itself: stages, checkpoints and restarts in the metrics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream.contract.records import NewRecord
from stream.http.problem import Problem
from stream.run.front import Front
from stream.run.health import Health
from stream.run.service import Service
from stream.settings.schema import Config
from tests.support.factory import config, event, label, to_json
from tests.support.runner import append, caught_up, contents, running
from tests.support.waiting import DEADLINE_S, wait_until

SCORED = ("millrace_events_scored_total", "test")


def told(front: Front) -> dict[tuple[str, ...], float]:
    """Every series by its name and label values."""
    return {
        (s.name, *(v for _, v in sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(front.metrics().decode())
        for s in family.samples
    }


def stream(c: Config, first: int, n: int) -> int:
    """Append events and labels; how many records."""
    numbers = range(first, first + n)
    append(c, ("events", [event(i) for i in numbers]), ("labels", [label(i) for i in numbers]))
    return 2 * n


def test_stages_and_checkpoints_are_measured(tmp_path: Path) -> None:
    """Steps, commits and snapshots have durations; a checkpoint has a time and a size."""
    c = config(tmp_path)
    with running(c) as service:
        front = Front(service)
        caught_up(service, stream(c, 0, 200))
        append(c, ("control", [{"command": "checkpoint", "actor": "test"}]))
        size = ("millrace_checkpoint_size_bytes",)
        wait_until(lambda: told(front)[size] > 0, "a checkpoint in the metrics")
        metrics = told(front)
    for stage in ("step", "commit", "checkpoint"):
        assert metrics["millrace_stage_duration_seconds_count", stage] >= 1
    written = metrics["millrace_checkpoint_last_success_timestamp_seconds",]
    assert written == front.telemetry.checkpoint_success_ms / 1000
    assert metrics["millrace_checkpoint_duration_seconds_count",] >= 1


def test_restarts_are_told_apart(tmp_path: Path) -> None:
    """A first start is none; one from a final checkpoint is clean; one that replayed is not."""
    c = config(tmp_path)
    seen = []
    for i in range(3):
        with running(c) as service:
            front = Front(service)
            caught_up(service, stream(c, i * 100, 100) * (i + 1))
            wait_until(lambda f=front: told(f)[SCORED] > 0, "readings")  # type: ignore[misc]
            seen.append([told(front)["millrace_restarts_total", r] for r in ("clean", "unclean")])
        if i == 1:
            # As after a crash before the first checkpoint.
            shutil.rmtree(tmp_path / "state" / "generations")
    assert seen == [[0, 0], [1, 0], [0, 1]]


def test_whoever_finds_it_ready_reads_what_it_is(tmp_path: Path) -> None:
    """After a start too: not what nobody has told yet."""
    c = config(tmp_path)
    with running(c) as service:
        append(c, ("control", [{"command": "freeze", "member": "linear", "actor": "test"}]))
        caught_up(service, stream(c, 0, 50) + 1)
    again, found = Service(c), []
    front = Front(again)

    class Ready(Health):
        """Reads at the very moment of readiness."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if (name, value) == ("state", "running"):
                found.append(front.models())
                again.stop()

    again.health = Ready("test")
    again.run()
    assert found[0]["threshold"] == 0.5
    assert [m["frozen"] for m in found[0]["members"]] == [True, False]


def test_what_if_is_the_score_that_then_comes(tmp_path: Path) -> None:
    """Asked of a running service that waits for events; nothing is written or counted by it."""
    c = config(tmp_path)
    with running(c) as service:
        front = Front(service)
        caught_up(service, stream(c, 0, 100))
        asked = NewRecord(None, to_json(event(100)))
        told, again = front.what_if([asked, asked], DEADLINE_S)
        assert isinstance(told, dict)
        assert again == told
        assert service.engine is not None
        assert (told["seq"], told["digest"]) == (service.engine.seq, service.engine.digest)
        append(c, ("events", [event(100)]))
        caught_up(service, 201)
    scores = [json.loads(value or b"") for value in contents(c, "scores")]
    assert len(scores) == 101
    for name in ("id", "event_time", "score", "alert", "members"):
        assert told[name] == scores[-1][name]


def test_nothing_is_foretold_once_the_service_has_ended(tmp_path: Path) -> None:
    """Whoever asks then is told so, and does not wait."""
    c = config(tmp_path)
    append(c, ("events", [event(0)]))
    with running(c) as service:
        front = Front(service)
    with pytest.raises(Problem, match="ask again later"):
        front.what_if([NewRecord(None, to_json(event(1)))], DEADLINE_S)


def test_an_event_that_waits_is_told_why(tmp_path: Path) -> None:
    """What the engine says of it between two steps; nothing of one that nobody scored."""
    c = config(tmp_path, reasons={"tell": "asked"})
    with running(c) as service:
        front = Front(service)
        caught_up(service, stream(c, 0, 100))
        told = front.why("e3", DEADLINE_S)
        assert told is not None
        assert told["reasons"]["members"].keys() == {"linear", "prior"}
        assert front.why("nobody", DEADLINE_S) is None
