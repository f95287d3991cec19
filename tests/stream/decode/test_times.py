"""Times: what each format takes, against datetime and exact decimals, and what it refuses."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import jsonschema_rs
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.contract.records import Record
from stream.decode.codec import Codec
from stream.decode.times import LATEST_MS, TIME_RULES, BadTime, time_rule
from stream.run.assemble import build_engine
from stream.settings.schema import TimeFormat
from stream.tools.evaluate import Evaluation
from stream.tools.files import read_rows
from tests.support.factory import START_MS, config, event

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NUMBERS = ("s", "ms")
MOMENTS = st.integers(0, LATEST_MS)
ZONES = st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m)))
NO_TIME = [
    *("1e308", "-1e308", "1e999", "-1", "-0.001", "9" * 30, "9" * 400, "9" * 5000),
    *("true", "null", '""', '"soon"', "[]", "{}", '"1e3"'),
    *('"2026-01-01T00:00:00"', '"2026-01-01"', '"2026-02-30T00:00:00Z"', '"1969-12-31T23:59:59Z"'),
    *('"2016-12-31T23:59:60Z"', '"2026-01-01T24:00:00Z"', '"9999-12-31T23:59:59-01:00"'),
]
"""JSON values that no format takes."""


def nearest(seconds: Decimal) -> int:
    """Milliseconds, without a binary fraction on the way."""
    return int((seconds * 1000).quantize(Decimal(1), ROUND_HALF_UP))


@given(ms=MOMENTS)
def test_every_millisecond_can_be_written_in_numbers(ms: int) -> None:
    """Whole milliseconds with or without a point, and seconds with three decimals."""
    assert TIME_RULES["ms"].read(b"%d" % ms) == ms
    assert TIME_RULES["ms"].read(b"%d.0" % ms) == ms
    assert TIME_RULES["s"].read(b"%d.%03d" % divmod(ms, 1000)) == ms
    assert TIME_RULES["s"].read(json.dumps(ms / 1000).encode()) == ms


@given(ns=st.integers(0, 2**63 - 1))
def test_finer_units_go_to_the_nearest_millisecond(ns: int) -> None:
    """Microseconds and nanoseconds, without a binary fraction on the way."""
    assert TIME_RULES["ns"].read(b"%d" % ns) == nearest(Decimal(ns).scaleb(-9))
    us = ns // 1000
    assert TIME_RULES["us"].read(b"%d" % us) == nearest(Decimal(us).scaleb(-6))


@given(ms=st.integers(0, 10**13))
def test_digits_in_text_are_the_number(ms: int) -> None:
    """Every unit may be written in text: writers whose numbers are doubles do."""
    for unit, per_ms in (("ms", 1), ("us", 1000)):
        text = b'"%d"' % (ms * per_ms)
        assert TIME_RULES[unit].read(text) == ms
    assert TIME_RULES["ns"].read(b'"%d"' % (ms // 2 * 1_000_000)) == ms // 2
    assert TIME_RULES["s"].read(b'"%d.%03d"' % divmod(ms, 1000)) == ms


@given(
    counts=st.lists(st.integers(0, 2**63 - 1) | st.sampled_from([0, 2**63 - 1]), max_size=8),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
def test_numbers_at_once_are_each_alone(counts: list[int], unit: str) -> None:
    """Halves of a millisecond and the ends of the years among them."""
    rule = TIME_RULES[unit]
    most = {"s": LATEST_MS, "ms": LATEST_MS, "us": LATEST_MS * 1000, "ns": 2**63 - 1}[unit]
    values = [n % (most + 1) for n in counts]
    if unit in NUMBERS:
        values = [n / 1000 if unit == "s" else float(n) for n in values]  # type: ignore[misc]
    if unit == "s":
        values += [0.0005, 0.0015, 0.0025]  # type: ignore[list-item]
    for some in (values, [*values, "7"]):
        assert rule.all_ms(some).tolist() == [rule.to_ms(value) for value in some]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(
    "text", ["-1", "+1", " 1", "1_0", "1e3", "1.", "0x1", "١", "9" * 20, "1\n"]
)
def test_other_text_is_no_number(unit: str, text: str) -> None:
    """What Python's own int would take is refused all the same."""
    with pytest.raises(BadTime):
        TIME_RULES[unit].read(f'"{text}"'.encode())


