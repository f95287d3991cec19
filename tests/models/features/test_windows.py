"""The entity windows against a brute-force oracle, and their state across save and restore."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import StateError, state_digest
from models.features.windows import EntityWindows
from tests.support.window_oracle import Oracle

NAN = float("nan")


def one(table: EntityWindows, key: int, t: int, v: float) -> list[float]:
    """Statistics of a batch of one."""
    row = table.update(np.array([key], np.uint64), np.array([t]), np.array([v]))
    return [float(x) for x in row[0]]


def mark_one(table: EntityWindows, key: int, t: int, delta: int) -> None:
    """Mark a batch of one."""
    table.mark(np.array([key], np.uint64), np.array([t]), np.array([delta], np.int8))


def lost(table: EntityWindows) -> dict[str, float]:
    """The gauges that count losses."""
    found = table.gauges()
    return {k: found[k] for k in ("evicted", "expired", "late", "truncated", "unmatched")}


KEYS = st.integers(0, 4)
TIMES = st.integers(0, 400)
VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(NAN), st.just(0.1), st.just(3e30))
WINDOWS = st.lists(st.integers(1, 150), min_size=1, max_size=4)


@given(
    WINDOWS,
    st.integers(1, 4),
    st.sampled_from([2, 4, 16, 1024]),
    st.lists(st.tuples(KEYS, TIMES, VALUES), max_size=80),
    st.booleans(),
)
@settings(max_examples=150)
def test_windows_equal_brute_force(
    windows: list[int], most: int, cap: int, events: list[Any], in_order: bool
) -> None:
    """Every statistic equals that of plain lists: late, tied, evicted, truncated or not."""
    if in_order:
        events = sorted(events, key=lambda e: e[1])
    table = EntityWindows(windows, max_entities=most, ring_cap=cap, extremes=True)
    oracle = Oracle(windows, 0, True, most, cap, extremes=True)
    for key, t, v in events:
        got, expected = one(table, key, t, v), oracle.update(key, t, v)
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-6), (key, t, v)
    assert lost(table) == oracle.lost
    assert table.gauges()["entities"] == len(oracle.entities)


LABELS = st.tuples(st.just("label"), KEYS, TIMES, st.sampled_from([1, 1, -1]))
EVENTS = st.tuples(st.just("event"), KEYS, TIMES, st.just(0))


@st.composite
def risk_history(draw: Any) -> list[tuple[str, int, int, int]]:
    """Events and labels; most labels name an event that came before them."""
    steps: list[tuple[str, int, int, int]] = []
    clock = 0
    for _ in range(draw(st.integers(0, 70))):
        past = [s for s in steps if s[0] == "event"]
        if past and draw(st.booleans()):
            _, key, t, _ = draw(st.sampled_from(past))
            steps.append(("label", key, t, draw(st.sampled_from([1, 1, -1]))))
        elif draw(st.integers(0, 9)) == 0:
            steps.append(draw(st.one_of(LABELS, EVENTS)))
        else:
            clock += draw(st.integers(0, 20))
            steps.append(("event", draw(KEYS), clock, 0))
    return steps


@given(
    WINDOWS, st.integers(0, 60), st.integers(1, 4), st.sampled_from([2, 8, 1024]), risk_history()
)
@settings(max_examples=250)
def test_risk_equals_brute_force(
    windows: list[int], delay: int, most: int, cap: int, steps: list[Any]
) -> None:
    """Known positives over delayed windows, marked and taken back before, in and after them."""
    table = EntityWindows(windows, delay_ms=delay, own_event=False, max_entities=most, ring_cap=cap)
    oracle = Oracle(windows, delay, False, most, cap)
    for kind, key, t, delta in steps:
        if kind == "label":
            mark_one(table, key, t, delta)
            oracle.mark(key, t, delta)
        else:
            assert one(table, key, t, 0.0) == oracle.update(key, t, 0.0), (key, t)
    assert lost(table) == oracle.lost


@given(
    st.booleans(),
    st.lists(
        st.lists(st.tuples(KEYS, TIMES, st.floats(-1e3, 1e3), st.booleans()), max_size=12),
        max_size=12,
    ),
    st.sets(st.integers(0, 11)),
)
@settings(max_examples=100)
def test_save_and_restore_leave_no_trace(
    risk: bool, batches: list[list[Any]], saves: set[int]
) -> None:
    """Restored at any points of the stream, a table has the digest and results of another."""

    def fresh() -> EntityWindows:
        return EntityWindows(
            [20, 90], delay_ms=7 * risk, own_event=not risk, max_entities=3, ring_cap=8
        )

    straight, interrupted = fresh(), fresh()
    for i, batch in enumerate(batches):
        keys = np.array([b[0] for b in batch], np.uint64)
        times = np.array([b[1] for b in batch], np.int64)
        values = np.array([0.0 if risk else b[2] for b in batch], np.float64)
        delta = np.array([1 if b[3] else -1 for b in batch], np.int8)
        results = []
        for table in (straight, interrupted):
            results.append(table.update(keys, times, values))
            if risk:
                table.mark(keys, times, delta)
        assert results[0].tobytes() == results[1].tobytes()
        if i in saves:
            state = interrupted.state()
            interrupted = fresh()
            interrupted.restore(state)
    assert state_digest(straight.state()) == state_digest(interrupted.state())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99_999), st.floats(0, 1e9))))
@settings(max_examples=50)
def test_batches_do_not_matter(events: list[Any]) -> None:
    """One batch of all events gives the very bits of as many batches of one."""
    whole, single = (
        EntityWindows([500, 20_000], max_entities=5),
        EntityWindows([500, 20_000], max_entities=5),
    )
    keys = np.array([e[0] for e in events], np.uint64)
    times = np.array([e[1] for e in events], np.int64)
    values = np.array([e[2] for e in events], np.float64)
    rows = [one(single, *event) for event in events]
    assert whole.update(keys, times, values).tolist() == rows
    assert state_digest(whole.state()) == state_digest(single.state())


def test_long_runs_do_not_drift() -> None:
    """After 200,000 events of widely different size, sums are within 1e-9 of a fresh summation."""
    rng = np.random.default_rng(3)
    n, window = 200_000, 300
    values = np.exp(rng.normal(0, 4, n)) * rng.choice([1.0, 1e25], n, p=[0.999, 0.001])
    times = np.arange(n)
    out = EntityWindows([window]).update(np.ones(n, np.uint64), times, values)
    for i in range(window, n, 997):
        assert out[i, 1] == pytest.approx(math.fsum(values[i - window + 1 : i + 1]), rel=1e-9)


def test_a_giant_that_leaves_takes_nothing_along() -> None:
    """Small values summed beside 1e38 are whole again once it is out of the window."""
    table = EntityWindows([10])
    for t, v in ((0, 0.1), (1, 1e38), (2, 0.2), (5, -1e38), (9, 0.3)):
        one(table, 1, t, v)
    assert one(table, 1, 15, 0.4)[1] == 0.3 + 0.4


@pytest.mark.parametrize("v", [math.inf, -math.inf, 1e308, -1e308, 5e-324, NAN])
def test_statistics_are_finite_for_any_value(v: float) -> None:
    """Infinite and huge values are clipped, missing ones counted as events only."""
    table = EntityWindows([10, 100])
    rows = [one(table, 1, t, v) for t in range(50)]
    assert np.isfinite(rows).all()
    assert one(table, 1, 50, 1.0)[:2] == [10.0, 51.0]


def test_extreme_times_are_safe() -> None:
    """The ends of int64 are clipped rather than wrapped."""
    table = EntityWindows([1000])
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    assert [one(table, 1, t, 1.0)[0] for t in (low, low, high, high, low)] == [1, 2, 1, 2, 1]
    assert table.gauges()["late"] == 1


def test_the_old_end_is_open() -> None:
    """An event exactly one window old is out; one a millisecond younger is in."""
    table = EntityWindows([10])
    one(table, 1, 0, 1.0)
    assert one(table, 1, 9, 1.0)[0] == 2
    assert one(table, 1, 10, 1.0)[0] == 2


def test_a_delay_of_zero_leaves_the_event_itself_out() -> None:
    """Risk without a delay counts events of the same time that came before, not the event."""
    table = EntityWindows([10], delay_ms=0, own_event=False)
    assert [one(table, 1, 5, 0.0)[0] for _ in range(3)] == [0, 1, 2]


def test_many_entities_come_and_go() -> None:
    """Growth, eviction and reuse of slots and blocks keep every entity's statistics right."""
    rng = np.random.default_rng(5)
    n, most = 30_000, 700
    keys = rng.integers(1, 3_000, n).astype(np.uint64)
    times = np.cumsum(rng.integers(0, 3, n))
    values = rng.normal(50, 20, n)
    table = EntityWindows([500, 4_000], max_entities=most, ring_cap=16)
    oracle = Oracle([500, 4_000], 0, True, most, 16)
    out = table.update(keys, times, values)
    for i in range(n):
        expected = oracle.update(int(keys[i]), int(times[i]), float(values[i]))
        assert out[i].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert lost(table) == oracle.lost
    assert oracle.lost["evicted"] > 1000


