"""Scores in each format, read by Confluent's deserializers and the `cloudevents` package."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cloudevents.kafka import KafkaMessage, from_binary, from_structured
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf.json_format import MessageToDict

from stream.contract.outputs import Outputs
from stream.contract.records import JournalRecord, NewRecord, Record
from stream.contract.schemas import SchemaRefused
from stream.encode.scores import FIELDS, reader, schema_text, writer
from stream.run.assemble import build_engine, open_log, wall_clock_ms
from stream.run.registry import HttpRegistry
from stream.settings.schema import Config, RegistrySettings
from tests.support.factory import Feed, config, event
from tests.support.runner import append, caught_up, running
from tests.support.schemas.protobuf import file_of, message, message_class
from tests.support.schemas.registry import FakeRegistry, registry

CONTEXT = SerializationContext("scores", MessageField.VALUE)
PROTO = """\
syntax = "proto3";
package millrace;

message Score {
  string id = 1;
  int64 event_time = 2;
  double score = 3;
  bool alert = 4;
  map<string, double> members = 5;
  int32 partition = 6;
  int64 offset = 7;
  int64 scored_at = 8;
  string model = 9;
  int64 seq = 10;
  bool cold = 11;
}
"""
COMPILED = file_of(
    "score.proto",
    message(
        "Score",
        id="string",
        event_time="int64",
        score="double",
        alert="bool",
        members="string -> double",
        partition="int32",
        offset="int64",
        scored_at="int64",
        model="string",
        seq="int64",
        cold="bool",
    ),
)

CLASSES_PROTO = """\
syntax = "proto3";
package millrace;

