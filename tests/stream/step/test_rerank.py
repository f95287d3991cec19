"""The second stage of a ranking: members over candidates' rows, and which order is shown."""

from __future__ import annotations

import random
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from models.base import EventColumns, state_digest
from models.features.stage import FeatureStage
from models.kernels.common import mix_all
from models.reco.recommender import Recommender, Request
from monitoring.show.metrics import MillraceCollector, exposition, registry
from monitoring.show.readings import Telemetry
from stream.contract.hashing import hash_text
from stream.run.readings import parameter_counts, readings
from stream.settings.load import ConfigError
from stream.settings.upgrade import journaled, recorded
from stream.step.ranking.rerank import Reranker
from tests.stream.step.test_ranking import (
    EVENTS,
    NEVER,
    Shard,
    ask,
    config,
    life,
    never_shown,
    switched,
    take,
    told,
)
from tests.support.factory import reasons

DAY = 24 * 60
"""In minutes."""

STAGE: dict[str, Any] = {
    "event": {"fields": {"price": "number", "colour": "category", "age": "number"}},
    "features": [
        {"name": "utility", "type": "number", "field": "utility"},
        {"name": "popular", "type": "number", "field": "popular", "scale": "standard"},
        {"name": "price", "type": "number", "field": "price", "scale": "standard"},
        {"name": "age", "type": "number", "field": "age"},
        {"name": "colour", "type": "category", "field": "colour", "buckets": 16},
        {"name": "item", "type": "window", "entity": "item", "windows": ["1h", "1d"]},
        {
            **{"name": "pair", "type": "window", "entity": "pair", "windows": ["1d"]},
            **{"value": "price", "stats": ["count", "mean", "since_last"]},
        },
        {"name": "rate", "type": "risk", "entity": "item", "delay": "0s", "windows": ["1d"]},
    ],
    "members": [{"name": "linear", "type": "logistic"}, {"name": "crossed", "type": "crossed"}],
}
"""What makes of a shard that ranks one whose candidates members score."""

COLUMNS = ["utility", "popular", "price", "age"]
"""The first columns of its rows."""

MATURE = {"label": {"horizon": "1d", "learning": "mature"}}


def item(name: str, at: int = 0, **fields: Any) -> dict[str, Any]:
    """What is told of an item."""
    return told("item", at, item=name, fields=fields)


def reranker(shard: Shard) -> Reranker:
    """The second stage."""
    assert shard.engine.reranker is not None
    return shard.engine.reranker


def shop(n: int, first: int = 0) -> list[dict[str, Any]]:
    """Lists of items that were there before, of which users take those of low numbers."""
    return _lists(n, first, lambda i, rng: [f"i{k}" for k in rng.sample(range(40), 10)])


def market(n: int, first: int = 0, event: str = "ranking") -> list[dict[str, Any]]:
    """Lists of items that never were there before, of which users take those of low price."""
    lists = _lists(n, first, lambda i, rng: [f"{i}/{rng.randrange(40)}" for _ in range(10)], event)
    found = []
    for record in lists:
        for one in record.get("items", ()):
            price = int(one["id"].rpartition("/")[2])
            found.append(item(one["id"], price=price) | {"timestamp": record["timestamp"]})
        found.append(record)
    return found


def _lists(n: int, first: int, choose: Any, event: str = "ranking") -> list[dict[str, Any]]:
    rng, found = random.Random(first), []
    for i in range(first, first + n):
        user, at = f"u{rng.randrange(30)}", i * 5
        names = choose(i, rng)
        items = [{"id": name} for name in names]
        found.append(told(event, at, id=f"l{i}", user=user, items=items))
        for place, name in enumerate(dict.fromkeys(names)):
            if int(name.rpartition("/")[2].lstrip("i")) < 8 and rng.random() < 0.5:
                found.append(take(user, name, at + 1, ranking=f"l{i}", id=f"x{i}/{place}"))
    return found


