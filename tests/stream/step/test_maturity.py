"""When labels are learned: as they come, at the horizon, or in two parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import BOOL, F64, U64, FeatureBatch, FeatureSchema
from models.links import sigmoid
from models.target import BinaryTarget
from models.task import BINARY
from stream.run.assemble import build_engine
from stream.settings.schema import LabelSettings
from stream.step.maturity import KNOWN, MOST, SILENT, Maturity
from stream.step.pending.store import Pending, row_dtype
from stream.step.scoring import ScoringEngine
from tests.support.factory import DAY_MS, HOUR_MS, START_MS, Feed, config, event, label, truth

DTYPE = row_dtype(FeatureSchema(("a",)), members=1, keys=0)


def store(n: int) -> Pending:
    """A store that holds rows 0 to n - 1."""
    pending = Pending(DTYPE, ["m"], None, 1000)
    rows = np.zeros(n, DTYPE)
    rows["id"] = np.arange(1, n + 1, dtype=np.uint64)
    pending.hold(rows)
    return pending


def by_hand(labels: list[tuple[int, int]]) -> list[int]:
    """The rows that ``auto`` learns, label by label, counted anew each time."""
    truth: dict[int, int] = {}
    learned: list[int] = []
    at_once = False
    for row, y in labels:
        truth[row] = y
        told = sum(v == 0 for v in truth.values())
        silent = max(truth) + 1 - len(truth)
        if at_once and silent > SILENT * told:
            at_once = False
        elif not at_once and told >= max(silent, 1):
            at_once = True
            learned += sorted(set(truth) - set(learned) - {row} | {row})
            continue
        if at_once:
            learned.append(row)
    return learned


@settings(max_examples=200)
@given(data=st.data())
def test_auto_decides_label_by_label(data: st.DataObject) -> None:
    """However labels are cut, the rows learned are those that a count by hand learns, in order."""
    rows = data.draw(st.lists(st.integers(0, 29), unique=True, max_size=30))
    rate = data.draw(st.sampled_from([0.0, 0.3, 0.9]))
    drawn = np.random.default_rng(data.draw(st.integers(0, 99))).random(len(rows)) < rate
    labels = [(row, int(one)) for row, one in zip(rows, drawn, strict=True)]
    for size in (1, data.draw(st.integers(2, 30))):
        maturity = Maturity(LabelSettings(), BINARY, store(30))
        learned: list[int] = []
        for start in range(0, len(labels), size):
            some = np.array(labels[start : start + size])
            learned += maturity.labelled(some[:, 0], some[:, 1].astype(np.float64)).tolist()
        assert learned == by_hand(labels)


@pytest.mark.parametrize(
    ("changes", "at_once"),
    [
        ({}, False),
        ({"at_horizon": "drop"}, True),
        ({"inline": True}, True),
        ({"learning": "arrival"}, True),
        ({"learning": "mature", "at_horizon": "drop"}, False),
        ({"learning": "corrected"}, False),
    ],
)
def test_what_is_learned_at_once_from_the_start(changes: dict[str, Any], at_once: bool) -> None:
    """Without silence to wait for there is nothing to wait for, unless it is configured."""
    maturity = Maturity(
        (label := LabelSettings(**changes)),
        BinaryTarget().task(None, label.at_horizon, 0.5),
        store(3),
    )
    found = maturity.labelled(np.array([2]), np.array([1]))
    assert found.tolist() == ([2] if at_once else [])


def engine_of(tmp_path: Path, **changes: Any) -> ScoringEngine:
    return build_engine(config(tmp_path, label={"field": "fraud", "horizon": "1d"} | changes), None)


def learned(engine: ScoringEngine) -> list[tuple[float, float, float]]:
    """Hour of the event, truth and weight of each row that members learn from now on."""
    found: list[tuple[float, float, float]] = []
    learn = engine.learning.learn

    def watch(rows: Any, y: Any, w: Any, *more: Any) -> None:
        hours = ((rows["event_time_ms"] - START_MS) / HOUR_MS).tolist()
        found.extend(zip(hours, y.tolist(), w.tolist(), strict=True))
        learn(rows, y, w, *more)

    engine.learning.learn = watch  # type: ignore[method-assign]
    return found


def test_labels_from_before_their_events_decide_too(tmp_path: Path) -> None:
    """Negatives that are told are told, whichever comes first: all that waited is learned."""
    engine, feed = engine_of(tmp_path), Feed()
    found = learned(engine)
    engine.step(feed.batch(("labels", [label(i) for i in range(30)])))
    engine.step(feed.batch(("events", [event(i) for i in range(30)])))
    assert [y for _, y, _ in found] == [float(truth(i)) for i in range(30)]


def at(hours: int) -> dict[str, Any]:
    return event(hours, at_ms=START_MS + hours * HOUR_MS)


def test_where_silence_tells_negatives_events_are_learned_at_the_horizon(tmp_path: Path) -> None:
    """Positives alone are told: members learn both classes in the order of the events."""
    engine = engine_of(tmp_path)
    found, feed = learned(engine), Feed()
    engine.step(feed.batch(("events", [at(i) for i in range(6)])))
    engine.step(feed.batch(("labels", [label(i, 1) for i in (4, 1)])))
    assert (found, engine.counts["labels.joined"], engine.counts["learned"]) == ([], 2, 0)
    assert engine.ensemble.cold
    engine.step(feed.batch(("events", [at(30)])))
    assert found == [(float(i), float(i in (1, 4)), 1.0) for i in range(6)]


def test_where_negatives_are_told_labels_are_learned_as_they_come(tmp_path: Path) -> None:
    """Both classes are told: nothing waits for the horizon."""
    engine = engine_of(tmp_path)
    found, feed = learned(engine), Feed()
    engine.step(feed.batch(("events", [at(i) for i in range(6)])))
    engine.step(feed.batch(("labels", [label(0, 0), label(1, 1), label(2, 0)])))
    assert found == [(0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (2.0, 0.0, 1.0)]
    engine.step(feed.batch(("events", [at(30)])))
    assert [hour for hour, _, _ in found] == [0, 1, 2, 3, 4, 5]  # silence, once


def test_a_positive_first_event_does_not_warm_the_model_alone(tmp_path: Path) -> None:
    """With no event before it and no negative told, it waits as any other positive does."""
    engine = engine_of(tmp_path)
    feed = Feed()
    engine.step(feed.batch(("events", [at(0), at(1)]), ("labels", [label(0, 1)])))
    assert engine.counts["learned"] == 0
    assert engine.ensemble.cold


def test_of_what_was_scored_cold_the_combiner_learns_what_members_say_now(tmp_path: Path) -> None:
    """A horizon of events was scored by nobody; members are asked before they learn each."""
    engine, feed = engine_of(tmp_path, learning="mature"), Feed()
    engine.step(feed.batch(("events", [at(i) for i in range(9)]), ("labels", [label(2, 1)])))
    engine.step(feed.batch(("events", [at(30)])))
    rows = engine.pending.take(np.arange(6, 9))
    said = engine.ensemble.score(
        FeatureBatch(engine.features.schema, rows["dense"], rows["hashed"])
    )[0]
    assert rows["cold"].all()
    found, weigh = [], engine.ensemble.weigh

    def watch(links: F64, y: F64, w: F64) -> None:
        found.append(links.copy())
        weigh(links, y, w)

    engine.ensemble.weigh = watch  # type: ignore[method-assign]
    engine.step(feed.batch(("events", [at(34)])))
    assert len(found) == 1
    np.testing.assert_array_equal(found[0], said)


def test_windows_of_risk_take_a_label_when_it_comes(tmp_path: Path) -> None:
    """A positive that is not learned yet is known to the windows as if it were."""
    ahead = {}
    for way in ("mature", "arrival"):
        engine, feed = engine_of(tmp_path, horizon="30d", learning=way), Feed()
        engine.step(feed.batch(("events", [at(0)]), ("labels", [label(0, 1)])))
        later = event(5, at_ms=START_MS + 2 * DAY_MS)
        engine.step(feed.batch(("events", [later])))
        ahead[way] = engine.features.digest()
    assert ahead["mature"] == ahead["arrival"]


def test_what_makes_room_before_its_horizon_teaches_nothing(tmp_path: Path) -> None:
    """In a full store only who was told would be learned: such events count as evicted."""
    label_ = {"field": "fraud", "horizon": "1d", "learning": "mature"}
    limits = {"pending": 4, "batch": 4}
    engine = build_engine(config(tmp_path, label=label_, limits=limits), None)
    feed = Feed()
    engine.step(feed.batch(("events", [event(i) for i in range(4)]), ("labels", [label(0, 1)])))
    engine.step(feed.batch(("events", [event(i) for i in range(4, 6)])))
    assert engine.counts["learned"] == 0
    assert engine.counts["pending.evicted"] == 2


@pytest.mark.parametrize("way", ["auto", "corrected"])
def test_silence_is_learned_in_two_parts(tmp_path: Path, way: str) -> None:
    """At the look, as things were then, and at its end; each event is judged once."""

    def when(hour: int, number: int) -> dict[str, Any]:
        return event(number, at_ms=START_MS + hour * HOUR_MS)

    engine = engine_of(tmp_path, learning=way)
    found, feed = learned(engine), Feed()
    engine.step(
        feed.batch(
            ("events", [when(0, i) for i in range(40)]),
            ("labels", [label(i, 1) for i in range(20)]),
        )
    )
    late = [label(i, 1) for i in (*range(20, 40), 51)]
    engine.step(feed.batch(("events", [when(10, 50), when(11, 51)]), ("labels", late)))
    engine.step(feed.batch(("events", [when(20, 52)])))
    assert found == []  # nobody knows yet how many positives are still to come
    engine.step(feed.batch(("labels", [label(50, 1)]), ("events", [when(30, 53)])))
    # Of 40 positives 20 were told by their look, and there is a late one that never was.
    share = 20 / 41
    p = 40.5 / 41  # all was cold: of what was learned before the look, nearly all is positive
    part = pytest.approx(share * (1 - p) / (1 - p * share))
    expected = [(0.0, 1.0, 1.0)] * 40
    expected += [(10.0, 0.0, part), (11.0, 1.0, 1.0), (20.0, 0.0, part)]
    assert (found, engine.counts["learned"]) == (expected, 40)
    silent = 1 - float(engine.ensemble.prior.output()[0]) * share
    engine.step(feed.batch(("events", [when(37, 54)])))
    expected += [(10.0, 1.0, pytest.approx(1 / silent))]
    assert (found[: len(expected)], engine.counts["learned"]) == (expected, 42)
    silent = 1 - float(engine.ensemble.prior.output()[0]) * share
    engine.step(feed.batch(("events", [when(45, 55)])))
    last = (20.0, 0.0, pytest.approx((1 - share) / silent))
    assert last in found[len(expected) :]


def looking(share: float, scores: F64) -> tuple[Maturity, Pending]:
    """A maturity that takes ``share`` for the share told by the look, over rows of time 0."""
    pending = Pending(DTYPE, ["m"], None, len(scores))
    rows = np.zeros(len(scores), DTYPE)
    rows["id"] = np.arange(1, len(scores) + 1, dtype=np.uint64)
    rows["score"][:, 0] = scores
    pending.hold(rows)
    maturity = Maturity(LabelSettings(horizon="10s"), BINARY, pending)
    maturity.restore(maturity.state() | {"share": share, "counted": KNOWN + 1})
    return maturity, pending


def gradients(maturity: Maturity, pending: Pending, y: F64, early: BOOL) -> list[F64]:
    """What each part gives each row: the gradient by the logit, 0 where it learns nothing."""
    numbers = np.arange(len(y))
    pending.settle(numbers[early], y[early])
    look = maturity.look(4001, 0.5)
    pending.settle(numbers[~early], y[~early])
    rest = maturity.rest(numbers, pending.take(numbers), y, pending.early(numbers), 0.5)
    found = []
    for rows, said, w, _ in (look, rest):
        gradient = np.zeros(len(y))
        gradient[rows["id"].astype(int) - 1] = w * (sigmoid(rows["score"][:, 0]) - said)
        found.append(gradient)
    return found


@given(share=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_the_parts_of_an_event_sum_to_the_gradient_of_its_truth(share: float, seed: int) -> None:
    """Whatever the share, right or wrong: what was learned too early is made good in full."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 1, 50)
    y = (rng.random(50) < 0.4).astype(np.float64)
    early = (y == 1) & (rng.random(50) < rng.random())
    look, rest = gradients(*looking(share, scores), y, early)
    np.testing.assert_allclose(look + rest, sigmoid(scores) - y, atol=1e-12)


