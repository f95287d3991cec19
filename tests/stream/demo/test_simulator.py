"""The simulator's payments and the player's records: repeatable, plausible, in order."""

from __future__ import annotations

import threading
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.contract.hashing import hash_text
from stream.contract.records import NewRecord, Record
from stream.decode.codec import Codec
from stream.demo.kinds import KINDS
from stream.demo.player import BAD_KINDS, Player, event_records, label_records, spoil, write_jsonl
from stream.demo.simulator import (
    COMPROMISED,
    DAY_MS,
    LARGE,
    LIMIT,
    NEVER,
    START_MS,
    STOLEN,
    Payments,
    SimulatedChunk,
    Simulation,
    Simulator,
    SimulatorError,
)
from stream.settings import load as config

EXAMPLE = Path(__file__).parents[3] / "examples" / "fraud.toml"


def payments(simulator: Simulation, size: int = 4096) -> Payments:
    """All payments of a simulation."""
    return np.concatenate([c.events for c in simulator.chunks(size)])


def played(simulator: Simulator, bad_share: float = 0.0) -> list[tuple[str, NewRecord]]:
    """What a player without pauses appends, with its topics, in order."""
    records: list[tuple[str, NewRecord]] = []

    def append(topic: str, batch: Sequence[NewRecord]) -> None:
        records.extend((topic, r) for r in batch)

    Player(simulator, append, rate=None, bad_share=bad_share).run(threading.Event())
    return records


def example_codec() -> Codec:
    """The codec of examples/fraud.toml; its members do not matter here and are left out."""
    raw = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    return Codec(config.parse(raw | {"members": [{"name": "c", "type": "constant"}]}, "fraud.toml"))


def as_read(topic: str, records: Sequence[NewRecord]) -> list[Record]:
    """The records as a log hands them out."""
    return [Record(topic, 0, i, r.key, r.value) for i, r in enumerate(records)]


@pytest.fixture(scope="module")
def drifting() -> Simulator:
    """The simulation that most tests look at."""
    return Simulator(seed=7, events=100_000)


@pytest.fixture(scope="module")
def all_payments(drifting: Simulator) -> Payments:
    """Its payments."""
    return payments(drifting)


