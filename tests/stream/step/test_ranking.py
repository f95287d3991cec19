"""The step that ranks: what is learned, what is answered, and what no answer may hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.base import state_digest
from stream.contract.outputs import Outputs
from stream.run.assemble import build_engine, build_ranking
from stream.settings.load import ConfigError, parse
from stream.settings.ranking import RankingSettings
from stream.settings.schema import Config
from stream.settings.upgrade import journaled
from stream.step.ranking.engine import RankingEngine
from stream.step.reconfigure import Changes, compare, reconfigure
from tests.support.factory import HOUR_MS, START_MS, Feed, decoded, reasons


def config(**changes: Any) -> Config:
    """A shard that ranks."""
    raw: dict[str, Any] = {
        "name": "shop",
        "log": {"type": "embedded"},
        "target": {"type": "ranking"},
        "label": {"horizon": "1d"},
    }
    return parse(raw | changes, "test")


def told(event: str, at: int = 0, **fields: Any) -> dict[str, Any]:
    """A record, ``at`` minutes after the start."""
    return {"event": event, "timestamp": START_MS + at * 60_000} | fields


def take(user: str, item: str, at: int = 0, **fields: Any) -> dict[str, Any]:
    """A user takes an item."""
    return told("interaction", at, user=user, item=item, **fields)


def ask(at: int = 0, name: str = "q", **fields: Any) -> dict[str, Any]:
    """A request for five items."""
    return told("recommend", at, id=name, count=5) | fields


class Shard:
    """An engine and what feeds it."""

    def __init__(self, **changes: Any) -> None:
        self.engine = build_ranking(config(**changes), None)
        self._feed = Feed()

    def step(self, *values: Any) -> Outputs:
        """One step of records."""
        return self.engine.step(self._feed.batch(("events", list(values))))

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request is answered."""
        [found] = decoded(list(self.step(request).scores))
        return found

    def items(self, request: dict[str, Any]) -> list[str]:
        """The items of the answer, best first."""
        return [place["id"] for place in self.answer(request)["items"]]


@pytest.fixture
def shard() -> Shard:
    """Three users have taken some of five items; `a` is the most popular."""
    made = Shard()
    made.step(
        *(take(f"u{i}", "a", i) for i in range(3)),
        *(take("u0", item, 10 + i) for i, item in enumerate("bc")),
        *(take("u1", item, 20 + i) for i, item in enumerate("bd")),
        take("u2", "e", 30),
    )
    return made


