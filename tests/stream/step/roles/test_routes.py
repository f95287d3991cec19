"""Labels that stand in any partition: each comes to its event once, whoever reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stream.contract.outputs import Outputs
from stream.step.roles.examples import Example, told_meaning, upright
from stream.step.roles.move import met, take_over
from stream.step.roles.routes import Stage, asked, waited
from tests.stream.step.roles.scaled import FEATURES, Part, Scaled, partition, raw, whole
from tests.support.factory import START_MS, event, label, reasons, to_json

HOUR_MS = 3_600_000
HORIZON_H = 24
EVENTS = 12
"""Partitions of events."""


def tree(directory: Path, count: int, **changes: Any) -> dict[str, Any]:
    """A service whose labels stand anywhere."""
    own: dict[str, Any] = {
        "members": [{"name": "linear", "type": "logistic"}],
        "features": FEATURES,
        "label": {"field": "fraud", "horizon": f"{HORIZON_H}h", "learning": "arrival"},
        "shard": {"labels": "any"},
    }
    return raw(directory, count, **own | changes)


class Hour(NamedTuple):
    """What comes within an hour, in order."""

    events: list[dict[str, Any]]
    labels: list[dict[str, Any]]


def stream(hours: int, each: int, seed: int) -> list[Hour]:
    """Events, and labels that come before or after them, twice, for nobody, or as corrections.

    What comes a horizon late comes long after it: no outcome hangs on an hour.
    """
    rng, number = np.random.default_rng(seed), 0
    found = [Hour([], []) for _ in range(hours + 4 * HORIZON_H)]
    for hour in range(HORIZON_H, hours):
        for t in np.sort(rng.integers(0, HOUR_MS, each)).tolist():
            found[hour].events.append(event(number, START_MS + hour * HOUR_MS + t))
            truth = bool(rng.random() < 0.4)
            ways: dict[str, list[tuple[int, dict[str, Any]]]] = {
                "none": [],
                "late": [(int(rng.integers(0, 8)), label(number, truth))],
                "early": [(-int(rng.integers(1, 9)), label(number, truth))],
                "again": [
                    (1, label(number, truth)),
                    (int(rng.integers(1, 9)), label(number, truth)),
                ],
                "early again": [(-3, label(number, truth)), (5, label(number, truth))],
                "other": [(-2, label(number, truth)), (6, label(number, not truth))],
                "nobody's": [(0, label(1_000_000 + number, truth))],
                "twice nobody's": [(0, label(1_000_000 + number, k)) for k in (truth, not truth)],
                "over": [(2 * HORIZON_H, label(number, truth))],
                "corrects": [
                    (1, label(number, truth)),
                    (9, label(number, not truth) | {"corrects": True}),
                ],
                "unreadable": [(0, {"id": f"e{number}", "fraud": "?"})],
            }
            names = [*ways]
            for after, one in ways[names[int(rng.integers(len(names)))]]:
                found[hour + after].labels.append(one)
            number += 1
    for hour in range(hours, len(found)):  # time goes on for all
        found[hour].events.extend(event(number + i, START_MS + hour * HOUR_MS) for i in range(12))
        number += 12
    return found


class Came(NamedTuple):
    """What a service made of a stream."""

    learned: Counter[tuple[int, float]]
    letters: Counter[tuple[str, bytes]]


def letters(out: Outputs) -> Iterator[tuple[str, bytes]]:
    """Reasons and bytes of what was refused."""
    for letter in out.dead_letters:
        yield letter.reason, letter.record.value or b""


def alone(directory: Path, hours: list[Hour]) -> Came:
    """One process takes all; corrections are refused: scorers learned the first label elsewhere."""
    one, learned = Part(whole(tree(directory, 1))), Counter[tuple[int, float]]()
    learning = one.engine.outcomes.learning
    learn = learning.learn

    def told(rows: Any, y: Any, *rest: Any) -> None:
        learned.update(zip(rows["id"].tolist(), y.tolist(), strict=True))
        learn(rows, y, *rest)

    learning.learn = told
    found = Counter[tuple[str, bytes]]()
    for hour in hours:
        found.update(letters(one.step(("events", 0, hour.events))))
        plain = [y for y in hour.labels if "corrects" not in y]
        found.update(letters(one.step(("labels", 0, plain))))
        found.update(("label_conflict", to_json(y)) for y in hour.labels if y not in plain)
    return Came(learned, found)


class Spread:
    """Scorers that read labels by a key which has nothing to do with events."""

    def __init__(self, directory: Path, count: int, partitions: int) -> None:
        self.events, self.labels = EVENTS, partitions
        self.scaled = Scaled(tree(directory, count, topics={"partitions": EVENTS}))
        self.under_way = 0
        self._letters = Counter[tuple[str, bytes]]()
        self._learned = Counter[tuple[int, float]]()

    def hour(self, hour: Hour, cuts: np.random.Generator, rest: bool = True) -> None:
        """Each scorer takes its own in a few steps, some of which hear of others; with ``rest``
        all hear at the end."""
        n = len(self.scaled.scorers)
        parts: list[list[tuple[str, int, list[Any]]]] = [[] for _ in range(n)]
        for topic, values, many, key in (
            ("events", hour.events, self.events, "customer"),
            ("labels", hour.labels, self.labels, "id"),
        ):
            for p in range(many):
                own = [v for v in values if partition(v, many, key) == p]
                at = sorted(cuts.integers(0, len(own) + 1, 2).tolist())
                for some in (own[: at[0]], own[at[0] : at[1]], own[at[1] :]):
                    if some:
                        parts[p % n].append((topic, p, some))
        for i in cuts.permutation(n).tolist():
            for part in parts[i]:
                self._score(i, part, hear=bool(cuts.random() < 0.5))
        if rest:
            for i in range(n):
                self._score(i)

    def _score(self, index: int, *parts: tuple[str, int, list[Any]], hear: bool = True) -> None:
        self._letters.update(letters(self.scaled.score(index, *parts, hear=hear)))

    def move(self, directory: Path, count: int) -> None:
        """So many scorers from here on; what is under way between them goes to the first."""
        before = self.scaled
        self._learned += self._handed()
        found = {i: part.engine for i, part in enumerate(before.scorers)}
        after = self.scaled = Scaled(tree(directory, count, topics={"partitions": self.events}))
        for part in after.scorers:
            take_over(part.engine, found)
            for old in before.scorers:
                part.offsets |= {
                    key: at
                    for key, at in old.offsets.items()
                    if key[0] in ("events", "labels") and part.config.reads(*key)
                }
        early = met(found)
        labels = [(Stage.FOUND, waited(early))] if early else []
        labels += [
            told
            for i, part in enumerate(before.scorers)
            for raw in before.routes[i][before._routed[i] :]
            for told in part.engine.routes.heard(raw).labels
        ]
        self.under_way += len(labels)
        labels.sort(key=lambda told: (Stage.FOUND, Stage.LEFT, Stage.ASKED).index(told[0]))
        config = after.scorers[0].config
        records = asked(told_meaning(config), 1, [part for _, part in labels], 0)
        after.routes[0] = [record.value or b"" for record in records]

    def came(self) -> Came:
        """All in all."""
        return Came(self._learned + self._handed(), self._letters)

    def _handed(self) -> Counter[tuple[int, float]]:
        learned = Counter[tuple[int, float]]()
        for scorer, handed in zip(self.scaled.scorers, self.scaled.examples, strict=True):
            for record in handed:
                one = msgspec.msgpack.decode(zstandard.decompress(record), type=Example)
                if one.learned:
                    ids = upright(one.rows, scorer.engine.pending.dtype)["id"].tolist()
                    learned.update(zip(ids, np.frombuffer(one.y).tolist(), strict=True))
        return learned


@given(st.integers(2, 5), st.integers(1, 7), st.integers(0, 2**31))
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],  # an example takes a second: none is made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_scorers_make_of_labels_what_one_process_does(
    tmp_path: Path, count: int, partitions: int, seed: int
) -> None:
    """Each is learned once, or refused once and for the same reason, wherever batches are cut; and
    nothing is kept of what is over."""
    hours, cuts = stream(2 * HORIZON_H, 8, seed), np.random.default_rng(seed)
    many, wanted = Spread(tmp_path, count, partitions), alone(tmp_path, hours)
    for hour in hours:
        many.hour(hour, cuts)
    got = many.came()
    assert got.letters == wanted.letters
    assert got.learned == wanted.learned
    assert {"label_orphan", "label_duplicate", "label_conflict"} < {why for why, _ in got.letters}
    engines = [scorer.engine for scorer in many.scaled.scorers]
    waiting = sum(len(engine.pending) for engine in engines)
    known = sum(len(engine.routes.holders) for engine in engines)
    assert 0 < known < waiting < 12 * (HORIZON_H + 2)
    assert not any(len(engine.early) for engine in engines)
    for i in range(count):  # in state and journal: the same again
        scorer = many.scaled.scorers[i]
        again, restored, half = Part(scorer.config), Part(scorer.config), len(scorer.batches) // 2
        for batch in scorer.batches[:half]:
            again.engine.step(batch)
        restored.engine.restore(again.engine.state(), again.engine.rows())
        for batch in scorer.batches[half:]:
            restored.engine.step(batch)
        assert restored.engine.digest == scorer.engine.digest
        assert restored.engine.state_digest() == scorer.engine.state_digest()


@given(
    st.integers(2, 4),
    st.dictionaries(st.integers(HORIZON_H, 60), st.integers(2, 5), min_size=1, max_size=3),
    st.integers(0, 2**31),
)
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_so_it_is_when_scorers_become_more_or_fewer(
    tmp_path: Path, count: int, moves: dict[int, int], seed: int
) -> None:
    """Owners change with their number; labels under way come to the new ones."""
    hours, cuts = stream(2 * HORIZON_H, 8, seed), np.random.default_rng(seed)
    many, wanted = Spread(tmp_path, count, 3), alone(tmp_path, hours)
    for i, hour in enumerate(hours):
        to = moves.get(i)
        many.hour(hour, cuts, rest=to is None)
        if to is not None and to != len(many.scaled.scorers):
            many.move(tmp_path, to)
    got = many.came()
    assert got.letters == wanted.letters
    assert got.learned == wanted.learned


def test_labels_wait_for_a_scorer_that_stands_still(tmp_path: Path) -> None:
    """Longer than their horizon by everybody else's clock: none is an orphan before all are past
    it, the events of the one that was stopped find theirs."""
    many = Spread(tmp_path, 2, 3)
    scaled, hours, late = many.scaled, 3 * HORIZON_H, list[Any]()
    for hour in range(hours):
        events = [event(10 * hour + i, START_MS + hour * HOUR_MS) for i in range(10)]
        for i in range(2):
            here = [e for e in events if partition(e, EVENTS) % 2 == i]
            parts = [("events", p, [e]) for e in here for p in [partition(e, EVENTS)]]
            if i == 0 or hour < 2:
                scaled.score(i, *parts)
            else:
                late.append(parts)
        scaled.score(0, ("labels", 0, [label(10 * hour + i, True) for i in range(10)]))
    first, second = (scorer.engine for scorer in scaled.scorers)
    assert first.watermark_ms - first.routes.told_ms[1] > 2 * HORIZON_H * HOUR_MS
    assert len(first.early) > 0
    assert first.counts["dead.label_orphan"] == 0
    for parts in late:
        scaled.score(1, *parts)
        scaled.score(0)
    for _ in range(3):
        scaled.score(1)
        scaled.score(0)
    joined = first.counts["labels.joined"] + second.counts["labels.joined"]
    assert joined + len(first.early) + len(second.early) == 10 * hours
    assert second.counts["labels.joined"] == second.counts["scored"] > 0


def test_a_scorer_without_events_holds_nobody_up(tmp_path: Path) -> None:
    """It says that it is as far as the others: what waits at its neighbour becomes an orphan."""
    scaled = Spread(tmp_path, 2, 1).scaled
    scaled.score(0, ("labels", 0, [label(10_000 + i, True) for i in range(20)]))
    for hour in range(2 * HORIZON_H):
        scaled.score(0, ("events", 0, [event(hour, START_MS + hour * HOUR_MS)]))
        scaled.score(1)
    engines = [scorer.engine for scorer in scaled.scorers]
    assert [engine.counts["scored"] for engine in engines] == [2 * HORIZON_H, 0]
    assert sum(engine.counts["dead.label_orphan"] for engine in engines) == 20
    told = [len(routes) for routes in scaled.routes]
    for _ in range(3):
        for i in range(2):
            scaled.score(i)
    assert [len(routes) for routes in scaled.routes] == told  # without news nobody tells any


def test_labels_of_any_partition_can_be_taken_up_later(tmp_path: Path) -> None:
    """Scorers tell the others what they hold by then; one scorer alone hands on nothing."""
    before = Scaled(tree(tmp_path, 2, shard={"labels": "partition"}))
    after = Scaled(tree(tmp_path, 2))
    for i, (old, new) in enumerate(zip(before.scorers, after.scorers, strict=True)):
        assert old.engine.routes is None
        assert old.config.routes_topic not in (*old.config.inputs, *old.config.outputs)
        before.score(i, ("events", i, [event(n) for n in range(20 * i, 20 * i + 20)]))
        new.engine.restore(old.engine.state(), old.engine.rows())
    for _ in range(3):
        for i in range(2):
            after.score(i)
    after.score(0, ("labels", 0, [label(n, True) for n in range(40)]))
    for _ in range(2):
        after.score(1)
        after.score(0)
    assert [s.engine.counts["labels.joined"] for s in after.scorers] == [20, 20]
    assert Scaled(tree(tmp_path, 1)).scorers[0].engine.routes is None


@pytest.mark.parametrize("what", ["seed", "damaged", "short", "owner", "truth", "sender", "stage"])
def test_crafted_records_reach_nothing(tmp_path: Path, what: str) -> None:
    """What means something else, or fits nothing, becomes a dead letter."""
    scaled = Spread(tmp_path, 2, 1).scaled
    scaled.score(1, ("events", 1, [event(i) for i in range(20)]))
    scaled.score(1, ("labels", 1, [label(i, True) for i in range(40)]))
    plain = msgspec.msgpack.decode(zstandard.decompress(scaled.routes[0][-1]))
    meant, sender, watermark_ms, _, [told], held = plain
    other = np.array([1], np.uint64).tobytes()
    crafted: Any = {
        "seed": ["other", *plain[1:]],
        "damaged": "?",
        "short": [*plain[:4], [[*told[:4], told[4][4:], *told[5:]]], held],
        "owner": [meant, sender, watermark_ms, other, [], held],
        "truth": [*plain[:4], [[*told[:8], np.full(len(told[1]), 7.0).tobytes(), *told[9:]]], held],
        "sender": [meant, 0, *plain[2:]],
        "stage": [*plain[:4], [[9, *told[1:]]], held],
    }[what]
    engine = scaled.scorers[0].engine

    def known() -> Any:
        routes = engine.routes
        return {**routes.told_ms}, len(routes.holders), routes.heard_ms, len(engine.early)

    before, topic = known(), scaled.scorers[0].config.routes_topic
    record = zstandard.compress(msgspec.msgpack.encode(crafted))
    out = scaled.scorers[0].step((topic, 0, [record]))
    assert reasons(out.dead_letters) == ["foreign"]
    assert known() == before
    scaled.score(0)
    assert len(engine.routes.holders) > 0 < len(engine.early)