def test_forgetting_the_outdated_is_invisible() -> None:
    """Events in order of time get the same statistics whether or not idle entities were let go."""
    rng = np.random.default_rng(9)
    n = 5_000
    keys = rng.integers(1, 400, n).astype(np.uint64)
    times = np.cumsum(rng.integers(0, 3, n))
    table = EntityWindows([50, 300])
    out = table.update(keys, times, np.ones(n))
    history: dict[int, list[int]] = {}
    for i in range(n):
        past = history.setdefault(int(keys[i]), [])
        past.append(int(times[i]))
        assert out[i, :2].tolist() == [sum(t > times[i] - w for t in past) for w in (50, 300)]
    assert table.gauges()["expired"] > 100
    assert table.gauges()["evicted"] == 0


def test_a_full_ring_drops_its_oldest_and_counts_it() -> None:
    """At the default bound of one entity's ring the count stays there and the loss is counted."""
    table = EntityWindows([10**9])
    n = (1 << 16) + 10
    out = table.update(np.ones(n, np.uint64), np.arange(n), np.ones(n))
    assert out[-1, :2].tolist() == [1 << 16, 1 << 16]
    assert table.gauges()["truncated"] == 10


def test_blocks_shrink_when_an_entity_calms_down() -> None:
    """A burst's large block is given back, and taken by the next burst."""
    table = EntityWindows([1_000])
    for round_ in range(5):
        for key in (1, 2, 3):
            t = np.arange(512) + round_ * 100_000 + key * 10_000
            table.update(np.full(512, key, np.uint64), t, np.ones(512))
            calm = (np.arange(12) + 2) * 1_000 + t[-1]
            table.update(np.full(12, key, np.uint64), calm, np.ones(12))
    assert len(table.state()["times"]) <= 2 * 1024


