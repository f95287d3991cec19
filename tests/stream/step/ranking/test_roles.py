"""Rankings in a service of scorers and a learner: what one process does, and nothing lost."""

from __future__ import annotations

from typing import Any

import pytest

from models.base import state_digest
from stream.contract.outputs import Outputs
from stream.run.assemble import build_ranking
from stream.step.ranking.candidates import key_of
from stream.step.ranking.engine import RankingEngine
from stream.step.ranking.known import digest_of, scored_by
from stream.step.ranking.news import read
from stream.step.roles.examples import meaning
from tests.stream.step.ranking.scaled import Shop, Traffic, home, raw
from tests.stream.step.roles.scaled import Part, assert_goes_on, contents, of_role, whole
from tests.support.factory import START_MS, decoded

PLACE = ("partition", "offset", "seq", "scored_at", "model")
"""Where an answer stands, not what it says."""


SMALL = {
    "positive": {"view": 1, "buy": 3},
    "also_seen": ["dislike"],
    "items": 25,
    "users": 10,
    "ratings": {},
}
"""Tables that let users and items go."""


def _did(n: int, user: str, item: str, **fields: Any) -> dict[str, Any]:
    told = {"event": "interaction", "id": f"d{n}", "timestamp": START_MS + n * 1000}
    return told | {"user": user, "item": item, "type": "view"} | fields


def _items(answer: dict[str, Any]) -> list[str]:
    return [place["id"] for place in answer["items"]]


def made_examples(outputs: Outputs, part: Part) -> list[bytes]:
    """What a scorer handed over."""
    return contents(outputs.handed[part.config.examples_topic])


