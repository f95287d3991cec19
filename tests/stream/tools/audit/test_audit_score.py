"""`millrace audit score`: what an outsider learns of one score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from stream.contract.records import NewRecord
from stream.run.assemble import open_log, wall_clock_ms
from stream.state.generations import list_generations
from stream.tools.replay import rebuilt
from tests.stream.logs.log_file import changed, cut, revalued
from tests.stream.tools.audit.audited import millrace, settings
from tests.support.factory import event
from tests.support.runner import append, caught_up, contents, running


def score(directory: Path, identifier: str, status: int = 0) -> dict[str, Any]:
    """``audit score --json``."""
    made = millrace("audit", "score", directory / "c.toml", identifier, "--json", status=status)
    found: dict[str, Any] = json.loads(made)
    assert found["exit"] == status
    return found


def test_a_score_is_given_once_more(ran: Path) -> None:
    """As committed, from the features of then, by versions that trail and replay agree on."""
    c = settings(ran)
    found = score(ran, "e250")
    committed = [json.loads(raw or b"") for raw in contents(c, "scores")]
    [made] = [s for s in committed if s["id"] == "e250"]
    assert (found["score"], found["replay"]) == (made, "the same bits")
    assert found["features"]["amount"] == pytest.approx(math.log1p(event(250)["amount"]))
    assert found["step"]["digest"] == found["step"]["journal_digest"]
    assert found["trail"]["outcome"] == "ok"
    trail = {r["seq"]: r for raw in contents(c, "audit") if (r := json.loads(raw or b""))}
    assert trail[found["step"]["trail_seq"]]["hash"] == found["step"]["trail_hash"]
    with rebuilt(c, made["seq"] - 1) as past:
        members = past.follower.engine.ensemble.members
        digests = {name: member.digest() for name, member in members.items()}
    assert {name: told["root"] for name, told in found["versions"].items()} == digests
    for name, told in found["versions"].items():
        record = trail[told["record"]]
        assert (record["model"], record["root"]) == (name, told["record_root"])
        assert record["version_to"] <= told["version"]
    text = millrace("audit", "score", ran / "c.toml", "e250")
    assert "the same bits" in text
    assert "customer_mean_7d" in text


def test_a_version_of_the_trail_is_named_by_its_digest(shard: Path) -> None:
    """Where a member is as its newest record says, replay and trail give the same digest."""
    found = score(shard, "e0")
    for told in found["versions"].values():
        assert (told["version"], told["record_version"]) == (0, 0)
        assert told["root"] == told["record_root"]


def test_a_score_that_was_changed_is_told(shard: Path) -> None:
    """Its step gives other bits."""
    revalued(shard / "log.db", "scores", lambda value: value.replace(b'"alert":', b'"alert": '))
    assert score(shard, "e250", status=13)["replay"] == "other bits"


def test_a_score_is_given_once_more_in_the_format_of_then(shard: Path) -> None:
    """Whatever scores are written in today."""
    c, path = settings(shard), shard / "c.toml"
    text = path.read_text()
    path.write_text(f'{text}\n[scores]\nformat = "cloudevents"\n')
    append(c, ("events", [event(400)]))
    with running(settings(shard)) as service:
        caught_up(service, 801)
    assert b"specversion" in (contents(c, "scores")[-1] or b"")
    score(shard, "e400")
    score(shard, "e250")
    path.write_text(text)
    score(shard, "e400")


def test_what_is_no_score_is_passed_over(shard: Path) -> None:
    """A record of somebody else's with the id of an event does not hide its score."""
    log = open_log(settings(shard), wall_clock_ms)
    log.append("scores", [NewRecord(None, b'{"id": "e250", "seq": "x", "model": "test"}')])
    log.close()
    score(shard, "e250")


def test_a_trail_that_was_changed_is_told(shard: Path) -> None:
    """The score may be the same: what vouches for its members is not whole."""
    revalued(shard / "log.db", "audit", lambda value: value.replace(b"created", b"creatid"))
    assert score(shard, "e250", status=10)["trail"]["outcome"] == "broken"


def test_a_score_older_than_journal_and_checkpoints_is_shown_as_it_is(shard: Path) -> None:
    """Nothing vouches for it: exit status 14, in words."""
    c = settings(shard)
    oldest = int(list_generations(c.state_dir)[-1].name)
    log = open_log(c, wall_clock_ms)
    first = next(r.seq for r in log.journal(oldest - 2))
    log.close()
    cut(shard / "log.db", c.journal_topic, first - 1)
    found = score(shard, "e0", status=14)
    assert found["score"]["id"] == "e0"
    assert found["replay"].startswith("out of reach: the journal does not hold step 1 any more")


def test_what_became_of_an_event_without_a_score(shard: Path) -> None:
    """A dead letter and its reason; not taken yet; taken, its score gone; never seen."""
    c = settings(shard)

    def told(identifier: str) -> str:
        return " ".join(millrace("audit", "score", shard / "c.toml", identifier, status=3).split())

    append(c, ("events", [event(400, id="bad-é", amount="much")]))
    with running(c) as service:
        caught_up(service, 801)
    append(c, ("events", [event(401, id="later")]))
    assert "never scored: a dead letter holds this id: schema: " in told("bad-é")
    assert "events/0 offset 400" in told("bad-é")
    assert "not scored yet: it stands at events/0 offset 401" in told("later")
    assert "never seen" in told("bad")
    with changed(shard / "log.db", "scores") as rows:
        del rows[3]
    assert "step 1 took it from events/0 offset 3" in told("e3")