def test_a_state_of_another_shape_is_refused() -> None:
    """Restoring windows of other lengths says what was expected."""
    with pytest.raises(StateError, match="windows_ms"):
        EntityWindows([5]).restore(EntityWindows([6]).state())


@given(
    st.lists(st.tuples(KEYS, st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(0, 60),
    st.integers(1, 5),
    st.integers(1, 5),
)
@settings(max_examples=60)
def test_a_changed_bound_holds_from_the_next_new_entity_on(
    steps: list[tuple[int, int]], cut: int, before: int, after: int
) -> None:
    """A table with another bound gives the statistics of an oracle whose bound changes there."""
    table, oracle = (
        EntityWindows([150], max_entities=before),
        Oracle([150], 0, True, before, 65_536),
    )
    for i, (key, gap) in enumerate(steps):
        if i == cut:
            state = table.state()
            table = EntityWindows([150], max_entities=after)
            table.restore(state)
            oracle.most = after
        t = 3 * i + gap
        assert one(table, key, t, 1.0) == pytest.approx(oracle.update(key, t, 1.0))
    assert table.gauges()["entities"] == len(oracle.entities)


def test_a_truncated_state_is_refused() -> None:
    """An array of another length than the counters say is named."""
    table = EntityWindows([5])
    one(table, 1, 1, 1.0)
    state = table.state()
    state["keys"] = state["keys"][:0]
    with pytest.raises(StateError, match=r"windows\.keys"):
        table.restore(state)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"windows_ms": []}, "windows_ms"),
        ({"windows_ms": [0]}, "windows_ms"),
        ({"windows_ms": [1], "delay_ms": 5}, "delay_ms"),
        ({"windows_ms": [1], "ring_cap": 3}, "ring_cap"),
        ({"windows_ms": [1], "max_entities": 0}, "max_entities"),
    ],
)
def test_impossible_arguments_are_named(arguments: dict[str, Any], word: str) -> None:
    """The constructor names the argument that cannot be."""
    with pytest.raises(ValueError, match=word):
        EntityWindows(**arguments)