class TestAnswers:
    def test_an_unknown_user_gets_what_is_popular(self, shard: Shard) -> None:
        """Never an error; the answer says that it is a fallback."""
        found = shard.answer(ask(40, user="nobody"))
        assert found["items"][0]["id"] == "a"
        assert found["fallback"] is True

    def test_what_a_user_took_is_not_shown_again(self, shard: Shard) -> None:
        """The seen policy of the configuration holds unless the request says another."""
        assert set(shard.items(ask(40, user="u0"))) == {"d", "e"}
        assert set(shard.items(ask(41, "r", user="u0", seen="include"))) == set("abcde")

    def test_candidates_are_put_in_order(self, shard: Shard) -> None:
        """Those that nobody has taken come last, as they were given."""
        items = [{"id": i} for i in ("new", "e", "a", "newer")]
        found = shard.answer(told("rank", 40, id="q", user="nobody", items=items))
        assert [p["id"] for p in found["items"]] == ["a", "e", "new", "newer"]
        assert [p["score"] is None for p in found["items"]] == [False, False, True, True]

    def test_an_answer_says_what_it_left_out(self, shard: Shard) -> None:
        """A short list has its reasons."""
        shard.step(told("item", 35, item="d", fields={"hidden": True}))
        items = [{"id": i} for i in "abde"]
        asked = told("rank", 40, id="q", user="u2", items=items, exclude=["b"])
        found = shard.answer(asked)
        assert found["items"] == []
        assert found["left_out"] == {"kept_out": 1, "excluded": 1, "seen": 2}

    def test_an_item_is_left_out_for_one_reason(self, shard: Shard) -> None:
        """Hidden and excluded and seen it counts once: the reasons sum to what is missing."""
        shard.step(told("item", 35, item="a", fields={"hidden": True}))
        items = [{"id": i} for i in "abe"]
        found = shard.answer(told("rank", 40, id="q", user="u2", items=items, exclude=["a"]))
        assert [p["id"] for p in found["items"]] == ["b"]
        assert found["left_out"] == {"kept_out": 1, "seen": 1}

    def test_several_categories_are_any_of(self, shard: Shard) -> None:
        """Fields come as an object, or as Metarank's list of names and values."""
        shard.step(
            told("item", 35, item="b", fields={"categories": ["x"]}),
            told("item", 35, item="d", fields=[{"name": "categories", "value": ["y", "z"]}]),
            told("item", 35, item="e", fields={"categories": "w"}),
        )
        assert set(shard.items(ask(40, categories=["x", "y"]))) == {"b", "d"}

    def test_items_that_are_looked_at_say_what_is_asked_for(self, shard: Shard) -> None:
        """`b` was taken after `a`: who looks at `a` is shown it first, and never `a` itself."""
        looks = {"items": [{"id": "a"}], "seen": "include"}
        found = shard.answer(ask(40, **looks))
        assert found["items"][0]["id"] == "b"
        assert {p["id"] for p in found["items"]} == set("bcde")
        assert found["fallback"] is False
        known = shard.items(ask(41, "r", user="u2", **looks))
        assert set(known) == set("bcde")
        assert shard.answer(ask(42, "s", items=[{"id": "new"}]))["fallback"] is True

    def test_what_was_taken_long_ago_comes_back_first(self) -> None:
        """With `decay`: by the request, or by the configuration."""
        records = [take("u", item, i) for i, item in enumerate("abcde")]
        records += [take(f"v{i}", item, 10 + i) for i, item in enumerate("abcde" * 4)]
        plain, faded = (
            Shard(reco={"members": {"popular": {"slow": 1e9, "fast": 1e9}}} | more)
            for more in ({}, {"seen": "decay"})
        )
        for made in (plain, faded):
            made.step(*records)
        assert plain.items(ask(40, user="u")) == []
        found = plain.items(ask(41, "r", user="u", seen="decay"))
        assert found == faded.items(ask(40, user="u")) == list("abcde")

    def test_a_page_begins_at_its_offset(self, shard: Shard) -> None:
        """Pages of one list do not overlap."""
        whole = shard.items(ask(40, user="x"))
        assert shard.items(ask(40, "r", user="x", count=2, offset=2)) == whole[2:4]

    def test_members_are_told_on_demand(self, shard: Shard) -> None:
        """What each says of each item."""
        [*_, last] = shard.answer(ask(40, explain=True))["items"]
        assert set(last["members"]) == set(shard.engine.recommender.names)
        assert "members" not in shard.answer(ask(41, "r"))["items"][0]


