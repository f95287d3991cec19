"""The feature stage: names, columns against references, labels, state and batch independence."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from river.preprocessing import StandardScaler

from models.base import EventColumns
from models.features.stage import FeatureError, FeatureStage
from models.settings import Feature

DAY = 86_400_000
NAN = float("nan")
FEATURES: list[dict[str, Any]] = [
    {"name": "amount", "type": "number", "field": "amount", "transform": "log1p"},
    {"name": "scaled", "type": "number", "field": "amount", "scale": "standard"},
    {"name": "mcc", "type": "category", "field": "mcc", "buckets": 16},
    {"name": "calendar", "type": "calendar"},
    {
        "name": "customer",
        "type": "window",
        "entity": "customer",
        "value": "amount",
        "windows": ["1d", "7d"],
        "stats": ["count", "sum", "mean", "ratio", "since_last"],
    },
    {
        "name": "terminal",
        "type": "risk",
        "entity": "terminal",
        "delay": "2d",
        "windows": ["1d", "7d"],
        "stats": ["count", "risk", "since_first_known"],
    },
]


def stage(*features: dict[str, Any]) -> FeatureStage:
    """A stage from settings as a TOML file gives them."""
    return FeatureStage(TypeAdapter(list[Feature]).validate_python(list(features or FEATURES)))


def columns(
    times: list[int],
    amount: list[float] | None = None,
    customer: list[int] | None = None,
    terminal: list[int] | None = None,
    mcc: list[int] | None = None,
) -> EventColumns:
    """Event columns of the fields that FEATURES reads, with defaults."""
    n = len(times)
    return EventColumns(
        np.array(times, np.int64),
        {"amount": np.array(amount if amount is not None else [1.0] * n, np.float64)},
        {"mcc": np.array(mcc if mcc is not None else [1] * n, np.uint64)},
        {
            "customer": np.array(customer if customer is not None else [1] * n, np.uint64),
            "terminal": np.array(terminal if terminal is not None else [1] * n, np.uint64),
        },
    )


def rows(events: EventColumns, part: slice) -> EventColumns:
    """Some of the events."""
    return EventColumns(
        events.event_time_ms[part],
        {k: v[part] for k, v in events.numbers.items()},
        {k: v[part] for k, v in events.categories.items()},
        {k: v[part] for k, v in events.entities.items()},
    )


def dense(s: FeatureStage, events: EventColumns, name: str) -> list[float]:
    """One dense column of a batch."""
    return [float(v) for v in s.transform(events).dense[:, s.schema.dense.index(name)]]


def test_columns_are_named_after_feature_statistic_and_window() -> None:
    """Names are as documented, in the features' order; the label needs the risk entities."""
    s = stage()
    assert s.schema.dense == (
        "amount",
        "scaled",
        "calendar_hour_sin",
        "calendar_hour_cos",
        "calendar_night",
        "calendar_weekend",
        "customer_count_1d",
        "customer_count_7d",
        "customer_sum_1d",
        "customer_sum_7d",
        "customer_mean_1d",
        "customer_mean_7d",
        "customer_ratio_1d",
        "customer_ratio_7d",
        "customer_since_last",
        "terminal_count_1d",
        "terminal_count_7d",
        "terminal_risk_1d",
        "terminal_risk_7d",
        "terminal_since_first_known",
    )
    assert [tuple(c) for c in s.schema.hashed] == [("mcc", 16)]
    assert s.entity_fields == ("terminal",)


def test_the_example_configuration_builds_a_stage() -> None:
    """examples/fraud.toml names features that work together."""
    path = Path(__file__).parents[3] / "examples" / "fraud.toml"
    s = stage(*tomllib.loads(path.read_text())["features"])
    assert "customer_mean_30d" in s.schema.dense


def test_windows_are_named_in_days_at_most() -> None:
    """Other lengths take the largest unit that divides them."""
    windows = ["1w", "90m", "36h", "45s", "5ms"]
    s = stage({"name": "c", "type": "window", "entity": "customer", "windows": windows})
    assert s.schema.dense == tuple(f"c_count_{w}" for w in ("7d", "90m", "36h", "45s", "5ms"))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
@settings(max_examples=50)
def test_standardisation_equals_river(values: list[float]) -> None:
    """River's StandardScaler, learning each value before scaling it, gives the same columns."""
    s, river = stage(FEATURES[1]), StandardScaler()
    got = dense(s, columns([0] * len(values), values), "scaled")
    for v, z in zip(values, got, strict=True):
        river.learn_one({"v": v})
        # Where the spread is rounding error only, so is the quotient.
        if river.vars["v"] > 1e-9:
            assert z == pytest.approx(river.transform_one({"v": v})["v"], rel=1e-4, abs=1e-4)