def test_each_part_is_right_in_expectation() -> None:
    """Where score and share are right, neither part pulls: events may be few in the second."""
    rng, n, share = np.random.default_rng(1), 200_000, 0.6
    scores = rng.normal(-1, 1, n)
    y = (rng.random(n) < sigmoid(scores)).astype(np.float64)
    early = (y == 1) & (rng.random(n) < share)
    for gradient in gradients(*looking(share, scores), y, early):
        assert abs(gradient.mean()) < 4 * gradient.std() / n**0.5


def test_what_auto_learned_whole_is_not_learned_in_parts_later() -> None:
    """Events wait for the share, negatives are told for a while, and no more: none comes twice."""
    pending = Pending(DTYPE, ["m"], None, 100)
    maturity, y = Maturity(LabelSettings(horizon="10s"), BINARY, pending), np.zeros(10)

    def hold(first: int, n: int) -> None:
        rows = np.zeros(n, DTYPE)
        rows["id"] = np.arange(first, first + n) + 1
        pending.hold(rows)

    hold(0, 10)
    assert len(maturity.look(4001, 0.5).rows) == 0
    assert len(maturity.labelled(np.arange(10), y)) == 10
    hold(10, 50)
    assert maturity.labelled(np.array([59]), np.ones(1)).tolist() == []
    hold(60, 1)
    maturity.restore(maturity.state() | {"share": 0.5, "counted": KNOWN + 1})
    assert maturity.look(4001, 0.5).rows["id"].tolist() == [61]


