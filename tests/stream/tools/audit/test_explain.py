"""`millrace audit explain`: which events moved which parameters most."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.run.assemble import wall_clock_ms
from stream.tools.replay import rebuilt
from tests.stream.logs.log_file import cut
from tests.stream.tools.audit.audited import millrace, settings
from tests.support.factory import event, label
from tests.support.runner import append, caught_up, contents, running


def explain(directory: Path, member: str, *options: object, status: int = 0) -> dict[str, Any]:
    """``audit explain --json``."""
    given = "audit", "explain", directory / "c.toml", member, *options, "--json"
    found: dict[str, Any] = json.loads(millrace(*given, status=status))
    assert found["exit"] == status
    return found


@pytest.mark.parametrize(
    ("member", "layer"), [("linear", None), ("mlp", "layers.0"), ("mlp", "layers.3.bias")]
)
def test_the_updates_of_a_stretch_are_those_of_the_trail(
    ran: Path, member: str, layer: str | None
) -> None:
    """As many versions and labels as its record says; each as far as the states lie apart."""
    options = [] if layer is None else ["--layer", layer]
    found = explain(ran, member, "--most", 1000, *options)
    stretch = found["stretches"][0]
    assert stretch["moved"] == max(row["moved"] for row in found["stretches"])
    updates = sorted(found["updates"], key=lambda row: row["version"])
    first, last = stretch["versions"]
    assert [row["version"] for row in updates] == list(range(first, last + 1))
    assert sum(row["labels"] for row in updates) == stretch["labels"]
    assert sum(row["moved"] for row in updates) >= stretch["moved"]
    steps = [row["step"] for row in updates]
    for row in updates:
        if steps.count(row["step"]) == 1:
            assert row["moved"] == pytest.approx(apart(ran, member, layer, row["step"]), rel=1e-12)
    assert {row["event"] for row in found["events"]} <= {f"e{i}" for i in range(400)}
    assert found["events"] == sorted(found["events"], key=lambda row: -row["moved"])


def apart(directory: Path, member: str, layer: str | None, step: int) -> float:
    """The distance of a member's arrays before and after a step."""
    found = []
    for seq in (step - 1, step):
        with rebuilt(settings(directory), seq) as past:
            tensors = past.follower.engine.ensemble.members[member].tensors()
            parts = [a.ravel() for path, a in tensors.items() if path.startswith(layer or "")]
            found.append(np.concatenate(parts).astype(np.float64))
    return float(np.linalg.norm(found[1] - found[0]))


def test_the_event_that_moved_it_most_is_named(shard: Path) -> None:
    """One label that says the opposite of all like it moves the member furthest."""
    c = settings(shard)
    since = datetime.fromtimestamp(wall_clock_ms() / 1000, UTC).isoformat(timespec="milliseconds")
    span = range(400, 500)
    odd = min(span, key=lambda i: float(event(i)["amount"]))
    labels = [label(i, True if i == odd else None) for i in span]
    with running(c) as service:
        append(c, ("events", [event(i) for i in span]), ("labels", labels))
        caught_up(service, 1000)
    found = explain(shard, "linear", "--since", since)
    assert found["events"][0]["event"] == f"e{odd}"
    text = millrace("audit", "explain", shard / "c.toml", "linear", "--since", since)
    assert f"e{odd}" in text


def test_since_a_time_from_which_nothing_is_on_record_the_newest_steps_are_told(
    shard: Path,
) -> None:
    """As without one; `nothing` is told only where no step came since."""
    c = settings(shard)
    since = datetime.fromtimestamp(wall_clock_ms() / 1000, UTC).isoformat(timespec="milliseconds")
    with running(c) as service:
        append(c, ("events", [event(400)]), ("labels", [label(400)]))
        caught_up(service, 802)
    found = explain(shard, "linear", "--since", since)
    assert [row["record"] for row in found["stretches"]] == [None]
    assert "e400" in {row["event"] for row in found["events"]}


def test_what_cannot_be_done_again_is_told_by_the_trail(shard: Path) -> None:
    """The stretches stand; their updates are out of reach."""
    c = settings(shard)
    journal = c.journal_topic
    last = len(contents(c, journal))
    cut(shard / "log.db", journal, last - 1)
    found = explain(shard, "linear", status=14)
    assert found["stretches"]
    assert found["replay"].startswith("out of reach: ")
    assert (found["updates"], found["events"]) == ([], [])


def test_a_member_or_layer_that_is_not_there_is_refused(ran: Path) -> None:
    """With the names of those that are."""
    path = ran / "c.toml"
    assert "expected one of linear, mlp" in millrace("audit", "explain", path, "forest", status=3)
    text = millrace("audit", "explain", path, "mlp", "--layer", "layer.0", status=3)
    assert "layers.0.weight" in text
    later = "2999-01-01T00:00:00Z"
    assert explain(ran, "mlp", "--since", later)["replay"].startswith("nothing to do again")
