"""Local time in zones, and the calendar in them, against Python's datetime and the tz database."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from models.base import EventColumns
from models.features.stage import FeatureStage
from models.settings import CalendarFeature
from models.zones import _STRIDE_S, LocalClock, names, zone

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HARD = ("Europe/Paris", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Monrovia",
        "Africa/Casablanca", "Pacific/Apia", "Asia/Gaza", "America/Recife", "UTC")  # fmt: skip
"""Half-hour saving, seconds of an offset, saving against the sun, a day left out, a short stay."""


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def calendar(name: str, *moments: datetime) -> list[list[float]]:
    """Hour and weekday of each moment as the feature stage gives them."""
    feature = CalendarFeature(name="c", type="calendar", parts=("hour", "weekday"), zone=name)
    times = np.array([ms(m) for m in moments])
    return FeatureStage([feature]).transform(EventColumns(times, {}, {}, {})).dense.tolist()


@given(
    moments=st.lists(
        st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 30), timezones=st.just(UTC)),
        min_size=1,
    ),
    name=st.sampled_from(HARD),
)
@settings(max_examples=200)
def test_the_calendar_in_a_zone_equals_datetime(moments: list[datetime], name: str) -> None:
    """Hour and weekday are those of Python's datetime in that zone, for all years."""
    local = [m.astimezone(zone(name)) for m in moments]
    assert calendar(name, *moments) == [[m.hour, m.weekday()] for m in local]


@pytest.mark.parametrize(
    ("name", "change", "hours"),
    [
        ("Europe/Paris", datetime(2026, 3, 29, 1, tzinfo=UTC), [1, 3]),
        ("Europe/Paris", datetime(2026, 10, 25, 1, tzinfo=UTC), [2, 2]),
        ("Africa/Monrovia", datetime(1972, 1, 7, 0, 44, 30, tzinfo=UTC), [23, 0]),
        ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC), [23, 0]),
        ("Europe/Paris", datetime(2426, 3, 29, 1, tzinfo=UTC), [1, 3]),
        ("Europe/Paris", datetime(9998, 3, 29, 1, tzinfo=UTC), [1, 3]),
    ],
)
def test_an_offset_changes_at_its_very_millisecond(
    name: str, change: datetime, hours: list[int]
) -> None:
    """The hour one millisecond before the change, and at it."""
    got = calendar(name, change - timedelta(milliseconds=1), change)
    assert [hour for hour, _ in got] == hours


def test_no_zone_changes_twice_within_a_stride() -> None:
    """Of all changes that the tz database lists since 1970, none can be stepped over."""
    for name in names():
        changes = [at for at in listed_changes(name) if at >= 0]
        assert np.diff(changes).min(initial=2**62) > _STRIDE_S, name
        assert max(changes, default=0) < datetime(2100, 1, 1, tzinfo=UTC).timestamp(), name


def listed_changes(name: str) -> list[int]:
    """Epoch seconds at which the offset changes, as the second block of a TZif file lists them."""
    raw = files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()

    def counts(at: int) -> tuple[int, ...]:
        return struct.unpack(">6l", raw[at + 20 : at + 44])

    utc, std, leap, n, types, chars = counts(0)
    block = 44 + n * 5 + types * 6 + chars + leap * 8 + std + utc
    *_, n, types, _ = counts(block)
    at = block + 44
    times = struct.unpack(f">{n}q", raw[at : at + 8 * n])
    offsets = [struct.unpack(">l", raw[o : o + 4])[0]
               for o in range(at + 9 * n, at + 9 * n + 6 * types, 6)]  # fmt: skip
    used = [offsets[i] for i in raw[at + 8 * n : at + 9 * n]]
    return [t for t, one, other in zip(times[1:], used, used[1:], strict=False) if one != other]


def test_zones_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A zone is read although the machine's own database has none."""
    monkeypatch.setattr("zoneinfo.TZPATH", ())
    assert zone("Europe/Berlin").key == "Europe/Berlin"
    assert isinstance(zone("Europe/Berlin"), ZoneInfo)
    assert len(LocalClock("Etc/UTC").local_ms(np.array([0, 5]))) == 2


@pytest.mark.parametrize("name", ["Europe/Pari", "../../etc/passwd", "", "europe/paris"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    """By the list of names, before any file is looked for."""
    with pytest.raises(ValidationError, match="expected a time zone"):
        TypeAdapter(CalendarFeature).validate_python(
            {"name": "c", "type": "calendar", "zone": name}
        )


def test_a_zone_and_an_offset_exclude_each_other() -> None:
    """Two clocks for one calendar are a mistake."""
    with pytest.raises(ValidationError, match="beside utc_offset"):
        CalendarFeature(name="c", type="calendar", zone="UTC", utc_offset=60)