def test_other_deltas_and_ragged_columns_are_refused() -> None:
    """Compiled code never sees what it could not index."""
    table = EntityWindows([5], own_event=False)
    with pytest.raises(ValueError, match="delta"):
        mark_one(table, 1, 1, 0)
    with pytest.raises(ValueError, match="columns"):
        table.update(np.ones(2, np.uint64), np.ones(1, np.int64), np.ones(2))


LOOKS = st.lists(
    st.one_of(
        st.tuples(st.just("event"), KEYS, st.integers(0, 40), VALUES),
        st.tuples(st.just("mark"), KEYS, st.integers(0, 400), st.just(1)),
    ),
    max_size=60,
)


@given(WINDOWS, st.sampled_from([None, 0, 7]), LOOKS)
@settings(max_examples=150)
def test_a_look_tells_what_the_event_will_be_told(
    windows: list[int], delay: int | None, steps: list[Any]
) -> None:
    """Bit for bit, of each event by itself; and it leaves no trace."""
    own = delay is None
    table = EntityWindows(windows, delay_ms=delay or 0, own_event=own, extremes=own)
    t, every = 0, np.arange(5, dtype=np.uint64)
    for kind, key, at, v in steps:
        if kind == "mark":
            mark_one(table, key, at, 1)
            continue
        t, v = t + at, v if own else 0.0
        before = state_digest(table.state())
        looked = table.look(every, np.full(5, t), np.full(5, v))
        assert state_digest(table.state()) == before
        assert looked[key].tolist() == one(table, key, t, v)


def test_a_late_event_is_looked_at_as_of_the_newest() -> None:
    """What came later than it is seen."""
    table = EntityWindows([10])
    one(table, 1, 100, 5.0)
    looked = table.look(np.array([1], np.uint64), np.array([50]), np.array([2.0]))
    assert looked[0].tolist() == [2.0, 7.0, 3.5, 0.0, 0.01]


@given(
    WINDOWS,
    st.sampled_from([None, 0, 7]),
    st.sampled_from([2, 4, 1024]),
    st.lists(
        st.one_of(
            st.tuples(st.just("event"), KEYS, TIMES, VALUES),
            st.tuples(st.just("mark"), KEYS, TIMES, st.just(1)),
        ),
        max_size=60,
    ),
)
@settings(max_examples=150)
def test_what_is_foreseen_is_what_the_event_is_told(
    windows: list[int], delay: int | None, cap: int, steps: list[Any]
) -> None:
    """Bit for bit, of late events and full rings too, whoever else is held; it leaves no trace."""
    own = delay is None
    table = EntityWindows(
        windows, delay_ms=delay or 0, own_event=own, extremes=own, ring_cap=cap, max_entities=3
    )
    every = np.arange(5, dtype=np.uint64)
    for kind, key, t, v in steps:
        if kind == "mark":
            mark_one(table, key, t, 1)
            continue
        v = v if own else 0.0
        before = state_digest(table.state())
        foreseen = table.foresee(every, np.full(5, t), np.full(5, v))
        assert state_digest(table.state()) == before
        assert foreseen[key].tolist() == one(table, key, t, v)
