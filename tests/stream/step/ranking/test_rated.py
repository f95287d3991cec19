"""Ratings of a shard that ranks: foretold, judged, told with answers, kept and forgotten."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from models.reco.ratings import Ratings
from models.reco.recommender import Interactions
from models.reco.settings import RatingSettings
from stream.contract.hashing import hash_text
from stream.step.engine import Engine
from tests.stream.step.test_ranking import START_MS, Shard, ask, life, switched, take, told

RATED: dict[str, Any] = {"positive": {"rating >= 4": 1}, "ratings": {}}


def rate(user: str, item: str, value: float, at: int) -> dict[str, Any]:
    """A user rates an item."""
    return take(user, item, at, type="rating", value=value)


def rated(n: int) -> list[dict[str, Any]]:
    """Ratings by users of two tastes."""
    rng, found = random.Random(2), []
    for i in range(n):
        user, item = rng.randrange(8), rng.randrange(12)
        value = min(max((4 if user % 2 == item % 2 else 2) + rng.choice([-1, 0, 0, 1]), 1), 5)
        found.append(rate(f"u{user}", f"i{item}", value, i))
    return found


@pytest.fixture
def shard() -> Shard:
    """A shard that foretells ratings and has learned some."""
    made = Shard(reco=RATED)
    made.step(*rated(200))
    return made


def ratings(engine: Engine) -> dict[str, dict[str, float]]:
    """What is told of each scorer of ratings since the start."""
    report = engine.quality.report()
    return {n: w["all"] for n, w in report.items() if "rmse" in w["all"]}


def test_one_window_of_one_scorer_is_what_the_report_has_of_it(shard: Shard) -> None:
    """Of rankings and ratings; of a name that nobody has it is the ensemble's."""
    snapshot = shard.engine.quality.snapshot()
    report = snapshot.report()
    found = {name: snapshot.fading(name) for name in report}
    np.testing.assert_equal(found, {name: windows["fading"] for name, windows in report.items()})
    np.testing.assert_equal(snapshot.fading("nobody"), report["ensemble"]["fading"])


def test_every_rating_is_learned_and_judged_whether_it_is_a_positive_or_not(shard: Shard) -> None:
    """By the same predictions as those of the ratings alone; the first was foretold by nobody."""
    records = rated(200)
    keys = {k: np.array([hash_text(r[k]) for r in records], np.uint64) for k in ("user", "item")}
    value = np.array([r["value"] for r in records], np.float64)
    alone = Ratings(RatingSettings(), 1_000_000, 100_000, shard.engine.config.seed)
    off = (
        alone.learn(
            Interactions(
                time_ms=np.array([r["timestamp"] for r in records]),
                session=np.zeros(200, np.uint64),
                weight=np.ones(200),
                value=value,
                **keys,
            )
        )[1:]
        - value[1:, None]
    )
    found = ratings(shard.engine)
    assert list(found) == ["ratings", "bias_factors", "item_knn", "user_knn"]
    for j, figures in enumerate(found.values()):
        assert figures["rmse"] == pytest.approx(np.sqrt(np.square(off[:, j]).mean()))
        assert figures["mae"] == pytest.approx(np.abs(off[:, j]).mean())
        assert figures["effective_samples"] == 199
    assert shard.engine.counts["learned"] < 200


def test_answers_say_what_the_user_would_rate(shard: Shard) -> None:
    """Of items for him and of given ones, also of one that nobody knows."""
    items = [{"id": i} for i in ("i2", "i3", "new")]
    answer = shard.answer(told("rank", 300, id="q", user="u0", seen="include", items=items))
    found = {place["id"]: place["rating"] for place in answer["items"]}
    assert found["i2"] > found["i3"]
    expected = shard.engine.rated.ratings.expect(  # type: ignore[union-attr]
        START_MS + 300 * 60_000, hash_text("u0"), np.array([hash_text("new")], np.uint64)
    )
    assert found["new"] == expected[0]
    recommended = shard.answer(ask(301, "r", user="u1", seen="include"))["items"]
    assert all(1 <= place["rating"] <= 5 for place in recommended)


def test_without_ratings_nothing_is_told_of_them() -> None:
    """No figure, and no word in an answer."""
    shard = Shard()
    shard.step(*rated(50))
    assert ratings(shard.engine) == {}
    assert all("rating" not in p for p in shard.answer(ask(60, user="u0"))["items"])


def test_frozen_ratings_are_told_and_not_learned(shard: Shard) -> None:
    """The rankings learn on; a quarantined learner of ratings is not asked."""
    engine, feed = shard.engine, shard._feed
    engine.step(feed.batch(("control", [{"command": "freeze", "member": "ratings"}])))
    before, learned = engine.ensemble.roots(), engine.counts["learned"]
    shard.step(rate("u1", "i5", 5, 300))
    assert engine.ensemble.roots()["ratings"] == before["ratings"]
    assert engine.counts["learned"] == learned + 1
    assert "rating" in shard.answer(ask(301, "r", user="u0", seen="include"))["items"][0]
    engine.ensemble.quarantine("ratings")
    assert "rating" not in shard.answer(ask(302, "s", user="u0", seen="include"))["items"][0]


def test_a_deleted_user_and_item_are_unknown_to_ratings(shard: Shard) -> None:
    """As to rankings."""
    shard.step(told("delete", 300, user="u0"), told("delete", 300, item="i0"))
    assert shard.engine.rated is not None
    counts = shard.engine.rated.ratings.counts()
    assert (counts["users"], counts["items"]) == (7, 11)


def test_a_restored_shard_foretells_alike() -> None:
    """Bit for bit, through the state alone."""
    records, one, other = life(200), Shard(reco=RATED), Shard(reco=RATED)
    one.step(*records[:100])
    other.engine.restore(one.engine.state(), one.engine.rows())
    batch = one._feed.batch(("events", records[100:]))
    assert one.engine.step(batch).journal == other.engine.step(batch).journal
    assert one.engine.state_digest() == other.engine.state_digest()


@pytest.mark.parametrize(
    ("ratings", "lost"),
    [
        (None, ["ratings as it was"]),
        ({"members": {"item_knn": {}}}, ["ratings as it was"]),
        ({"drift": 0.0}, []),
    ],
)
def test_a_switch_keeps_or_drops_ratings(
    shard: Shard, ratings: dict[str, Any] | None, lost: list[str]
) -> None:
    """They stay while their members do; the rankings go on; a restart makes the same of it."""
    recommender = shard.engine.recommender.digest()
    reco = {"positive": RATED["positive"], "ratings": ratings}
    found, other = switched(shard, reco=reco)
    assert found.lost == lost
    assert other.engine.recommender.digest() == recommender
    again = Shard(reco=reco)
    again.engine.restore(other.engine.state(), other.engine.rows())
    batch = other._feed.batch(("events", rated(30)))
    assert other.engine.step(batch).journal == again.engine.step(batch).journal


def test_ratings_can_be_foretold_from_a_switch_on() -> None:
    """They begin then; nothing else does."""
    shard = Shard(reco={"positive": RATED["positive"]})
    shard.step(*rated(60))
    found, other = switched(shard, reco=RATED)
    assert (found.fresh, found.lost) == (["ratings"], [])
    other.step(*rated(61)[60:])
    assert other.engine.counts["updates.ratings"] == 1
