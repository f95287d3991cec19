"""Scorers that rank become more or fewer: what waits moves with its partition, what is known is
the same everywhere."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from models.base import state_digest
from stream.run.assemble import build_engine, pending_row
from stream.step.ranking.engine import LIST_ROW
from stream.step.ranking.known import digest_of, scored_by
from stream.step.ranking.move import all_back, take_over, tell
from stream.step.roles.move import Unmovable, heirs, owned
from tests.stream.step.ranking.scaled import Shop, Traffic, home, raw
from tests.stream.step.ranking.test_roles import MEMBERS, SMALL, said
from tests.stream.step.roles.scaled import Part, contents, of_role, whole
from tests.support.factory import START_MS

PARTITIONS = 12
DEED = {"event": "interaction", "timestamp": START_MS, "user": "u3", "item": "i1", "type": "view"}


def tree(count: int, **changes: Any) -> dict[str, Any]:
    """The file of a shop whose users are spread over twelve partitions."""
    changes = {"reco": SMALL, "topics": {"partitions": PARTITIONS}} | changes
    return raw(count, **changes | {"shard": changes.get("shard", {}) | {"count": count}})


class Moving(Shop):
    """A shop whose number of scorers changes."""

    def __init__(self, count: int, **changes: Any) -> None:
        super().__init__(tree(count, **changes))
        self._changes = changes

    def followed(self) -> dict[int, Any]:
        """Each stopped scorer, once it has followed all news there are."""
        for i, part in enumerate(self.scorers):
            for j, told in enumerate(self.risk):
                for record in told[self._told[i][j] :] if j != i else ():
                    part.engine.sharing.read(j, record)
            for record in self.models[self._taken[i] :]:
                part.engine.hear(record)
            self._taken[i] = len(self.models)
        found = {i: part.engine for i, part in enumerate(self.scorers)}
        for i, records in tell(found).items():
            self.examples[i] += contents(records)
        return found

    def move(self, count: int) -> None:
        """So many scorers from here on."""
        before, found = self.scorers, self.followed()
        all_back(found)
        digests = [engine.state_digest() for engine in found.values()]
        self.scorers = [
            Part(of_role(tree(count, **self._changes), "scorer", i)) for i in range(count)
        ]
        for i, part in enumerate(self.scorers):
            take_over(part.engine, found)
            part.offsets = dict(before[i].offsets) if i < len(before) else {}
            for old in before:
                part.offsets |= {k: at for k, at in old.offsets.items() if part.config.reads(*k)}
        assert digests == [engine.state_digest() for engine in found.values()]
        more = count - len(self.examples)
        self.examples += [[] for _ in range(more)]
        self._learned += [0] * more
        self._taken = [len(self.models)] * count
        self.risk, self.routes = ([[] for _ in range(count)] for _ in range(2))
        self._told, self._routed = [[0] * count for _ in range(count)], [0] * count

    def take(self, p: int, *records: dict[str, Any]) -> Any:
        """A step of the scorer that reads this partition."""
        return self.score(p % len(self.scorers), ("events", p, [*records]))

    def total(self, name: str) -> int:
        """A count over all scorers."""
        return sum(part.engine.counts[name] for part in self.scorers)


def deed_of(r: random.Random) -> dict[str, Any]:
    """What the user of :data:`DEED` does."""
    return DEED | {"item": f"i{r.randrange(9)}"}


def letters(outputs: Any) -> list[tuple[str, str]]:
    """Dead letters without their places."""
    return [(letter.reason, letter.error) for letter in outputs.dead_letters]


def drawn(traffic: Traffic, known: list[dict[str, Any]], deed: bool) -> dict[str, Any]:
    """The next record: now and then one that came before, or a list that was answered.

    ``deed``: what one user does, which scorers learn in the order of one process.
    """
    r, draw = traffic.random, traffic.random.random()
    if deed:
        made = traffic.record()
        return made if (made["event"], made.get("user")) == ("interaction", "u3") else deed_of(r)
    if draw < 0.1 and known:
        return r.choice(known)
    if draw < 0.2 and traffic.answers and (shown := r.choice(traffic.answers))["items"]:
        at = START_MS + len(known) * 20_000
        kept = {key: shown[key] for key in ("id", "user")}
        items = [{"id": place["id"]} for place in shown["items"]]
        return kept | {"event": "ranking", "timestamp": at, "items": items}
    known.append(traffic.record())
    return known[-1]


@given(
    st.integers(1, 5),
    st.dictionaries(st.integers(20, 250), st.integers(1, 6), min_size=1, max_size=3),
    st.integers(0, 2**31),
)
@settings(max_examples=4, deadline=None, phases=[Phase.generate])
def test_after_moves_all_is_as_in_one_process(count: int, moves: dict[int, int], seed: int) -> None:
    """Answers, what is known, hits of lists that were answered before, and what came twice: bit for
    bit. Deeds are under way when the scorers stop, and they are not equally far."""
    one, shop, traffic = Part(whole(tree(1))), Moving(count), Traffic(seed)
    known: list[dict[str, Any]] = []
    twice = 0
    for n in range(300):
        if n in moves:
            shop.learn()  # it runs on after they stopped
            shop.move(moves[n])
        stopping = [m for m in moves if n < m <= n + 6]
        record = drawn(traffic, known, bool(stopping))
        p = home(record, PARTITIONS)
        made, there = one.step(("events", p, [record])), shop.take(p, record)
        assert said(made) == said(there)
        assert letters(made) == letters(there)
        twice += len(letters(made))
        traffic.answers += said(made)
        if not stopping:
            shop.settle()
        elif n + 3 in moves:
            shop.learn()  # one scorer hears of it before it stops, the others do not
            shop.score(0)
    shop.settle()
    assert {digest_of(one.engine)} == {*shop.known()}
    assert twice > 0
    assert one.engine.counts["hits"] > 0
    for name in ("hits", "scored", "shown", "lists.known", "feedback.interaction", "fallbacks"):
        assert one.engine.counts[name] == shop.total(name), name
    rows = [part.engine.pending for part in (one, *shop.scorers)]
    ids = [sorted(row.column("id").tolist()) for row in rows]
    assert ids[0] == sorted(itertools.chain(*ids[1:]))
    assert rows[0].waiting == sum(row.waiting for row in rows[1:])
    assert all(len(part.engine.ahead) == 0 for part in shop.scorers)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 3), (3, 2)])
def test_members_score_on_after_a_move(before: int, after: int) -> None:
    """By windows of users that came along and risk that all know: the rows of places are one
    process's bit for bit, and all that becomes of them is learned once."""
    given = MEMBERS | {"label": {"horizon": "2h", "learning": "arrival"}}
    one, shop = Part(whole(tree(1, **given))), Moving(before, **given)
    traffic = Traffic(17)

    def play(record: dict[str, Any], settled: bool = True) -> None:
        p = home(record, PARTITIONS)
        traffic.answers += said(one.step(("events", p, [record])))
        shop.take(p, record)
        if settled:
            shop.settle()

    for n in range(360):
        if n == 240:
            shop.learn()
            shop.move(after)
        # What was taken just before comes back to scorers that have stopped.
        play(traffic.record(), settled=n != 239)
    shop.settle()
    stages = [part.engine.reranker for part in (one, *shop.scorers, shop.learner)]
    for name in ("shown", "labels.joined"):
        assert stages[0].counts[name] == sum(stage.counts[name] for stage in stages[1:-1])
    pendings = [part.engine.pending for part in (one, *shop.scorers)]
    held = [p.take(np.arange(p.head, p.tail)) for p in pendings]
    rows = np.concatenate(held[1:])
    here, there = (np.argsort(part["id"], kind="stable") for part in (held[0], rows))
    assert len(held[0]) == len(rows) > 200
    for name in ("id", "dense", "keys", "shown"):
        assert held[0][name][here].tolist() == rows[name][there].tolist(), name
    assert stages[-1].counts["updates.linear"] == stages[0].counts["updates.linear"] > 9
    assert len({state_digest(scored_by(part.engine)) for part in shop.scorers}) == 1


