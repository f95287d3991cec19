"""Tickets and deliveries: repeatable, as their examples take them, and worth learning."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path
from statistics import fmean, median

import msgspec
import numpy as np
import pytest
from rich.console import Console

from stream.contract.records import NewRecord, Range, Record, Slice
from stream.decode.codec import Codec
from stream.demo.kinds import KINDS, KindName
from stream.demo.player import BAD_KINDS, spoil, write_jsonl
from stream.demo.simulator import NEVER, Rows, SimulatorError
from stream.settings.load import load
from stream.tools.evaluate import evaluate_file

EXAMPLES = Path(__file__).parents[3] / "examples"
TARGETS: list[KindName] = ["triage", "arrival"]


def made(kind: KindName, events: int, size: int = 4096, drift: bool = False) -> Rows:
    simulation = KINDS[kind].make(3, drift=drift, events=events)
    return np.concatenate([chunk.events for chunk in simulation.chunks(size)])


def slice_of(topic: str, records: list[NewRecord]) -> Slice:
    found = [Record(topic, 0, i, r.key, r.value) for i, r in enumerate(records)]
    return Slice(Range(topic, 0, 0, len(found) - 1, len(found)), found)


@pytest.mark.parametrize("kind", TARGETS)
def test_same_seed_same_rows(kind: KindName) -> None:
    """However it is cut; another seed makes others, and no population is refused."""
    parts = [made(kind, 1500, size) for size in (7, 1500)]
    assert parts[0].tobytes() == parts[1].tobytes()
    other = next(KINDS[kind].make(4, drift=False, events=1500).chunks(1500)).events
    assert other.tobytes() != parts[0].tobytes()
    with pytest.raises(SimulatorError, match="expected 1 or more"):
        KINDS[kind].make(3, 0)


@pytest.mark.parametrize("kind", TARGETS)
def test_records_fit_the_example(kind: KindName) -> None:
    """Every event and label decodes under the example; each kind of malformed record does not."""
    config = load(EXAMPLES / KINDS[kind].example, {})
    writing, codec = KINDS[kind].writing, Codec(config)
    rows = made(kind, 1000)
    good = writing.events(rows, 3)
    events, bad = codec.decoded(slice_of("events", good), codec.events)
    assert bad == []
    assert events.columns.event_time_ms.tolist() == rows["event_time_ms"].tolist()
    told = rows[rows["reported_at_ms"] != NEVER]
    labels, bad = codec.decoded(slice_of("labels", writing.labels(told, 3)), codec.labels)
    assert bad == []
    truth = "team" if kind == "triage" else "minutes"
    assert labels.y.tolist() == told[truth].tolist()
    assert labels.labelled_at_ms.tolist() == told["reported_at_ms"].tolist()
    spoilt = [spoil(good[0], each, writing) for each in BAD_KINDS]
    events, bad = codec.decoded(slice_of("events", spoilt), codec.events)
    assert len(bad) == len(BAD_KINDS)


def test_the_arrival_is_the_label() -> None:
    """A delivery's label is reported when its minutes are over."""
    rows = made("arrival", 1000)
    told = rows[rows["reported_at_ms"] != NEVER]
    waited = (told["reported_at_ms"] - told["event_time_ms"]) / 60_000
    np.testing.assert_allclose(waited, told["minutes"], atol=1 / 60_000)


def test_teams_and_zones_change_in_the_middle() -> None:
    """What a topic's teams and a zone's minutes were says little about them after the drift."""
    for kind, by, groups, what in (
        ("triage", "topic", 40, lambda rows: rows["team"] == 0),
        ("arrival", "zone", 25, lambda rows: rows["minutes"]),
    ):
        for drift, least, most in ((False, 0.9, 1.0), (True, -0.6, 0.6)):
            rows = made(kind, 40_000, drift=drift)  # type: ignore[arg-type]
            before, after = (
                np.bincount(part[by], what(part), groups) / np.bincount(part[by], minlength=groups)
                for part in (rows[:15_000], rows[-15_000:])
            )
            assert least <= np.corrcoef(before, after)[0, 1] <= most


@pytest.mark.parametrize("kind", TARGETS)
def test_learning_beats_saying_the_same_always(kind: KindName, tmp_path: Path) -> None:
    """Under the example better than the commonest team, or than the median minutes."""
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, KINDS[kind].make(7, events=2000), writing=KINDS[kind].writing)
    console = Console(file=StringIO())
    config = load(EXAMPLES / KINDS[kind].example, {})
    quality = evaluate_file(config, path, None, None, 512, console)["quality"]["ensemble"]
    lines = [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]
    if kind == "triage":
        commonest = max(Counter(line["team"] for line in lines).values()) / len(lines)
        assert quality["accuracy"] > 1.3 * commonest
    else:
        middle = median(line["minutes"] for line in lines)
        assert quality["mae"] < 0.7 * fmean(abs(line["minutes"] - middle) for line in lines)