def test_log1p_keeps_the_sign() -> None:
    """sign(v) * log(1 + |v|), as numpy has it."""
    values = [-100.0, -0.5, 0.0, 0.5, 1e308]
    expected = np.sign(values) * np.log1p(np.abs(values))
    got = dense(stage(FEATURES[0]), columns([0] * 5, values), "amount")
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_missing_numbers_give_the_running_mean_and_are_counted() -> None:
    """The mean of the transformed values so far; 0 when standardised and before any value."""
    s = stage({"name": "plain", "type": "number", "field": "amount"}, FEATURES[1])
    batch = s.transform(columns([0] * 4, [NAN, 1.0, 4.0, NAN]))
    assert batch.dense.tolist() == [[0.0, 0.0], [1.0, 0.0], [4.0, 1.0], [2.5, 0.0]]
    assert s.gauges() == {"plain.missing": 2.0, "scaled.missing": 2.0}


EDGES = [0.0, -0.0, 1e308, -1e308, float("inf"), float("-inf"), NAN, 5e-324, 3.4e38, -3.4e38, 1.0]


@given(st.lists(st.sampled_from(EDGES), max_size=40))
@settings(max_examples=60)
def test_every_dense_value_is_finite(values: list[float]) -> None:
    """No number a record may carry makes a feature infinite or nan."""
    s = stage(*FEATURES, {"name": "plain", "type": "number", "field": "amount"})
    batch = s.transform(columns(list(range(len(values))), values))
    assert np.isfinite(batch.dense).all()
    assert batch.dense.dtype == np.float32


@given(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1)), st.integers(-720, 840))
@settings(max_examples=100)
def test_the_calendar_equals_datetime(moment: datetime, offset: int) -> None:
    """Hour, weekday, night and weekend are those of Python's datetime at the offset."""
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    parts = ["hour", "weekday", "night", "weekend", "hour_sin", "hour_cos", "weekday_cos"]
    s = stage({"name": "c", "type": "calendar", "parts": parts, "utc_offset": offset})
    got = s.transform(columns([int(moment.timestamp()) * 1000])).dense[0]
    local = moment + timedelta(minutes=offset)
    angle = 2 * np.pi * (local.hour * 60 + local.minute) / 1440
    expected = [local.hour, local.weekday(), local.hour <= 6, local.weekday() >= 5]
    expected += [np.sin(angle), np.cos(angle), np.cos(2 * np.pi * local.weekday() / 7)]
    np.testing.assert_allclose(got, np.array(expected, float), atol=1e-6)


def test_category_codes_spread_and_differ_by_feature() -> None:
    """All buckets are used about evenly, and two features of a field collide differently."""
    s = stage(FEATURES[2], FEATURES[2] | {"name": "again"})
    hashes = np.random.default_rng(1).integers(0, 2**63, 16_000).tolist()
    codes = s.transform(columns([0] * 16_000, mcc=hashes)).hashed
    counts = np.bincount(codes[:, 0], minlength=16)
    assert counts.min() > 850
    assert counts.max() < 1150
    assert 0.05 < np.mean(codes[:, 0] == codes[:, 1]) < 0.08


def test_codes_follow_the_documented_mix() -> None:
    """SplitMix64's finaliser over hash xor salt, computed here with Python's integers."""
    hashes = [0, 1, 2, 2**64 - 1]
    salt, mask = xxhash.xxh3_64_intdigest(b"mcc"), 2**64 - 1
    expected = []
    for h in hashes:
        x = h ^ salt
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & mask
        expected.append((x ^ (x >> 31)) % 16)
    codes = stage(FEATURES[2]).transform(columns([0] * 4, mcc=hashes)).hashed
    assert codes[:, 0].tolist() == expected