@given(
    st.integers(2, 4),
    st.dictionaries(st.integers(60, 160), st.integers(2, 6), min_size=2, max_size=4),
    st.integers(0, 2**31),
)
@settings(max_examples=3, deadline=None, phases=[Phase.generate])
def test_members_over_candidates_go_on_after_moves(
    count: int, moves: dict[int, int], seed: int
) -> None:
    """Answers and what waits, with windows of users and risk of brands: bit for bit; what the
    scorers followed as they moved is learned, too, once."""
    label = {"horizon": "1d", "learning": "arrival"}
    changes = MEMBERS | {"label": label, "shard": {"count": count, "every": "1ms"}}
    one = Part(whole(tree(1, **changes)))
    shop, traffic = Moving(count, **changes), Traffic(seed)
    for n in range(240):
        if n in moves:
            shop.learn()
            shop.move(moves[n])
            shop.settle()
            shop.settle()
        record = traffic.record()
        if n + 1 in moves and (lists := [a for a in traffic.answers if a["items"]]):
            took = {"user": lists[-1]["user"], "ranking": lists[-1]["id"], "type": "buy"}
            record = traffic._told("interaction", item=lists[-1]["items"][-1]["id"], **took)
        p = home(record, PARTITIONS)
        made, there = one.step(("events", p, [record])), shop.take(p, record)
        assert said(made) == said(there)
        traffic.answers += said(made)
        if n + 1 not in moves:
            shop.settle()
            shop.settle()
    stage, stages = one.engine.reranker, [part.engine.reranker for part in shop.scorers]
    far = shop.learner.engine.reranker
    assert stage.counts["updates.linear"] == far.counts["updates.linear"] > 0
    assert stage.counts["shown"] == sum(own.counts["shown"] for own in stages)
    held = [part.engine.pending for part in (one, *shop.scorers)]
    alone, *spread = [texts(own.take(own.head + np.arange(len(own)))) for own in held]
    assert alone == sorted(itertools.chain(*spread))


