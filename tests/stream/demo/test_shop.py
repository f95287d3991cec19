"""The shop's records: repeatable, as the example takes them, and worth learning."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.contract.records import Batch, Record, Slice, range_of
from stream.decode.feedback import FeedbackCodec
from stream.demo.kinds import KINDS
from stream.demo.player import BAD_KINDS, spoil
from stream.demo.shop import ASKS, DEEDS, ENTERS, LEAVES, PRICED, VIEW, ShopSimulator
from stream.demo.simulator import DAY_MS, Rows, SimulatorError
from stream.run.assemble import build_ranking
from stream.settings.load import load
from stream.settings.schema import Config

EXAMPLE = Path(__file__).parents[3] / "examples" / KINDS["shop"].example


def made(events: int, size: int = 4096, seed: int = 3, drift: bool = True) -> Rows:
    simulation = ShopSimulator(seed, drift=drift, events=events)
    return np.concatenate([chunk.events for chunk in simulation.chunks(size)])


def records(rows: Rows) -> list[Record]:
    return [Record("events", 0, i, r.key, r.value) for i, r in enumerate(DEEDS.events(rows, 3))]


@pytest.fixture(scope="module")
def example() -> Config:
    return load(EXAMPLE, {})


def test_same_seed_same_rows() -> None:
    """However it is cut; another seed makes others, and no users are refused."""
    parts = [made(1500, size) for size in (7, 1500)]
    assert parts[0].tobytes() == parts[1].tobytes()
    assert made(1500, seed=4).tobytes() != parts[0].tobytes()
    with pytest.raises(SimulatorError, match="users: expected 1 or more"):
        ShopSimulator(3, users=0)


def test_the_records_fit_the_example(example: Config) -> None:
    """Every record is read with its time and an id of its own; a line is what a record is."""
    rows = made(30_000)
    codec = FeedbackCodec(example)
    taken, bad = codec.feedback(records(rows))
    assert bad == []
    assert taken.time_ms == rows["event_time_ms"].tolist()
    assert len({(type(what), what.id) for what in taken.what}) == len(rows)
    assert set(np.unique(rows["kind"])) == set(range(7))
    assert DEEDS.lines(rows[:300], 3) == [r.value for r in DEEDS.events(rows[:300], 3)]


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_every_malformed_record_is_refused(kind: str, example: Config) -> None:
    """Whatever record it is made of."""
    rows = made(2000)
    codec = FeedbackCodec(example)
    for good in (rows[rows["kind"] == k][:1] for k in (ENTERS, ASKS, VIEW)):
        record = spoil(DEEDS.events(good, 3)[0], kind, DEEDS)
        taken, bad = codec.feedback([Record("events", 0, 0, record.key, record.value)])
        assert (len(bad), taken.records) == (1, [])


def test_only_wares_that_are_there_are_looked_at() -> None:
    """An interaction is of an item that entered and has not left, and names its sitting's list."""
    there: set[int] = set()
    lists: dict[int, int] = {}
    for row in made(30_000):
        kind, item, session, user = (int(row[n]) for n in ("kind", "item", "session", "user"))
        if kind == ENTERS:
            there.add(item)
        elif kind == LEAVES:
            there.remove(item)
        elif kind == ASKS:
            lists[session] = user
        elif kind == PRICED:
            assert item in there
        else:
            assert item in there
            assert lists[session] == user
    line = msgspec.json.decode(DEEDS.lines(made(2000)[-1:], 3)[0])
    assert line["ranking"][1:] == line["session"][1:]


def test_old_wares_fade() -> None:
    """In its first days a ware is looked at several times as much as in its last."""
    rows = made(40_000)
    entered = {int(r["item"]): int(r["event_time_ms"]) for r in rows[rows["kind"] == ENTERS]}
    first = int(rows["event_time_ms"][0])
    views = rows[rows["kind"] == VIEW]
    ages = [
        (int(v["event_time_ms"]) - at) // DAY_MS
        for v in views
        if (at := entered[int(v["item"])]) > first
    ]
    young, old = (sum(a <= age < a + 8 for age in ages) for a in (0, 24))
    assert young > 3 * old > 0


def test_taste_depends_on_prices_promotions_and_devices() -> None:
    """What is looked at costs about what the user is used to pay; what is promoted is cheaper than
    it was and looked at more; each device has categories of its own."""
    price: dict[int, tuple[float, bool]] = {}
    category: dict[int, int] = {}
    asked: dict[int, tuple[float, int]] = {}
    apart, deals, by_device, cut = list[float](), list[bool](), np.zeros((3, 8)), list[float]()
    shares = list[float]()
    for row in made(40_000):
        kind, item, session = (int(row[n]) for n in ("kind", "item", "session"))
        if kind in (ENTERS, PRICED):
            if kind == PRICED and row["promoted"]:
                assert not price[item][1]
                cut.append(float(row["price"]) / price[item][0])
            price[item] = float(row["price"]), bool(row["promoted"])
            category[item] = int(row["category"])
        elif kind == LEAVES:
            del price[item]
        elif kind == ASKS:
            asked[session] = float(row["price"]), int(row["device"])
        elif kind == VIEW:
            usual, device = asked[session]
            apart.append(abs(np.log(price[item][0] / usual)))
            deals.append(price[item][1])
            shares.append(np.mean([promoted for _, promoted in price.values()]))
            by_device[device, category[item]] += 1
    assert np.median(apart) < 0.5  # of two drawn at random .76
    assert np.mean(deals) > 2 * np.mean(shares) > 0
    assert cut == pytest.approx([0.7] * len(cut), rel=0.02)
    by_device /= by_device.sum(axis=1, keepdims=True)
    assert np.abs(by_device[0] - by_device[1]).sum() > 0.2


def test_the_drift_begins_at_its_midnight() -> None:
    """Until then the stream is what it is without, from then on another."""
    at = ShopSimulator(3, events=20_000).drift_ms
    assert at is not None
    drifting, steady = (made(20_000, drift=drift) for drift in (True, False))
    before, after = (
        [rows[part(rows["event_time_ms"])].tobytes() for rows in (drifting, steady)]
        for part in (lambda t: t < at, lambda t: t >= at)
    )
    assert before[0] == before[1]
    assert after[0] != after[1]


def test_the_ranking_beats_what_is_popular(example: Config) -> None:
    """Under the example, by twice as many hits and more; lists are answered and taken from."""
    engine = build_ranking(example, None)
    found = records(made(4000))
    for first in range(0, len(found), 500):
        piece = found[first : first + 500]
        clock_ms = msgspec.json.decode(piece[-1].value or b"")["timestamp"]
        engine.step(Batch(engine.seq + 1, clock_ms, [Slice(range_of(piece), piece)]))
    quality = {name: windows["all"] for name, windows in engine.quality.report().items()}
    for metric in ("hit_10", "mrr", "ndcg_10"):
        assert quality["ensemble"][metric] > 2 * quality["popular"][metric] > 0
    assert engine.counts["scored"] == sum(b'"recommend"' in (r.value or b"") for r in found)
    assert engine.counts["hits"] > engine.counts["scored"] // 3