def test_no_part_weighs_more_than_most() -> None:
    """A positive that comes late although it was sure, and told in time as good as always."""
    maturity, pending = looking(0.999, np.array([12.0]))
    maturity.look(4001, 0.5)
    y = np.ones(1)
    rest = maturity.rest(np.zeros(1, np.int64), pending.take(np.zeros(1, np.int64)), y, y == 0, 0.5)
    assert rest.w.tolist() == [MOST]


def test_what_was_scored_before_looks_began_is_learned_whole(tmp_path: Path) -> None:
    """From `mature` to `auto`: events held then have no look, and do not count for the share."""
    pending = store(3)
    auto = Maturity(LabelSettings(horizon="10s"), BINARY, pending)
    auto.restore(Maturity(LabelSettings(learning="mature"), BINARY, pending).state())
    assert len(auto.look(20_000, 0.5).rows) == 0
    numbers, y = np.arange(3), np.array([0, 1, 1])
    rest = auto.rest(numbers, pending.take(numbers), y, y == 2, 0.5)
    assert rest.w.tolist() == [1.0, 1.0, 1.0]
    auto.matured(numbers, y, y == 2)
    assert auto.state()["counted"] == 1


def ids(pending: Pending) -> U64:
    rows: U64 = pending.take(np.arange(pending.head, pending.tail))["id"]
    return rows


