"""What a recommender promises, whoever its members are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.base import StateError
from models.kernels.reco.stack import TOP
from models.reco.recommender import Interactions, Request
from models.reco.settings import Seen
from tests.models.reco.common import cut, key, recommender, stream


def test_many_rows_at_once_equal_many_single_calls() -> None:
    """State and judgement do not depend on how the rows were cut into batches."""
    rows = stream(700)
    whole, pieces = recommender(), recommender()
    judged = whole.learn(rows, judge=True)
    assert judged is not None
    found = []
    for first in range(0, 700, 70):
        part = pieces.learn(cut(rows, first, first + 70), judge=True)
        assert part is not None
        found.append(part.ranks)
    assert whole.digest() == pieces.digest()
    np.testing.assert_array_equal(np.concatenate(found), judged.ranks)


def test_judging_changes_nothing() -> None:
    """Rows that are ranked before they are learned teach what they teach without."""
    rows = stream(500)
    judged, plain = recommender(), recommender()
    judged.learn(rows, judge=True)
    plain.learn(rows)
    assert judged.digest() == plain.digest()


def test_a_restored_recommender_goes_on_bit_for_bit() -> None:
    """With room for more, after users and items were let go."""
    rows = stream(900, users=90, items=80)
    one, other = (recommender(users=40, items=60, history=8) for _ in range(2))
    one.learn(cut(rows, 0, 600))
    other.restore(one.state())
    assert other.digest() == one.digest()
    one.learn(cut(rows, 600, 900))
    other.learn(cut(rows, 600, 900))
    assert other.digest() == one.digest()
    assert one.counts()["users_evicted"] > 0
    assert one.counts()["items_evicted"] > 0


def test_the_state_of_other_members_is_refused() -> None:
    """The error names what differs."""
    state = recommender(members={"popular": {}}).state()
    with pytest.raises(StateError, match="members"):
        recommender().restore(state)


def test_tables_stay_within_their_bounds() -> None:
    """The longest idle goes first, and is counted."""
    r = recommender(users=10, items=20)
    r.learn(stream(800, users=50, items=60))
    counts = r.counts()
    assert (counts["users"], counts["items"]) == (10, 20)
    assert counts["items_evicted"] > 0


def test_what_a_user_took_is_not_shown_to_him_again() -> None:
    """Unless the request says so."""
    rows = stream(400)
    r = recommender()
    r.learn(rows)
    user = int(rows.user[0])
    took = set(rows.item[rows.user == rows.user[0]].tolist())
    shown = r.rank(Request(int(rows.time_ms[-1]), user, count=100))
    assert not took & set(shown.items.tolist())
    assert len(shown.items) == shown.known == r.counts()["items"] - len(took)
    assert took <= set(r.rank(Request(0, user, count=100, seen="include")).items.tolist())


def test_what_comes_back_counts_for_less_the_later_it_was_taken() -> None:
    """By a share of how likely it is; of an item that was taken twice the last time counts."""
    rows = stream(400)
    r = recommender(seen_fade=5.0)
    r.learn(rows)
    user = int(rows.user[0])
    at = Request(int(rows.time_ms[-1]), user, count=100, seen="include")
    plain, faded = r.rank(at), r.rank(replace(at, seen="decay"))
    took = rows.item[rows.user == rows.user[0]].tolist()[::-1]
    logits = dict(zip(plain.items.tolist(), plain.logits.tolist(), strict=True))
    for item, score in zip(faded.items.tolist(), faded.scores.tolist(), strict=True):
        share = 1 - np.exp(-(took.index(item) + 1) / 5) if item in took else 1.0
        assert score == pytest.approx(logits[item] + np.log(share), abs=1e-5)
    assert set(plain.items.tolist()) == set(faded.items.tolist())
    np.testing.assert_array_equal(faded.scores, faded.logits)


def test_items_that_are_given_count_as_the_last_of_a_history() -> None:
    """Of a stranger they are all there is of it; unknown ones say nothing."""
    rows = stream(600, users=12)
    r = recommender(members={"popular": {}, "cooccurrence": {}, "ease": {"places": 64}})
    r.learn(rows)
    user = int(rows.user[0])
    own, more = rows.item[rows.user == rows.user[0]], key(np.array([3, 17, 4]))
    at = Request(0, count=100, seen="include", given=np.concatenate([own, more]))
    unknown = np.array([12345], np.uint64)
    mine = replace(at, user=user, given=np.concatenate([more, unknown]))
    stranger, known = r.rank(at), r.rank(mine)
    assert not stranger.fallback
    for found in (stranger, known):
        order = np.argsort(found.items)
        found.members[:] = found.members[order]
    np.testing.assert_array_equal(stranger.members, known.members)
    assert r.rank(replace(at, given=unknown)).fallback


def test_vectors_of_what_a_stranger_looks_at_say_what_is_near() -> None:
    """Of one item: what scores best by its own vector."""
    rows = stream(900)
    r = recommender(members={"eals": {}}, seen="include")
    r.learn(rows)
    state = r.state()
    vectors, slots = state["eals"]["items"], state["items"]["keys"]
    item = int(rows.item[0])
    at = int(np.flatnonzero(slots == rows.item[0])[0])
    found = r.rank(Request(0, count=100, given=np.array([item], np.uint64)))
    expected = dict(zip(slots.tolist(), (vectors @ vectors[at]).tolist(), strict=True))
    for key_, said in zip(found.items.tolist(), found.members[:, 0].tolist(), strict=True):
        assert said == pytest.approx(expected[key_], rel=1e-4, abs=1e-5)


def test_looking_at_items_changes_no_state() -> None:
    """Nor what is learned after, where there was no room for a user more."""
    rows = stream(700)._replace(user=key(np.arange(700) % 64))
    asked, plain = recommender(), recommender()
    for r in (asked, plain):
        r.learn(rows)
        assert r.counts()["users"] == 64
    for user in (0, int(rows.user[0])):
        asked.rank(Request(0, user, given=rows.item[:3]))
    assert asked.digest() == plain.digest()
    for r in (asked, plain):
        r.learn(stream(900, users=90))
    assert asked.digest() == plain.digest()
    assert asked.counts()["users"] > 64


def test_looking_at_items_leaves_nothing_where_histories_will_stand() -> None:
    """A restored one, that was not asked, comes to the same state as the histories grow."""
    rows = stream(300)
    asked, restored = recommender(), recommender()
    asked.learn(rows._replace(user=np.zeros(300, np.uint64)))
    asked.rank(Request(0, given=key(np.arange(12))))
    restored.restore(asked.state())
    more = cut(rows, 0, 3)._replace(user=key(np.full(3, 200)))
    for r in (asked, restored):
        r.learn(more)
    assert asked.digest() == restored.digest()


def test_only_candidates_are_ranked_and_no_excluded_item() -> None:
    """Of the given items each known one comes once; what is excluded never."""
    rows = stream(400)
    r = recommender(seen="include")
    r.learn(rows)
    some = key(np.array([0, 1, 2, 3, 2, 39]))
    unknown = np.array([12345], np.uint64)
    items = np.concatenate([some, unknown])
    got = r.rank(Request(0, int(rows.user[0]), items=items, exclude=some[:1], count=10))
    assert sorted(got.items.tolist()) == sorted(some[[1, 2, 3, 5]].tolist())
    assert np.all(np.diff(got.scores) <= 0)
    assert not len(r.rank(Request(0, items=unknown[:0])).items)


def test_ranking_changes_no_state() -> None:
    """Not even for a user or an item that is not known."""
    rows = stream(300)
    r = recommender()
    r.learn(rows)
    before = r.digest()
    r.rank(Request(0, user=99, items=np.array([5, 6], np.uint64)))
    r.rank(Request(0, user=int(rows.user[3])))
    assert r.digest() == before


def test_nobody_is_shown_what_is_popular() -> None:
    """An unknown user gets the order of the popular items, marked as a fallback."""
    rows = stream(400)
    r = recommender(members={"popular": {"slow": 1e6, "fast": 1e6}})
    r.learn(rows)
    got = r.rank(Request(0, user=1, count=5))
    weight = {i: rows.weight[rows.item == i].sum() for i in np.unique(rows.item)}
    best = sorted(weight, key=lambda i: -weight[i])[:5]
    assert got.fallback
    assert [weight[i] for i in got.items] == [weight[i] for i in best]


@pytest.mark.parametrize("seen", ["exclude", "include", "decay"])
def test_judged_ranks_are_places_among_all_that_could_be_shown(seen: Seen) -> None:
    """Each rank is 1 + how many others score at least as high; a seen or unknown item has 0."""
    rows = stream(300)
    r = recommender(seen=seen)
    for i in range(300):
        one = cut(rows, i, i + 1)
        got = r.rank(Request(int(one.time_ms[0]), int(one.user[0]), count=100))
        judged = r.learn(one, judge=True)
        assert judged is not None
        at = np.flatnonzero(got.items == one.item[0])
        if not len(at):
            assert not judged.ranks.any()
            assert judged.again[0] == (one.item[0] in rows.item[:i])
            continue
        assert not judged.again[0]
        scores = np.column_stack([got.members, got.scores])
        expected = (scores >= scores[at[0]]).sum(0)
        np.testing.assert_array_equal(judged.ranks[0], expected)


def test_a_forgotten_item_is_never_shown() -> None:
    """And comes back as a new one, of which nothing is known."""
    rows = stream(400)
    r = recommender(seen="include")
    r.learn(rows)
    item, user = rows.item[0], int(rows.user[0])
    r.forget_item(int(item))
    assert item not in r.rank(Request(0, user, count=100)).items
    r.learn(cut(rows, 0, 1)._replace(user=key(np.array([200]))))
    got = r.rank(Request(0, user, items=np.array([item], np.uint64)))
    assert got.members[0, 1] == 0.0


def test_a_forgotten_user_is_unknown() -> None:
    """His history goes, and he is no neighbour of others any more."""
    rows = stream(400)
    r = recommender(members={"sessions": {}}, seen="include")
    r.learn(rows)
    for user in np.unique(rows.user)[1:].tolist():
        r.forget_user(user)
    last = int(np.unique(rows.user)[0])
    assert r.rank(Request(0, last)).members.max() == 0.0
    for user in np.unique(rows.user).tolist():
        r.forget_user(user)
    assert r.rank(Request(0, last)).fallback
    assert r.counts()["users"] == 0


def test_the_best_by_each_member_are_ranked() -> None:
    """The first of 5,300 items are those of all; ranks still count every other item."""
    n = 5300
    rng = np.random.default_rng(2)
    item = np.concatenate([np.arange(n), (rng.random(2000) ** 3 * n).astype(np.int64)])
    rows = Interactions(
        time_ms=np.arange(len(item)),
        user=key(rng.integers(0, 50, len(item))),
        session=np.zeros(len(item), np.uint64),
        item=key(item),
        weight=np.ones(len(item)),
        value=np.full(len(item), np.nan),
    )
    r = recommender(members={"popular": {}}, seen="include")
    judged = r.learn(rows, judge=True)
    assert judged is not None
    assert r.counts()["items"] == n
    best = r.rank(Request(0, count=50))
    every = r.rank(Request(0, count=50, items=key(np.arange(n))))
    assert best.known < every.known == n
    np.testing.assert_allclose(best.members, every.members)
    assert judged.ranks[:, 0].max() > best.known


def test_what_no_member_foresees_is_behind_all_and_teaches_the_stack_nothing() -> None:
    """Weights would learn to tell apart what no list shows; a list that needs it has it still."""
    n = 300
    item = np.concatenate([np.arange(k, n) for k in range(n)])[::-1].copy()
    rows = Interactions(
        time_ms=np.arange(len(item) + 1),
        user=key(np.arange(len(item) + 1)),
        session=np.zeros(len(item) + 1, np.uint64),
        item=key(np.append(item, 0)),
        weight=np.ones(len(item) + 1),
        value=np.full(len(item) + 1, np.nan),
    )
    r = recommender(members={"popular": {}})
    r.learn(cut(rows, 0, len(item)))
    before = r.weights()
    assert (r.rank(Request(0)).known, r.rank(Request(0, count=250)).known) == (TOP, n)
    judged = r.learn(cut(rows, len(item), len(item) + 1), judge=True)
    assert judged is not None
    assert judged.ranks.tolist() == [[n, n]]
    assert r.weights() == before


def test_a_state_holds_of_neighbours_what_was_entered() -> None:
    """No empty entries, and of what came round again the newest; it goes on as the other does."""
    rows = stream(900)
    settings = {"members": {"sessions": {"entries": 32}}, "seen": "include"}
    one, other = recommender(**settings), recommender(**settings)
    one.learn(cut(rows, 0, 600))
    state = one.state()
    taken = state["sessions"]["taken"]
    assert taken.min() < 32 < taken.max()
    assert state["sessions"]["users"].shape == (np.minimum(taken, 32).sum(),)
    other.restore(state)
    for each in (one, other):
        each.learn(cut(rows, 600, 900))
    assert one.digest() == other.digest()
