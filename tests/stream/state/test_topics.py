"""The embedded log under a service: another file in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stream.contract.log import LogError, Topic
from stream.run import topics
from stream.settings.schema import Config
from stream.state.generations import list_generations
from stream.state.recovery import ForeignState
from stream.state.topics import Standing, TopicsChanged, lost
from tests.support.factory import config, event
from tests.support.runner import append, caught_up, running
from tests.support.waiting import wait_until


@pytest.fixture
def ran(tmp_path: Path) -> Config:
    """A shard that took 20 events and stopped; it looks at its topics all the time."""
    c = config(tmp_path, topics={"metadata_age": "50ms"})
    append(c, ("events", [event(i) for i in range(20)]))
    with running(c) as service:
        caught_up(service, 20)
    return c


def swap(c: Config, there: Path) -> None:
    """Put another log's file where that of the configuration is."""
    other = config(there)
    append(other, ("events", [event(i) for i in range(100, 160)]))
    path = Path(c.log.path)  # type: ignore[union-attr]
    for tail in ("-wal", "-shm"):
        path.with_name(path.name + tail).unlink(missing_ok=True)
    shutil.copy(other.log.path, path.with_name("new"))  # type: ignore[union-attr]
    path.with_name("new").replace(path)


@pytest.mark.parametrize("accept", [False, True])
def test_another_file_in_the_place_of_the_log_is_refused(
    ran: Config, tmp_path: Path, accept: bool
) -> None:
    """Its journal is not that of the state; nothing is begun anew or set aside."""
    before = list_generations(ran.state_dir)
    swap(ran, tmp_path / "other")
    with (
        pytest.raises(TopicsChanged, match="journal of this state is gone"),
        running(ran, accept_changes=accept),
    ):
        pass
    assert list_generations(ran.state_dir) == before


def test_a_state_from_before_ids_needs_a_journal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty journal is not the one that it stands in."""
    monkeypatch.setattr(topics, "ids_of", lambda _: {})
    c = config(tmp_path)
    append(c, ("events", [event(i) for i in range(20)]))
    with running(c) as service:
        caught_up(service, 20)
    for path in tmp_path.glob("**/log.db*"):
        path.unlink()
    with pytest.raises(ForeignState, match="expected the journal of the state"), running(c):
        pass
    assert list_generations(c.state_dir)


@pytest.mark.parametrize("role", ["events", "scores", "journal"])
def test_a_topic_that_vanishes_is_missed_where_topics_have_no_ids(
    tmp_path: Path, role: str
) -> None:
    """As on clusters before Kafka 2.8: by its name."""
    c = config(tmp_path)
    there = {
        name: Topic("", 1)
        for name in (*c.inputs, c.topics.scores, c.topics.dead_letters, c.topics.audit)
    } | {c.journal_topic: Topic("", 1)}
    assert not lost(Standing(), there, c)
    name = c.journal_topic if role == "journal" else getattr(c.topics, role)
    del there[name]
    assert lost(Standing(), there, c).gone == [name]


def test_a_file_that_is_replaced_ends_a_running_service(ran: Config, tmp_path: Path) -> None:
    """What others append to the new file would never be read."""

    def act() -> None:
        with running(ran) as service:
            swap(ran, tmp_path / "other")
            wait_until(lambda: service.health.state == "stopped", "the end of the service")

    with pytest.raises(LogError, match="is another file now"):
        act()