def said(outputs: Any) -> list[dict[str, Any]]:
    """Answers without their places."""
    return [
        {k: v for k, v in answer.items() if k not in PLACE}
        for answer in decoded(list(outputs.scores))
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_what_is_taken_over_at_once_answers_as_one_process(count: int) -> None:
    """Bit for bit: answers, what is known, what was taken of lists, and how good it was."""
    tree = raw(count, reco=SMALL)
    one, shop, traffic = Part(whole(tree)), Shop(tree), Traffic(3)
    for n in range(500):
        record = traffic.record()
        p = home(record, 2 * count)
        made = one.step(("events", p, [record]))
        there = shop.score(p % count, ("events", p, [record]))
        shop.settle()
        assert said(made) == said(there)
        traffic.answers += said(made)
        if n % 50 == 49:
            assert [digest_of(one.engine)] * (count + 1) == shop.known()
    hits = [part.engine.counts["hits"] for part in shop.scorers]
    assert one.engine.counts["hits"] == sum(hits) > 20
    assert state_digest(one.engine.state()["quality"]) == state_digest(
        shop.learner.engine.state()["quality"]
    )
    assert not any(part.engine.counts.get("dead.foreign") for part in shop.scorers)


MEMBERS: dict[str, Any] = {
    "event": {
        "fields": {"price": {"kind": "number", "default": 1.0}, "brand": "entity"}
        | {name: {"kind": "number", "default": -3.0} for name in ("utility", "popular")}
    },
    "features": [
        {"name": "utility", "type": "number", "field": "utility"},
        {"name": "popular", "type": "number", "field": "popular"},
        {"name": "price", "type": "number", "field": "price"},
        {"name": "repeats", "type": "window", "entity": "pair", "windows": ["1h"]},
        {"name": "user", "type": "window", "entity": "user", "windows": ["1h"]},
        {"name": "brand", "type": "risk", "entity": "brand", "delay": "20m", "windows": ["1h"]},
    ],
    "members": [
        {"name": "linear", "type": "logistic"},
        {"name": "forest", "type": "forest", "trees": 3},
    ],
}
"""A second stage whose windows are of users, and risk of brands that all scorers see."""


def test_members_over_candidates_are_one_process_s() -> None:
    """They learn at the learner what became of places, and score by its versions."""
    tree = raw(shard={"count": 1, "every": "1ms"}, label={"horizon": "2h"}, **MEMBERS)
    one, shop, traffic = Part(whole(tree)), Shop(tree), Traffic(11)

    def both(value: dict[str, Any]) -> list[dict[str, Any]]:
        made = one.step(("events", 0, [value]))
        there = shop.score(0, ("events", 0, [value]))
        assert said(made) == said(there)
        shop.settle()
        return said(made)

    for _ in range(500):
        record, clock = traffic.record(), {"event": "user", "user": "clock"}
        # What leaves by its horizon, or was taken, comes to be learned a moment later.
        both(clock | {"timestamp": record["timestamp"]})
        traffic.answers += both(record)
        both(clock | {"timestamp": record["timestamp"] + 1})
    stage, far = one.engine.reranker, shop.learner.engine.reranker
    assert far.counts["updates.linear"] == stage.counts["updates.linear"] > 100
    assert state_digest(stage.quality.state()) == state_digest(far.quality.state())
    assert stage.trials.tolist() == far.trials.tolist() != [0.0, 0.0]
    assert shop.scorers[0].engine.reranker.trials.tolist() == stage.trials.tolist()
    for part in (*shop.scorers, shop.learner):
        assert_goes_on(part, len(part.batches) // 2)


def test_members_are_the_same_at_all_scorers() -> None:
    """Those of a new one, too, which asks for all that is known; what others tell of risk is not
    lacking."""
    tree = raw(3, shard={"count": 3, "every": "1ms"}, label={"horizon": "2h"}, **MEMBERS)
    shop, traffic = Shop(tree), Traffic(13)
    _play(shop, traffic, 120)
    shop.scorers[2] = Part(shop.scorers[2].config)
    shop.models[:] = shop.models[-1:]
    shop._taken = [1, 1, 0]
    _play(shop, traffic, 60)
    for _ in range(3):
        shop.settle()
    assert len(set(shop.known())) == 1
    parts = [part.engine for part in (*shop.scorers, shop.learner)]
    assert len({state_digest(scored_by(engine)) for engine in parts}) == 1
    assert len({tuple(engine.reranker.trials) for engine in parts}) == 1
    assert parts[3].reranker.counts["updates.forest"] > 200
    assert parts[0].reranker.features.gauges()["brand.entities"] == 3
    for part in (*shop.scorers, shop.learner):
        assert_goes_on(part, len(part.batches) // 2)


def test_a_scorer_that_starts_hands_places_over_as_it_would_have() -> None:
    """By the version that it scores by, though none has come since."""
    shop = Shop(raw(shard={"count": 1, "every": "1ms"}, label={"horizon": "2h"}, **MEMBERS))
    traffic, [scorer] = Traffic(17), shop.scorers
    for _ in range(20):  # until places come to their horizon
        traffic.answers += said(shop.score(0, ("events", 0, traffic.records(20))))
        shop.learn()
    cut = len(scorer.batches)
    scorer.step(("events", 0, traffic.records(60)))
    assert_goes_on(scorer, cut)


def _play(shop: Shop, traffic: Traffic, steps: int) -> None:
    """Steps of scorers and the learner in any order, of any size."""
    r, count = traffic.random, len(shop.scorers)
    waiting: list[list[Any]] = [[] for _ in range(2 * count)]
    for _ in range(steps):
        i = r.randrange(count + 1)
        for record in traffic.records(r.randrange(8)):
            waiting[home(record, 2 * count)].append(record)
        if i == count:
            shop.learn()
            continue
        parts = [("events", p, waiting[p]) for p in range(i, 2 * count, count) if waiting[p]]
        waiting[i::count] = [[], []]
        traffic.answers += said(shop.score(i, *parts))


def test_all_come_to_know_the_same_however_steps_fall() -> None:
    """Scorers far behind, too; each process replays and goes on from its state, bit for bit."""
    shop, traffic = Shop(raw(3, reco=SMALL)), Traffic(5)
    _play(shop, traffic, 150)
    for _ in range(2):
        shop.settle()
    assert len(set(shop.known())) == 1
    assert shop.learner.engine.counts["learned"] > 200
    assert shop.learner.engine.counts["deeds.taken"] == sum(
        part.engine.counts["deeds.handed"] for part in shop.scorers
    )
    assert all(len(part.engine.ahead) == 0 for part in shop.scorers)
    for part in (*shop.scorers, shop.learner):
        assert_goes_on(part, len(part.batches) // 2)


def test_what_a_user_did_counts_for_him_before_it_is_learned() -> None:
    """What he took, or disliked, is not shown to him again, and tells what he may like; of who was
    deleted nothing speaks."""
    shop = Shop(raw())
    rows = [("u0", "a"), ("u0", "b"), ("u1", "a"), ("u1", "b"), ("u2", "c"), ("u3", "c")]
    shop.score(0, ("events", 0, [_did(n, user, item) for n, (user, item) in enumerate(rows)]))
    shop.settle()
    asked = {"event": "recommend", "timestamp": START_MS + 60_000, "count": 5}
    made = shop.score(
        0,
        (
            "events",
            0,
            [
                asked | {"id": "q0", "user": "new"},
                _did(10, "new", "a"),
                asked | {"id": "q1", "user": "new"},
                _did(11, "new", "c", type="dislike"),
                asked | {"id": "q2", "user": "new"},
                asked | {"id": "q3", "user": "new", "seen": "include"},
                {"event": "delete", "timestamp": START_MS, "user": "u0"},
                asked | {"id": "q4", "user": "u0"},
            ],
        ),
    )
    stranger, took, disliked, anyhow, gone = said(made)
    assert stranger["fallback"]
    assert _items(stranger)[0] == "c"
    assert not took["fallback"]
    assert _items(took) == ["b", "c"]
    assert _items(disliked) == ["b"]
    assert set(_items(anyhow)) == {"a", "b", "c"}
    assert gone["fallback"]
    assert set(_items(gone)) == {"a", "b", "c"}
    shop.settle()
    assert len(set(shop.known())) == 1
    assert shop.scorers[0].engine.recommender.history(key_of("new")) == 1
    assert shop.scorers[0].engine.recommender.history(key_of("u0")) == 0


def test_only_commands_that_change_what_is_known_tell_all_of_it() -> None:
    """A checkpoint is asked for often, and all that is known is hundreds of megabytes."""
    shop = Shop(raw())
    control, topic = shop.learner.config.topics.control, shop.learner.config.models_topic
    asked = [{"command": "checkpoint"}, {"command": "freeze", "member": "recommender"}]
    told = [shop.learner.step((control, 0, [one])).handed.get(topic, []) for one in asked]
    assert [len(records) for records in told] == [0, 1]
    assert shop.learner.engine.counts["commands"] == 2


def test_who_has_missed_news_asks_for_all_that_is_known() -> None:
    """A scorer that is new, or for whom retention deleted some: it goes on with the others."""
    shop, traffic = Shop(raw(2, reco=SMALL)), Traffic(7)
    _play(shop, traffic, 60)
    for _ in range(2):
        shop.settle()
    late = shop.scorers[1] = Part(shop.scorers[1].config)
    shop.models[:] = shop.models[len(shop.models) // 2 :]
    shop._taken = [len(shop.models), 0]
    made = shop.score(1, ("events", 1, traffic.records(3)))
    assert late.engine.versions.missed
    [told] = [read(raw, meaning(late.config))[0] for raw in made_examples(made, late)]
    assert told.asks
    shop.settle()
    assert len(set(shop.known())) == 1
    assert late.engine.versions.current == shop.learner.engine.versions.current
    _play(shop, traffic, 40)
    for _ in range(2):
        shop.settle()
    assert len(set(shop.known())) == 1
    assert_goes_on(late, 1)


def test_what_is_judged_of_a_file_is_judged_by_one_process() -> None:
    """`evaluate` needs the whole engine, whatever part of the service the environment names."""
    for role in ("scorer", "learner"):
        assert type(build_ranking(of_role(raw(), role), None)) is RankingEngine