PATTERNS = ("%d.%m.%Y %H:%M:%S", "%Y%m%d%H%M%S", "%m/%d/%Y %I:%M:%S %p", "%d/%b/%Y:%H:%M:%S.%f")
CLOCKS = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")


@given(
    ms=st.integers(0, 253_370_764_800_000 // 1000).map(lambda s: s * 1000),
    pattern=st.sampled_from(PATTERNS),
    clock=st.sampled_from(CLOCKS),
)
def test_a_pattern_in_a_zone_is_read_as_datetime_reads_it(
    ms: int, pattern: str, clock: str
) -> None:
    """What the zone's clock showed gives the moment back; of two with one reading the first."""
    tz = ZoneInfo(clock)
    local = (EPOCH + timedelta(milliseconds=ms)).astimezone(tz)
    text = json.dumps(local.strftime(pattern)).encode()
    first = (local.replace(fold=0).astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)
    assert time_rule(pattern, clock).read(text) == first
    assert first in (ms, ms - 1_800_000, ms - 3_600_000)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("29.03.2026 01:59", "2026-03-29T00:59"),
        ("29.03.2026 02:30", "2026-03-29T01:30"),
        ("29.03.2026 03:00", "2026-03-29T01:00"),
        ("25.10.2026 02:30", "2026-10-25T00:30"),
        ("25.10.2026 03:00", "2026-10-25T02:00"),
    ],
)
def test_hours_that_come_twice_or_never_follow_one_rule(text: str, utc: str) -> None:
    """The first of two; a skipped one by the offset before it (PEP 495)."""
    ms = time_rule("%d.%m.%Y %H:%M", "Europe/Berlin").read(json.dumps(text).encode())
    assert EPOCH + timedelta(milliseconds=ms) == datetime.fromisoformat(utc + "+00:00")


@pytest.mark.parametrize(
    "text", ["", "soon", "32.01.2026 00:00", "29.02.2026 00:00", "01.01.2026 24:00",
             "01.01.1969 00:00", "01.01.0001 00:00", "01.01.2026 00:00 ", "1" * 100_000],
)  # fmt: skip
def test_what_does_not_fit_a_pattern_is_told_with_an_example(text: str) -> None:
    """The message shows what a fitting value looks like, and not all of a long one."""
    with pytest.raises(BadTime, match="expected a time") as told:
        time_rule("%d.%m.%Y %H:%M", "Europe/Berlin").read(json.dumps(text).encode())
    assert len(str(told.value)) < 150


def test_a_pattern_may_bring_its_zone() -> None:
    """With `%z` the text says which zone."""
    rule = time_rule("%d/%b/%Y:%H:%M:%S %z", None)
    assert rule.read(b'"01/Jan/2026:01:00:00 +0100"') == START_MS


@given(value=st.floats(0, LATEST_MS / 1000))
def test_seconds_go_to_the_nearest_millisecond(value: float) -> None:
    """Off the exact decimal by half a millisecond at most, and what a double cannot tell."""
    exact = Decimal(value) * 1000
    assert abs(TIME_RULES["s"].read(json.dumps(value).encode()) - exact) <= Decimal("0.516")