class TestExploration:
    def test_a_request_draws_the_same_list_each_time(self) -> None:
        """Its id is the seed: another shard of the same records draws it too, another id not."""
        lists = []
        for name in ("q", "q", "r"):
            made = Shard(reco={"explore": {"temperature": 5.0}})
            made.step(*(take(f"u{i}", f"i{i % 20}", i) for i in range(60)))
            lists.append(made.answer(ask(99, name, count=20))["items"])
        assert lists[0] == lists[1] != lists[2]
        assert {p["id"] for p in lists[0]} == {p["id"] for p in lists[2]}

    def test_an_answer_says_how_likely_each_place_was(self) -> None:
        """Of five items any is as likely at the first place, and the last must stand last."""
        made = Shard(reco={"explore": {"epsilon": 1.0}})
        made.step(*(take(f"u{i}", item, i) for i, item in enumerate("abcde")))
        found = made.answer(ask(40))["items"]
        assert [p["propensity"] for p in found] == [0.2, 0.25, 1 / 3, 0.5, 1.0]
        again = made.answer(ask(41, "r", offset=3, count=2))["items"]
        assert [p["propensity"] for p in again] == [0.5, 1.0]

    def test_candidates_that_nobody_took_get_their_chance(self) -> None:
        """By an epsilon as any other, by a temperature as the least likely of those known."""
        for explore in ({"epsilon": 1.0}, {"temperature": 100.0}):
            made = Shard(reco={"explore": explore})
            made.step(*(take(f"u{i}", item, i) for i, item in enumerate("ab")))
            items = [{"id": i} for i in ("a", "b", "new")]
            asked = [told("rank", 40, id=f"q{i}", items=items) for i in range(40)]
            first = {a["items"][0]["id"] for a in decoded(list(made.step(*asked).scores))}
            assert first == {"a", "b", "new"}

    def test_items_that_were_told_of_get_their_chance(self) -> None:
        """Of the whole catalogue too, unless they are hidden; where nothing is drawn they wait."""
        told_of = [told("item", 5, item=i, fields={"hidden": i == "gone"}) for i in ("new", "gone")]
        for explore, shown in ((None, set("ab")), ({"epsilon": 0.5}, {"a", "b", "new"})):
            made = Shard(reco={"explore": explore})
            made.step(*(take(f"u{i}", item, i) for i, item in enumerate("ab")), *told_of)
            assert set(made.items(ask(40))) == shown

    def test_where_nothing_is_drawn_all_is_as_likely(self, shard: Shard) -> None:
        """Without ``explore`` each place could only be filled as it is."""
        assert {p["propensity"] for p in shard.answer(ask(40))["items"]} == {1.0}


class TestValue:
    def test_drawn_lists_say_what_the_best_are_worth(self) -> None:
        """As a plain reading of the answers beside those of a shard that draws nothing."""
        rng = random.Random(2)
        drawing, plain = Shard(reco={"explore": {"temperature": 3.0}}), Shard()
        weights, rewards = [], []
        for made in (drawing, plain):
            made.step(*(take(f"u{i}", item, i) for i, item in enumerate("aaabbc")))
        for i in range(60):
            asked = ask(10 + i, f"q{i}", count=2)
            first, best = (made.answer(asked)["items"][0] for made in (drawing, plain))
            weights.append((first["id"] == best["id"]) / first["propensity"])
            rewards.append(float(rng.random() < 0.4))
            if rewards[-1]:
                hit = take(f"w{i}", first["id"], 10 + i, ranking=f"q{i}")
                drawing.step(hit)
                plain.step(hit)
        assert drawing.engine.value.lists == 0
        drawing.step(told("item", 3 * 24 * 60, item="a"))
        found = drawing.engine.value.report()
        w, r = np.array(weights), np.array(rewards)
        assert 0 < (w > 0).mean() < 1
        assert found["shown"]["value"] == pytest.approx(r.mean())
        assert found["ips"]["value"] == pytest.approx((w * r).mean())
        assert found["snips"]["value"] == pytest.approx((w * r).sum() / w.sum())
        assert found["lists"]["effective"] == pytest.approx(w.sum() ** 2 / (w**2).sum())

    def test_lists_of_others_count_where_they_say_their_propensity(self, shard: Shard) -> None:
        """Ours would begin with the popular one; what was certain says nothing of the others."""
        for i, (first, propensity) in enumerate(
            [("a", 0.5), ("e", 0.5), ("a", 1.0), ("a", None), ("new", 0.25)]
        ):
            items = [{"id": item} for item in dict.fromkeys([first, "a", "e", "new"])]
            items[0] |= {} if propensity is None else {"propensity": propensity}
            shard.step(told("ranking", 40 + i, id=f"l{i}", items=items))
            shard.step(take("x", first, 40 + i, ranking=f"l{i}"))
        shard.step(told("item", 3 * 24 * 60, item="a"))
        found = shard.engine.value.report()
        assert found["lists"]["all"] == 3
        assert found["shown"]["value"] == 1.0
        assert found["ips"]["value"] == pytest.approx(2 / 3)

    def test_an_answer_can_be_valued_by_another_ranking(self) -> None:
        """It says what it was drawn from: what was excluded then could not have been shown."""
        made = Shard(reco={"explore": {"epsilon": 0.5}})
        made.step(*(take(f"u{i}", item, i) for i, item in enumerate("aaabbc")))
        answer = made.answer(ask(10, exclude=["a"], count=1))
        assert answer["among"] == {"exclude": ["a"]}
        [first] = answer["items"]
        other = Shard()
        other.step(*(take(f"u{i}", item, i) for i, item in enumerate("aaabbc")))
        other.step(answer, take("u9", first["id"], 11, ranking="q"))
        other.step(told("item", 3 * 24 * 60, item="a"))
        expected = (first["id"] == "b") / first["propensity"]
        assert other.engine.value.report()["ips"]["value"] == pytest.approx(expected)


