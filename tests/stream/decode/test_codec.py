"""Bytes to columns: what every kind of field takes, and what it refuses."""

from __future__ import annotations

import json
import operator
import random
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.contract.commands import Freeze
from stream.contract.hashing import hash_text
from stream.contract.letters import REASONS, DeadLetter
from stream.contract.records import Record
from stream.decode.codec import Codec, Events
from tests.support.factory import START_MS, config, event

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return Codec(config(tmp_path_factory.mktemp("codec")))


def columns(events: Events) -> list[Any]:
    """All that was decoded, as bytes."""
    found = events.columns
    by_name = (found.numbers, found.categories, found.entities)
    arrays = [events.id_hash, found.event_time_ms, events.label]
    arrays += [kind[name] for kind in by_name for name in sorted(kind)]
    return [events.records, events.ids, *(array.tobytes() for array in arrays)]


def columns_of(each: list[Events]) -> list[Any]:
    """The same of events one after another."""
    return [reduce(operator.add, part) for part in zip(*map(columns, each), strict=True)]


def record(value: Any, offset: int = 0) -> Record:
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record("events", 0, offset, None, raw)


@settings(max_examples=300)
@given(raw=st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_no_bytes_escape(codec: Codec, raw: bytes) -> None:
    """Whatever the bytes, the answer is one event or one dead letter with a known reason."""
    events, bad = codec.events([record(raw)])
    assert len(events.records) + len(bad) == 1
    labels, bad_labels = codec.labels([record(raw)])
    assert len(labels.records) + len(bad_labels) == 1
    assert all(b.reason in REASONS and b.error for b in [*bad, *bad_labels])


@settings(max_examples=100)
@given(data=st.data())
def test_good_events_survive_among_bad_ones(codec: Codec, data: st.DataObject) -> None:
    """The columns hold exactly the good events, in order, whatever stands between them."""
    kinds = data.draw(
        st.lists(st.sampled_from(["good", "bad id", "bad time", "junk"]), max_size=12)
    )
    made = {
        "good": lambda i: event(i),
        "bad id": lambda i: event(i, id=""),
        "bad time": lambda i: event(i, time=-1),
        "junk": lambda i: b"junk",
    }
    records = [record(made[k](i), i) for i, k in enumerate(kinds)]
    events, bad = codec.events(records)
    good = [i for i, k in enumerate(kinds) if k == "good"]
    assert events.ids == [f"e{i}" for i in good]
    assert events.columns.numbers["amount"].tolist() == [event(i)["amount"] for i in good]
    assert events.columns.event_time_ms.tolist() == [event(i)["time"] for i in good]
    assert [b.record.offset for b in bad] == [i for i, k in enumerate(kinds) if k != "good"]


IDS = st.sampled_from(["a", "b" * 64, "b" * 65, "ü" * 64, "ü" * 128, "ü" * 129, 7, "", None, True])
TRUTHS = st.sampled_from([0, 1, True, False, 0.0, -0.0, 1.0, "0", "true", "yes", 2, None])
INLINE = {
    "time_format": "ms",
    "fields": {
        "amount": {"kind": "number", "required": False},
        "customer": {"kind": "entity", "required": False},
        "terminal": "entity",
        "category": {"kind": "category", "default": "none"},
    },
}
DEEP = st.sampled_from([1, 63, 64, 65, 100]).map(lambda n: b"[" * n + b"]" * n)
JUNK = st.sampled_from([None, b"", b"{}", b"[]", b" " * 200, b'{"id":"a","fraud":1}' * 2])


@pytest.fixture(scope="module")
def number(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    features = [{"name": "amount", "type": "number", "field": "amount"}]
    members = [{"name": "mean", "type": "logistic"}]
    made = {"target": {"type": "number"}, "features": features, "members": members}
    return Codec(config(tmp_path_factory.mktemp("number"), **made))


@settings(max_examples=200)
@given(data=st.data())
def test_together_means_one_by_one(codec: Codec, number: Codec, data: st.DataObject) -> None:
    """Records decoded at once are what each is alone, bad ones with the same reasons."""
    kinds = st.fixed_dictionaries({"id": IDS, "fraud": TRUTHS}) | DEEP | JUNK
    records = [record(v, i) for i, v in enumerate(data.draw(st.lists(kinds, max_size=12)))]
    for decoder in (codec, number):
        labels, bad = decoder.labels(records)
        alone = [decoder.labels([r]) for r in records]
        assert labels.records == [r for found, _ in alone for r in found.records]
        assert labels.id_hash.tolist() == [h for found, _ in alone for h in found.id_hash.tolist()]
        assert labels.y.tobytes() == b"".join(found.y.tobytes() for found, _ in alone)
        assert bad == [letter for _, letters in alone for letter in letters]


def test_pieces_mean_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events too, wherever pieces are cut and whatever stands in them."""
    label = {"inline": True, "field": "fraud"}
    codec, rng = Codec(config(tmp_path, event=INLINE, label=label)), random.Random(3)
    odd = [
        *(("customer", None), ("customer", 7), ("category", None), ("category", "ü"), ("id", 3)),
        *(("amount", None), ("amount", 1), ("amount", "1"), ("id", ""), ("time", -1)),
        *(("time", 1.0), ("fraud", None), ("fraud", 1), ("fraud", "0"), ("fraud", 2)),
    ]
    made = [event(i, fraud=i % 3 == 0) for i in range(300)]
    for i in rng.sample(range(300), 60):
        made[i] |= [rng.choice(odd)]
    records = [record(value, i) for i, value in enumerate(made)]
    for i in rng.sample(range(300), 6):
        records[i] = record(rng.choice([None, b"", b"{}", b'{"a":' + b"[" * 99]), i)
    records += [record(event(i, fraud=False), i) for i in range(300, 340)]
    alone = [codec.events([r]) for r in records]
    for size in (7, 64, 1024):
        monkeypatch.setattr("stream.decode.codec.PIECE", size)
        events, bad = codec.events(records)
        assert bad == [letter for _, letters in alone for letter in letters]
        assert 12 < len(bad) < 66
        assert columns(events) == columns_of([found for found, _ in alone])
        assert codec.event_keys(records)[0] == [
            keyed for r in records for keyed in codec.event_keys([r])[0]
        ]


@pytest.mark.parametrize(
    ("time_format", "value", "ms"),
    [
        ("s", 1767225600, START_MS),
        ("s", 1767225600.25, START_MS + 250),
        ("ms", START_MS, START_MS),
        ("ms", float(START_MS), START_MS),
        ("rfc3339", "2026-01-01T00:00:00Z", START_MS),
        ("rfc3339", "2026-01-01T01:00:00.5+01:00", START_MS + 500),
    ],
)
def test_times_are_read_in_every_format(
    tmp_path: Path, time_format: str, value: object, ms: int
) -> None:
    """Epoch seconds, epoch milliseconds and RFC 3339 give the same UTC milliseconds."""
    codec = Codec(
        config(tmp_path, event={"time_format": time_format, "fields": {"amount": "number"}},
               features=[{"name": "a", "type": "number", "field": "amount"}])
    )  # fmt: skip
    events, bad = codec.events([record({"id": 1, "time": value, "amount": 2})])
    assert not bad
    assert events.columns.event_time_ms.tolist() == [ms]


def test_optional_fields_may_be_missing(tmp_path: Path) -> None:
    """A missing or null optional number is nan, a missing entity is key 0."""
    fields = {
        "amount": {"kind": "number", "required": False},
        "customer": {"kind": "entity", "required": False},
        "note": "text",
    }
    codec = Codec(
        config(tmp_path, event={"time_format": "ms", "fields": fields},
               features=[{"name": "a", "type": "number", "field": "amount"}])
    )  # fmt: skip
    rows = [
        {"id": "a", "time": 1},
        {"id": "b", "time": 1, "amount": None, "note": {"any": ["thing"]}},
        {"id": "c", "time": 1, "amount": 3, "customer": 7},
    ]
    events, bad = codec.events([record(r) for r in rows])
    assert not bad
    amounts = events.columns.numbers["amount"]
    assert [str(a) for a in amounts] == ["nan", "nan", "3.0"]
    assert events.columns.entities["customer"].tolist() == [0, 0, hash_text("7")]


def test_unknown_fields_can_be_refused(tmp_path: Path) -> None:
    """Ignored by default; with `unknown_fields = "reject"` a dead letter that names the field."""
    fields = {"time_format": "ms", "fields": {"amount": "number"}}
    features = [{"name": "a", "type": "number", "field": "amount"}]
    row = record({"id": "a", "time": 1, "amount": 1, "extra": 1})
    _, bad = Codec(config(tmp_path, event=fields, features=features)).events([row])
    assert not bad
    strict = fields | {"unknown_fields": "reject"}
    _, bad = Codec(config(tmp_path, event=strict, features=features)).events([row])
    assert bad[0].reason == "schema"
    assert "extra" in bad[0].error


@pytest.mark.parametrize("depth", [65, 700, 5_000, 50_000])
def test_deep_nesting_is_refused_by_a_fixed_depth(codec: Codec, depth: int) -> None:
    """Not by the stack that happens to be left: every process decides alike."""
    deep = b'{"z":' + b"[" * depth + b"]" * depth + b"}"
    _, bad = codec.events([record(deep)])
    assert [b.reason for b in bad] == ["malformed"]
    assert isinstance(codec.command(record(deep)), DeadLetter)
    text = json.dumps(event(0) | {"note": "[" * depth}).encode()
    events, bad = codec.events([record(text)])
    assert (len(events.records), bad) == (1, [])


def test_numbers_that_json_cannot_hold_are_refused(codec: Codec) -> None:
    """1e999, NaN, booleans and text are no numbers."""
    for text in (b"1e999", b"NaN", b"true", b'"3"'):
        raw = json.dumps(event(0, amount=0)).encode().replace(b'"amount": 0', b'"amount": ' + text)
        _, bad = codec.events([record(raw)])
        assert len(bad) == 1, text


def test_a_dead_letter_keeps_the_bytes(codec: Codec) -> None:
    """Key and raw bytes are the record's own; position and reason stand in headers."""
    bad = DeadLetter(Record("events", 3, 99, b"key", b"\xff\x00"), "malformed", "not JSON")
    letter = bad.encoded()
    assert (letter.key, letter.value) == (b"key", b"\xff\x00")
    assert dict(letter.headers) == {
        "reason": b"malformed",
        "error": b"not JSON",
        "topic": b"events",
        "partition": b"3",
        "offset": b"99",
    }


def test_commands_are_typed(codec: Codec) -> None:
    """A known command is decoded; anything else is refused with what was wrong."""
    command = record({"command": "freeze", "member": "linear"})
    assert codec.command(command) == Freeze("linear")
    for value in ({"command": "freeze"}, {"command": "boom"}, [], {"command": "set_threshold"}):
        refused = codec.command(record(value))
        assert isinstance(refused, DeadLetter)
        assert refused.reason == "command"


def test_a_null_record_cannot_say_why_it_could_not_be_read(tmp_path: Path) -> None:
    """Only what the log itself says of a record is believed, no header of it."""
    codec = Codec(config(tmp_path))
    forged = Record("events", 0, 0, None, None, 0, (("millrace-unreadable", b"the moon"),))
    broken = Record("events", 0, 1, None, None, 0, (), "batch at offset 1 cannot be unpacked")
    _, bad = codec.events([forged, broken])
    assert [letter.reason for letter in bad] == ["null", "malformed"]
    assert ["moon" in letter.error for letter in bad] == [False, False]
    assert "batch at offset 1" in bad[1].error
