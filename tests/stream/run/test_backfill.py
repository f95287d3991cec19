"""A running stream gains members and features that have learned from its log's past."""

from __future__ import annotations

import json
import shutil
import sqlite3
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from models.base import state_digest
from stream.contract.records import Batch, JournalRecord
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.settings.schema import Config
from stream.state import backfill as preparing
from stream.state.backfill import BackfillRefused
from stream.state.generations import CheckpointError, StateDirectory, list_generations
from stream.step.scoring import ScoringEngine
from stream.tools.audit.verify import verify_trail
from stream.tools.past.backfill import backfill
from tests.stream.run.test_changes import replays
from tests.stream.run.test_service import feed, last_seq
from tests.support.factory import (
    config,
    event,
    interaction,
    label,
    ranking_config,
    raw_config,
)
from tests.support.runner import append, caught_up, contents, running

Raw = dict[str, Any]
QUIET = Console(file=StringIO())
THREE: Raw = {
    "members": [
        {"name": "linear", "type": "logistic"},
        {"name": "prior", "type": "constant", "probability": 0.1},
        {"name": "trees", "type": "forest", "trees": 3, "max_leaves": 64, "grace": 20},
    ],
    "ensemble": {"combine": "stack"},
    "label": {"field": "fraud", "horizon": "2h"},
    "limits": {"batch": 64},
}
WAITING = 40
"""Events that wait for their label when a shard has begun."""
CROSSED: Raw = {"name": "crossed", "type": "crossed", "table_bits": 8}
FOUR = THREE | {"members": [THREE["members"][0], CROSSED, *THREE["members"][1:]]}


def wider(directory: Path) -> Raw:
    """A feature more."""
    plain = {"name": "plain", "type": "number", "field": "amount", "scale": "standard"}
    return {"features": [plain, *raw_config(directory)["features"]]}


def past_of(c: Config, after: int = 0, until: int | None = None) -> ScoringEngine:
    """A fresh engine of this configuration after the journal's steps, switches left out."""
    log, engine = open_log(c, wall_clock_ms), build_engine(c, None)
    engine.seq = after
    for record in log.journal(after):
        if until is not None and record.seq > until:
            break
        if record.kind == "step":
            slices = log.read(record.ranges)
            engine.step(Batch(record.seq, record.clock_ms, slices, frozenset(record.skipped)))
        engine.seq = record.seq
    log.close()
    return engine


def begun(directory: Path, events: int = 400) -> Config:
    """A shard with three members that has taken events and most of their labels."""
    c = config(directory, **THREE)
    append(c, *feed(events))
    append(c, ("events", [event(i) for i in range(events, events + WAITING)]))
    with running(c) as s:
        caught_up(s, 2 * events + WAITING)
    return c


def go_on(c: Config, first: int, last: int, **options: Any) -> ScoringEngine:
    """The service takes more events, then the labels of all that wait; its engine at the end."""
    with running(c, **options) as s:
        engine = s.engine
        assert engine is not None
        taken = sum(n for key, n in engine.counts.items() if key.startswith("consumed."))
        append(c, ("events", [event(i) for i in range(first, last)]))
        caught_up(s, taken + last - first)
        append(c, ("labels", [label(i) for i in range(first - WAITING, last)]))
        caught_up(s, taken + 2 * (last - first) + WAITING)
        return engine


def test_a_new_member_comes_with_what_the_past_taught_it(tmp_path: Path) -> None:
    """It is what a fresh engine makes of the same steps; the others are as if nobody had come."""
    old, new = begun(tmp_path), config(tmp_path, **FOUR)
    assert backfill(new, None, QUIET)["parts"] == ["member crossed"]
    engine = go_on(new, 440, 500)
    assert engine.counts["updates.crossed"] == 100  # since it came
    assert engine.quality.report()["crossed"]["all"]["effective_samples"] == 100
    assert engine.ensemble.weights()[1] != 0
    unchanged, taught = past_of(old), past_of(new)
    members = engine.ensemble.members
    for name, member in unchanged.ensemble.members.items():
        assert members[name].digest() == member.digest()
    assert members["crossed"].digest() == taught.ensemble.members["crossed"].digest()
    assert not (new.state_dir / "backfill").exists()
    replays(new, last_seq(new))
    found = verify_trail(new, None, None, None, checkpoints=True)
    assert found["outcome"] == "ok"
    trail = [json.loads(raw or b"") for raw in contents(new, "audit")]
    [told] = [r for r in trail if r["event"] == "member_added"]
    [switch] = [r for r in journal(new) if r.kind == "reconfigured"]
    assert (told["model"], told["cause"]) == ("crossed", "backfill")
    assert told["backfill"] == switch.body["backfill"] | {"updates": 400}
    [told] = [r for r in trail if r["event"] == "reconfigured"]
    assert told["backfill"] == switch.body["backfill"]