class TestFeedback:
    def test_only_what_counts_as_positive_is_learned(self) -> None:
        """By type, or by type and value; the first condition that holds gives the weight."""
        shard = Shard(reco={"positive": {"buy": 2.0, "rating >= 4": 1.0}})
        shard.step(
            take("u", "a", type="buy"),
            take("u", "b", type="rating", value=4),
            take("u", "c", type="rating", value=3.9),
            take("u", "d", type="view"),
        )
        assert set(shard.items(ask(1, user="x"))) == {"a", "b"}
        assert shard.engine.counts["learned"] == 2

    def test_what_is_not_learned_can_count_as_seen(self) -> None:
        """As `also_seen` says: of this user, until he or the item is forgotten."""
        reco = {"positive": {"rating >= 4": 1.0}, "also_seen": ["rating < 3", "dislike"]}
        shard = Shard(reco=reco)
        shard.step(*(take(f"v{i}", item, type="rating", value=5) for i, item in enumerate("abcd")))
        shard.step(
            take("u", "a", 1, type="rating", value=2),
            take("u", "b", 1, type="rating", value=3),
            take("u", "c", 1, type="dislike"),
        )
        assert shard.engine.counts["learned"] == 4
        assert set(shard.items(ask(2, user="u"))) == {"b", "d"}
        candidates = [{"id": item} for item in "abcd"]
        found = shard.answer(told("rank", 2, id="k", user="u", items=candidates))
        assert found["left_out"] == {"seen": 2}
        assert set(shard.items(ask(2, "r", user="u", seen="include"))) == set("abcd")
        assert set(shard.items(ask(2, "s", user="v"))) == set("abcd")
        shard.step(told("delete", 3, user="u"))
        assert set(shard.items(ask(4, "t", user="u"))) == set("abcd")

    def test_a_purchase_of_what_was_looked_at_is_no_miss(self) -> None:
        """It counts for more, and no list would have shown it: it is not judged, and counted."""
        shard = Shard(reco={"positive": {"view": 0.2, "buy": 1.0}})
        shard.step(*(take("v", item, type="view") for item in "abc"))
        shard.step(take("u", "a", 1, type="view"), take("u", "b", 2, type="view"))
        before = shard.engine.quality.snapshot().outcomes()["judged"]
        shard.step(take("u", "a", 3, type="buy"), take("u", "a", 4, type="view"))
        out = shard.step(take("u", "b", 6, type="buy"), take("u", "c", 7, type="buy"))
        assert [j.repeat.tolist() for j in out.judged] == [[True, False]]
        assert shard.engine.counts["repeats"] == 2
        # What counts for the least is a miss as ever.
        assert shard.engine.quality.snapshot().outcomes()["judged"] == before + 2

    def test_an_item_of_an_answer_that_is_taken_is_a_hit(self, shard: Shard) -> None:
        """Once; what is not taken by the horizon was shown in vain."""
        shown = shard.items(ask(40, user="u0"))
        shard.step(*(take("u0", shown[0], 41 + i, ranking="q", id=f"x{i}") for i in range(2)))
        assert shard.engine.counts["hits"] == 1
        shard.step(take("u9", "a", 3 * 24 * 60))
        assert shard.engine.counts["lists.matured"] == len(shown)
        assert shard.engine.counts["lists.matured.untaken"] == len(shown) - 1

    def test_a_list_that_somebody_reports_is_one_of_ours_or_his(self, shard: Shard) -> None:
        """Metarank's producers report the lists that they asked for: that is no second one."""
        shard.step(ask(40, user="u0"))
        items = [{"id": "d"}, {"id": "zz"}]
        out = shard.step(
            told("ranking", 41, id="q", user="u0", items=items),
            told("ranking", 41, id="theirs", user="u0", items=items),
            take("u0", "zz", 42, ranking="theirs"),
        )
        assert out.dead_letters == []
        counts = shard.engine.counts
        assert (counts["lists.known"], counts["feedback.ranking"], counts["hits"]) == (1, 1, 1)

    def test_repeated_ids_and_what_is_no_record_are_dead_letters(self, shard: Shard) -> None:
        """Each with its reason; nothing of them is learned."""
        before = shard.engine.counts["learned"]
        out = shard.step(
            take("u0", "d", 40, id="x"),
            take("u0", "d", 41, id="x"),
            ask(42),
            ask(43),
            {"event": "purchase", "timestamp": START_MS},
            told("delete", 44),
            told("delete", 44, user="u", item="i"),
            told("interaction", 1 << 40, item="a"),
            take("u0", "d", 500 * 24 * 60),
            b"{",
        )
        assert reasons(out.dead_letters) == [
            *("schema", "schema", "schema", "schema", "malformed"),
            *("duplicate_event", "duplicate_event", "event_time_ahead"),
        ]
        assert shard.engine.counts["learned"] == before + 1

    def test_a_frozen_recommender_answers_and_does_not_learn(self, shard: Shard) -> None:
        """As an operator says; released, it learns again."""
        engine, feed = shard.engine, shard._feed
        engine.step(feed.batch(("control", [{"command": "freeze", "member": "recommender"}])))
        before = engine.recommender.digest()
        shard.step(take("u0", "e", 40))
        assert engine.recommender.digest() == before
        assert shard.items(ask(41, user="u0"))
        engine.step(feed.batch(("control", [{"command": "release", "member": "recommender"}])))
        shard.step(take("u0", "e", 42))
        assert engine.recommender.digest() != before

    def test_thresholds_and_other_members_mean_nothing_here(self, shard: Shard) -> None:
        """Such commands are dead letters."""
        commands = [
            {"command": "set_threshold", "threshold": 0.5},
            {"command": "freeze", "member": "forest"},
        ]
        out = shard.engine.step(shard._feed.batch(("control", commands)))
        assert reasons(out.dead_letters) == ["command", "command"]


