"""Payloads as they are: nested against flattened, every coercion against plain Python."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.contract.records import Record
from stream.decode.codec import Codec
from stream.decode.coerce import BadValue, coercion
from stream.decode.payload import encoded, tree
from stream.run.assemble import build_engine
from stream.settings.load import ConfigError
from stream.settings.paths import place, pointed
from stream.settings.schema import Config, FieldSettings
from stream.tools.evaluate import Evaluation
from tests.stream.decode.alike import same
from tests.support.factory import config, event, to_json, truth

FEATURE = [{"name": "a", "type": "number", "field": "amount"}]
NESTED: dict[str, Any] = {
    "id": "meta.id",
    "time": "meta.at",
    "time_format": "ms",
    "fields": {
        "amount": {"kind": "number", "path": "items.1.price"},
        "customer": {"kind": "entity", "path": "customer.id"},
        "terminal": {"kind": "entity", "path": "/a~1b/c.d", "required": False},
        "category": {"kind": "category", "path": "customer.kind.0", "required": False},
    },
}
PLACES = {"id": "meta.id", "time": "meta.at"} | {
    name: field["path"] for name, field in NESTED["fields"].items()
}


def nested_config(directory: Path, label: Any = None, **changes: Any) -> Config:
    return config(directory, event=NESTED | changes, **({"label": label} if label else {}))


def records(*rows: Any) -> list[Record]:
    return [Record("events", 0, i, None, json.dumps(row).encode()) for i, row in enumerate(rows)]


def flat_settings() -> dict[str, Any]:
    fields = {
        name: {k: v for k, v in field.items() if k != "path"}
        for name, field in NESTED["fields"].items()
    }
    return {"time_format": "ms", "fields": fields}


@given(
    kept=st.lists(st.sets(st.sampled_from(sorted(PLACES))), min_size=1, max_size=8),
    nulls=st.booleans(),
)
def test_nested_events_give_the_columns_of_flattened_ones(
    kept: list[set[str]], nulls: bool
) -> None:
    """Whatever is missing or null, with the same rows refused."""
    directory = Path("unused")
    inside, flat = [], []
    for i, left_out in enumerate(kept):
        row = {k: v for k, v in event(i).items() if nulls or k not in left_out}
        row |= {k: None for k in left_out if nulls and k not in ("id", "time")}
        flat.append(row)
        inside.append(json.loads(encoded((place(PLACES[k]), v) for k, v in row.items())))
    got, bad = Codec(nested_config(directory)).events(records(*inside))
    expected, refused = Codec(config(directory, event=flat_settings())).events(records(*flat))
    same(got, expected)
    assert [b.record.offset for b in bad] == [b.record.offset for b in refused]


def test_what_stands_in_a_missing_or_null_object_is_missing(tmp_path: Path) -> None:
    """As is what an array is too short for; the rest of the row is read."""
    whole = json.loads(encoded((place(PLACES[k]), v) for k, v in event(1).items()))
    for around in ({}, {"a/b": None}, {"a/b": {}}, {"a/b": {"c.d": None}}):
        row = {k: v for k, v in whole.items() if k != "a/b"} | around
        row["customer"] = {"id": "c1", "kind": []}
        events, bad = Codec(nested_config(tmp_path)).events(records(row))
        assert bad == []
        assert events.columns.entities["terminal"].tolist() == [0]
        assert events.columns.categories["category"].tolist() == [0]
        assert events.columns.numbers["amount"].tolist() == [event(1)["amount"]]


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("items", [{}], "Expected `array` of at least length 2, got 1 - at `$.items`"),
        ("items", [1, {"price": "2"}], "Expected `float`, got `str` - at `$.items[1].price`"),
        ("customer", "c1", "Expected `object`, got `str` - at `$.customer`"),
        ("customer", None, "Expected `object`, got `null` - at `$.customer`"),
        ("meta", {"id": "e", "at": -1}, "at `$.meta.at`"),
        ("customer", {"id": "c", "extra": 1}, "unknown field `extra` - at `$.customer`"),
    ],
)
def test_errors_name_the_path(tmp_path: Path, path: str, value: object, error: str) -> None:
    """A dead letter says where in the object it found what."""
    row = json.loads(encoded((place(PLACES[k]), v) for k, v in event(1).items()))
    codec = Codec(nested_config(tmp_path, unknown_fields="reject"))
    assert codec.events(records(row))[1] == []
    _, (bad,) = codec.events(records(row | {path: value}))
    assert bad.reason == "schema"
    assert error in bad.error


def test_labels_may_be_nested(tmp_path: Path) -> None:
    """Id, truth and time at their paths; a null object has no time."""
    label = {"event_id": "about.id", "field": "result.fraud", "time": "made.at"}
    codec = Codec(config(tmp_path, label=label))
    rows = [
        {"about": {"id": "a"}, "result": {"fraud": True}, "made": {"at": 5}},
        {"about": {"id": "b"}, "result": {"fraud": 0}, "made": None},
        {"about": {"id": "c"}, "result": {"fraud": 1}},
        {"about": {"id": "d"}, "result": None},
    ]
    labels, bad = codec.labels(records(*rows))
    assert labels.y.tolist() == [1, 0, 1]
    assert labels.labelled_at_ms.tolist() == [5, -1, -1]
    assert len(bad) == 1


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\')),
                min_size=1, max_size=4))  # fmt: skip
def test_a_json_pointer_can_write_any_name(names: list[str]) -> None:
    """RFC 6901: a tilde is `~0`, a slash `~1`; digits below the root are an index."""
    text = "".join("/" + n.replace("~", "~0").replace("/", "~1") for n in names)
    try:
        found = place(text)
    except ValueError:
        assert any(n.isdecimal() for n in names)
        return
    assert tuple(map(str, found)) == tuple(names)


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", "/a~2", 'a"b', "a\\b", "a.100", "a\nb"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, path: str) -> None:
    """By the configuration, at its key."""
    with pytest.raises(ConfigError, match=r"event\.id: expected"):
        config(tmp_path, event={"id": path, "fields": {"amount": "number"}}, features=FEATURE)


def test_a_name_that_the_decoder_cannot_look_for_is_refused(tmp_path: Path) -> None:
    """By the configuration; it ended the start with a traceback."""
    fields = {"amount": "number", 'a"b': "text"}
    with pytest.raises(ConfigError, match="expected a name without quotes"):
        config(tmp_path, event={"fields": fields}, features=FEATURE)


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (("a.b", "/a/b"), "expected a JSON field of its own, got 'a.b', which event.id reads"),
        (("a", "a.b"), "expected a JSON field outside of another's, got 'a.b'"),
        (("a.b.c", "a.b"), "expected a JSON field outside of another's, got 'a.b'"),
        (("a.0", "a.b"), "expected a JSON object or an array, not both, got 'a.b'"),
    ],
)
def test_two_paths_must_be_apart(tmp_path: Path, paths: tuple[str, str], problem: str) -> None:
    """One inside the other, the same, or one array with names."""
    with pytest.raises(ConfigError) as told:
        config(tmp_path, event={"id": paths[0], "time": paths[1], "fields": {"amount": "number"}},
               features=FEATURE)  # fmt: skip
    assert f"event.time: {problem}" in str(told.value)


def test_values_go_back_where_they_were() -> None:
    """An object is built of places; items between are null, messages write places as JSON paths."""
    parts = [(place(p), i) for i, p in enumerate(("a", "b.c", "b.d.1", "/e~1f/0"))]
    assert json.loads(encoded(parts)) == {"a": 0, "b": {"c": 1, "d": [None, 2]}, "e/f": [3]}
    assert pointed(("b", "d", 1)) == "$.b.d[1]"
    with pytest.raises(KeyError):
        tree([(("a",), 1), (("a", "b"), 2)])


MARKS = st.sampled_from([(".", None), (".", ","), (",", "."), (",", " "), (".", "'"), (",", None)])


@given(marks=MARKS, number=st.decimals(-(10**15), 10**15, places=3), grouped=st.booleans())
def test_numbers_in_text_equal_pythons(
    marks: tuple[str, str | None], number: Decimal, grouped: bool
) -> None:
    """Written by Python's own format with other marks, read to the same double."""
    decimal, thousands = marks
    text = f"{number:,}" if grouped and thousands else str(number)
    text = text.translate({ord("."): decimal, ord(","): thousands or ""})
    read = coercion(FieldSettings(kind="number", decimal=decimal, thousands=thousands))  # type: ignore[arg-type]
    assert read is not None
    assert read(text) == float(number)
    assert read(float(number)) == float(number)


