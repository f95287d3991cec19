"""What the live page is fed with: points, rates, quantiles and marks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.drift.monitor import DriftReading
from monitoring.histogram import DURATION_BOUNDS_S, Histogram
from monitoring.show.readings import Readings
from stream.contract.letters import DeadLetter
from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, Record
from stream.http.live.page import LATEST, POINTS, RECENT, PageView, quantile


def readings(alarms: int = 0, scored: int = 0) -> Readings:
    """Readings with one detector's alarms."""
    drift = [DriftReading("betting", "ensemble", 0.1, 0.2, alarms)]
    return replace(Readings("fraud", ("linear",)), drift=drift, scored=scored)


@given(st.lists(st.floats(0.0001, 9.9), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_its_values_bin(values: list[float], q: float) -> None:
    """The quantile falls between the bounds around the value of that rank."""
    histogram = Histogram(DURATION_BOUNDS_S)
    histogram.observe_many(np.array(values))
    found = quantile(histogram.bounds, histogram.counts, q)
    exact = np.quantile(values, q, method="inverted_cdf")
    bounds = (0.0, *DURATION_BOUNDS_S)
    upper = next(b for b in DURATION_BOUNDS_S if exact <= b)
    assert found is not None
    assert bounds[bounds.index(upper) - 1] <= found <= upper


def test_no_values_have_no_quantile_and_large_ones_the_last_bound() -> None:
    """Nothing is made up: ``None`` without values, the last bound for what lies over it."""
    assert quantile((1.0, 2.0), np.array([0, 0, 0]), 0.5) is None
    assert quantile((1.0, 2.0), np.array([0, 0, 5]), 0.5) == 2.0


def test_a_mark_stands_where_alarms_were_new() -> None:
    """Only alarms since the point before are marked; those of before the first are not."""
    view = PageView()
    for alarms in (3, 3, 4, 4):
        view.add_point(readings(alarms))
    assert [p["drift"] for p in view.history()["points"]] == [[], [], [("betting", "ensemble")], []]


def test_drift_of_a_second_stage_is_told_under_a_name_of_its_own() -> None:
    """Beside that of the recommender, whose signal has the same name; marked alike."""
    view = PageView(ranks=True)
    for alarms in (0, 2):
        found = replace(readings(), task="ranking", beside=readings(alarms))
        view.add_point(found)
    assert [row[1] for row in view.snapshot(found)["drift"]] == [
        "ensemble",
        "ensemble over candidates",
    ]
    marked = [p["drift"] for p in view.history()["points"]]
    assert marked == [[], [("betting", "ensemble over candidates")]]


def test_the_ring_is_bounded_and_a_snapshot_repeats_its_end() -> None:
    """Ten minutes are kept; a snapshot carries the newest points of them."""
    view = PageView()
    for _ in range(POINTS + 5):
        view.add_point(readings())
    points = view.history()["points"]
    assert len(points) == POINTS
    assert view.snapshot(readings())["points"] == points[-RECENT:]


def test_rates_are_differences_over_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events a second between the oldest and the newest publication of ten seconds."""
    view, now = PageView(), [0.0]
    monkeypatch.setattr("stream.http.live.page.time.monotonic", lambda: now[0])
    step = Histogram(DURATION_BOUNDS_S)
    assert view.rates()["events_per_s"] == 0
    for second in range(60):
        now[0] = float(second)
        view.published(readings(scored=second * 50 if second < 50 else 2450), step)
    assert view.rates()["events_per_s"] == 0
    view.published(readings(scored=2450 + 1000), step)
    assert view.rates()["events_per_s"] == pytest.approx(100)
    assert view.rates()["step"] == [None, None]


def test_dead_letters_are_shown_without_their_bytes() -> None:
    """Reason, error and place; a payload is for operators only."""
    view = PageView()
    bad = [DeadLetter(Record("events", 0, i, None, b"secret"), "schema", "why") for i in range(30)]
    journal = JournalRecord(1, 0, "")
    view.committed(Outputs([], bad, [], journal))
    shown = view.snapshot(readings())["last_dead_letters"]
    assert len(shown) == LATEST
    assert shown[-1] == {
        "reason": "schema",
        "error": "why",
        "topic": "events",
        "partition": "0",
        "offset": "29",
    }
