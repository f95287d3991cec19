"""`millrace audit explain` of a shard that ranks: which interactions changed which member."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream.settings.load import load
from stream.step.ranking.engine import RankingEngine
from stream.tools.replay import rebuilt
from tests.stream.tools.audit.audited import millrace, settings
from tests.stream.tools.audit.test_explain import explain
from tests.support.factory import DAY_MS, START_MS, interaction, wish
from tests.support.runner import append, caught_up, running

TAKEN, ASKED, HIT = 240, 50, 20
FIRST = ("popular", "cooccurrence", "sessions", "ease", "bpr", "eals", "stack")
RATED = ("bias_factors", "item_knn", "user_knn", "means", "line")
TOML = """
name = "shop"
seed = 1
state_dir = "{directory}/state"
[log]
type = "embedded"
path = "{directory}/log.db"
[target]
type = "ranking"
[label]
horizon = "1d"
[limits]
batch = 20
[audit]
summary_every = 100
[http]
enabled = false
[reco]
seen = "include"
[reco.ratings]
{members}
[[features]]
name = "utility"
type = "number"
field = "utility"
[[members]]
name = "linear"
type = "logistic"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every member of both kinds, and a second stage; lists of which an item is taken."""
    directory = tmp_path_factory.mktemp("explained")
    members = "\n".join(f"[reco.members.{name}]" for name in FIRST[:-1])
    members = members.replace("ease]", "ease]\nplaces = 32\nbatch = 1")
    (directory / "c.toml").write_text(TOML.format(directory=directory, members=members))
    c = load(directory / "c.toml", {})
    asked = [wish(i, timestamp=interaction(TAKEN)["timestamp"]) for i in range(ASKED)]
    values = [interaction(i, value=1 + (i % 20 + i) % 5) for i in range(TAKEN)]
    with running(c) as service:
        append(c, ("events", [*values, *asked]))
        caught_up(service, TAKEN + ASKED)
        # Whatever three of thirty items a list holds, one of ten in a row from each is among them.
        hits = [
            interaction(TAKEN + 30 * i + j, ranking=f"r{i}", item=f"m{j}", user=f"u{i}", value=5)
            for i in range(HIT)
            for j in range(30)
        ]
        late = {"event": "item", "item": "m0", "timestamp": START_MS + 3 * DAY_MS}
        append(c, ("events", [*hits, late]))
        caught_up(service, TAKEN + ASKED + len(hits) + 1)
    return directory


@pytest.mark.parametrize("member", ["recommender", "ratings", *FIRST, *RATED])
def test_updates_go_as_far_as_the_states_lie_apart(shop: Path, member: str) -> None:
    """Interactions learned one at a time end where the step did, whichever member is asked for."""
    found = explain(shop, member, "--most", 5000)
    first, last = found["stretches"][0]["versions"]
    assert sorted(row["version"] for row in found["updates"]) == list(range(first, last + 1))
    assert sum(row["labels"] for row in found["updates"]) == found["stretches"][0]["labels"]
    learner = member if member in ("recommender", "ratings") else None
    learner = learner or ("recommender" if member in FIRST else "ratings")
    prefix = "" if learner == member else f"{member}."
    steps = [row["step"] for row in found["updates"]]
    for row in found["updates"][:2]:
        if steps.count(row["step"]) == 1:
            expected = apart(shop, learner, prefix, row["step"])
            assert row["moved"] == pytest.approx(expected, rel=1e-6)
    assert sum(row["moved"] for row in found["events"]) >= max(
        (row["moved"] for row in found["updates"]), default=0.0
    )


@pytest.mark.parametrize("member", ["recommender", "cooccurrence", "line"])
def test_what_came_since_the_newest_record_is_taken_apart_too(shop: Path, member: str) -> None:
    """Version by version from there to what the journal's end makes of it, each to the bit."""
    learner = "ratings" if member == "line" else "recommender"
    recorded = explain(shop, learner, "--most", 1000)["stretches"]
    found = explain(shop, member, "--latest", "--most", 5000)
    (stretch,) = found["stretches"]
    assert stretch["record"] is None
    first, last = stretch["versions"]
    assert first == max(row["versions"][1] for row in recorded) + 1
    with rebuilt(settings(shop), stretch["steps"][1]) as past:
        assert last == past.follower.engine.auditor.versions()[learner] >= first
    assert sorted(row["version"] for row in found["updates"]) == list(range(first, last + 1))
    assert stretch["labels"] == sum(row["labels"] for row in found["updates"]) > 0
    assert len(found["events"]) == stretch["labels"]
    row = max(found["updates"], key=lambda row: row["step"])
    prefix = "" if member == learner else f"{member}."
    assert row["moved"] == pytest.approx(apart(shop, learner, prefix, row["step"]), rel=1e-6)
    assert "not yet" in millrace("audit", "explain", shop / "c.toml", member, "--latest")


def apart(directory: Path, learner: str, prefix: str, step: int) -> float:
    """The distance of a learner's arrays before and after a step; new rows count whole."""
    found: list[dict[str, Any]] = []
    for seq in (step - 1, step):
        with rebuilt(settings(directory), seq) as past:
            engine = past.follower.engine
            assert isinstance(engine, RankingEngine)
            member: Any = engine.ensemble.members[learner]
            for role in ("learned", "statistic"):
                arrays = member.arrays(role)
                arrays = {p: a.copy() for p, a in arrays.items() if p.startswith(prefix)}
                if arrays:
                    break
            found.append(arrays)
    total = 0.0
    for path, after in found[1].items():
        before = np.zeros(after.shape)
        before[: len(found[0][path])] = found[0][path]
        total += float(np.square(after.astype(np.float64) - before).sum())
    return float(np.sqrt(total))


def test_an_interaction_says_whose_rows_it_changed(shop: Path) -> None:
    """Of the count of what is popular it is the item that was taken."""
    found = explain(shop, "popular", "--layer", "counts", "--most", 2000)
    assert found["stretches"][0]["moved"] is None
    assert len(found["events"]) > 50
    for row in found["events"]:
        index = int(row["event"][1:])
        assert row["user"] == (interaction(index)["user"] if index < TAKEN else row["user"])
        assert row["most"] == "popular.counts"
        assert row["rows"].startswith(f"{row['item']} ")
    text = millrace("audit", "explain", shop / "c.toml", "cooccurrence")
    assert "cooccurrence.weights" in text


def test_a_member_of_the_second_stage_is_explained_by_places(shop: Path) -> None:
    """What was taken of a list is named by the list and the item."""
    found = explain(shop, "linear", "--most", 1000)
    named = [row["event"] for row in found["events"] if row["event"]]
    assert named
    assert all(name.startswith("r") and " m" in name for name in named)
    assert {row["truth"] for row in found["events"] if row["event"]} == {1.0}
    assert {row["truth"] for row in found["events"]} == {0.0, 1.0}


def test_a_name_that_is_none_is_refused_with_those_that_are(shop: Path) -> None:
    """The learners of the trail, and the members within them."""
    text = millrace("audit", "explain", shop / "c.toml", "nobody", status=3)
    for name in ("recommender", "ratings", "linear", "cooccurrence", "line"):
        assert name in text
