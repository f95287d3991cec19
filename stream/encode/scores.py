"""Score records in the format of their topic: the last thing before they are committed, and back.

The step, its digest and every reader in this process know them in JSON. What else is written is a
function of that and of the number that the registry gave the schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from models.task import TaskType
from stream.contract.outputs import Outputs
from stream.contract.records import NewRecord
from stream.encode.cloudevents import binary, structured
from stream.settings.schema import Config

Write = Callable[[NewRecord], NewRecord]
"""A score record in JSON as its topic holds it."""


class Field(NamedTuple):
    """One part of a score record: its type, and what each kind of schema calls that."""

    kind: Any
    avro: Any
    protobuf: str
    json: Any


_TEXT = Field(str, "string", "string", {"type": "string"})
_TEXT_OR_NONE = Field(
    str | None, ["null", "string"], "optional string", {"type": ["string", "null"]}
)
_COUNT = Field(int, "long", "int64", {"type": "integer"})
_INT = Field(int, "int", "int32", {"type": "integer"})
_MOMENT = _COUNT._replace(avro={"type": "long", "logicalType": "timestamp-millis"})
_NUMBER = Field(float, "double", "double", {"type": "number"})
_FLAG = Field(bool, "boolean", "bool", {"type": "boolean"})


def _each(field: Field) -> Field:
    """One for each name: another ensemble, or other classes, have the same schema."""
    return Field(
        dict[str, field.kind],  # type: ignore[name-defined]
        {"type": "map", "values": field.avro},
        f"map<string, {field.protobuf}>",
        {"type": "object", "additionalProperties": field.json},
    )


_TEXTS = Field(
    list[str],
    {"type": "array", "items": "string"},
    "repeated string",
    {"type": "array", "items": {"type": "string"}},
)
_ENDS_OR_NONE = Field(
    list[float] | None,
    ["null", {"type": "array", "items": "double"}],
    "repeated double",
    {"type": ["array", "null"], "items": {"type": "number"}},
)
_ID = _TEXT._replace(kind=Annotated[str, msgspec.Meta(min_length=1)])
_HEAD = {"id": _ID, "event_time": _MOMENT}
_TAIL = {
    "partition": _INT,
    "offset": _COUNT,
    "scored_at": _MOMENT,
    "model": _TEXT,
    "seq": _COUNT,
    "cold": _FLAG,
}
_SAID = {"alert": _FLAG, "members": _each(_NUMBER)}
FIELDS: Mapping[TaskType, Mapping[str, Field]] = {
    "binary": {**_HEAD, "score": _NUMBER, **_SAID, **_TAIL},
    "number": {**_HEAD, "score": _NUMBER, "interval": _ENDS_OR_NONE, **_SAID, **_TAIL},
    "classes": {
        **_HEAD,
        "prediction": _TEXT_OR_NONE,
        "set": _TEXTS,
        "score": _NUMBER,
        "alert": _FLAG,
        "probabilities": _each(_NUMBER),
        "members": _each(_TEXT),
        **_TAIL,
    },
}
"""The parts of a score record of each kind of target, in order."""
_OPTIONAL = {"cold"}
"""Parts that JSON leaves out where they are false."""


def json_schema(task: TaskType) -> dict[str, Any]:
    """The JSON Schema of a task's score records."""
    fields = FIELDS[task]
    return {
        "type": "object",
        "properties": {name: f.json for name, f in fields.items()},
        "required": [name for name in fields if name not in _OPTIONAL],
    }


def schema_text(kind: str, task: TaskType) -> str:
    """The schema of a task's score records in a format, as a registry takes it."""
    fields = FIELDS[task]
    if kind == "protobuf":
        lines = [f"  {f.protobuf} {name} = {i};" for i, (name, f) in enumerate(fields.items(), 1)]
        whole = ['syntax = "proto3";', "package millrace;", "", "message Score {", *lines, "}", ""]
        return "\n".join(whole)
    if kind == "avro":
        parts = [
            {"name": name, "type": f.avro} | ({"default": False} if name in _OPTIONAL else {})
            for name, f in fields.items()
        ]
        record = {"type": "record", "name": "Score", "namespace": "millrace", "fields": parts}
        return msgspec.json.encode(record).decode()
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Score"}
    return msgspec.json.encode(head | json_schema(task)).decode()


def writer(config: Config, number: int) -> Callable[[Outputs], Outputs]:
    """What puts the scores of a step into the format of their topic.

    ``number`` is that of their schema in the registry, where the format has one.
    """
    kind = config.scores.format
    if kind == "json":
        return lambda outputs: outputs
    write = _write(kind, config.target.type, number, f"/millrace/{config.name}")

    def write_all(outputs: Outputs) -> Outputs:
        return msgspec.structs.replace(outputs, scores=[write(r) for r in outputs.scores])

    return write_all


def _write(kind: str, task: TaskType, number: int, source: str) -> Write:
    if kind == "cloudevents":
        return structured(source)
    if kind == "cloudevents-binary":
        return binary(source)
    prefix = b"\0" + number.to_bytes(4, "big")
    if kind == "json-schema":
        return lambda r: msgspec.structs.replace(r, value=prefix + (r.value or b""))
    # Each library is loaded where the topic needs it.
    if kind == "avro":
        from stream.encode.avro import avro_writer

        encode = avro_writer(schema_text(kind, task))
    else:
        from stream.encode.protobuf import protobuf_writer

        encode = protobuf_writer({name: f.protobuf for name, f in FIELDS[task].items()})

    def write(record: NewRecord) -> NewRecord:
        value = msgspec.json.decode(record.value or b"")
        return msgspec.structs.replace(record, value=prefix + encode(value))

    return write


def reader(kind: str, task: TaskType) -> Callable[[bytes], dict[str, Any]]:
    """What reads a task's score in a record's value, in a format or in JSON of any kind.

    Raises :class:`ValueError` for a value that is none of these.
    """
    parts = [
        (name, f.kind, False) if name in _OPTIONAL else (name, f.kind)
        for name, f in FIELDS[task].items()
    ]
    form = msgspec.defstruct("Score", parts)
    if kind == "avro":
        from stream.encode.avro import avro_reader

        decode: Callable[[bytes], Any] = avro_reader(schema_text(kind, task))
    elif kind == "protobuf":
        from stream.encode.protobuf import protobuf_reader

        decode = protobuf_reader({name: f.protobuf for name, f in FIELDS[task].items()})
    else:
        decode = msgspec.json.decode

    def read(raw: bytes) -> dict[str, Any]:
        # A number of a schema begins with a null byte: the topic may hold an older format, too.
        try:
            value = decode(raw[5:]) if raw[:1] == b"\0" else msgspec.json.decode(raw)
            if "specversion" in value:
                value = value["data"]
            msgspec.convert(value, form)
        except Exception as error:  # each library has its own
            raise ValueError(f"expected a score in {kind} or JSON: {error}") from error
        if value.get("interval") == []:  # Protobuf has no list that is not there
            value["interval"] = None
        return {name: v for name, v in value.items() if v or name not in _OPTIONAL}

    return read
