"""Following the journal: what it does again, and where it stops and says why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.members.constant import ConstantModel
from stream.contract.log import Log
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord
from stream.run import service
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state import follow, generations
from stream.state.backfill import entered
from stream.state.follow import Diverged, Follower, Means
from stream.state.generations import CheckpointError, StateDirectory, list_generations
from stream.state.platform import fingerprint
from stream.state.topics import Standing
from stream.step.scoring import ScoringEngine
from stream.tools.replay import replay_to
from tests.support.factory import config, event, label
from tests.support.runner import append, caught_up, contents, running

Upgrade = Callable[..., None]


class _Undecided(ConstantModel):
    """Gives another score at every call: what a replay must notice."""

    calls = 0

    def score(self, x: Any) -> Any:
        _Undecided.calls += 1
        return super().score(x) + _Undecided.calls * 1e-9


@pytest.fixture
def c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A service with a member that is not deterministic."""
    real = service.build_engine

    def build(c: Any, directory: Any, key: Any) -> ScoringEngine:
        engine = real(c, directory, key)
        engine.ensemble.members["prior"].__class__ = _Undecided
        return engine

    monkeypatch.setattr(service, "build_engine", build)
    return config(tmp_path, limits={"batch": 50})


@pytest.fixture
def upgrade(monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    """From now on these parts of the fingerprint are others."""

    def change(**parts: str) -> None:
        for part in (service, generations, follow):
            monkeypatch.setattr(part, "fingerprint", lambda: fingerprint() | parts)

    return change


def run(c: Config, part: int) -> Follower:
    """Let a service take 100 more events and their labels; what its start found."""
    which = range(100 * part, 100 * part + 100)
    append(c, ("events", [event(i) for i in which]), ("labels", [label(i) for i in which]))
    with running(c) as found:
        caught_up(found, 200 * part + 200)
        assert found.recovered is not None
        return found.recovered


def lose_newest(c: Config) -> None:
    """As if the process had been killed before its last checkpoint."""
    newest = list_generations(c.state_dir)[0]
    newest.rename(c.state_dir / f"taken-away-{newest.name}")


def test_a_member_that_is_not_deterministic_is_noticed(c: Config) -> None:
    """When the replay gives other bits than the journal holds, the service stops and says so."""
    run(c, 0)
    lose_newest(c)
    with pytest.raises(Diverged, match="not deterministic"):
        run(c, 1)


@pytest.mark.parametrize("changed", ["kernels", "numpy", "cpu"])
def test_steps_made_elsewhere_may_differ(c: Config, upgrade: Upgrade, changed: str) -> None:
    """After a change of the kernels, a library or the processor the replay counts and goes on."""
    run(c, 0)
    lose_newest(c)
    upgrade(**{changed: "another"})
    found = run(c, 1)
    assert found.divergences > 0
    assert found.elsewhere == {changed}


def test_steps_made_here_may_not_differ_although_the_checkpoint_was_made_elsewhere(
    c: Config, upgrade: Upgrade
) -> None:
    """An upgrade after a clean stop: what is replayed later was all made by the new version."""
    run(c, 0)
    upgrade(kernels="another")
    run(c, 1)
    lose_newest(c)
    with pytest.raises(Diverged):
        run(c, 2)


def test_steps_made_here_may_differ_after_steps_made_elsewhere(c: Config, upgrade: Upgrade) -> None:
    """The new version began from a state that this replay no longer reaches."""
    run(c, 0)
    upgrade(kernels="another")
    run(c, 1)
    lose_newest(c)
    lose_newest(c)
    found = run(c, 2)
    assert found.divergences > 1
    assert found.elsewhere == {"kernels"}


def from_nothing(log: Log, c: Config) -> Means:
    """A follower that builds in memory, beside the shard's own directory."""

    def build(config: Config) -> ScoringEngine:
        return build_engine(config, None)

    directory = StateDirectory(c.state_dir)
    past = partial(entered, log, directory, build, lambda: None)
    return Means(build, past, directory.artefacts, directory.entered)


def test_following_gives_what_was_committed_record_by_record(tmp_path: Path) -> None:
    """An empty engine that follows the journal gives the scores in the log, and the same state."""
    c = config(tmp_path, limits={"batch": 50})
    run(c, 0)
    changed = config(tmp_path, limits={"batch": 50}, ensemble={"threshold": 0.3})
    run(changed, 1)
    log = open_log(c, wall_clock_ms)
    follower = Follower(build_engine(c, None), Standing(), from_nothing(log, c), "stop")
    scores = [
        score.value
        for record in log.journal()
        for score in follower.apply(record, log.read(record.ranges)).scores
    ]
    log.close()
    assert scores == contents(c, c.topics.scores)
    assert follower.replayed_records == 400
    read = {("control", 0): 0, ("events", 0): 200, ("labels", 0): 200}
    assert follower.standing.positions == read
    found = replay_to(changed, follower.engine.seq, None, from_start=False)
    assert found["replayed_steps"] == 0
    assert follower.engine.state_digest() == found["state_digest"]


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (
            "weighed",
            {"version": "9.0"},
            "expected a kind of step, reconfigured, schema, moved; got 'weighed'",
        ),
        ("reconfigured", {"version": "9.0"}, "missing required field `config`"),
    ],
)
def test_a_record_of_another_version_is_named(
    tmp_path: Path, kind: str, body: dict[str, Any], words: str
) -> None:
    """What this version cannot do again stops the start, with who wrote it and what to do."""
    c = config(tmp_path)
    run(c, 0)
    log = open_log(c, wall_clock_ms)
    log.open()
    tail = log.journal_tail()
    assert tail is not None
    later = JournalRecord(tail.seq + 1, tail.clock_ms, tail.digest, kind=kind, body=body)
    log.commit(Outputs([], [], [], later))
    log.close()
    with pytest.raises(CheckpointError, match=words) as refused:
        run(c, 1)
    assert f"step {later.seq}" in str(refused.value)
    assert "written by Millrace 9.0" in str(refused.value)
    assert "run the version that wrote it" in str(refused.value)
