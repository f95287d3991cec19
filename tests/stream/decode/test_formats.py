"""Avro, Protobuf, JSON Schema and CloudEvents against the same events in JSON.

Written by clients of others: Confluent's serializers and the `cloudevents` package.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from cloudevents.http import CloudEvent
from cloudevents.kafka import KafkaMessage, to_binary, to_structured
from confluent_kafka.schema_registry import Schema as TheirSchema
from confluent_kafka.schema_registry import SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stream.contract.letters import DeadLetter
from stream.contract.records import Record
from stream.contract.schemas import Schema
from stream.decode.codec import Codec
from stream.run.registry import HttpRegistry
from stream.settings.load import ConfigError
from stream.settings.schema import Config, RegistrySettings
from tests.stream.decode.alike import same
from tests.support.factory import START_MS, config, event, raw_config, to_json
from tests.support.schemas.protobuf import file_of, message, message_class
from tests.support.schemas.registry import FakeRegistry, registry

WORDS = ["type", "record", "fields", "name", "a", "array", "items", "int", "null", "string", "$ref"]
"""What schemas are made of."""


def nested(inner: Any) -> Any:
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4)


CONTEXT = SerializationContext("events", MessageField.VALUE)
FIELDS = {"amount": "number", "customer": "entity", "terminal": "entity", "category": "category"}
OPTIONAL = FIELDS | {"terminal": {"kind": "entity", "required": False}}
AVRO = {
    "type": "record",
    "name": "Payment",
    "namespace": "shop",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "double"},
        {"name": "customer", "type": "string"},
        {"name": "terminal", "type": ["null", "string"], "default": None},
        {"name": "category", "type": {"type": "enum", "name": "K", "symbols": ["k0", "k1", "k2"]}},
    ],
}
JSON_SCHEMA = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Payment",
    "type": "object",
    "properties": {"id": {"type": "string"}, "amount": {"type": "number", "minimum": 0}},
    "required": ["id", "amount"],
}
PAYMENT = message(
    "Payment",
    id="string",
    time="int64",
    amount="double",
    customer="string",
    terminal="string?",
    category="string",
)


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeRegistry]:
    with registry() as listening:
        yield listening


def client(fake: FakeRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": fake.url})


def avro(fake: FakeRegistry) -> Callable[[dict[str, Any]], bytes]:
    write = AvroSerializer(client(fake), json.dumps(AVRO))
    return lambda row: write(row, CONTEXT)


def json_schema(fake: FakeRegistry) -> Callable[[dict[str, Any]], bytes]:
    write = JSONSerializer(json.dumps(JSON_SCHEMA), client(fake))
    return lambda row: write(row, CONTEXT)


def protobuf(fake: FakeRegistry) -> Callable[[dict[str, Any]], bytes]:
    kind = message_class(file_of("payment.proto", PAYMENT), "Payment")
    write = ProtobufSerializer(kind, client(fake), {"use.deprecated.format": False})
    return lambda row: write(kind(**row), CONTEXT)


WRITERS = {"avro": avro, "json-schema": json_schema, "protobuf": protobuf}


def settings(kind: str, directory: Path = Path("unused"), **changes: Any) -> Config:
    """The configuration of the tests for events in that format, time in ms."""
    event = {"format": kind, "time_format": "ms", "fields": OPTIONAL} | changes
    return config(directory, event=event, registry={"url": "http://127.0.0.1:1"})


def adopting(codec: Codec, fake: FakeRegistry, records: list[Record]) -> Codec:
    """The codec with every schema that the records name, asked for as the service does."""
    asking = HttpRegistry(RegistrySettings(url=fake.url))
    for number in codec.unknown([_slice(records)]):
        found = asking.schema(number)
        if found is not None:
            codec.schemas.adopt(found)
    asking.close()
    return codec


def _slice(records: list[Record]) -> Any:
    from stream.contract.records import Range, Slice

    return Slice(Range("events", 0, 0, len(records) - 1, len(records)), records)


def taken(values: list[bytes]) -> list[Record]:
    return [Record("events", 0, i, None, value) for i, value in enumerate(values)]


def rows(n: int = 20) -> list[dict[str, Any]]:
    made = [event(i) for i in range(n)]
    del made[3]["terminal"], made[7]["terminal"]
    return made


@pytest.mark.parametrize("kind", WRITERS)
def test_what_others_serialize_gives_the_columns_of_json(kind: str, fake: FakeRegistry) -> None:
    """Confluent's own serializers write, missing values included."""
    records = taken([WRITERS[kind](fake)(row) for row in rows()])
    events, bad = adopting(Codec(settings(kind)), fake, records).events(records)
    plain, _ = Codec(settings("json")).events(taken([to_json(row) for row in rows()]))
    assert bad == []
    same(events, plain)