@given(text=st.text("0123456789.,+-eE _'nainf", max_size=9), marks=MARKS)
def test_other_text_is_no_number(text: str, marks: tuple[str, str | None]) -> None:
    """What is read at all is what float makes of it without the marks, and always finite."""
    decimal, thousands = marks
    read = coercion(FieldSettings(kind="number", decimal=decimal, thousands=thousands))  # type: ignore[arg-type]
    assert read is not None
    try:
        number = read(text)
    except BadValue:
        return
    plain = text.replace(thousands or "\0", "").replace(decimal, ".")
    assert number == float(plain)
    assert np.isfinite(number)
    assert set(text) <= set("0123456789+-eE" + decimal + (thousands or ""))


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1,5", "1.2.3", "12.34,5", "1_0", "nan", "inf", "1e999", "٣", "0x1"]
)
def test_a_bad_number_is_a_dead_letter(tmp_path: Path, text: str) -> None:
    """With its path, what was expected and what came."""
    fields = {"amount": {"kind": "number", "path": "a.b", "decimal": "."}}
    codec = Codec(config(tmp_path, event={"time_format": "ms", "fields": fields}, features=FEATURE))
    _, (bad,) = codec.events(records({"id": 1, "time": 1, "a": {"b": text}}))
    assert bad.reason == "schema"
    assert bad.error == f"expected a number such as '1234.5', got {text!r} - at `$.a.b`"