def test_a_new_feature_comes_with_members_that_know_it(tmp_path: Path) -> None:
    """All members see another column: each is what a fresh engine makes of the past. What events
    wait, wait on with their scores; memories that mean the same are the stream's."""
    old = begun(tmp_path)
    new = config(tmp_path, **FOUR, **wider(tmp_path))
    parts = backfill(new, None, QUIET)["parts"]
    assert {"member linear", "member crossed", "combiner", "feature plain"} <= set(parts)
    taught, unchanged = past_of(new), past_of(old)
    with running(new) as s:
        engine = s.engine
        assert engine is not None
        for name, member in taught.ensemble.members.items():
            assert engine.ensemble.members[name].digest() == member.digest()
        assert engine.ensemble.weights().tolist() == taught.ensemble.weights().tolist()
        assert not engine.ensemble.cold
        ours, theirs = (
            e.pending.take(np.arange(e.pending.head, e.pending.tail)) for e in (engine, unchanged)
        )
        for field in ("id", "score", "event_time_ms", "alert", "keys", "hashed"):
            assert np.array_equal(ours[field], theirs[field])
        assert np.array_equal(ours["dense"][:, 1:], theirs["dense"])
        tables = engine.features.state()["tables"]
        for name, table in unchanged.features.state()["tables"].items():
            assert state_digest(tables[name]) == state_digest(table)
    assert go_on(new, 440, 500).counts["labels.joined"] == 500
    replays(new, last_seq(new))


def test_members_that_name_their_features_go_on_when_another_comes(tmp_path: Path) -> None:
    """A member and a feature at once: the three of before are as if neither had come, with what
    waits and what is learned of it, and the new one sees the new feature."""
    old = begun(tmp_path)
    names = [f.name for f in old.features]
    three = [member | {"features": names} for member in THREE["members"]]
    new = config(tmp_path, **THREE | {"members": [*three, CROSSED]}, **wider(tmp_path))
    assert backfill(new, None, QUIET)["parts"] == ["member crossed", "feature plain"]
    engine = go_on(new, 440, 500)
    unchanged, taught = past_of(old), past_of(new)
    members = engine.ensemble.members
    for name, member in unchanged.ensemble.members.items():
        assert members[name].digest() == member.digest()
        judged = [e.quality.report()[name]["sliding"] for e in (engine, unchanged)]
        assert str(judged[0]) == str(judged[1])
    assert members["crossed"].digest() == taught.ensemble.members["crossed"].digest()
    assert engine.counts["labels.joined"] == 500
    replays(new, last_seq(new))


def journal(c: Config) -> list[JournalRecord]:
    log = open_log(c, wall_clock_ms)
    try:
        return list(log.journal())
    finally:
        log.close()


def forget(c: Config, events: int) -> int:
    """Let the log's retention delete the first events, and no journal; the step that took the last
    of them."""
    with sqlite3.connect(c.log.path) as db:
        db.execute("UPDATE partitions SET first_offset = ? WHERE topic = 'events'", (events,))
    db.close()
    return max(
        r.seq for r in journal(c) for p in r.ranges if p.topic == "events" and p.first < events
    )


def test_a_past_that_is_too_short_is_refused_with_how_far_it_goes(tmp_path: Path) -> None:
    """How long, since when, how many events and labels, and what can be done; less can be asked
    for, and labels of events from before find none."""
    old, new = begun(tmp_path), config(tmp_path, **FOUR)
    after = forget(old, 400)
    expected = (
        rf"a past of 0\.08333 days; the log reaches back 0\.0.* days to 2026-.*, step {after + 1},"
        r" .* events and .* labels\. Lengthen log\.retention and wait, or take less with --reach"
    )
    with pytest.raises(BackfillRefused, match=expected):
        backfill(new, None, QUIET)
    found = backfill(new, "1m", QUIET)
    assert found["from_step"] == after + 1
    taught = past_of(new, after)
    assert taught.counts["labels.joined"] < taught.counts["scored"]
    with running(new) as s:
        assert s.engine is not None
        crossed = s.engine.ensemble.members["crossed"]
        assert crossed.digest() == taught.ensemble.members["crossed"].digest()
    forget(old, 420)
    kept = sorted((new.state_dir / "entered").iterdir())
    for newer in list_generations(new.state_dir)[:-1]:
        newer.rename(tmp_path / f"taken-away-{newer.name}")
    with running(new) as s:  # by what the switch kept: those steps are gone
        assert s.recovered is not None
        assert s.recovered.replayed_steps > 0
    for newer in list_generations(new.state_dir)[:-1]:
        shutil.rmtree(newer)
    kept[0].rename(tmp_path / "lost")
    expected = r"learned from the steps .*Put that directory back"
    with pytest.raises(CheckpointError, match=expected), running(new):
        pass