def texts(rows: Any) -> list[str]:
    """Each row but for its partition, as text; sorted."""
    names = [name for name in rows.dtype.names if name != "partition"]
    return sorted(str([row[name].tobytes().hex() for name in names]) for row in rows)


def test_one_that_was_none_for_a_while_hands_over_new_deeds() -> None:
    """What the learner told of it then answers none of them; its state is whole."""
    shop, traffic = Moving(4), Traffic(3)

    def play(n: int) -> None:
        for record in traffic.records(n):
            traffic.answers += said(shop.take(home(record, PARTITIONS), record))
            shop.settle()

    play(80)
    shop.move(2)
    play(20)
    shop.move(4)
    last = shop.scorers[3]
    shop.take(0, DEED)
    shop.learn()
    made = last.step(("events", 3, [DEED]))
    shop.examples[3] += contents(made.handed[last.config.examples_topic])
    shop.score(3)  # news tell up to which it learned of scorer 3, when that was one before
    assert len(last.engine.ahead) == 1
    shop.settle()
    assert len(last.engine.ahead) == 0
    restored = build_engine(last.config, None)
    restored.restore(last.engine.state(), last.engine.rows())
    assert restored.state_digest() == last.engine.state_digest()


def test_what_is_on_its_way_is_refused() -> None:
    """Deeds that the learner has not answered, and versions that are gone."""
    shop = Moving(2)
    shop.take(0, DEED)
    with pytest.raises(Unmovable, match="of 1 deeds nothing has: let the learner run"):
        shop.move(4)
    shop.learn()
    shop.move(4)
    for _ in range(3):
        shop.take(0, DEED)
        shop.learn()
    shop._taken[1] += 2
    with pytest.raises(Unmovable, match="expected all versions after 1, some are gone"):
        shop.move(2)


def test_counts_have_one_heir_and_a_list_told_to_two_scorers_has_one_hit() -> None:
    """Measures of lists go where the counts go."""
    shop = Moving(4)
    shown = {"event": "ranking", "id": "L", "timestamp": START_MS, "items": [{"id": "a"}]}
    for p in (0, 1):
        shop.take(p, shown | {"user": f"u{p}"})
    shop.settle()
    told = [state_digest(part.engine.state()["shown"]) for part in shop.scorers]
    shop.move(3)
    heir = heirs(4, 3, PARTITIONS)
    assert heir == {0: 0, 1: 0, 2: 0, 3: 0}
    now = [state_digest(part.engine.state()["shown"]) for part in shop.scorers]
    assert now == [told[0], told[3], told[3]]
    assert [part.engine.counts["shown"] for part in shop.scorers] == [2, 0, 0]
    shop.move(1)
    took = {"event": "interaction", "timestamp": START_MS + 1, "item": "a", "type": "buy"}
    shop.take(0, *(took | {"ranking": "L", "user": f"u{p}"} for p in (0, 1)))
    shop.settle()
    assert shop.total("hits") == 1
    assert owned(0, 1, PARTITIONS) == range(PARTITIONS)


def test_rows_tell_their_partition_in_a_service_alone() -> None:
    """A single process keeps the layout of its state."""
    assert pending_row(whole(tree(2))) == LIST_ROW
    assert "partition" in (pending_row(of_role(tree(2), "scorer")).names or ())