@given(
    moment=st.datetimes(datetime(1970, 1, 2), datetime(9999, 12, 30), timezones=ZONES),
    digits=st.text("0123456789", max_size=12),
    letters=st.sampled_from(["T", "t", " "]),
)
def test_rfc3339_agrees_with_datetime(moment: datetime, digits: str, letters: str) -> None:
    """Any zone, any digits of a second, letters of either case: the nearest millisecond."""
    whole = moment.replace(microsecond=0)
    text = whole.isoformat(letters)
    if digits:
        text = f"{text[:19]}.{digits}{text[19:]}"
    seconds = Decimal((whole - EPOCH) // timedelta(seconds=1)) + Decimal(f"0.{digits or 0}")
    # What is finer than a microsecond goes to the nearest microsecond first.
    seconds = seconds.quantize(Decimal("0.000001"), ROUND_HALF_UP)
    assert TIME_RULES["rfc3339"].read(json.dumps(text).encode()) == nearest(seconds)


@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_utc_may_be_written_in_three_ways(moment: datetime) -> None:
    """``Z``, ``z`` and ``-00:00`` are the same zone."""
    plain = moment.isoformat()[:-6]
    read = {
        TIME_RULES["rfc3339"].read(json.dumps(plain + zone).encode())
        for zone in ("Z", "z", "+00:00", "-00:00")
    }
    assert len(read) == 1


@pytest.mark.parametrize("time_format", TIME_RULES)
@given(data=st.data())
def test_any_json_is_a_moment_or_refused(time_format: TimeFormat, data: st.DataObject) -> None:
    """Nothing but a moment of 1970 to 9999 or :class:`BadTime` comes out."""
    value = data.draw(
        st.floats(allow_nan=False, allow_infinity=False)
        | st.integers()
        | st.datetimes(timezones=ZONES).map(datetime.isoformat)
        | st.text()
        | st.sampled_from([True, None])
    )
    try:
        ms = TIME_RULES[time_format].read(json.dumps(value).encode())
    except BadTime:
        return
    assert type(ms) is int
    assert 0 <= ms <= LATEST_MS


@pytest.mark.parametrize("time_format", TIME_RULES)
@pytest.mark.parametrize("text", NO_TIME)
def test_what_is_no_moment_is_a_dead_letter(
    tmp_path: Path, time_format: TimeFormat, text: str
) -> None:
    """Reason ``schema`` with the field's path, for an event and for a label, in every format."""
    codec = Codec(
        config(
            tmp_path,
            event={"time_format": time_format, "fields": {"amount": "number"}},
            features=[{"name": "a", "type": "number", "field": "amount"}],
            label={"field": "fraud", "time": "at"},
        )
    )
    raw = f'{{"id": 1, "amount": 2, "fraud": true, "time": {text}, "at": {text}}}'.encode()
    record = Record("t", 0, 0, None, raw)
    _, bad = codec.events([record])
    assert [b.reason for b in bad] == ["schema"]
    assert bad[0].error.endswith(" - at `$.time`")
    labels, bad = codec.labels([record])
    assert [b.reason for b in bad] == ([] if text == "null" else ["schema"])
    assert labels.labelled_at_ms.tolist() == ([-1] if text == "null" else [])


@pytest.mark.parametrize("time_format", TIME_RULES)
def test_the_schema_takes_what_is_taken(time_format: TimeFormat) -> None:
    """The example, both ends of the range and what lies beyond, against JSON Schema."""
    rule = TIME_RULES[time_format]
    schema = jsonschema_rs.validator_for(rule.schema, validate_formats=True)
    schema.validate(rule.example)
    assert rule.read(msgspec.json.encode(rule.example)) == START_MS + 250
    if time_format in NUMBERS:
        unit = 1000 if time_format == "s" else 1
        assert schema.is_valid("1767225600250"[: 13 if unit == 1 else 10])
        assert not schema.is_valid("1e3")
        for value in (0, LATEST_MS / unit, -1, (LATEST_MS + 1) / unit, 1e308):
            text = json.dumps(value).encode()
            assert schema.is_valid(value) == (0 <= value * unit <= LATEST_MS)
            if schema.is_valid(value):
                assert rule.read(text) == value * unit
            else:
                with pytest.raises(BadTime):
                    rule.read(text)


@pytest.mark.parametrize("year", [1, 1899, 1969, 1970, 1999, 2000, 9999])
def test_the_schema_tells_the_years_of_texts(year: int) -> None:
    """A moment before 1970 is refused by the description already, as the decoder refuses it."""
    rule = TIME_RULES["rfc3339"]
    text = f"{year:04}-06-01T12:00:00Z"
    schema = jsonschema_rs.validator_for(rule.schema, validate_formats=True)
    assert schema.is_valid(text) == (year >= 1970)
    with nullcontext() if year >= 1970 else pytest.raises(BadTime):
        rule.read(json.dumps(text).encode())


@pytest.mark.parametrize(
    ("time_format", "text"),
    [
        ("rfc3339", '"2026-01-01t00:00:00z"'),
        ("rfc3339", '"2026-01-01T01:00:00.0000004+01:00"'),
        ("rfc3339", '"2026-01-01 00:00:00-00:00"'),
        ("s", "1767225600"),
        ("s", "1.7672256e9"),
        ("us", "1767225600000000"),
        ("ns", '"1767225600000000000"'),
        ("ms", "1767225600000.0"),
    ],
)
def test_evaluate_reads_times_as_the_service_does(
    tmp_path: Path, time_format: TimeFormat, text: str
) -> None:
    """The row is scored, and its label is released at that very time."""
    run = evaluation(tmp_path, time_format)
    rows = [f'{{"id": {i}, "amount": 2, "fraud": true, "time": {text}}}' for i in (1, 2**70)]
    summary = run.run([[row.encode() for row in rows]], lambda n: None)
    assert (summary["scores"], summary["labels"], summary["dead_letters"]) == (2, 2, 0)
    assert run._engine.watermark_ms == START_MS


@pytest.mark.parametrize("time_format", TIME_RULES)
def test_evaluate_goes_on_after_what_is_no_moment(tmp_path: Path, time_format: TimeFormat) -> None:
    """Each such row is one dead letter, as is one that nests too deeply."""
    run = evaluation(tmp_path, time_format)
    good = msgspec.json.encode(TIME_RULES[time_format].example).decode()
    texts = [good, *NO_TIME, "[" * 100_000 + "]" * 100_000]
    rows = [f'{{"id": {i}, "amount": 2, "fraud": true, "time": {t}}}' for i, t in enumerate(texts)]
    summary = run.run([[row.encode() for row in rows]], lambda n: None)
    assert summary["dead_letter_reasons"] == {"malformed": 1, "schema": len(NO_TIME)}
    assert summary["labels"] == 1


def evaluation(directory: Path, time_format: TimeFormat) -> Evaluation:
    """A run over events with one number, labels released at their event's time."""
    c = config(
        directory,
        event={"time_format": time_format, "fields": {"amount": "number"}},
        features=[{"name": "a", "type": "number", "field": "amount"}],
    )
    return Evaluation(c, build_engine(c, None), None, 1)


@pytest.mark.parametrize("time_format", TIME_RULES)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_timestamps_of_a_file_are_read_back(
    tmp_path: Path, time_format: TimeFormat, unit: str
) -> None:
    """What Parquet holds more finely goes to the same millisecond in every format."""
    rng = np.random.default_rng(1)
    ms = rng.integers(0, START_MS, 200)
    per_ms = {"ms": 1, "us": 1000, "ns": 1_000_000}[unit]
    fine = ms * per_ms + rng.integers(-(per_ms // 2), (per_ms + 1) // 2, 200)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"t": pa.array(np.maximum(fine, 0), pa.timestamp(unit, "UTC"))}), path)
    cells = [msgspec.json.decode(r, type=dict[str, msgspec.Raw])["t"] for batch in
             read_rows(path, time_format=time_format) for r in batch]  # fmt: skip
    assert [TIME_RULES[time_format].read(c) for c in cells] == ms.tolist()


def test_a_wild_time_does_not_stop_its_batch(tmp_path: Path) -> None:
    """One event of the year 1e298 among good ones: the good ones are columns, it is a letter."""
    c = config(tmp_path, event=config(tmp_path).event.model_dump() | {"time_format": "s"})
    events = [event(i) | {"time": 1767225600 + i} for i in range(5)]
    events[2]["time"] = 1e308
    records = [Record("events", 0, i, None, json.dumps(e).encode()) for i, e in enumerate(events)]
    good, bad = Codec(c).events(records)
    assert good.ids == ["e0", "e1", "e3", "e4"]
    assert [(b.record.offset, b.reason) for b in bad] == [(2, "schema")]