class TestForgetting:
    def test_a_deleted_user_is_a_stranger(self, shard: Shard) -> None:
        """His history is gone: nothing is kept from him, and he gets the fallback."""
        shard.step(told("delete", 40, user="u0"))
        found = shard.answer(ask(41, user="u0"))
        assert found["fallback"] is True
        assert {p["id"] for p in found["items"]} == set("abcde")

    def test_a_deleted_item_is_not_shown(self, shard: Shard) -> None:
        """Until somebody takes it again."""
        shard.step(told("delete", 40, item="a"))
        assert "a" not in shard.items(ask(41))
        shard.step(take("u9", "a", 42))
        assert "a" in shard.items(ask(43, "r"))

    def test_an_item_that_nothing_is_heard_of_expires(self) -> None:
        """After ``item_ttl``; an item event, or somebody who takes it, brings it back."""
        shard = Shard(reco={"item_ttl": "1h"})
        shard.step(take("u", "a", 0), take("u", "b", 50))
        assert shard.items(ask(70, user="x")) == ["b"]
        shard.step(told("item", 80, item="a"))
        assert set(shard.items(ask(90, "r", user="x"))) == {"a", "b"}


_DRAWN = [None, {"epsilon": 0.5}, {"temperature": 2.0}]
_ITEMS = [f"i{n}" for n in range(8)]
_ITEM = st.sampled_from(_ITEMS)
_USER = st.sampled_from(["u0", "u1", "u2", None])
_EVENT = st.one_of(
    st.tuples(st.just("take"), _USER, _ITEM),
    st.tuples(st.just("dislike"), _USER, _ITEM),
    st.tuples(st.just("hide"), st.booleans(), _ITEM),
    st.tuples(st.just("file"), st.sampled_from([[], ["x"], ["y", "x"]]), _ITEM),
    st.tuples(st.just("delete"), st.none(), _ITEM),
    st.tuples(
        st.just("ask"),
        _USER,
        st.lists(_ITEM, max_size=3),
        st.sampled_from([[], ["x"], ["y"]]),
        st.sampled_from(["rank", "recommend", "similar"]),
        st.sampled_from([None, "exclude", "include", "decay"]),
    ),
)


