"""Scorers become more or fewer: what each holds moves with its partitions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stream.step.roles.examples import Example, upright
from stream.step.roles.move import heirs, owned, sources, take_over
from tests.stream.step.roles.scaled import FEATURES, RISK, Scaled, partition, raw
from tests.support.factory import START_MS, event, label

HOUR_MS, DAY_MS, PARTITIONS = 3_600_000, 86_400_000, 12


def tree(directory: Path, count: int, learning: str = "arrival", **changes: Any) -> dict[str, Any]:
    """A service whose events are spread over twelve partitions by customer."""
    own: dict[str, Any] = {
        "members": [{"name": "linear", "type": "logistic"}],
        "features": FEATURES,
        "label": {"field": "fraud", "horizon": "12h", "learning": learning},
        "topics": {"partitions": PARTITIONS},
    }
    return raw(directory, count, **own | changes)


class Service:
    """Scorers by partition, an hour a round, scoring by versions that are given to them."""

    def __init__(self, directory: Path, count: int, **changes: Any) -> None:
        self._directory, self._changes = directory, changes
        self.scaled = Scaled(tree(directory, count, **changes))
        self.scores: dict[str, list[float]] = {}
        self.examples: list[bytes] = []
        self._handed = [0] * count

    def round(self, events: list[dict[str, Any]], labels: list[dict[str, Any]]) -> None:
        """Each scorer takes its events and labels, and then hears what the others told."""
        scaled, n = self.scaled, len(self.scaled.scorers)
        for i in range(n):
            parts = [
                (topic, p, own)
                for p in owned(i, n, PARTITIONS)
                for topic, values in (("events", events), ("labels", labels))
                if (own := [v for v in values if home(v) == p])
            ]
            out = scaled.score(i, *parts)
            for told in out.scores:
                score = msgspec.json.decode(told.value or b"")
                self.scores.setdefault(score["id"], []).append(score["score"])
            self.examples += scaled.examples[i][self._handed[i] :]
            self._handed[i] = len(scaled.examples[i])

    def move(self, count: int) -> None:
        """So many scorers from here on."""
        before = self.scaled
        for i in range(len(before.scorers)):
            before.score(i)  # each is told all of the others' risk
        found = {i: part.engine for i, part in enumerate(before.scorers)}
        after = Scaled(tree(self._directory, count, **self._changes))
        after.models = before.models
        after._taken = [len(before.models)] * count
        for i, part in enumerate(after.scorers):
            own = before.scorers[i].offsets if i < len(before.scorers) else {}
            take_over(part.engine, found)
            part.offsets = dict(own)
            for old in before.scorers:
                part.offsets |= {
                    key: at for key, at in old.offsets.items() if part.config.reads(*key)
                }
        self.scaled, self._handed = after, [0] * count

    def known(self) -> Counter[tuple[bytes, float, bool, bool]]:
        """Each row that was handed over, as it was scored, its truth and what becomes of it."""
        found = Counter[tuple[bytes, float, bool, bool]]()
        dtype = self.scaled.scorers[0].engine.pending.dtype
        for record in self.examples:
            one = msgspec.msgpack.decode(zstandard.decompress(record), type=Example)
            for row, y in zip(upright(one.rows, dtype), np.frombuffer(one.y), strict=True):
                found[row.tobytes(), float(y), one.judged, one.learned] += 1
        return found


def home(value: dict[str, Any]) -> int:
    """The partition of an event, or of a label's event."""
    return partition(event(int(value["id"][1:])), PARTITIONS)


def play(
    services: list[Service], moves: dict[int, int], hours: int, seed: int, late: list[int]
) -> None:
    """The same stream through services that score by the first one's versions.

    The others get other numbers of scorers at the hours that ``moves`` says; labels come
    ``late`` hours after their event, whose horizon is 12.
    """
    first, rng, number, known = services[0], np.random.default_rng(seed), 0, []
    for hour in range(hours):
        for service in services[1:]:
            if hour in moves:
                service.move(moves[hour])
        events = []
        for t in np.sort(rng.integers(0, HOUR_MS, 24)) + START_MS + hour * HOUR_MS:
            events.append(event(number, int(t), terminal=f"t{rng.integers(3)}"))
            if rng.random() < 0.8:
                known.append((hour + int(rng.choice(late)), label(number, rng.random() < 0.3)))
            number += 1
        labels = [y for h, y in known if h == hour]
        for service in services:
            service.round(events, labels)
        first.scaled.learn()
        for service in services[1:]:
            service.scaled.models = first.scaled.models
    last = START_MS + hours * HOUR_MS + 3 * DAY_MS
    flush = {home(e): e for i in range(200) if (e := event(number + i, last))}
    for service in services:
        service.round([*flush.values()], [])


@given(
    st.integers(2, 5),
    st.dictionaries(st.integers(2, 40), st.integers(2, 6), min_size=1, max_size=3),
    st.sampled_from(["arrival", "mature"]),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],  # an example takes a second: none is made smaller
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_after_moves_all_is_as_with_the_last_number_of_scorers_from_the_start(
    tmp_path: Path, count: int, moves: dict[int, int], learning: str, risk: bool, seed: int
) -> None:
    """One score each, bit for bit; the same rows handed over with the same truths, each once; the
    same rows wait. So do windows, and risk of terminals as far as labels come within its delay."""
    last = moves[max(moves)]
    changes = {"learning": learning, "features": [*FEATURES, *([RISK] if risk else [])]}
    whole = Service(tmp_path / "whole", last, **changes)
    moved = Service(tmp_path / "moved", count, **changes)
    play([whole, moved], moves, 44, seed, late=[1, 2, 3] if risk else [1, 5, 10, 18, 19])
    assert {len(scores) for scores in moved.scores.values()} == {1}
    assert moved.scores == whole.scores
    assert moved.known() == whole.known()
    for one, other in zip(whole.scaled.scorers, moved.scaled.scorers, strict=True):
        a, b = one.engine, other.engine
        assert len(a.early) == len(b.early)
        numbers = [x.pending.head + np.arange(len(x.pending)) for x in (a, b)]
        rows = [x.pending.take(n) for x, n in zip((a, b), numbers, strict=True)]
        assert np.sort(rows[0], order="id").tobytes() == np.sort(rows[1], order="id").tobytes()
    total = [
        sum((part.engine.counts for part in service.scaled.scorers), Counter())
        for service in (whole, moved)
    ]
    for name in ("scored", "labels.joined", "labels.early", "dead.label_orphan"):
        assert total[0][name] == total[1][name], name


def test_every_partition_has_one_owner_before_and_after() -> None:
    """And every count one heir."""
    for before in range(1, 8):
        for count in range(1, 8):
            homes = [p for i in range(count) for p in owned(i, count, PARTITIONS)]
            assert sorted(homes) == list(range(PARTITIONS))
            assert sorted(heirs(before, count, PARTITIONS)) == list(range(before))
    assert sources(1, 2, 4, PARTITIONS) == [1, 3]
    assert sources(3, 4, 2, PARTITIONS) == [1]