def test_window_features_follow_their_definition() -> None:
    """Counts, sums and means over (t - w, t], ratio to the mean, seconds since the last event."""
    s = stage(FEATURES[4])
    times = [0, DAY // 2, DAY, 3 * DAY]
    batch = s.transform(columns(times, [10.0, 30.0, NAN, 50.0]))
    got = dict(zip(s.schema.dense, batch.dense.T.tolist(), strict=True))
    assert got["customer_count_1d"] == [1, 2, 2, 1]
    assert got["customer_sum_7d"] == [10, 40, 40, 90]
    assert got["customer_mean_1d"] == [10, 20, 30, 50]
    assert got["customer_ratio_7d"] == pytest.approx([1, 1.5, 1, 50 / 30])
    assert got["customer_since_last"] == [7 * 86_400, 43_200, 43_200, 2 * 86_400]


def test_least_and_greatest_values_of_a_window() -> None:
    """`min` and `max` cover what `mean` covers, and come only where they are asked for."""
    s = stage(FEATURES[4] | {"windows": ["1d"], "stats": ["max", "min"]})
    batch = s.transform(columns([0, DAY // 2, DAY, 3 * DAY], [10.0, 30.0, 20.0, NAN]))
    assert batch.dense.tolist() == [[10, 10], [30, 10], [30, 20], [0, 0]]


def test_missing_entities_have_no_history() -> None:
    """Key 0 gives zeros (ratio 1) and is kept nowhere."""
    s = stage(FEATURES[4])
    batch = s.transform(columns([0, 1], [10.0, 30.0], customer=[0, 0]))
    assert batch.dense.tolist() == [[0.0] * 6 + [1.0, 1.0, 0.0]] * 2
    assert s.gauges()["customer.entities"] == 0


def test_risk_knows_only_what_labels_told() -> None:
    """A known positive counts once it is older than the delay, and no longer than its window."""
    s = stage(FEATURES[5])
    s.transform(columns([0, 1]))
    s.label(np.array([[1]], np.uint64), np.array([1]), np.array([1], np.int8))
    assert dense(s, columns([2 * DAY - 1, 2 * DAY + 1]), "terminal_risk_7d") == [0, 0.5]
    assert dense(s, columns([3 * DAY + 1]), "terminal_risk_1d") == [0]
    s.label(np.array([[1]], np.uint64), np.array([1]), np.array([-1], np.int8))
    assert dense(s, columns([3 * DAY + 2]), "terminal_risk_7d") == [0]


def test_seconds_since_the_first_known_positive() -> None:
    """Counted from the earliest known positive's event time; delay plus window without one."""
    s = stage(FEATURES[5])
    name = "terminal_since_first_known"
    assert dense(s, columns([5_000, 9_000]), name) == [9 * 86_400] * 2
    for t in (9_000, 5_000):
        s.label(np.array([[1]], np.uint64), np.array([t]), np.array([1], np.int8))
    assert dense(s, columns([10_000]), name) == [5]
    s.label(np.array([[1]], np.uint64), np.array([5_000]), np.array([-1], np.int8))
    assert dense(s, columns([10_000]), name) == [1]


def test_features_of_one_entity_and_value_share_a_table() -> None:
    """Two features hold one table, and each still caps its own `since_last`."""
    short = FEATURES[4] | {"name": "short", "windows": ["1h"], "stats": ["count", "since_last"]}
    s, alone = stage(FEATURES[4], short), stage(short)
    events = columns([0, DAY, DAY + 60_000])
    batch, only = s.transform(events), alone.transform(events)
    assert batch.dense[:, -2:].tolist() == only.dense.tolist()
    assert {g.split(".")[0] for g in s.gauges()} == {"customer"}


EVENT = st.tuples(
    st.integers(0, 20 * DAY),
    st.sampled_from([1.5, 20.0, 1e6, -3.0, NAN]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 2**64 - 1),
)


def to_columns(events: list[Any]) -> EventColumns:
    """Columns of drawn events."""
    fields = [list(f) for f in zip(*events, strict=True)] or [[]] * 5
    return columns(*fields)


def label_some(s: FeatureStage, events: EventColumns) -> None:
    """Every second event becomes known positive, every fourth is taken back."""
    for step, delta in ((2, 1), (4, -1)):
        keys = np.stack([events.entities[f][::step] for f in s.entity_fields], axis=1)
        times = events.event_time_ms[::step]
        s.label(keys, times, np.full(len(times), delta, np.int8))


@given(st.lists(EVENT, max_size=100))
@settings(max_examples=30)
def test_batches_do_not_matter(events: list[Any]) -> None:
    """One batch of all events gives the very bits, and state, of as many batches of one."""
    whole, single = stage(), stage()
    all_ = to_columns(events)
    batch = whole.transform(all_)
    for i in range(len(events)):
        one = single.transform(rows(all_, slice(i, i + 1)))
        assert one.dense[0].tobytes() == batch.dense[i].tobytes()
        assert one.hashed[0].tobytes() == batch.hashed[i].tobytes()
    assert whole.digest() == single.digest()


@given(st.lists(st.lists(EVENT, max_size=10), max_size=8), st.sets(st.integers(0, 7)))
@settings(max_examples=30)
def test_save_and_restore_leave_no_trace(batches: list[list[Any]], saves: set[int]) -> None:
    """A stage restored in mid-stream goes on with the same bits and ends with the same digest."""
    straight, interrupted = stage(), stage()
    for i, events in enumerate(batches):
        batch = to_columns(events)
        results = []
        for s in (straight, interrupted):
            results.append(s.transform(batch).dense.tobytes())
            label_some(s, batch)
        assert results[0] == results[1]
        if i in saves:
            saved = interrupted.state()
            interrupted = stage()
            interrupted.restore(saved)
            assert interrupted.digest() == straight.digest()
    assert straight.digest() == interrupted.digest()


def test_a_state_is_a_copy() -> None:
    """What a checkpoint writes does not change while the stage goes on."""
    s = stage()
    s.transform(columns([0, 1]))
    saved, before = s.state(), s.digest()
    s.transform(columns([2, 3]))
    other = stage()
    other.restore(saved)
    assert other.digest() == before


def test_columns_of_one_name_are_refused() -> None:
    """The stage says which column comes twice."""
    with pytest.raises(FeatureError, match="amount twice"):
        stage(FEATURES[0], FEATURES[0])


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"windows": ["1d", "24h"]}, ("windows",), "different lengths above 0"),
        ({"windows": ["0d"]}, ("windows",), "different lengths above 0"),
        ({"value": None}, ("value",), "expected a number field for"),
    ],
)
def test_contradictory_features_are_refused(
    change: dict[str, Any], place: tuple[str, ...], message: str
) -> None:
    """The settings name the key and say why."""
    with pytest.raises(ValidationError, match=message) as caught:
        stage(FEATURES[4] | change)
    assert [e["loc"][-1:] for e in caught.value.errors()] == [place]