def cloud(row: dict[str, Any]) -> CloudEvent:
    """The event as a CloudEvent: id and time are its attributes."""
    attributes = {
        "id": row["id"],
        "source": "/shop",
        "type": "payment",
        "time": f"2026-01-01T00:{int(row['id'][1:]):02d}:00Z",
        "datacontenttype": "application/json",
    }
    return CloudEvent(attributes, {k: v for k, v in row.items() if k not in ("id", "time")})


def of_kafka(made: KafkaMessage, offset: int) -> Record:
    value = made.value if isinstance(made.value, bytes) else made.value.encode()
    return Record("events", 0, offset, None, value, 0, tuple(made.headers.items()))


CLOUD: dict[str, Any] = {
    "time_format": "rfc3339",
    "fields": {
        name: (OPTIONAL[name] if isinstance(OPTIONAL[name], dict) else {"kind": OPTIONAL[name]})
        | {"path": f"data.{name}"}
        for name in OPTIONAL
    },
}


@pytest.mark.parametrize("write", [to_binary, to_structured])
def test_cloud_events_give_the_columns_of_json(write: Any) -> None:
    """Both modes give the same: attributes at the root, the event in `data`."""
    records = [of_kafka(write(cloud(row)), i) for i, row in enumerate(rows())]
    events, bad = Codec(settings("cloudevents", **CLOUD)).events(records)
    plain, _ = Codec(settings("json")).events(taken([to_json(row) for row in rows()]))
    assert bad == []
    same(events, plain)


def test_the_header_says_that_a_cloud_event_is_structured() -> None:
    """With the content type of the binding, whatever its case; another encoding is refused."""
    made = to_structured(cloud(event(1)))
    told = [
        Record("events", 0, 0, None, made.value, 0, ((name, value),))
        for name, value in (
            ("Content-Type", b"application/cloudevents+json; charset=UTF-8"),
            ("content-type", b"application/cloudevents+avro"),
        )
    ]
    events, bad = Codec(settings("cloudevents", **CLOUD)).events(told)
    assert events.ids == ["e1"]
    assert [(b.reason, "application/cloudevents+avro" in b.error) for b in bad] == [
        ("schema", True)
    ]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"specversion": "0.3"}, "expected CloudEvents 1.0, got '0.3' - at `$.specversion`"),
        ({"specversion": None}, "Expected `str`, got `null` - at `$.specversion`"),
        ({"source": ""}, "expected an attribute that is not empty - at `$.source`"),
        ({"data": 5}, "Expected `object`, got `int` - at `$.data`"),
        ({"data": {"amount": "much"}}, "Expected `float`, got `str` - at `$.data.amount`"),
    ],
)
def test_what_is_no_cloud_event_says_where(change: dict[str, Any], error: str) -> None:
    """Each attribute that the specification wants, and what the fields want of the data."""
    whole = json.loads(to_structured(cloud(event(1))).value) | change
    _, bad = Codec(settings("cloudevents", **CLOUD)).events(taken([to_json(whole)]))
    assert [(letter.reason, letter.error) for letter in bad] == [("schema", error)]


def test_data_cannot_pose_as_attributes_of_a_binary_cloud_event() -> None:
    """The value is JSON of its own; an attribute stands in a header alone."""
    made = of_kafka(to_binary(cloud(event(1))), 0)
    forged = msgspec.structs.replace(made, value=b'{"amount":1},"id":"forged"')
    _, bad = Codec(settings("cloudevents", **CLOUD)).events([forged])
    assert [letter.reason for letter in bad] == ["malformed"]