message Score {
  string id = 1;
  int64 event_time = 2;
  optional string prediction = 3;
  repeated string set = 4;
  double score = 5;
  bool alert = 6;
  map<string, double> probabilities = 7;
  map<string, string> members = 8;
  int32 partition = 9;
  int64 offset = 10;
  int64 scored_at = 11;
  string model = 12;
  int64 seq = 13;
  bool cold = 14;
}
"""
COMPILED_CLASSES = file_of(
    "score.proto",
    message(
        "Score",
        id="string",
        event_time="int64",
        prediction="string?",
        set="string*",
        score="double",
        alert="bool",
        probabilities="string -> double",
        members="string -> string",
        partition="int32",
        offset="int64",
        scored_at="int64",
        model="string",
        seq="int64",
        cold="bool",
    ),
)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with registry() as listening:
        listening.descriptors[PROTO] = base64.b64encode(COMPILED.SerializeToString()).decode()
        yield listening


def client(fake: FakeRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": fake.url})


def of_avro(fake: FakeRegistry, raw: bytes) -> Any:
    row = AvroDeserializer(client(fake))(raw, CONTEXT)
    moments = {name: round(row[name].timestamp() * 1000) for name in ("event_time", "scored_at")}
    return row | moments


def of_json_schema(fake: FakeRegistry, raw: bytes) -> Any:
    return JSONDeserializer(None, schema_registry_client=client(fake))(raw, CONTEXT)


def of_protobuf(fake: FakeRegistry, raw: bytes, compiled: Any = COMPILED) -> Any:
    kind = message_class(compiled, "Score")
    read = ProtobufDeserializer(kind, {"use.deprecated.format": False}, client(fake))
    made = MessageToDict(
        read(raw, CONTEXT),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    return made | {n: int(made[n]) for n in ("event_time", "offset", "scored_at", "seq")}


TYPES = {"avro": "AVRO", "json-schema": "JSON", "protobuf": "PROTOBUF"}
READERS = {"avro": of_avro, "json-schema": of_json_schema, "protobuf": of_protobuf}


def scores() -> list[NewRecord]:
    """Two scores as the step makes them, with headers of their events."""
    engine = build_engine(config(Path("unused")), None)
    made = engine.step(Feed().batch(("events", [event(i, id=f'é"{i}') for i in range(2)]))).scores
    headers = (("traceparent", b"00-1"), ("ce_id", b"forged"), ("Content-Type", b"text/plain"))
    return [NewRecord(r.key, r.value, r.partition, headers, 7) for r in made]


def written(kind: str, number: int) -> list[NewRecord]:
    c = config(Path("unused"), scores={"format": kind}, registry={"url": "http://127.0.0.1:1"})
    outputs = writer(c, number)(Outputs(scores(), [], [], JournalRecord(1, 0, "")))
    return list(outputs.scores)


def classes_written(kind: str, number: int) -> tuple[list[NewRecord], list[dict[str, Any]]]:
    """A score that says a class and one that does not, in a format and as plain values."""
    c = config(
        Path("unused"),
        target={"type": "classes", "classes": ["a", "b"], "abstain_below": 0.6},
        members=[{"name": "linear", "type": "logistic"}],
        features=[{"name": "amount", "type": "number", "field": "amount"}],
        scores={"format": kind},
        registry={"url": "http://127.0.0.1:1"},
    )
    outputs = build_engine(c, None).step(Feed().batch(("events", [event(0)])))
    [unsure] = outputs.scores
    first = json.loads(unsure.value or b"")
    sure = first | {"id": "e1", "prediction": "a", "probabilities": {"a": 0.75, "b": 0.25}}
    sure["set"] = ["a", "b"]
    records = [NewRecord(b"e1", json.dumps(sure).encode()), unsure]
    made = writer(c, number)(Outputs(records, [], [], JournalRecord(1, 0, "")))
    return list(made.scores), [sure, first]


def test_the_schemas_have_every_part_of_a_score_record() -> None:
    """In its order; `cold` may be missing."""
    (record, _) = scores()
    whole = json.loads(record.value or b"")
    assert list(whole) == list(FIELDS["binary"])
    assert whole["cold"] is True
    assert schema_text("protobuf", "binary") == PROTO


@pytest.mark.parametrize("kind", READERS)
def test_others_read_the_very_numbers(kind: str, fake: FakeRegistry) -> None:
    """By the schema that was registered; key, place, headers and time stay as they were."""
    asking = HttpRegistry(RegistrySettings(url=fake.url, auto_register=True))
    number = asking.register("scores-value", TYPES[kind], schema_text(kind, "binary"))
    asking.close()
    made = written(kind, number)
    plain = scores()
    assert [READERS[kind](fake, r.value or b"") for r in made] == [
        json.loads(r.value or b"") for r in plain
    ]
    rest = ("key", "partition", "headers", "timestamp_ms")
    assert [[getattr(r, n) for n in rest] for r in made] == [
        [getattr(r, n) for n in rest] for r in plain
    ]


@pytest.mark.parametrize("kind", ["json", *READERS, "cloudevents", "cloudevents-binary"])
def test_a_score_is_read_back_in_every_format(kind: str) -> None:
    """To the very values, beside older scores in JSON; what is no score is refused."""
    read = reader(kind, "binary")
    plain = scores()
    for record, same in zip(written(kind, 7), plain, strict=True):
        assert read(record.value or b"") == read(same.value or b"") == json.loads(same.value or b"")
    partly = b'{"id": "e0", "seq": 1}'
    for raw in (b"", b"{}", b"[]", b"7", partly, b"\0\0\0\0\7\xff", b"\xff"):
        with pytest.raises(ValueError, match="expected a score"):
            read(raw)


@pytest.mark.parametrize("kind", READERS)
def test_others_read_the_very_classes(kind: str, fake: FakeRegistry) -> None:
    """A prediction and an abstention, by the schema of classes that was registered."""
    fake.descriptors[CLASSES_PROTO] = base64.b64encode(
        COMPILED_CLASSES.SerializeToString()
    ).decode()
    asking = HttpRegistry(RegistrySettings(url=fake.url, auto_register=True))
    number = asking.register("scores-value", TYPES[kind], schema_text(kind, "classes"))
    asking.close()
    made, plain = classes_written(kind, number)
    assert [r["prediction"] for r in plain] == ["a", None]
    assert list(plain[0]) == list(FIELDS["classes"])
    read = READERS[kind] if kind != "protobuf" else partial(of_protobuf, compiled=COMPILED_CLASSES)
    assert [{"prediction": None} | read(fake, r.value or b"") for r in made] == plain


@pytest.mark.parametrize("kind", ["json", *READERS, "cloudevents", "cloudevents-binary"])
def test_a_score_of_classes_is_read_back_in_every_format(kind: str) -> None:
    """To the very values; no class is null."""
    made, plain = classes_written(kind, 7)
    read = reader(kind, "classes")
    assert [read(r.value or b"") for r in made] == plain


@pytest.mark.parametrize("kind", ["json", *READERS])
def test_a_score_of_a_number_is_read_back_in_every_format(kind: str) -> None:
    """With its interval, and without one where nothing is promised yet."""
    c = config(
        Path("unused"),
        target={"type": "number"},
        members=[{"name": "linear", "type": "logistic"}],
        features=[{"name": "amount", "type": "number", "field": "amount"}],
        scores={"format": kind},
        registry={"url": "http://127.0.0.1:1"},
    )
    [cold] = build_engine(c, None).step(Feed().batch(("events", [event(0)]))).scores
    plain = json.loads(cold.value or b"")
    assert (list(plain), plain["interval"]) == (list(FIELDS["number"]), None)
    promised = plain | {"interval": [-1.5, 2.0]}
    records = [cold, NewRecord(b"e0", json.dumps(promised).encode())]
    made = writer(c, 7)(Outputs(records, [], [], JournalRecord(1, 0, ""))).scores
    assert [reader(kind, "number")(r.value or b"") for r in made] == [plain, promised]


@pytest.mark.parametrize(
    ("kind", "read"), [("cloudevents", from_structured), ("cloudevents-binary", from_binary)]
)
def test_cloud_events_hold_the_score_as_data(kind: str, read: Any) -> None:
    """The id is the event's; headers of the event cannot pose as attributes."""
    for record, plain in zip(written(kind, 0), scores(), strict=True):
        names = [name for name, _ in record.headers]
        assert len(names) == len(set(names))
        assert record.headers[0] == ("traceparent", b"00-1")
        told = {n: v for n, v in record.headers if n != "traceparent"}
        made = read(KafkaMessage(told, None, record.value or b""))
        data = json.loads(plain.value or b"")
        assert made.get_data() == data
        assert (made["id"], made["source"], made["type"]) == (
            data["id"],
            "/millrace/test",
            "millrace.score",
        )
        assert made["specversion"] == "1.0"