@pytest.mark.parametrize("inline", [False, True])
def test_the_truth_of_a_number_may_be_text(tmp_path: Path, inline: bool) -> None:
    """With the marks that are configured; a number stays one, other text is a dead letter."""
    c = config(
        tmp_path,
        event={"time_format": "ms", "fields": {"amount": "number"}},
        features=FEATURE,
        members=[{"name": "linear", "type": "logistic"}],
        target={"type": "number"},
        label={"field": "a.took", "inline": inline, "decimal": ",", "thousands": "."},
    )
    base = {"id": 1, "time": 1, "amount": 2} if inline else {"id": 1}
    rows = [base | {"a": {"took": took}} for took in ("1.234,5", 7.25, "12.34", True, "-8")]
    codec = Codec(c)
    if inline:
        events, bad = codec.events(records(*rows))
        y = events.label
    else:
        labels, bad = codec.labels(records(*rows))
        y = labels.y
    assert y.tolist() == [1234.5, 7.25, -8.0]
    assert [letter.error for letter in bad] == [
        "expected a number such as '1.234,5', got '12.34' - at `$.a.took`",
        "Expected `float | str`, got `bool` - at `$.a.took`",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"label": {"decimal": ","}}, "label.decimal: expected none for a target of binary"),
        (
            {"target": {"type": "number"}, "label": {"thousands": "."}},
            "label.thousands: expected a decimal mark beside it",
        ),
    ],
)
def test_marks_of_a_truth_that_do_not_fit_are_told(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """At their key."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        config(tmp_path, **changes)


def test_flags_aliases_and_defaults(tmp_path: Path) -> None:
    """A flag is what its list says, an alias one name, and what is missing its default."""
    fields = {
        "amount": {"kind": "number", "default": 7.5},
        "online": {"kind": "boolean", "values": {"1": 1, "0": False, "Y": True, "N": 0}},
        "known": {"kind": "boolean", "default": True},
        "country": {"kind": "category", "values": {"DE": "de", "GER": "de", "49": "de"}},
        "card": {"kind": "entity", "default": "none"},
    }
    codec = Codec(config(tmp_path, event={"time_format": "ms", "fields": fields}, features=FEATURE))
    base = {"id": 1, "time": 1, "country": "x", "online": 1}
    rows = [
        {"amount": 1, "online": "Y", "known": False, "country": "GER", "card": "none"},
        {"online": 0, "country": 49},
        {"amount": None, "online": "N", "known": None, "country": "de", "card": None},
        {"online": 1, "country": "DE"},
        {"online": "1"},
    ]
    events, bad = codec.events(records(*(base | row for row in rows)))
    assert bad == []
    columns = events.columns
    assert columns.numbers["amount"].tolist() == [1, 7.5, 7.5, 7.5, 7.5]
    assert columns.numbers["online"].tolist() == [1, 0, 0, 1, 1]
    assert columns.numbers["known"].tolist() == [0, 1, 1, 1, 1]
    assert len(set(columns.categories["country"].tolist()[:4])) == 1
    assert len(set(columns.entities["card"].tolist())) == 1
    assert [k.key for k in codec.event_keys(records(base))[0]] == ["none"]
    for wrong in ("y", True, 2, ""):
        _, (letter,) = codec.events(records(base | {"online": wrong}))
        assert "expected one of 1, 0, Y, N; got" in letter.error
        assert letter.error.endswith(" - at `$.online`")


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ({"kind": "category", "decimal": "."}, "decimal"),
        ({"kind": "number", "thousands": ","}, "thousands"),
        ({"kind": "number", "decimal": ",", "thousands": ","}, "thousands"),
        ({"kind": "number", "values": {"a": 1}}, "values"),
        ({"kind": "boolean", "values": {"a": 2}}, "values.a"),
        ({"kind": "boolean", "values": {"a": "true"}}, "values.a"),
        ({"kind": "category", "values": {"a": True}}, "values.a"),
        ({"kind": "number", "default": "0"}, "default"),
        ({"kind": "number", "default": True}, "default"),
        ({"kind": "boolean", "default": 1}, "default"),
        ({"kind": "category", "default": 1.5}, "default"),
        ({"kind": "text", "default": "a"}, "default"),
    ],
)
def test_a_coercion_that_does_not_fit_its_kind_is_told(
    tmp_path: Path, field: dict[str, Any], key: str
) -> None:
    """At its key."""
    with pytest.raises(ConfigError) as told:
        config(tmp_path, event={"fields": {"amount": "number", "x": field}}, features=FEATURE)
    assert f"event.fields.x.{key}: expected" in str(told.value)


@pytest.mark.parametrize("inline", [False, True])
def test_evaluate_plays_nested_rows_as_flattened_ones(tmp_path: Path, inline: bool) -> None:
    """The same scores and labels, to the last bit, and the same advice about what is refused."""
    places = PLACES | {"fraud": "result.fraud", "at": "result.at"}
    label = {"field": "fraud", "time": "at", "inline": inline}
    inside = {"field": "result.fraud", "time": "result.at", "event_id": "of.id", "inline": inline}
    flat = [event(i) | {"fraud": truth(i), "at": event(i)["time"] + 90_000} for i in range(60)]
    flat[7]["amount"] = "7"
    nested = [encoded((place(places[k]), v) for k, v in row.items()) for row in flat]
    settings = flat_settings()
    one = evaluated(config(tmp_path, event=settings, label=label), [to_json(r) for r in flat])
    other = evaluated(nested_config(tmp_path, label=inside), nested)
    assert one["labels"] > 40
    for key in ("scores", "labels", "quality", "dead_letter_reasons"):
        assert one[key] == other[key]
    (letter,) = other["first_dead_letters"]
    assert (letter["field"], letter["got"]) == ("items.1.price", '"7"')


def evaluated(c: Config, rows: list[bytes]) -> dict[str, Any]:
    return Evaluation(c, build_engine(c, None), None, 16).run([rows], lambda n: None)