EVENTS = st.lists(_EVENT, min_size=1, max_size=40)
"""What may happen to a shard, and what it is asked."""


NEVER: dict[str, Any] = {
    "positive": {"interaction": 1},
    "also_seen": ["dislike"],
    "item_ttl": "6h",
}
"""What :func:`never_shown` expects of ``[reco]``."""


def never_shown(shard: Shard, events: list[tuple[Any, ...]]) -> None:
    """Play the events, and look at every answer."""
    heard: dict[str, int] = {}
    hidden: set[str] = set()
    filed: dict[str, list[str]] = {}
    seen: dict[str, set[str]] = {}
    for n, event in enumerate(events):
        at, ms = n * 30, n * 30 * 60_000
        if event[0] == "ask":
            _, user, exclude, categories, how, policy = event
            extra: dict[str, Any] = {"exclude": exclude, "categories": categories, "seen": policy}
            extra |= {} if user is None else {"user": user}
            asked = ask(at, f"q{n}", count=8, **extra)
            if how == "similar":
                asked["items"] = [{"id": i} for i in exclude]
            if how == "rank":
                items = [{"id": i} for i in _ITEMS]
                asked = told("rank", at, id=f"q{n}", items=items, **extra)
            fine = {
                i
                for i in _ITEMS
                if i not in hidden
                and i not in exclude
                and (policy in ("include", "decay") or i not in seen.get(user, ()))
                and (i not in heard or heard[i] >= ms - 6 * HOUR_MS)
                and (not categories or set(categories) & set(filed.get(i, ())))
            }
            shown = shard.items(asked)
            assert set(shown) <= fine
            assert len(set(shown)) == len(shown)
            continue
        kind, what, item = event
        if kind in ("take", "dislike"):
            given = {} if what is None else {"user": what}
            given |= {} if kind == "take" else {"type": kind}
            shard.step(told("interaction", at, item=item, **given))
            if what:
                seen.setdefault(what, set()).add(item)
        elif kind == "delete":
            shard.step(told("delete", at, item=item))
            hidden.discard(item)
            filed.pop(item, None)
            heard.pop(item, None)
            for items in seen.values():
                items.discard(item)
            continue
        else:
            fields = {"hidden": what} if kind == "hide" else {"categories": what}
            shard.step(told("item", at, item=item, fields=fields))
            if kind == "hide":
                (hidden.add if what else hidden.discard)(item)
            else:
                filed[item] = what
        heard[item] = ms


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS, st.sampled_from(_DRAWN))
def test_what_must_not_be_shown_never_is(
    events: list[tuple[Any, ...]], explore: dict[str, float] | None
) -> None:
    """Hidden, excluded, seen, deleted, expired, of another category: on every path."""
    never_shown(Shard(reco=NEVER | {"explore": explore}), events)


def test_only_a_ranking_that_grows_worse_raises_an_alarm() -> None:
    """Ranks vary much more than errors of yes or no: by themselves they are no drift."""
    rng, shard = random.Random(5), Shard(reco={"seen": "include"})

    def taken(n: int, first: int, scattered: float) -> list[str]:
        """Interactions; ``scattered``: the share that follows no taste."""
        records = []
        for i in range(first, first + n):
            user = rng.randrange(20)
            item = 5 * (user % 10) + min(int(rng.expovariate(1.0)), 4)
            if rng.random() < scattered:
                item = rng.randrange(50)
            records.append(take(f"u{user}", f"i{item}", i))
        alarms = shard.step(*records).alarms
        return [a.detector for a in alarms if a.signal == "ensemble"]

    assert [a for i in range(16) for a in taken(500, 500 * i, 0.2)] == []
    assert "betting" in [a for i in range(16, 20) for a in taken(500, 500 * i, 0.8)]


