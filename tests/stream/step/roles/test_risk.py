"""Risk of an entity by which events are not spread: every scorer holds the whole table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.stream.step.roles.scaled import FEATURES, RISK, Part, Scaled, partition, raw, whole
from tests.support.factory import START_MS, event, label, reasons

HOUR_MS, HOUR_S = 3_600_000, 3600
MEMBERS = [{"name": "linear", "type": "logistic"}]


def tree(tmp_path: Path, count: int) -> dict[str, Any]:
    """A service whose members see the risk of terminals; events are spread by customer."""
    return raw(tmp_path, count, features=[*FEATURES, RISK], members=MEMBERS)


def rows_of(engine: Any) -> dict[int, Any]:
    """Features of all that waits, by the event's hash."""
    pending = engine.pending
    rows = pending.take(np.arange(pending.head, pending.tail))
    return {int(row["id"]): row["dense"].tobytes() for row in rows}


class Played:
    """The same stream through one process and through scorers, an hour a round.

    Each round every scorer takes its events, and the labels that are known by then to the one
    process as well; it hears of the others' in the round after, unless it is stopped.
    """

    def __init__(self, directory: Path, count: int) -> None:
        self.one = Part(whole(tree(directory, 1)))
        self.many = Scaled(tree(directory, count))
        self.partitions = self.many.learner.config.topics.partitions
        self._late: list[list[list[tuple[str, int, list[Any]]]]] = [[] for _ in range(count)]

    def round(
        self, events: list[dict[str, Any]], labels: list[dict[str, Any]], stopped: set[int]
    ) -> None:
        """Events in order of time; labels of events that were in rounds before."""
        self.one.step(("events", 0, events), ("labels", 0, labels))
        n = len(self.many.scorers)
        for i in range(n):
            parts: list[tuple[str, int, list[Any]]] = []
            for p in range(i, self.partitions, n):
                for topic, values in (("events", events), ("labels", labels)):
                    if own := [v for v in values if self._where(v) == p]:
                        parts.append((topic, p, own))
            self._late[i].append(parts)
            if i not in stopped:
                for waiting in self._late[i]:
                    self.many.score(i, *waiting)
                self._late[i] = []
        self.many.learn()

    def _where(self, value: dict[str, Any]) -> int:
        return partition(event(int(value["id"][1:])), self.partitions)

    def differing(self) -> int:
        """Rows whose features are not those of the one process, bit for bit."""
        wanted, got = rows_of(self.one.engine), {}
        for scorer in self.many.scorers:
            got |= rows_of(scorer.engine)
        assert wanted.keys() == got.keys()
        return sum(wanted[i] != got[i] for i in wanted)


def play(
    played: Played, hours: int, each: int, seed: int, stopped: dict[int, set[int]], late: int = 5
) -> None:
    """``each`` events an hour of few terminals; a label, ``late`` hours after its event."""
    rng, number, known = np.random.default_rng(seed), 0, []
    for hour in range(hours):
        at = np.sort(rng.integers(0, HOUR_MS, each)) + START_MS + hour * HOUR_MS
        events = []
        for t in at.tolist():
            events.append(event(number, t, terminal=f"t{rng.integers(3)}"))
            known.append((hour + late, label(number, bool(rng.random() < 0.3))))
            number += 1
        due = [y for h, y in known if h == hour]
        played.round(events, due, stopped.get(hour, set()))
    played.round([], [], set())


@given(
    st.integers(2, 4),
    st.integers(0, 2**31),
    st.dictionaries(
        st.integers(30, 44), st.sets(st.integers(0, 3), max_size=2), min_size=1, max_size=8
    ),
)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_features_are_those_of_one_process_bit_for_bit(
    tmp_path: Path, count: int, seed: int, stopped: dict[int, set[int]]
) -> None:
    """With scorers that hear of each other an hour late, some of them stopped for hours.

    A positive must be known to all by the time its event counts: labels come after four hours and
    less, an hour later others hear of them, or two where they were stopped; the delay is six.
    """
    # No hour of a stop follows another of the same scorer: each is told an hour late at most.
    short = {
        h: {i for i in who if i < count and i not in stopped.get(h - 1, set())}
        for h, who in stopped.items()
    }
    played = Played(tmp_path, count)
    play(played, 48, 12, seed, short, late=4)
    assert played.differing() == 0
    rows = [scorer.engine.counts["scored"] for scorer in played.many.scorers]
    assert sum(rows) == 48 * 12
    features = played.many.scorers[0].engine.features
    assert features.gauges()["shop.unmatched"] == 0
    assert features.gauges()["shop.late"] == 0


