"""The simulator's impressions and clicks: repeatable, predictable, as the example takes them."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.contract.records import NewRecord, Range, Record, Slice
from stream.decode.codec import Codec
from stream.demo.clicks import CLICKS, IMPRESSION, ClickSimulator
from stream.demo.player import BAD_KINDS, Player, spoil, write_jsonl
from stream.demo.simulator import DAY_MS, NEVER, Rows, SimulatorError
from stream.settings.load import parse
from stream.settings.schema import Config

EXAMPLE = Path(__file__).parents[3] / "examples" / "clicks.toml"


def made(seed: int = 3, events: int = 60_000, size: int = 5000, drift: bool = False) -> Rows:
    simulator = ClickSimulator(seed, drift=drift, events=events)
    return np.concatenate([chunk.events for chunk in simulator.chunks(size)])


@pytest.fixture(scope="module")
def example() -> Config:
    return parse(tomllib.loads(EXAMPLE.read_text()), "clicks.toml")


def slice_of(topic: str, records: list[NewRecord]) -> Slice:
    found = [Record(topic, 0, i, r.key, r.value) for i, r in enumerate(records)]
    return Slice(Range(topic, 0, 0, len(found) - 1, len(found)), found)


def test_same_seed_same_file(tmp_path: Path) -> None:
    """The same seed writes the same bytes, however it is cut; another seed writes others."""
    files = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        write_jsonl(file, ClickSimulator(seed, events=3000), writing=CLICKS)
    first, again, other = (file.read_bytes() for file in files)
    assert first == again != other
    parts = (made(1, 3000, size) for size in (7, 3000))
    assert len({part.tobytes() for part in parts}) == 1


@pytest.mark.parametrize("drift", [False, True])
def test_one_in_twenty_is_clicked_within_minutes(drift: bool) -> None:
    """The share is 5 % before and after the drift; nearly every click comes within the hour."""
    rows = made(drift=drift)
    half = len(rows) // 2
    assert rows["p"][:half].mean() == pytest.approx(0.05, abs=0.004)
    assert rows["p"][half:].mean() == pytest.approx(0.05, abs=0.004)
    clicked = rows["reported_at_ms"] != NEVER
    assert clicked.mean() == pytest.approx(rows["p"].mean(), abs=0.004)
    delay_s = (rows["reported_at_ms"] - rows["event_time_ms"])[clicked] / 1000
    assert delay_s.min() >= 1
    assert np.median(delay_s) < 180
    assert delay_s.max() < 3600


def test_campaigns_predict_until_the_drift() -> None:
    """Rates by campaign differ, hold on a stationary stream, and are others after the drift."""

    def rates(rows: Rows) -> np.ndarray:
        n = np.bincount(rows["campaign"], minlength=40)
        return np.bincount(rows["campaign"], rows["p"], 40) / np.maximum(n, 1)

    for drift, least, most in ((False, 0.95, 1.0), (True, -1.0, 0.6)):
        rows = made(drift=drift)
        before, after = rates(rows[:25_000]), rates(rows[-25_000:])
        assert before.std() > 0.01
        assert least <= np.corrcoef(before, after)[0, 1] <= most
    assert ClickSimulator(1, drift=False).drift_ms is None
    at = ClickSimulator(1, events=60_000).drift_ms
    assert at is not None
    assert at % DAY_MS == 0


def test_the_records_fit_the_example_configuration(example: Config) -> None:
    """Every impression and click decodes under examples/clicks.toml, with the time of the click."""
    rows = made(events=2000)
    codec = Codec(example)
    events, bad = codec.decoded(slice_of("events", CLICKS.events(rows, 3)), codec.events)
    assert bad == []
    assert events.columns.event_time_ms.tolist() == rows["event_time_ms"].tolist()
    clicked = rows[rows["reported_at_ms"] != NEVER]
    labels, bad = codec.decoded(slice_of("labels", CLICKS.labels(clicked, 3)), codec.labels)
    assert bad == []
    assert labels.y.tolist() == [1] * len(clicked)
    assert labels.labelled_at_ms.tolist() == clicked["reported_at_ms"].tolist()
    line = msgspec.json.decode(CLICKS.lines(rows[rows["reported_at_ms"] == NEVER], 3)[0])
    assert (line["clicked"], line["clicked_at"]) == (False, None)


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_every_malformed_record_is_refused(kind: str, example: Config) -> None:
    """Each kind of malformed impression is a dead letter under the example's configuration."""
    codec = Codec(example)
    good = CLICKS.events(made(events=1), 3)[0]
    events, bad = codec.decoded(slice_of("events", [spoil(good, kind, CLICKS)]), codec.events)
    assert len(bad) == 1
    assert not events.records


def test_the_player_plays_clicks() -> None:
    """Events and clicks go to their topics; no impression without a click gets a label."""
    sent: dict[str, list[NewRecord]] = {"events": [], "labels": []}
    simulator = ClickSimulator(3, events=9000)
    player = Player(
        simulator, lambda topic, rows: sent[topic].extend(rows), rate=None, writing=CLICKS
    )
    played = player.run(threading.Event())
    assert (played.events, played.labels) == tuple(len(sent[t]) for t in ("events", "labels"))
    assert played.events == 9000
    assert 300 < played.labels < 600


def test_parameters_out_of_range_are_refused() -> None:
    """No users, no items, no events."""
    for options in ({"users": 0}, {"items": 0}, {"events": 0}):
        with pytest.raises(SimulatorError, match=next(iter(options))):
            ClickSimulator(1, **options)
    assert IMPRESSION.names is not None