def test_a_start_takes_only_what_was_prepared_for_it(tmp_path: Path) -> None:
    """Another configuration is refused, as is a backfill at work; without any, new members know
    the history alone. The old configuration goes on beside, and another one with nothing new."""
    begun(tmp_path)
    old, new = config(tmp_path, **THREE, drift={"on_alarm": "reset"}), config(tmp_path, **FOUR)
    backfill(new, None, QUIET)
    other = config(tmp_path, **FOUR, seed=5)
    with pytest.raises(BackfillRefused, match="for another configuration"), running(other):
        pass
    at_work = StateDirectory(new.state_dir / "backfill").open()
    with pytest.raises(BackfillRefused, match="is at work"), running(new):
        pass
    at_work.close()
    go_on(old, 440, 480)
    again = backfill(new, None, QUIET)
    assert 0 < again["steps"] < last_seq(old)
    assert backfill(other, None, QUIET)["from_step"] == 1  # begins anew
    shutil.rmtree(new.state_dir / "backfill")
    with running(new) as s:
        assert s.engine is not None
        assert s.engine.counts["updates.crossed"] == len(s.engine.history)


def test_steps_that_go_before_they_are_learned_are_told(tmp_path: Path) -> None:
    """A start says that what was prepared no longer reaches on; the next backfill begins anew."""
    old, new = begun(tmp_path), config(tmp_path, **FOUR)
    prepared = backfill(new, None, QUIET)["to_step"]
    go_on(old, 440, 640)
    after = forget(old, 500)
    assert after > prepared
    with pytest.raises(BackfillRefused, match=r"ends before what the log .*deleted"), running(new):
        pass
    with pytest.raises(BackfillRefused, match=r"let go of steps .*Run it again"):
        backfill(new, None, QUIET)
    assert backfill(new, "1m", QUIET)["from_step"] == after + 1
    with running(new) as s:
        assert s.engine is not None
        crossed = s.engine.ensemble.members["crossed"]
        assert crossed.digest() == past_of(new, after).ensemble.members["crossed"].digest()


def test_nothing_new_is_refused(tmp_path: Path) -> None:
    """A configuration that lets every part go on needs no past; neither does a stream without."""
    new = config(tmp_path, **THREE, seed=3)
    with pytest.raises(BackfillRefused, match="expected a stream that runs"):
        backfill(new, None, QUIET)
    begun(tmp_path, 60)
    with pytest.raises(BackfillRefused, match="every part keeps its state; start with it"):
        backfill(new, None, QUIET)
    with pytest.raises(BackfillRefused, match=r"--reach: .*got 'soon'"):
        backfill(config(tmp_path, **FOUR), "soon", QUIET)


def test_a_recommender_is_refused(tmp_path: Path) -> None:
    """What is new to it learns as the stream goes, which the refusal says; nothing is prepared."""
    old = ranking_config(tmp_path, reco={"members": {"popular": {}}})
    new = ranking_config(tmp_path, reco={"members": {"popular": {}, "sessions": {}}})
    append(old, ("events", [interaction(i) for i in range(20)]))
    with running(old) as service:
        caught_up(service, 20)
    with pytest.raises(BackfillRefused, match=r"no ranking.*`millrace warm`"):
        backfill(new, None, QUIET)
    assert not (new.state_dir / "backfill").exists()


def test_a_field_that_no_past_event_has_is_refused(tmp_path: Path) -> None:
    """Nothing of the past can be read: what was got is said, and nothing is kept."""
    begun(tmp_path, 60)
    raw = raw_config(tmp_path)
    raw["event"]["fields"]["age"] = "number"
    age = {"name": "age", "type": "number", "field": "age"}
    new = config(tmp_path, **THREE, event=raw["event"], features=[*raw["features"], age])
    with pytest.raises(BackfillRefused, match=r"got none; dead letters: .*100 schema\. A field"):
        backfill(new, None, QUIET)
    raw["event"]["fields"]["age"] = {"kind": "number", "default": 30}
    new = config(tmp_path, **THREE, event=raw["event"], features=[*raw["features"], age])
    assert backfill(new, None, QUIET)["scored"] == 100


class Died(BaseException):
    """What a process does at a failpoint."""


@pytest.mark.parametrize("place", ["caught_up", "kept", "committed", "left"])
def test_a_switch_can_die_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The next start makes of it what one that never died makes: once, and to the bit."""
    begun(tmp_path, 120)
    new = config(tmp_path, **FOUR)
    backfill(new, None, QUIET)

    def die(name: str) -> None:
        if name == f"backfill.{place}":
            raise Died

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "failpoint", die)
        with pytest.raises(Died), running(new):
            pass
    engine = go_on(new, 160, 200)
    taught = past_of(new)
    assert (
        engine.ensemble.members["crossed"].digest() == taught.ensemble.members["crossed"].digest()
    )
    assert [r.kind for r in journal(new)].count("reconfigured") == 1
    replays(new, last_seq(new))