def test_another_configuration_keeps_what_still_fits() -> None:
    """Numbers and tables of the same kind go on, whatever the feature's name, place or statistics;
    a table with another window starts new."""
    changed = FEATURES[4] | {"windows": ["1d", "8d"]}
    old, new = stage(), stage(FEATURES[1], changed, FEATURES[5] | {"name": "t", "stats": ["count"]})
    old.transform(columns([0, 1, 2], [1.0, 2.0, 4.0]))
    new.restore(old.state())
    same = {n for n, kind in new.memories().items() if kind in old.memories().values()}
    assert same == {"scaled", "t"}
    row = dict(zip(new.schema.dense, new.transform(columns([2 * DAY])).dense[0], strict=True))
    assert (row["t_count_7d"], row["customer_count_8d"]) == (1, 1)
    assert row["scaled"] == pytest.approx((1 - 2) / np.std([1, 2, 4, 1]))


def test_how_much_a_table_may_hold_is_a_setting() -> None:
    """Of two tables that differ in it alone each finds its own; what is too much now goes first."""
    small, large = (FEATURES[4] | {"name": n, "max_entities": m} for n, m in (("s", 2), ("l", 9)))
    old = stage(small, large)
    old.transform(columns([0, 1, 2, 3], customer=[1, 2, 3, 4]))
    new = stage(large | {"max_entities": 3}, small | {"max_entities": 8})
    new.restore(old.state())
    assert [new.gauges()[f"{n}.entities"] for n in "ls"] == [4, 2]
    seen = new.transform(columns([4, 5], customer=[5, 4]))
    assert [new.gauges()[f"{n}.entities"] for n in "ls"] == [3, 3]
    assert new.gauges()["l.evicted"] == 2
    row = dict(zip(new.schema.dense, seen.dense[1], strict=True))
    assert (row["l_count_1d"], row["s_count_1d"]) == (2, 2)


def test_labels_must_bring_a_key_for_each_entity_field() -> None:
    """A label of another shape is refused before anything changes."""
    with pytest.raises(ValueError, match="expected shape"):
        stage().label(np.ones((1, 2), np.uint64), np.zeros(1, np.int64), np.ones(1, np.int8))


def test_a_look_sees_each_event_alone_and_keeps_nothing() -> None:
    """As the transform of a stage that has taken none of the others."""
    one = stage()
    one.transform(columns([0, DAY], [3.0, 5.0], [1, 2], [1, 1]))
    before = one.digest()
    asked = columns([2 * DAY] * 3, [4.0, NAN, 9.0], [1, 1, 2], [1, 0, 1])
    looked = one.look(asked)
    assert one.digest() == before
    for i in range(3):
        again = stage()
        again.restore(one.state())
        alone = again.transform(
            EventColumns(
                asked.event_time_ms[i : i + 1],
                *(
                    {name: column[i : i + 1] for name, column in side.items()}
                    for side in (asked.numbers, asked.categories, asked.entities)
                ),
            )
        )
        assert looked.dense[i].tolist() == alone.dense[0].tolist()
        assert looked.hashed[i].tolist() == alone.hashed[0].tolist()