def refused(codec: Codec, value: bytes) -> DeadLetter:
    _, bad = codec.events(taken([value]))
    (letter,) = bad
    return letter


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"", "expected a zero byte and the number of a schema in four"),
        (to_json(event(1)), "got 7b 22 69 64 22"),
        (b"\0\0\0", "expected a zero byte"),
        (b"\0\xff\xff\xff\xffrest", "got 00 ff ff ff ff"),
    ],
)
def test_bytes_without_the_wire_format_are_malformed(value: bytes, error: str) -> None:
    """JSON on a topic of Avro, or what is cut off."""
    letter = refused(Codec(settings("avro")), value)
    assert (letter.reason, error in letter.error) == ("malformed", True)


def test_a_schema_that_the_registry_does_not_have_is_named(fake: FakeRegistry) -> None:
    """Such a record is asked for once a while, and refused."""
    records = taken([b"\0\0\0\x03\xe7rest"])
    codec = Codec(settings("avro"))
    assert codec.unknown([_slice(records)]) == [999]
    letter = refused(adopting(codec, fake, records), records[0].value or b"")
    assert (letter.reason, letter.error) == (
        "schema",
        "schema 999: the registry has none of this number",
    )


def reading(text: Any, kind: str = "avro", number: int = 7, **changes: Any) -> Codec:
    """A codec that knows one schema."""
    codec = Codec(settings(kind, **changes))
    types = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}
    text = text if isinstance(text, str) else json.dumps(text)
    codec.schemas.adopt(Schema(number, types[kind], text))
    return codec


def wire(data: bytes, number: int = 7) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + data


def avro_bytes(schema: Any, row: Any) -> bytes:
    import io

    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def avro_with(**types: Any) -> dict[str, Any]:
    """The schema of payments with other types of these fields."""
    fields = [f | {"type": types.get(f["name"], f["type"])} for f in AVRO["fields"]]  # type: ignore[index,union-attr]
    return AVRO | {"fields": fields}


def test_a_field_of_another_type_is_named_with_schema_and_path() -> None:
    """What the schema holds and the configuration does not take."""
    schema = avro_with(amount="string")
    value = wire(avro_bytes(schema, event(1) | {"amount": "much"}))
    letter = refused(reading(schema), value)
    assert letter.reason == "schema"
    assert letter.error == "Expected `float`, got `str` - at `$.amount`"