def in_avro(fake: FakeRegistry, directory: Path, **registry: Any) -> Config:
    settings = {"url": fake.url} | registry
    return config(directory, scores={"format": "avro"}, registry=settings)


def read_all(c: Config) -> list[Record]:
    log = open_log(c, wall_clock_ms)
    try:
        return log.tail(c.topics.scores, 1000)
    finally:
        log.close()


def test_a_service_registers_the_schema_of_its_scores(tmp_path: Path, fake: FakeRegistry) -> None:
    """Once; what HTTP and the live page get stays JSON."""
    c = in_avro(fake, tmp_path, auto_register=True)
    append(c, ("events", [event(i) for i in range(20)]))
    seen: list[bytes] = []
    with running(c) as service:
        caught_up(service, 20)
    append(c, ("events", [event(i) for i in range(20, 30)]))
    with running(c) as service:
        service.committer._on_committed = _spying(service.committer._on_committed, seen)
        caught_up(service, 30)
    assert [of_avro(fake, r.value or b"")["id"] for r in read_all(c)] == [
        f"e{i}" for i in range(30)
    ]
    assert fake.subjects == {"scores-value": [1]}
    assert all(raw.startswith(b"{") for raw in seen)


def _spying(told: Any, seen: list[bytes]) -> Any:
    def committed(outputs: Outputs, seconds: float) -> None:
        seen.extend(r.value or b"" for r in outputs.scores)
        told(outputs, seconds)

    return committed


def test_without_leave_to_register_a_start_says_what_to_register(
    tmp_path: Path, fake: FakeRegistry
) -> None:
    """The very schema, its type and its subject; once it is there the start goes on."""
    c = in_avro(fake, tmp_path)
    with pytest.raises(SchemaRefused) as refused, running(c):
        pass
    message, _, text = str(refused.value).partition("\n")
    assert "of type AVRO under 'scores-value'" in message
    fake.add("scores-value", text)
    append(c, ("events", [event(0)]))
    with running(c) as service:
        caught_up(service, 1)
    assert len(read_all(c)) == 1


def test_a_schema_that_the_registry_does_not_understand_is_told(
    fake: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own words, whether it may be registered or not: it is not just missing."""
    said = 422, {"error_code": 42201, "message": "Invalid schema: unknown type"}
    monkeypatch.setattr(fake, "answer", lambda *_: said)
    for leave in (False, True):
        asking = HttpRegistry(RegistrySettings(url=fake.url, auto_register=leave))
        with pytest.raises(SchemaRefused, match="Invalid schema: unknown type"):
            asking.register("scores-value", "AVRO", schema_text("avro", "binary"))
        asking.close()


def test_a_schema_that_may_not_follow_the_newest_is_told(
    tmp_path: Path, fake: FakeRegistry
) -> None:
    """By the registry's own reason, before anything is written."""
    fake.add("scores-value", '"string"')
    fake.incompatible.add("scores-value")
    c = in_avro(fake, tmp_path, auto_register=True)
    told = "'scores-value': a field was removed"
    with pytest.raises(SchemaRefused, match=told), running(c):
        pass