def test_a_scorer_whose_tables_lack_something_says_so(tmp_path: Path) -> None:
    """One that heard nothing of another for longer than the delay; on its trail and counted."""
    played = Played(tmp_path, 2)
    play(played, 12, 12, 1, {})
    first, second = (s.engine for s in played.many.scorers)
    told = first.counts["risk.lacking"]
    assert not first.sharing.lacking
    assert 0 < first.sharing.lag_s(first.watermark_ms) < 2 * HOUR_S
    play2 = Played(tmp_path, 2)
    play(play2, 12, 12, 1, {h: {1} for h in range(3, 12)})
    first = play2.many.scorers[0].engine
    assert first.counts["risk.lacking"] > told
    assert [
        r
        for r in play2.many.outputs
        if b'"risk_lacking"' in b"".join(x.value or b"" for x in r.audit)
    ]
    assert second.counts["scored"] > 0
    assert play2.differing() > 0


def test_a_scorer_without_events_says_so_and_nobody_lacks_them(tmp_path: Path) -> None:
    """By what the others tell of the stream's time, a part of the delay at a time; none echoes."""
    many = Scaled(tree(tmp_path, 2))
    first, second = (scorer.engine for scorer in many.scorers)
    mine = range(24)  # whatever partition they are sent to
    lacked = []
    for hour in range(12):
        at = START_MS + hour * HOUR_MS
        before = first.counts["risk.lacking"]
        many.score(0, ("events", 0, [event(n, at) for n in mine[2 * hour :][:2]]))
        lacked.append(first.counts["risk.lacking"] > before)
        many.score(1)
    assert lacked == [True] + [False] * 11  # before anybody has told anything it is not known
    assert not first.sharing.lacking
    assert len(many.risk[1]) == 12
    for _ in range(5):
        many.score(0)
        many.score(1)
    assert (len(many.risk[0]), len(many.risk[1])) == (12, 12)
    again = Part(many.scorers[1].config)
    for batch in many.scorers[1].batches:
        again.engine.step(batch)
    assert again.engine.state_digest() == second.state_digest()
    third = many.scorers[1].step(
        ("events", 1, [event(30, START_MS)])
    )  # late: nothing is taken back
    assert third.handed["risk-test"]
    many.scorers[0].step(("risk-test", 1, [r.value for r in third.handed["risk-test"]]))
    assert first.sharing.told_ms[1] == START_MS + 11 * HOUR_MS


def test_how_far_others_are_behind_is_not_known_before_they_told(tmp_path: Path) -> None:
    """No lag since 1970, which would hide all that follows on a chart."""
    played = Played(tmp_path, 2)
    play(played, 1, 12, 1, {0: {1}})
    first = played.many.scorers[0].engine
    assert first.counts["scored"] > 0
    assert math.isnan(first.sharing.lag_s(first.watermark_ms))


def test_without_a_second_scorer_or_entity_nothing_is_told(tmp_path: Path) -> None:
    """One scorer alone sees all; where all features are of the first entity nobody asks."""
    alone = Scaled(tree(tmp_path, 1))
    config = alone.scorers[0].config
    assert config.risk_topic not in (*config.inputs, *config.outputs)
    assert Scaled(raw(tmp_path, 2)).scorers[0].engine.sharing is None
    config = Scaled(tree(tmp_path, 2)).scorers[1].config
    assert config.inputs == ("control", "models-test", "risk-test", "events", "labels")
    assert [config.reads("risk-test", p) for p in (0, 1)] == [True, False]


@pytest.mark.parametrize("what", ["seed", "damaged", "short", "entities"])
def test_crafted_blocks_reach_no_table(tmp_path: Path, what: str) -> None:
    """What means something else, or has no key for each time, becomes a dead letter."""
    played = Played(tmp_path, 2)
    play(played, 3, 12, 1, {})
    many, topic = played.many, played.many.scorers[0].config.risk_topic
    plain = msgspec.msgpack.decode(zstandard.decompress(many.risk[1][0]))
    plain = {
        "seed": ["other", *plain[1:]],
        "damaged": "?",
        "short": [*plain[:3], plain[3][8:], *plain[4:]],
        "entities": [plain[0], ["customer"], *plain[2:]],
    }[what]
    before = many.scorers[0].engine.features.digest()
    crafted = zstandard.compress(msgspec.msgpack.encode(plain))
    out = many.scorers[0].step((topic, 1, [crafted]))
    assert reasons(out.dead_letters) == ["foreign"]
    assert many.scorers[0].engine.features.digest() == before


def test_scorers_that_share_go_on_from_their_state_and_replay_to_the_same_bits(
    tmp_path: Path,
) -> None:
    """What was told is part of it."""
    played = Played(tmp_path, 2)
    play(played, 12, 12, 1, {})
    for part in played.many.scorers:
        half, again, restored = len(part.batches) // 2, Part(part.config), Part(part.config)
        for batch in part.batches[:half]:
            again.engine.step(batch)
        restored.engine.restore(again.engine.state(), again.engine.rows())
        for batch in part.batches[half:]:
            restored.engine.step(batch)
        wanted = part.engine.digest, part.engine.state_digest()
        assert (restored.engine.digest, restored.engine.state_digest()) == wanted