def life(n: int) -> list[dict[str, Any]]:
    """Seeded records of every kind."""
    rng, found = random.Random(3), []
    for i in range(n):
        user, item = f"u{rng.randrange(9)}", f"i{int(30 * rng.random() ** 2)}"
        r = rng.random()
        if r < 0.1:
            looks = {"items": [{"id": f"i{i % k}"} for k in range(1, 9)]} if i % 3 else {}
            found.append(ask(i * 7, f"q{i}", user=user, seen=[None, "decay"][i % 2], **looks))
        elif r < 0.13:
            found.append(told("item", i * 7, item=item, fields={"hidden": r < 0.115}))
        elif r < 0.15:
            found.append(told("delete", i * 7, **({"user": user} if r < 0.14 else {"item": item})))
        else:
            listed = {"ranking": f"q{rng.randrange(i + 1)}"} if r < 0.5 else {}
            listed |= {"value": 1 + i % 5} if r > 0.7 else {}
            found.append(take(user, item, i * 7, id=f"x{i}", **listed))
    return found


def parts(engine: RankingEngine) -> dict[str, str]:
    """Digests of what does not count steps."""
    state = engine.state()
    names = ("catalogue", "quality", "rated", "drift", "watermark_ms")
    return {name: state_digest(state[name]) for name in names if name in state} | {
        **engine.ensemble.roots(),
        "pending": state_digest(engine.pending.digest_state()),
    }


@pytest.mark.parametrize("reco", [{}, {"explore": {"temperature": 1.0}}, {"ratings": {}}])
def test_where_batches_are_cut_decides_nothing(reco: dict[str, Any]) -> None:
    """The same records give the same state and the same answers, one by one or all at once."""
    records, found = life(400), []
    for size in (1, 37, 400):
        shard, lists = Shard(reco=reco), []
        for i in range(0, len(records), size):
            for answer in decoded(list(shard.step(*records[i : i + size]).scores)):
                lists.append((answer["id"], answer["items"]))
        found.append((parts(shard.engine), lists))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("reco", [{}, {"explore": {"temperature": 1.0}}])
def test_a_restored_engine_goes_on_alike(reco: dict[str, Any]) -> None:
    """Bit for bit, through the state alone."""
    records = life(300)
    one = Shard(reco=reco)
    one.step(*records[:150])
    other = Shard(reco=reco)
    other.engine.restore(one.engine.state(), one.engine.rows())
    other._feed = one._feed
    batch = one._feed.batch(("events", records[150:]))
    assert one.engine.step(batch).journal == other.engine.step(batch).journal
    assert one.engine.state_digest() == other.engine.state_digest()


def switched(one: Shard, **changes: Any) -> tuple[Changes, Shard]:
    """What becomes of a shard under another configuration, and that shard."""
    other = Shard(**changes)
    found = compare(one.engine, other.engine)
    out = reconfigure(one.engine, other.engine, journaled(other.engine.config))
    assert out.journal.seq == one.engine.seq + 1
    other._feed = one._feed
    other._feed.seq += 1
    return found, other


def test_what_a_recommender_may_show_can_change(shard: Shard) -> None:
    """Bounds, policies and what counts change; what was learned stays."""
    before = shard.items(ask(40, user="u9"))
    reco = {"seen": "include", "items": 500, "item_ttl": "9d", "positive": {"buy": 1}}
    found, other = switched(shard, reco=reco)
    assert found.lost == []
    assert other.items(ask(41, "r", user="u9")) == before
    assert set(other.items(ask(42, "s", user="u0"))) == set("abcde")