@pytest.mark.parametrize("amount", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_could_not_write_is_refused(amount: float) -> None:
    """Nothing infinite reaches a feature."""
    value = wire(avro_bytes(AVRO, event(1) | {"amount": amount}))
    assert refused(reading(AVRO), value).reason == "schema"


def test_decimals_are_numbers_and_other_logical_types_what_is_under_them() -> None:
    """A date is its days; bytes with a scale are the number they stand for."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
    schema = avro_with(amount=decimal, customer={"type": "int", "logicalType": "date"})
    row = event(1) | {"amount": Decimal("12.34"), "customer": 20_000}
    events, bad = reading(schema).events(taken([wire(avro_bytes(schema, row))]))
    assert bad == []
    assert events.columns.numbers["amount"].tolist() == [12.34]
    plain, _ = Codec(settings("json")).events(
        taken([to_json(row | {"amount": 12.34, "customer": 20000})])
    )
    same(events, plain)


@pytest.mark.parametrize(
    ("changes", "row", "reason"),
    [
        ({}, b"\x7f" * 65, "malformed"),
        ({"scale": 301}, b"\x7f", "schema"),
        ({"scale": -1}, b"\x7f", "schema"),
    ],
)
def test_decimals_have_a_bound(changes: dict[str, Any], row: bytes, reason: str) -> None:
    """One of 256 KiB took 25 s."""
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2} | changes
    value = avro_bytes(avro_with(amount="bytes"), event(1) | {"amount": row})
    assert refused(reading(avro_with(amount=decimal)), wire(value)).reason == reason


def test_nested_avro_is_read_by_paths() -> None:
    """Records in records, arrays and maps."""
    schema = {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "meta", "type": {"type": "map", "values": "string"}},
            {"name": "time", "type": "long"},
            {
                "name": "items",
                "type": {
                    "type": "array",
                    "items": {
                        "type": "record",
                        "name": "Item",
                        "fields": [{"name": "price", "type": ["null", "float"]}],
                    },
                },
            },
            {"name": "last", "type": ["null", "Item"]},
        ],
    }
    fields = {"amount": {"kind": "number", "path": "items.1.price"}}
    c = config(
        Path("unused"),
        event={"format": "avro", "time_format": "ms", "id": "meta.id", "fields": fields},
        registry={"url": "http://x"},
        features=[{"name": "a", "type": "number", "field": "amount"}],
    )
    codec = Codec(c)
    codec.schemas.adopt(Schema(7, "AVRO", json.dumps(schema)))
    row = {"meta": {"id": "e1"}, "time": START_MS, "items": [{"price": 1.0}, {"price": 2.5}]}
    row["last"] = {"price": 3.0}
    events, bad = codec.events(taken([wire(avro_bytes(schema, row))]))
    assert (events.ids, events.columns.numbers["amount"].tolist(), bad) == (["e1"], [2.5], [])


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ("{", "truncated"),
        ({"type": "record", "name": "E"}, "it is not Avro"),
        (avro_with(amount="money"), "it is not Avro"),
        (avro_with(terminal=["null", "Payment"]), "shop.Payment refers to itself"),
        (avro_with(terminal={"type": "array", "items": "null"}), "takes no bytes"),
        (avro_with(terminal={"type": "fixed", "name": "F", "size": 0}), "takes no bytes"),
        ({"type": "record", "name": "E", "fields": []}, "takes no bytes"),
    ],
)
def test_a_schema_without_bounds_reads_nothing(schema: Any, error: str) -> None:
    """Few bytes must not become many values, nor deep ones."""
    letter = refused(reading(schema), wire(b"\2"))
    assert letter.reason == "schema"
    assert letter.error.startswith("schema 7: cannot be read by:")
    assert error in letter.error


def test_types_that_multiply_are_refused() -> None:
    """Each of 20 records holds the one before it twice."""
    leaf = {"type": "record", "name": "R0", "fields": [{"name": "a", "type": "int"}]}
    fields: list[Any] = [{"name": "f0", "type": leaf}]
    for i in range(1, 20):
        twice = [{"name": x, "type": f"R{i - 1}"} for x in "ab"]
        fields.append(
            {"name": f"f{i}", "type": {"type": "record", "name": f"R{i}", "fields": twice}}
        )
    letter = refused(reading({"type": "record", "name": "E", "fields": fields}), wire(b"\2"))
    assert "expected at most 10000 values in 64 levels" in letter.error


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_avro_that_is_cut_off_or_goes_on_is_malformed(cut: int) -> None:
    """Any prefix of a record, and a record with more after it."""
    whole = avro_bytes(AVRO, event(1))
    assert refused(reading(AVRO), wire(whole[: min(cut, len(whole) - 1)])).reason == "malformed"
    assert refused(reading(AVRO), wire(whole + b"x" * (cut + 1))).reason == "malformed"


def test_json_is_held_against_its_schema_without_showing_the_value() -> None:
    """The path is that of the value."""
    schema = JSON_SCHEMA | {"properties": {"amount": {"type": "number", "maximum": 5}}}
    letter = refused(reading(schema, "json-schema"), wire(to_json(event(1))))
    assert letter.reason == "schema"
    assert letter.error.startswith("schema 7: ")
    assert letter.error.endswith("- at `$.amount`")
    assert "47" not in letter.error


def test_a_reference_of_a_json_schema_is_never_fetched(fake: FakeRegistry) -> None:
    """What the registry did not give with it is not there."""
    schema = {"properties": {"amount": {"$ref": f"{fake.url}/subjects"}}}
    before = len(fake.asked)
    letter = refused(reading(schema, "json-schema"), wire(to_json(event(1))))
    assert (letter.reason, len(fake.asked)) == ("schema", before)


def test_a_schema_of_another_type_is_refused() -> None:
    """The format of a topic is declared."""
    codec = Codec(settings("protobuf"))
    codec.schemas.adopt(Schema(7, "AVRO", json.dumps(AVRO)))
    assert "expected one of PROTOBUF, got AVRO" in refused(codec, wire(b"\0")).error


def test_a_schema_that_one_topic_cannot_read_is_read_by_another() -> None:
    """A label that names the events' schema spoils no event."""
    c = config(
        Path("unused"),
        event={"format": "avro", "time_format": "ms", "fields": OPTIONAL},
        label={"field": "fraud", "format": "protobuf"},
        registry={"url": "http://127.0.0.1:1"},
    )
    codec = Codec(c)
    codec.schemas.adopt(Schema(7, "AVRO", json.dumps(AVRO)))
    values = taken([wire(avro_bytes(AVRO, event(1)))])
    for _ in range(2):
        _, bad = codec.labels(values)
        assert [letter.reason for letter in bad] == ["schema"]
        events, bad = codec.events(values)
        assert (events.ids, bad) == (["e1"], [])


def test_references_come_with_a_schema(fake: FakeRegistry) -> None:
    """A named type of Avro in a subject of its own."""
    money = {
        "type": "record",
        "name": "shop.Money",
        "fields": [{"name": "units", "type": "double"}],
    }
    schema = avro_with(amount="shop.Money")
    registered = client(fake)
    registered.register_schema("money", TheirSchema(json.dumps(money), "AVRO"))
    refers = [SchemaReference("shop.Money", "money", 1)]
    whole = TheirSchema(json.dumps(schema), "AVRO", refers)
    write = AvroSerializer(registered, whole, conf={"auto.register.schemas": True})
    row = event(1) | {"amount": {"units": 2.5}}
    records = taken([write(row, SerializationContext("referring", MessageField.VALUE))])
    fields = OPTIONAL | {"amount": {"kind": "number", "path": "amount.units"}}
    codec = adopting(Codec(settings("avro", fields=fields)), fake, records)
    events, bad = codec.events(records)
    assert (events.columns.numbers["amount"].tolist(), bad) == ([2.5], [])


def test_a_json_schema_refers_to_another_subject(fake: FakeRegistry) -> None:
    """By a name that its own place is not part of."""
    registered = client(fake)
    draft = {"$schema": JSON_SCHEMA["$schema"], "type": "number", "maximum": 50}
    money = TheirSchema(json.dumps(draft), "JSON")
    registered.register_schema("money-json", money)
    schema = JSON_SCHEMA | {"properties": {"amount": {"$ref": "money.json"}}}
    refers = [SchemaReference("money.json", "money-json", 1)]
    number = registered.register_schema(
        "refers-json", TheirSchema(json.dumps(schema), "JSON", refers)
    )
    rows = [event(1), event(1) | {"amount": 51.0}]
    records = taken([wire(to_json(row), number) for row in rows])
    events, bad = adopting(Codec(settings("json-schema")), fake, records).events(records)
    assert (events.ids, [b.error.endswith("at `$.amount`") for b in bad]) == (["e1"], [True])


def test_protobuf_reads_nested_messages_imports_and_common_types(fake: FakeRegistry) -> None:
    """A message inside another, a timestamp as RFC 3339, an import of another subject."""
    money = file_of("money.proto", message("Money", units="double"))
    inner = message("Inner", id="string", time=".google.protobuf.Timestamp", amount=".shop.Money")
    outer = message("Outer", note="string")
    outer.nested_type.extend([message("Other", a="string"), inner])
    common = timestamp_pb2.DESCRIPTOR
    file = file_of("outer.proto", outer, needs=(common.name, "money.proto"))
    kind = message_class(file, "Outer.Inner", common, money)
    write = ProtobufSerializer(kind, client(fake), {"use.deprecated.format": False})
    made = kind(id="e1")
    made.time.FromMilliseconds(START_MS + 500)
    made.amount.units = 2.5
    records = taken([write(made, SerializationContext("nested", MessageField.VALUE))])
    fields = {"amount": {"kind": "number", "path": "amount.units"}}
    changes = {"time_format": "rfc3339", "fields": fields}
    c = config(
        Path("unused"),
        event={"format": "protobuf"} | changes,
        registry={"url": "http://x"},
        features=[{"name": "a", "type": "number", "field": "amount"}],
    )
    events, bad = adopting(Codec(c), fake, records).events(records)
    assert (events.ids, bad) == (["e1"], [])
    assert events.columns.event_time_ms.tolist() == [START_MS + 500]
    assert events.columns.numbers["amount"].tolist() == [2.5]


def descriptor(*messages: DescriptorProto, needs: tuple[str, ...] = ()) -> str:
    return base64.b64encode(file_of("", *messages, needs=needs).SerializeToString()).decode()


@pytest.mark.parametrize("data", [b"", b"\2", b"\x80" * 9, b"\2\x08", b"\0\x0a\xff", b"\1\1"])
def test_protobuf_that_does_not_follow_its_schema_is_malformed(data: bytes) -> None:
    """No message there, a number cut off, a field longer than what is left."""
    letter = refused(reading(descriptor(PAYMENT), "protobuf"), wire(data))
    assert (letter.reason, letter.error.startswith("schema 7: ")) == ("malformed", True)


@pytest.mark.parametrize(
    "text",
    ["syntax = 1", base64.b64encode(b"\xff\xff").decode(), descriptor(message("A", b=".x.Y"))],
)
def test_what_is_no_protobuf_file_reads_nothing(text: str) -> None:
    """Text of another kind, an import that is not there."""
    letter = refused(reading(text, "protobuf"), wire(b"\0"))
    assert (letter.reason, "cannot be read by" in letter.error) == ("schema", True)


def test_a_protobuf_message_has_a_bound_of_values() -> None:
    """Two bytes for each of many messages that are all defaults."""
    many = message("Many", items=".shop.Wide")
    many.field[0].label = FieldDescriptorProto.LABEL_REPEATED
    wide = message("Wide", **{f"f{i}": "int64" for i in range(100)})
    letter = refused(reading(descriptor(many, wide), "protobuf"), wire(b"\0" + b"\x0a\0" * 2_000))
    assert (letter.reason, "at most 100000 values" in letter.error) == ("malformed", True)


def test_known_schemas_are_state(fake: FakeRegistry) -> None:
    """A codec that takes the state over reads what the other read; the oldest are let go."""
    one, other = reading(AVRO), Codec(settings("avro"))
    other.schemas.restore(msgspec.json.decode(msgspec.json.encode(one.schemas.state())))
    records = taken([wire(avro_bytes(AVRO, event(1)))])
    same(one.events(records)[0], other.events(records)[0])
    for number in range(1_000, 2_001):
        other.schemas.adopt(Schema(number, "AVRO", "{}"))
    other.schemas.trim()
    assert [n in other.schemas for n in (7, 1_000, 1_001, 2_000)] == [False, False, True, True]


def test_nothing_is_decoded_ahead_of_its_schema(fake: FakeRegistry) -> None:
    """A slice that names one which is not here waits for its step."""
    piece = _slice(taken([avro(fake)(event(1))]))
    codec = Codec(settings("avro"))
    assert codec.ahead(piece).ahead is None
    adopting(codec, fake, list(piece.records))
    assert codec.ahead(piece).ahead is not None


def test_formats_with_schemas_need_a_registry(tmp_path: Path) -> None:
    """And CloudEvents have attributes that no field reads."""
    raw = raw_config(tmp_path)
    raw["event"] |= {"format": "cloudevents", "unknown_fields": "reject"}
    raw["label"]["format"] = "avro"
    with pytest.raises(ConfigError) as refusal:
        config(tmp_path, **raw)
    assert [problem.partition(":")[0] for problem in refusal.value.problems] == [
        "label.format",
        "event.unknown_fields",
    ]


@hypothesis_settings(max_examples=300)
@given(data=st.binary(max_size=80), cut=st.integers(0, 60))
def test_no_bytes_make_a_reader_fail(data: bytes, cut: int) -> None:
    """Whatever follows the number of a schema is an event or a dead letter."""
    whole = avro_bytes(AVRO, event(1))
    texts = {"avro": json.dumps(AVRO), "json-schema": json.dumps(JSON_SCHEMA)}
    texts["protobuf"] = descriptor(PAYMENT)
    for kind, text in texts.items():
        for value in (data, whole[:cut] + data):
            good, bad = reading(text, kind).events(taken([wire(value)]))
            assert len(good.ids) + len(bad) == 1


@given(text=st.recursive(st.none() | st.integers() | st.sampled_from(WORDS), nested, max_leaves=12))
def test_no_schema_makes_a_reader_fail(text: Any) -> None:
    """Whatever JSON the registry gives for a schema: records by it are read or refused."""
    for kind in ("avro", "json-schema"):
        good, bad = reading(text, kind).events(taken([wire(b"\2\0\2a{}")]))
        assert len(good.ids) + len(bad) == 1