def priced(n: int = 40) -> list[dict[str, Any]]:
    """Items whose price is their number."""
    return [item(f"i{k}", price=k, colour="red" if k % 3 else "blue") for k in range(n)]


class TestAgainstAPlainReading:
    """Features looked at, then taken in; rows learned once their horizon is over."""

    def test_scores_and_members_are_those_of_a_loop(self) -> None:
        """Bit for bit, list by list, by the stage and members that score events."""
        shard, plain = Shard(**STAGE, **MATURE), _Plain()
        for record in [*priced(), *shop(120), *life_of_lists()]:
            plain.take(record, shard.engine.recommender)
            shard.step(record)
        held = shard.engine.pending
        rows = held.take(np.arange(held.head, held.tail))
        rows = rows[rows["shown"]]
        assert plain.learned > 1000  # else nothing was compared
        assert len(plain.waiting) == len(rows) > 100
        for theirs, ours in zip(plain.waiting, rows, strict=True):
            assert theirs["dense"].tolist() == ours["dense"].tolist()
            assert theirs["hashed"].tolist() == ours["hashed"].tolist()
            assert theirs["links"].tolist() == ours["links"].tolist()
        ensemble = reranker(shard).ensemble
        for name in ensemble.voters:
            assert ensemble.members[name].digest() == plain.ensemble.members[name].digest()
        assert reranker(shard).features.digest() == plain.features.digest()


def life_of_lists() -> list[dict[str, Any]]:
    """Some more lists, an hour apart, with what is told of users between them."""
    found = []
    for i in range(40):
        at = 3000 + i * 60
        found.append(told("user", at, user=f"u{i % 7}", fields={"age": i}))
        items = [{"id": f"i{(i * k) % 45}"} for k in range(1, 9)]
        found.append(told("ranking", at, id=f"m{i}", user=f"u{i % 7}", items=items))
        found.append(take(f"u{i % 7}", items[0]["id"], at + 2, ranking=f"m{i}"))
    return found


class _Plain:
    """Rows of reported lists, one by one, without an engine."""

    def __init__(self) -> None:
        other = Shard(**STAGE, **MATURE)
        self.features = FeatureStage(other.engine.config.features)
        self.ensemble = reranker(other).ensemble
        self.items: dict[str, dict[str, Any]] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.waiting: list[dict[str, Any]] = []
        self.learned, self.now = 0, 0

    def take(self, record: dict[str, Any], recommender: Recommender) -> None:
        """A record; the recommender is asked what it says of a list's items."""
        before, self.now = self.now, max(self.now, record["timestamp"])
        slack = 86_400_000 // 256
        if self.now // slack > before // slack:
            while self.waiting and self.waiting[0]["at"] < self.now - 86_400_000:
                self._learn(self.waiting.pop(0))
        kind = record["event"]
        if kind == "item":
            self.items.setdefault(record["item"], {}).update(record["fields"])
        elif kind == "user":
            self.users.setdefault(record["user"], {}).update(record["fields"])
        elif kind == "ranking":
            self._list(record, recommender)
        elif "ranking" in record:
            for row in self.waiting:
                if (row["list"], row["item"]) == (record["ranking"], record["item"]):
                    if not row["taken"]:
                        key = np.array([[hash_text(row["item"])]], np.uint64)
                        self.features.label(key, np.array([row["at"]]), np.ones(1, np.int8))
                    row["taken"] = True

    def _learn(self, row: dict[str, Any]) -> None:
        x = row["x"].take([0])
        links = np.array(row["links"])[None]
        self.ensemble.learn(x, links, np.array([float(row["taken"])]), np.ones(1))
        self.learned += 1

    def _list(self, record: dict[str, Any], recommender: Recommender) -> None:
        texts = list(dict.fromkeys(one["id"] for one in record["items"]))
        keys = np.array([hash_text(text) for text in texts], np.uint64)
        user = hash_text(record["user"])
        found = recommender.rank(
            Request(record["timestamp"], user, items=keys, count=len(keys), seen="include")
        )
        says = {
            key: (found.logits[j] - np.logaddexp.reduce(found.logits), found.members[j, 0])
            for j, key in enumerate(found.items.tolist())
        }
        asked = [self._columns(record, text, says) for text in texts]
        looked = [self.features.look(columns) for columns in asked]
        links = [self.ensemble.score(x)[0][0] for x in looked]
        for text, columns, x, link in zip(texts, asked, looked, links, strict=True):
            self.features.transform(columns)
            row = {"list": record["id"], "item": text, "at": record["timestamp"], "taken": False}
            held = {"x": x, "links": link, "dense": x.dense[0], "hashed": x.hashed[0]}
            self.waiting.append(row | held)

    def _columns(
        self, record: dict[str, Any], text: str, says: dict[int, tuple[Any, Any]]
    ) -> EventColumns:
        user, key = hash_text(record["user"]), hash_text(text)
        utility, popular = says.get(key, (np.nan, np.nan))
        own = self.items.get(text, {})
        age = self.users.get(record["user"], {}).get("age", np.nan)
        one = np.array([user], np.uint64)
        entities = {
            "user": one,
            "session": np.zeros(1, np.uint64),
            "item": np.array([key], np.uint64),
            "pair": mix_all(mix_all(one) + np.array([key], np.uint64)),
        }
        numbers = {"utility": utility, "popular": popular, "age": age}
        numbers["price"] = own.get("price", np.nan)
        colour = hash_text(own["colour"]) if "colour" in own else 0
        return EventColumns(
            np.array([record["timestamp"]]),
            {name: np.array([float(v)]) for name, v in numbers.items()},
            {"colour": np.array([colour], np.uint64)},
            entities,
        )