def test_other_members_begin_anew(shard: Shard) -> None:
    """What was learned is lost, and told so; items, lists and their quality go on."""
    found, other = switched(shard, reco={"members": {"popular": {}}})
    assert found.lost == ["recommender as it was"]
    assert len(other.engine.catalogue) == 5
    assert other.engine.recommender.counts()["items"] == 0
    other.step(take("u", "a", 50))
    assert other.items(ask(51)) == ["a"]


SETTINGS: dict[str, Any] = {
    "members": {"popular": {}, "cooccurrence": {"length": 5}},
    "ratings": {"members": {"item_knn": {}}},
    "users": 4,
    "items": 5,
    "history": 16,
    "seen": "include",
    "seen_fade": 3.0,
    "also_seen": ["view"],
    "candidates": 3,
    "session_gap": "5m",
    "positive": {"interaction": 2.0},
    "item_ttl": "1h",
    "explore": {"epsilon": 0.2},
    "table": {"item": "product"},
    "categories": "kinds",
    "hidden": "gone",
}


def test_no_setting_of_a_recommender_is_forgotten() -> None:
    """The table has a change of every one there is."""
    assert sorted(SETTINGS) == sorted(RankingSettings.model_fields)


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_a_switch_is_what_a_restart_makes_of_it(key: str) -> None:
    """Switched live, and restored after it: one state, step by step."""
    records, one = life(200), Shard()
    one.step(*records[:100])
    found, other = switched(one, reco={key: SETTINGS[key]})
    assert bool(found.lost) == (key in ("members", "history", "session_gap"))
    again = Shard(reco={key: SETTINGS[key]})
    again.engine.restore(other.engine.state(), other.engine.rows())
    for i in range(100, 200, 25):
        batch = other._feed.batch(("events", records[i : i + 25]))
        assert other.engine.step(batch).journal == again.engine.step(batch).journal
    assert other.engine.state_digest() == again.engine.state_digest()


def test_room_for_lists_is_bounded() -> None:
    """The oldest leave first, counted; an id that left is new again."""
    shard = Shard(limits={"pending": 20, "batch": 20})
    shard.step(take("u", "a", id="x"), *(take("u", f"i{i}", 1, id=f"y{i}") for i in range(30)))
    assert len(shard.engine.pending) == 20
    out = shard.step(take("u", "a", 2, id="x"), take("u", "a", 2, id="y29"))
    assert reasons(out.dead_letters) == ["duplicate_event"]


class TestConfiguration:
    def test_it_needs_no_features_and_no_members(self) -> None:
        """The records have one form; `[reco]` has defaults."""
        c = config()
        assert isinstance(build_engine(c, None), RankingEngine)
        assert (c.event.time, c.event.time_format) == ("timestamp", "ms")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            (
                {"members": [{"name": "m", "type": "logistic"}]},
                "features: expected at least one beside members, got none",
            ),
            (
                {"reco": {"positive": {"rating > high": 1}}},
                'reco.positive."rating > high": expected a type of interaction',
            ),
            (
                {"scores": {"format": "avro"}},
                "scores.format: expected 'json' for records of a ranking",
            ),
            ({"label": {"at_horizon": "drop"}}, "label.at_horizon: expected none, got 'drop'"),
        ],
    )
    def test_what_means_nothing_is_refused(self, changes: dict[str, Any], problem: str) -> None:
        """With its path."""
        with pytest.raises(ConfigError) as refused:
            config(**changes)
        assert any(problem in line for line in refused.value.problems), refused.value.problems

    def test_others_have_no_table_for_it(self) -> None:
        """`[reco]` beside a target that is no ranking is a mistake."""
        raw = {"name": "x", "log": {"type": "embedded"}, "reco": {}}
        event = {"fields": {"amount": "number"}}
        features = [{"name": "amount", "type": "number", "field": "amount"}]
        members = [{"name": "m", "type": "logistic"}]
        whole = raw | {"event": event, "features": features, "members": members}
        with pytest.raises(ConfigError, match=r"reco: expected target.type = 'ranking'"):
            parse(whole, "test")