@given(data=st.data())
def test_the_store_counts_what_it_holds(data: st.DataObject) -> None:
    """Told, newest, waiting and unlearned are what a count over the rows gives, also restored."""
    pending = store(20)
    truth: dict[int, int] = {}
    for _ in range(data.draw(st.integers(0, 12))):
        waiting = [i for i in range(pending.head, 20) if i not in truth]
        if waiting and data.draw(st.booleans()):
            row, y = data.draw(st.sampled_from(waiting)), data.draw(st.integers(0, 1))
            pending.settle(np.array([row]), np.array([y]))
            truth[row] = y
        elif len(pending):
            pending.expire(1)
    held = {row: y for row, y in truth.items() if row >= pending.head}
    assert pending.told == sum(y == 0 for y in held.values())
    assert pending.newest == max(truth, default=-1)
    assert pending.waiting == len(pending) - len(held)
    assert pending.unlearned().tolist() == sorted(held)
    pending.learned(np.array(sorted(held)[:1], dtype=np.int64))
    assert pending.unlearned().tolist() == sorted(held)[1:]
    numbers = np.arange(pending.head, 20)
    expected = [held.get(i, np.nan) for i in numbers]
    assert np.array_equal(pending.truth(numbers), expected, equal_nan=True)
    assert len(ids(pending)) == len(pending)