def test_same_seed_same_file(tmp_path: Path) -> None:
    """Two simulators of one seed write the same bytes; another seed writes others."""
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_jsonl(tmp_path / name, Simulator(seed, events=5000))
    a, b, c = ((tmp_path / n).read_bytes() for n in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize("size", [1, 37, 4096, 10_000])
def test_the_chunk_size_changes_nothing(size: int) -> None:
    """Events and their order do not depend on how they are cut."""
    simulator = Simulator(1, customers=40, terminals=10, events=3001)
    chunks = list(simulator.chunks(size))
    assert {len(c.events) for c in chunks[:-1]} <= {size}
    np.testing.assert_array_equal(
        np.concatenate([c.events for c in chunks]), payments(simulator, 500)
    )


def test_events_come_in_event_time_order_and_numbered(all_payments: Payments) -> None:
    """Event times never fall, and indices count up from 0."""
    assert len(all_payments) == 100_000
    assert (np.diff(all_payments["event_time_ms"]) >= 0).all()
    np.testing.assert_array_equal(all_payments["index"], np.arange(100_000))


def test_labels_become_visible_exactly_once_when_reported(drifting: Simulator) -> None:
    """A chunk brings the labels reported since the chunk before, in order, and no others."""
    seen: list[SimulatedChunk] = list(drifting.chunks(1500))
    before = 0
    for chunk in seen:
        now = chunk.events["event_time_ms"][-1]
        reported = chunk.labels["reported_at_ms"]
        assert (np.diff(reported) >= 0).all()
        assert ((before < reported) & (reported <= now)).all()
        before = now
    events = np.concatenate([c.events for c in seen])
    due = (events["reported_at_ms"] != NEVER) & (events["reported_at_ms"] <= before)
    labels = np.concatenate([c.labels for c in seen])
    assert sorted(labels["index"].tolist()) == events["index"][due].tolist()


@pytest.mark.parametrize("share", [0.005, 0.015, 0.05])
@pytest.mark.parametrize("drift", [True, False])
def test_the_fraud_share_is_met(share: float, drift: bool) -> None:
    """Over 100,000 payments the fraud share is within a quarter of what was asked for."""
    made = payments(Simulator(5, fraud_share=share, drift=drift))
    assert (made["scenario"] > 0).mean() == pytest.approx(share, rel=0.25)


def test_no_fraud_when_none_is_asked_for() -> None:
    """A share of 0 makes honest payments only."""
    assert not payments(Simulator(5, events=5000, fraud_share=0.0))["scenario"].any()


def test_large_amounts_are_fraud_and_honest_ones_stay_below(all_payments: Payments) -> None:
    """Scenario 1 is told by the amount alone, before the drift and after it."""
    drift_ms = Simulator(seed=7).drift_ms
    assert drift_ms is not None
    after = all_payments["event_time_ms"] >= drift_ms
    limit = np.where(after, 1.6 * LIMIT, LIMIT)
    amount, scenario = all_payments["amount"], all_payments["scenario"]
    assert (amount[scenario == LARGE] > limit[scenario == LARGE]).all()
    assert (amount[scenario == 0] <= limit[scenario == 0]).all()
    # What was fraud before is honest now: the concept drifts.
    assert ((amount > LIMIT) & (scenario == 0) & after).any()


def test_compromised_terminals_stay_so_for_days(all_payments: Payments) -> None:
    """Scenario 2 strikes few terminals at a time, each through most of a week."""
    fraud = all_payments[all_payments["scenario"] == COMPROMISED]
    days = (fraud["event_time_ms"] - fraud["event_time_ms"][0]) // DAY_MS
    per_day = [len(set(fraud["terminal"][days == d])) for d in range(int(days[-1]) + 1)]
    assert max(per_day) <= 6
    lasting = [np.ptp(days[fraud["terminal"] == t]) for t in set(fraud["terminal"].tolist())]
    assert np.median(lasting) >= 4


def test_stolen_cards_pay_several_times_more(all_payments: Payments) -> None:
    """In scenario 3 a customer's fraudulent payments are about five times his honest ones."""
    stolen = all_payments["scenario"] == STOLEN
    ratios = []
    for customer in set(all_payments["customer"][stolen].tolist()):
        his = all_payments["customer"] == customer
        honest = his & (all_payments["scenario"] == 0)
        ratios.append(
            all_payments["amount"][his & stolen].mean() / all_payments["amount"][honest].mean()
        )
    assert 3.5 < np.median(ratios) < 6.5


def test_the_stationary_stream_does_not_drift(all_payments: Payments) -> None:
    """Without drift the mean amount of both halves is the same; with it the second is higher."""

    def growth(made: Payments) -> float:
        honest = made["amount"][made["scenario"] == 0]
        first, second = np.array_split(honest, 2)
        return float(second.mean() / first.mean())

    assert growth(payments(Simulator(7, drift=False))) == pytest.approx(1.0, abs=0.03)
    assert growth(all_payments) == pytest.approx(1.6, abs=0.05)


def test_frauds_are_mostly_reported_before_honest_payments_are_confirmed(
    all_payments: Payments,
) -> None:
    """Half of the reported frauds are known within two days, half of the honest ones in 3.5."""
    known = all_payments[all_payments["reported_at_ms"] != NEVER]
    delay = (known["reported_at_ms"] - known["event_time_ms"]) / DAY_MS
    fraud = known["scenario"] > 0
    assert np.median(delay[fraud]) == pytest.approx(2.0, abs=0.3)
    assert np.median(delay[~fraud]) == pytest.approx(3.5, abs=0.1)
    assert delay.min() >= 0
    assert delay[~fraud].max() <= 7
    silent = all_payments["reported_at_ms"] == NEVER
    assert silent[all_payments["scenario"] > 0].mean() == pytest.approx(0.05, abs=0.02)
    assert silent[all_payments["scenario"] == 0].mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"customers": 0}, "customers: expected 1 or more, got 0"),
        ({"events": 0}, "events: expected 1 or more, got 0"),
        ({"fraud_share": 0.3}, r"fraud_share: expected 0\.\.0\.2, got 0\.3"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    """The message names the parameter, what was expected and what was given."""
    with pytest.raises(SimulatorError, match=message):
        Simulator(1, **options)


def test_the_records_fit_the_example_configuration() -> None:
    """The codec of examples/fraud.toml takes every simulated event and label, with its values."""
    codec = example_codec()
    chunks = list(Simulator(2, customers=100, terminals=40, events=5000).chunks(2500))
    made = chunks[0].events
    events, bad_events = codec.events(as_read("events", event_records(made, 2)))
    assert bad_events == []
    np.testing.assert_array_equal(events.columns.event_time_ms, made["event_time_ms"])
    np.testing.assert_array_equal(events.columns.numbers["amount"], made["amount"])
    labels, bad_labels = codec.labels(as_read("labels", label_records(chunks[1].labels, 2)))
    assert bad_labels == []
    assert len(labels.y) > 100
    np.testing.assert_array_equal(labels.y, chunks[1].labels["scenario"] > 0)
    assert labels.id_hash[0] == hash_text(f"p2-{chunks[1].labels['index'][0]}")


def test_a_customers_events_share_a_key() -> None:
    """The key is the customer, so that one partition holds all events of one customer in order."""
    for record in event_records(next(Simulator(2, events=50).chunks(50)).events, 2):
        assert record.value is not None
        assert record.key == msgspec.json.decode(record.value)["customer"].encode()


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_every_malformed_record_is_refused(kind: str) -> None:
    """The codec gives each kind of malformed record the reason it deserves."""
    codec = example_codec()
    good = event_records(next(Simulator(2, events=5).chunks(5)).events, 2)[0]
    _, bad = codec.events(as_read("events", [spoil(good, kind)]))  # type: ignore[arg-type]
    expected = {
        "truncated": "malformed",
        "nan": "malformed",
        "null": "null",
        "wrong_type": "schema",
        "missing_field": "schema",
        "oversized": "oversized",
    }
    assert [b.reason for b in bad] == [expected[kind]]


def test_malformed_records_come_on_top_and_are_counted() -> None:
    """With bad_share the good records are the same as without, and the counts add up."""
    simulator = Simulator(2, customers=100, terminals=40, events=2000)
    clean = played(simulator)
    mixed = played(simulator, bad_share=0.05)
    assert [r for r in mixed if r in set(clean)] == clean
    counts = Player(simulator, lambda t, r: None, rate=None, bad_share=0.05).run(threading.Event())
    assert counts.events == 2000
    assert counts.events + sum(counts.bad.values()) == sum(t == "events" for t, _ in mixed)
    assert min(counts.bad.values()) > 0


def test_no_label_is_appended_before_its_event() -> None:
    """In the order of appends every label's event has gone before."""
    seen: Counter[str] = Counter()
    for topic, record in played(Simulator(2, customers=100, terminals=40, events=3000)):
        payment_id = msgspec.json.decode(record.value or b"")["payment_id"]
        if topic == "labels":
            assert seen[payment_id] == 1
        seen[payment_id] += topic == "events"
    assert sum(seen.values()) == 3000


class FakeClock:
    """Time that passes only in ``sleep`` and, by ``cost_s``, in each append."""

    def __init__(self, cost_s: float) -> None:
        self.now_s = 0.0
        self.cost_s = cost_s
        self.appended: list[tuple[float, int]] = []

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def append(self, topic: str, records: Sequence[NewRecord]) -> None:
        self.now_s += self.cost_s
        if topic == "events":
            self.appended.append((self.now_s, len(records)))


@pytest.mark.parametrize("cost_s", [0.0, 0.01])
def test_the_player_keeps_its_rate(cost_s: float) -> None:
    """1,000 events at 500 a second take 2 s, in portions of 50 ms, whatever an append costs."""
    clock = FakeClock(cost_s)
    player = Player(
        Simulator(2, events=1000),
        clock.append,
        rate=500,
        clock=lambda: clock.now_s,
        sleep=clock.sleep,
    )
    player.run(threading.Event())
    assert clock.appended[-1][0] == pytest.approx(2.0, abs=0.03)
    assert {n for _, n in clock.appended} == {25}


@pytest.mark.parametrize("rate", [1, 300, 3000, 20_000])
def test_event_time_stays_behind_the_clock_for_hours(rate: int) -> None:
    """Twelve hours of any rate fit between 1970 and now; the last event is the clock's at most."""
    now_ms = START_MS + 200 * DAY_MS
    planned = rate * 12 * 3600
    simulator = KINDS["payments"].up_to(now_ms, planned, 3, events=1 << 40)
    first_ms = next(simulator.chunks(1)).events["event_time_ms"][0]
    assert first_ms >= 0
    assert first_ms + planned / simulator.daily_rate * DAY_MS < now_ms


def test_a_short_simulation_begins_where_it_always_does() -> None:
    """What ends before the clock anyway has the times that a file of it has."""
    short = KINDS["payments"].up_to(START_MS + 30 * DAY_MS, 5000, 3, events=5000)
    np.testing.assert_array_equal(payments(short), payments(Simulator(3, events=5000)))


def test_an_event_waits_for_its_time() -> None:
    """A player that has caught up with the clock appends nothing that is still to come."""
    clock = FakeClock(0.0)
    start_ms = START_MS + DAY_MS // 2
    ahead: list[bool] = []

    def append(topic: str, records: Sequence[NewRecord]) -> None:
        times = [msgspec.json.decode(r.value or b"").get("time", 0) for r in records]
        ahead.append(max(times) > start_ms + clock.now_s * 1000)

    Player(
        Simulator(2, customers=100, terminals=40, events=2000),
        append,
        rate=3000,
        clock=lambda: clock.now_s,
        now_ms=lambda: start_ms + int(clock.now_s * 1000),
        sleep=clock.sleep,
    ).run(threading.Event())
    assert clock.now_s > 5 * 86_400
    assert not any(ahead)


def test_the_player_stops_when_told() -> None:
    """After ``stop`` nothing more is appended and the counts say what was."""
    stop = threading.Event()
    got: list[int] = []

    def append(topic: str, records: Sequence[NewRecord]) -> None:
        got.append(len(records))
        stop.set()

    player = Player(Simulator(2, events=10_000), append, rate=500, sleep=lambda seconds: None)
    assert player.run(stop).events == 25
    assert got == [25]