class TestOrder:
    def test_members_lead_whose_items_are_taken(self) -> None:
        """What users take is cheap and new: no recommender knows it, members see its price."""
        shard = Shard(**STAGE, reco={"seen": "include"}, label={"horizon": "2h"})
        shard.step(*market(20, event="rank"))
        assert not reranker(shard).leads
        shard.step(*market(250, 20, "rank"))
        assert reranker(shard).leads
        shard.step(item("dear", 1400, price=39), item("cheap", 1400, price=1))
        items = [{"id": name} for name in ("dear", "cheap")]
        found = shard.answer(told("rank", 1401, id="q", user="u1", items=items))["items"]
        assert [place["id"] for place in found] == ["cheap", "dear"]
        assert 1 > found[0]["score"] > found[1]["score"] > 0

    def test_places_decide_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of users who take what stands first, whatever it is, neither stage has more."""
        monkeypatch.setattr("stream.step.ranking.candidates.TRIAL", 1)
        shard = Shard(**STAGE, reco={"seen": "include"}, label={"horizon": "2h"})
        shard.step(*priced(), *shop(60), *(take(f"u{i % 30}", f"i{i % 40}", i) for i in range(200)))
        propensities = list[float]()
        for i in range(200):
            at, items = 300 + 5 * i, [{"id": f"i{(i * k) % 40}"} for k in range(1, 9)]
            asked = told("rank", at, id=f"p{i}", user=f"u{i % 30}", items=items)
            first, *_ = shard.answer(asked)["items"]
            propensities.append(first["propensity"])
            shard.step(take(f"u{i % 30}", first["id"], at + 1, ranking=f"p{i}", id=f"y{i}"))
        ahead, variance = reranker(shard).trials
        assert variance == pytest.approx(propensities.count(0.5), rel=0.05)
        assert variance > 10  # else nothing was compared
        assert set(propensities) == {0.5, 1.0}
        assert abs(ahead) < 2.5 * np.sqrt(variance)

    def test_members_that_put_it_last_do_not(self) -> None:
        """The order of the first stage is shown as it would be without them."""
        one, other = (
            Shard(**stage, reco={"seen": "include"}, label={"horizon": "2h"})
            for stage in (STAGE, {})
        )
        records = [*priced(12), *(take(f"u{i % 5}", f"i{i % 12}", i) for i in range(60))]
        for shard in (one, other):
            shard.step(*records)
        asked = ask(80, user="u1")
        assert one.items(asked) == other.items(asked)

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(EVENTS, st.sampled_from([None, {"temperature": 2.0}]), st.booleans())
    def test_what_must_not_be_shown_never_is(
        self, events: list[tuple[Any, ...]], explore: dict[str, float] | None, leads: bool
    ) -> None:
        """Hidden, excluded, seen, deleted, expired, of another category: whoever leads."""
        with patch.object(Reranker, "leads", leads):
            never_shown(Shard(**STAGE, reco=NEVER | {"explore": explore}), events)

    def test_the_utility_is_a_share_of_the_candidates(self) -> None:
        """Logarithms of shares that come to 1, whatever the list: one scale for all of them."""
        shard = Shard(**STAGE, reco={"seen": "include"})
        shard.step(*(take(f"u{i % 5}", f"i{i % 12}", i) for i in range(60)))
        shard.step(ask(80, user="u1", id="few", items=[], count=12), ask(81, id="all", count=12))
        pending = shard.engine.pending
        rows = pending.take(np.arange(pending.head, pending.tail))
        utility = rows["dense"][rows["shown"], COLUMNS.index("utility")].reshape(2, 12)
        assert np.exp(utility).sum(axis=1) == pytest.approx([1, 1], rel=1e-6)
        assert np.ptp(utility[0]) > 0

    def test_a_request_has_fields_too(self) -> None:
        """They stand before those of the item and of the user."""
        shard = Shard(**STAGE)
        shard.step(item("a", price=5), told("user", 0, user="u", fields={"age": 7, "price": 3}))
        shard.step(take("u", "b", 1))
        items = [{"id": "a"}, {"id": "b"}]
        for n, fields in enumerate(({}, {"age": 9})):
            asked = {"id": f"q{n}", "user": "u", "items": items, "seen": "include"}
            shard.step(told("rank", 2, fields=fields, **asked))
        pending, age = shard.engine.pending, COLUMNS.index("age")
        rows = pending.take(np.arange(pending.head, pending.tail))
        assert rows["dense"][rows["shown"], age].tolist() == [7.0, 7.0, 9.0, 9.0]
        assert rows["keys"][rows["shown"], 0].tolist()[0] == hash_text("b")


class TestCommands:
    def test_members_are_frozen_by_their_names(self) -> None:
        """The recommender learns on, and the other way round."""
        shard = Shard(**STAGE, label={"horizon": "2h"})
        engine, stage = shard.engine, reranker(shard)

        def learned(*commands: dict[str, str]) -> set[str]:
            if commands:
                engine.step(shard._feed.batch(("control", list(commands))))
            before = {name: member.digest() for name, member in engine.ensemble.members.items()}
            first = stage.counts["shown"] // 10
            shard.step(*priced(), *shop(40, first))
            return {n for n, m in engine.ensemble.members.items() if m.digest() != before[n]}

        assert learned() == {"recommender", "linear", "crossed"}
        assert learned({"command": "freeze", "member": "linear"}) == {"recommender", "crossed"}
        other = {"command": "freeze", "member": "recommender"}
        assert learned({"command": "release", "member": "linear"}, other) == {"linear", "crossed"}

    def test_a_member_that_fails_leaves_the_others_to_it(self, monkeypatch: Any) -> None:
        """It is on record, and lists go on."""
        shard = Shard(**STAGE)
        shard.step(*priced(), *shop(10))
        member = shard.engine.ensemble.members["crossed"]
        monkeypatch.setattr(member, "score", lambda x: np.full((len(x), 1), np.nan))
        assert len(shard.items(ask(60))) > 0
        assert shard.engine.ensemble.quarantined == {"crossed"}
        assert reranker(shard).counts["member_errors.crossed.score_not_finite"] == 1

    def test_without_the_recommender_nothing_is_shown(self) -> None:
        """It finds the candidates."""
        shard = Shard(**STAGE)
        shard.step(*priced(), *shop(10))
        shard.engine.ensemble.quarantine("recommender")
        assert shard.answer(ask(60))["left_out"] == {"quarantined": 1}


class TestRecords:
    def test_fields_of_another_kind_are_dead_letters(self) -> None:
        """With their path; what no field is configured for is passed over."""
        shard = Shard(**STAGE)
        out = shard.step(
            item("a", price="dear"),
            item("b", colour=True),
            told("user", 0, user="u", fields=[{"name": "age", "value": False}]),
            item("c", price=[3, 4], colour=7, size="XL"),
            item("d", price=None),
        )
        assert reasons(out.dead_letters) == ["schema"] * 3
        assert "$.fields.price" in out.dead_letters[0].error
        assert reranker(shard).items.columns(np.array([hash_text("c")], np.uint64)) == {
            "price": [3.0],
            "age": pytest.approx([np.nan], nan_ok=True),
            "colour": [hash_text("7")],
        }

    def test_who_is_deleted_is_unknown(self) -> None:
        """What was told of users and items goes at once."""
        shard = Shard(**STAGE)
        shard.step(item("a", price=3), told("user", 0, user="u", fields={"age": 4}))
        shard.step(told("delete", 1, item="a"), told("delete", 1, user="u"))
        assert (len(reranker(shard).items), len(reranker(shard).users)) == (0, 0)

    def test_silence_is_learned_once_the_horizon_is_over(self) -> None:
        """A place that nobody took is a no; one that was taken a yes; both once."""
        shard = Shard(**STAGE, **MATURE)
        items = [{"id": name} for name in "ab"]
        shard.step(told("ranking", 0, id="l", items=items), take("u", "a", 1, ranking="l"))
        assert reranker(shard).counts["learned"] == 0
        shard.step(take("u", "c", 2 * DAY))
        assert reranker(shard).counts["learned"] == 2
        assert reranker(shard).ensemble.prior.output().tolist() == [0.5]


def parts(shard: Shard) -> dict[str, str]:
    """Digests of what does not count steps."""
    engine = shard.engine
    return {name: member.digest() for name, member in engine.ensemble.members.items()} | {
        "reranker": state_digest(reranker(shard).state()),
        "pending": state_digest(engine.pending.digest_state()),
    }


def records() -> list[dict[str, Any]]:
    """Of every kind, with lists by others among them."""
    found = [*priced(), *shop(150), *life(200)]
    return sorted(found, key=lambda record: int(record["timestamp"]))


REST: dict[str, Any] = {"reco": {"seen": "include"}, "label": {"horizon": "6h"}}


def test_where_batches_are_cut_decides_nothing() -> None:
    """The same records give the same state, one by one or all at once."""
    every, found = records(), []
    for size in (1, 37, len(every)):
        shard = Shard(**STAGE, **REST)
        for i in range(0, len(every), size):
            shard.step(*every[i : i + size])
        found.append(parts(shard))
    assert found[0] == found[1] == found[2]


def test_a_restored_engine_goes_on_alike() -> None:
    """Bit for bit, through the state alone."""
    every, one, other = records(), Shard(**STAGE, **REST), Shard(**STAGE, **REST)
    one.step(*every[:300])
    other.engine.restore(one.engine.state(), one.engine.rows())
    batch = one._feed.batch(("events", every[300:]))
    assert one.engine.step(batch).journal == other.engine.step(batch).journal
    assert one.engine.state_digest() == other.engine.state_digest()


LINEAR, CROSSED = STAGE["members"]
FOREST = {"name": "forest", "type": "forest", "trees": 2}
CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "another member": ({"members": [LINEAR, CROSSED, FOREST]}, []),
    "a member less": ({"members": [LINEAR]}, ["member crossed"]),
    "other parameters": (
        {"members": [LINEAR | {"learning_rate": 0.01}, CROSSED]},
        ["member linear"],
    ),
    "another combiner": ({"ensemble": {"combine": "stack"}}, []),
    "other columns": (
        {"features": STAGE["features"][:-1]},
        ["member crossed", "member linear", "feature rate", "waiting parts of lists"],
    ),
    "fewer candidates": ({"reco": {"seen": "include", "candidates": 5}}, []),
    "no second stage": (
        {"members": [], "features": []},
        ["member linear", "member crossed", "waiting parts of lists"],
    ),
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_switch_is_what_a_restart_makes_of_it(name: str) -> None:
    """Switched live, and restored after it: one state, step by step; and it says what is lost."""
    every, one = records(), Shard(**STAGE, **REST)
    one.step(*every[:300])
    changes, lost = CHANGES[name]
    found, other = switched(one, **(STAGE | REST | changes))
    assert [any(word in line for line in found.lost) for word in lost] == [True] * len(lost)
    assert len(found.lost) == len(lost)
    again = Shard(**(STAGE | REST | changes))
    again.engine.restore(other.engine.state(), other.engine.rows())
    for i in range(300, len(every), 40):
        batch = other._feed.batch(("events", every[i : i + 40]))
        assert other.engine.step(batch).journal == again.engine.step(batch).journal
    assert other.engine.state_digest() == again.engine.state_digest()


def test_a_shard_gets_a_second_stage_as_it_runs() -> None:
    """The recommender keeps what it knows; members begin with the next list."""
    one = Shard(**REST)
    one.step(*records()[:300])
    known = one.engine.recommender.counts()
    found, other = switched(one, **STAGE, **REST)
    assert "member linear" in found.fresh
    assert other.engine.recommender.counts() == known
    other.step(*shop(200, 150))
    assert reranker(other).counts["learned"] > 0


def test_members_are_a_model_of_their_own_on_metrics() -> None:
    """Each series once: the recommender's under the shard's name, theirs beside it."""
    shard = Shard(**STAGE, label={"horizon": "2h"})
    shard.step(*market(60))
    told = readings(shard.engine, parameter_counts(shard.engine))
    text = exposition(registry(MillraceCollector(lambda: told, Telemetry()))).decode()
    found = [
        (sample.name, tuple(sorted(sample.labels.items())), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    values = {(name, labels): value for name, labels, value in found}
    assert len(values) == len(found)

    def of(name: str, **labels: str) -> float:
        return values[f"millrace_{name}", tuple(sorted(labels.items()))]

    stage = reranker(shard)
    for member in ("linear", "crossed"):
        own = {"model": "shop-members", "member": member}
        assert of("updates_applied_total", **own) == stage.counts[f"updates.{member}"] > 0
        assert 0 < of("quality_log_loss", **own, window="fading", maturity="arrival") < 1
    first = {"model": "shop", "member": "recommender"}
    assert of("updates_applied_total", **first) == shard.engine.counts["updates.recommender"]
    assert of("members_lead", model="shop") == stage.leads
    assert of("feature_entities", feature="rate") > 0


class TestConfiguration:
    def test_a_record_of_it_says_the_same(self) -> None:
        """Members of `[reco]` that are not there are no fields of a candidate: a replay reads the
        configuration from the journal."""
        made = config(**STAGE)
        assert recorded(journaled(made), "the journal") == made
        assert recorded(journaled(made), "the journal").row_fields == made.row_fields

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"features": []}, "features: expected at least one beside members, got none"),
            ({"members": []}, "members: expected at least one beside features, got none"),
            (
                {"members": [{"name": "popular", "type": "logistic"}]},
                "members[0].name: expected another name, got 'popular', one of [reco]'s",
            ),
            (
                {"event": {"fields": {"price": {"kind": "number", "path": "a.b"}}}},
                "event.fields.price.path: expected none",
            ),
            (
                {"features": [{"name": "ease", "type": "number", "field": "ease"}]},
                "features[0]: expected a number field of event.fields",
            ),
        ],
    )
    def test_what_means_nothing_is_refused(self, changes: dict[str, Any], problem: str) -> None:
        """With its path."""
        with pytest.raises(ConfigError) as refused:
            config(**(STAGE | changes))
        assert any(problem in line for line in refused.value.problems), refused.value.problems
